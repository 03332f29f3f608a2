//! How long a step will take, learned from the steps before it.
//!
//! A step's seconds are taken as linear in what it computes, in two parts that are fitted apart:
//!
//! * its decodes: a fixed part (the weights are read once), so much per row, per draft token and
//!   per token of context that the rows attend to;
//! * its prefill, on top of that: so much per token, and per pair of a token and a token before it.
//!
//! Each part is a least-squares fit with non-negative coefficients over the recent past. Errors
//! count relative to the step's time, so that one slow step (weights that come from a disk, a
//! neighbour that takes the processor) moves nothing, and many quick ones do.

/// How much less an observation counts with each later one.
const DECODE_DECAY: f64 = 0.97;
/// Prefill's chunks change their size and their context quickly.
const PREFILL_DECAY: f64 = 0.9;
/// A step that took longer than so many times its prediction counts as one that took so long.
const OUTLIER: f64 = 2.0;
/// Passes over the coefficients for each observation.
const SWEEPS: usize = 8;

/// What a step computes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct StepWork {
    /// Sequences that decode.
    pub(crate) rows: u32,
    /// Tokens that they try in advance.
    pub(crate) drafts: u32,
    /// Tokens that they attend to.
    pub(crate) context: u64,
    /// Tokens of prompts.
    pub(crate) prefill_tokens: u32,
    /// Pairs of these and the tokens that they attend to.
    pub(crate) prefill_pairs: f64,
}

impl StepWork {
    /// Adds a row that decodes.
    pub(crate) fn add_decode(&mut self, context_len: u32, num_drafts: u32) {
        self.rows += 1;
        self.drafts += num_drafts;
        self.context += u64::from(context_len);
    }

    /// Adds `num_tokens` tokens of a prompt after its first `begin`.
    pub(crate) fn add_prefill(&mut self, begin: u32, num_tokens: u32) {
        self.prefill_tokens += num_tokens;
        self.prefill_pairs += pairs(begin, num_tokens);
    }

    fn decode_features(&self) -> [f64; 4] {
        [1.0, f64::from(self.rows), f64::from(self.drafts), self.context as f64]
    }
}

fn pairs(begin: u32, num_tokens: u32) -> f64 {
    f64::from(num_tokens) * (f64::from(begin) + f64::from(num_tokens) / 2.0)
}

/// Seconds of a step by its work.
#[derive(Debug, Clone, Default)]
pub(crate) struct CostModel {
    decode: Fit<4>,
    prefill: Fit<2>,
}

impl CostModel {
    /// Learns from a computed step.
    pub(crate) fn observe(&mut self, work: &StepWork, seconds: f64) {
        if !seconds.is_finite() || seconds <= 0.0 {
            return;
        }
        if work.prefill_tokens == 0 {
            if work.rows > 0 {
                self.decode.observe(work.decode_features(), seconds, seconds, DECODE_DECAY);
            }
            return;
        }
        let base = self.decode.predict(work.decode_features());
        let features = [f64::from(work.prefill_tokens), work.prefill_pairs];
        let excess = (seconds - base).max(0.0);
        self.prefill.observe(features, excess, seconds, PREFILL_DECAY);
    }

    /// Seconds of a step that only decodes, drafts included. `None` before the first such step.
    pub(crate) fn decode_s(&self, work: &StepWork) -> Option<f64> {
        self.decode.is_known().then(|| self.decode.predict(work.decode_features()))
    }

    /// Seconds that one more draft token takes; guessed before the first one.
    pub(crate) fn draft_s(&self) -> f64 {
        if self.decode.has_seen(2) {
            self.decode.coefficients[2]
        } else {
            self.prefill.coefficients[0]
        }
    }

    /// Seconds that a prompt's tokens after the first `begin` take. `None` before the first step
    /// with tokens of a prompt.
    pub(crate) fn prefill_s(&self, begin: u32, num_tokens: u32) -> Option<f64> {
        let features = [f64::from(num_tokens), pairs(begin, num_tokens)];
        self.prefill.is_known().then(|| self.prefill.predict(features))
    }

    /// The most tokens after the first `begin` that take at most `seconds`. `None` as above.
    pub(crate) fn prefill_tokens(&self, begin: u32, seconds: f64) -> Option<u32> {
        if !self.prefill.is_known() {
            return None;
        }
        let [token, pair] = self.prefill.coefficients;
        // pair / 2 · n² + linear · n = seconds, in the form that also solves pair = 0.
        let linear = token + pair * f64::from(begin);
        let seconds = seconds.max(0.0);
        let n = 2.0 * seconds / (linear + (linear * linear + 2.0 * pair * seconds).sqrt());
        // Saturating; 0 / 0, when tokens cost nothing, is no bound.
        Some(if n.is_nan() { u32::MAX } else { n as u32 })
    }
}

/// Non-negative least squares over observations that fade.
#[derive(Debug, Clone)]
struct Fit<const N: usize> {
    /// Sums of products of features.
    products: [[f64; N]; N],
    /// Sums of features times seconds.
    targets: [f64; N],
    coefficients: [f64; N],
    seen: [bool; N],
}

impl<const N: usize> Default for Fit<N> {
    fn default() -> Self {
        Self {
            products: [[0.0; N]; N],
            targets: [0.0; N],
            coefficients: [0.0; N],
            seen: [false; N],
        }
    }
}

impl<const N: usize> Fit<N> {
    fn is_known(&self) -> bool {
        self.seen.contains(&true)
    }

    fn has_seen(&self, feature: usize) -> bool {
        self.seen[feature]
    }

    fn predict(&self, features: [f64; N]) -> f64 {
        features.iter().zip(&self.coefficients).map(|(x, c)| x * c).sum()
    }

    /// Takes `seconds` as the sum of the features' shares; errors count relative to `scale`.
    fn observe(&mut self, features: [f64; N], seconds: f64, scale: f64, decay: f64) {
        let expected = self.predict(features);
        let known = features.iter().zip(&self.seen).all(|(&x, &seen)| x == 0.0 || seen);
        let seconds =
            if known && expected > 0.0 { seconds.min(OUTLIER * expected) } else { seconds };
        let features = features.map(|x| x / scale);
        for row in 0..N {
            for column in 0..N {
                let product = &mut self.products[row][column];
                *product = *product * decay + features[row] * features[column];
            }
            self.targets[row] = self.targets[row] * decay + features[row] * seconds / scale;
            self.seen[row] |= features[row] > 0.0;
        }
        for _ in 0..SWEEPS {
            self.sweep();
        }
    }

    /// One pass of coordinate descent from the present coefficients. What the observations leave
    /// open (rows and fixed part, as long as the batch has one size) stays as it is.
    fn sweep(&mut self) {
        for row in 0..N {
            let own = self.products[row][row];
            if own > f64::MIN_POSITIVE {
                let all: f64 = (0..N).map(|k| self.products[row][k] * self.coefficients[k]).sum();
                let others = all - own * self.coefficients[row];
                self.coefficients[row] = ((self.targets[row] - others) / own).max(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(rows: u32, drafts: u32, context: u64) -> StepWork {
        StepWork { rows, drafts, context, ..StepWork::default() }
    }

    #[test]
    fn nothing_is_known_at_first() {
        let cost = CostModel::default();
        assert_eq!(cost.decode_s(&decode(1, 0, 10)), None);
        assert_eq!(cost.prefill_s(0, 10), None);
        assert_eq!(cost.prefill_tokens(0, 1.0), None);
        assert_eq!(cost.draft_s(), 0.0);
    }

    #[test]
    fn one_slow_step_moves_little() {
        let mut cost = CostModel::default();
        let work = decode(4, 0, 400);
        // The very first step reads the weights from a disk.
        cost.observe(&work, 3.0);
        for _ in 0..20 {
            cost.observe(&work, 0.05);
        }
        let usual = cost.decode_s(&work).unwrap();
        assert!((usual - 0.05).abs() < 0.001, "{usual}");
        cost.observe(&work, 2.0);
        assert!(cost.decode_s(&work).unwrap() < 1.1 * usual);
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            cost.observe(&work, bad);
        }
        assert!(cost.decode_s(&work).unwrap() < 1.1 * usual);
    }

    #[test]
    fn a_draft_is_taken_for_a_token_of_a_prompt_until_one_was_seen() {
        let mut cost = CostModel::default();
        cost.observe(&StepWork { prefill_tokens: 100, ..StepWork::default() }, 0.2);
        assert!((cost.draft_s() - 0.002).abs() < 1e-9);
        for drafts in [0, 3, 0, 2, 0, 1, 0, 4] {
            cost.observe(&decode(1, drafts, 50), 0.05 + 0.004 * f64::from(drafts));
        }
        assert!((cost.draft_s() - 0.004).abs() < 0.0005, "{}", cost.draft_s());
    }

    proptest! {
        #[test]
        fn a_linear_machine_is_learned(
            fixed in 0.001..0.1f64,
            row in 0.0..0.005f64,
            token in 1e-5..0.005f64,
            pair in 0.0..1e-6f64,
            sizes in prop::collection::vec((1..32u32, 0..4000u32, 1..64u32), 60..80),
        ) {
            let mut cost = CostModel::default();
            let base = |rows: u32| fixed + row * f64::from(rows);
            for &(rows, begin, num_tokens) in &sizes {
                let mut work = decode(rows, 0, 100);
                cost.observe(&work, base(rows));
                work.add_prefill(begin, num_tokens);
                let excess = token * f64::from(num_tokens) + pair * work.prefill_pairs;
                cost.observe(&work, base(rows) + excess);
            }
            let &(rows, begin, num_tokens) = sizes.last().unwrap();
            let decode_s = cost.decode_s(&decode(rows, 0, 100)).unwrap();
            prop_assert!((decode_s / base(rows) - 1.0).abs() < 0.1, "{decode_s} {}", base(rows));
            let exact = token * f64::from(num_tokens) + pair * pairs(begin, num_tokens);
            let seconds = cost.prefill_s(begin, num_tokens).unwrap();
            prop_assert!((seconds - exact).abs() < 0.15 * (exact + base(rows)), "{seconds} {exact}");
        }

        #[test]
        fn as_many_tokens_as_fit(
            token in 1e-6..0.01f64, pair in 0.0..1e-5f64, begin in 0..100_000u32, seconds in 0.0..2.0f64,
        ) {
            let mut cost = CostModel::default();
            cost.prefill.coefficients = [token, pair];
            cost.prefill.seen = [true, true];
            let most = cost.prefill_tokens(begin, seconds).unwrap();
            prop_assert!(cost.prefill_s(begin, most).unwrap() <= seconds * (1.0 + 1e-9));
            prop_assert!(cost.prefill_s(begin, most + 2).unwrap() > seconds);
        }
    }
}
