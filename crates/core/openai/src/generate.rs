//! `POST /generate`: the seeds' own route, tolerant where their server was and strict where it
//! failed.

use crate::error::ApiError;
use crate::fields::{Bounds, Fields, Numbers, object, shown};
use crate::{MAX_PROMPTS, Overrides, SamplingDefaults, overrides};
use serde::Serialize;
use serde_json::{Map, Value};
use tyndall_types::SamplingParams;
use tyndall_types::protocol::GenerateDefaults;

/// Without a maximum, as the seeds had it.
pub(crate) const TEMPERATURE: Bounds = Bounds::closed(0.0, f64::MAX);

/// A valid `/generate` request.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// At least one; each gets one completion.
    pub prompts: Vec<String>,
    /// Complete: the model's own generation defaults play no part on this route.
    pub params: SamplingParams,
    /// `generation_kwargs` of the answer: the three effective values, then the extras as sent.
    pub echo: Map<String, Value>,
}

/// The answer of `/generate`; the order of the fields is part of the contract.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GenerateResponse {
    /// The public model id.
    pub model: String,
    /// As sent.
    pub prompts: Vec<String>,
    /// One per prompt, in order.
    pub completions: Vec<String>,
    /// The effective values.
    pub generation_kwargs: Map<String, Value>,
}

/// Reads and checks a `/generate` body.
///
/// # Errors
/// 400 with the field, its value and what is accepted.
pub fn parse_generate(
    body: &[u8],
    defaults: &GenerateDefaults,
) -> Result<GenerateRequest, ApiError> {
    let object = object(body)?;
    let fields = Fields::new(&object, Numbers::Text);
    let prompts = prompts(&fields)?;
    let nothing = Map::new();
    let kwargs = fields.object("generation_kwargs")?.unwrap_or(&nothing);
    let kwargs = Fields::nested(kwargs, "generation_kwargs.", Numbers::Text);

    let max_new_tokens =
        kwargs.count("max_new_tokens", 1, u32::MAX)?.unwrap_or(defaults.max_new_tokens);
    let temperature =
        kwargs.number("temperature", TEMPERATURE)?.unwrap_or_else(|| widened(defaults.temperature));
    let top_p =
        kwargs.number("top_p", overrides::TOP_P)?.unwrap_or_else(|| widened(defaults.top_p));
    let do_sample = kwargs.bool("do_sample")?.unwrap_or(true);
    let repetition_penalty = kwargs.number("repetition_penalty", overrides::REPETITION_PENALTY)?;
    let top_k = kwargs.integer("top_k", -1, i64::from(u32::MAX))?;

    let overrides = Overrides {
        temperature: Some(if do_sample { temperature as f32 } else { 0.0 }),
        top_p: Some(top_p as f32),
        top_k: top_k.map(|k| u32::try_from(k).unwrap_or_default()),
        repetition_penalty: repetition_penalty.map(|value| value as f32),
        seed: overrides::seed(&kwargs)?,
        stop: overrides::stop(&kwargs, "stop")?,
        min_tokens: kwargs.count("min_new_tokens", 0, u32::MAX)?.unwrap_or_default(),
        max_tokens: Some(max_new_tokens),
        n: 1,
        skip_special_tokens: true,
        ..Overrides::default()
    };
    if overrides.min_tokens > max_new_tokens {
        return Err(ApiError::invalid(
            "generation_kwargs.min_new_tokens",
            format!(
                "generation_kwargs.min_new_tokens must not be larger than max_new_tokens, got {} \
                 and {max_new_tokens}",
                overrides.min_tokens
            ),
        ));
    }

    let mut echo = Map::new();
    echo.insert("max_new_tokens".to_owned(), max_new_tokens.into());
    echo.insert("temperature".to_owned(), temperature.into());
    echo.insert("top_p".to_owned(), top_p.into());
    for extra in ["top_k", "repetition_penalty", "seed", "stop", "do_sample", "min_new_tokens"] {
        if let Some(value) = kwargs.get(extra) {
            echo.insert(extra.to_owned(), value.clone());
        }
    }
    let params = overrides.resolve(&SamplingDefaults::default())?;
    Ok(GenerateRequest { prompts, params, echo })
}

/// `prompts` wins over `prompt`; null counts as absent in both.
fn prompts(fields: &Fields<'_>) -> Result<Vec<String>, ApiError> {
    let named = |name| fields.get(name).map(|value| (name, value));
    let Some((name, value)) = named("prompts").or_else(|| named("prompt")) else {
        return Err(ApiError::malformed(
            "prompt",
            "Request payload must include 'prompt' or 'prompts'.",
        ));
    };
    let prompts = match value {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(i, item)| prompt(&format!("{name}[{i}]"), item))
            .collect::<Result<Vec<_>, _>>()?,
        single => vec![prompt(name, single)?],
    };
    match prompts.len() {
        0 => Err(ApiError::invalid(name, format!("{name} must not be empty"))),
        len if len > MAX_PROMPTS => Err(ApiError::invalid(
            name,
            format!("{name} takes at most {MAX_PROMPTS} prompts, got {len}"),
        )),
        _ => Ok(prompts),
    }
}

/// Scalars are written as Python would; what has structure is refused.
fn prompt(path: &str, value: &Value) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(true) => Ok("True".to_owned()),
        Value::Bool(false) => Ok("False".to_owned()),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err(ApiError::malformed(path, format!("{path} must be a string, got {}", shown(value))))
        }
    }
}

/// The shortest decimal that means this `f32`, so that 0.7 is echoed as 0.7.
fn widened(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: GenerateDefaults =
        GenerateDefaults { max_new_tokens: 256, temperature: 0.7, top_p: 0.9 };

    fn parse(body: &str) -> Result<GenerateRequest, ApiError> {
        parse_generate(body.as_bytes(), &DEFAULTS)
    }

    fn echo(body: &str) -> String {
        serde_json::to_string(&parse(body).unwrap().echo).unwrap()
    }

    #[test]
    fn every_case_of_the_prompt_table() {
        for (body, expected) in [
            (r#"{"prompt": "a"}"#, &["a"][..]),
            (r#"{"prompts": ["a", "b"]}"#, &["a", "b"]),
            (r#"{"prompt": "x", "prompts": ["a"]}"#, &["a"]),
            (r#"{"prompt": "x", "prompts": null}"#, &["x"]),
            (r#"{"prompt": ""}"#, &[""]),
            (r#"{"prompts": "text"}"#, &["text"]),
            (r#"{"prompt": ["a", "b"]}"#, &["a", "b"]),
            (r#"{"prompts": [5, 1.5, true, false]}"#, &["5", "1.5", "True", "False"]),
            (r#"{"prompt": "a", "other": [], "generation_kwargs": null}"#, &["a"]),
        ] {
            assert_eq!(parse(body).unwrap().prompts, expected, "{body}");
        }
        for (body, message) in [
            ("{}", "Request payload must include 'prompt' or 'prompts'."),
            (r#"{"prompt": null}"#, "Request payload must include 'prompt' or 'prompts'."),
            (r#"{"prompts": []}"#, "prompts must not be empty"),
            (r#"{"prompts": ["a", null]}"#, "prompts[1] must be a string, got null"),
            (r#"{"prompts": [["a"]]}"#, "prompts[0] must be a string, got [\"a\"]"),
            (r#"{"prompt": {"a": 1}}"#, "prompt must be a string, got {\"a\":1}"),
            (
                r#"{"prompt": "a", "generation_kwargs": 3}"#,
                "generation_kwargs must be an object, got 3",
            ),
        ] {
            let error = parse(body).unwrap_err();
            assert_eq!((error.status, error.message.as_str()), (400, message));
        }
        let many = format!("{{\"prompts\": [{}\"x\"]}}", "\"x\",".repeat(1024));
        assert!(parse(&many).unwrap_err().message.contains("at most 1024"));
    }

    #[test]
    fn the_echo_holds_effective_values_and_sent_extras() {
        assert_eq!(
            echo(r#"{"prompt": "a"}"#),
            r#"{"max_new_tokens":256,"temperature":0.7,"top_p":0.9}"#
        );
        assert_eq!(
            echo(
                r#"{"prompt": "a", "generation_kwargs": {"temperature": 0, "max_new_tokens": "64",
                    "top_p": 1, "seed": 3, "unknown": 1, "do_sample": false, "top_k": null}}"#
            ),
            r#"{"max_new_tokens":64,"temperature":0.0,"top_p":1.0,"seed":3,"do_sample":false}"#
        );
    }

    #[test]
    fn extras_are_used() {
        let params = parse(
            r#"{"prompt": "a", "generation_kwargs": {"top_k": 5, "repetition_penalty": 1.1,
                "seed": 7, "stop": "\n", "min_new_tokens": 2, "max_new_tokens": 8.0}}"#,
        )
        .unwrap()
        .params;
        assert_eq!((params.top_k, params.repetition_penalty), (5, 1.1));
        assert_eq!((params.seed, params.min_tokens, params.max_tokens), (Some(7), 2, Some(8)));
        assert_eq!(params.stop, ["\n"]);
        let greedy = parse(r#"{"prompt": "a", "generation_kwargs": {"do_sample": false}}"#);
        assert_eq!(greedy.unwrap().params.temperature, 0.0);
    }

    #[test]
    fn bad_kwargs_are_named() {
        for (kwargs, message) in [
            (
                r#"{"max_new_tokens": 0}"#,
                "generation_kwargs.max_new_tokens must be an integer of at least 1, got 0",
            ),
            (
                r#"{"max_new_tokens": 64.9}"#,
                "generation_kwargs.max_new_tokens must be an integer of at least 1, got 64.9",
            ),
            (
                r#"{"temperature": -0.1}"#,
                "generation_kwargs.temperature must be a number of at least 0, got -0.1",
            ),
            (
                r#"{"temperature": "nan"}"#,
                "generation_kwargs.temperature must be a number of at least 0, got \"nan\"",
            ),
            (
                r#"{"temperature": 1e300}"#,
                "generation_kwargs.temperature must be a number of at least 0, got 1e+300",
            ),
            (
                r#"{"top_p": 1.5}"#,
                "generation_kwargs.top_p must be a number above 0 and at most 1, got 1.5",
            ),
            (
                r#"{"do_sample": "yes"}"#,
                "generation_kwargs.do_sample must be true or false, got \"yes\"",
            ),
            (r#"{"stop": ""}"#, "generation_kwargs.stop must not hold an empty string"),
            (
                r#"{"min_new_tokens": 300}"#,
                "generation_kwargs.min_new_tokens must not be larger than max_new_tokens, got 300 and 256",
            ),
        ] {
            let body = format!(r#"{{"prompt": "a", "generation_kwargs": {kwargs}}}"#);
            assert_eq!(parse(&body).unwrap_err().message, message);
        }
        assert_eq!(parse(r#"{"prompt": NaN}"#).unwrap_err().status, 400);
    }
}
