//! Whole answers.

use super::ResponseShape;
use super::items::{COMPLETED, INCOMPLETE, Item};
use crate::message::{Message, MessageEnd};
use crate::{ApiError, CallIds, Usage};
use serde_json::{Value, json};
use tyndall_types::FinishReason;

/// What all parts of one answer have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponsesHead {
    /// `resp_…`.
    pub id: String,
    /// Unix seconds.
    pub created: u64,
    /// The public model id.
    pub model: String,
    /// How the ids of calls look.
    pub call_ids: CallIds,
    /// From the request.
    pub shape: ResponseShape,
}

/// How an answer stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct State {
    pub(super) status: &'static str,
    /// Of the last item, when it ends.
    pub(super) item_status: &'static str,
    incomplete_details: Value,
    error: Value,
}

impl State {
    pub(super) fn new(status: &'static str) -> Self {
        let item_status = if status == COMPLETED { COMPLETED } else { INCOMPLETE };
        Self { status, item_status, incomplete_details: Value::Null, error: Value::Null }
    }

    pub(super) fn of(end: &MessageEnd) -> Self {
        match end.reason {
            FinishReason::Stop | FinishReason::Repetition => Self::new(COMPLETED),
            FinishReason::Length => Self {
                incomplete_details: json!({"reason": "max_output_tokens"}),
                ..Self::new(INCOMPLETE)
            },
            FinishReason::Abort | FinishReason::Error => Self {
                error: json!({"code": "server_error", "message": "the answer was cut off"}),
                ..Self::new("failed")
            },
        }
    }

    pub(super) fn failed(error: &ApiError) -> Self {
        let code = match (error.status, error.param.as_deref()) {
            (400, Some("input_tokens")) => "context_length_exceeded",
            (429, _) => "rate_limit_exceeded",
            (400..=499, _) => "invalid_prompt",
            _ => "server_error",
        };
        Self { error: json!({"code": code, "message": error.message}), ..Self::new("failed") }
    }

    /// The name of the event that ends a stream so.
    pub(super) fn event(&self) -> &'static str {
        match self.status {
            COMPLETED => "response.completed",
            INCOMPLETE => "response.incomplete",
            _ => "response.failed",
        }
    }
}

impl ResponsesHead {
    /// The object with every field that OpenAI's clients read.
    pub(super) fn response(
        &self,
        state: &State,
        output: Vec<Value>,
        usage: Option<&Usage>,
    ) -> Value {
        let mut response = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": state.status,
            "background": false,
            "error": state.error,
            "incomplete_details": state.incomplete_details,
            "model": self.model,
            "output": output,
            "usage": usage.map(usage_view),
        });
        if let (Value::Object(response), Value::Object(echo)) = (&mut response, &self.shape.echo) {
            response.extend(echo.clone());
        }
        response
    }
}

fn usage_view(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens(), "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens()},
        "total_tokens": usage.total_tokens,
    })
}

/// The whole answer: OpenAI's `Response`. The log-probabilities of its text are those of every
/// token.
#[must_use]
pub fn responses_response(head: &ResponsesHead, message: Message, usage: &Usage) -> Value {
    let state = State::of(&message.end);
    let shape = &head.shape;
    let mut items = Vec::new();
    items.extend(message.reasoning.filter(|_| shape.reasoning).map(Item::Reasoning));
    let logprobs = if shape.logprobs { message.logprobs } else { Vec::new() };
    items.extend(message.content.map(|text| Item::Message { text, logprobs }));
    let calls = message.tool_calls.into_iter().enumerate();
    items.extend(calls.map(|(number, call)| Item::Call {
        number,
        tool: shape.tool(&call.name),
        arguments: call.arguments,
    }));
    let last = items.len().saturating_sub(1);
    let value = |(index, item): (usize, Item)| {
        item.value(head, index, if index == last { state.item_status } else { COMPLETED })
    };
    let output = items.into_iter().enumerate().map(value).collect();
    head.response(&state, output, Some(usage))
}
