//! Texts of models: every form of calls and reasoning reads them without a panic, and the same
//! however they are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use tyndall_fuzz::{Choices, cut};
use tyndall_openai::{Message, MessagePiece};
use tyndall_parsers::{MessageParser, ParserOptions, ReasoningFormat, ToolFormat};
use tyndall_types::{MessageDelta, Tool, ToolChoice};

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let formats: Vec<Option<ToolFormat>> =
        std::iter::once(None).chain(ToolFormat::all().map(Some)).collect();
    let reasonings: Vec<Option<ReasoningFormat>> =
        std::iter::once(None).chain(ReasoningFormat::all().map(Some)).collect();
    let tool = |name: &str| Tool {
        name: name.to_owned(),
        description: None,
        parameters: json!({"type": "object", "properties": {
            "s": {"type": "string"}, "n": {"type": "number"}, "o": {"type": "object"},
        }}),
        strict: false,
    };
    let options = ParserOptions {
        reasoning: reasonings[choices.below(reasonings.len())],
        thinking: choices.flag(),
        prompt_opens_reasoning: choices.flag(),
        tools: vec![tool("f"), tool("get_weather")],
        choice: match choices.below(4) {
            0 => ToolChoice::None,
            1 => ToolChoice::Required,
            2 => ToolChoice::Named("f".to_owned()),
            _ => ToolChoice::Auto,
        },
        format: formats[choices.below(formats.len())],
        parallel: choices.flag(),
    };
    let cuts: Vec<u8> = (0..4).map(|_| choices.below(256) as u8).collect();
    let text = choices.text();
    let whole = read(options.clone(), &[&text]);
    let pieces = read(options, &cut(&text, &cuts));
    assert_eq!(message(whole), message(pieces));
});

fn read(options: ParserOptions, pieces: &[&str]) -> Vec<MessageDelta> {
    let mut parser = MessageParser::new(options);
    let mut deltas: Vec<MessageDelta> =
        pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    deltas.extend(parser.finish());
    let mut calls = 0;
    for delta in &deltas {
        match delta {
            MessageDelta::ToolCall { index, name } => {
                assert!(*index == calls && !name.is_empty());
                calls += 1;
            }
            MessageDelta::Arguments { index, fragment } => {
                assert!(*index + 1 == calls && !fragment.is_empty());
            }
            MessageDelta::Reasoning(_) | MessageDelta::Content(_) => {}
        }
    }
    assert_eq!(parser.num_calls(), calls);
    deltas
}

fn message(deltas: Vec<MessageDelta>) -> Message {
    Message::of([MessagePiece { deltas, ..MessagePiece::default() }])
}
