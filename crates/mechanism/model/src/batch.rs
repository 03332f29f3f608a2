//! What a step computes: a flat ragged batch.

/// One sequence's share of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeqChunk<'a> {
    /// Tokens of this sequence in this step: a piece of its prompt, or one token to decode.
    pub num_tokens: u32,
    /// Tokens of the sequence when the step is done; its first token here has position
    /// `context_len - num_tokens`.
    pub context_len: u32,
    /// The sequence's KV blocks in order, at least enough for `context_len` tokens.
    pub block_table: &'a [u32],
    /// The logits of so many of its last tokens are wanted, of at most `num_tokens`.
    pub num_logits: u32,
}

/// All tokens of one step, prefill chunks and decodes alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepBatch<'a> {
    /// The tokens of the first sequence, then those of the second, and so on.
    pub tokens: &'a [u32],
    /// The sequences, in the order of their tokens.
    pub seqs: &'a [SeqChunk<'a>],
}

/// Why a step could not be computed. It concerns the whole batch.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The batch contradicts itself or the model.
    #[error("the step's batch is not usable: {reason}")]
    Batch {
        /// What contradicts what.
        reason: String,
    },
    /// A kernel refused.
    #[error("a kernel failed in layer {layer}")]
    Kernel {
        /// The decoder layer, or the number of layers for what follows them.
        layer: usize,
        /// What it says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Something that turns tokens into logits and keeps the KV cache.
pub trait Runner: Send {
    /// Entries of a row of logits.
    fn vocab_size(&self) -> usize;

    /// Computes a step and replaces `logits` by `[L, V]`: the rows that its sequences want, in the
    /// order of their tokens.
    ///
    /// # Errors
    /// [`StepError`]; the KV cache of the batch's sequences is then undefined.
    fn step(&mut self, batch: &StepBatch<'_>, logits: &mut Vec<f32>) -> Result<(), StepError>;

    /// Threads on which [`Runner::run_jobs`] runs its jobs, at least one.
    fn num_threads(&self) -> usize {
        1
    }

    /// Runs every job once, side by side where there are threads, and returns when all are done.
    fn run_jobs(&self, jobs: &mut [Job<'_>]) {
        jobs.iter_mut().for_each(|job| job());
    }
}

/// Work between two steps that the runner's threads can share.
pub type Job<'a> = Box<dyn FnMut() + Send + 'a>;
