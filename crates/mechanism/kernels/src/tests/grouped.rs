//! Weights in groups: an oracle that knows only the documented layout, and equal bits everywhere.

use half::bf16;

use super::{DTYPES, Numbers, assert_same, cpu, isas};
use crate::tensor::{Activation, DType, LinearJob, Matrix, Vector, Weight, Write};
use crate::{Cpu, GroupedMatrix, GroupedType, Isa, KernelError, naive};

const TYPES: [GroupedType; 2] = [GroupedType::Int8, GroupedType::Int4];

const SHAPES: [(usize, usize, usize); 13] = [
    (1, 1, 1),
    (1, 9, 31),
    (1, 300, 257),
    (2, 7, 32),
    (3, 16, 33),
    (5, 13, 100),
    (7, 1, 65),
    (13, 17, 129),
    (25, 48, 64),
    (33, 65, 95),
    (61, 40, 96),
    (4, 3, 2048),
    (0, 3, 5),
];

struct Case {
    grouped: GroupedType,
    x: Vec<f32>,
    weight: Vec<u8>,
    bias: Vec<u8>,
    n: usize,
    k: usize,
}

fn quantized(cpu: &Cpu, plain: Matrix<'_>, to: GroupedType) -> Vec<u8> {
    // What lay there before must not show.
    let mut data = vec![0xa5; to.matrix_bytes(plain.rows, plain.cols).unwrap()];
    cpu.quantize(plain, to, &mut data).unwrap();
    data
}

impl Case {
    fn new(grouped: GroupedType, t: usize, n: usize, k: usize) -> Case {
        let mut numbers = Numbers::new((t * 1_000_003 + n * 1009 + k) as u64);
        let (x, plain) = (numbers.vec(t * k), numbers.stored(DType::BF16, n * k));
        let plain = Matrix::new(DType::BF16, &plain, n, k).unwrap();
        let weight = quantized(&cpu(Isa::Portable, 1), plain, grouped);
        Case { grouped, x, weight, bias: numbers.stored(DType::F16, n), n, k }
    }

    fn weight(&self) -> GroupedMatrix<'_> {
        GroupedMatrix::new(self.grouped, &self.weight, self.n, self.k).unwrap()
    }

    fn run(&self, cpu: &Cpu, rows: std::ops::Range<usize>, mode: Write) -> Vec<f32> {
        let bias = Some(Vector::new(DType::F16, &self.bias).unwrap());
        let mut out = vec![0.5; rows.len() * self.n];
        let mut job = [LinearJob { weight: self.weight().into(), bias, out: &mut out, mode }];
        let x = &self.x[rows.start * self.k..rows.end * self.k];
        cpu.linear(x, rows.len(), &mut job).unwrap();
        out
    }
}

/// Weight `[row, col]`, by the layout that the module documents.
fn weight_at(w: &GroupedMatrix<'_>, row: usize, col: usize) -> f64 {
    let groups = w.cols.div_ceil(32);
    let (group_bytes, scales) = match w.grouped {
        GroupedType::Int8 => (512, (groups * 32).next_multiple_of(64)),
        GroupedType::Int4 => (256, (groups * 32).next_multiple_of(64)),
    };
    let tile = &w.data[row / 16 * (scales + groups * group_bytes)..];
    let (group, lane, k) = (col / 32, row % 16, col % 32);
    let at = group * 32 + lane * 2;
    let scale = bf16::from_le_bytes([tile[at], tile[at + 1]]).to_f64();
    let group = &tile[scales + group * group_bytes..];
    let number = match w.grouped {
        GroupedType::Int8 => i32::from(group[k / 4 * 64 + lane * 4 + k % 4]) - 128,
        GroupedType::Int4 => {
            let both = group[k / 8 * 64 + lane * 4 + k % 4];
            i32::from(both >> (k / 4 % 2 * 4) & 15) - 8
        }
    };
    scale * f64::from(number)
}

/// A row of activations as 8 bits can say it, and half a step of each value's group.
fn rounded(x: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let (mut values, mut halves) = (Vec::new(), Vec::new());
    for group in x.chunks(32) {
        let largest = group.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let step = f64::from(largest) / 127.0;
        for &value in group {
            let number = if step == 0.0 { 0.0 } else { (f64::from(value) / step).round() };
            values.push(number * step);
            halves.push(step / 2.0);
        }
    }
    (values, halves)
}

#[test]
fn products_are_those_of_the_rounded_values() {
    for grouped in TYPES {
        for (t, n, k) in SHAPES {
            let case = Case::new(grouped, t, n, k);
            let out = case.run(&cpu(Isa::Portable, 1), 0..t, Write::Store);
            for row in 0..t {
                let (x, halves) = rounded(&case.x[row * k..][..k]);
                for output in 0..n {
                    let w: Vec<f64> =
                        (0..k).map(|col| weight_at(&case.weight(), output, col)).collect();
                    let sum: f64 = x.iter().zip(&w).map(|(x, w)| x * w).sum();
                    let size: f64 = x.iter().zip(&w).map(|(x, w)| (x * w).abs()).sum();
                    // f32 adds one rounding per group; a value half-way between two steps may have
                    // gone to the other one, of which a few among many thousands are allowed.
                    let half: f64 =
                        halves.iter().zip(&w).map(|(h, w)| h * w.abs()).fold(0.0, f64::max);
                    let expected = sum + f64::from(naive::load(DType::F16, &case.bias, output));
                    let error = (f64::from(out[row * n + output]) - expected).abs();
                    let bound = 1e-6 * (1.0 + size) + 2.0 * half * 1e-3;
                    assert!(error <= bound, "{grouped:?} {t}x{n}x{k}: {error} beyond {bound}");
                }
            }
        }
    }
}

#[test]
fn every_instruction_set_batch_and_thread_count_gives_the_same_bits() {
    for grouped in TYPES {
        for (t, n, k) in SHAPES {
            let case = Case::new(grouped, t, n, k);
            for mode in [Write::Store, Write::Add] {
                let expected = case.run(&cpu(Isa::Portable, 1), 0..t, mode);
                for isa in isas() {
                    for threads in [1, 3] {
                        let cpu = cpu(isa, threads);
                        let what = format!("{grouped:?} {isa} {threads} threads {t}x{n}x{k}");
                        assert_same(&case.run(&cpu, 0..t, mode), &expected, &what);
                        for row in [0, t / 2] {
                            let end = t.min(row + 1);
                            let alone = case.run(&cpu, row..end, mode);
                            assert_same(&alone, &expected[row * n..end * n], &what);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn several_jobs_and_gated_linear_have_the_bits_of_single_ones() {
    for isa in isas() {
        let cpu = cpu(isa, 2);
        for (t, n, k) in [(1, 70, 90), (9, 33, 64), (60, 600, 32)] {
            let cases = TYPES.map(|grouped| Case::new(grouped, t, n, k));
            let plain = Numbers::new(3).stored(DType::BF16, n * k);
            let plain: Weight<'_> = Matrix::new(DType::BF16, &plain, n, k).unwrap().into();
            let [int8, int4] = cases.each_ref().map(|case| Weight::from(case.weight()));
            let x = &cases[0].x;
            let alone = |weight: Weight<'_>| {
                let mut out = vec![0.0; t * n];
                cpu.linear(x, t, &mut [LinearJob::new(weight, &mut out)]).unwrap();
                out
            };
            let mut outs = [(); 3].map(|()| vec![0.0; t * n]);
            let weights = [int8, plain, int4];
            let mut jobs: Vec<LinearJob<'_>> = std::iter::zip(weights, &mut outs)
                .map(|(weight, out)| LinearJob::new(weight, out))
                .collect();
            cpu.linear(x, t, &mut jobs).unwrap();
            for (weight, out) in std::iter::zip(weights, &outs) {
                assert_same(out, &alone(weight), &format!("{isa} {t}x{n}x{k}"));
            }
            for (gate, up) in [(int8, int8), (int4, int8), (int4, int4), (plain, int4)] {
                let mut expected = alone(gate);
                cpu.gate(Activation::Silu, &mut expected, &alone(up)).unwrap();
                let mut out = vec![0.0; t * n];
                cpu.gated_linear(x, t, gate, up, Activation::Silu, &mut out).unwrap();
                assert_same(&out, &expected, &format!("{isa} {t}x{n}x{k}"));
            }
        }
    }
}

#[test]
fn weights_are_rounded_the_same_everywhere_and_closely() {
    for dtype in DTYPES {
        for (rows, cols) in [(1, 1), (16, 32), (17, 95), (50, 128)] {
            let data = Numbers::new(5).stored(dtype, rows * cols);
            let plain = Matrix::new(dtype, &data, rows, cols).unwrap();
            for to in TYPES {
                let expected = quantized(&cpu(Isa::Portable, 1), plain, to);
                for isa in isas() {
                    assert_eq!(quantized(&cpu(isa, 3), plain, to), expected, "{isa} {to:?}");
                }
                let found = GroupedMatrix::new(to, &expected, rows, cols).unwrap();
                for row in 0..rows {
                    for first in (0..cols).step_by(32) {
                        check_group(&plain, &found, row, first..cols.min(first + 32));
                    }
                }
            }
        }
    }
}

/// Plain rounding to 4 bits is off by half a step, of which there are seven up to the largest
/// weight: the squared error may not be above that of this simplest choice. 8 bits are off by half
/// a step each, and a scale in bf16 adds 127 times its own rounding at most.
fn check_group(
    plain: &Matrix<'_>,
    found: &GroupedMatrix<'_>,
    row: usize,
    cols: std::ops::Range<usize>,
) {
    let stored = |col| f64::from(naive::load(plain.dtype, plain.data, row * plain.cols + col));
    let largest = cols.clone().map(|col| stored(col).abs()).fold(0.0, f64::max);
    let error = |col| stored(col) - weight_at(found, row, col);
    match found.grouped {
        GroupedType::Int8 => {
            let most = cols.map(|col| error(col).abs()).fold(0.0, f64::max);
            assert!(most <= largest / 127.0 * (0.5 + 127.0 / 256.0 / 2.0), "{most} of {largest}");
        }
        GroupedType::Int4 => {
            let count = cols.len() as f64;
            let squares: f64 = cols.clone().map(|col| error(col).powi(2)).sum();
            let step = largest / 7.0;
            let simplest: f64 =
                cols.map(|col| (stored(col) - (stored(col) / step).round() * step).powi(2)).sum();
            // The scale is rounded to eight bits, and the numbers once more after it.
            let slack = 0.01 * simplest + count * (largest / 512.0).powi(2);
            assert!(squares <= simplest + slack, "{squares} is more than {simplest}");
        }
    }
}

#[test]
fn zeros_and_extremes_survive_rounding() {
    for (value, tolerance) in [(0.0f32, 0.0), (1e-20, 0.01), (3e5, 0.01), (-1e20, 0.01)] {
        let data: Vec<u8> = [value; 40].iter().flat_map(|v| v.to_le_bytes()).collect();
        let plain = Matrix::new(DType::F32, &data, 1, 40).unwrap();
        for to in TYPES {
            let bytes = quantized(&cpu(Isa::Portable, 1), plain, to);
            let found = weight_at(&GroupedMatrix::new(to, &bytes, 1, 40).unwrap(), 0, 39);
            let error = (found - f64::from(value)).abs();
            assert!(error <= tolerance * f64::from(value.abs()), "{to:?}: {value} became {found}");
        }
    }
}

#[test]
fn nan_and_infinity_reach_their_row_and_no_other() {
    for isa in isas() {
        for grouped in TYPES {
            let mut case = Case::new(grouped, 4, 6, 50);
            case.x[2 * 50 + 49] = f32::NAN;
            case.x[3 * 50] = f32::INFINITY;
            let out = case.run(&cpu(isa, 1), 0..4, Write::Store);
            assert!(out[..12].iter().all(|v| v.is_finite()), "{isa} {grouped:?}");
            assert!(out[12..].iter().all(|v| v.is_nan()), "{isa} {grouped:?}");
            let mut plain = vec![0u8; 4 * 2 * 50];
            plain[4 * 60..4 * 61].copy_from_slice(&f32::INFINITY.to_le_bytes());
            let plain = Matrix::new(DType::F32, &plain, 2, 50).unwrap();
            let weight = quantized(&cpu(isa, 1), plain, grouped);
            let weight = GroupedMatrix::new(grouped, &weight, 2, 50).unwrap();
            let mut out = [0.0; 2];
            cpu(isa, 1).linear(&[1.0; 50], 1, &mut [LinearJob::new(weight, &mut out)]).unwrap();
            assert!(out[0] == 0.0 && out[1].is_nan(), "{isa} {grouped:?}: {out:?}");
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors_with_names_and_numbers() {
    let cpu = cpu(Isa::Portable, 1);
    let case = Case::new(GroupedType::Int4, 2, 3, 40);
    let mut out = vec![0.0; 6];
    let short = GroupedMatrix { data: &case.weight[1..], ..case.weight() };
    let error = cpu.linear(&case.x, 2, &mut [LinearJob::new(short, &mut out)]).unwrap_err();
    assert!(matches!(error, KernelError::Length { tensor: "weight", .. }), "{error}");
    let error = cpu.linear(&case.x[1..], 2, &mut [LinearJob::new(case.weight(), &mut out)]);
    assert!(matches!(error, Err(KernelError::Length { tensor: "x", .. })));
    assert!(GroupedMatrix::new(GroupedType::Int8, &case.weight, 3, 40).is_err());
    assert!(GroupedType::Int8.matrix_bytes(usize::MAX, 1).is_err());
    assert!(GroupedType::Int8.matrix_bytes(1 << 40, 1 << 40).is_err());
    let plain = vec![0; 3 * 40 * 4];
    let plain = Matrix::new(DType::F32, &plain, 3, 40).unwrap();
    assert!(cpu.quantize(plain, GroupedType::Int4, &mut [0; 7]).is_err());
    let up = GroupedMatrix { rows: 19, ..case.weight() };
    let act = Activation::Relu;
    assert!(cpu.gated_linear(&case.x, 2, case.weight(), up, act, &mut out).is_err());
}
