//! Event streams of every API: whatever comes, each event is JSON on one line, and the last one is the
//! only terminal one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tyndall_fuzz::Choices;
use tyndall_openai::{
    ApiError, CallIds, ChatHead, ChatWriter, CompletionHead, CompletionWriter, Event, EventWriter,
    MessageEnd, MessagePiece, MessagesHead, MessagesWriter, ResponseShape, ResponsesHead,
    ResponsesWriter, StreamOptions, Usage,
};
use tyndall_types::{FinishReason, MessageDelta, StopReason};

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let (id, model) = (|| "x-1".to_owned(), || "m".to_owned());
    let (reasoning, call_ids) = (choices.flag(), CallIds::Long);
    let options =
        StreamOptions { include_usage: choices.flag(), continuous_usage_stats: choices.flag() };
    let num = 1 + choices.below(3);
    let (writer, num): (Box<dyn EventWriter>, usize) = match choices.below(4) {
        0 => {
            let named_call = choices.flag();
            let (id, model) = (id(), model());
            let head = ChatHead {
                id,
                created: 1,
                model,
                logprobs: false,
                token_ids: false,
                reasoning,
                named_call,
                call_ids,
            };
            (Box::new(ChatWriter::new(head, options, num)), num)
        }
        1 => {
            let (id, model) = (id(), model());
            let head = CompletionHead { id, created: 1, model, logprobs: false, token_ids: false };
            (Box::new(CompletionWriter::new(head, options, num)), num)
        }
        2 => {
            let (id, model) = (id(), model());
            (Box::new(MessagesWriter::new(MessagesHead { id, model, reasoning, call_ids })), 1)
        }
        _ => {
            let shape = ResponseShape::default();
            let (id, model) = (id(), model());
            (
                Box::new(ResponsesWriter::new(ResponsesHead {
                    id,
                    created: 1,
                    model,
                    call_ids,
                    shape,
                })),
                1,
            )
        }
    };
    check(&written(writer, num, &mut choices));
});

fn written(mut writer: Box<dyn EventWriter>, num: usize, choices: &mut Choices<'_>) -> Vec<Event> {
    let mut usage = Usage::new(7, 0, 0);
    let mut events = writer.begin(&usage);
    let mut calls = vec![0; num];
    let mut open: Vec<usize> = (0..num).collect();
    while !open.is_empty() {
        if choices.below(24) == 1 {
            events.extend(writer.fail(&ApiError::replica_lost("it went")));
            return events;
        }
        let place = choices.below(open.len());
        let index = open[place];
        let deltas = (0..choices.below(3)).map(|_| delta(choices, &mut calls[index])).collect();
        let ends = choices.below(4) == 0;
        if ends {
            open.remove(place);
        }
        usage.completion_tokens += 1;
        usage.total_tokens += 1;
        let end = ends.then(|| MessageEnd {
            reason: [FinishReason::Stop, FinishReason::Length, FinishReason::Abort]
                [choices.below(3)],
            stop: choices.flag().then(|| StopReason::Text("stop".to_owned())),
        });
        let piece = MessagePiece { deltas, end, ..MessagePiece::default() };
        events.extend(writer.piece(index, piece, &usage));
    }
    events.extend(writer.end(&usage));
    events
}

/// In the order that parsers keep: arguments belong to the last call.
fn delta(choices: &mut Choices<'_>, calls: &mut u32) -> MessageDelta {
    const TEXTS: [&str; 5] = ["a", "\n\n", "data: [DONE]", "{\"x\": \"", "é\u{2028}"];
    let text = TEXTS[choices.below(TEXTS.len())].to_owned();
    match choices.below(4) {
        0 => MessageDelta::Reasoning(text),
        1 => MessageDelta::Content(text),
        2 => {
            *calls += 1;
            MessageDelta::ToolCall { index: *calls - 1, name: "f".to_owned() }
        }
        _ if *calls == 0 => MessageDelta::Content(text),
        _ => MessageDelta::Arguments { index: *calls - 1, fragment: text },
    }
}

fn check(events: &[Event]) {
    let (last, before) = events.split_last().expect("a stream has events");
    assert!(is_terminal(last), "{last:?}");
    for event in before {
        assert!(!is_terminal(event), "{event:?} is followed by more");
    }
    for event in events {
        assert!(!event.data.contains('\n'), "{event:?}");
        assert_eq!(event.to_wire().matches("\n\n").count(), 1, "{event:?}");
        if event.data != "[DONE]" {
            let value: Value = serde_json::from_str(&event.data).expect("JSON");
            if let (Some(name), Some(kind)) = (event.name, value["type"].as_str()) {
                assert_eq!(name, kind);
            }
        }
    }
}

fn is_terminal(event: &Event) -> bool {
    event.data == "[DONE]"
        || matches!(
            event.name,
            Some(
                "message_stop"
                    | "error"
                    | "response.completed"
                    | "response.incomplete"
                    | "response.failed"
            )
        )
}
