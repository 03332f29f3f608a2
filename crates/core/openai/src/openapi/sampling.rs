//! The fields that the routes for text share.

use super::schema::{
    Properties, any_of, bool, count, integer, list, list_of, null, number, object, one_of, or_null,
    string, text, token_id, told,
};
use crate::chat::EFFORTS;
use crate::extensions::MAX_SALT_BYTES;
use crate::overrides::{
    MAX_BAD_WORDS, MAX_LOGPROB_TOKEN_IDS, MAX_PATTERN_SIZE, MIN_P, PENALTY, REPETITION_PENALTY,
    TEMPERATURE, TOP_P,
};
use crate::structured::{GUIDED, KINDS};
use crate::{MAX_LOGPROBS, MAX_N, MAX_STOP_STRINGS};
use serde_json::{Value, json};

/// The model that is asked for.
pub(super) fn model() -> (&'static str, Value) {
    let model = or_null(string());
    ("model", told(model, "May be left out, and be empty, where there is one model."))
}

/// Sampling, but for what the routes name differently.
pub(super) fn sampling() -> Properties {
    vec![
        ("temperature", told(or_null(number(TEMPERATURE)), "0 is greedy; n must be 1 then.")),
        ("top_p", or_null(number(TOP_P))),
        ("top_k", told(or_null(integer(-1, u32::MAX.into())), "0 and -1 are off.")),
        ("min_p", or_null(number(MIN_P))),
        ("repetition_penalty", or_null(number(REPETITION_PENALTY))),
        ("presence_penalty", or_null(number(PENALTY))),
        ("frequency_penalty", or_null(number(PENALTY))),
        ("logit_bias", logit_bias()),
        ("seed", told(seed(), "-1 is none.")),
        ("stop", stop()),
        ("stop_token_ids", or_null(list(token_id()))),
        ("include_stop_str_in_output", or_null(bool())),
        ("min_tokens", told(or_null(count(0, u32::MAX)), "At most max_tokens.")),
        ("ignore_eos", or_null(bool())),
        ("n", or_null(count(1, MAX_N))),
        ("best_of", told(or_null(count(1, u32::MAX)), "At most n.")),
        ("skip_special_tokens", or_null(bool())),
        ("allowed_token_ids", or_null(list_of(token_id(), 1, usize::MAX))),
        ("bad_words", or_null(list_of(text(), 0, MAX_BAD_WORDS))),
        ("logprob_token_ids", or_null(list_of(token_id(), 0, MAX_LOGPROB_TOKEN_IDS))),
        ("repetition_detection", repetition_detection()),
        ("prompt_embeds", refused()),
        ("use_beam_search", told(json!({"enum": [false, null]}), "Not supported.")),
    ]
}

/// A field that is known and not carried out.
pub(super) fn refused() -> Value {
    told(null(), "Refused: it would change the answer and is not carried out.")
}

pub(super) fn seed() -> Value {
    or_null(integer(i64::MIN, i64::MAX))
}

/// Strings that end a text.
pub(super) fn stop() -> Value {
    any_of([text(), list_of(text(), 0, MAX_STOP_STRINGS), null()])
}

fn logit_bias() -> Value {
    let schema = json!({
        "type": ["object", "null"],
        "propertyNames": {"pattern": "^\\+?[0-9]+$"},
        "additionalProperties": {"type": "number"},
        "examples": [{"5": 1}],
    });
    told(schema, "Token ids to what is added to their logits, cut to ±100.")
}

fn repetition_detection() -> Value {
    let schema = object(
        vec![
            (
                "max_pattern_size",
                told(or_null(count(0, MAX_PATTERN_SIZE)), "0 is off. At least min_pattern_size."),
            ),
            ("min_pattern_size", or_null(count(0, MAX_PATTERN_SIZE))),
            ("min_count", or_null(count(2, u32::MAX))),
        ],
        &[],
    );
    told(or_null(schema), "Ends a text that goes round in circles.")
}

/// How many of the most likely tokens are told with each token.
pub(super) fn num_logprobs() -> Value {
    or_null(count(0, MAX_LOGPROBS))
}

/// `stream` and what belongs to it.
pub(super) fn stream() -> Properties {
    let options = object(
        vec![("include_usage", or_null(bool())), ("continuous_usage_stats", or_null(bool()))],
        &[],
    );
    vec![
        ("stream", told(or_null(bool()), "Answer as server-sent events.")),
        ("stream_options", told(or_null(options), "Only with stream: true.")),
    ]
}

/// What [`Extensions`](crate::Extensions) reads.
pub(super) fn extensions() -> Properties {
    let mut properties = structured();
    properties.extend([
        (
            "prompt_logprobs",
            told(num_logprobs(), "For each token of the prompt; not told in a stream."),
        ),
        ("return_token_ids", or_null(bool())),
        ("return_tokens_as_token_ids", or_null(bool())),
        ("cache_salt", cache_salt()),
    ]);
    properties.extend(truncation());
    properties
}

/// How a prompt that is too long is cut.
pub(super) fn truncation() -> Properties {
    let tokens = any_of([json!({"enum": [-1]}), count(1, u32::MAX), null()]);
    vec![
        ("truncate_prompt_tokens", told(tokens, "-1 is as many as the model takes.")),
        ("truncation_side", or_null(one_of(&["left", "right"]))),
    ]
}

pub(super) fn cache_salt() -> Value {
    let schema = json!({
        "type": ["string", "null"],
        "minLength": 1,
        "maxLength": MAX_SALT_BYTES,
        "pattern": "^[^@/\\\\\\x00]*$",
        "examples": ["salt"],
    });
    told(schema, "Only requests with the same salt share computed prompts; counted in bytes.")
}

/// What text is possible at all: one of these fields, and one kind in it.
fn structured() -> Properties {
    let mut properties =
        vec![("response_format", response_format()), ("structured_outputs", structured_outputs())];
    let guided = |(name, kind)| (name, told(or_null(of_kind(kind)), "As of structured_outputs."));
    properties.extend(GUIDED.map(guided));
    properties.push(("guided_whitespace_pattern", refused()));
    properties
}

/// A schema, or the JSON text of one.
pub(super) fn json_schema() -> Value {
    let text = json!({"type": "string", "contentMediaType": "application/json"});
    let schema = any_of([json!({"type": "object"}), bool(), text]);
    told(schema, "A JSON schema, or its text. What cannot be enforced is refused.")
}

fn response_format() -> Value {
    let of = |kind: &'static str, more: Properties, required: &[&str]| {
        let mut properties = vec![("type", one_of(&[kind]))];
        properties.extend(more);
        object(properties, &[&["type"], required].concat())
    };
    // Without a `schema` it is the schema itself.
    let named = object(vec![("name", json!({})), ("schema", json_schema())], &[]);
    any_of([
        of("text", vec![], &[]),
        of("json_object", vec![], &[]),
        of("json_schema", vec![("json_schema", named)], &["json_schema"]),
        of("structural_tag", vec![], &[]),
        null(),
    ])
}

fn structured_outputs() -> Value {
    let of = |kind: &&'static str| {
        let mut properties = vec![(*kind, of_kind(kind))];
        let others = KINDS.iter().filter(|other| *other != kind);
        properties.extend(others.map(|other| (*other, null())));
        properties.extend([
            ("disable_any_whitespace", or_null(bool())),
            ("disable_additional_properties", or_null(bool())),
            ("whitespace_pattern", refused()),
        ]);
        object(properties, &[*kind])
    };
    or_null(any_of(KINDS.iter().map(of)))
}

fn of_kind(kind: &str) -> Value {
    match kind {
        "json" => json_schema(),
        "json_object" => json!({"enum": [true]}),
        "choice" => list_of(string(), 1, usize::MAX),
        "structural_tag" => {
            let text = json!({"type": "string", "contentMediaType": "application/json"});
            any_of([json!({"type": "object"}), text])
        }
        _ => text(),
    }
}

/// How much to think.
pub(super) fn effort() -> Value {
    or_null(one_of(&EFFORTS))
}

/// Variables of the chat template.
pub(super) fn template() -> Properties {
    let kwargs = json!({
        "type": ["object", "null"], "properties": {"chat_template": false, "tokenize": false},
    });
    vec![
        ("chat_template", told(null(), "Refused: the model's own template is used.")),
        ("chat_template_kwargs", told(kwargs, "Further variables of the template.")),
        ("documents", or_null(list(json!({})))),
        ("reasoning_effort", effort()),
    ]
}
