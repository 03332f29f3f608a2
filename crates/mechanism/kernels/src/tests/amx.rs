//! The matrix unit: shapes around its tiles. Tests that name no rung cover it too.

use super::{Numbers, assert_close, assert_same, cpu};
use crate::tensor::{Activation, DType, LinearJob, Matrix, Vector, Write};
use crate::{Cpu, Floats, Isa, naive};

/// A processor's matrix unit, or none where this machine lacks it.
fn unit(threads: usize) -> Option<Cpu> {
    Isa::AmxBf16.is_available().then(|| cpu(Isa::AmxBf16, threads))
}

/// Inputs of a linear with bf16 weights.
struct Case {
    x: Vec<f32>,
    weight: Vec<u8>,
    n: usize,
    k: usize,
}

impl Case {
    fn new(t: usize, n: usize, k: usize) -> Case {
        let mut numbers = Numbers::new((t * 1_000_003 + n * 1009 + k) as u64);
        Case { x: numbers.vec(t * k), weight: numbers.stored(DType::BF16, n * k), n, k }
    }

    fn weight(&self) -> Matrix<'_> {
        Matrix::new(DType::BF16, &self.weight, self.n, self.k).unwrap()
    }

    fn run(&self, cpu: &Cpu, rows: std::ops::Range<usize>) -> Vec<f32> {
        let mut out = vec![0.5; rows.len() * self.n];
        let x = &self.x[rows.start * self.k..rows.end * self.k];
        let (weight, bias, mode) = (self.weight(), None, Write::Store);
        cpu.linear(
            x,
            rows.len(),
            &mut [LinearJob { weight: weight.into(), bias, out: &mut out, mode }],
        )
        .unwrap();
        out
    }
}

#[test]
fn shapes_around_whole_tiles_agree_with_f64() {
    let Some(cpu) = unit(2) else { return };
    for t in [1, 2, 3, 15, 16, 17, 31, 32, 33, 48, 49, 65, 130] {
        for (n, k) in [(16, 32), (17, 64), (31, 96), (32, 32), (33, 160), (47, 64), (95, 288)] {
            for (dtype, mode) in [
                (None, Write::Store),
                (Some(DType::BF16), Write::Add),
                (Some(DType::F16), Write::Store),
                (Some(DType::F32), Write::Add),
            ] {
                let case = Case::new(t, n, k);
                let values = dtype.map(|dtype| Numbers::new(n as u64).stored(dtype, n));
                let bias = || {
                    let (dtype, values) = (dtype?, values.as_deref()?);
                    Vector::new(dtype, values).ok()
                };
                let (mut expected, mut got) = (vec![0.5; t * n], vec![0.5; t * n]);
                let job = |out| LinearJob { weight: case.weight().into(), bias: bias(), out, mode };
                naive::linear(&case.x, t, &mut job(&mut expected), true);
                cpu.linear(&case.x, t, &mut [job(&mut got)]).unwrap();
                assert_close(&got, &expected, 1e-5, &format!("T={t} [{n} x {k}] {dtype:?}"));
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_every_batch_on_any_number_of_threads() {
    let Some(one) = unit(1) else { return };
    let cpus = [one, cpu(Isa::AmxBf16, 2), cpu(Isa::AmxBf16, 3)];
    for (n, k) in [(16, 32), (61, 288), (200, 1024)] {
        let case = Case::new(97, n, k);
        let alone: Vec<f32> = (0..97).flat_map(|row| case.run(&cpus[0], row..row + 1)).collect();
        for t in (1..=40).chain([63, 64, 65, 96, 97]) {
            let got = case.run(&cpus[t % 3], 0..t);
            assert_same(&got, &alone[..t * n], &format!("[{n} x {k}] T={t}"));
        }
        let tail = case.run(&cpus[1], 50..97);
        assert_same(&tail, &alone[50 * n..], &format!("[{n} x {k}] rows 50..97"));
    }
}

#[test]
fn blocks_of_k_and_passes_of_rows_change_no_bit() {
    let Some(one) = unit(1) else { return };
    let two = cpu(Isa::AmxBf16, 2);
    // Of 65 steps of `K`, blocks have 22, 22 and 21; of 530 rows of `x`, passes have 512 and 18.
    let case = Case::new(530, 95, 65 * 32);
    let all = case.run(&two, 0..530);
    let mut expected = vec![0.0; 530 * 95];
    let job = |out| {
        let (bias, mode) = (None, Write::Store);
        naive::linear(
            &case.x,
            530,
            &mut LinearJob { weight: case.weight().into(), bias, out, mode },
            true,
        );
    };
    job(&mut expected);
    assert_close(&all, &expected, 1e-5, "530 rows");
    for rows in [0..1, 17..37, 100..228, 200..330, 390..530] {
        let got = case.run(&one, rows.clone());
        assert_same(&got, &all[rows.start * 95..rows.end * 95], &format!("{rows:?}"));
    }
    // Gate and up, of which a block takes sixteen rows each.
    let (gate, up) = (case.weight(), case.weight());
    let mut gated = vec![0.0; 530 * 95];
    two.gated_linear(&case.x, 530, gate, up, Activation::Silu, &mut gated).unwrap();
    for row in [0, 129, 511, 512, 529] {
        let x = &case.x[row * case.k..][..case.k];
        let mut alone = vec![0.0; 95];
        one.gated_linear(x, 1, gate, up, Activation::Silu, &mut alone).unwrap();
        assert_same(&gated[row * 95..][..95], &alone, &format!("gated row {row}"));
    }
}

#[test]
fn an_output_does_not_depend_on_its_place_in_the_weight() {
    let Some(cpu) = unit(2) else { return };
    for t in [1, 20, 70] {
        let case = Case::new(t, 77, 96);
        let all = case.run(&cpu, 0..t);
        for first in [1, 13, 16, 40, 61] {
            let n = 77 - first;
            let part =
                Case { x: case.x.clone(), weight: case.weight[first * 192..].to_vec(), ..case };
            let part = Case { n, ..part };
            let expected: Vec<f32> =
                all.chunks(77).flat_map(|row| row[first..].iter().copied()).collect();
            assert_same(&part.run(&cpu, 0..t), &expected, &format!("T={t} from {first}"));
        }
    }
}

#[test]
fn alignment_of_the_weights_does_not_matter() {
    let Some(cpu) = unit(2) else { return };
    for t in [1, 7, 24, 50] {
        let case = Case::new(t, 53, 128);
        let expected = case.run(&cpu, 0..t);
        for offset in [1, 2, 8, 62] {
            let mut moved = vec![0xff; offset];
            moved.extend_from_slice(&case.weight);
            let weight = Matrix::new(DType::BF16, &moved[offset..], 53, 128).unwrap();
            let mut got = vec![0.0; t * 53];
            let job =
                LinearJob { weight: weight.into(), bias: None, out: &mut got, mode: Write::Store };
            cpu.linear(&case.x, t, &mut [job]).unwrap();
            assert_same(&got, &expected, &format!("T={t} offset {offset}"));
        }
    }
}

#[test]
fn jobs_of_all_kinds_in_one_call_have_the_bits_of_single_ones() {
    let Some(cpu) = unit(3) else { return };
    for t in [1, 5, 33, 80] {
        let k = 96;
        let x = Case::new(t, 1, k).x;
        let mut numbers = Numbers::new(t as u64);
        // Fits; too few rows; another type; fits.
        let kinds = [(DType::BF16, 100), (DType::BF16, 9), (DType::F32, 40), (DType::BF16, 31)];
        let stored = kinds.map(|(dtype, n)| numbers.stored(dtype, n * k));
        let weight = |i: usize| Matrix::new(kinds[i].0, &stored[i], kinds[i].1, k).unwrap();
        let mut outs = kinds.map(|(_, n)| vec![0.5; t * n]);
        let mut jobs: Vec<LinearJob<'_>> = outs
            .iter_mut()
            .enumerate()
            .map(|(i, out)| LinearJob {
                weight: weight(i).into(),
                bias: None,
                out,
                mode: Write::Add,
            })
            .collect();
        cpu.linear(&x, t, &mut jobs).unwrap();
        for (i, got) in outs.iter().enumerate() {
            let mut alone = vec![0.5; got.len()];
            let (weight, mode) = (weight(i), Write::Add);
            cpu.linear(
                &x,
                t,
                &mut [LinearJob { weight: weight.into(), bias: None, out: &mut alone, mode }],
            )
            .unwrap();
            assert_same(got, &alone, &format!("T={t} job {i}"));
        }
    }
}

#[test]
fn gated_linear_has_the_bits_of_its_parts_and_mixes_with_other_types() {
    let Some(cpu) = unit(2) else { return };
    let pairs = [(DType::BF16, DType::BF16), (DType::BF16, DType::F16), (DType::F32, DType::BF16)];
    for (gate_type, up_type) in pairs {
        for (t, n) in [(1, 70), (16, 16), (20, 33), (64, 48), (131, 70)] {
            let k = 160;
            let mut numbers = Numbers::new((t + n) as u64);
            let x = numbers.vec(t * k);
            let (gate, up) = (numbers.stored(gate_type, n * k), numbers.stored(up_type, n * k));
            let gate = Matrix::new(gate_type, &gate, n, k).unwrap();
            let up = Matrix::new(up_type, &up, n, k).unwrap();
            let (mut a, mut b, mut got) = (vec![0.0; t * n], vec![0.0; t * n], vec![0.0; t * n]);
            let job = LinearJob::new;
            cpu.linear(&x, t, &mut [job(gate, &mut a), job(up, &mut b)]).unwrap();
            for act in [Activation::Silu, Activation::GeluTanh, Activation::Relu] {
                let mut expected = a.clone();
                cpu.activation(act, &mut expected);
                expected.iter_mut().zip(&b).for_each(|(a, b)| *a *= b);
                cpu.gated_linear(&x, t, gate, up, act, &mut got).unwrap();
                assert_same(&got, &expected, &format!("{gate_type:?} {up_type:?} T={t} N={n}"));
            }
        }
    }
}

fn added<'a>(weight: Matrix<'a>, out: &'a mut [f32]) -> LinearJob<'a> {
    LinearJob { mode: Write::Add, ..LinearJob::new(weight, out) }
}

#[test]
fn a_feed_forward_network_has_the_bits_of_its_layers() {
    let Some(unit) = unit(2) else { return };
    let other = cpu(Isa::Avx512Bf16, 2);
    // Products with one and with several blocks of K, a rest of few rows, weights of another type.
    let shapes = [(1, 64, 96), (129, 64, 96), (150, 96, 2080), (512, 64, 160), (600, 32, 1120)];
    for (t, k, n) in shapes {
        for (cpu, down_type) in [(&unit, DType::BF16), (&unit, DType::F16), (&other, DType::BF16)] {
            let mut numbers = Numbers::new((t * n) as u64);
            let x = numbers.vec(t * k);
            let stored = [0, 1].map(|_| numbers.stored(DType::BF16, n * k));
            let [gate, up] = stored.each_ref().map(|w| Matrix::new(DType::BF16, w, n, k).unwrap());
            let down = numbers.stored(down_type, n * k);
            let down = Matrix::new(down_type, &down, k, n).unwrap();
            let (mut expected, mut got) = (vec![0.5; t * k], vec![0.5; t * k]);
            let (act, mut inner) = (Activation::Silu, vec![0.0; t * n]);
            cpu.gated_linear(&x, t, gate, up, act, &mut inner).unwrap();
            cpu.linear(&inner, t, &mut [added(down, &mut expected)]).unwrap();
            let gated = (gate.into(), up.into(), act);
            let mut room = Floats::default();
            cpu.feed_forward((&x, t), gated, &mut room, added(down, &mut got)).unwrap();
            assert_same(&got, &expected, &format!("T={t} {k} {n} {down_type:?}"));
            let short = &x[1..];
            assert!(cpu.feed_forward((short, t), gated, &mut room, added(down, &mut got)).is_err());
        }
    }
}

#[test]
fn nan_and_infinity_reach_their_row_and_no_other_and_denormals_are_zero() {
    let Some(cpu) = unit(1) else { return };
    for t in [5, 40] {
        let mut case = Case::new(t, 20, 64);
        case.x[2 * 64 + 63] = f32::NAN;
        case.x[3 * 64] = f32::INFINITY;
        case.x[4 * 64..5 * 64].fill(1e-39);
        let out = case.run(&cpu, 0..t);
        for (row, out) in out.chunks(20).enumerate() {
            let ok = |v: f32| match row {
                2 => v.is_nan(),
                3 => v.is_infinite(),
                4 => v == 0.0,
                _ => v.is_finite() && v != 0.0,
            };
            assert!(out.iter().all(|&v| ok(v)), "T={t} row {row}: {out:?}");
        }
    }
}

#[test]
fn weights_that_do_not_fill_tiles_have_the_bits_of_avx512() {
    let Some(unit) = unit(2) else { return };
    let other = cpu(Isa::Avx512Bf16, 2);
    for (t, n, k) in [(1, 15, 64), (40, 15, 64), (1, 64, 33), (40, 64, 40), (3, 20, 16)] {
        let case = Case::new(t, n, k);
        let what = format!("T={t} [{n} x {k}]");
        assert_same(&case.run(&unit, 0..t), &case.run(&other, 0..t), &what);
    }
}
