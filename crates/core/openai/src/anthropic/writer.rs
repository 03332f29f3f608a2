//! Answers in Anthropic's words, whole or event by event.

use super::response::{
    BlockDelta, ContentBlock, MessagesResponse, MessagesUsage, Stop, StreamEvent,
};
use crate::ids::digest;
use crate::message::{Event, EventWriter, Message, MessageEnd, MessagePiece};
use crate::{ApiError, CallIds, ToolCall, Usage};
use serde_json::{Map, Value, json};
use tyndall_types::{FinishReason, MessageDelta, StopReason};

/// What all parts of one answer have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessagesHead {
    /// `msg_…`.
    pub id: String,
    /// The public model id.
    pub model: String,
    /// The thoughts are told.
    pub reasoning: bool,
    /// How the ids of calls look.
    pub call_ids: CallIds,
}

impl MessagesHead {
    fn call_id(&self, call: usize) -> String {
        self.call_ids.prefixed("toolu_", &self.id, 0, call)
    }

    /// Of a block of thoughts. Nothing is ever checked against it.
    fn signature(&self, block: usize) -> String {
        digest(&(&self.id, "signature", block))
    }

    fn response(&self, content: Vec<ContentBlock>, usage: &Usage) -> MessagesResponse {
        MessagesResponse {
            id: self.id.clone(),
            kind: "message",
            role: "assistant",
            model: self.model.clone(),
            content,
            stop_reason: None,
            stop_sequence: None,
            usage: MessagesUsage::from(usage),
        }
    }
}

/// The reason and the stop sequence of an end.
fn stop(end: Option<&MessageEnd>, has_calls: bool) -> Stop<'_> {
    let none = Stop { stop_reason: None, stop_sequence: None };
    let Some(end) = end else { return none };
    let because = |reason| Stop { stop_reason: Some(reason), stop_sequence: None };
    match (end.reason, &end.stop) {
        (FinishReason::Length, _) => because("max_tokens"),
        (FinishReason::Stop, _) if has_calls => because("tool_use"),
        (FinishReason::Stop, Some(StopReason::Text(text))) => {
            Stop { stop_sequence: Some(text), ..because("stop_sequence") }
        }
        (FinishReason::Stop | FinishReason::Repetition, _) => because("end_turn"),
        (FinishReason::Abort | FinishReason::Error, _) => none,
    }
}

/// The whole answer.
#[must_use]
pub fn messages_response(head: &MessagesHead, message: Message, usage: &Usage) -> MessagesResponse {
    let mut content = Vec::new();
    if let Some(thinking) = message.reasoning.filter(|_| head.reasoning) {
        content.push(ContentBlock::Thinking { thinking, signature: head.signature(0) });
    }
    content.extend(message.content.map(|text| ContentBlock::Text { text }));
    let stop = stop(Some(&message.end), !message.tool_calls.is_empty());
    let call = |(number, ToolCall { name, arguments })| ContentBlock::ToolUse {
        id: head.call_id(number),
        name,
        input: input(arguments),
    };
    content.extend(message.tool_calls.into_iter().enumerate().map(call));
    MessagesResponse {
        stop_reason: stop.stop_reason,
        stop_sequence: stop.stop_sequence.map(str::to_owned),
        ..head.response(content, usage)
    }
}

fn input(arguments: String) -> Value {
    match serde_json::from_str(&arguments) {
        Ok(object @ Value::Object(_)) => object,
        _ if arguments.is_empty() => json!({}),
        _ => json!({"INVALID_JSON": arguments}),
    }
}

/// A stream.
#[derive(Debug)]
pub struct MessagesWriter {
    head: MessagesHead,
    /// What the open block is of, if one is open.
    open: Option<Open>,
    /// Blocks that have begun.
    num_blocks: usize,
    num_calls: usize,
    end: Option<MessageEnd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Thinking,
    Text,
    /// Of this call.
    Call(usize),
}

impl MessagesWriter {
    /// A stream that has not begun.
    #[must_use]
    pub fn new(head: MessagesHead) -> Self {
        Self { head, open: None, num_blocks: 0, num_calls: 0, end: None }
    }

    /// Ends the open block.
    fn close(&mut self, events: &mut Vec<Event>) {
        let Some(open) = self.open.take() else { return };
        let index = self.num_blocks - 1;
        if open == Open::Thinking {
            let delta = BlockDelta::Signature { signature: self.head.signature(index) };
            events.push(event(&StreamEvent::ContentBlockDelta { index, delta }));
        }
        events.push(event(&StreamEvent::ContentBlockStop { index }));
    }

    /// Begins a block, unless one of its kind is open.
    fn open(&mut self, open: Open, content_block: ContentBlock, events: &mut Vec<Event>) {
        if self.open == Some(open) {
            return;
        }
        self.close(events);
        let index = self.num_blocks;
        self.num_blocks += 1;
        self.open = Some(open);
        events.push(event(&StreamEvent::ContentBlockStart { index, content_block }));
    }

    fn delta(&self, delta: BlockDelta<'_>) -> Event {
        event(&StreamEvent::ContentBlockDelta { index: self.num_blocks.saturating_sub(1), delta })
    }

    fn add(&mut self, delta: MessageDelta, events: &mut Vec<Event>) {
        match delta {
            MessageDelta::Reasoning(_) if !self.head.reasoning => {}
            MessageDelta::Reasoning(thinking) => {
                let (empty, signature) = (String::new(), String::new());
                let block = ContentBlock::Thinking { thinking: empty, signature };
                self.open(Open::Thinking, block, events);
                events.push(self.delta(BlockDelta::Thinking { thinking: &thinking }));
            }
            MessageDelta::Content(text) => {
                self.open(Open::Text, ContentBlock::Text { text: String::new() }, events);
                events.push(self.delta(BlockDelta::Text { text: &text }));
            }
            MessageDelta::ToolCall { index, name } => {
                let number = index as usize;
                let (id, input) = (self.head.call_id(number), Map::new().into());
                self.num_calls += 1;
                let block = ContentBlock::ToolUse { id, name, input };
                self.open(Open::Call(number), block, events);
            }
            MessageDelta::Arguments { index, fragment } => {
                // A block that was closed is never opened again.
                if self.open == Some(Open::Call(index as usize)) {
                    events.push(self.delta(BlockDelta::InputJson { partial_json: &fragment }));
                }
            }
        }
    }
}

fn event(event: &StreamEvent<'_>) -> Event {
    Event::named(event.name(), event)
}

impl EventWriter for MessagesWriter {
    fn begin(&mut self, usage: &Usage) -> Vec<Event> {
        let message = self.head.response(Vec::new(), usage);
        vec![event(&StreamEvent::MessageStart { message: &message })]
    }

    fn piece(&mut self, _: usize, piece: MessagePiece, _: &Usage) -> Vec<Event> {
        let mut events = Vec::new();
        for delta in piece.deltas {
            self.add(delta, &mut events);
        }
        if let Some(end) = piece.end {
            self.close(&mut events);
            self.end = Some(end);
        }
        events
    }

    fn end(&mut self, usage: &Usage) -> Vec<Event> {
        let mut events = Vec::new();
        self.close(&mut events);
        let delta = stop(self.end.as_ref(), self.num_calls > 0);
        let usage = MessagesUsage::from(usage);
        events.push(event(&StreamEvent::MessageDelta { delta, usage }));
        events.push(event(&StreamEvent::MessageStop));
        events
    }

    fn fail(&mut self, error: &ApiError) -> Vec<Event> {
        vec![Event::named("error", &error.anthropic_body())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> MessagesHead {
        let (id, model) = ("msg_1".to_owned(), "m".to_owned());
        MessagesHead { id, model, reasoning: true, call_ids: CallIds::Mistral }
    }

    fn piece(deltas: Vec<MessageDelta>) -> MessagePiece {
        MessagePiece { deltas, ..MessagePiece::default() }
    }

    fn pieces() -> Vec<MessagePiece> {
        let text = str::to_owned;
        let end = MessageEnd { reason: FinishReason::Stop, stop: None };
        vec![
            piece(vec![MessageDelta::Reasoning(text("h")), MessageDelta::Reasoning(text("m"))]),
            piece(vec![
                MessageDelta::Content(text("ok")),
                MessageDelta::ToolCall { index: 0, name: text("f") },
            ]),
            piece(vec![MessageDelta::Arguments { index: 0, fragment: text("{\"a\":1}") }]),
            MessagePiece { end: Some(end), ..MessagePiece::default() },
        ]
    }

    #[test]
    fn blocks_follow_each_other() {
        let mut writer = MessagesWriter::new(head());
        let mut events = writer.begin(&Usage::new(7, 0, 3));
        for piece in pieces() {
            events.extend(writer.piece(0, piece, &Usage::default()));
        }
        events.extend(writer.end(&Usage::new(7, 4, 3)));
        let (id, signature) = (head().call_id(0), head().signature(0));
        let expected = [
            json!({"type": "message_start", "message": {
                "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [],
                "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 4,
                "cache_creation_input_tokens": 0, "cache_read_input_tokens": 3, "output_tokens": 0}}}),
            json!({"type": "content_block_start", "index": 0,
                   "content_block": {"type": "thinking", "thinking": "", "signature": ""}}),
            json!({"type": "content_block_delta", "index": 0,
                   "delta": {"type": "thinking_delta", "thinking": "h"}}),
            json!({"type": "content_block_delta", "index": 0,
                   "delta": {"type": "thinking_delta", "thinking": "m"}}),
            json!({"type": "content_block_delta", "index": 0,
                   "delta": {"type": "signature_delta", "signature": signature}}),
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "content_block_start", "index": 1,
                   "content_block": {"type": "text", "text": ""}}),
            json!({"type": "content_block_delta", "index": 1,
                   "delta": {"type": "text_delta", "text": "ok"}}),
            json!({"type": "content_block_stop", "index": 1}),
            json!({"type": "content_block_start", "index": 2,
                   "content_block": {"type": "tool_use", "id": id, "name": "f", "input": {}}}),
            json!({"type": "content_block_delta", "index": 2,
                   "delta": {"type": "input_json_delta", "partial_json": "{\"a\":1}"}}),
            json!({"type": "content_block_stop", "index": 2}),
            json!({"type": "message_delta",
                   "delta": {"stop_reason": "tool_use", "stop_sequence": null},
                   "usage": {"input_tokens": 4, "cache_creation_input_tokens": 0,
                             "cache_read_input_tokens": 3, "output_tokens": 4}}),
            json!({"type": "message_stop"}),
        ];
        assert_eq!(events.len(), expected.len());
        for (event, expected) in events.iter().zip(&expected) {
            assert_eq!(event.data, expected.to_string());
            assert_eq!(event.name, expected["type"].as_str());
        }
    }

    #[test]
    fn the_whole_answer() {
        let usage = Usage::new(7, 4, 3);
        let whole = messages_response(&head(), Message::of(pieces()), &usage);
        assert_eq!(whole.stop_reason, Some("tool_use"));
        assert_eq!(
            serde_json::to_value(&whole.content).unwrap(),
            json!([
                {"type": "thinking", "thinking": "hm", "signature": head().signature(0)},
                {"type": "text", "text": "ok"},
                {"type": "tool_use", "id": head().call_id(0), "name": "f", "input": {"a": 1}},
            ])
        );
        let quiet = MessagesHead { reasoning: false, ..head() };
        assert_eq!(messages_response(&quiet, Message::of(pieces()), &usage).content.len(), 2);
        assert_eq!(messages_response(&head(), Message::of([]), &usage).content, []);
        assert_eq!(input("{\"a\": ".to_owned()), json!({"INVALID_JSON": "{\"a\": "}));
        assert_eq!(input(String::new()), json!({}));
    }

    #[test]
    fn reasons_to_stop() {
        let check =
            |reason, matched: Option<StopReason>, calls, expected: (Option<&str>, Option<&str>)| {
                let end = MessageEnd { reason, stop: matched };
                let stop = stop(Some(&end), calls);
                assert_eq!((stop.stop_reason, stop.stop_sequence), expected);
            };
        let text = || Some(StopReason::Text("x".to_owned()));
        check(FinishReason::Stop, None, false, (Some("end_turn"), None));
        check(FinishReason::Stop, Some(StopReason::Token(3)), false, (Some("end_turn"), None));
        check(FinishReason::Stop, text(), false, (Some("stop_sequence"), Some("x")));
        check(FinishReason::Stop, text(), true, (Some("tool_use"), None));
        check(FinishReason::Length, None, true, (Some("max_tokens"), None));
        check(FinishReason::Repetition, None, false, (Some("end_turn"), None));
        check(FinishReason::Abort, None, false, (None, None));
    }

    #[test]
    fn a_failure_is_the_last_event() {
        let mut writer = MessagesWriter::new(head());
        writer.begin(&Usage::default());
        let failed = writer.fail(&ApiError::unavailable("it is full"));
        assert_eq!(failed.len(), 1);
        assert_eq!(
            failed[0].to_wire(),
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"it is full\"}}\n\n"
        );
    }
}
