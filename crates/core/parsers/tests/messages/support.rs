//! What the tests share: tools, and deltas in a form that does not depend on cuts.

use serde_json::json;
use tyndall_parsers::{MessageParser, ParserOptions, ReasoningFormat, ToolFormat};
use tyndall_types::{MessageDelta, Tool, ToolChoice};

/// Tools with parameters of every type.
pub(crate) fn tools() -> Vec<Tool> {
    let tool = |name: &str, properties: serde_json::Value| Tool {
        name: name.to_owned(),
        description: None,
        parameters: json!({"type": "object", "properties": properties}),
        strict: false,
    };
    vec![
        tool("weather", json!({"city": {"type": "string"}, "days": {"type": "integer"}})),
        tool(
            "search",
            json!({
                "query": {"type": "string"},
                "filters": {"type": "object"},
                "exact": {"type": "boolean"},
            }),
        ),
        tool("now", json!({})),
    ]
}

/// Options in which everything may happen.
pub(crate) fn options(
    reasoning: Option<ReasoningFormat>,
    format: Option<ToolFormat>,
) -> ParserOptions {
    ParserOptions {
        reasoning,
        thinking: true,
        prompt_opens_reasoning: false,
        tools: tools(),
        choice: ToolChoice::Auto,
        format,
        parallel: true,
    }
}

/// Deltas of a text that comes in these pieces.
pub(crate) fn parse<'a>(
    options: &ParserOptions,
    pieces: impl IntoIterator<Item = &'a str>,
) -> Vec<MessageDelta> {
    let mut parser = MessageParser::new(options.clone());
    let mut deltas: Vec<MessageDelta> = Vec::new();
    for piece in pieces {
        deltas.extend(parser.push(piece));
    }
    deltas.extend(parser.finish());
    let mut joined = Vec::new();
    for delta in deltas {
        join(&mut joined, delta);
    }
    joined
}

fn join(joined: &mut Vec<MessageDelta>, delta: MessageDelta) {
    use MessageDelta::{Arguments, Content, Reasoning};
    match (joined.last_mut(), delta) {
        (Some(Content(so_far)), Content(text)) | (Some(Reasoning(so_far)), Reasoning(text)) => {
            so_far.push_str(&text);
        }
        (Some(Arguments { index, fragment }), Arguments { index: same, fragment: text })
            if *index == same =>
        {
            fragment.push_str(&text);
        }
        (_, delta) => joined.push(delta),
    }
}
