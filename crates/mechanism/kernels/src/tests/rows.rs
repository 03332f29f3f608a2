//! Norms, activations, rotation, embedding, cache writes.

use super::{DTYPES, Numbers, assert_close, assert_same, cpu, isas};
use crate::tensor::{Activation, DType, KvLayer, Matrix, Vector};
use crate::{Isa, KernelError, naive};

const ACTIVATIONS: [Activation; 4] =
    [Activation::Relu, Activation::Silu, Activation::Gelu, Activation::GeluTanh];

#[test]
fn activations_agree_with_f64_over_the_whole_range() {
    let mut x: Vec<f32> = (-1200..1200).map(|i| i as f32 / 100.0).collect();
    x.extend([0.0, -0.0, 1e-30, -1e-30, 90.0, -90.0, 1e30, -1e30, f32::NAN]);
    for isa in isas() {
        for act in ACTIVATIONS {
            let mut got = x.clone();
            cpu(isa, 2).activation(act, &mut got);
            let expected: Vec<f32> = x.iter().map(|&v| naive::activate(act, v)).collect();
            assert_close(&got, &expected, 1.5e-6, &format!("{isa} {act:?}"));
        }
    }
}

#[test]
fn a_value_has_the_same_bits_wherever_it_stands() {
    let x = Numbers::new(3).vec(100);
    for isa in isas() {
        let cpu = cpu(isa, 1);
        for act in ACTIVATIONS {
            let mut whole = x.clone();
            cpu.activation(act, &mut whole);
            for (start, end) in [(0, 1), (1, 18), (7, 100), (99, 100), (5, 5)] {
                let mut part = x[start..end].to_vec();
                cpu.activation(act, &mut part);
                assert_same(&part, &whole[start..end], &format!("{isa} {act:?} {start}..{end}"));
            }
        }
    }
}

#[test]
fn norms_agree_with_f64_and_rows_with_themselves() {
    let mut numbers = Numbers::new(5);
    for isa in isas() {
        for dtype in DTYPES {
            for cols in [1, 7, 16, 64, 100, 896] {
                let rows = 40;
                let (w, b) = (numbers.stored(dtype, cols), numbers.stored(DType::F32, cols));
                let x: Vec<f32> = numbers.vec(rows * cols).iter().map(|v| v * 3.0 + 1.0).collect();
                let (w, b) =
                    (Vector::new(dtype, &w).unwrap(), Vector::new(DType::F32, &b).unwrap());
                let what = format!("{isa} {dtype:?} {cols}");
                let (mut got, mut expected) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                let (one, two) = (cpu(isa, 1), cpu(isa, 2));
                two.layer_norm(&x, w, b, 1e-5, &mut got).unwrap();
                naive::layer_norm(&x, w, b, 1e-5, &mut expected);
                assert_close(&got, &expected, 2e-5, &what);
                two.rms_norm(&x, w, 1e-6, &mut got).unwrap();
                naive::rms_norm(&x, w, 1e-6, &mut expected);
                assert_close(&got, &expected, 5e-6, &what);
                let mut row = x[cols..2 * cols].to_vec();
                one.rms_norm_in_place(&mut row, w, 1e-6).unwrap();
                assert_same(&row, &got[cols..2 * cols], &what);
            }
        }
    }
}

#[test]
fn rope_rotates_pairs_and_leaves_the_rest() {
    let mut numbers = Numbers::new(7);
    for isa in isas() {
        for (tokens, heads, dim, half) in
            [(1, 1, 2, 1), (3, 2, 64, 32), (70, 5, 80, 16), (2, 3, 7, 0)]
        {
            let mut got = numbers.vec(tokens * heads * dim);
            let (cos, sin) = (numbers.vec(tokens * half), numbers.vec(tokens * half));
            let mut expected = got.clone();
            cpu(isa, 2).rope(&mut got, heads, dim, &cos, &sin).unwrap();
            naive::rope(&mut expected, heads, dim, &cos, &sin);
            assert_close(&got, &expected, 1e-6, &format!("{isa} {tokens} {heads} {dim} {half}"));
        }
    }
}

#[test]
fn embed_widens_exactly_and_add_adds() {
    let mut numbers = Numbers::new(9);
    for isa in isas() {
        for dtype in DTYPES {
            let data = numbers.stored(dtype, 11 * 45);
            let table = Matrix::new(dtype, &data, 11, 45).unwrap();
            let mut out = vec![0.0; 3 * 45];
            cpu(isa, 2).embed(table, &[10, 0, 10], &mut out).unwrap();
            for (i, &v) in out.iter().enumerate() {
                let id = [10, 0, 10][i / 45];
                assert_eq!(v, naive::load(dtype, &data, id * 45 + i % 45), "{isa} {dtype:?}");
            }
        }
        let (mut x, y) = (vec![1.5; 70_001], vec![2.0; 70_001]);
        cpu(isa, 2).add(&mut x, &y).unwrap();
        assert!(x.iter().all(|&v| v == 3.5));
    }
}

#[test]
fn store_kv_rounds_like_the_naive_one() {
    let (blocks, heads, size, dim) = (3, 2, 5, 19);
    let mut numbers = Numbers::new(11);
    let mut values = numbers.vec(4 * heads * dim);
    values[..6].copy_from_slice(&[f32::NAN, f32::INFINITY, -0.0, 1e-40, 70_000.0, 3.4e38]);
    let slots = [14, 0, 7, 3];
    for isa in isas() {
        for dtype in DTYPES {
            let empty = vec![0u8; blocks * heads * size * dim * dtype.size_bytes()];
            let mut caches: Vec<_> = (0..4).map(|_| empty.clone()).collect();
            let [a, b, c, d] = &mut caches[..] else { unreachable!() };
            fn layer<'a>(dtype: DType, k: &'a mut [u8], v: &'a mut [u8]) -> KvLayer<'a> {
                KvLayer { dtype, k, v, num_blocks: 3, num_kv_heads: 2, block_size: 5, head_dim: 19 }
            }
            cpu(isa, 1).store_kv(&mut layer(dtype, a, b), &values, &values, &slots).unwrap();
            naive::store_kv(&mut layer(dtype, c, d), &values, &values, &slots);
            for (half, i) in
                (0..2).flat_map(|h| (0..blocks * heads * size * dim).map(move |i| (h, i)))
            {
                let got = naive::load(dtype, &caches[half], i);
                let expected = naive::load(dtype, &caches[2 + half], i);
                let flushed = got == 0.0 && expected.abs() < 1e-37;
                let same = got == expected || got.is_nan() && expected.is_nan() || flushed;
                assert!(same, "{isa} {dtype:?} {half} {i}: {got} {expected}");
            }
        }
    }
}

#[test]
fn bad_shapes_and_ids_are_errors() {
    let cpu = cpu(Isa::Portable, 1);
    let data = [0u8; 24];
    let table = Matrix::new(DType::F32, &data, 2, 3).unwrap();
    let weight = Vector::new(DType::F32, &data[..12]).unwrap();
    let mut out = [0.0; 6];
    let error = cpu.embed(table, &[0, 2], &mut out).unwrap_err();
    assert_eq!(error.to_string(), "ids holds 2, which is outside 0..2");
    assert!(matches!(error, KernelError::Index { .. }));
    assert!(cpu.embed(table, &[0], &mut out).is_err());
    assert!(cpu.add(&mut out, &[0.0; 5]).is_err());
    assert!(cpu.rms_norm(&[0.0; 5], weight, 1e-6, &mut out[..5]).is_err());
    assert!(cpu.rms_norm(&[0.0; 6], weight, 1e-6, &mut out[..3]).is_err());
    assert!(
        cpu.layer_norm(&[0.0; 6], weight, Vector { data: &[], ..weight }, 1e-6, &mut out).is_err()
    );
    assert!(cpu.rope(&mut out, 1, 4, &[0.0], &[0.0]).is_err());
    assert!(cpu.rope(&mut out, 1, 3, &[0.0; 4], &[0.0; 4]).is_err());
    assert!(cpu.rope(&mut out, 0, 3, &[], &[]).is_err());
    assert!(cpu.rms_norm(&[], weight, 1e-6, &mut []).is_ok());
    assert!(cpu.rope(&mut [], 1, 4, &[], &[]).is_ok());
    cpu.activation(Activation::Gelu, &mut []);
}
