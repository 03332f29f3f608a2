//! What a push of four bytes costs, for plain text and for the arguments of a long call.
//!
//! `cargo run --release -p tyndall-parsers --example throughput [format]`, with the name of a
//! format that writes `<tool_call>` with JSON or with tags; without one, both.
#![expect(clippy::print_stdout, reason = "it is there to print")]

use std::hint::black_box;
use std::time::Instant;
use tyndall_parsers::{MessageParser, ParserOptions, ReasoningFormat, ToolFormat, UnknownParser};
use tyndall_types::{Tool, ToolChoice};

/// Bytes of a text that is measured.
const TEXT_BYTES: usize = 4_000_000;

fn main() -> Result<(), UnknownParser> {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let names = if named.is_empty() { vec!["hermes".into(), "qwen3_coder".into()] } else { named };
    for name in names {
        let format = ToolFormat::from_name(&name)?;
        measure(format, "reasoning", &words());
        measure(format, "content", &format!("</think>{}", words()));
        let (open, close) = match format {
            ToolFormat::Qwen3Coder => {
                ("<function=f>\n<parameter=a>\n", "\n</parameter></function>")
            }
            _ => ("{\"name\": \"f\", \"arguments\": {\"a\": \"", "\"}}"),
        };
        let call = format!("</think><tool_call>\n{open}{}{close}\n</tool_call>", words());
        measure(format, "arguments", &call);
    }
    Ok(())
}

fn words() -> String {
    "The quick brown fox <jumps> over the lazy dog; 1 < 2.\\n "
        .chars()
        .cycle()
        .take(TEXT_BYTES)
        .collect()
}

fn measure(format: ToolFormat, what: &str, text: &str) {
    let mut parser = MessageParser::new(ParserOptions {
        reasoning: Some(ReasoningFormat::Qwen3),
        thinking: true,
        prompt_opens_reasoning: true,
        tools: vec![Tool {
            name: "f".to_owned(),
            description: None,
            parameters: serde_json::json!({"properties": {"a": {"type": "string"}}}),
            strict: false,
        }],
        choice: ToolChoice::Auto,
        format: Some(format),
        parallel: true,
    });
    let mut pieces = 0_u32;
    let begin = Instant::now();
    // The text is ASCII, so every cut is one between characters.
    for at in (0..text.len()).step_by(4) {
        black_box(parser.push(black_box(&text[at..(at + 4).min(text.len())])));
        pieces += 1;
    }
    black_box(parser.finish());
    let ns = begin.elapsed().as_nanos() as f64 / f64::from(pieces);
    println!("{:12} {what:10} {ns:6.1} ns per push of 4 bytes", format.name());
}
