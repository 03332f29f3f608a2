//! Requests in OpenAI's words but for `/v1/responses`: chats, completions, tokens, `/generate`.

use super::sampling::{extensions, model, num_logprobs, sampling, seed, stop, stream, template};
use super::schema::{
    Properties, any_of, bool, count, integer, list, list_of, null, number, object, one_of, or_null,
    reference, string, text, token_id, told,
};
use crate::MAX_PROMPTS;
use crate::chat::{ROLES, TEXT_PARTS};
use crate::fields::Bounds;
use crate::generate::TEMPERATURE;
use crate::overrides::{REPETITION_PENALTY, TOP_P};
use serde_json::{Value, json};

/// A part of a content, which must be text.
pub(super) fn text_part() -> Value {
    let of = |kind: &&'static str| {
        let key = if ["refusal", "thinking"].contains(kind) { *kind } else { "text" };
        object(vec![("type", one_of(&[*kind])), (key, string())], &["type", key])
    };
    any_of([string()].into_iter().chain(TEXT_PARTS.iter().map(of)))
}

/// Text, or parts of it.
pub(super) fn content() -> Value {
    any_of([string(), list(reference("TextPart"))])
}

pub(super) fn chat_message() -> Value {
    let others: Vec<&str> = ROLES.into_iter().filter(|role| *role != "assistant").collect();
    let assistant = vec![("role", one_of(&["assistant"])), ("content", or_null(content()))];
    any_of([
        object(vec![("role", one_of(&others)), ("content", content())], &["role", "content"]),
        told(object(assistant, &["role"]), "With tool_calls and reasoning as the template wants."),
    ])
}

/// A function that the model may call.
pub(super) fn function(schema: &'static str) -> Properties {
    vec![
        ("name", text()),
        ("description", or_null(string())),
        (schema, told(json!({"type": ["object", "null"]}), "A JSON schema of an object.")),
    ]
}

pub(super) fn chat_tool() -> Value {
    let function = object(function("parameters"), &["name"]);
    object(vec![("type", one_of(&["function"])), ("function", function)], &["function"])
}

fn tool_choice() -> Value {
    let named = || object(vec![("name", string())], &["name"]);
    let old = object(
        vec![
            ("name", string()),
            ("function", json!({"not": {"type": "object", "required": ["name"]}})),
        ],
        &["name"],
    );
    let schema = any_of([
        one_of(&["none", "auto", "required"]),
        object(vec![("function", named())], &["function"]),
        old,
        null(),
    ]);
    told(schema, "A name must be that of one of the tools; required needs tools.")
}

/// What a template needs, which all routes that take conversations share.
pub(super) fn conversation() -> Properties {
    let mut properties = vec![
        model(),
        ("messages", list_of(reference("ChatMessage"), 1, usize::MAX)),
        ("tools", or_null(list_of(reference("ChatTool"), 1, usize::MAX))),
        ("tool_choice", tool_choice()),
        (
            "continue_final_message",
            told(
                or_null(bool()),
                "Not with add_generation_prompt; the last message must have a content then.",
            ),
        ),
        ("add_generation_prompt", or_null(bool())),
        ("add_special_tokens", or_null(bool())),
    ];
    properties.extend(template());
    properties
}

fn max_tokens(min: u32) -> Value {
    told(or_null(count(min, u32::MAX)), "Cut to what the context leaves.")
}

pub(super) fn chat_request() -> Value {
    let mut properties = conversation();
    properties.extend([
        ("max_completion_tokens", max_tokens(1)),
        ("max_tokens", max_tokens(1)),
        ("logprobs", or_null(bool())),
        ("top_logprobs", told(num_logprobs(), "Above 0 only with logprobs: true.")),
        ("thinking_token_budget", or_null(integer(-1, u32::MAX.into()))),
        ("parallel_tool_calls", or_null(bool())),
        ("echo", or_null(bool())),
        ("include_reasoning", or_null(bool())),
    ]);
    properties.extend(stream());
    properties.extend(sampling());
    properties.extend(extensions());
    object(properties, &["messages"])
}

/// One prompt or several, as text or as tokens.
pub(super) fn prompts() -> Value {
    let tokens = || list_of(token_id(), 1, usize::MAX);
    any_of([string(), tokens(), list_of(any_of([string(), tokens()]), 1, MAX_PROMPTS)])
}

pub(super) fn completion_request() -> Value {
    let suffix = told(or_null(string()), "Of text prompts, and not with echo.");
    let most = told(
        max_tokens(0),
        "Cut to what the context leaves; 0 only with echo, for the prompt alone.",
    );
    let mut properties = vec![
        model(),
        ("prompt", prompts()),
        ("max_tokens", most),
        ("logprobs", num_logprobs()),
        ("echo", or_null(bool())),
        ("suffix", suffix),
        ("add_special_tokens", or_null(bool())),
    ];
    properties.extend(stream());
    properties.extend(sampling());
    properties.extend(extensions());
    let description = "At most 1024 prompts times n.";
    told(object(properties, &["prompt"]), description)
}

pub(super) fn tokenize_request() -> Value {
    let strs = || ("return_token_strs", or_null(bool()));
    let mut conversation = conversation();
    conversation.extend([("prompt", null()), strs()]);
    let text = vec![
        model(),
        ("prompt", string()),
        ("add_special_tokens", or_null(bool())),
        ("messages", null()),
        strs(),
    ];
    any_of([object(text, &["prompt"]), object(conversation, &["messages"])])
}

pub(super) fn detokenize_request() -> Value {
    object(vec![model(), ("tokens", list(token_id()))], &["tokens"])
}

pub(super) fn generate_request() -> Value {
    let scalar = || json!({"type": ["string", "number", "boolean"]});
    let prompts = || any_of([scalar(), list_of(scalar(), 1, MAX_PROMPTS)]);
    let kwargs = || ("generation_kwargs", generation_kwargs());
    any_of([
        object(vec![("prompts", prompts()), kwargs()], &["prompts"]),
        object(vec![("prompt", prompts()), ("prompts", null()), kwargs()], &["prompt"]),
    ])
}

fn generation_kwargs() -> Value {
    let bounded = |bounds: Bounds| in_text(number(bounds));
    let counted = |min: i64| in_text(integer(min, u32::MAX.into()));
    let schema = object(
        vec![
            ("max_new_tokens", counted(1)),
            ("temperature", bounded(TEMPERATURE)),
            ("top_p", bounded(TOP_P)),
            ("do_sample", or_null(bool())),
            ("repetition_penalty", bounded(REPETITION_PENALTY)),
            ("top_k", counted(-1)),
            ("seed", in_text(seed())),
            ("stop", stop()),
            ("min_new_tokens", told(counted(0), "At most max_new_tokens.")),
        ],
        &[],
    );
    told(or_null(schema), "Numbers may be sent as text.")
}

/// A number, or the text of one.
fn in_text(schema: Value) -> Value {
    let text = json!({
        "type": "string",
        "pattern": "^\\s*[+-]?([0-9]+(\\.[0-9]*)?|\\.[0-9]+)([eE][+-]?[0-9]+)?\\s*$",
        "examples": ["1"],
    });
    any_of([schema, text, null()])
}
