//! Log-probabilities of the raw logits.

use crate::SampleError;
use crate::math::sum_exp;
use crate::scan::{argmax, top_k};

/// A token's log-probability and its most likely alternatives, from the logits before any
/// processing.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Of the token itself.
    pub logprob: f32,
    /// 1 for the most likely token.
    pub rank: u32,
    /// The most likely tokens with their log-probabilities, best first; as many as asked for.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprobs {
    /// Of `token`, with the `num_top` most likely ones. `max` is the largest of `logits`, finite.
    pub(crate) fn new(logits: &[f32], max: f32, token: u32, num_top: usize) -> Self {
        Self::with(logits, max, token, top_k(logits, num_top))
    }

    /// The same with these tokens in place of the most likely ones; unknown ones are left out.
    pub(crate) fn of_ids(logits: &[f32], max: f32, token: u32, ids: &[u32]) -> Self {
        let known = ids.iter().filter_map(|&id| Some((id, *logits.get(id as usize)?)));
        Self::with(logits, max, token, known.collect())
    }

    /// Of a token that is already there, from the logits of the token before it.
    ///
    /// # Errors
    /// The logits are not finite, or there is no such token.
    pub fn of_prompt(logits: &[f32], token: u32, num_top: usize) -> Result<Self, SampleError> {
        let (_, max) = argmax(logits)?;
        match logits.get(token as usize) {
            Some(_) => Ok(Self::new(logits, max, token, num_top)),
            None => Err(SampleError::NoToken),
        }
    }

    fn with(logits: &[f32], max: f32, token: u32, top: Vec<(u32, f32)>) -> Self {
        let log_sum = f64::from(max) + sum_exp(logits, max).ln();
        let logprob = |logit: f32| (f64::from(logit) - log_sum) as f32;
        let own = logits[token as usize];
        let (before, after) = logits.split_at(token as usize);
        let better = before.iter().fold(0_u32, |n, &x| n + u32::from(x >= own));
        let better = after.iter().fold(better, |n, &x| n + u32::from(x > own));
        let top = top.into_iter().map(|(id, x)| (id, logprob(x))).collect();
        Self { logprob: logprob(own), rank: better + 1, top }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn logprobs_of_known_probabilities() {
        let logits = [0.1_f32.ln(), 0.6_f32.ln(), 0.3_f32.ln(), f32::NEG_INFINITY];
        let found = TokenLogprobs::new(&logits, logits[1], 2, 2);
        assert!((found.logprob - 0.3_f32.ln()).abs() < 1e-6);
        assert_eq!((found.rank, found.top[0].0, found.top[1].0), (2, 1, 2));
        let found = TokenLogprobs::new(&logits, logits[1], 1, 9);
        assert_eq!((found.rank, found.top.len()), (1, 4));
        assert_eq!(found.top[3], (3, f32::NEG_INFINITY));
    }

    proptest! {
        #[test]
        fn the_top_and_the_ranks_are_those_of_a_full_sort(
            row in prop::collection::vec(-9..9i32, 1..300),
            k in 0..90usize,
        ) {
            let row: Vec<f32> = row.iter().map(|&x| x as f32 * 0.25).collect();
            let mut sorted: Vec<u32> = (0..row.len() as u32).collect();
            sorted.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
            let max = row[sorted[0] as usize];
            for (place, &token) in sorted.iter().enumerate() {
                let found = TokenLogprobs::new(&row, max, token, k);
                prop_assert_eq!(found.rank as usize, place + 1);
                let ids: Vec<u32> = found.top.iter().map(|&(id, _)| id).collect();
                prop_assert_eq!(&ids[..], &sorted[..k.min(row.len())]);
            }
        }
    }
}
