//! What `/v1/chat/completions` answers.

use crate::models::Null;
use crate::usage::{PromptLogprob, TokenLogprob, Usage};
use serde::Serialize;
use tyndall_types::StopReason;

/// The answer of `/v1/chat/completions`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatResponse {
    /// `chatcmpl-…`.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    /// The public model id.
    pub model: String,
    /// By index.
    pub choices: Vec<ChatChoice>,
    /// Not known.
    pub service_tier: Null,
    /// Not known.
    pub system_fingerprint: Null,
    /// Tokens.
    pub usage: Usage,
    /// When asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<Vec<PromptLogprob>>,
    /// When asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatChoice {
    /// Which.
    pub index: u32,
    /// The text.
    pub message: AssistantMessage,
    /// When asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub finish_reason: Option<&'static str>,
    /// What matched.
    pub stop_reason: Option<StopReason>,
    /// When asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// What the assistant said. `tool_calls` is absent, not null: strict clients want that.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AssistantMessage {
    /// `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: Option<String>,
    /// Never.
    pub refusal: Null,
    /// Never.
    pub annotations: Null,
    /// Never.
    pub audio: Null,
    /// Never.
    pub function_call: Null,
    /// What it thought, by vLLM's name.
    pub reasoning: Option<String>,
    /// The same, by the name of DeepSeek's API and most clients.
    pub reasoning_content: Option<String>,
    /// What it called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallView>,
}

/// A whole call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToolCallView {
    /// By which the result refers to it.
    pub id: String,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What is called.
    pub function: FunctionView,
}

/// What is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FunctionView {
    /// Its name.
    pub name: String,
    /// JSON text of an object.
    pub arguments: String,
}

/// Log-probabilities in the form of `/v1/chat/completions`.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct ChatLogprobs {
    /// One entry per token.
    pub content: Vec<TokenLogprob>,
}

/// One event of a `/v1/chat/completions` stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ChatChunk<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    /// Empty in the usage chunk.
    pub(super) choices: Vec<ChatChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Usage>,
}

/// A piece of one answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ChatChunkChoice {
    pub(super) index: u32,
    pub(super) delta: Delta,
    pub(super) logprobs: Option<ChatLogprobs>,
    pub(super) finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stop_reason: Option<StopReason>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) token_ids: Vec<u32>,
}

/// What a chunk adds to a message.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(super) struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tool_calls: Vec<ToolCallDelta>,
}

/// What a chunk adds to a call: its first one has the name, later ones have arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ToolCallDelta {
    pub(super) index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<&'static str>,
    pub(super) function: FunctionDelta,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    pub(super) arguments: String,
}
