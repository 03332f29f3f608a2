//! How much of a step goes to prompts while others decode.
//!
//! Whoever reads a stream waits for the whole step. So what a step adds for prompts is bounded by
//! time, not by a number of tokens: the cost model says how many tokens that is on this machine,
//! for this batch and at this depth of the prompt.
//!
//! * A **long** prompt gets `max_prefill_percent` of the time that the step's decodes take.
//! * A **short** one, which as a whole takes no longer than a pause that readers bear once,
//!   gets the time of that pause: it holds a stream up once, and holding it back would only leave
//!   the batch less full.
//! * Where nobody decodes there is no bound but `max_num_batched_tokens`.
//!
//! At least one token is computed in every step in which a prompt is next, so no prompt starves;
//! except that a step now and then leaves long prompts out, because the time of the decodes alone
//! can only be measured alone.

use crate::cost::{CostModel, StepWork};

/// The pause that short prompts may cause.
const PAUSE_S: f64 = 0.5;
/// Steps with prompts in a row before one without, to measure it.
const STEPS_UNTIL_MEASURED: u32 = 64;

/// What is left for prompts in the step that is being scheduled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PrefillBudget {
    /// Seconds for long prompts; the step's total of prompts is to stay below it.
    long_s: f64,
    /// The same for short ones.
    short_s: f64,
    spent_s: f64,
    /// A prompt has tokens in this step.
    any: bool,
    /// Long prompts wait for the next step.
    measuring: bool,
}

impl PrefillBudget {
    /// No bound in time.
    pub(crate) const UNBOUNDED: Self = Self {
        long_s: f64::INFINITY,
        short_s: f64::INFINITY,
        spent_s: 0.0,
        any: false,
        measuring: false,
    };

    /// For a step that decodes `decodes`, after so many steps in a row with prompts.
    pub(crate) fn beside(
        decodes: &StepWork,
        cost: &CostModel,
        percent: u32,
        mixed_steps: u32,
    ) -> Self {
        let decode_s = cost.decode_s(decodes);
        let long_s = decode_s.map_or(0.0, |s| s * f64::from(percent) / 100.0);
        let measuring = decode_s.is_none() || mixed_steps >= STEPS_UNTIL_MEASURED;
        Self { long_s, short_s: PAUSE_S.max(long_s), measuring, ..Self::UNBOUNDED }
    }

    /// The tokens after its first `begin` that a prompt may compute. `prefill_len` tokens of it
    /// were missing when it was admitted.
    pub(crate) fn tokens(&self, cost: &CostModel, begin: u32, prefill_len: u32) -> u32 {
        if self.short_s.is_infinite() {
            return u32::MAX;
        }
        let is_short = cost.prefill_s(0, prefill_len).is_none_or(|s| s <= PAUSE_S);
        let limit_s = match (is_short, self.measuring) {
            (true, _) => self.short_s,
            (false, false) => self.long_s,
            (false, true) => return 0,
        };
        let tokens = cost.prefill_tokens(begin, limit_s - self.spent_s).unwrap_or(u32::MAX);
        tokens.max(u32::from(!self.any))
    }

    /// Takes note of a prompt's share.
    pub(crate) fn spend(&mut self, cost: &CostModel, begin: u32, num_tokens: u32) {
        self.any = true;
        self.spent_s += cost.prefill_s(begin, num_tokens).unwrap_or(0.0);
    }
}
