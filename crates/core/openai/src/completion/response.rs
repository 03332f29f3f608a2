//! What `/v1/completions` answers.

use crate::models::Null;
use crate::usage::{PromptLogprob, TokenLogprob, Usage};
use serde::Serialize;
use serde_json::{Map, Value};
use tyndall_types::StopReason;

/// `object` of answers and chunks.
pub(super) const OBJECT: &str = "text_completion";

/// The answer of `/v1/completions`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CompletionResponse {
    /// `cmpl-…`.
    pub id: String,
    /// `text_completion`.
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    /// The public model id.
    pub model: String,
    /// By index.
    pub choices: Vec<CompletionChoice>,
    /// Tokens.
    pub usage: Usage,
    /// Not known.
    pub system_fingerprint: Null,
}

/// One completion.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CompletionChoice {
    /// `prompt · n + i`.
    pub index: u32,
    /// The text.
    pub text: String,
    /// When asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// Why it ended.
    pub finish_reason: Option<&'static str>,
    /// What matched.
    pub stop_reason: Option<StopReason>,
    /// When asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// When asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<Vec<PromptLogprob>>,
    /// When asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// Log-probabilities in the form of `/v1/completions`: parallel lists, one entry per token.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct CompletionLogprobs {
    /// Where the token begins in the text, in characters.
    pub text_offset: Vec<u32>,
    /// The tokens as text.
    pub tokens: Vec<String>,
    /// Their log-probabilities; none for the first token of a prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// The most likely tokens, and the sampled one; none for the first token of a prompt.
    pub top_logprobs: Vec<Option<Map<String, Value>>>,
}

impl CompletionLogprobs {
    /// `offset` is where the first token begins, in characters, and moves on to where the next one
    /// will.
    #[must_use]
    pub fn new(tokens: &[TokenLogprob], offset: &mut u32) -> Self {
        let mut logprobs = Self::default();
        for found in tokens {
            let characters = String::from_utf8_lossy(&found.bytes).chars().count();
            logprobs.text_offset.push(*offset);
            *offset += u32::try_from(characters).unwrap_or(u32::MAX);
            logprobs.token_logprobs.push(found.logprob);
            logprobs.top_logprobs.push(found.logprob.map(|logprob| {
                let top = found.top_logprobs.iter().map(|top| (top.token.clone(), top.logprob));
                let all = top.chain([(found.token.clone(), logprob)]);
                all.map(|(token, logprob)| (token, logprob.into())).collect()
            }));
            logprobs.tokens.push(found.token.clone());
        }
        logprobs
    }
}

/// One event of a `/v1/completions` stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct CompletionChunk<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    /// Empty in the usage chunk.
    pub(super) choices: Vec<CompletionChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Usage>,
}

/// A piece of one completion.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct CompletionChunkChoice {
    pub(super) index: u32,
    pub(super) text: String,
    pub(super) logprobs: Option<CompletionLogprobs>,
    pub(super) finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stop_reason: Option<StopReason>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) token_ids: Vec<u32>,
}
