//! An answer to a conversation, before any API's words are put on it.
//!
//! Every chat API is a pair around the same middle: its request becomes a [`ChatRequest`], and what
//! the model answers, message by message or piece by piece, is written by its own writer: an
//! [`EventWriter`] for streams, a function of [`Message`]s for whole answers.
//!
//! [`ChatRequest`]: crate::ChatRequest

use crate::{ApiError, TokenLogprob, Usage};
use serde::Serialize;
use tyndall_types::{FinishReason, MessageDelta, StopReason};

/// What is new in a message.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MessagePiece {
    /// In order.
    pub deltas: Vec<MessageDelta>,
    /// Of the tokens that are new, when asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// The tokens that are new, when asked for.
    pub token_ids: Vec<u32>,
    /// In the last piece, and only there.
    pub end: Option<MessageEnd>,
}

/// How a message ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageEnd {
    /// Why.
    pub reason: FinishReason,
    /// What matched.
    pub stop: Option<StopReason>,
}

/// A whole message of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// What it thought; absent where it did not.
    pub reasoning: Option<String>,
    /// What it said; absent where it only thought or called.
    pub content: Option<String>,
    /// What it called, in order.
    pub tool_calls: Vec<ToolCall>,
    /// Of every token, when asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Every token, when asked for.
    pub token_ids: Vec<u32>,
    /// How it ended.
    pub end: MessageEnd,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// The function.
    pub name: String,
    /// JSON text of an object; of a part of one where the message was cut off.
    pub arguments: String,
}

impl Message {
    /// Joins the pieces of one message. Without an end it counts as aborted.
    #[must_use]
    pub fn of(pieces: impl IntoIterator<Item = MessagePiece>) -> Self {
        let end = MessageEnd { reason: FinishReason::Abort, stop: None };
        let mut message = Self {
            reasoning: None,
            content: None,
            tool_calls: Vec::new(),
            logprobs: Vec::new(),
            token_ids: Vec::new(),
            end,
        };
        for piece in pieces {
            piece.deltas.into_iter().for_each(|delta| message.add(delta));
            message.logprobs.extend(piece.logprobs);
            message.token_ids.extend(piece.token_ids);
            if let Some(end) = piece.end {
                message.end = end;
            }
        }
        message
    }

    fn add(&mut self, delta: MessageDelta) {
        match delta {
            MessageDelta::Reasoning(text) => {
                self.reasoning.get_or_insert_default().push_str(&text);
            }
            MessageDelta::Content(text) => self.content.get_or_insert_default().push_str(&text),
            MessageDelta::ToolCall { name, .. } => {
                self.tool_calls.push(ToolCall { name, arguments: String::new() });
            }
            MessageDelta::Arguments { index, fragment } => {
                if let Some(call) = self.tool_calls.get_mut(index as usize) {
                    call.arguments.push_str(&fragment);
                }
            }
        }
    }
}

/// A server-sent event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its `event:` line; none on OpenAI's older routes.
    pub name: Option<&'static str>,
    /// One line.
    pub data: String,
}

impl Event {
    /// An event without a name, of a value's JSON.
    #[must_use]
    pub fn of<T: Serialize>(value: &T) -> Self {
        Self { name: None, data: json(value) }
    }

    /// An event with a name, of a value's JSON.
    #[must_use]
    pub fn named<T: Serialize>(name: &'static str, value: &T) -> Self {
        Self { name: Some(name), data: json(value) }
    }

    /// The last event of OpenAI's older routes.
    #[must_use]
    pub fn done() -> Self {
        Self { name: None, data: "[DONE]".to_owned() }
    }

    /// As it goes over the wire.
    #[must_use]
    pub fn to_wire(&self) -> String {
        match self.name {
            Some(name) => format!("event: {name}\ndata: {}\n\n", self.data),
            None => format!("data: {}\n\n", self.data),
        }
    }
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("wire types have string keys only")
}

/// Writes a stream in one API's words. The calls come in this order: [`begin`](Self::begin) once,
/// [`piece`](Self::piece) until every message has ended, then [`end`](Self::end); or, at any time
/// after `begin`, [`fail`](Self::fail) as the last one. Whichever comes last writes the one terminal
/// event.
pub trait EventWriter: Send {
    /// Before the first piece; `usage` has the prompt's tokens, and none of the answer's.
    fn begin(&mut self, usage: &Usage) -> Vec<Event>;
    /// A piece of message `index`; `usage` is of all messages so far.
    fn piece(&mut self, index: usize, piece: MessagePiece, usage: &Usage) -> Vec<Event>;
    /// Every message has ended.
    fn end(&mut self, usage: &Usage) -> Vec<Event>;
    /// It cannot go on.
    fn fail(&mut self, error: &ApiError) -> Vec<Event>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_to_a_message() {
        let text = |text: &str| text.to_owned();
        let deltas = [
            MessageDelta::Reasoning(text("a")),
            MessageDelta::Reasoning(text("b")),
            MessageDelta::Content(text("c")),
            MessageDelta::ToolCall { index: 0, name: text("f") },
            MessageDelta::Arguments { index: 0, fragment: text("{\"x\"") },
            MessageDelta::Arguments { index: 0, fragment: text(": 1}") },
            MessageDelta::ToolCall { index: 1, name: text("g") },
            MessageDelta::Arguments { index: 1, fragment: text("{}") },
        ];
        let end = MessageEnd { reason: FinishReason::Stop, stop: Some(StopReason::Token(3)) };
        let pieces = deltas.into_iter().map(|delta| MessagePiece {
            deltas: vec![delta],
            token_ids: vec![7],
            ..MessagePiece::default()
        });
        let last = MessagePiece { end: Some(end.clone()), ..MessagePiece::default() };
        let message = Message::of(pieces.chain([last]));
        let call = |name: &str, arguments: &str| ToolCall {
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        };
        assert_eq!(message.reasoning.as_deref(), Some("ab"));
        assert_eq!(message.content.as_deref(), Some("c"));
        assert_eq!(message.tool_calls, [call("f", "{\"x\": 1}"), call("g", "{}")]);
        assert_eq!((message.token_ids.len(), message.end), (8, end));
        assert_eq!(Message::of([]).content, None);
    }

    #[test]
    fn events_on_the_wire() {
        assert_eq!(Event::of(&1).to_wire(), "data: 1\n\n");
        assert_eq!(Event::named("ping", &"x").to_wire(), "event: ping\ndata: \"x\"\n\n");
    }
}
