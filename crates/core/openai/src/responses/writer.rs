//! Answers event by event.

use super::items::{COMPLETED, IN_PROGRESS, Item, input};
use super::response::{ResponsesHead, State};
use crate::message::{Event, EventWriter, MessageEnd, MessagePiece};
use crate::{ApiError, TokenLogprob, Usage};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tyndall_types::MessageDelta;

/// A stream. It keeps all that it has told, for its last event holds the whole answer.
#[derive(Debug)]
pub struct ResponsesWriter {
    head: ResponsesHead,
    /// Of the next event.
    sequence_number: u64,
    /// Items that are complete.
    output: Vec<Value>,
    open: Option<Open>,
    end: Option<MessageEnd>,
    /// As last reported.
    usage: Usage,
}

/// The item that goes on.
#[derive(Debug)]
struct Open {
    item: Item,
    id: String,
}

/// The events that there are many of.
#[derive(Debug, Serialize)]
struct Delta<'a> {
    #[serde(rename = "type")]
    name: &'static str,
    sequence_number: u64,
    item_id: &'a str,
    output_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_index: Option<usize>,
    delta: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<&'a [TokenLogprob]>,
}

impl ResponsesWriter {
    /// A stream that has not begun.
    #[must_use]
    pub fn new(head: ResponsesHead) -> Self {
        let usage = Usage::default();
        Self { head, sequence_number: 0, output: Vec::new(), open: None, end: None, usage }
    }

    fn number(&mut self) -> u64 {
        let number = self.sequence_number;
        self.sequence_number += 1;
        number
    }

    /// An event of these fields, which must be an object's.
    fn event(&mut self, name: &'static str, fields: Value) -> Event {
        let mut event = Map::new();
        event.insert("type".to_owned(), name.into());
        event.insert("sequence_number".to_owned(), self.number().into());
        if let Value::Object(fields) = fields {
            event.extend(fields);
        }
        Event::named(name, &event)
    }

    fn lifecycle(&mut self, name: &'static str, response: Value) -> Event {
        self.event(name, json!({"response": response}))
    }

    /// A piece of the open item.
    fn delta(
        &mut self,
        name: &'static str,
        delta: &str,
        logprobs: Option<&[TokenLogprob]>,
    ) -> Option<Event> {
        let sequence_number = self.number();
        let Open { id, item } = self.open.as_ref()?;
        let content_index = item.has_part().then_some(0);
        let output_index = self.output.len();
        let item_id = id.as_str();
        let delta =
            Delta { name, sequence_number, item_id, output_index, content_index, delta, logprobs };
        Some(Event::named(name, &delta))
    }

    fn open(&mut self, item: Item, events: &mut Vec<Event>) {
        self.close(COMPLETED, events);
        let output_index = self.output.len();
        let id = item.id(&self.head, output_index);
        let value = item.value(&self.head, output_index, IN_PROGRESS);
        let added = json!({"output_index": output_index, "item": value});
        events.push(self.event("response.output_item.added", added));
        if let Some(part) = item.part() {
            let fields = json!({
                "item_id": id, "output_index": output_index, "content_index": 0, "part": part,
            });
            events.push(self.event("response.content_part.added", fields));
        }
        self.open = Some(Open { item, id });
    }

    /// Ends the open item, if one is open.
    fn close(&mut self, status: &str, events: &mut Vec<Event>) {
        let Some(Open { item, id: item_id }) = self.open.take() else { return };
        let output_index = self.output.len();
        let part = item.part();
        match &item {
            Item::Reasoning(text) => {
                let fields = json!({
                    "item_id": item_id, "output_index": output_index, "content_index": 0,
                    "text": text,
                });
                events.push(self.event("response.reasoning_text.done", fields));
            }
            Item::Message { text, logprobs } => {
                let fields = json!({
                    "item_id": item_id, "output_index": output_index, "content_index": 0,
                    "text": text, "logprobs": logprobs,
                });
                events.push(self.event("response.output_text.done", fields));
            }
            Item::Call { tool, arguments, .. } if tool.custom => {
                let input = input(arguments);
                let place = json!({"item_id": item_id, "output_index": output_index});
                let mut fields = place.clone();
                fields["delta"] = input.as_str().into();
                events.push(self.event("response.custom_tool_call_input.delta", fields));
                let mut fields = place;
                fields["input"] = input.into();
                events.push(self.event("response.custom_tool_call_input.done", fields));
            }
            Item::Call { tool, arguments, .. } => {
                let fields = json!({
                    "item_id": item_id, "output_index": output_index, "name": tool.name,
                    "arguments": arguments,
                });
                events.push(self.event("response.function_call_arguments.done", fields));
            }
        }
        if let Some(part) = part {
            let fields = json!({
                "item_id": item_id, "output_index": output_index, "content_index": 0, "part": part,
            });
            events.push(self.event("response.content_part.done", fields));
        }
        let value = item.value(&self.head, output_index, status);
        let fields = json!({"output_index": output_index, "item": value});
        events.push(self.event("response.output_item.done", fields));
        self.output.push(value);
    }

    fn add(
        &mut self,
        delta: MessageDelta,
        logprobs: &mut Vec<TokenLogprob>,
        events: &mut Vec<Event>,
    ) {
        match delta {
            MessageDelta::Reasoning(_) if !self.head.shape.reasoning => {}
            MessageDelta::Reasoning(more) => {
                if !matches!(self.open, Some(Open { item: Item::Reasoning(_), .. })) {
                    self.open(Item::Reasoning(String::new()), events);
                }
                events.extend(self.delta("response.reasoning_text.delta", &more, None));
                if let Some(Open { item: Item::Reasoning(text), .. }) = &mut self.open {
                    text.push_str(&more);
                }
            }
            MessageDelta::Content(more) => {
                if !matches!(self.open, Some(Open { item: Item::Message { .. }, .. })) {
                    let item = Item::Message { text: String::new(), logprobs: Vec::new() };
                    self.open(item, events);
                }
                let new = std::mem::take(logprobs);
                events.extend(self.delta("response.output_text.delta", &more, Some(&new)));
                if let Some(Open { item: Item::Message { text, logprobs }, .. }) = &mut self.open {
                    text.push_str(&more);
                    logprobs.extend(new);
                }
            }
            MessageDelta::ToolCall { index, name } => {
                let (number, tool) = (index as usize, self.head.shape.tool(&name));
                self.open(Item::Call { number, tool, arguments: String::new() }, events);
            }
            MessageDelta::Arguments { index, fragment } => {
                // An item that was ended is never gone on with. The input of a custom tool is one
                // string inside of the arguments: it is told when they are whole.
                let Some(Open { item: Item::Call { number, tool, .. }, .. }) = &self.open else {
                    return;
                };
                if *number != index as usize {
                    return;
                }
                if !tool.custom {
                    let name = "response.function_call_arguments.delta";
                    events.extend(self.delta(name, &fragment, None));
                }
                if let Some(Open { item: Item::Call { arguments, .. }, .. }) = &mut self.open {
                    arguments.push_str(&fragment);
                }
            }
        }
    }
}

impl EventWriter for ResponsesWriter {
    fn begin(&mut self, usage: &Usage) -> Vec<Event> {
        self.usage = *usage;
        let response = self.head.response(&State::new(IN_PROGRESS), Vec::new(), None);
        vec![
            self.lifecycle("response.created", response.clone()),
            self.lifecycle("response.in_progress", response),
        ]
    }

    fn piece(&mut self, _: usize, piece: MessagePiece, usage: &Usage) -> Vec<Event> {
        self.usage = *usage;
        let mut events = Vec::new();
        let mut logprobs = if self.head.shape.logprobs { piece.logprobs } else { Vec::new() };
        for delta in piece.deltas {
            self.add(delta, &mut logprobs, &mut events);
        }
        // Tokens without text of their own, such as the first bytes of a character.
        if let Some(Open { item: Item::Message { logprobs: all, .. }, .. }) = &mut self.open
            && !logprobs.is_empty()
        {
            all.extend(logprobs.iter().cloned());
            events.extend(self.delta("response.output_text.delta", "", Some(&logprobs)));
        }
        if let Some(end) = piece.end {
            self.close(State::of(&end).item_status, &mut events);
            self.end = Some(end);
        }
        events
    }

    fn end(&mut self, usage: &Usage) -> Vec<Event> {
        let state = self.end.as_ref().map_or_else(|| State::new(COMPLETED), State::of);
        let mut events = Vec::new();
        self.close(state.item_status, &mut events);
        let output = std::mem::take(&mut self.output);
        let response = self.head.response(&state, output, Some(usage));
        events.push(self.lifecycle(state.event(), response));
        events
    }

    fn fail(&mut self, error: &ApiError) -> Vec<Event> {
        let state = State::failed(error);
        let mut output = std::mem::take(&mut self.output);
        if let Some(open) = self.open.take() {
            output.push(open.item.value(&self.head, output.len(), state.item_status));
        }
        let response = self.head.response(&state, output, Some(&self.usage));
        vec![self.lifecycle(state.event(), response)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ResponseShape, parse_responses, responses_response};
    use super::*;
    use crate::{CallIds, Message};
    use tyndall_types::FinishReason;

    fn head() -> ResponsesHead {
        let body = json!({
            "input": "hi",
            "include": ["reasoning.encrypted_content"],
            "tools": [
                {"type": "function", "name": "f"},
                {"type": "custom", "name": "patch"},
                {"type": "namespace", "name": "db", "tools": [{"type": "function", "name": "q"}]},
            ],
        });
        ResponsesHead {
            id: "resp_1".to_owned(),
            created: 1,
            model: "m".to_owned(),
            call_ids: CallIds::Long,
            shape: parse_responses(body.to_string().as_bytes()).unwrap().shape,
        }
    }

    fn pieces() -> Vec<MessagePiece> {
        let text = str::to_owned;
        let of = |deltas| MessagePiece { deltas, ..MessagePiece::default() };
        let call = |index, name| MessageDelta::ToolCall { index, name: text(name) };
        let arguments =
            |index, fragment| MessageDelta::Arguments { index, fragment: text(fragment) };
        let end = MessageEnd { reason: FinishReason::Stop, stop: None };
        vec![
            of(vec![MessageDelta::Reasoning(text("h")), MessageDelta::Reasoning(text("m"))]),
            of(vec![MessageDelta::Content(text("ok")), call(0, "f"), arguments(0, "{\"a\":")]),
            of(vec![arguments(0, "1}"), call(1, "patch"), arguments(1, "{\"input\":\"a\\nb\"}")]),
            of(vec![call(2, "db__q"), arguments(2, "{}")]),
            MessagePiece { end: Some(end), ..MessagePiece::default() },
        ]
    }

    fn streamed(pieces: Vec<MessagePiece>) -> Vec<Value> {
        let mut writer = ResponsesWriter::new(head());
        let usage = Usage::new(7, 4, 3);
        let mut events = writer.begin(&usage);
        for piece in pieces {
            events.extend(writer.piece(0, piece, &usage));
        }
        events.extend(writer.end(&usage));
        let parsed = events.iter().map(|event| {
            let data: Value = serde_json::from_str(&event.data).unwrap();
            assert_eq!(event.name, data["type"].as_str());
            data
        });
        parsed.collect()
    }

    #[test]
    fn events_come_in_openais_order() {
        let events = streamed(pieces());
        let names: Vec<&str> = events
            .iter()
            .map(|event| event["type"].as_str().unwrap().strip_prefix("response.").unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "created",
                "in_progress",
                "output_item.added",
                "content_part.added",
                "reasoning_text.delta",
                "reasoning_text.delta",
                "reasoning_text.done",
                "content_part.done",
                "output_item.done",
                "output_item.added",
                "content_part.added",
                "output_text.delta",
                "output_text.done",
                "content_part.done",
                "output_item.done",
                "output_item.added",
                "function_call_arguments.delta",
                "function_call_arguments.delta",
                "function_call_arguments.done",
                "output_item.done",
                "output_item.added",
                "custom_tool_call_input.delta",
                "custom_tool_call_input.done",
                "output_item.done",
                "output_item.added",
                "function_call_arguments.delta",
                "function_call_arguments.done",
                "output_item.done",
                "completed",
            ]
        );
        assert_eq!(events[2]["item"]["content"], json!([]));
        assert_eq!(events[3]["part"], json!({"type": "reasoning_text", "text": ""}));
        let text = &events[11];
        assert_eq!(
            (&text["delta"], &text["output_index"], &text["content_index"], &text["logprobs"]),
            (&json!("ok"), &json!(1), &json!(0), &json!([]))
        );
        assert_eq!(events[15]["item"]["arguments"], "");
        assert_eq!(events[22]["input"], "a\nb");
    }

    #[test]
    fn the_last_event_is_the_whole_answer() {
        let whole = responses_response(&head(), Message::of(pieces()), &Usage::new(7, 4, 3));
        let events = streamed(pieces());
        assert_eq!(events.last().unwrap()["response"], whole);
        let output = whole["output"].as_array().unwrap();
        let show = |item: &Value| {
            let id = item["id"].as_str().unwrap();
            format!("{} {}", item["type"].as_str().unwrap(), &id[..id.find('_').unwrap()])
        };
        let shown: Vec<String> = output.iter().map(show).collect();
        assert_eq!(
            shown,
            [
                "reasoning rs",
                "message msg",
                "function_call fc",
                "custom_tool_call ctc",
                "function_call fc"
            ]
        );
        assert!(output[0]["encrypted_content"].as_str().unwrap().starts_with("tyndall.1."));
        assert_eq!(output[2]["arguments"], "{\"a\":1}");
        assert!(output[2]["call_id"].as_str().unwrap().starts_with("call_"));
        assert_eq!((&output[3]["name"], &output[3]["input"]), (&json!("patch"), &json!("a\nb")));
        assert_eq!((&output[4]["name"], &output[4]["namespace"]), (&json!("q"), &json!("db")));
        assert_eq!(
            whole["usage"],
            json!({
                "input_tokens": 7,
                "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
                "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 11,
            })
        );
    }

    #[test]
    fn ends_that_are_not_complete() {
        let cut = |reason| {
            let mut pieces = pieces();
            pieces.truncate(2);
            let end = Some(MessageEnd { reason, stop: None });
            pieces.push(MessagePiece { end, ..MessagePiece::default() });
            let whole =
                responses_response(&head(), Message::of(pieces.clone()), &Usage::new(7, 4, 3));
            let last = streamed(pieces).pop().unwrap();
            assert_eq!(last["response"], whole);
            assert_eq!(whole["output"][2]["status"], "incomplete");
            assert_eq!(whole["output"][1]["status"], "completed");
            last
        };
        let length = cut(FinishReason::Length);
        assert_eq!(length["type"], "response.incomplete");
        assert_eq!(length["response"]["incomplete_details"]["reason"], "max_output_tokens");
        let aborted = cut(FinishReason::Abort);
        assert_eq!(aborted["type"], "response.failed");
        assert_eq!(aborted["response"]["error"]["code"], "server_error");
    }

    #[test]
    fn a_failure_tells_what_there_was() {
        let mut writer = ResponsesWriter::new(head());
        writer.begin(&Usage::new(7, 0, 0));
        for piece in pieces().drain(..2) {
            writer.piece(0, piece, &Usage::new(7, 2, 0));
        }
        let failed = writer.fail(&ApiError::replica_lost("it was lost"));
        assert_eq!((failed.len(), failed[0].name), (1, Some("response.failed")));
        let data: Value = serde_json::from_str(&failed[0].data).unwrap();
        let response = &data["response"];
        assert_eq!(response["error"], json!({"code": "server_error", "message": "it was lost"}));
        assert_eq!(response["output"].as_array().unwrap().len(), 3);
        assert_eq!(response["output"][2]["status"], "incomplete");
        let full =
            ApiError { param: Some("input_tokens".to_owned()), ..ApiError::invalid("", "x") };
        let failed = ResponsesWriter::new(head()).fail(&full);
        assert!(failed[0].data.contains("context_length_exceeded"));
    }

    #[test]
    fn thoughts_can_be_left_out() {
        let shape = ResponseShape { reasoning: false, ..head().shape };
        let head = ResponsesHead { shape, ..head() };
        let whole = responses_response(&head, Message::of(pieces()), &Usage::default());
        assert_eq!(whole["output"][0]["type"], "message");
        assert_eq!(ResponsesWriter::new(head).piece(0, pieces().remove(0), &Usage::default()), []);
    }

    #[test]
    fn logprobs_go_with_their_text() {
        let shape = ResponseShape { logprobs: true, ..head().shape };
        let head = ResponsesHead { shape, ..head() };
        let logprob = |token: &str| TokenLogprob {
            token: token.to_owned(),
            logprob: Some(-0.5),
            bytes: token.as_bytes().to_vec(),
            top_logprobs: Vec::new(),
        };
        let piece = |text: Option<&str>, token: &str| MessagePiece {
            deltas: text.map(|text| MessageDelta::Content(text.to_owned())).into_iter().collect(),
            logprobs: vec![logprob(token)],
            ..MessagePiece::default()
        };
        let end = MessageEnd { reason: FinishReason::Stop, stop: None };
        let last = MessagePiece { end: Some(end), ..piece(None, "</s>") };
        let pieces = vec![piece(Some("a"), "a"), piece(None, "b"), last];
        let usage = Usage::default();
        let whole = responses_response(&head, Message::of(pieces.clone()), &usage);
        assert_eq!(whole["output"][0]["content"][0]["logprobs"].as_array().unwrap().len(), 3);
        let mut writer = ResponsesWriter::new(head);
        let mut events = writer.begin(&usage);
        events.extend(pieces.into_iter().flat_map(|piece| writer.piece(0, piece, &usage)));
        events.extend(writer.end(&usage));
        let data = |event: &Event| serde_json::from_str::<Value>(&event.data).unwrap();
        let deltas = events.iter().filter(|e| e.name == Some("response.output_text.delta"));
        let told: Vec<Value> =
            deltas.map(|event| data(event)["logprobs"][0]["token"].clone()).collect();
        assert_eq!(told, ["a", "b", "</s>"]);
        assert_eq!(data(events.last().unwrap())["response"], whole);
    }
}
