//! The exponential function: the same bits on every machine, in a form that compilers vectorise.

/// `exp(x)` for `x <= 0`, to about 1e-7 relative; 0 below -87.
///
/// Cody and Waite's reduction `x = n ln 2 + r`, a polynomial for `exp(r)`, and `2^n` put together
/// from bits. Nothing here depends on the platform's mathematics library.
#[inline]
pub(crate) fn exp_nonpositive(x: f32) -> f32 {
    /// Adding it rounds a small float to an integer in its low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > -87.0 { x } else { -87.0 };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    // Minimax coefficients of the Cephes library's expf.
    let mut p = 1.987_569_1e-4_f32;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5e-1;
    let exp_r = (p * r) * r + r + 1.0;
    // The same integer, taken from the low bits: a cast would check its range.
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    let scale = f32::from_bits(exponent << 23);
    if x > -87.0 { exp_r * scale } else { 0.0 }
}

/// `sum(exp(x - max))` over a row whose largest value is `max`, which is finite.
pub(crate) fn sum_exp(row: &[f32], max: f32) -> f64 {
    const LANES: usize = 16;
    let mut sum = 0.0_f64;
    // Short runs in f32, so that rounding cannot pile up; their sums in f64.
    for block in row.chunks(64 * LANES) {
        let mut lanes = [0.0_f32; LANES];
        let (chunks, rest) = block.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane += exp_nonpositive(x - max);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane += exp_nonpositive(x - max);
        }
        sum += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_close_to_the_true_one() {
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert_eq!(exp_nonpositive(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_nonpositive(-100.0), 0.0);
        let mut worst = 0.0_f64;
        for step in 0..870_000 {
            let x = -(step as f32) * 1e-4;
            let expected = f64::from(x).exp();
            worst = worst.max((f64::from(exp_nonpositive(x)) - expected).abs() / expected);
        }
        assert!(worst < 3e-7, "{worst}");
    }

    #[test]
    fn sums_of_exponentials_are_exact_to_a_millionth() {
        for len in [1, 15, 16, 17, 1024, 1025, 50_000] {
            let row: Vec<f32> = (0..len).map(|i| ((i * 37) % 101) as f32 * -0.1).collect();
            let expected: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            assert!((sum_exp(&row, 0.0) / expected - 1.0).abs() < 1e-6, "{len}");
        }
    }
}
