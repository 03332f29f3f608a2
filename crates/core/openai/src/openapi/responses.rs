//! Requests of `/v1/responses`.

use super::chat::{content, function};
use super::sampling::{
    effort, extensions, json_schema, model, num_logprobs, refused, sampling, stream, template,
};
use super::schema::{
    Properties, any_of, bool, count, list, list_of, null, object, one_of, or_null, reference,
    string, text, told,
};
use serde_json::{Value, json};

/// A field of any kind, which the answer repeats as it came.
fn repeated() -> Value {
    told(json!({}), "The answer repeats it.")
}

fn item(kind: &'static str, properties: Properties, required: &[&str]) -> Value {
    let mut all = vec![("type", one_of(&[kind]))];
    all.extend(properties);
    object(all, &[&["type"], required].concat())
}

pub(super) fn input_item() -> Value {
    let message = vec![
        ("type", or_null(one_of(&["message"]))),
        ("role", one_of(&["user", "assistant", "system", "developer"])),
        ("content", content()),
    ];
    let call = |argument| vec![("call_id", string()), ("name", string()), (argument, string())];
    let output = || {
        let older = object(vec![("content", content())], &["content"]);
        vec![("call_id", string()), ("output", any_of([content(), older]))]
    };
    let thought = object(vec![("text", string())], &["text"]);
    let reasoning = vec![("content", or_null(list(thought))), ("encrypted_content", json!({}))];
    any_of([
        object(message, &["role", "content"]),
        item("reasoning", reasoning, &[]),
        item("function_call", call("arguments"), &["call_id", "name", "arguments"]),
        item("custom_tool_call", call("input"), &["call_id", "name", "input"]),
        item("function_call_output", output(), &["call_id", "output"]),
        item("custom_tool_call_output", output(), &["call_id", "output"]),
    ])
}

/// Tools of other kinds are left out.
pub(super) fn tool() -> Value {
    let mut kinds = inner_tools();
    let others = json!({"type": "string", "not": {"enum": ["function", "custom", "namespace"]}});
    let inside = {
        let others = json!({"type": "string", "not": {"enum": ["function", "custom"]}});
        let mut kinds = inner_tools();
        kinds.push(object(vec![("type", others)], &["type"]));
        any_of(kinds)
    };
    kinds.push(item(
        "namespace",
        vec![("name", text()), ("tools", list(inside))],
        &["name", "tools"],
    ));
    kinds.push(told(
        object(vec![("type", others)], &["type"]),
        "Left out: it would run at OpenAI's.",
    ));
    any_of(kinds)
}

fn inner_tools() -> Vec<Value> {
    let mut flat = function("parameters");
    flat.push(("function", json!({"not": {"type": "object"}})));
    let nested = vec![("function", object(function("parameters"), &["name"]))];
    let custom = vec![("name", text()), ("description", or_null(string()))];
    vec![
        item("function", flat, &["name"]),
        item("function", nested, &["function"]),
        item("custom", custom, &["name"]),
    ]
}

fn tool_choice() -> Value {
    let named = |kinds: &[&str]| {
        let flat = vec![
            ("type", one_of(kinds)),
            ("name", text()),
            ("function", json!({"not": {"type": "object"}})),
        ];
        let function = object(vec![("name", text())], &["name"]);
        let nested = vec![("type", one_of(kinds)), ("function", function)];
        [object(flat, &["type", "name"]), object(nested, &["type", "function"])]
    };
    let others = json!({"type": "string", "not": {"enum": ["function", "custom"]}});
    let mut allowed: Vec<Value> = named(&["function", "custom"]).into();
    allowed.push(object(vec![("type", others)], &["type"]));
    let allowed =
        vec![("tools", list(any_of(allowed))), ("mode", or_null(one_of(&["auto", "required"])))];
    let mut forms =
        vec![one_of(&["none", "auto", "required"]), item("allowed_tools", allowed, &["tools"])];
    forms.extend(named(&["function", "custom"]));
    forms.push(null());
    told(any_of(forms), "A name must be that of one of the tools; required needs tools.")
}

fn format() -> Value {
    any_of([
        object(vec![("type", one_of(&["text", "json_object"]))], &["type"]),
        item("json_schema", vec![("schema", json_schema())], &["schema"]),
        null(),
    ])
}

pub(super) fn responses_request() -> Value {
    let input = any_of([string(), list(reference("InputItem"))]);
    let reasoning = object(vec![("effort", effort()), ("summary", repeated())], &[]);
    let mut properties = vec![
        model(),
        ("input", told(input, "Empty only with instructions.")),
        ("instructions", or_null(string())),
        ("max_output_tokens", told(or_null(count(1, u32::MAX)), "Cut to what the context leaves.")),
        ("top_logprobs", num_logprobs()),
        (
            "include",
            told(
                or_null(list(string())),
                "message.output_text.logprobs and reasoning.encrypted_content; others are ignored.",
            ),
        ),
        ("previous_response_id", or_null(string())),
        ("store", told(or_null(bool()), "true where it is left out.")),
        ("background", told(json!({"enum": [false, null]}), "Not supported.")),
        ("conversation", refused()),
        ("prompt", refused()),
        ("tools", or_null(list_of(reference("ResponsesTool"), 0, usize::MAX))),
        ("tool_choice", tool_choice()),
        ("parallel_tool_calls", or_null(bool())),
        ("max_tool_calls", or_null(count(1, u32::MAX))),
        ("reasoning", or_null(reasoning)),
        ("include_reasoning", or_null(bool())),
        ("text", or_null(object(vec![("format", format())], &[]))),
        ("truncation", or_null(one_of(&["auto", "disabled"]))),
        ("metadata", json!({"type": ["object", "null"]})),
        ("prompt_cache_key", repeated()),
        ("safety_identifier", repeated()),
        ("user", repeated()),
    ];
    properties.extend(stream());
    properties.extend(sampling());
    properties.extend(extensions());
    properties.extend(template());
    object(properties, &["input"])
}
