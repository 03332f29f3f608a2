//! Answers in Anthropic's words.

use crate::Usage;
use serde::Serialize;
use serde_json::Value;

/// The answer of `/v1/messages`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MessagesResponse {
    /// `msg_…`.
    pub id: String,
    /// `message`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `assistant`.
    pub role: &'static str,
    /// The public model id.
    pub model: String,
    /// In the order thoughts, text, calls; empty where the model said nothing.
    pub content: Vec<ContentBlock>,
    /// Why it ended; absent while it goes on, and where it was cut off by no fault of the request.
    pub stop_reason: Option<&'static str>,
    /// The stop sequence that matched.
    pub stop_sequence: Option<String>,
    /// Tokens.
    pub usage: MessagesUsage,
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentBlock {
    /// What the model thought.
    Thinking {
        /// The text.
        thinking: String,
        /// Says nothing; clients send it back with the text.
        signature: String,
    },
    /// What it said.
    Text {
        /// The text.
        text: String,
    },
    /// What it called.
    ToolUse {
        /// `toolu_…`, by which the result refers to it.
        id: String,
        /// The tool.
        name: String,
        /// An object. Text of one that was cut off is in `INVALID_JSON`, as Anthropic recommends.
        input: Value,
    },
}

/// Tokens, of which Anthropic counts those that the prefix cache had apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MessagesUsage {
    /// Of the prompt, without those that the cache had.
    pub input_tokens: u32,
    /// Nothing is charged for keeping prompts.
    pub cache_creation_input_tokens: u32,
    /// Of the prompt, those that the cache had.
    pub cache_read_input_tokens: u32,
    /// Of the answer.
    pub output_tokens: u32,
}

impl From<&Usage> for MessagesUsage {
    fn from(usage: &Usage) -> Self {
        let cached = usage.cached_tokens();
        Self {
            input_tokens: usage.prompt_tokens.saturating_sub(cached),
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: cached,
            output_tokens: usage.completion_tokens,
        }
    }
}

/// The answer of `/v1/messages/count_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CountTokensResponse {
    /// Of the prompt.
    pub input_tokens: u32,
}

/// Events of a stream.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum StreamEvent<'a> {
    MessageStart { message: &'a MessagesResponse },
    ContentBlockStart { index: usize, content_block: ContentBlock },
    ContentBlockDelta { index: usize, delta: BlockDelta<'a> },
    ContentBlockStop { index: usize },
    MessageDelta { delta: Stop<'a>, usage: MessagesUsage },
    MessageStop,
}

impl StreamEvent<'_> {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop => "message_stop",
        }
    }
}

/// What is new in a block.
#[derive(Debug, Serialize)]
#[serde(tag = "type")]
pub(super) enum BlockDelta<'a> {
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: String },
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: &'a str },
}

/// Why a message ended.
#[derive(Debug, Serialize)]
pub(super) struct Stop<'a> {
    pub(super) stop_reason: Option<&'static str>,
    pub(super) stop_sequence: Option<&'a str>,
}
