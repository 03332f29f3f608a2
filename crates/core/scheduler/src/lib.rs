//! Continuous batching: which request computes which tokens in the next step.
//!
//! There are no prefill and decode phases. Every sequence has tokens (its prompt, and output as it
//! is sampled) and knows how many of them are computed; a step computes some of the missing ones.
//! A sequence whose last token is computed in a step yields logits, from which the caller samples
//! its next token.
//!
//! One step, driven by the caller:
//!
//! 1. [`Scheduler::schedule`] chooses rows: running sequences first, in the order of their
//!    admission, then waiting ones in the order of their arrival, within a token budget. A prompt
//!    that does not fit into the budget is cut and goes on in the next step.
//! 2. The caller computes [`SchedulerOutput`] and calls [`Scheduler::complete_step`], or
//!    [`Scheduler::discard`] for every row if the computation failed.
//! 3. For each row with logits it samples a token and calls [`Scheduler::append`], or
//!    [`Scheduler::finish`] when the sequence is done. As long as the answer is
//!    [`Appended::Accepted`], the token was tried in advance and the row's next logits are valid.
//! 4. [`Scheduler::observe_step`] tells how long that took. From this the scheduler learns how much
//!    of a prompt fits beside the decodes (`budget`) and whether trying tokens in advance pays
//!    (`speculation`).
//!
//! Sequences are added and finished between steps.
//!
//! Invariants:
//!
//! * A step has at most `max_num_batched_tokens` tokens and `max_num_seqs` rows.
//! * A sequence is admitted only with the blocks of all its tokens, and never in a step that
//!   preempted. When a running sequence needs a block and none can be had, the sequence admitted
//!   last gives its blocks back and waits at the head of the queue; its tokens are kept and
//!   computed again, usually from the prefix cache, and nothing is sampled twice.
//! * Every accepted sequence fits into the cache alone and the oldest running one is never
//!   preempted by another, so every sequence finishes.
//! * A decode has a token in every step, whatever prompts are there. What times are observed changes
//!   how prompts are cut and how many tokens are tried in advance, never which tokens come out.
//! * Tokens tried in advance take no block for which someone else would have to wait, and none of
//!   their blocks is shared before the token is the sequence's own.
//! * The last token is always computed, even if its block is cached, because its logits are needed.
//! * The scheduler sees block ids and token ids: no device, no clock, no thread.
#![forbid(unsafe_code)]

mod budget;
mod config;
mod cost;
mod lookup;
mod output;
mod plan;
mod scheduler;
mod sequence;
mod speculation;

#[cfg(test)]
mod draft_test;
#[cfg(test)]
mod fairness_test;
#[cfg(test)]
mod random_test;
#[cfg(test)]
mod tests;

pub use config::{SchedulerConfig, Speculation};
pub use output::{Admission, Row, SchedulerOutput};
pub use scheduler::{AddError, Appended, Scheduler};
pub use sequence::{NewSequence, SeqId, SequenceSummary};
pub use speculation::MAX_STEP_DRAFTS;
