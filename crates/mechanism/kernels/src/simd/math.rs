//! Transcendental functions over lanes, accurate to about 1e-6 of their value.

use super::Lanes;
use crate::tensor::Activation;

#[expect(clippy::excessive_precision, reason = "digits of the fit, rounded by the compiler")]
/// Coefficients of `e^r` on `|r| <= ln 2 / 2`, lowest power first (Chebyshev fit, error 2e-9).
const EXP: [f32; 7] =
    [1.0, 1.000_000_04, 0.5, 0.166_664_155_1, 0.041_666_353, 0.008_375_126, 0.001_394_110_8];

/// Coefficients in `t = 2 / (2 + z)` of `ln(erfc(z) / t) + z²` for `0 <= z <= 9` (Chebyshev fit,
/// error 4e-8), lowest power first.
const ERFC: [f32; 10] = [
    -1.265_421_8,
    0.998_116_45,
    0.390_954_56,
    0.014_477_71,
    0.059_204_82,
    -0.187_360_29,
    -0.568_806_37,
    1.062_266_3,
    -0.641_148_4,
    0.137_716_98,
];

/// Horner's rule.
#[inline(always)]
unsafe fn polynomial<L: Lanes>(coefficients: &[f32], x: L) -> L {
    // SAFETY: needs the instruction set only, which the caller has.
    unsafe {
        let mut sum = L::splat(coefficients[coefficients.len() - 1]);
        let mut i = coefficients.len() - 1;
        while i > 0 {
            i -= 1;
            sum = sum.fma(x, L::splat(coefficients[i]));
        }
        sum
    }
}

/// `e^x`. Below the smallest normal result it is exactly 0 (so softmax tails never turn denormal),
/// above `e^88` it stays at `e^88`; NaN stays NaN.
#[inline(always)]
pub(crate) unsafe fn exp<L: Lanes>(x: L) -> L {
    // SAFETY: needs the instruction set only, which the caller has.
    unsafe {
        let low = L::splat(-87.0);
        // The second operand wins when it is NaN.
        let y = L::splat(88.0).min(low.max(x));
        let n = y.mul(L::splat(std::f32::consts::LOG2_E)).round();
        let r = n.fma(L::splat(-0.693_145_75), y);
        let r = n.fma(L::splat(-1.428_606_8e-6), r);
        let value = polynomial(&EXP, r).mul(n.pow2());
        x.select_lt(low, L::splat(0.0), value)
    }
}

/// One activation of every lane.
#[inline(always)]
pub(crate) unsafe fn activate<L: Lanes>(act: Activation, x: L) -> L {
    // SAFETY: needs the instruction set only, which the caller has.
    unsafe {
        let (zero, one) = (L::splat(0.0), L::splat(1.0));
        match act {
            Activation::Relu => zero.max(x),
            Activation::Silu => x.div(one.add(exp(zero.sub(x)))),
            Activation::GeluTanh => {
                // 0.5 (1 + tanh u) = 1 / (1 + e^(-2u))
                let cubic = x.mul(x).fma(L::splat(0.044_715), one).mul(x);
                let minus_2u = cubic.mul(L::splat(-1.595_769_2));
                x.div(one.add(exp(minus_2u)))
            }
            Activation::Gelu => {
                let z = zero.sub(x).max(x).mul(L::splat(std::f32::consts::FRAC_1_SQRT_2));
                let t = L::splat(2.0).div(L::splat(2.0).add(z));
                let log = zero.sub(z).fma(z, polynomial(&ERFC, t));
                let half_erfc = L::splat(0.5).mul(t).mul(exp(log));
                // Φ(x) is erfc(-x/√2)/2: direct on the left, by symmetry on the right.
                x.mul(x.select_lt(zero, half_erfc, one.sub(half_erfc)))
            }
        }
    }
}
