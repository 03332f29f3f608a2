//! A sequence's sampler.

use crate::constraint::{Bans, Constraint, ConstraintError, mask};
use crate::filter::{Candidates, Filter};
use crate::history::History;
use crate::logprobs::TokenLogprobs;
use crate::philox::random_u64;
use crate::scan::{BadRow, argmax};
use tyndall_types::SamplingParams;

/// Below this temperature sampling is greedy.
const GREEDY_TEMPERATURE: f32 = 1e-5;

/// Why no token could be sampled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// The model's logits hold a NaN or an infinity.
    #[error("the model's logits are not finite: its weights or its number format are broken")]
    NotFinite,
    /// Masks and biases leave no token.
    #[error(
        "no token is possible: relax allowed_token_ids, bad_words, logit_bias, min_tokens or the \
         structure of the output"
    )]
    NoToken,
    /// Which tokens are possible cannot be decided.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
}

impl From<BadRow> for SampleError {
    fn from(bad: BadRow) -> Self {
        match bad {
            BadRow::NotFinite => Self::NotFinite,
            BadRow::Empty => Self::NoToken,
        }
    }
}

/// A sampled token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub token: u32,
    /// Present when the parameters ask for it.
    pub logprobs: Option<TokenLogprobs>,
}

/// Buffers that all samplers of a thread share; they grow to the size of a row once.
#[derive(Debug, Default)]
pub struct Scratch {
    row: Vec<f32>,
    candidates: Candidates,
}

/// What a sampler has beside the parameters that come with a request.
#[derive(Debug, Default)]
pub struct SamplerOptions {
    /// In place of `params.seed`.
    pub seed: u64,
    /// All tokens that would end the output: those of the model unless they are ignored, and those
    /// of the request.
    pub end_tokens: Vec<u32>,
    /// The tokens of each of `params.bad_words`, in every way that they can be written.
    pub bad_words: Vec<Vec<u32>>,
    /// Which tokens are possible.
    pub constraint: Option<Box<dyn Constraint>>,
}

/// One sequence's parameters and what they need to know of its tokens.
#[derive(Debug)]
pub struct Sampler {
    seed: u64,
    /// `None` is greedy.
    filter: Option<Filter>,
    history: Option<History>,
    logit_bias: Vec<(u32, f32)>,
    /// Impossible while fewer than `min_tokens` tokens are output.
    end_tokens: Vec<u32>,
    min_tokens: u32,
    num_output: u32,
    num_logprobs: Option<u32>,
    logprob_token_ids: Vec<u32>,
    bans: Bans,
    constraint: Option<Box<dyn Constraint>>,
}

impl Sampler {
    /// For the output that follows `prompt`.
    #[must_use]
    pub fn new(params: &SamplingParams, options: SamplerOptions, prompt: &[u32]) -> Self {
        let filter = (params.temperature >= GREEDY_TEMPERATURE).then_some(Filter {
            temperature: params.temperature,
            min_p: params.min_p,
            top_k: params.top_k,
            top_p: params.top_p,
        });
        Self {
            seed: options.seed,
            filter,
            history: History::new(params, prompt),
            logit_bias: params.logit_bias.clone(),
            end_tokens: options.end_tokens,
            min_tokens: params.min_tokens,
            num_output: 0,
            num_logprobs: params.logprobs,
            logprob_token_ids: params.logprob_token_ids.clone(),
            bans: Bans::new(params, options.bad_words),
            constraint: options.constraint,
        }
    }

    /// Output tokens so far.
    #[must_use]
    pub fn num_output(&self) -> u32 {
        self.num_output
    }

    /// Samples the token at `position` of the sequence (its index, the prompt's tokens included)
    /// from raw `logits` `[V]`, and counts it.
    ///
    /// # Errors
    /// [`SampleError`]; the sampler is then unchanged.
    pub fn sample(
        &mut self,
        logits: &[f32],
        position: u64,
        scratch: &mut Scratch,
    ) -> Result<Sampled, SampleError> {
        let raw_best = argmax(logits)?;
        let token = if self.changes_logits() {
            let mut row = std::mem::take(&mut scratch.row);
            let picked = self.process(logits, &mut row).map(|best| {
                // The most likely token of the changed row.
                self.pick(&row, best, position, scratch)
            });
            scratch.row = row;
            picked?
        } else {
            self.pick(logits, raw_best, position, scratch)
        };
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token)?;
        }
        let logprobs = self.num_logprobs.map(|top| {
            let ids = &self.logprob_token_ids;
            match ids.is_empty() {
                true => TokenLogprobs::new(logits, raw_best.1, token, top as usize),
                false => TokenLogprobs::of_ids(logits, raw_best.1, token, ids),
            }
        });
        self.num_output += 1;
        self.bans.push(token);
        if let Some(history) = &mut self.history {
            history.push(token);
        }
        Ok(Sampled { token, logprobs })
    }

    fn ends_are_masked(&self) -> bool {
        self.num_output < self.min_tokens && !self.end_tokens.is_empty()
    }

    fn changes_logits(&self) -> bool {
        self.ends_are_masked()
            || !self.logit_bias.is_empty()
            || self.history.is_some()
            || self.constraint.is_some()
            || !self.bans.is_empty()
    }

    /// Makes `row` of `logits`, in vLLM's order, and finds the largest of it.
    fn process(&mut self, logits: &[f32], row: &mut Vec<f32>) -> Result<(usize, f32), SampleError> {
        row.clear();
        row.extend_from_slice(logits);
        if let Some(constraint) = &mut self.constraint
            && let Some(allowed) = constraint.allowed()?
        {
            mask(row, allowed);
        }
        self.bans.apply(row);
        let kept = if self.ends_are_masked() { self.mask_ends(row) } else { Vec::new() };
        for &(token, bias) in &self.logit_bias {
            if let Some(logit) = row.get_mut(token as usize) {
                *logit += bias;
            }
        }
        if let Some(history) = &self.history {
            history.penalise(row);
        }
        match argmax(row) {
            // A structure that is complete leaves its end only, which is possible then.
            Err(BadRow::Empty) if self.constraint.is_some() && !kept.is_empty() => {
                kept.iter().for_each(|&(token, logit)| row[token as usize] = logit);
                Ok(argmax(row)?)
            }
            found => Ok(found?),
        }
    }

    /// Makes the end tokens impossible; returns those that were possible.
    fn mask_ends(&self, row: &mut [f32]) -> Vec<(u32, f32)> {
        let mut kept = Vec::new();
        for &token in &self.end_tokens {
            if let Some(logit) = row.get_mut(token as usize) {
                if logit.is_finite() {
                    kept.push((token, *logit));
                }
                *logit = f32::NEG_INFINITY;
            }
        }
        kept
    }

    fn pick(
        &self,
        row: &[f32],
        (best, max): (usize, f32),
        position: u64,
        scratch: &mut Scratch,
    ) -> u32 {
        match &self.filter {
            None => best as u32,
            Some(filter) => {
                let random = random_u64(self.seed, position);
                filter.draw(row, max, random, &mut scratch.candidates)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GREEDY: f32 = 0.0;

    fn params(temperature: f32) -> SamplingParams {
        SamplingParams { temperature, ..SamplingParams::default() }
    }

    fn sampler(params: &SamplingParams, ends: &[u32], prompt: &[u32]) -> Sampler {
        let options =
            SamplerOptions { seed: 1, end_tokens: ends.to_vec(), ..SamplerOptions::default() };
        Sampler::new(params, options, prompt)
    }

    fn seeded(params: &SamplingParams, seed: u64) -> Sampler {
        Sampler::new(params, SamplerOptions { seed, ..SamplerOptions::default() }, &[])
    }

    fn first(params: &SamplingParams, ends: &[u32], logits: &[f32]) -> Result<u32, SampleError> {
        let mut sampler = sampler(params, ends, &[]);
        sampler.sample(logits, 0, &mut Scratch::default()).map(|sampled| sampled.token)
    }

    #[test]
    fn greedy_takes_the_lowest_of_the_best() {
        let logits = [1.0, 4.0, 4.0, 2.0];
        for temperature in [0.0, 9e-6] {
            assert_eq!(first(&params(temperature), &[], &logits), Ok(1));
        }
    }

    #[test]
    fn unusable_logits_are_errors() {
        let sampled = params(1.0);
        for bad in [f32::NAN, f32::INFINITY] {
            let check = |params| first(params, &[], &[0.0, bad, 1.0]);
            assert_eq!(check(&sampled), Err(SampleError::NotFinite));
            assert_eq!(check(&params(GREEDY)), Err(SampleError::NotFinite));
        }
        assert_eq!(first(&sampled, &[], &[f32::NEG_INFINITY; 3]), Err(SampleError::NoToken));
        assert_eq!(first(&sampled, &[], &[]), Err(SampleError::NoToken));
        let masked = SamplingParams { min_tokens: 1, ..sampled };
        assert_eq!(first(&masked, &[0, 1], &[0.0, 0.0]), Err(SampleError::NoToken));
    }

    #[test]
    fn ends_are_impossible_before_min_tokens() {
        let params = SamplingParams { min_tokens: 2, ..params(GREEDY) };
        let mut sampler = sampler(&params, &[2, 77], &[]);
        let logits = [0.0, 1.0, 5.0, 2.0];
        let tokens: Vec<u32> = (0..4)
            .map(|i| sampler.sample(&logits, i, &mut Scratch::default()).unwrap().token)
            .collect();
        assert_eq!(tokens, [3, 3, 2, 2]);
    }

    #[test]
    fn a_bias_comes_before_penalties_and_after_the_mask() {
        let biased = |bias: Vec<(u32, f32)>| SamplingParams { logit_bias: bias, ..params(GREEDY) };
        let logits = [0.0, 1.0, 5.0, 2.0];
        assert_eq!(first(&biased(vec![(0, 5.5)]), &[], &logits), Ok(0));
        assert_eq!(first(&biased(vec![(2, -100.0), (9, 100.0)]), &[], &logits), Ok(3));
        let masked = SamplingParams { min_tokens: 1, ..biased(vec![(2, 100.0)]) };
        assert_eq!(first(&masked, &[2], &logits), Ok(3));
        // A logit that the bias made positive is divided by the repetition penalty.
        let both = SamplingParams { repetition_penalty: 2.0, ..biased(vec![(0, 8.0), (2, -1.5)]) };
        let mut sampler = sampler(&both, &[], &[0]);
        let sampled = sampler.sample(&[-1.0, 0.0, 5.5], 0, &mut Scratch::default()).unwrap();
        assert_eq!(sampled.token, 2);
    }

    /// Allows the tokens of each step, then only 0.
    #[derive(Debug)]
    struct Steps(Vec<u32>, [u32; 1]);

    impl Constraint for Steps {
        fn allowed(&mut self) -> Result<Option<&[u32]>, ConstraintError> {
            self.1 = [self.0.first().copied().unwrap_or(1)];
            Ok((self.1[0] != u32::MAX).then_some(&self.1))
        }

        fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
            if self.0.is_empty() {
                let reason = format!("{token} after the end");
                return Err(ConstraintError { reason });
            }
            self.0.remove(0);
            Ok(())
        }
    }

    #[test]
    fn a_constraint_decides_what_is_possible() {
        let params = SamplingParams { min_tokens: 9, logprobs: Some(1), ..params(GREEDY) };
        let options = SamplerOptions {
            end_tokens: vec![0],
            constraint: Some(Box::new(Steps(vec![u32::MAX, 0b1010, 0b0001], [0]))),
            ..SamplerOptions::default()
        };
        let mut sampler = Sampler::new(&params, options, &[]);
        let mut next = || sampler.sample(&[0.0, 1.0, 5.0, 2.0], 0, &mut Scratch::default());
        assert_eq!(next().unwrap().token, 2);
        let sampled = next().unwrap();
        // The log-probabilities are those without the constraint.
        assert_eq!((sampled.token, sampled.logprobs.unwrap().top[0].0), (3, 2));
        // Only the end is left: it goes before min_tokens.
        assert_eq!(next().unwrap().token, 0);
        let error = next().unwrap_err().to_string();
        assert!(error.ends_with("0 after the end"), "{error}");
    }

    #[test]
    fn allowed_tokens_and_chosen_logprobs() {
        let params = SamplingParams {
            allowed_token_ids: Some(vec![1, 3]),
            logprobs: Some(0),
            logprob_token_ids: vec![0, 9],
            ..params(GREEDY)
        };
        let sampled =
            sampler(&params, &[], &[]).sample(&[0.0, 1.0, 5.0, 2.0], 0, &mut Scratch::default());
        let sampled = sampled.unwrap();
        assert_eq!(sampled.token, 3);
        let top: Vec<u32> = sampled.logprobs.unwrap().top.iter().map(|(id, _)| *id).collect();
        assert_eq!(top, [0]);
    }

    #[test]
    fn penalties_follow_the_output() {
        let params = SamplingParams { frequency_penalty: 1.0, ..params(GREEDY) };
        let mut sampler = sampler(&params, &[], &[0, 0, 0]);
        let tokens: Vec<u32> = (0..5)
            .map(|i| sampler.sample(&[2.0, 0.5], i, &mut Scratch::default()).unwrap().token)
            .collect();
        assert_eq!(tokens, [0, 0, 1, 0, 1]);
    }

    #[test]
    fn logprobs_are_those_of_the_raw_logits() {
        let params =
            SamplingParams { logprobs: Some(1), logit_bias: vec![(0, 100.0)], ..params(0.5) };
        let logits = [0.25_f32.ln(), 0.75_f32.ln()];
        let mut sampler = sampler(&params, &[], &[]);
        let sampled = sampler.sample(&logits, 0, &mut Scratch::default()).unwrap();
        let logprobs = sampled.logprobs.unwrap();
        assert_eq!((sampled.token, logprobs.rank, logprobs.top[0].0), (0, 2, 1));
        assert!((logprobs.logprob - 0.25_f32.ln()).abs() < 1e-6);
        assert!((logprobs.top[0].1 - 0.75_f32.ln()).abs() < 1e-6);
    }

    /// Pearson's statistic of `draws` draws against the expected probabilities.
    fn chi_square(params: &SamplingParams, logits: &[f32], expected: &[f64]) -> f64 {
        const DRAWS: u64 = 40_000;
        let mut counts = vec![0_u32; logits.len()];
        let mut scratch = Scratch::default();
        let mut sampler = seeded(params, 7);
        for position in 0..DRAWS {
            let sampled = sampler.sample(logits, position, &mut scratch).unwrap();
            counts[sampled.token as usize] += 1;
        }
        let mut statistic = 0.0;
        for (&count, &p) in counts.iter().zip(expected) {
            let mean = p * DRAWS as f64;
            if p == 0.0 {
                assert_eq!(count, 0);
            } else {
                statistic += (f64::from(count) - mean).powi(2) / mean;
            }
        }
        statistic
    }

    #[test]
    fn draws_follow_the_distribution() {
        let p = [0.05_f32, 0.3, 0.15, 0.4, 0.1];
        let logits = p.map(f32::ln);
        // 18.5 is the 99.9 % point for four degrees of freedom; the seed is fixed.
        let check = |params: SamplingParams, expected: [f64; 5]| {
            let sum: f64 = expected.iter().sum();
            let statistic = chi_square(&params, &logits, &expected.map(|p| p / sum));
            assert!(statistic < 18.5, "{statistic} {params:?}");
        };
        let exact = p.map(f64::from);
        check(params(1.0), exact);
        check(params(0.5), exact.map(|p| p * p));
        check(params(2.0), exact.map(f64::sqrt));
        check(SamplingParams { top_k: 2, ..params(1.0) }, [0.0, 0.3, 0.0, 0.4, 0.0]);
        check(SamplingParams { top_p: 0.8, ..params(1.0) }, [0.0, 0.3, 0.15, 0.4, 0.0]);
        check(SamplingParams { min_p: 0.2, ..params(1.0) }, [0.0, 0.3, 0.15, 0.4, 0.1]);
        let combined = SamplingParams { min_p: 0.2, top_k: 3, top_p: 0.8, ..params(1.0) };
        check(combined, [0.0, 0.3, 0.0, 0.4, 0.0]);
    }

    #[test]
    fn seeds_are_independent_streams() {
        let logits = [0.0; 8];
        let mut scratch = Scratch::default();
        let mut pairs = std::collections::HashMap::new();
        for seed in 0..4000_u64 {
            let mut sampler = seeded(&params(1.0), seed);
            let first = sampler.sample(&logits, 0, &mut scratch).unwrap().token;
            let second = sampler.sample(&logits, 1, &mut scratch).unwrap().token;
            *pairs.entry((first, second)).or_insert(0_u32) += 1;
        }
        let mean = 4000.0 / 64.0;
        let statistic: f64 = pairs.values().map(|&n| (f64::from(n) - mean).powi(2) / mean).sum();
        assert_eq!(pairs.len(), 64);
        // The 99.9 % point for 63 degrees of freedom.
        assert!(statistic < 103.4, "{statistic}");
    }

    proptest! {
        #[test]
        fn a_token_depends_on_seed_and_position_only(
            seed in any::<u64>(),
            position in 0..1u64 << 40,
            others in prop::collection::vec(0..100u64, 0..5),
        ) {
            let logits: Vec<f32> = (0..50).map(|i| (i as f32).sin()).collect();
            let mut scratch = Scratch::default();
            let fresh = seeded(&params(1.0), seed)
                .sample(&logits, position, &mut Scratch::default());
            let mut used = seeded(&params(1.0), seed);
            for other in others {
                used.sample(&logits[..9], other, &mut scratch).unwrap();
            }
            prop_assert_eq!(used.sample(&logits, position, &mut scratch), fresh);
        }
    }
}
