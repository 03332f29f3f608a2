//! The rows of a step to tokens, on the runner's threads.

use crate::active::Active;
use tyndall_model::{Job, Runner};
use tyndall_sampling::{SampleError, Sampled, Scratch};
use tyndall_scheduler::SeqId;

/// One sequence's rows of logits, and what is scored and sampled with them.
pub(crate) struct Sampling<'a> {
    pub(crate) id: SeqId,
    pub(crate) active: Active,
    /// Index in the sequence of the row's first token.
    pub(crate) begin: usize,
    /// Of tokens of the prompt that is scored, `[P, V]`.
    pub(crate) prompt_logits: &'a [f32],
    /// Index in the sequence of the first token to sample.
    pub(crate) position: u64,
    /// `[1 + D, V]`, or none.
    pub(crate) logits: &'a [f32],
    /// Tokens computed in advance, `[D]`: each one's logits are valid if all tokens up to it are
    /// sampled.
    pub(crate) drafts: &'a [u32],
    /// One token, and one more for each draft that comes true.
    pub(crate) sampled: Vec<Sampled>,
    /// Why no more could be sampled.
    pub(crate) error: Option<SampleError>,
}

impl Sampling<'_> {
    fn run(&mut self, vocab_size: usize, scratch: &mut Scratch) {
        if let Some(prompt) = &mut self.active.prompt
            && let Err(error) = prompt.add(self.begin, self.prompt_logits, vocab_size)
        {
            return self.error = Some(error);
        }
        for (index, logits) in self.logits.chunks_exact(vocab_size).enumerate() {
            let position = self.position + index as u64;
            let sampled = match self.active.sampler.sample(logits, position, scratch) {
                Ok(sampled) => sampled,
                Err(error) => return self.error = Some(error),
            };
            let token = sampled.token;
            self.sampled.push(sampled);
            if self.drafts.get(index) != Some(&token) || self.active.end_by(token).is_some() {
                return;
            }
        }
    }
}

/// Samples all rows. Each thread has its own scratch and an equal share of the rows.
pub(crate) fn run(
    runner: &dyn Runner,
    rows: &mut [Sampling<'_>],
    vocab_size: usize,
    scratch: &mut Vec<Scratch>,
) {
    if rows.is_empty() {
        return;
    }
    scratch.resize_with(runner.num_threads().max(1), Scratch::default);
    let share = rows.len().div_ceil(scratch.len());
    let mut jobs: Vec<Job<'_>> = rows
        .chunks_mut(share)
        .zip(scratch)
        .map(|(rows, scratch)| -> Job<'_> {
            Box::new(move || rows.iter_mut().for_each(|row| row.run(vocab_size, scratch)))
        })
        .collect();
    runner.run_jobs(&mut jobs);
}
