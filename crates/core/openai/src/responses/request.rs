//! Requests.

use super::shape::ResponseShape;
use super::tools::Tools;
use super::{input, tools};
use crate::chat::{reasoning_effort, template_kwargs};
use crate::completion::model;
use crate::fields::{Fields, Numbers, object, wrong};
use crate::overrides::num_logprobs;
use crate::structured::{Style, json_schema};
use crate::{ApiError, ChatRequest, Extensions, Overrides, StreamOptions, Truncation};
use serde_json::{Map, Value, json};
use tyndall_types::StructuredOutput;

/// A valid `/v1/responses` request.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponsesRequest {
    /// The conversation and all that concerns the model.
    pub chat: ChatRequest,
    /// What the answer repeats.
    pub shape: ResponseShape,
    /// The answer that came before. Its items must be in the input already: see
    /// [`expand_input`](super::expand_input).
    pub previous_response_id: Option<String>,
    /// The answer is wanted again later.
    pub store: bool,
}

/// Reads and checks a `/v1/responses` body. Beside OpenAI's fields it takes the common extra
/// sampling fields.
///
/// # Errors
/// 400 with the field, its value and what is accepted.
pub fn parse_responses(body: &[u8]) -> Result<ResponsesRequest, ApiError> {
    let object = object(body)?;
    let fields = Fields::new(&object, Numbers::Strict);
    refuse_unsupported(&fields)?;
    let tools = tools::read(&fields)?;
    let items = input::items(fields.get("input"))?;
    let messages = input::messages(fields.string("instructions")?, &items)?;

    let include = include(&fields)?;
    let top_logprobs = num_logprobs(&fields, "top_logprobs")?;
    let logprobs = include.logprobs || top_logprobs.is_some_and(|top| top > 0);
    let mut overrides = Overrides::read(&fields)?;
    overrides.max_tokens = fields.count("max_output_tokens", 1, u32::MAX)?;
    overrides.logprobs = logprobs.then_some(top_logprobs.unwrap_or_default());
    overrides.n = 1;
    overrides.check()?;

    let (stream, stream_options) = StreamOptions::read(&fields)?;
    let include_reasoning = fields.bool("include_reasoning")?.unwrap_or(true);
    let store = fields.bool("store")?.unwrap_or(true);
    let shape = ResponseShape {
        echo: echo(&fields, &tools, store)?,
        names: tools.names,
        logprobs,
        reasoning: include_reasoning,
        sealed: include.sealed,
    };
    let chat = ChatRequest {
        model: model(&fields)?,
        tools: tools.tools,
        template_tools: tools.shown,
        tool_choice: tools.choice,
        parallel_tool_calls: fields.bool("parallel_tool_calls")?.unwrap_or(true),
        overrides,
        extensions: extensions(&fields, stream)?,
        stream,
        stream_options,
        template_kwargs: kwargs(&fields)?,
        include_reasoning,
        ..ChatRequest::new(messages)
    };
    chat.check_choice("text.format")?;
    let previous_response_id = fields.string("previous_response_id")?.map(str::to_owned);
    Ok(ResponsesRequest { chat, shape, previous_response_id, store })
}

fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), ApiError> {
    if fields.bool("background")? == Some(true) {
        return Err(ApiError::invalid(
            "background",
            "background: true is not supported; send stream: true and follow the answer",
        ));
    }
    match ["conversation", "prompt"].into_iter().find(|name| fields.get(name).is_some()) {
        Some(name) => Err(ApiError::unsupported(name)),
        None => Ok(()),
    }
}

/// What `include` asks for.
struct Include {
    logprobs: bool,
    sealed: bool,
}

fn include(fields: &Fields<'_>) -> Result<Include, ApiError> {
    let list = fields.list("include")?.unwrap_or_default();
    if let Some(other) = list.iter().find(|item| !item.is_string()) {
        return Err(fields.wrong("include", "a list of strings", other));
    }
    let has = |name: &str| list.iter().any(|item| item == name);
    Ok(Include {
        logprobs: has("message.output_text.logprobs"),
        sealed: has("reasoning.encrypted_content"),
    })
}

fn kwargs(fields: &Fields<'_>) -> Result<Map<String, Value>, ApiError> {
    let mut kwargs = template_kwargs(fields)?;
    if let Some(object) = fields.object("reasoning")? {
        let nested = Fields::nested(object, "reasoning.", Numbers::Strict);
        reasoning_effort(&nested, "effort", &mut kwargs)?;
    }
    Ok(kwargs)
}

fn extensions(fields: &Fields<'_>, stream: bool) -> Result<Extensions, ApiError> {
    let mut extensions = Extensions::read(fields, stream)?;
    // An answer of this API has no place for them.
    extensions.prompt_logprobs = None;
    extensions.token_ids = false;
    if let Some(format) = text_format(fields)? {
        if extensions.structured.is_some() {
            return Err(ApiError::invalid(
                "text.format",
                "text.format and structured_outputs exclude each other; send one of them",
            ));
        }
        extensions.structured = Some(format);
    }
    match fields.string("truncation")? {
        None | Some("disabled") => {}
        Some("auto") => {
            extensions.truncation.get_or_insert(Truncation::default());
        }
        Some(other) => {
            return Err(ApiError::invalid(
                "truncation",
                format!("truncation must be auto or disabled, got {other:?}"),
            ));
        }
    }
    Ok(extensions)
}

fn text_format(fields: &Fields<'_>) -> Result<Option<StructuredOutput>, ApiError> {
    let Some(text) = fields.object("text")? else { return Ok(None) };
    let nested = Fields::nested(text, "text.", Numbers::Strict);
    let Some(format) = nested.object("format")? else { return Ok(None) };
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(StructuredOutput::JsonObject)),
        Some("json_schema") => {
            let schema = format.get("schema").unwrap_or(&Value::Null);
            json_schema("text.format.schema", schema, Style::default()).map(Some)
        }
        _ => {
            let kind = format.get("type");
            Err(wrong("text.format.type", "text, json_object or json_schema", kind))
        }
    }
}

/// What the answer repeats of the request, with OpenAI's defaults. What the model's own defaults
/// decide is null where the request leaves it open.
fn echo(fields: &Fields<'_>, tools: &Tools, store: bool) -> Result<Value, ApiError> {
    let sent = |name: &str| fields.get(name).cloned().unwrap_or_default();
    let or = |name: &str, default: Value| fields.get(name).cloned().unwrap_or(default);
    let reasoning = fields.object("reasoning")?;
    let of_reasoning = |name: &str| {
        reasoning.and_then(|reasoning| reasoning.get(name)).cloned().unwrap_or_default()
    };
    let mut text = fields.object("text")?.cloned().unwrap_or_default();
    if text.get("format").is_none_or(Value::is_null) {
        text.insert("format".to_owned(), json!({"type": "text"}));
    }
    let metadata = fields.object("metadata")?.cloned().unwrap_or_default();
    let max_tool_calls = fields.count("max_tool_calls", 1, u32::MAX)?;
    Ok(json!({
        "instructions": sent("instructions"),
        "max_output_tokens": sent("max_output_tokens"),
        "max_tool_calls": max_tool_calls,
        "parallel_tool_calls": or("parallel_tool_calls", true.into()),
        "previous_response_id": sent("previous_response_id"),
        "prompt_cache_key": sent("prompt_cache_key"),
        "reasoning": {"effort": of_reasoning("effort"), "summary": of_reasoning("summary")},
        "safety_identifier": sent("safety_identifier"),
        "service_tier": "default",
        "store": store,
        "temperature": sent("temperature"),
        "text": text,
        "tool_choice": or("tool_choice", "auto".into()),
        "tools": tools.echo,
        "top_logprobs": or("top_logprobs", 0.into()),
        "top_p": sent("top_p"),
        "truncation": or("truncation", "disabled".into()),
        "user": sent("user"),
        "metadata": metadata,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tyndall_types::ToolChoice;

    /// A request of one message with these fields too.
    fn with(fields: Value) -> Result<ResponsesRequest, ApiError> {
        let mut body = json!({"input": "hi"});
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        parse_responses(body.to_string().as_bytes())
    }

    #[test]
    fn fields_have_their_meaning() {
        let request = with(json!({
            "model": "m", "instructions": "S", "max_output_tokens": 9, "temperature": 0.5,
            "top_p": 0.9, "stream": true, "stream_options": {"include_obfuscation": false},
            "store": false, "previous_response_id": "resp_0", "truncation": "auto", "n": 2,
            "reasoning": {"effort": "low", "summary": "auto"}, "top_logprobs": 2, "seed": 3,
            "include": ["message.output_text.logprobs", "reasoning.encrypted_content", "other"],
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": true},
                     "verbosity": "low"},
            "tools": [{"type": "function", "name": "f"}], "parallel_tool_calls": false,
            "metadata": {"a": "b"}, "user": "u", "prompt_cache_key": "k", "service_tier": "flex",
            "return_token_ids": true,
        }))
        .unwrap();
        let chat = &request.chat;
        assert_eq!(chat.messages[0], json!({"role": "system", "content": "S"}));
        let overrides = &chat.overrides;
        assert_eq!((overrides.max_tokens, overrides.logprobs), (Some(9), Some(2)));
        assert_eq!((overrides.n, overrides.seed), (1, Some(3)));
        assert_eq!((&chat.tool_choice, chat.parallel_tool_calls), (&ToolChoice::Auto, false));
        assert_eq!(chat.extensions.truncation, Some(Truncation::default()));
        let schema = StructuredOutput::Json { schema: json!({}), compact: false, closed: true };
        assert_eq!(
            (&chat.extensions.structured, chat.extensions.token_ids),
            (&Some(schema), false)
        );
        assert_eq!(
            Value::from(chat.template_kwargs.clone()),
            json!({"reasoning_effort": "low", "enable_thinking": true})
        );
        assert!(chat.stream && !request.store && request.shape.sealed && request.shape.logprobs);
        assert_eq!(request.previous_response_id.as_deref(), Some("resp_0"));
        let echo = &request.shape.echo;
        assert_eq!(echo["reasoning"], json!({"effort": "low", "summary": "auto"}));
        assert_eq!(
            (&echo["tools"][0]["name"], &echo["service_tier"]),
            (&"f".into(), &"default".into())
        );
        assert_eq!(echo["text"]["verbosity"], "low");
    }

    #[test]
    fn defaults_are_openais() {
        let request = with(json!({})).unwrap();
        assert!(request.store && !request.chat.stream && request.chat.include_reasoning);
        assert_eq!(
            request.shape.echo,
            json!({
                "instructions": null, "max_output_tokens": null, "max_tool_calls": null,
                "parallel_tool_calls": true, "previous_response_id": null,
                "prompt_cache_key": null, "reasoning": {"effort": null, "summary": null},
                "safety_identifier": null, "service_tier": "default", "store": true,
                "temperature": null, "text": {"format": {"type": "text"}}, "tool_choice": "auto",
                "tools": [], "top_logprobs": 0, "top_p": null, "truncation": "disabled",
                "user": null, "metadata": {},
            })
        );
    }

    #[test]
    fn bad_requests_are_named() {
        let check = |fields: Value, part: &str| {
            let error = with(fields).unwrap_err();
            assert!(error.status == 400 && error.message.contains(part), "{}", error.message);
        };
        check(json!({"input": null}), "input is missing");
        check(json!({"background": true}), "background: true is not supported");
        check(json!({"conversation": "c"}), "conversation is not supported yet");
        check(json!({"prompt": {"id": "p"}}), "prompt is not supported yet");
        check(
            json!({"max_output_tokens": 0}),
            "max_output_tokens must be an integer of at least 1",
        );
        check(json!({"truncation": "left"}), "truncation must be auto or disabled");
        check(json!({"include": [1]}), "include must be a list of strings, got 1");
        check(json!({"text": {"format": {}}}), "text.format.type must be text, json_object");
        check(
            json!({"text": {"format": {"type": "json_schema"}}}),
            "text.format.schema must be a JSON schema",
        );
        check(
            json!({"text": {"format": {"type": "json_object"}}, "guided_regex": "a"}),
            "exclude each other",
        );
        check(json!({"reasoning": {"effort": "huge"}}), "reasoning.effort must be one of none");
        check(
            json!({"tools": [{"type": "function", "name": "f"}], "tool_choice": "required",
                   "text": {"format": {"type": "json_object"}}}),
            "tool_choice asks for a call and text.format for other text",
        );
        check(json!({"metadata": []}), "metadata must be an object");
        check(json!({"top_logprobs": 21}), "top_logprobs must be an integer between 0 and 20");
    }
}
