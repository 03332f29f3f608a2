//! Whatever a model says, the streams of Anthropic's and OpenAI's newer APIs are well formed and
//! say what the whole answer says.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use serde_json::{Value, json};
use tyndall_openai::{
    ApiError, CallIds, Event, EventWriter, Message, MessageEnd, MessagePiece, MessagesHead,
    MessagesWriter, ResponsesHead, ResponsesWriter, Usage, messages_response, parse_responses,
    responses_response,
};
use tyndall_types::{FinishReason, MessageDelta};

/// A part of an answer, in fragments.
#[derive(Debug, Clone)]
enum Part {
    Reasoning(Vec<String>),
    Content(Vec<String>),
    Call(String, Vec<String>),
}

fn fragments() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[a\"\\\\{é \n]{1,3}", 1..4)
}

fn call() -> impl Strategy<Value = Part> {
    let name = prop::sample::select(&["f", "patch", "other"][..]);
    let arguments = prop_oneof![
        Just(vec!["{\"input\":".to_owned(), "\"a\\nb\"}".to_owned()]),
        Just(vec!["{}".to_owned()]),
        Just(Vec::new()),
        fragments(),
    ];
    (name, arguments).prop_map(|(name, arguments)| Part::Call(name.to_owned(), arguments))
}

/// Parts in the order in which models answer.
fn ordered() -> impl Strategy<Value = Vec<Part>> {
    let one = |part: fn(Vec<String>) -> Part| prop::option::of(fragments().prop_map(part));
    let calls = prop::collection::vec(call(), 0..3);
    (one(Part::Reasoning), one(Part::Content), calls)
        .prop_map(|(thoughts, text, calls)| thoughts.into_iter().chain(text).chain(calls).collect())
}

fn any_order() -> impl Strategy<Value = Vec<Part>> {
    let part = prop_oneof![
        fragments().prop_map(Part::Reasoning),
        fragments().prop_map(Part::Content),
        call(),
    ];
    prop::collection::vec(part, 0..7)
}

fn reason() -> impl Strategy<Value = FinishReason> {
    use FinishReason::{Abort, Error, Length, Repetition, Stop};
    prop::sample::select(&[Stop, Length, Repetition, Abort, Error][..])
}

/// The pieces of an answer: `sizes` says how many deltas come at once.
fn pieces(parts: Vec<Part>, sizes: &[usize], reason: FinishReason) -> Vec<MessagePiece> {
    let mut deltas = Vec::new();
    let mut calls = 0;
    for part in parts {
        match part {
            Part::Reasoning(texts) => deltas.extend(texts.into_iter().map(MessageDelta::Reasoning)),
            Part::Content(texts) => deltas.extend(texts.into_iter().map(MessageDelta::Content)),
            Part::Call(name, arguments) => {
                let index = calls;
                calls += 1;
                deltas.push(MessageDelta::ToolCall { index, name });
                let of = |fragment| MessageDelta::Arguments { index, fragment };
                deltas.extend(arguments.into_iter().map(of));
            }
        }
    }
    let mut pieces = Vec::new();
    for size in sizes {
        let rest = deltas.split_off((*size).min(deltas.len()));
        pieces.push(MessagePiece { deltas, ..MessagePiece::default() });
        deltas = rest;
    }
    let end = Some(MessageEnd { reason, stop: None });
    pieces.push(MessagePiece { deltas, end, ..MessagePiece::default() });
    pieces
}

const USAGE: fn() -> Usage = || Usage::new(9, 5, 4);

/// All events; `fail_after` so many pieces the stream breaks off.
fn write(
    writer: &mut dyn EventWriter,
    pieces: Vec<MessagePiece>,
    fail_after: Option<usize>,
) -> Vec<Value> {
    let mut events = writer.begin(&Usage::new(9, 0, 4));
    let end = fail_after.unwrap_or(pieces.len());
    for piece in pieces.into_iter().take(end) {
        events.extend(writer.piece(0, piece, &USAGE()));
    }
    events.extend(match fail_after {
        Some(_) => writer.fail(&ApiError::replica_lost("it was lost")),
        None => writer.end(&USAGE()),
    });
    let data = |event: &Event| {
        let data: Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!(event.name, data["type"].as_str());
        data
    };
    events.iter().map(data).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string"))
}

fn append(value: &mut Value, more: &Value) {
    *value = format!("{}{}", text(value), text(more)).into();
}

/// Checks a stream of Anthropic's and gives the message that it amounts to; none if it failed.
fn read_messages(events: &[Value]) -> Option<Value> {
    assert_eq!(events[0]["type"], "message_start");
    let mut message = events[0]["message"].clone();
    let mut blocks: Vec<Value> = Vec::new();
    let mut open = false;
    let mut input = String::new();
    let (last, middle) = events[1..].split_last().unwrap();
    for event in middle {
        match text(&event["type"]) {
            "content_block_start" => {
                assert!(!open && event["index"] == blocks.len());
                blocks.push(event["content_block"].clone());
                (open, input) = (true, String::new());
            }
            "content_block_delta" => {
                assert!(open && event["index"] == blocks.len() - 1);
                let (delta, block) = (&event["delta"], blocks.last_mut().unwrap());
                match (text(&delta["type"]), text(&block["type"])) {
                    ("text_delta", "text") => append(&mut block["text"], &delta["text"]),
                    ("thinking_delta", "thinking") => {
                        append(&mut block["thinking"], &delta["thinking"]);
                    }
                    ("signature_delta", "thinking") => {
                        block["signature"] = delta["signature"].clone();
                    }
                    ("input_json_delta", "tool_use") => {
                        input.push_str(text(&delta["partial_json"]));
                    }
                    other => panic!("a delta of another block: {other:?}"),
                }
            }
            "content_block_stop" => {
                assert!(open && event["index"] == blocks.len() - 1);
                let block = blocks.last_mut().unwrap();
                match text(&block["type"]) {
                    "thinking" => assert!(!text(&block["signature"]).is_empty()),
                    "tool_use" if !input.is_empty() => {
                        block["input"] = serde_json::from_str(&input)
                            .ok()
                            .filter(Value::is_object)
                            .unwrap_or_else(|| json!({"INVALID_JSON": input}));
                    }
                    _ => {}
                }
                open = false;
            }
            "message_delta" => {
                assert!(!open && *last == json!({"type": "message_stop"}));
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
                message["usage"] = event["usage"].clone();
            }
            other => panic!("{other} in the middle"),
        }
    }
    if last["type"] == "error" {
        assert!(!middle.iter().any(|event| event["type"] == "message_delta"));
        return None;
    }
    assert_eq!(middle.last().unwrap()["type"], "message_delta");
    message["content"] = blocks.into();
    Some(message)
}

/// Checks a stream of OpenAI's and gives the answer of its last event.
fn read_responses(events: &[Value]) -> Value {
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    assert_eq!(events[0]["type"], "response.created");
    assert_eq!(events[1]["type"], "response.in_progress");
    let mut items: Vec<Value> = Vec::new();
    let mut open: Option<(Value, String)> = None;
    let (last, middle) = events[2..].split_last().unwrap();
    for event in middle {
        let kind = text(&event["type"]).strip_prefix("response.").unwrap();
        assert_eq!(event["output_index"], items.len());
        if kind == "output_item.added" {
            assert!(open.is_none());
            open = Some((event["item"].clone(), String::new()));
            continue;
        }
        let (item, told) = open.as_mut().expect("an item is open");
        if kind != "output_item.done" {
            assert_eq!(event["item_id"], item["id"]);
        }
        match (kind, text(&item["type"])) {
            ("content_part.added", "reasoning" | "message") => {
                assert_eq!(event["part"]["text"], "");
            }
            ("reasoning_text.delta", "reasoning")
            | ("output_text.delta", "message")
            | ("function_call_arguments.delta", "function_call")
            | ("custom_tool_call_input.delta", "custom_tool_call") => {
                told.push_str(text(&event["delta"]));
            }
            ("reasoning_text.done", "reasoning") | ("output_text.done", "message") => {
                assert_eq!(event["text"], *told);
            }
            ("content_part.done", "reasoning" | "message") => {
                assert_eq!(event["part"]["text"], *told);
            }
            ("function_call_arguments.done", "function_call") => {
                assert_eq!(event["arguments"], *told);
            }
            ("custom_tool_call_input.done", "custom_tool_call") => {
                assert_eq!(event["input"], *told);
            }
            ("output_item.done", kind) => {
                let done = &event["item"];
                assert_eq!((&done["id"], &done["type"]), (&item["id"], &item["type"]));
                let whole = match kind {
                    "function_call" => &done["arguments"],
                    "custom_tool_call" => &done["input"],
                    _ => &done["content"][0]["text"],
                };
                assert_eq!(whole, told);
                items.push(done.clone());
                open = None;
            }
            other => panic!("an event of another item: {other:?}"),
        }
    }
    let end = text(&last["type"]).strip_prefix("response.").unwrap();
    let response = &last["response"];
    assert_eq!(response["status"], end);
    assert_eq!(response["id"], events[0]["response"]["id"]);
    let output = response["output"].as_array().unwrap();
    assert_eq!(output[..items.len()], items);
    // What a failure interrupts is told, though no event says that it is done.
    assert_eq!(output.len() - items.len(), usize::from(open.is_some()));
    assert!(open.is_none() || end == "failed");
    response.clone()
}

fn messages_head() -> MessagesHead {
    let (id, model) = ("msg_1".to_owned(), "m".to_owned());
    MessagesHead { id, model, reasoning: true, call_ids: CallIds::Long }
}

fn responses_head() -> ResponsesHead {
    let body = json!({"input": "hi", "tools": [
        {"type": "function", "name": "f"}, {"type": "custom", "name": "patch"}]});
    ResponsesHead {
        id: "resp_1".to_owned(),
        created: 1,
        model: "m".to_owned(),
        call_ids: CallIds::Long,
        shape: parse_responses(body.to_string().as_bytes()).unwrap().shape,
    }
}

/// All text of one kind, in order.
fn joined(list: &Value, kind: &str, pointer: &str) -> String {
    let items = list.as_array().unwrap().iter().filter(|item| item["type"] == kind);
    items.map(|item| text(item.pointer(pointer).unwrap())).collect()
}

proptest! {
    #[test]
    fn streams_equal_whole_answers(
        parts in ordered(),
        sizes in prop::collection::vec(0usize..4, 0..6),
        reason in reason(),
    ) {
        let pieces = pieces(parts, &sizes, reason);
        let message = Message::of(pieces.clone());
        let events = write(&mut MessagesWriter::new(messages_head()), pieces.clone(), None);
        let whole = messages_response(&messages_head(), message.clone(), &USAGE());
        prop_assert_eq!(read_messages(&events).unwrap(), serde_json::to_value(whole).unwrap());
        let events = write(&mut ResponsesWriter::new(responses_head()), pieces, None);
        let whole = responses_response(&responses_head(), message, &USAGE());
        prop_assert_eq!(read_responses(&events), whole);
    }

    #[test]
    fn streams_in_any_order_say_everything(
        parts in any_order(),
        sizes in prop::collection::vec(0usize..4, 0..6),
        reason in reason(),
    ) {
        let pieces = pieces(parts, &sizes, reason);
        let message = Message::of(pieces.clone());
        let (thoughts, said) =
            (message.reasoning.unwrap_or_default(), message.content.unwrap_or_default());
        let events = write(&mut MessagesWriter::new(messages_head()), pieces.clone(), None);
        let content = read_messages(&events).unwrap()["content"].take();
        prop_assert_eq!(joined(&content, "thinking", "/thinking"), thoughts.as_str());
        prop_assert_eq!(joined(&content, "text", "/text"), said.as_str());
        let calls = content.as_array().unwrap().iter().filter(|block| block["type"] == "tool_use");
        prop_assert_eq!(calls.count(), message.tool_calls.len());

        let events = write(&mut ResponsesWriter::new(responses_head()), pieces, None);
        let output = read_responses(&events)["output"].take();
        prop_assert_eq!(joined(&output, "reasoning", "/content/0/text"), thoughts);
        prop_assert_eq!(joined(&output, "message", "/content/0/text"), said);
        let calls = output.as_array().unwrap().iter().filter(|item| item.get("call_id").is_some());
        prop_assert_eq!(calls.count(), message.tool_calls.len());
    }

    #[test]
    fn a_failure_ends_any_stream(
        parts in any_order(),
        sizes in prop::collection::vec(0usize..4, 0..6),
        fail_after in 0usize..8,
    ) {
        let pieces = pieces(parts, &sizes, FinishReason::Stop);
        let fail_after = Some(fail_after.min(sizes.len()));
        let mut writer = MessagesWriter::new(messages_head());
        prop_assert_eq!(read_messages(&write(&mut writer, pieces.clone(), fail_after)), None);
        let mut writer = ResponsesWriter::new(responses_head());
        let response = read_responses(&write(&mut writer, pieces, fail_after));
        prop_assert_eq!(&response["error"]["message"], "it was lost");
    }
}
