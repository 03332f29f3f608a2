//! All that a runner learns of a step.

use crate::SeqId;

/// One sequence's share of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Whose tokens.
    pub id: SeqId,
    /// Tokens to compute, at least one; drafts included.
    pub num_tokens: u32,
    /// Computed tokens of the sequence when the step is done, drafts included.
    pub context_len: u32,
    /// The last tokens that are not the sequence's own yet but tried in advance.
    pub num_drafts: u32,
    /// The last token of the sequence is computed: its logits give the next one, and those of
    /// each draft the one after it.
    pub wants_logits: bool,
    /// The logits of all tokens of the row are wanted: they are of a prompt that is scored. The row
    /// has no drafts then.
    pub wants_prompt_logits: bool,
}

impl Row {
    /// Tokens, the last ones of the row, whose logits are wanted.
    #[must_use]
    pub fn num_logits(&self) -> u32 {
        let sampled = if self.wants_logits { 1 + self.num_drafts } else { 0 };
        self.num_prompt_logits() + sampled
    }

    /// Tokens, the first ones of the row, whose logits say how likely the prompt's next token was.
    #[must_use]
    pub fn num_prompt_logits(&self) -> u32 {
        match self.wants_prompt_logits {
            true => self.num_tokens - u32::from(self.wants_logits),
            false => 0,
        }
    }

    /// Tokens of the sequence itself that are computed when the step is done.
    #[must_use]
    pub fn own_len(&self) -> u32 {
        self.context_len - self.num_drafts
    }
}

/// A sequence that left the waiting queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Which one.
    pub id: SeqId,
    /// Its tokens so far.
    pub num_tokens: u32,
    /// Leading tokens that were found computed in the prefix cache.
    pub num_cached_tokens: u32,
    /// It ran before and was preempted.
    pub resumed: bool,
}

/// One step, flat and ragged. The buffers are reused from step to step.
#[derive(Debug, Default)]
pub struct SchedulerOutput {
    /// The tokens of the first row, then those of the second, and so on.
    pub tokens: Vec<u32>,
    /// The rows, running sequences first.
    pub rows: Vec<Row>,
    /// Sequences that begin or resume in this step, in order.
    pub admitted: Vec<Admission>,
    /// Sequences that lost their blocks and wait again.
    pub preempted: Vec<SeqId>,
}

impl SchedulerOutput {
    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.rows.clear();
        self.admitted.clear();
        self.preempted.clear();
    }
}
