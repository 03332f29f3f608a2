//! `POST /v1/chat/completions`.

use super::{messages, part_text, tools};
use crate::completion::model;
use crate::fields::{Fields, Numbers, object};
use crate::overrides::num_logprobs;
use crate::{ApiError, Extensions, Overrides, StreamOptions};
use serde_json::{Map, Value};
use tyndall_types::{Tool, ToolChoice};

pub(crate) const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// A valid request of a conversation; those of other APIs become one too.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The model asked for; none is the served one.
    pub model: Option<String>,
    /// At least one, as sent: objects with a known role whose content is text. What a template
    /// wants otherwise is the template engine's matter.
    pub messages: Vec<Value>,
    /// What the model may call.
    pub tools: Vec<Tool>,
    /// The tools as the template shows them: a list of `{"type": "function", "function": …}`.
    pub template_tools: Option<Value>,
    /// What the model may and must call.
    pub tool_choice: ToolChoice,
    /// Several calls in one answer are wanted.
    pub parallel_tool_calls: bool,
    /// Sampling.
    pub overrides: Overrides,
    /// The rest of what is common to the routes for text.
    pub extensions: Extensions,
    /// Answer as server-sent events.
    pub stream: bool,
    /// How a stream reports usage.
    pub stream_options: StreamOptions,
    /// The prompt ends where the assistant begins to speak.
    pub add_generation_prompt: bool,
    /// The prompt ends inside the last message.
    pub continue_final_message: bool,
    /// The answer begins with the last message, which it continues.
    pub echo: bool,
    /// The tokenizer adds its special tokens to what the template wrote.
    pub add_special_tokens: bool,
    /// Further variables of the template.
    pub template_kwargs: Map<String, Value>,
    /// The thoughts are told.
    pub include_reasoning: bool,
    /// After so many tokens of thoughts they are ended; absent is as many as it takes.
    pub thinking_token_budget: Option<u32>,
}

impl ChatRequest {
    /// What its messages say, in order.
    #[must_use]
    pub fn texts(messages: &[Value]) -> Vec<&str> {
        let mut texts = Vec::new();
        for content in messages.iter().filter_map(|message| message.get("content")) {
            match content {
                Value::Array(parts) => {
                    texts.extend(parts.iter().filter_map(|part| part_text("", part).ok()));
                }
                content => texts.extend(content.as_str()),
            }
        }
        texts
    }

    /// A request with these messages and nothing else.
    #[must_use]
    pub fn new(messages: Vec<Value>) -> Self {
        Self {
            model: None,
            messages,
            tools: Vec::new(),
            template_tools: None,
            tool_choice: ToolChoice::None,
            parallel_tool_calls: true,
            overrides: Overrides::none(),
            extensions: Extensions::default(),
            stream: false,
            stream_options: StreamOptions::default(),
            add_generation_prompt: true,
            continue_final_message: false,
            echo: false,
            add_special_tokens: false,
            template_kwargs: Map::new(),
            include_reasoning: true,
            thinking_token_budget: None,
        }
    }

    /// Reads what a template needs, which all routes that take conversations share.
    pub(crate) fn conversation(fields: &Fields<'_>, generate: bool) -> Result<Self, ApiError> {
        let messages = messages::read(fields)?;
        let tools = tools::read(fields)?;
        let continue_final_message = fields.bool("continue_final_message")?.unwrap_or_default();
        let add_generation_prompt = fields.bool("add_generation_prompt")?;
        if continue_final_message && add_generation_prompt == Some(true) {
            return Err(ApiError::invalid(
                "continue_final_message",
                "continue_final_message and add_generation_prompt cannot both be true",
            ));
        }
        Ok(Self {
            model: model(fields)?,
            tools: tools.tools,
            template_tools: tools.shown,
            tool_choice: tools.choice,
            add_generation_prompt: add_generation_prompt
                .unwrap_or(generate && !continue_final_message),
            continue_final_message,
            add_special_tokens: fields.bool("add_special_tokens")?.unwrap_or_default(),
            template_kwargs: template_kwargs(fields)?,
            ..Self::new(messages)
        })
    }

    /// A call that must be made leaves no room for text of another form, which `field` asks for.
    pub(crate) fn check_choice(&self, field: &str) -> Result<(), ApiError> {
        let enforced = matches!(self.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
        if enforced && self.extensions.structured.is_some() {
            return Err(ApiError::invalid(
                "tool_choice",
                format!("tool_choice asks for a call and {field} for other text; send one of them"),
            ));
        }
        Ok(())
    }
}

/// Reads and checks a `/v1/chat/completions` body.
///
/// # Errors
/// 400 with the field, its value and what is accepted.
pub fn parse_chat(body: &[u8]) -> Result<ChatRequest, ApiError> {
    let object = object(body)?;
    let fields = Fields::new(&object, Numbers::Strict);
    let request = ChatRequest::conversation(&fields, true)?;

    let mut overrides = Overrides::read(&fields)?;
    let max_completion = fields.count("max_completion_tokens", 1, u32::MAX)?;
    let max_tokens = fields.count("max_tokens", 1, u32::MAX)?;
    overrides.max_tokens = max_completion.or(max_tokens);
    overrides.logprobs = logprobs(&fields)?;
    overrides.check()?;

    let (stream, stream_options) = StreamOptions::read(&fields)?;
    let budget = fields.integer("thinking_token_budget", -1, i64::from(u32::MAX))?;
    let request = ChatRequest {
        parallel_tool_calls: fields.bool("parallel_tool_calls")?.unwrap_or(true),
        overrides,
        extensions: Extensions::read(&fields, stream)?,
        stream,
        stream_options,
        echo: fields.bool("echo")?.unwrap_or_default() && request.continue_final_message,
        include_reasoning: fields.bool("include_reasoning")?.unwrap_or(true),
        thinking_token_budget: budget.and_then(|budget| u32::try_from(budget).ok()),
        ..request
    };
    request.check_choice("response_format")?;
    Ok(request)
}

fn logprobs(fields: &Fields<'_>) -> Result<Option<u32>, ApiError> {
    let wanted = fields.bool("logprobs")?.unwrap_or_default();
    let top = num_logprobs(fields, "top_logprobs")?.unwrap_or_default();
    if top > 0 && !wanted {
        return Err(ApiError::invalid("top_logprobs", "top_logprobs needs logprobs: true"));
    }
    Ok(wanted.then_some(top))
}

/// Reads the variables of the template.
pub(crate) fn template_kwargs(fields: &Fields<'_>) -> Result<Map<String, Value>, ApiError> {
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
    reasoning_effort(fields, "reasoning_effort", &mut kwargs)?;
    Ok(kwargs)
}

/// Reads how much to think, a variable of the template too.
pub(crate) fn reasoning_effort(
    fields: &Fields<'_>,
    name: &str,
    kwargs: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    let Some(effort) = fields.string(name)? else { return Ok(()) };
    if !EFFORTS.contains(&effort) {
        let path = fields.path(name);
        return Err(ApiError::invalid(
            &path,
            format!("{path} must be one of {}, got {effort:?}", EFFORTS.join(", ")),
        ));
    }
    kwargs.insert("reasoning_effort".to_owned(), effort.into());
    kwargs.entry("enable_thinking").or_insert((effort != "none").into());
    Ok(())
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
        let tool = r#"{"type": "function", "function": {"name": "f", "x": 1}}"#;
        let with_choice = |choice| with(&format!(r#""tools": [{tool}]{choice}"#)).unwrap();
        for (choice, expected) in [
            ("", ToolChoice::Auto),
            (r#", "tool_choice": "none""#, ToolChoice::None),
            (r#", "tool_choice": "required""#, ToolChoice::Required),
            (
                r#", "tool_choice": {"type": "function", "function": {"name": "f"}}"#,
                ToolChoice::Named("f".to_owned()),
            ),
        ] {
            let request = with_choice(choice);
            assert_eq!(request.tool_choice, expected);
            let shown = serde_json::from_str::<Value>(tool).unwrap();
            assert_eq!(request.template_tools, Some(json!([shown])));
            assert_eq!(request.tools[0].parameters, json!({"type": "object", "properties": {}}));
        }
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
            (r#""tools": [{}]"#, "tools[0] must be {\"type\": \"function\""),
            (r#""tools": [{"function": {}}]"#, "tools[0].function.name must be a name"),
            (
                r#""tools": [{"function": {"name": "f"}}], "tool_choice": {"function": {"name": "g"}}"#,
                "tool_choice names \"g\"; tools has f",
            ),
            (
                r#""tools": [{"function": {"name": "f"}}, {"function": {"name": "f"}}]"#,
                "different names",
            ),
            (
                r#""tools": [{"function": {"name": "f"}}], "tool_choice": "required",
                   "response_format": {"type": "json_object"}"#,
                "send one of them",
            ),
            (r#""reasoning_effort": "huge""#, "must be one of none, minimal"),
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
