//! What two rows of logits say of one position, and tokens drawn from one. Logits are f32, all that
//! is made of them f64; exponents are taken below the largest logit, so that none overflows.

/// One position under two models.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Position {
    /// KL(base ‖ other) of the next token, in nats.
    pub(crate) kl: f64,
    /// Both find the same token most probable.
    pub(crate) agrees: bool,
    /// `-ln p` of the token that does come next, in the base and in the other.
    pub(crate) surprise: [f64; 2],
}

/// Compares two rows over the same vocabulary; none if they say nothing finite of it.
pub(crate) fn compare(base: &[f32], other: &[f32], next: u32) -> Option<Position> {
    let log_sums = [log_sum_exp(base), log_sum_exp(other)];
    let kl: f64 = base
        .iter()
        .zip(other)
        .map(|(&b, &o)| {
            let ln_p = f64::from(b) - log_sums[0];
            let p = ln_p.exp();
            // What never happens costs nothing, even where its logit is minus infinity in both.
            if p == 0.0 { 0.0 } else { p * (ln_p - (f64::from(o) - log_sums[1])) }
        })
        .sum();
    let next = next as usize;
    let (b, o) = (f64::from(*base.get(next)?), f64::from(*other.get(next)?));
    let surprise = [log_sums[0] - b, log_sums[1] - o];
    let is_finite =
        base.len() == other.len() && kl.is_finite() && surprise.iter().all(|nats| nats.is_finite());
    // Rounding may go below zero, where the sum cannot.
    is_finite.then(|| Position {
        kl: kl.max(0.0),
        agrees: first_max(base) == first_max(other),
        surprise,
    })
}

/// Draws a token at temperature 1 with a number from `[0, 1)`; none if no logit is finite.
pub(crate) fn draw(logits: &[f32], unit: f64) -> Option<u32> {
    let total = log_sum_exp(logits);
    let mut left = unit;
    let mut drawn = None;
    for (token, &logit) in logits.iter().enumerate() {
        let p = (f64::from(logit) - total).exp();
        if p > 0.0 {
            drawn = Some(token as u32);
            left -= p;
        }
        if left < 0.0 {
            break;
        }
    }
    drawn
}

/// The logarithm of the sum of all exponentials.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    most + logits.iter().map(|&logit| (f64::from(logit) - most).exp()).sum::<f64>().ln()
}

/// Where the largest value is, the first of equal ones.
fn first_max(logits: &[f32]) -> Option<usize> {
    let larger = |best: Option<(usize, f32)>, (at, &logit): (usize, &f32)| match best {
        Some((_, most)) if most >= logit => best,
        _ => Some((at, logit)),
    };
    logits.iter().enumerate().fold(None, larger).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn logits(probabilities: &[f64]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() as f32).collect()
    }

    #[test]
    fn known_values() {
        // 0.5 ln(0.5 / 0.25) + 0.25 ln 1 + 0.25 ln(0.25 / 0.5) = 0.25 ln 2.
        let (p, q) = (logits(&[0.5, 0.25, 0.25]), logits(&[0.25, 0.25, 0.5]));
        let found = compare(&p, &q, 2).unwrap();
        assert!((found.kl - 0.25 * 2f64.ln()).abs() < 1e-7, "{found:?}");
        assert!((found.surprise[0] - 4f64.ln()).abs() < 1e-7, "{found:?}");
        assert!((found.surprise[1] - 2f64.ln()).abs() < 1e-7, "{found:?}");
        assert!(!found.agrees);
        // It is no distance: 0.9 ln(0.9 / 0.5) + 0.1 ln(0.1 / 0.5), and 0.5 ln(0.25 / 0.09) back.
        let (p, q) = (logits(&[0.9, 0.1]), logits(&[0.5, 0.5]));
        assert!((compare(&p, &q, 0).unwrap().kl - 0.368_064_27).abs() < 1e-6);
        assert!((compare(&q, &p, 0).unwrap().kl - 0.510_825_62).abs() < 1e-6);
    }

    #[test]
    fn equal_logits_have_no_divergence() {
        for row in [&[1.5f32, -2.0, 0.25][..], &[3e38, -3e38, 0.0], &[f32::NEG_INFINITY, 1.0]] {
            let found = compare(row, row, row.len() as u32 - 1);
            let Some(found) = found else { panic!("{row:?}") };
            assert!(found.kl == 0.0 && found.agrees, "{row:?}: {found:?}");
        }
        // A shift of all logits is the same distribution.
        let found = compare(&[1.0, 2.0, 4.0], &[101.0, 102.0, 104.0], 0).unwrap();
        assert!(found.kl < 1e-12, "{found:?}");
    }

    #[test]
    fn what_is_not_finite_is_no_figure() {
        for (base, other, next) in [
            (&[f32::NAN, 0.0][..], &[0.0, 0.0][..], 0),
            (&[0.0, 0.0], &[f32::NEG_INFINITY, 0.0], 1),
            (&[0.0, f32::INFINITY], &[0.0, 0.0], 0),
            (&[0.0, 0.0], &[0.0, 0.0], 2),
            (&[0.0, 0.0, 0.0], &[0.0, 0.0], 0),
            (&[], &[], 0),
        ] {
            assert_eq!(compare(base, other, next), None, "{base:?} {other:?}");
        }
    }

    #[test]
    fn tokens_are_drawn_by_their_probability() {
        let row = logits(&[0.5, 0.25, 0.25]);
        for (unit, token) in [(0.0, 0), (0.49, 0), (0.51, 1), (0.74, 1), (0.76, 2), (1.0, 2)] {
            assert_eq!(draw(&row, unit), Some(token), "{unit}");
        }
        assert_eq!(draw(&[f32::NEG_INFINITY, 0.0], 0.0), Some(1));
        assert_eq!(draw(&[f32::NAN, 0.0], 0.5), None);
        assert_eq!(draw(&[], 0.5), None);
    }

    proptest! {
        #[test]
        fn it_is_never_negative(rows in prop::collection::vec((-80f32..80.0, -80f32..80.0), 1..50)) {
            let (base, other): (Vec<f32>, Vec<f32>) = rows.into_iter().unzip();
            let found = compare(&base, &other, 0).unwrap();
            prop_assert!(found.kl >= 0.0 && found.surprise.iter().all(|nats| *nats >= -1e-9));
        }
    }
}
