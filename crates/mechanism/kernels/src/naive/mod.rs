//! The obvious version of every kernel, in f64 and one thread: what the fast ones are tested
//! against. Arguments are already checked; indexing out of range panics.

mod attention;
mod elementwise;

pub(crate) use attention::{attention, store_kv};
pub(crate) use elementwise::{activate, layer_norm, rms_norm, rope};

use half::{bf16, f16};

use crate::tensor::{DType, LinearJob, Matrix, Write};

/// Value `index` of little-endian storage.
pub(crate) fn load(dtype: DType, data: &[u8], index: usize) -> f32 {
    let at = index * dtype.size_bytes();
    match dtype {
        DType::F32 => f32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]),
        DType::F16 => f16::from_le_bytes([data[at], data[at + 1]]).to_f32(),
        DType::BF16 => bf16::from_le_bytes([data[at], data[at + 1]]).to_f32(),
    }
}

/// Writes value `index`, rounded to nearest even.
pub(crate) fn store(dtype: DType, data: &mut [u8], index: usize, value: f32) {
    let at = index * dtype.size_bytes();
    match dtype {
        DType::F32 => data[at..at + 4].copy_from_slice(&value.to_le_bytes()),
        DType::F16 => data[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes()),
        DType::BF16 => data[at..at + 2].copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
    }
}

/// One job of a linear. `round_to_bf16` mirrors what AMX and AVX-512 do to activations that
/// meet bf16 weights.
pub(crate) fn linear(x: &[f32], t: usize, job: &mut LinearJob<'_>, round_to_bf16: bool) {
    let weight = job.weight.plain().expect("a plain weight");
    let (rows, cols) = (weight.rows, weight.cols);
    for token in 0..t {
        let x = &x[token * cols..][..cols];
        for n in 0..rows {
            let mut sum = dot(x, &weight, n, round_to_bf16);
            if let Some(bias) = job.bias {
                sum += f64::from(load(bias.dtype, bias.data, n));
            }
            let out = &mut job.out[token * rows + n];
            match job.mode {
                Write::Store => *out = sum as f32,
                Write::Add => *out += sum as f32,
            }
        }
    }
}

/// `x · weight[n]`.
pub(crate) fn dot(x: &[f32], weight: &Matrix<'_>, n: usize, round_to_bf16: bool) -> f64 {
    let round = round_to_bf16 && weight.dtype == DType::BF16;
    let mut sum = 0.0;
    for (k, &x) in x.iter().enumerate() {
        let x = if round { bf16::from_f32(x).to_f32() } else { x };
        let w = load(weight.dtype, weight.data, n * weight.cols + k);
        sum += f64::from(x) * f64::from(w);
    }
    sum
}
