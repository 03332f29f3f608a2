//! Limits of the scheduler.

/// Sizes and limits. A zero where at least one is needed counts as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Tokens per KV block.
    pub block_size: u32,
    /// KV blocks in total.
    pub num_blocks: u32,
    /// Longest sequence, prompt and output together, in tokens.
    pub max_model_len: u32,
    /// Most sequences that run at a time.
    pub max_num_seqs: u32,
    /// Most tokens of a step.
    pub max_num_batched_tokens: u32,
    /// Most sequences that wait for their first step.
    pub max_waiting: u32,
    /// Computed blocks are shared between sequences with the same leading tokens.
    pub enable_prefix_cache: bool,
    /// While others decode, long prompts add to a step at most so many hundredths of the time that
    /// its decodes take, as measured ([`Scheduler::observe_step`](crate::Scheduler::observe_step));
    /// absent is no bound.
    pub max_prefill_percent: Option<u32>,
    /// Whether tokens that followed the same tokens before are tried in advance.
    pub speculation: Speculation,
}

/// When tokens are tried in advance. It changes the number of steps, never the tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Speculation {
    /// Never.
    Off,
    /// Where the measured times and the sequence's record say that it pays.
    #[default]
    Auto,
    /// Wherever there is a match.
    Always,
}

impl SchedulerConfig {
    /// The limits that can be kept: a sequence is never longer than the whole KV cache, and every
    /// running sequence can have a token in every step.
    pub(crate) fn resolved(mut self) -> Self {
        self.block_size = self.block_size.max(1);
        self.max_num_batched_tokens = self.max_num_batched_tokens.max(1);
        self.max_num_seqs = self.max_num_seqs.clamp(1, self.max_num_batched_tokens);
        let capacity = self.num_blocks.saturating_mul(self.block_size);
        self.max_model_len = self.max_model_len.min(capacity);
        self
    }
}
