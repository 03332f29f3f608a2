//! Prompt-lookup speculation: how many tokens to try in advance, if any.
//!
//! A draft is what followed the sequence's last tokens where they occurred before. It is computed
//! beside the sequence's last token in the same step, and accepted as far as the sampler then picks
//! the very same tokens: the output is that without speculation, bit by bit, and only the number
//! of steps changes.
//!
//! A draft token costs its share of the step's time and gives a token with some probability. It
//! pays if that is a better rate than the batch makes without it; the cost model knows the one, the
//! sequence's own record the other. Where it does not pay it is not tried, but for a probe now and
//! then that grows rarer the longer it fails.

use crate::cost::{CostModel, StepWork};
use crate::lookup::{LookupIndex, continuation};

/// Most draft tokens of a sequence in a step.
const MAX_DRAFTS: u32 = 8;
/// Most draft tokens of a step: each has a row of logits, for which memory is planned.
pub const MAX_STEP_DRAFTS: u32 = 32;
/// Drafts may take so much of the time of the step's decodes: others wait for them too.
const MAX_SHARE: f64 = 0.5;
/// A draft must be expected to give so much more than it takes.
const MARGIN: f64 = 1.25;
/// Matches of so many tokens are judged apart from shorter ones: they are right more often.
const LONG_MATCH: usize = 4;
/// What is assumed of short and long matches, as if seen [`PRIOR_WEIGHT`] times.
const PRIOR: [f64; 2] = [0.3, 0.7];
const PRIOR_WEIGHT: f64 = 2.0;
/// How much less a verified token counts with each later one.
const DECAY: f64 = 0.9;
/// Steps with a match between probes, at first and at most.
const PROBE_EVERY: u32 = 8;
const PROBE_EVERY_MAX: u32 = 256;

/// What speculation may cost in the step that is being scheduled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DraftBudget {
    /// Draft tokens.
    left: u32,
    /// Least probability with which a draft token must be right.
    least: f64,
}

impl DraftBudget {
    pub(crate) const NONE: Self = Self { left: 0, least: f64::INFINITY };
    pub(crate) const UNBOUNDED: Self = Self { left: MAX_STEP_DRAFTS, least: 0.0 };

    /// For a step that decodes `decodes`.
    pub(crate) fn beside(decodes: &StepWork, cost: &CostModel) -> Self {
        let Some(step_s) = cost.decode_s(decodes).filter(|_| decodes.rows > 0) else {
            return Self::NONE;
        };
        let draft_s = cost.draft_s();
        let affordable = (MAX_SHARE * step_s / draft_s).min(f64::from(MAX_STEP_DRAFTS));
        // A draft's seconds times the tokens per second that the batch makes without drafts.
        let least = MARGIN * draft_s * f64::from(decodes.rows) / step_s;
        Self { left: affordable as u32, least }
    }

    pub(crate) fn left(&self) -> u32 {
        self.left
    }

    pub(crate) fn spend(&mut self, num_drafts: u32) {
        self.left -= num_drafts;
    }
}

/// A sequence's drafts and how they fared.
#[derive(Debug, Default)]
pub(crate) struct Speculator {
    index: LookupIndex,
    /// Of matches that are short, and long.
    records: [Record; 2],
    /// Which of them the present draft is.
    current: usize,
}

/// Verified draft tokens; older ones count less.
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    tried: f64,
    accepted: f64,
    /// Steps with a match until the next probe, and from that to the one after it.
    until_probe: u32,
    probe_every: u32,
}

impl Speculator {
    /// Tokens to try after `tokens`, at most `most`.
    pub(crate) fn draft(&mut self, tokens: &[u32], most: u32, budget: &DraftBudget) -> Vec<u32> {
        let most = most.min(budget.left).min(MAX_DRAFTS);
        // Without any hope the index is not even kept.
        if most == 0 || budget.least >= 1.0 {
            return Vec::new();
        }
        let Some(found) = self.index.find(tokens) else { return Vec::new() };
        self.current = usize::from(found.len >= LONG_MATCH);
        let prior = PRIOR[self.current];
        let count = self.records[self.current].num_drafts(prior, most, budget.least);
        continuation(tokens, found.next, count as usize)
    }

    /// Takes note of a draft token that was sampled, or of the first one that was not.
    pub(crate) fn verified(&mut self, accepted: bool) {
        let record = &mut self.records[self.current];
        record.tried = record.tried * DECAY + 1.0;
        record.accepted = record.accepted * DECAY + f64::from(u8::from(accepted));
        if accepted {
            (record.until_probe, record.probe_every) = (0, PROBE_EVERY);
        }
    }
}

impl Record {
    /// The last draft token that is still right with at least the probability `least`.
    fn num_drafts(&mut self, prior: f64, most: u32, least: f64) -> u32 {
        let right = (self.accepted + PRIOR_WEIGHT * prior) / (self.tried + PRIOR_WEIGHT);
        let paying = (1..=most).take_while(|&n| right.powi(n.cast_signed()) >= least).count();
        let paying = u32::try_from(paying).expect("at most `most`");
        if paying > 0 {
            return paying;
        }
        if self.until_probe > 0 {
            self.until_probe -= 1;
            return 0;
        }
        self.probe_every = (2 * self.probe_every).clamp(PROBE_EVERY, PROBE_EVERY_MAX);
        self.until_probe = self.probe_every;
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(rows: u32, step_s: f64, draft_s: f64) -> DraftBudget {
        let mut cost = CostModel::default();
        for drafts in [0, 2].repeat(20) {
            let work = StepWork { rows, drafts, ..StepWork::default() };
            cost.observe(&work, step_s + draft_s * f64::from(drafts));
        }
        DraftBudget::beside(&StepWork { rows, ..StepWork::default() }, &cost)
    }

    #[test]
    fn what_a_draft_must_give_grows_with_the_batch() {
        let one = budget(1, 0.05, 0.005);
        assert!((one.least - 0.125).abs() < 0.01, "{one:?}");
        assert!((4..=5).contains(&one.left), "{one:?}");
        assert!(budget(8, 0.05, 0.005).least > 0.9);
        let unmeasured = DraftBudget::beside(&StepWork::default(), &CostModel::default());
        assert_eq!(unmeasured.left, 0);
        // Free drafts are bounded all the same.
        assert_eq!(budget(1, 0.05, 0.0).left, MAX_STEP_DRAFTS);
    }

    /// Drafts on a sequence of one token over and over, of which so many are right.
    fn drafts(steps: usize, budget: &DraftBudget, right: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut speculator = Speculator::default();
        let mut tokens = vec![1; 10];
        let mut counts = Vec::new();
        for step in 0..steps {
            let draft = speculator.draft(&tokens, 99, budget);
            counts.push(draft.len());
            let accepted = right(step);
            if !draft.is_empty() {
                speculator.verified(accepted);
            }
            tokens.push(1);
        }
        counts
    }

    #[test]
    fn drafts_that_fail_become_rare_and_come_back() {
        let budget = budget(1, 0.05, 0.005);
        let failing = drafts(2000, &budget, |_| false);
        assert!(failing[0] > 0);
        assert!(failing.iter().sum::<usize>() < 60, "{}", failing.iter().sum::<usize>());
        assert!(failing[1000..].iter().any(|&n| n > 0), "it probes");
        let turning = drafts(2000, &budget, |step| step >= 500);
        assert!(turning[1999] >= 4);
    }

    #[test]
    fn a_batch_in_which_no_draft_can_pay_tries_none() {
        let none = drafts(500, &budget(32, 0.1, 0.005), |_| true);
        assert!(none.iter().all(|&n| n == 0));
    }
}
