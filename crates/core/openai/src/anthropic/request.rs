//! Requests in Anthropic's words.

use super::messages;
use crate::chat::{reasoning_effort, template_kwargs};
use crate::completion::model;
use crate::fields::{Fields, Numbers, object, shown, wrong};
use crate::structured::{Style, json_schema};
use crate::{ApiError, ChatRequest, Extensions, Overrides, overrides, tools};
use serde_json::{Map, Value};
use tyndall_types::{StructuredOutput, Tool, ToolChoice};

/// Anthropic's least `budget_tokens`.
pub(crate) const MIN_BUDGET_TOKENS: u32 = 1024;

/// Reads and checks a `/v1/messages` body. Beside Anthropic's fields it takes the common extra
/// sampling fields and `chat_template_kwargs`.
///
/// # Errors
/// 400 with the field, its value and what is accepted.
pub fn parse_messages(body: &[u8]) -> Result<ChatRequest, ApiError> {
    let object = object(body)?;
    let fields = Fields::new(&object, Numbers::Strict);
    let max_tokens = fields.count("max_tokens", 1, u32::MAX)?.ok_or_else(|| {
        ApiError::malformed(
            "max_tokens",
            "max_tokens is missing; send how many tokens the answer may have",
        )
    })?;
    read(&fields, Some(max_tokens))
}

/// Reads and checks a `/v1/messages/count_tokens` body, of which only the prompt matters.
///
/// # Errors
/// 400 with the field, its value and what is accepted.
pub fn parse_count_tokens(body: &[u8]) -> Result<ChatRequest, ApiError> {
    let object = object(body)?;
    read(&Fields::new(&object, Numbers::Strict), None)
}

fn read(fields: &Fields<'_>, max_tokens: Option<u32>) -> Result<ChatRequest, ApiError> {
    refuse_unsupported(fields)?;
    let mut overrides = Overrides::read(fields)?;
    overrides.stop = overrides::stop(fields, "stop_sequences")?;
    overrides.max_tokens = max_tokens;
    overrides.n = 1;
    overrides.check()?;

    let mut request = ChatRequest {
        model: model(fields)?,
        tools: client_tools(fields)?,
        overrides,
        extensions: Extensions { structured: structured(fields)?, ..Extensions::default() },
        stream: fields.bool("stream")?.unwrap_or_default(),
        template_kwargs: template_kwargs(fields)?,
        ..ChatRequest::new(messages::read(fields)?)
    };
    request.template_tools = tools::shown(&request.tools);
    request.extensions.cache_salt = crate::extensions::cache_salt(fields)?;
    choose(fields, &mut request)?;
    think(fields, &mut request)?;
    if let Some(object) = fields.object("output_config")? {
        let nested = Fields::nested(object, "output_config.", Numbers::Strict);
        reasoning_effort(&nested, "effort", &mut request.template_kwargs)?;
    }
    request.check_choice("output_config.format")?;
    if is_prefilled(&request.messages) {
        request.continue_final_message = true;
        request.add_generation_prompt = false;
    }
    Ok(request)
}

/// What runs at Anthropic's.
fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), ApiError> {
    if fields.get("container").is_some() {
        return Err(ApiError::unsupported("container"));
    }
    if fields.list("mcp_servers")?.is_some_and(|servers| !servers.is_empty()) {
        return Err(ApiError::unsupported("mcp_servers"));
    }
    Ok(())
}

/// The answer goes on where the last message ends, if that is the assistant's text.
fn is_prefilled(messages: &[Value]) -> bool {
    messages.last().is_some_and(|last| {
        let text = last.get("content").and_then(Value::as_str);
        last["role"] == "assistant"
            && last.get("tool_calls").is_none()
            && text.is_some_and(|text| !text.trim().is_empty())
    })
}

/// The tools that the client runs itself. All others are refused by name.
fn client_tools(fields: &Fields<'_>) -> Result<Vec<Tool>, ApiError> {
    let list = fields.list("tools")?.unwrap_or_default();
    let tool = |(i, item): (usize, &Value)| {
        let path = format!("tools[{i}]");
        let Value::Object(object) = item else {
            return Err(wrong(&path, "{\"name\": …, \"input_schema\": …}", Some(item)));
        };
        match object.get("type") {
            None | Some(Value::Null) => {}
            Some(Value::String(kind)) if kind == "custom" => {}
            Some(kind) => {
                let path = format!("{path}.type");
                return Err(ApiError::invalid(
                    &path,
                    format!(
                        "{path} {} is not supported: only tools with an input_schema, which the \
                         client runs, are",
                        shown(kind)
                    ),
                ));
            }
        }
        let mut tool = tools::function(&path, object, "input_schema")?;
        if let Some(schema) = tool.parameters.as_object_mut() {
            schema.entry("type").or_insert_with(|| "object".into());
        }
        Ok(tool)
    };
    let tools = list.iter().enumerate().map(tool).collect::<Result<Vec<_>, _>>()?;
    tools::check_distinct(&tools)?;
    Ok(tools)
}

/// Reads `tool_choice`.
fn choose(fields: &Fields<'_>, request: &mut ChatRequest) -> Result<(), ApiError> {
    let default = if request.tools.is_empty() { ToolChoice::None } else { ToolChoice::Auto };
    let Some(object) = fields.object("tool_choice")? else {
        request.tool_choice = default;
        return Ok(());
    };
    let nested = Fields::nested(object, "tool_choice.", Numbers::Strict);
    request.tool_choice = match nested.string("type")? {
        Some("auto") => default,
        Some("none") => ToolChoice::None,
        Some("any" | "tool") if request.tools.is_empty() => return Err(tools::missing()),
        Some("any") => ToolChoice::Required,
        Some("tool") => tools::named(&tools::name("tool_choice", object)?, &request.tools)?,
        _ => {
            let kind = object.get("type");
            return Err(wrong("tool_choice.type", "auto, any, tool or none", kind));
        }
    };
    let disabled = nested.bool("disable_parallel_tool_use")?.unwrap_or_default();
    request.parallel_tool_calls = !disabled;
    Ok(())
}

/// Reads `thinking`. Whether a model thinks is a variable of its template.
fn think(fields: &Fields<'_>, request: &mut ChatRequest) -> Result<(), ApiError> {
    let Some(object) = fields.object("thinking")? else { return Ok(()) };
    let nested = Fields::nested(object, "thinking.", Numbers::Strict);
    let enabled = match nested.string("type")? {
        Some("enabled") => {
            request.thinking_token_budget = Some(budget(&nested, request.overrides.max_tokens)?);
            Some(true)
        }
        Some("disabled") => Some(false),
        Some("adaptive" | "between_tools") => None,
        _ => {
            let kind = object.get("type");
            return Err(wrong("thinking.type", "enabled, disabled or adaptive", kind));
        }
    };
    if let Some(enabled) = enabled {
        request.template_kwargs.entry("enable_thinking").or_insert(enabled.into());
    }
    if nested.string("display")? == Some("omitted") {
        request.include_reasoning = false;
    }
    Ok(())
}

fn budget(thinking: &Fields<'_>, max_tokens: Option<u32>) -> Result<u32, ApiError> {
    let path = "thinking.budget_tokens";
    let Some(budget) = thinking.count("budget_tokens", MIN_BUDGET_TOKENS, u32::MAX)? else {
        return Err(ApiError::malformed(
            path,
            format!("{path} is missing; send at least {MIN_BUDGET_TOKENS}"),
        ));
    };
    match max_tokens {
        Some(max) if budget >= max => Err(ApiError::invalid(
            path,
            format!("{path} must be less than max_tokens, got {budget} and {max}"),
        )),
        _ => Ok(budget),
    }
}

/// Reads `output_config.format`, or `output_format` as it was called before.
fn structured(fields: &Fields<'_>) -> Result<Option<StructuredOutput>, ApiError> {
    let config = fields.object("output_config")?;
    let format = |object: &Map<String, Value>, path: &str| {
        let kind = object.get("type");
        if kind.is_none_or(|kind| kind != "json_schema") {
            return Err(wrong(&format!("{path}.type"), "\"json_schema\"", kind));
        }
        let schema = object.get("schema").unwrap_or(&Value::Null);
        json_schema(&format!("{path}.schema"), schema, Style::default()).map(Some)
    };
    let nested = config.map(|config| Fields::nested(config, "output_config.", Numbers::Strict));
    let new = nested.map(|nested| nested.object("format")).transpose()?.flatten();
    match (new, fields.object("output_format")?) {
        (None, None) => Ok(None),
        (Some(object), None) => format(object, "output_config.format"),
        (None, Some(object)) => format(object, "output_format"),
        (Some(_), Some(_)) => Err(ApiError::invalid(
            "output_format",
            "output_format and output_config.format exclude each other; send one of them",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(body: &Value) -> Result<ChatRequest, ApiError> {
        parse_messages(body.to_string().as_bytes())
    }

    /// A request of one message with these fields too.
    fn with(fields: Value) -> Result<ChatRequest, ApiError> {
        let mut body = json!({"max_tokens": 2048, "messages": [{"role": "user", "content": "hi"}]});
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        parse(&body)
    }

    fn messages(system: Value, messages: Value) -> Result<Value, ApiError> {
        let request = with(json!({"system": system, "messages": messages}))?;
        Ok(request.messages.into())
    }

    #[test]
    fn blocks_become_messages() {
        let check = |system: Value, sent: Value, expected: Value| {
            assert_eq!(messages(system, sent).unwrap(), expected);
        };
        check(
            json!([{"type": "text", "text": "x-anthropic-billing-header: cch=1;"},
                   {"type": "text", "text": "A.", "cache_control": {"type": "ephemeral"}},
                   {"type": "text", "text": "\nB."}]),
            json!([{"role": "user", "content": [{"type": "text", "text": "hi"}]}]),
            json!([{"role": "system", "content": "A.\nB."}, {"role": "user", "content": "hi"}]),
        );
        check(
            Value::Null,
            json!([
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "a"}, {"type": "text", "text": "b"},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"z": 1, "a": [2]}},
                    {"type": "tool_use", "id": "t2", "name": "g"},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "3"},
                    {"type": "tool_result", "tool_use_id": "t2", "is_error": true, "content": [
                        {"type": "text", "text": "no"}, {"type": "text", "text": "way"}]},
                    {"type": "text", "text": "x"}, {"type": "text", "text": "y"},
                ]},
                {"role": "system", "content": "be brief"},
            ]),
            json!([
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "ab", "reasoning": "hm", "tool_calls": [
                    {"id": "t1", "type": "function",
                     "function": {"name": "f", "arguments": "{\"z\":1,\"a\":[2]}"}},
                    {"id": "t2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                ]},
                {"role": "tool", "tool_call_id": "t1", "content": "3"},
                {"role": "tool", "tool_call_id": "t2", "content": "Error: no\nway"},
                {"role": "user", "content": [
                    {"type": "text", "text": "x"}, {"type": "text", "text": "y\n\nbe brief"}]},
            ]),
        );
        check(
            json!("S"),
            json!([
                {"role": "user", "content": []},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f"}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t",
                    "is_error": true, "content": "<tool_use_error>no</tool_use_error>"}]},
                {"role": "assistant", "content": []},
            ]),
            json!([
                {"role": "system", "content": "S"},
                {"role": "user", "content": ""},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "t",
                 "content": "<tool_use_error>no</tool_use_error>"},
                {"role": "assistant", "content": ""},
            ]),
        );
    }

    #[test]
    fn fields_have_their_meaning() {
        let request = with(json!({
            "model": "m", "stop_sequences": ["x"], "top_k": 5, "temperature": 0.5, "stream": true,
            "thinking": {"type": "enabled", "budget_tokens": 1024}, "n": 3,
            "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {}}},
            "metadata": {"user_id": "u"}, "service_tier": "auto", "container": null,
            "mcp_servers": [], "tools": [], "context_management": {"edits": []},
        }))
        .unwrap();
        assert_eq!((request.overrides.n, request.overrides.top_k), (1, Some(5)));
        assert_eq!(request.overrides.stop, ["x"]);
        assert_eq!(request.overrides.max_tokens, Some(2048));
        assert_eq!(request.thinking_token_budget, Some(1024));
        assert!(request.stream && request.include_reasoning && request.add_generation_prompt);
        assert_eq!(
            Value::from(request.template_kwargs),
            json!({"enable_thinking": true, "reasoning_effort": "high"})
        );
        let schema = StructuredOutput::Json { schema: json!({}), compact: false, closed: true };
        assert_eq!(request.extensions.structured, Some(schema.clone()));
        let older = with(json!({"output_format": {"type": "json_schema", "schema": {}}})).unwrap();
        assert_eq!(older.extensions.structured, Some(schema));
        for (thinking, kwargs) in [
            (json!({"type": "disabled"}), json!({"enable_thinking": false})),
            (json!({"type": "adaptive", "display": "summarized"}), json!({})),
        ] {
            let request = with(json!({"thinking": thinking})).unwrap();
            assert_eq!(Value::from(request.template_kwargs), kwargs);
        }
        let quiet = with(json!({"thinking": {"type": "adaptive", "display": "omitted"}})).unwrap();
        assert!(!quiet.include_reasoning);
    }

    #[test]
    fn tools_are_those_of_the_client() {
        let f = json!({"name": "f", "description": "d", "input_schema": {"properties": {}},
                       "cache_control": {"type": "ephemeral"}});
        let g = json!({"name": "g", "type": "custom", "input_schema": {"type": "object"}});
        let check = |choice: Value, expected: ToolChoice, parallel: bool| {
            let request = with(json!({"tools": [f, g], "tool_choice": choice})).unwrap();
            assert_eq!((&request.tool_choice, request.parallel_tool_calls), (&expected, parallel));
            assert_eq!(
                request.template_tools.unwrap()[0],
                json!({"type": "function", "function": {"name": "f", "description": "d",
                       "parameters": {"properties": {}, "type": "object"}}})
            );
        };
        check(Value::Null, ToolChoice::Auto, true);
        check(json!({"type": "auto", "disable_parallel_tool_use": true}), ToolChoice::Auto, false);
        check(json!({"type": "any"}), ToolChoice::Required, true);
        check(json!({"type": "none"}), ToolChoice::None, true);
        check(json!({"type": "tool", "name": "g"}), ToolChoice::Named("g".to_owned()), true);
    }

    #[test]
    fn the_last_words_of_the_assistant_are_gone_on_with() {
        let check = |content: Value, expected: bool| {
            let messages = json!([
                {"role": "user", "content": "q"}, {"role": "assistant", "content": content}]);
            let request = with(json!({"messages": messages})).unwrap();
            assert_eq!(request.continue_final_message, expected);
            assert_eq!(request.add_generation_prompt, !expected);
        };
        check(json!("The answer is"), true);
        check(json!([{"type": "text", "text": "{"}]), true);
        check(json!(""), false);
        check(json!([{"type": "tool_use", "id": "t", "name": "f", "input": {}}]), false);
    }

    #[test]
    fn counting_needs_no_max_tokens() {
        let body = br#"{"messages": [{"role": "user", "content": "hi"}],
                        "thinking": {"type": "enabled", "budget_tokens": 4096}}"#;
        let request = parse_count_tokens(body).unwrap();
        assert_eq!((request.messages.len(), request.overrides.max_tokens), (1, None));
        let error = parse_messages(body).unwrap_err();
        assert!(error.message.contains("max_tokens is missing"), "{}", error.message);
    }

    #[test]
    fn bad_requests_are_named() {
        let check = |fields: Value, part: &str| {
            let error = with(fields).unwrap_err();
            assert_eq!(error.status, 400);
            assert!(error.message.contains(part), "{}", error.message);
        };
        let content = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
        check(json!({"max_tokens": 0}), "max_tokens must be an integer of at least 1, got 0");
        check(json!({"messages": []}), "messages must not be empty");
        let silent = json!({"messages": [{"role": "system", "content": ""}]});
        check(silent, "system messages without text are nothing");
        check(json!({"messages": [{"role": "tool", "content": ""}]}), "messages[0].role must be");
        check(content(json!(3)), "messages[0].content must be a string or a list of blocks");
        check(content(json!(["a"])), "messages[0].content[0] must be a block with a type");
        check(content(json!([{"type": "image"}])), "the model takes text only");
        check(content(json!([{"type": "document"}])), "the model takes text only");
        check(content(json!([{"type": "tool_use"}])), "is not supported in this place");
        check(content(json!([{"type": "tool_result"}])), "tool_use_id must be a string, got null");
        check(
            content(json!([{"type": "tool_result", "tool_use_id": "t",
                            "content": [{"type": "image"}]}])),
            "messages[0].content[0].content[0].type \"image\" is not supported: the model",
        );
        check(json!({"system": [{"type": "image"}]}), "system[0].type \"image\"");
        check(json!({"container": "c"}), "container is not supported yet");
        check(json!({"mcp_servers": [{}]}), "mcp_servers is not supported yet");
        check(
            json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
            "tools[0].type \"web_search_20250305\" is not supported",
        );
        check(json!({"tool_choice": {"type": "any"}}), "tool_choice needs tools");
        check(json!({"tool_choice": {"type": "maybe"}}), "must be auto, any, tool or none");
        check(
            json!({"tools": [{"name": "f"}], "tool_choice": {"type": "tool", "name": "g"}}),
            "tool_choice names \"g\"; tools has f",
        );
        check(json!({"thinking": {"type": "enabled"}}), "budget_tokens is missing");
        check(
            json!({"thinking": {"type": "enabled", "budget_tokens": 1023}}),
            "at least 1024, got 1023",
        );
        check(
            json!({"thinking": {"type": "enabled", "budget_tokens": 2048}}),
            "must be less than max_tokens, got 2048 and 2048",
        );
        check(json!({"thinking": {"type": "on"}}), "must be enabled, disabled or adaptive");
        check(json!({"output_config": {"effort": "huge"}}), "output_config.effort must be one of");
        check(json!({"output_config": {"format": {}}}), "format.type must be \"json_schema\"");
        check(
            json!({"stop_sequences": ["a", "b", "c", "d", "e"]}),
            "stop_sequences takes at most 4 strings, got 5",
        );
    }
}
