//! Paged attention.

use proptest::prelude::*;

use super::{DTYPES, Numbers, assert_close, assert_same, cpu, isas};
use crate::tensor::{AttentionArgs, DType, KvLayer, Sight};
use crate::{Cpu, Isa, KernelError, naive};

/// One sequence in a cache with shuffled blocks; queries exist for every position.
struct Case {
    dtype: DType,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    block_size: usize,
    sight: Sight,
    table: Vec<u32>,
    k: Vec<u8>,
    v: Vec<u8>,
    q: Vec<f32>,
}

impl Case {
    fn new(dtype: DType, shape: (usize, usize, usize), block_size: usize, length: usize) -> Case {
        let (heads, kv_heads, dim) = shape;
        let mut numbers = Numbers::new((length * 31 + dim) as u64);
        let blocks = length.div_ceil(block_size) + 2;
        let mut table: Vec<u32> = (0..blocks as u32).collect();
        (1..blocks).rev().for_each(|i| table.swap(i, numbers.below(i + 1)));
        table.truncate(length.div_ceil(block_size));
        let values = blocks * kv_heads * block_size * dim;
        let (k, v) = (numbers.stored(dtype, values), numbers.stored(dtype, values));
        let q = numbers.vec(length * heads * dim).iter().map(|v| v * 4.0).collect();
        Case { dtype, heads, kv_heads, dim, block_size, sight: Sight::Past, table, k, v, q }
    }

    /// The queries of `ranges` (start, end position) as sequences of one batch.
    fn run(
        &self,
        ranges: &[(usize, usize)],
        f: impl FnOnce(&AttentionArgs<'_>, &[f32], &KvLayer<'_>, &mut [f32]),
    ) -> Vec<f32> {
        let (mut k, mut v) = (self.k.clone(), self.v.clone());
        let row = self.heads * self.dim;
        let mut starts = vec![0];
        let mut q = Vec::new();
        for &(start, end) in ranges {
            starts.push(starts[starts.len() - 1] + (end - start) as u32);
            q.extend_from_slice(&self.q[start * row..end * row]);
        }
        let num_blocks =
            k.len() / self.dtype.size_bytes() / self.kv_heads / self.block_size / self.dim;
        let kv = KvLayer {
            dtype: self.dtype,
            k: &mut k,
            v: &mut v,
            num_blocks,
            num_kv_heads: self.kv_heads,
            block_size: self.block_size,
            head_dim: self.dim,
        };
        let args = AttentionArgs {
            num_heads: self.heads,
            scale: 1.0 / (self.dim as f32).sqrt(),
            sight: self.sight,
            q_starts: &starts,
            context_lens: &ranges.iter().map(|r| r.1 as u32).collect::<Vec<_>>(),
            block_tables: &vec![&self.table[..]; ranges.len()],
        };
        let mut out = vec![0.0; q.len()];
        f(&args, &q, &kv, &mut out);
        out
    }

    fn fast(&self, cpu: &Cpu, ranges: &[(usize, usize)]) -> Vec<f32> {
        self.run(ranges, |a, q, kv, out| cpu.attention(a, q, kv, out).unwrap())
    }

    fn naive(&self, ranges: &[(usize, usize)]) -> Vec<f32> {
        self.run(ranges, naive::attention)
    }
}

#[test]
fn every_rung_and_type_agrees_with_the_definition() {
    for isa in isas() {
        let cpu = cpu(isa, 2);
        for dtype in DTYPES {
            for (shape, block_size, length) in [
                ((1, 1, 1), 1, 1),
                ((4, 2, 64), 16, 70),
                ((14, 2, 64), 16, 33),
                ((3, 3, 80), 7, 300),
                ((2, 1, 20), 32, 530),
                ((8, 1, 128), 256, 261),
            ] {
                for sight in [Sight::Past, Sight::Window(1), Sight::Window(40), Sight::All] {
                    let case = Case { sight, ..Case::new(dtype, shape, block_size, length) };
                    let ranges = [(0, length), (length - 1, length)];
                    let what = format!("{isa} {dtype:?} {shape:?} {length} {sight:?}");
                    assert_close(&case.fast(&cpu, &ranges), &case.naive(&ranges), 1e-5, &what);
                }
            }
        }
    }
}

#[test]
fn long_contexts_are_split_over_threads_without_changing_a_bit() {
    for isa in isas() {
        let case = Case::new(DType::BF16, (7, 1, 64), 16, 1500);
        let last = [(1499, 1500)];
        let expected = case.fast(&cpu(isa, 1), &last);
        for threads in [2, 3, 5] {
            assert_same(
                &case.fast(&cpu(isa, threads), &last),
                &expected,
                &format!("{isa} {threads}"),
            );
        }
        assert_close(&expected, &case.naive(&last), 1e-5, "naive");
    }
}

#[test]
fn nan_in_the_future_or_outside_the_window_is_not_seen() {
    for isa in isas() {
        let mut case =
            Case { sight: Sight::Window(20), ..Case::new(DType::F32, (4, 2, 16), 8, 60) };
        let clean = case.fast(&cpu(isa, 1), &[(0, 60)]);
        let row = |p: usize| ((case.table[p / 8] as usize * 2 + 1) * 8 + p % 8) * 16;
        for p in [3, 50] {
            let at = row(p);
            naive::store(DType::F32, &mut case.v, at, f32::NAN);
        }
        let got = case.fast(&cpu(isa, 1), &[(0, 60)]);
        for (i, (g, c)) in got.iter().zip(&clean).enumerate() {
            let (position, head, d) = (i / 64, i / 16 % 4, i % 16);
            let sees = (3..23).contains(&position) || position >= 50;
            let hit = sees && head >= 2 && d == 0;
            assert_eq!(g.is_nan(), hit, "{isa} {position} {head} {d}");
            assert!(hit || g.to_bits() == c.to_bits(), "{isa} {position}");
        }
    }
}

#[test]
fn bad_batches_are_errors() {
    let cpu = cpu(Isa::Portable, 1);
    let case = Case::new(DType::F32, (4, 2, 8), 4, 10);
    let check = |f: fn(&mut AttentionArgs<'_>), expected: &str| {
        case.run(&[(8, 10)], |a, q, kv, out| {
            let mut a = *a;
            f(&mut a);
            let message = cpu.attention(&a, q, kv, out).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        });
    };
    check(|a| a.num_heads = 3, "query heads");
    check(|a| a.sight = Sight::Window(0), "window");
    check(|a| a.q_starts = &[0], "q_starts");
    check(|a| a.q_starts = &[1, 2], "q_starts");
    check(|a| a.q_starts = &[0, 1], "q holds");
    check(|a| a.context_lens = &[1], "context length");
    check(|a| a.block_tables = &[&[0, 1]], "block table");
    check(|a| a.block_tables = &[&[0, 1, 99]], "outside 0..5");
    let out = case.run(&[], |a, q, kv, out| cpu.attention(a, q, kv, out).unwrap());
    assert!(out.is_empty());
    let mut kv = KvLayer {
        dtype: DType::F32,
        k: &mut [0; 4],
        v: &mut [0; 4],
        num_blocks: 1,
        num_kv_heads: 1,
        block_size: 1,
        head_dim: 1,
    };
    assert!(cpu.store_kv(&mut kv, &[1.0], &[1.0], &[0]).is_ok());
    let error = cpu.store_kv(&mut kv, &[1.0], &[1.0], &[1]).unwrap_err();
    assert!(matches!(error, KernelError::Index { tensor: "slots", index: 1, bound: 1 }));
    kv.block_size = 0;
    assert!(cpu.store_kv(&mut kv, &[1.0], &[1.0], &[0]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_way_of_cutting_a_prompt_gives_the_same_bits(
        length in 1usize..600,
        cuts in prop::collection::vec(0usize..600, 0..5),
        kv_heads in 1usize..3,
        group in 1usize..6,
        dim in prop::sample::select(vec![8usize, 24, 64, 72]),
        block_size in 1usize..40,
        window in prop::option::of(1u32..400),
        threads in 1usize..4,
        dtype in prop::sample::select(DTYPES.to_vec()),
    ) {
        let shape = (kv_heads * group, kv_heads, dim);
        let sight = window.map_or(Sight::Past, Sight::Window);
        let case = Case { sight, ..Case::new(dtype, shape, block_size, length) };
        let mut borders: Vec<usize> = cuts.into_iter().filter(|&c| c < length).collect();
        borders.extend([0, length]);
        borders.sort_unstable();
        let ranges: Vec<_> = borders.windows(2).map(|w| (w[0], w[1])).collect();
        for isa in isas() {
            let whole = case.fast(&cpu(isa, 1), &[(0, length)]);
            let pieces = case.fast(&cpu(isa, threads), &ranges);
            assert_same(&pieces, &whole, &format!("{isa}"));
        }
    }
}
