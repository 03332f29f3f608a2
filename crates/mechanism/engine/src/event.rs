//! What a request's stream yields.

use tyndall_sampling::TokenLogprobs;
use tyndall_types::FinishReason;

/// A piece of a request's answer.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenEvent {
    /// The prompt is computed; once, before the first token.
    Prompt(ComputedPrompt),
    /// The next token.
    Token(GeneratedToken),
    /// The end; nothing follows.
    Finished(Finished),
}

/// How a prompt was computed.
#[derive(Debug, Clone, PartialEq)]
pub struct ComputedPrompt {
    /// Tokens that were found in the prefix cache.
    pub num_cached_tokens: u32,
    /// How likely each token is after those before it, from the second one on; where the request
    /// asks for it.
    pub logprobs: Option<Vec<TokenLogprobs>>,
}

/// A token of the output.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedToken {
    /// Its id.
    pub id: u32,
    /// Present when the parameters ask for it.
    pub logprob: Option<TokenLogprobs>,
    /// `Finished` follows.
    pub is_last: bool,
    /// It ended the output and is not part of the text, unless the request says so. It counts as
    /// an output token all the same.
    pub is_stop: bool,
}

/// How a request went. Its phases add up to the time from `submit` to the last token.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Why it ended.
    pub reason: FinishReason,
    /// The token that ended it, unless that is the model's primary end token.
    pub stop_token: Option<u32>,
    /// What failed, when the reason is [`FinishReason::Error`].
    pub error: Option<String>,
    /// It failed because what it asks for leaves no token: another request may do better.
    pub is_impossible: bool,
    /// Tokens of the prompt.
    pub num_prompt_tokens: u32,
    /// Tokens of the prompt that were found in the prefix cache.
    pub num_cached_tokens: u32,
    /// Tokens generated, an end token included.
    pub num_output_tokens: u32,
    /// How often it lost its KV blocks to others and was computed again.
    pub num_preemptions: u32,
    /// Seconds from `submit` to its first step.
    pub queue_s: f64,
    /// Seconds from its first step to its first token.
    pub prefill_s: f64,
    /// Seconds from its first to its last token.
    pub decode_s: f64,
}

impl Finished {
    /// Of a request that never ran.
    pub(crate) fn unstarted(reason: FinishReason, error: Option<String>) -> Self {
        Self {
            reason,
            stop_token: None,
            error,
            is_impossible: false,
            num_prompt_tokens: 0,
            num_cached_tokens: 0,
            num_output_tokens: 0,
            num_preemptions: 0,
            queue_s: 0.0,
            prefill_s: 0.0,
            decode_s: 0.0,
        }
    }

    /// Seconds from `submit` to the first token.
    #[must_use]
    pub fn ttft_s(&self) -> f64 {
        self.queue_s + self.prefill_s
    }
}
