//! Transcripts of each family, whole and character by character.

use crate::support::{options, parse};
use crate::transcripts;
use tyndall_parsers::{MessageParser, ParserOptions, ReasoningFormat, ToolFormat, markers};
use tyndall_types::{MessageDelta, ToolChoice};

fn shown(deltas: &[MessageDelta]) -> Vec<String> {
    let show = |delta: &MessageDelta| match delta {
        MessageDelta::Reasoning(text) => format!("R{text}"),
        MessageDelta::Content(text) => format!("C{text}"),
        MessageDelta::ToolCall { name, .. } => format!("N{name}"),
        MessageDelta::Arguments { fragment, .. } => format!("A{fragment}"),
    };
    deltas.iter().map(show).collect()
}

#[test]
fn transcripts_mean_what_they_mean() {
    for transcript in transcripts::all() {
        let whole = parse(&transcript.options, [transcript.text]);
        assert_eq!(shown(&whole), transcript.deltas, "{}", transcript.text);
        let chars = transcript.text.split_inclusive(|_: char| true);
        assert_eq!(parse(&transcript.options, chars), whole, "{}", transcript.text);
    }
}

#[test]
fn every_format_has_a_transcript_with_a_call_or_a_thought() {
    let all = transcripts::all();
    for format in ToolFormat::all() {
        let is_called = |deltas: &[&str]| deltas.iter().any(|delta| delta.starts_with('N'));
        assert!(all.iter().any(|t| t.options.format == Some(format) && is_called(t.deltas)));
    }
    for format in ReasoningFormat::all() {
        let is_thought = |deltas: &[&str]| deltas.iter().any(|delta| delta.starts_with('R'));
        assert!(all.iter().any(|t| t.options.reasoning == Some(format) && is_thought(t.deltas)));
    }
}

#[test]
fn complete_arguments_are_json_objects() {
    for transcript in transcripts::all() {
        let last_is_whole = |text: &&&str| text.starts_with("A{") && text.ends_with('}');
        for arguments in transcript.deltas.iter().filter(last_is_whole) {
            let json: serde_json::Value = serde_json::from_str(&arguments[1..]).expect("is JSON");
            assert!(json.is_object());
        }
    }
}

#[test]
fn arguments_come_as_they_are_written() {
    let mut parser = MessageParser::new(options(None, Some(ToolFormat::Qwen3Coder)));
    let mut push = |text: &str| shown(&parser.push(text));
    assert_eq!(push("Hi <tool_"), ["CHi "]);
    assert_eq!(push("call><function=weather>"), ["Nweather"]);
    assert_eq!(push("<parameter=city>Ro"), ["A{\"city\": \"Ro"]);
    assert_eq!(push("me\n"), ["Ame"]);
    assert_eq!(push("</parameter"), [""; 0]);
    assert_eq!(push("></function>"), ["A\"}"]);
    assert_eq!(parser.num_calls(), 1);
}

#[test]
fn it_says_when_reasoning_ends() {
    let check = |options: &ParserOptions, pieces: &[(&str, bool)]| {
        let mut parser = MessageParser::new(options.clone());
        for (piece, is_reasoning) in pieces {
            parser.push(piece);
            assert_eq!(parser.is_reasoning(), *is_reasoning, "{piece}");
        }
    };
    let r1 = options(Some(ReasoningFormat::DeepseekR1), None);
    check(&r1, &[("", true), ("a</thi", true), ("nk>", false), ("b", false)]);
    let off = ParserOptions { thinking: false, ..options(Some(ReasoningFormat::Qwen3), None) };
    check(&off, &[("", false), ("a", false)]);
    let mistral = options(Some(ReasoningFormat::Mistral), None);
    check(&mistral, &[("", false), ("[THINK]", true), ("a[/THINK]", false), ("[THINK]", true)]);
    let harmony = options(Some(ReasoningFormat::Harmony), None);
    check(
        &harmony,
        &[
            ("<|channel|>analysis<|message|>a", true),
            ("<|end|><|start|>assistant<|channel|>final", true),
            ("<|message|>", false),
            ("b<|return|>", false),
        ],
    );
}

#[test]
fn an_end_marker_ends_reasoning() {
    for format in ReasoningFormat::all() {
        let options = ParserOptions { prompt_opens_reasoning: true, ..options(Some(format), None) };
        let deltas = parse(&options, ["thought", format.end_marker(), "answer"]);
        assert_eq!(shown(&deltas), ["Rthought", "Canswer"], "{}", format.name());
    }
}

#[test]
fn markers_are_those_of_both_formats() {
    let both = markers(Some(ReasoningFormat::Mistral), Some(ToolFormat::Mistral));
    assert_eq!(both, ["[/THINK]", "[ARGS]", "[CALL_ID]", "[THINK]", "[TOOL_CALLS]"]);
    assert!(markers(Some(ReasoningFormat::Harmony), None).contains(&"<|channel|>"));
    assert_eq!(markers(None, None), [""; 0]);
}

#[test]
fn a_finished_parser_says_no_more() {
    let options = ParserOptions { choice: ToolChoice::Auto, ..options(None, None) };
    let mut parser = MessageParser::new(options);
    assert_eq!(shown(&parser.push(" ")), [""; 0]);
    assert_eq!(shown(&parser.finish()), ["C "]);
    assert_eq!(shown(&parser.finish()), [""; 0]);
}
