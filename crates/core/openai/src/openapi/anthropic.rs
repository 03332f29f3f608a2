//! Requests in Anthropic's words.

use super::chat::function;
use super::sampling::{cache_salt, effort, json_schema, model, refused, sampling, stop, template};
use super::schema::{
    Properties, any_of, bool, count, list, list_of, null, object, one_of, or_null, reference,
    string, text, told,
};
use crate::anthropic::MIN_BUDGET_TOKENS;
use serde_json::{Value, json};

fn block(kind: &'static str, properties: Properties, required: &[&str]) -> Value {
    let mut all = vec![("type", one_of(&[kind]))];
    all.extend(properties);
    object(all, &[&["type"], required].concat())
}

/// Blocks where only text may be.
pub(super) fn text_block() -> Value {
    any_of([
        block("text", vec![("text", string())], &["text"]),
        block("tool_reference", vec![("tool_name", string())], &["tool_name"]),
    ])
}

fn texts() -> Value {
    any_of([string(), list(reference("AnthropicTextBlock"))])
}

pub(super) fn message() -> Value {
    let of = |role: &str, content: Value| {
        object(vec![("role", one_of(&[role])), ("content", content)], &["role", "content"])
    };
    let text = || block("text", vec![("text", string())], &["text"]);
    let result =
        vec![("tool_use_id", string()), ("content", or_null(texts())), ("is_error", json!({}))];
    let user = any_of([text(), block("tool_result", result, &["tool_use_id"])]);
    let call =
        vec![("id", string()), ("name", string()), ("input", json!({"type": ["object", "null"]}))];
    let assistant = any_of([
        text(),
        block("thinking", vec![("thinking", string())], &["thinking"]),
        block("redacted_thinking", vec![], &[]),
        block("tool_use", call, &["id", "name"]),
    ]);
    any_of([
        of("user", any_of([string(), list(user)])),
        of("assistant", any_of([string(), list(assistant)])),
        of("system", texts()),
    ])
}

pub(super) fn tool() -> Value {
    let mut properties = vec![("type", or_null(one_of(&["custom"])))];
    properties.extend(function("input_schema"));
    object(properties, &["name"])
}

fn tool_choice() -> Value {
    let of = |kind: &[&str], more: Properties, required: &[&str]| {
        let mut properties =
            vec![("type", one_of(kind)), ("disable_parallel_tool_use", or_null(bool()))];
        properties.extend(more);
        object(properties, &[&["type"], required].concat())
    };
    let schema = any_of([
        of(&["auto", "none", "any"], vec![], &[]),
        of(&["tool"], vec![("name", text())], &["name"]),
        null(),
    ]);
    told(schema, "any and tool need tools, and tool the name of one of them.")
}

fn thinking() -> Value {
    let of = |kinds: &[&str], more: Properties, required: &[&str]| {
        let mut properties = vec![("type", one_of(kinds)), ("display", or_null(string()))];
        properties.extend(more);
        object(properties, &[&["type"], required].concat())
    };
    let budget = told(count(MIN_BUDGET_TOKENS, u32::MAX), "Less than max_tokens.");
    any_of([
        of(&["enabled"], vec![("budget_tokens", budget)], &["budget_tokens"]),
        of(&["disabled", "adaptive", "between_tools"], vec![], &[]),
        null(),
    ])
}

fn format() -> Value {
    let properties = vec![("type", one_of(&["json_schema"])), ("schema", json_schema())];
    or_null(object(properties, &["type", "schema"]))
}

fn shared() -> Properties {
    let mut properties = vec![
        model(),
        (
            "messages",
            told(
                list_of(reference("AnthropicMessage"), 1, usize::MAX),
                "One at least that is not a system message without text.",
            ),
        ),
        ("system", or_null(texts())),
        ("stop_sequences", stop()),
        ("stream", told(or_null(bool()), "Answer as server-sent events.")),
        ("tools", or_null(list(reference("AnthropicTool")))),
        ("tool_choice", tool_choice()),
        ("thinking", thinking()),
        ("output_config", or_null(object(vec![("effort", effort()), ("format", format())], &[]))),
        ("output_format", told(format(), "Not together with output_config.format.")),
        ("container", refused()),
        ("mcp_servers", told(or_null(list_of(json!({}), 0, 0)), "Not supported.")),
        ("cache_salt", cache_salt()),
    ];
    properties.extend(sampling());
    properties.extend(template());
    properties
}

pub(super) fn messages_request() -> Value {
    let mut properties = shared();
    let most = told(count(1, u32::MAX), "Cut to what the context leaves.");
    properties.push(("max_tokens", most));
    object(properties, &["messages", "max_tokens"])
}

pub(super) fn count_tokens_request() -> Value {
    object(shared(), &["messages"])
}
