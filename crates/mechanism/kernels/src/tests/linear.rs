//! Linear layers.

use super::{DTYPES, Numbers, assert_close, assert_same, cpu, isas};
use crate::tensor::{Activation, DType, LinearJob, Matrix, Vector, Write};
use crate::{Cpu, Isa, KernelError, naive};

/// One stored weight, its bias and an input.
struct Case {
    dtype: DType,
    x: Vec<f32>,
    weight: Vec<u8>,
    bias: Vec<u8>,
    n: usize,
    k: usize,
}

impl Case {
    fn new(dtype: DType, t: usize, n: usize, k: usize) -> Case {
        let mut numbers = Numbers::new((t * 1_000_003 + n * 1009 + k) as u64);
        let (x, weight) = (numbers.vec(t * k), numbers.stored(dtype, n * k));
        Case { dtype, x, weight, bias: numbers.stored(dtype, n), n, k }
    }

    fn weight(&self) -> Matrix<'_> {
        Matrix::new(self.dtype, &self.weight, self.n, self.k).unwrap()
    }

    fn run(&self, cpu: &Cpu, weight: &[u8], rows: std::ops::Range<usize>, mode: Write) -> Vec<f32> {
        let weight = Matrix::new(self.dtype, weight, self.n, self.k).unwrap();
        let bias = Some(Vector::new(self.dtype, &self.bias).unwrap());
        let mut out = vec![0.5; rows.len() * self.n];
        let mut job = [LinearJob { weight: weight.into(), bias, out: &mut out, mode }];
        let x = &self.x[rows.start * self.k..rows.end * self.k];
        cpu.linear(x, rows.len(), &mut job).unwrap();
        out
    }
}

const SHAPES: [(usize, usize, usize); 12] = [
    (1, 1, 1),
    (1, 9, 31),
    (1, 300, 257),
    (2, 7, 32),
    (3, 5, 33),
    (5, 13, 100),
    (6, 4, 64),
    (7, 1, 65),
    (13, 17, 129),
    (33, 65, 95),
    (4, 3, 2048),
    (0, 3, 5),
];

#[test]
fn every_rung_and_type_agrees_with_f64() {
    for isa in isas() {
        let cpu = cpu(isa, 2);
        for dtype in DTYPES {
            for (t, n, k) in SHAPES {
                for mode in [Write::Store, Write::Add] {
                    let case = Case::new(dtype, t, n, k);
                    let mut expected = vec![0.5; t * n];
                    let bias = Some(Vector::new(dtype, &case.bias).unwrap());
                    let out = &mut expected;
                    let mut job = LinearJob { weight: case.weight().into(), bias, out, mode };
                    let rounded = matches!(isa, Isa::AmxBf16 | Isa::Avx512Bf16);
                    naive::linear(&case.x, t, &mut job, rounded);
                    let got = case.run(&cpu, &case.weight, 0..t, mode);
                    assert_close(&got, &expected, 1e-5, &format!("{isa} {dtype:?} {t}x{n}x{k}"));
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_batch_and_on_any_number_of_threads() {
    for isa in isas() {
        let cpus = [cpu(isa, 1), cpu(isa, 2), cpu(isa, 3)];
        for dtype in DTYPES {
            for (n, k) in [(37, 143), (130, 1000)] {
                let case = Case::new(dtype, 33, n, k);
                let alone: Vec<f32> = (0..33)
                    .flat_map(|row| case.run(&cpus[0], &case.weight, row..row + 1, Write::Store))
                    .collect();
                for t in 1..=33 {
                    let got = case.run(&cpus[t % 3], &case.weight, 0..t, Write::Store);
                    assert_same(&got, &alone[..t * n], &format!("{isa} {dtype:?} {n}x{k} T={t}"));
                }
            }
        }
    }
}

#[test]
fn alignment_of_the_weights_does_not_matter() {
    for isa in isas() {
        let cpu = cpu(isa, 2);
        for dtype in DTYPES {
            for t in [1, 7] {
                let case = Case::new(dtype, t, 21, 77);
                let expected = case.run(&cpu, &case.weight, 0..t, Write::Store);
                for offset in [1, 2, 8, 62] {
                    let mut moved = vec![0xff; offset];
                    moved.extend_from_slice(&case.weight);
                    let got = case.run(&cpu, &moved[offset..], 0..t, Write::Store);
                    assert_same(&got, &expected, &format!("{isa} {dtype:?} offset {offset}"));
                }
            }
        }
    }
}

#[test]
fn several_jobs_and_gated_linear_have_the_bits_of_single_ones() {
    for isa in isas() {
        let cpu = cpu(isa, 2);
        for (gate_type, up_type) in
            [(DType::BF16, DType::BF16), (DType::F16, DType::F32), (DType::BF16, DType::F32)]
        {
            for t in [1, 5, 50, 101] {
                let gate = Case::new(gate_type, t, 70, 90);
                let up = Case { x: gate.x.clone(), ..Case::new(up_type, t, 70, 90) };
                let (mut a, mut b) = (vec![0.0; t * 70], vec![0.0; t * 70]);
                let job = LinearJob::new;
                let mut jobs = [job(gate.weight(), &mut a), job(up.weight(), &mut b)];
                cpu.linear(&gate.x, t, &mut jobs).unwrap();
                let mut alone = vec![0.0; t * 70];
                cpu.linear(&gate.x, t, &mut [job(up.weight(), &mut alone)]).unwrap();
                assert_same(&b, &alone, "second job");
                let act = Activation::Silu;
                let mut out = vec![0.0; t * 70];
                cpu.gated_linear(&gate.x, t, gate.weight(), up.weight(), act, &mut out).unwrap();
                let mut gated = a.clone();
                cpu.gate(act, &mut gated, &b).unwrap();
                cpu.activation(act, &mut a);
                let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a * b).collect();
                assert_same(&out, &expected, &format!("{isa} {gate_type:?} {up_type:?} T={t}"));
                assert_same(&gated, &expected, "activation and product alone");
            }
        }
    }
}

#[test]
fn nan_and_infinity_reach_their_row_and_no_other() {
    for isa in isas() {
        for dtype in DTYPES {
            let mut case = Case::new(dtype, 4, 6, 50);
            case.x[2 * 50 + 49] = f32::NAN;
            case.x[3 * 50] = f32::INFINITY;
            let out = case.run(&cpu(isa, 1), &case.weight, 0..4, Write::Store);
            assert!(out[..12].iter().all(|v| v.is_finite()), "{isa} {dtype:?}");
            assert!(out[12..18].iter().all(|v| v.is_nan()), "{isa} {dtype:?}");
            assert!(out[18..].iter().all(|v| v.is_infinite()), "{isa} {dtype:?}");
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors_with_names_and_numbers() {
    let cpu = cpu(Isa::Portable, 1);
    let case = Case::new(DType::F32, 2, 3, 4);
    let mut out = vec![0.0; 6];
    let mut check = |weight: Matrix<'_>, bias, x: &[f32], len: usize, name: &str| {
        let (out, mode) = (&mut out[..len], Write::Store);
        let error = cpu
            .linear(x, 2, &mut [LinearJob { weight: weight.into(), bias, out, mode }])
            .unwrap_err();
        assert!(matches!(error, KernelError::Length { tensor, .. } if tensor == name), "{error}");
    };
    let short = Some(Vector { dtype: DType::F32, data: &case.bias[..8] });
    check(case.weight(), None, &case.x[1..], 6, "x");
    check(case.weight(), None, &case.x, 5, "out");
    check(case.weight(), short, &case.x, 6, "bias");
    check(Matrix { rows: 4, ..case.weight() }, None, &case.x, 6, "weight");
    let act = Activation::Relu;
    let other = Matrix { rows: 4, cols: 3, ..case.weight() };
    assert!(cpu.gated_linear(&case.x, 2, case.weight(), other, act, &mut out).is_err());
    assert!(Matrix::new(DType::BF16, &[0; 7], 1, 3).is_err());
    assert!(Matrix::new(DType::BF16, &[], usize::MAX, 2).is_err());
    assert!(Vector::new(DType::F16, &[0; 3]).is_err());
}
