//! What an engine and a request are made of.

use tyndall_sampling::Constraint;
use tyndall_scheduler::{SchedulerConfig, Speculation};
use tyndall_types::{RequestId, SamplingParams};

/// Most places in the waiting queue, whatever the configuration says: their memory is reserved.
const MAX_WAITING: u32 = 1 << 16;

/// Sizes and limits of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Tokens per KV block, as the runner lays them out.
    pub block_size: u32,
    /// KV blocks of the runner.
    pub num_blocks: u32,
    /// Longest sequence, prompt and output together, in tokens.
    pub max_model_len: u32,
    /// Most requests that run at a time.
    pub max_num_seqs: u32,
    /// Most tokens of a step.
    pub max_num_batched_tokens: u32,
    /// Most requests that wait for their first step, at most 65536.
    pub max_waiting: u32,
    /// The model's end tokens, the primary one first.
    pub eos_token_ids: Vec<u32>,
    /// Computed blocks are shared between requests with the same leading tokens.
    pub enable_prefix_cache: bool,
    /// While others decode, a long prompt adds to a step at most so many hundredths of the time
    /// that its decodes take on this machine; absent is no bound.
    pub max_prefill_percent: Option<u32>,
    /// Whether tokens that followed the same tokens before are computed in advance. It changes the
    /// speed and nothing else.
    pub speculation: Speculation,
}

/// Steps with a piece of a long prompt take 1.6 times as long as those without: streams beside it
/// stay below twice their usual gaps, with room for what the prediction misses.
pub const DEFAULT_MAX_PREFILL_PERCENT: u32 = 60;

// The memory for their logits is planned.
const _: () = assert!(tyndall_scheduler::MAX_STEP_DRAFTS <= tyndall_model::MAX_DRAFT_ROWS);

impl EngineConfig {
    pub(crate) fn max_waiting(&self) -> u32 {
        self.max_waiting.min(MAX_WAITING)
    }

    pub(crate) fn scheduler(&self) -> SchedulerConfig {
        SchedulerConfig {
            block_size: self.block_size,
            num_blocks: self.num_blocks,
            max_model_len: self.max_model_len,
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            max_waiting: self.max_waiting(),
            enable_prefix_cache: self.enable_prefix_cache,
            max_prefill_percent: self.max_prefill_percent,
            speculation: self.speculation,
        }
    }
}

/// One sequence to generate.
#[derive(Debug)]
pub struct EngineRequest {
    /// For logs.
    pub id: RequestId,
    /// Token ids of the prompt.
    pub prompt: Vec<u32>,
    /// Validated parameters. `n`, `seed` and `stop` are the caller's matter and not looked at.
    pub params: SamplingParams,
    /// The same seed, prompt and parameters give the same tokens.
    pub seed: u64,
    /// What the parameters ask for and only the caller can make.
    pub extras: RequestExtras,
}

impl EngineRequest {
    /// A request without extras.
    #[must_use]
    pub fn new(id: RequestId, prompt: Vec<u32>, params: SamplingParams, seed: u64) -> Self {
        Self { id, prompt, params, seed, extras: RequestExtras::default() }
    }
}

/// What not every request has.
#[derive(Debug, Default)]
pub struct RequestExtras {
    /// The tokens of each of the parameters' `bad_words`, in every way that they can be written.
    pub bad_words: Vec<Vec<u32>>,
    /// Which tokens are possible.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Log-probabilities of the prompt's tokens, each with so many most likely ones. The prompt is
    /// then computed as a whole, whatever the prefix cache has.
    pub prompt_logprobs: Option<u32>,
    /// Computed blocks are shared only with requests of the same salt.
    pub cache_salt: Vec<u8>,
}
