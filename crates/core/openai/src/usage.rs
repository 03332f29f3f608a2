//! Tokens and log-probabilities, as several routes report them.

use serde::Serialize;

/// Tokens of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Usage {
    /// Of every prompt, once.
    pub prompt_tokens: u32,
    /// Prompt and completion.
    pub total_tokens: u32,
    /// Of every completion; an end token counts.
    pub completion_tokens: u32,
    /// How the prompt was computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
    /// What the completion was; only of models that reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_tokens_details: Option<CompletionTokensDetails>,
}

impl Usage {
    /// Adds up.
    #[must_use]
    pub fn new(prompt_tokens: u32, completion_tokens: u32, cached_tokens: u32) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: Some(PromptTokensDetails { cached_tokens }),
            completion_tokens_details: None,
        }
    }

    /// The same without what is known at the end only, for reports while it goes on.
    #[must_use]
    pub fn so_far(self) -> Self {
        Self { prompt_tokens_details: None, completion_tokens_details: None, ..self }
    }

    /// Tokens of the prompt that the prefix cache had.
    #[must_use]
    pub fn cached_tokens(&self) -> u32 {
        self.prompt_tokens_details.map_or(0, |details| details.cached_tokens)
    }

    /// Tokens of the completion that were thoughts.
    #[must_use]
    pub fn reasoning_tokens(&self) -> u32 {
        self.completion_tokens_details.map_or(0, |details| details.reasoning_tokens)
    }
}

/// How a prompt was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PromptTokensDetails {
    /// Tokens that the prefix cache had.
    pub cached_tokens: u32,
}

/// What a completion was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct CompletionTokensDetails {
    /// Tokens before the end of the thoughts.
    pub reasoning_tokens: u32,
}

/// A token and its most likely rivals.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLogprob {
    /// As text, or as `token_id:N` where the request wants that.
    pub token: String,
    /// At least -9999; absent for the first token of a prompt.
    pub logprob: Option<f32>,
    /// UTF-8, also where the token alone is no text.
    pub bytes: Vec<u8>,
    /// As many as asked for.
    pub top_logprobs: Vec<TopLogprob>,
}

/// One of the most likely tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TopLogprob {
    /// As text, or as `token_id:N`.
    pub token: String,
    /// At least -9999.
    pub logprob: f32,
    /// UTF-8.
    pub bytes: Vec<u8>,
}

/// A token of the prompt in the form of vLLM's `prompt_logprobs`: token ids to what is known of
/// them, and nothing for the first token.
pub type PromptLogprob = Option<serde_json::Map<String, serde_json::Value>>;

/// JSON has no infinity: impossible tokens get OpenAI's -9999.
#[must_use]
pub fn floor_logprob(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob.max(-9999.0) } else { -9999.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floors_and_sums() {
        assert_eq!(floor_logprob(f32::NEG_INFINITY), -9999.0);
        assert_eq!(floor_logprob(-0.5), -0.5);
        let usage = Usage::new(3, 4, 2);
        assert_eq!(
            (usage.total_tokens, usage.cached_tokens(), usage.reasoning_tokens()),
            (7, 2, 0)
        );
        assert_eq!(
            serde_json::to_string(&usage.so_far()).unwrap(),
            r#"{"prompt_tokens":3,"total_tokens":7,"completion_tokens":4}"#
        );
    }
}
