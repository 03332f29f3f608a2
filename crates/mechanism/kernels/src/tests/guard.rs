//! No kernel touches a byte behind its buffers: each ends where an inaccessible page begins.

use std::ffi::c_void;
use std::ptr::null_mut;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::{DTYPES, Numbers, assert_same, cpu, isas};
use crate::tensor::{
    Activation, AttentionArgs, DType, KvLayer, LinearJob, Matrix, Sight, Vector, Write,
};
use crate::{Cpu, GroupedMatrix, GroupedType};

const PAGE: usize = 4096;

/// Memory whose last byte lies before a page that nobody may touch.
struct Guarded {
    map: *mut c_void,
    mapped: usize,
    len: usize,
}

impl Guarded {
    fn new(content: &[u8]) -> Guarded {
        let usable = content.len().next_multiple_of(PAGE);
        let mapped = usable + PAGE;
        // SAFETY: a fresh mapping, of which the last page loses all access; the copy ends where
        // the accessible part does.
        unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            let map = mmap_anonymous(null_mut(), mapped, access, MapFlags::PRIVATE).unwrap();
            mprotect(map.byte_add(usable), PAGE, MprotectFlags::empty()).unwrap();
            let guarded = Guarded { map, mapped, len: content.len() };
            guarded.start().copy_from_nonoverlapping(content.as_ptr(), content.len());
            guarded
        }
    }

    fn floats(values: &[f32]) -> Guarded {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        Guarded::new(&bytes)
    }

    fn start(&self) -> *mut u8 {
        self.map.cast::<u8>().wrapping_add(self.mapped - PAGE - self.len)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped, initialised, and borrowed as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }

    fn as_f32(&self) -> &[f32] {
        // SAFETY: made by `floats`, so the length is whole values and the end is aligned.
        unsafe { std::slice::from_raw_parts(self.start().cast(), self.len / 4) }
    }

    fn as_f32_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start().cast(), self.len / 4) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and no borrow outlives `self`.
        unsafe { munmap(self.map, self.mapped).unwrap() }
    }
}

fn each(mut f: impl FnMut(&Cpu, DType, &mut Numbers)) {
    for isa in isas() {
        let cpu = cpu(isa, 2);
        for dtype in DTYPES {
            f(&cpu, dtype, &mut Numbers::new(11));
        }
    }
}

#[test]
fn linear_layers_stay_inside_their_buffers() {
    each(|cpu, dtype, numbers| {
        for (t, n, k) in [
            (1, 9, 31),
            (1, 8, 64),
            (3, 5, 33),
            (8, 6, 100),
            (17, 3, 1),
            (20, 70, 95),
            (1, 16, 32),
            (20, 70, 96),
            (40, 33, 64),
        ] {
            let (x, w) = (numbers.vec(t * k), numbers.stored(dtype, n * k));
            let bias = numbers.stored(dtype, n);
            let run = |x: &[f32], w: &[u8], bias: &[u8], out: &mut [f32], gated: &mut [f32]| {
                let weight = Matrix::new(dtype, w, n, k).unwrap();
                let bias = Some(Vector::new(dtype, bias).unwrap());
                let job = LinearJob { weight: weight.into(), bias, out, mode: Write::Store };
                cpu.linear(x, t, &mut [job]).unwrap();
                cpu.gated_linear(x, t, weight, weight, Activation::Silu, gated).unwrap();
            };
            let (mut out, mut gated) = (vec![0.0; t * n], vec![0.0; t * n]);
            run(&x, &w, &bias, &mut out, &mut gated);
            let mut results =
                [Guarded::floats(&vec![0.0; t * n]), Guarded::floats(&vec![0.0; t * n])];
            let [guarded_out, guarded_gated] = &mut results;
            let (x, w, bias) = (Guarded::floats(&x), Guarded::new(&w), Guarded::new(&bias));
            let (to, gated_to) = (guarded_out.as_f32_mut(), guarded_gated.as_f32_mut());
            run(x.as_f32(), w.bytes(), bias.bytes(), to, gated_to);
            let what = format!("{} {dtype:?} {t}x{n}x{k}", cpu.isa());
            assert_same(guarded_out.as_f32(), &out, &what);
            assert_same(guarded_gated.as_f32(), &gated, &what);
        }
    });
}

#[test]
fn grouped_layers_stay_inside_their_buffers() {
    each(|cpu, dtype, numbers| {
        for (t, n, k) in [(1, 9, 31), (3, 16, 64), (13, 17, 95), (50, 33, 32)] {
            let (x, plain) = (numbers.vec(t * k), numbers.stored(dtype, n * k));
            let guarded_plain = Guarded::new(&plain);
            for to in [GroupedType::Int8, GroupedType::Int4] {
                let mut weight = vec![0; to.matrix_bytes(n, k).unwrap()];
                let mut guarded_weight = Guarded::new(&weight);
                let quantize = |plain: &[u8], weight: &mut [u8]| {
                    let plain = Matrix::new(dtype, plain, n, k).unwrap();
                    cpu.quantize(plain, to, weight).unwrap();
                };
                quantize(&plain, &mut weight);
                quantize(guarded_plain.bytes(), guarded_weight.bytes_mut());
                assert_eq!(guarded_weight.bytes(), weight);
                let bias = numbers.stored(dtype, n);
                let run = |x: &[f32], w: &[u8], bias: &[u8], out: &mut [f32], gated: &mut [f32]| {
                    let weight = GroupedMatrix::new(to, w, n, k).unwrap();
                    let bias = Some(Vector::new(dtype, bias).unwrap());
                    let job = LinearJob { bias, ..LinearJob::new(weight, out) };
                    cpu.linear(x, t, &mut [job]).unwrap();
                    cpu.gated_linear(x, t, weight, weight, Activation::Silu, gated).unwrap();
                };
                let (mut out, mut gated) = (vec![0.0; t * n], vec![0.0; t * n]);
                run(&x, &weight, &bias, &mut out, &mut gated);
                let mut results =
                    [Guarded::floats(&vec![0.0; t * n]), Guarded::floats(&vec![0.0; t * n])];
                let [guarded_out, guarded_gated] = &mut results;
                let (x, bias) = (Guarded::floats(&x), Guarded::new(&bias));
                let (to_out, to_gated) = (guarded_out.as_f32_mut(), guarded_gated.as_f32_mut());
                run(x.as_f32(), guarded_weight.bytes(), bias.bytes(), to_out, to_gated);
                let what = format!("{} {to:?} {t}x{n}x{k}", cpu.isa());
                assert_same(guarded_out.as_f32(), &out, &what);
                assert_same(guarded_gated.as_f32(), &gated, &what);
            }
        }
    });
}

#[test]
fn row_kernels_stay_inside_their_buffers() {
    each(|cpu, dtype, numbers| {
        for cols in [1, 7, 16, 33, 100] {
            let (rows, half) = (3, cols / 2);
            let x = numbers.vec(rows * cols);
            let weight = numbers.stored(dtype, cols);
            let (angles, table) = (numbers.vec(rows * half), numbers.stored(dtype, rows * cols));
            let run = |x: &mut [f32], out: &mut [f32], w: &[u8], angles: &[f32], table: &[u8]| {
                let weight = Vector::new(dtype, w).unwrap();
                cpu.rms_norm(x, weight, 1e-6, out).unwrap();
                cpu.add(x, out).unwrap();
                cpu.layer_norm(x, weight, weight, 1e-6, out).unwrap();
                cpu.gate(Activation::Gelu, out, x).unwrap();
                cpu.rms_norm_in_place(out, weight, 1e-6).unwrap();
                cpu.rope(out, 1, cols, angles, angles).unwrap();
                cpu.activation(Activation::GeluTanh, out);
                cpu.add(out, x).unwrap();
                let table = Matrix::new(dtype, table, rows, cols).unwrap();
                cpu.embed(table, &[2, 0, 2], x).unwrap();
                cpu.add(out, x).unwrap();
            };
            let (mut plain, mut expected) = (x.clone(), vec![0.0; rows * cols]);
            run(&mut plain, &mut expected, &weight, &angles, &table);
            let mut out = Guarded::floats(&vec![0.0; rows * cols]);
            let (mut x, angles) = (Guarded::floats(&x), Guarded::floats(&angles));
            let (weight, table) = (Guarded::new(&weight), Guarded::new(&table));
            let angles = angles.as_f32();
            run(x.as_f32_mut(), out.as_f32_mut(), weight.bytes(), angles, table.bytes());
            assert_same(out.as_f32(), &expected, &format!("{} {dtype:?} {cols}", cpu.isa()));
        }
    });
}

#[test]
fn attention_and_the_cache_stay_inside_their_buffers() {
    each(|cpu, dtype, numbers| {
        for (heads, kv_heads, dim, block_size) in [(4, 2, 20, 3), (3, 1, 64, 16), (2, 2, 7, 1)] {
            let (tokens, row) = (2 * block_size, kv_heads * dim);
            let (k, v) = (numbers.vec(tokens * row), numbers.vec(tokens * row));
            let q = numbers.vec(tokens * heads * dim);
            let slots: Vec<u32> = (0..tokens as u32).collect();
            let run = |q: &[f32], kv: [&[f32]; 2], cache: [&mut [u8]; 2], out: &mut [f32]| {
                let [cache_k, cache_v] = cache;
                let mut layer = KvLayer {
                    dtype,
                    k: cache_k,
                    v: cache_v,
                    num_blocks: 2,
                    num_kv_heads: kv_heads,
                    block_size,
                    head_dim: dim,
                };
                cpu.store_kv(&mut layer, kv[0], kv[1], &slots).unwrap();
                let args = AttentionArgs {
                    num_heads: heads,
                    scale: 0.3,
                    sight: Sight::Past,
                    q_starts: &[0, tokens as u32],
                    context_lens: &[tokens as u32],
                    block_tables: &[&[0, 1]],
                };
                cpu.attention(&args, q, &layer, out).unwrap();
            };
            let empty = vec![0u8; tokens * row * dtype.size_bytes()];
            let (mut cache_k, mut cache_v) = (empty.clone(), empty.clone());
            let mut expected = vec![0.0; q.len()];
            run(&q, [&k, &v], [&mut cache_k, &mut cache_v], &mut expected);
            let (k, v, q) = (Guarded::floats(&k), Guarded::floats(&v), Guarded::floats(&q));
            let (mut cache_k, mut cache_v) = (Guarded::new(&empty), Guarded::new(&empty));
            let mut out = Guarded::floats(&vec![0.0; expected.len()]);
            let caches = [cache_k.bytes_mut(), cache_v.bytes_mut()];
            run(q.as_f32(), [k.as_f32(), v.as_f32()], caches, out.as_f32_mut());
            assert_same(out.as_f32(), &expected, &format!("{} {dtype:?} {dim}", cpu.isa()));
        }
    });
}
