//! `POST /v1/completions`.

use crate::fields::{Fields, Numbers, object, shown, token_id, wrong};
use crate::overrides::num_logprobs;
use crate::{ApiError, Extensions, MAX_PROMPTS, Overrides, StreamOptions};
use serde_json::Value;

/// OpenAI's default of this route.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// One prompt, as text or as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// To be tokenized.
    Text(String),
    /// Used as they are.
    Tokens(Vec<u32>),
}

/// A valid `/v1/completions` request.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    /// The model asked for; none is the served one.
    pub model: Option<String>,
    /// At least one; completion `i` of prompt `p` has index `p · n + i`.
    pub prompts: Vec<Prompt>,
    /// Sampling; `max_tokens` is always there.
    pub overrides: Overrides,
    /// Answer as server-sent events.
    pub stream: bool,
    /// How a stream reports usage.
    pub stream_options: StreamOptions,
    /// The tokenizer adds its special tokens to text prompts.
    pub add_special_tokens: bool,
    /// The text of an answer begins with its prompt; without a completion if `max_tokens` is 0.
    pub echo: bool,
    /// The completion ends before this text; for models that learnt to fill gaps.
    pub suffix: Option<String>,
    /// The rest of what is common to the routes for text.
    pub extensions: Extensions,
}

/// Reads and checks a `/v1/completions` body.
///
/// # Errors
/// 400 with the field, its value and what is accepted.
pub fn parse_completion(body: &[u8]) -> Result<CompletionRequest, ApiError> {
    let object = object(body)?;
    let fields = Fields::new(&object, Numbers::Strict);
    let model = model(&fields)?;
    let prompts = prompts(&fields, "prompt")?;
    let echo = fields.bool("echo")?.unwrap_or_default();
    let suffix = fields.string("suffix")?.filter(|suffix| !suffix.is_empty());
    if suffix.is_some() && echo {
        return Err(ApiError::invalid("suffix", "suffix excludes echo; send one of them"));
    }
    if suffix.is_some() && prompts.iter().any(|prompt| matches!(prompt, Prompt::Tokens(_))) {
        return Err(ApiError::invalid("suffix", "suffix needs text prompts, got token ids"));
    }
    let mut overrides = Overrides::read(&fields)?;
    let max_tokens = fields.count("max_tokens", u32::from(!echo), u32::MAX)?;
    overrides.max_tokens = Some(max_tokens.unwrap_or(DEFAULT_MAX_TOKENS));
    overrides.logprobs = num_logprobs(&fields, "logprobs")?;
    overrides.check()?;
    let sequences = prompts.len() * overrides.n as usize;
    if sequences > MAX_PROMPTS {
        return Err(ApiError::invalid(
            "n",
            format!("prompts times n must not be more than {MAX_PROMPTS}, got {sequences}"),
        ));
    }
    let (stream, stream_options) = StreamOptions::read(&fields)?;
    let extensions = Extensions::read(&fields, stream)?;
    Ok(CompletionRequest {
        model,
        prompts,
        overrides,
        stream,
        stream_options,
        add_special_tokens: fields.bool("add_special_tokens")?.unwrap_or(true),
        echo,
        suffix: suffix.map(str::to_owned),
        extensions,
    })
}

/// The model's name; empty counts as absent.
pub(crate) fn model(fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    Ok(fields.string("model")?.filter(|model| !model.is_empty()).map(str::to_owned))
}

/// Reads one prompt or several.
pub(crate) fn prompts(fields: &Fields<'_>, name: &str) -> Result<Vec<Prompt>, ApiError> {
    const KINDS: &str = "a string, a list of strings, a list of token ids, or a list of such lists";
    let prompts = match fields.get(name) {
        None => {
            return Err(ApiError::malformed(name, format!("{name} is missing; send {KINDS}")));
        }
        Some(Value::String(text)) => vec![Prompt::Text(text.clone())],
        Some(Value::Array(items)) if items.first().is_some_and(Value::is_number) => {
            vec![Prompt::Tokens(token_ids(name, items)?)]
        }
        Some(Value::Array(items)) => {
            let prompt = |(i, item)| prompt(&format!("{name}[{i}]"), item);
            items.iter().enumerate().map(prompt).collect::<Result<_, _>>()?
        }
        Some(other) => return Err(fields.wrong(name, KINDS, other)),
    };
    let has_empty = prompts.iter().any(|prompt| match prompt {
        // What an empty text becomes is the tokenizer's to say.
        Prompt::Text(_) => false,
        Prompt::Tokens(ids) => ids.is_empty(),
    });
    match prompts.len() {
        0 => Err(ApiError::invalid(name, format!("{name} must not be empty"))),
        _ if has_empty => {
            Err(ApiError::invalid(name, format!("{name} must not hold an empty list")))
        }
        len if len > MAX_PROMPTS => Err(ApiError::invalid(
            name,
            format!("{name} takes at most {MAX_PROMPTS} prompts, got {len}"),
        )),
        _ => Ok(prompts),
    }
}

fn prompt(path: &str, item: &Value) -> Result<Prompt, ApiError> {
    match item {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        Value::Array(ids) => Ok(Prompt::Tokens(token_ids(path, ids)?)),
        other => Err(wrong(path, "a string or a list of token ids", Some(other))),
    }
}

fn token_ids(path: &str, items: &[Value]) -> Result<Vec<u32>, ApiError> {
    items
        .iter()
        .enumerate()
        .map(|(i, item)| {
            token_id(item).ok_or_else(|| {
                ApiError::malformed(
                    path,
                    format!("{path}[{i}] must be a token id, got {}", shown(item)),
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<CompletionRequest, ApiError> {
        parse_completion(body.as_bytes())
    }

    #[test]
    fn prompts_take_four_forms() {
        let text = |text: &str| Prompt::Text(text.to_owned());
        for (body, expected) in [
            (r#"{"prompt": "a"}"#, vec![text("a")]),
            (r#"{"prompt": ["a", "b"]}"#, vec![text("a"), text("b")]),
            (r#"{"prompt": [1, 2]}"#, vec![Prompt::Tokens(vec![1, 2])]),
            (r#"{"prompt": [1.0, 2]}"#, vec![Prompt::Tokens(vec![1, 2])]),
            (
                r#"{"prompt": [[1], [2, 3]]}"#,
                vec![Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])],
            ),
        ] {
            assert_eq!(parse(body).unwrap().prompts, expected);
        }
    }

    #[test]
    fn defaults_are_openais() {
        let request = parse(r#"{"prompt": "a", "model": ""}"#).unwrap();
        assert_eq!((request.model, request.overrides.max_tokens), (None, Some(16)));
        assert!(!request.stream && request.add_special_tokens && !request.echo);
        let only_prompt = parse(r#"{"prompt": "a", "echo": true, "max_tokens": 0}"#).unwrap();
        assert_eq!(only_prompt.overrides.max_tokens, Some(0));
        assert_eq!(request.overrides.logprobs, None);
    }

    #[test]
    fn bad_requests_are_named() {
        for (body, part) in [
            ("{}", "prompt is missing"),
            (r#"{"prompt": 5}"#, "prompt must be a string, a list of strings"),
            (r#"{"prompt": []}"#, "prompt must not be empty"),
            (r#"{"prompt": [[]]}"#, "prompt must not hold an empty list"),
            (r#"{"prompt": [1, -2]}"#, "prompt[1] must be a token id, got -2"),
            (r#"{"prompt": ["a", 2]}"#, "prompt[1] must be a string or a list of token ids, got 2"),
            (r#"{"prompt": "a", "model": 3}"#, "model must be a string, got 3"),
            (
                r#"{"prompt": "a", "max_tokens": 0}"#,
                "max_tokens must be an integer of at least 1, got 0",
            ),
            (r#"{"prompt": "a", "suffix": "b", "echo": true}"#, "suffix excludes echo"),
            (r#"{"prompt": [1], "suffix": "b"}"#, "suffix needs text prompts"),
            (
                r#"{"prompt": "a", "logprobs": 21}"#,
                "logprobs must be an integer between 0 and 20, got 21",
            ),
            (
                r#"{"prompt": "a", "logprobs": true}"#,
                "logprobs must be an integer between 0 and 20, got true",
            ),
            (
                r#"{"prompt": "a", "min_tokens": 17}"#,
                "min_tokens must not be larger than max_tokens, got 17 and 16",
            ),
            (
                r#"{"prompt": "a", "n": 2, "temperature": 0}"#,
                "n must be 1 when temperature is 0, got 2",
            ),
            (
                r#"{"prompt": "a", "stream_options": {}}"#,
                "stream_options is only allowed with stream: true",
            ),
            (
                r#"{"prompt": "a", "stream": true, "stream_options": {"include_usage": 1}}"#,
                "stream_options.include_usage must be true or false, got 1",
            ),
        ] {
            let error = parse(body).unwrap_err();
            assert_eq!(error.status, 400);
            assert!(error.message.contains(part), "{}", error.message);
        }
    }
}
