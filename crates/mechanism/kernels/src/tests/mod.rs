//! Fast kernels against the naive ones, and against themselves in other arrangements.

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod grouped;
mod guard;
mod linear;
mod rows;

use crate::tensor::DType;
use crate::{Cpu, CpuOptions, Isa, naive};

/// Reproducible values in about `-1..1`.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.word() >> 33) as usize % n
    }

    pub(crate) fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.word() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }

    /// `n` stored values.
    pub(crate) fn stored(&mut self, dtype: DType, n: usize) -> Vec<u8> {
        to_storage(dtype, &self.vec(n))
    }
}

fn to_storage(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * dtype.size_bytes()];
    for (i, &v) in values.iter().enumerate() {
        naive::store(dtype, &mut bytes, i, v);
    }
    bytes
}

pub(crate) const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// The rungs this machine can run.
pub(crate) fn isas() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
}

pub(crate) fn cpu(isa: Isa, threads: usize) -> Cpu {
    Cpu::new(CpuOptions { threads: Some(threads), isa: Some(isa) }).unwrap()
}

/// Same bits, or a panic that names the first difference.
#[track_caller]
pub(crate) fn assert_same(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    if let Some(i) = (0..got.len()).find(|&i| got[i].to_bits() != expected[i].to_bits()) {
        panic!("{what}: value {i} is {:e}, not {:e}", got[i], expected[i]);
    }
}

#[track_caller]
pub(crate) fn assert_close(got: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let near = (g - e).abs() <= tolerance * (1.0 + e.abs());
        assert!(near || g == e || g.is_nan() && e.is_nan(), "{what}: value {i} is {g}, not {e}");
    }
}
