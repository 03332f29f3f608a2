//! What the routes answer.

use serde::Serialize;
use serde_json::{Map, Value};

/// A field that is always null on the wire.
pub type Null = Option<()>;

/// The answer of `/generate`; the order of the fields is part of the contract.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GenerateResponse {
    /// The public model id.
    pub model: String,
    /// As sent.
    pub prompts: Vec<String>,
    /// One per prompt, in order.
    pub completions: Vec<String>,
    /// The effective values.
    pub generation_kwargs: Map<String, Value>,
}

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
        }
    }
}

/// How a prompt was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PromptTokensDetails {
    /// Tokens that the prefix cache had.
    pub cached_tokens: u32,
}

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
    pub stop_reason: Option<tyndall_types::StopReason>,
}

/// Log-probabilities in the form of `/v1/completions`: parallel lists, one entry per token.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct CompletionLogprobs {
    /// Where the token begins in the text, in characters.
    pub text_offset: Vec<u32>,
    /// The tokens as text.
    pub tokens: Vec<String>,
    /// Their log-probabilities.
    pub token_logprobs: Vec<f32>,
    /// The most likely tokens, and the sampled one.
    pub top_logprobs: Vec<Map<String, Value>>,
}

/// One event of a `/v1/completions` stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CompletionChunk {
    /// The same in all chunks.
    pub id: String,
    /// `text_completion`.
    pub object: &'static str,
    /// The same in all chunks.
    pub created: u64,
    /// The public model id.
    pub model: String,
    /// Empty in the usage chunk.
    pub choices: Vec<CompletionChunkChoice>,
    /// When asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// A piece of one completion.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CompletionChunkChoice {
    /// Which completion.
    pub index: u32,
    /// What is new.
    pub text: String,
    /// Of the tokens that are new.
    pub logprobs: Option<CompletionLogprobs>,
    /// In its last chunk.
    pub finish_reason: Option<&'static str>,
    /// In its last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<tyndall_types::StopReason>,
}

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
    pub stop_reason: Option<tyndall_types::StopReason>,
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
    /// Not separated yet.
    pub reasoning: Null,
}

impl AssistantMessage {
    /// A message of text.
    #[must_use]
    pub fn text(content: String) -> Self {
        Self {
            role: "assistant",
            content: Some(content),
            refusal: None,
            annotations: None,
            audio: None,
            function_call: None,
            reasoning: None,
        }
    }
}

/// Log-probabilities in the form of `/v1/chat/completions`.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct ChatLogprobs {
    /// One entry per token.
    pub content: Vec<ChatTokenLogprob>,
}

/// A token and its most likely rivals.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatTokenLogprob {
    /// As text.
    pub token: String,
    /// At least -9999.
    pub logprob: f32,
    /// UTF-8, also where the token alone is no text.
    pub bytes: Vec<u8>,
    /// As many as asked for.
    pub top_logprobs: Vec<ChatTopLogprob>,
}

/// One of the most likely tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatTopLogprob {
    /// As text.
    pub token: String,
    /// At least -9999.
    pub logprob: f32,
    /// UTF-8.
    pub bytes: Vec<u8>,
}

/// One event of a `/v1/chat/completions` stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatChunk {
    /// The same in all chunks.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    /// The same in all chunks.
    pub created: u64,
    /// The public model id.
    pub model: String,
    /// Empty in the usage chunk.
    pub choices: Vec<ChatChunkChoice>,
    /// When asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// A piece of one answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatChunkChoice {
    /// Which.
    pub index: u32,
    /// What is new.
    pub delta: Delta,
    /// Of the tokens that are new.
    pub logprobs: Option<ChatLogprobs>,
    /// In its last chunk.
    pub finish_reason: Option<&'static str>,
    /// In its last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<tyndall_types::StopReason>,
}

/// What a chunk adds to a message.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Delta {
    /// In the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// Text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// `GET /v1/models`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// In the order of deployment.
    pub data: Vec<ModelCardView>,
}

/// A model as clients see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelCardView {
    /// The public id.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// Unix seconds of its deployment.
    pub created: u64,
    /// `tyndall`.
    pub owned_by: &'static str,
    /// The public id.
    pub root: String,
    /// The base model of an adapter.
    pub parent: Option<String>,
    /// Known since the model was first loaded.
    pub max_model_len: Option<u32>,
    /// None are managed.
    pub permission: [Null; 0],
}

impl ModelCardView {
    /// A base model.
    #[must_use]
    pub fn base(id: &str, created: u64, max_model_len: Option<u32>) -> Self {
        Self {
            id: id.to_owned(),
            object: "model",
            created,
            owned_by: "tyndall",
            root: id.to_owned(),
            parent: None,
            max_model_len,
            permission: [],
        }
    }
}

/// JSON has no infinity: impossible tokens get OpenAI's -9999.
#[must_use]
pub fn floor_logprob(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob.max(-9999.0) } else { -9999.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_leave_out_what_is_not_set() {
        let chunk = ChatChunk {
            id: "chatcmpl-1".into(),
            object: "chat.completion.chunk",
            created: 1,
            model: "m".into(),
            choices: vec![ChatChunkChoice {
                index: 0,
                delta: Delta { role: Some("assistant"), content: Some(String::new()) },
                logprobs: None,
                finish_reason: None,
                stop_reason: None,
            }],
            usage: None,
        };
        assert_eq!(
            serde_json::to_string(&chunk).unwrap(),
            r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}"#
        );
    }

    #[test]
    fn cards_and_floors() {
        assert_eq!(
            serde_json::to_string(&ModelCardView::base("m", 7, Some(2048))).unwrap(),
            r#"{"id":"m","object":"model","created":7,"owned_by":"tyndall","root":"m","parent":null,"max_model_len":2048,"permission":[]}"#
        );
        assert_eq!(floor_logprob(f32::NEG_INFINITY), -9999.0);
        assert_eq!(floor_logprob(-0.5), -0.5);
        assert_eq!(Usage::new(3, 4, 0).total_tokens, 7);
    }
}
