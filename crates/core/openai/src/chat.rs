//! `POST /v1/chat/completions`.

use crate::completion::model;
use crate::fields::{Fields, Numbers, object, shown};
use crate::overrides::num_logprobs;
use crate::{ApiError, Overrides, StreamOptions};
use serde_json::{Map, Value};

const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];
const TEXT_PARTS: [&str; 4] = ["text", "input_text", "output_text", "refusal"];

/// A valid `/v1/chat/completions` request.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The model asked for; none is the served one.
    pub model: Option<String>,
    /// At least one, as sent: objects with a known role whose content is text. What a template
    /// wants otherwise is the template engine's matter.
    pub messages: Vec<Value>,
    /// Shown to the template.
    pub tools: Option<Value>,
    /// Sampling.
    pub overrides: Overrides,
    /// Answer as server-sent events.
    pub stream: bool,
    /// How a stream reports usage.
    pub stream_options: StreamOptions,
    /// The prompt ends where the assistant begins to speak.
    pub add_generation_prompt: bool,
    /// The prompt ends inside the last message.
    pub continue_final_message: bool,
    /// The tokenizer adds its special tokens to what the template wrote.
    pub add_special_tokens: bool,
    /// Further variables of the template.
    pub template_kwargs: Map<String, Value>,
}

/// Reads and checks a `/v1/chat/completions` body.
///
/// # Errors
/// 400 with the field, its value and what is accepted.
pub fn parse_chat(body: &[u8]) -> Result<ChatRequest, ApiError> {
    let object = object(body)?;
    let fields = Fields::new(&object, Numbers::Strict);
    let model = model(&fields)?;
    let messages = messages(&fields)?;
    let tools = tools(&fields)?;
    let template_kwargs = template_kwargs(&fields)?;

    let mut overrides = Overrides::read(&fields)?;
    let max_completion = fields.count("max_completion_tokens", 1, u32::MAX)?;
    let max_tokens = fields.count("max_tokens", 1, u32::MAX)?;
    overrides.max_tokens = max_completion.or(max_tokens);
    overrides.logprobs = logprobs(&fields)?;
    overrides.check()?;

    let continue_final_message = fields.bool("continue_final_message")?.unwrap_or_default();
    let add_generation_prompt = fields.bool("add_generation_prompt")?;
    if continue_final_message && add_generation_prompt == Some(true) {
        return Err(ApiError::invalid(
            "continue_final_message",
            "continue_final_message and add_generation_prompt cannot both be true",
        ));
    }
    if fields.bool("echo")? == Some(true) {
        return Err(ApiError::unsupported("echo"));
    }
    let (stream, stream_options) = StreamOptions::read(&fields)?;
    Ok(ChatRequest {
        model,
        messages,
        tools,
        overrides,
        stream,
        stream_options,
        add_generation_prompt: add_generation_prompt.unwrap_or(!continue_final_message),
        continue_final_message,
        add_special_tokens: fields.bool("add_special_tokens")?.unwrap_or_default(),
        template_kwargs,
    })
}

fn logprobs(fields: &Fields<'_>) -> Result<Option<u32>, ApiError> {
    let wanted = fields.bool("logprobs")?.unwrap_or_default();
    let top = num_logprobs(fields, "top_logprobs")?.unwrap_or_default();
    if top > 0 && !wanted {
        return Err(ApiError::invalid("top_logprobs", "top_logprobs needs logprobs: true"));
    }
    Ok(wanted.then_some(top))
}

fn messages(fields: &Fields<'_>) -> Result<Vec<Value>, ApiError> {
    let Some(list) = fields.list("messages")? else {
        return Err(ApiError::malformed(
            "messages",
            "messages is missing; send a list of {\"role\": …, \"content\": …}",
        ));
    };
    if list.is_empty() {
        return Err(ApiError::invalid("messages", "messages must not be empty"));
    }
    for (index, item) in list.iter().enumerate() {
        check_message(index, item)?;
    }
    Ok(list.to_vec())
}

fn check_message(index: usize, item: &Value) -> Result<(), ApiError> {
    let path = format!("messages[{index}]");
    let wrong = |path: &str, expected: &str, value: &Value| {
        ApiError::malformed(path, format!("{path} must be {expected}, got {}", shown(value)))
    };
    let Value::Object(object) = item else {
        return Err(wrong(&path, "an object with role and content", item));
    };
    let role = match object.get("role") {
        Some(Value::String(role)) if ROLES.contains(&role.as_str()) => role.as_str(),
        other => {
            let expected = format!("one of {}", ROLES.join(", "));
            return Err(wrong(&format!("{path}.role"), &expected, other.unwrap_or(&Value::Null)));
        }
    };
    match object.get("content") {
        None | Some(Value::Null) if role == "assistant" => Ok(()),
        Some(Value::String(_)) => Ok(()),
        Some(Value::Array(parts)) => check_parts(&path, parts),
        other => {
            let path = format!("{path}.content");
            let value = other.unwrap_or(&Value::Null);
            Err(wrong(&path, "a string or a list of text parts", value))
        }
    }
}

/// Every part is text.
fn check_parts(path: &str, parts: &[Value]) -> Result<(), ApiError> {
    for (i, part) in parts.iter().enumerate() {
        let path = format!("{path}.content[{i}]");
        let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
        if !part.is_string() && !TEXT_PARTS.contains(&kind) {
            return Err(ApiError::invalid(
                &format!("{path}.type"),
                format!(
                    "{path}.type {} is not supported: the model takes text only",
                    shown(&kind.into())
                ),
            ));
        }
        let text = match part {
            Value::String(text) => Some(text.as_str()),
            part => {
                part.get(if kind == "refusal" { "refusal" } else { "text" }).and_then(Value::as_str)
            }
        };
        if text.is_none() {
            return Err(ApiError::malformed(
                &path,
                format!("{path} must be {{\"type\": \"text\", \"text\": …}}, got {}", shown(part)),
            ));
        }
    }
    Ok(())
}

/// Tools can be shown to the template; calls are not parsed out of the answer yet.
fn tools(fields: &Fields<'_>) -> Result<Option<Value>, ApiError> {
    let tools = fields.list("tools")?;
    let choice = fields.get("tool_choice");
    let none = choice.is_none_or(|choice| choice == "none");
    match tools {
        Some([]) => Err(ApiError::invalid("tools", "tools must not be empty; leave it out")),
        None if none || choice.is_some_and(|choice| choice == "auto") => Ok(None),
        None => Err(ApiError::invalid("tool_choice", "tool_choice needs tools")),
        Some(tools) if choice.is_some() && none => Ok(Some(Value::Array(tools.to_vec()))),
        Some(_) => Err(ApiError::invalid(
            "tools",
            "tool calling is not supported yet: leave tools out, or send tool_choice \"none\" to \
             show them to the model only",
        )),
    }
}

fn template_kwargs(fields: &Fields<'_>) -> Result<Map<String, Value>, ApiError> {
    if fields.get("chat_template").is_some() {
        return Err(ApiError::invalid(
            "chat_template",
            "chat_template is not accepted from requests: the model's own template is used",
        ));
    }
    let mut kwargs = fields.object("chat_template_kwargs")?.cloned().unwrap_or_default();
    if let Some(name) =
        ["chat_template", "tokenize"].iter().find(|name| kwargs.contains_key(**name))
    {
        return Err(ApiError::invalid(
            "chat_template_kwargs",
            format!("chat_template_kwargs must not hold {name}"),
        ));
    }
    if let Some(documents) = fields.list("documents")? {
        kwargs.insert("documents".to_owned(), Value::Array(documents.to_vec()));
    }
    if let Some(effort) = fields.string("reasoning_effort")? {
        kwargs.insert("reasoning_effort".to_owned(), effort.into());
        kwargs.entry("enable_thinking").or_insert((effort != "none").into());
    }
    Ok(kwargs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(body: &str) -> Result<ChatRequest, ApiError> {
        parse_chat(body.as_bytes())
    }

    fn with(fields: &str) -> Result<ChatRequest, ApiError> {
        parse(&format!(r#"{{"messages": [{{"role": "user", "content": "hi"}}], {fields}}}"#))
    }

    #[test]
    fn messages_are_passed_on_as_sent() {
        let messages = json!([
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, "b"], "name": "n"},
            {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f"}}]},
            {"role": "tool", "content": "3", "tool_call_id": "t"},
        ]);
        let request = parse(&json!({"messages": messages}).to_string()).unwrap();
        assert_eq!(Value::from(request.messages), messages);
        assert!(request.add_generation_prompt && !request.continue_final_message);
        assert_eq!(request.overrides.max_tokens, None);
    }

    #[test]
    fn fields_join_as_documented() {
        let request = with(
            r#""max_tokens": 3, "max_completion_tokens": 5, "logprobs": true, "top_logprobs": 2,
               "stream": true, "stream_options": {"include_usage": true}, "model": "m",
               "continue_final_message": true, "reasoning_effort": "none", "tool_choice": "auto",
               "chat_template_kwargs": {"a": 1}"#,
        )
        .unwrap();
        assert_eq!((request.overrides.max_tokens, request.overrides.logprobs), (Some(5), Some(2)));
        assert!(request.stream && request.stream_options.include_usage);
        assert!(request.continue_final_message && !request.add_generation_prompt);
        assert_eq!(
            Value::Object(request.template_kwargs),
            json!({"a": 1, "reasoning_effort": "none", "enable_thinking": false})
        );
        let shown = with(r#""tools": [{"type": "function"}], "tool_choice": "none""#).unwrap();
        assert_eq!(shown.tools, Some(json!([{"type": "function"}])));
    }

    #[test]
    fn bad_requests_are_named() {
        for (body, part) in [
            ("{}", "messages is missing"),
            (r#"{"messages": "hi"}"#, "messages must be a list, got \"hi\""),
            (r#"{"messages": []}"#, "messages must not be empty"),
            (r#"{"messages": ["hi"]}"#, "messages[0] must be an object with role and content"),
            (
                r#"{"messages": [{"role": "king", "content": ""}]}"#,
                "messages[0].role must be one of system, developer",
            ),
            (r#"{"messages": [{"content": ""}]}"#, "messages[0].role must be one of"),
            (
                r#"{"messages": [{"role": "user"}]}"#,
                "messages[0].content must be a string or a list",
            ),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#,
                "the model takes text only",
            ),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "text"}]}]}"#,
                "messages[0].content[0] must be {\"type\": \"text\"",
            ),
        ] {
            let error = parse(body).unwrap_err();
            assert!(error.message.contains(part), "{}", error.message);
        }
        for (fields, part) in [
            (r#""max_tokens": -5"#, "max_tokens must be an integer of at least 1, got -5"),
            (r#""top_logprobs": 2"#, "top_logprobs needs logprobs: true"),
            (r#""logprobs": 3"#, "logprobs must be true or false, got 3"),
            (r#""tools": []"#, "tools must not be empty"),
            (r#""tools": [{}]"#, "tool calling is not supported yet"),
            (r#""tool_choice": "required""#, "tool_choice needs tools"),
            (r#""chat_template": "x""#, "chat_template is not accepted"),
            (r#""chat_template_kwargs": {"tokenize": true}"#, "must not hold tokenize"),
            (
                r#""continue_final_message": true, "add_generation_prompt": true"#,
                "cannot both be true",
            ),
            (r#""temperature": NaN"#, "NaN and Infinity are not JSON numbers"),
        ] {
            let error = with(fields).unwrap_err();
            assert_eq!(error.status, 400);
            assert!(error.message.contains(part), "{}", error.message);
        }
    }
}
