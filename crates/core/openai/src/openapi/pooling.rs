//! Requests to models that give numbers for text.

use super::chat::{conversation, prompts};
use super::sampling::{model, truncation};
use super::schema::{
    Properties, any_of, bool, count, list_of, null, object, one_of, or_null, string, told,
};
use crate::MAX_PROMPTS;
use crate::pooling::PAIRS;
use serde_json::{Value, json};

/// What these routes share.
fn options() -> Properties {
    let mut properties = truncation();
    properties.extend([
        ("add_special_tokens", or_null(bool())),
        ("use_activation", or_null(bool())),
        ("normalize", told(null(), "Refused: send use_activation.")),
    ]);
    properties
}

/// A string, or an object with one.
fn text() -> Value {
    any_of([string(), object(vec![("text", string())], &["text"])])
}

fn texts() -> Value {
    list_of(text(), 1, MAX_PROMPTS)
}

pub(super) fn embeddings_request() -> Value {
    let shared = || {
        let mut shared = vec![
            ("encoding_format", or_null(one_of(&["float", "base64"]))),
            ("embed_dtype", or_null(one_of(&["float32"]))),
            ("endianness", or_null(one_of(&["native", "little"]))),
            (
                "dimensions",
                told(or_null(count(1, u32::MAX)), "Of models that were trained for it."),
            ),
        ];
        shared.extend(options());
        shared
    };
    let mut of_prompts = vec![model(), ("input", prompts()), ("messages", null())];
    of_prompts.extend(shared());
    let mut of_conversation = conversation();
    of_conversation.push(("input", null()));
    let known: Vec<&str> = of_conversation.iter().map(|(name, _)| *name).collect();
    of_conversation.extend(shared().into_iter().filter(|(name, _)| !known.contains(name)));
    any_of([object(of_prompts, &["input"]), object(of_conversation, &["messages"])])
}

pub(super) fn classify_request() -> Value {
    let mut properties = vec![model(), ("input", prompts())];
    properties.extend(options());
    object(properties, &["input"])
}

pub(super) fn rerank_request() -> Value {
    let mut properties = vec![
        model(),
        ("query", string()),
        ("documents", texts()),
        ("top_n", told(or_null(count(0, u32::MAX)), "0 is all.")),
        ("return_documents", or_null(bool())),
    ];
    properties.extend(options());
    object(properties, &["query", "documents"])
}

/// The first pair of names that is there counts.
pub(super) fn score_request() -> Value {
    let of = |(at, (first, second)): (usize, &(&'static str, &'static str))| {
        let side = || any_of([text(), texts()]);
        let mut properties = vec![model(), (*first, side()), (*second, side())];
        properties.extend(options());
        let mut schema = object(properties, &[*first, *second]);
        let absent = |name: &str| json!({"properties": {name: {"type": "null"}}});
        let earlier =
            PAIRS[..at].iter().map(|(first, second)| any_of([absent(first), absent(second)]));
        let earlier: Vec<Value> = earlier.collect();
        if !earlier.is_empty() {
            schema["allOf"] = earlier.into();
        }
        schema
    };
    let schema = any_of(PAIRS.iter().enumerate().map(of));
    told(schema, "The first of a pair is one text or as many as the second.")
}
