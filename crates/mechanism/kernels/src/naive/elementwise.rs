//! Norms, rotation and activations.

use super::load;
use crate::tensor::{Activation, Vector};

/// The error function: its Taylor series, and the continued fraction of the complement further out.
fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x.abs() < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..80 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let z = x.abs();
    let mut fraction = z;
    for n in (1..60).rev() {
        fraction = z + f64::from(n) / 2.0 / fraction;
    }
    let complement = (-z * z).exp() / fraction / std::f64::consts::PI.sqrt();
    (1.0 - complement).copysign(x)
}

/// One value of an activation.
pub(crate) fn activate(act: Activation, x: f32) -> f32 {
    let x = f64::from(x);
    let y = match act {
        Activation::Relu if x <= 0.0 => 0.0,
        Activation::Relu => x,
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
    };
    y as f32
}

/// Root-mean-square norm of each row.
pub(crate) fn rms_norm(x: &[f32], weight: Vector<'_>, eps: f32, out: &mut [f32]) {
    let cols = weight.len();
    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
        let mean = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / cols as f64;
        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
        for (i, (x, out)) in x.iter().zip(out).enumerate() {
            let w = f64::from(load(weight.dtype, weight.data, i));
            *out = (f64::from(*x) * scale * w) as f32;
        }
    }
}

/// Layer norm of each row.
pub(crate) fn layer_norm(
    x: &[f32],
    weight: Vector<'_>,
    bias: Vector<'_>,
    eps: f32,
    out: &mut [f32],
) {
    let cols = weight.len();
    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / cols as f64;
        let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / cols as f64;
        let scale = 1.0 / (variance + f64::from(eps)).sqrt();
        for (i, (x, out)) in x.iter().zip(out).enumerate() {
            let w = f64::from(load(weight.dtype, weight.data, i));
            let b = f64::from(load(bias.dtype, bias.data, i));
            *out = ((f64::from(*x) - mean) * scale * w + b) as f32;
        }
    }
}

/// Rotates the first `2 * half` dimensions of each head: `(a, b) → (a·cos − b·sin, b·cos + a·sin)`.
pub(crate) fn rope(x: &mut [f32], heads: usize, head_dim: usize, cos: &[f32], sin: &[f32]) {
    let tokens = x.len() / (heads * head_dim);
    let half = cos.len() / tokens;
    for (row, x) in x.chunks_exact_mut(head_dim).enumerate() {
        let token = row / heads;
        for i in 0..half {
            let (c, s) = (f64::from(cos[token * half + i]), f64::from(sin[token * half + i]));
            let (a, b) = (f64::from(x[i]), f64::from(x[half + i]));
            x[i] = (a * c - b * s) as f32;
            x[half + i] = (b * c + a * s) as f32;
        }
    }
}
