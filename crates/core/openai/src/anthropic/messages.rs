//! `system` and `messages`, as conversations of `/v1/chat/completions`.
//!
//! - The blocks of `system` become one text, with nothing between them, as of vLLM; system messages
//!   among the others settle as [`settle`] says.
//! - A user's text blocks become one message; each `tool_result` before them becomes a message of
//!   the tool, its text blocks joined by line ends.
//! - The assistant's blocks become one message: text, calls with their arguments as JSON text, and
//!   thoughts. Redacted thoughts, which no model of ours wrote, are left out.

use crate::ApiError;
use crate::chat::{part_text, text_only};
use crate::fields::{Fields, shown, wrong};
use crate::system::{settle, without_billing_header};
use serde_json::{Map, Value, json};

/// Blocks that hold no text.
const MEDIA: [&str; 3] = ["image", "document", "container_upload"];

/// Reads them.
pub(super) fn read(fields: &Fields<'_>) -> Result<Vec<Value>, ApiError> {
    let mut messages = Vec::new();
    if let Some(system) = fields.get("system") {
        messages.push(system_message("system", system)?);
    }
    let Some(list) = fields.list("messages")? else {
        return Err(ApiError::malformed(
            "messages",
            "messages is missing; send a list of {\"role\": \"user\", \"content\": …}",
        ));
    };
    if list.is_empty() {
        return Err(ApiError::invalid("messages", "messages must not be empty"));
    }
    for (i, item) in list.iter().enumerate() {
        let path = format!("messages[{i}]");
        let Value::Object(object) = item else {
            return Err(wrong(&path, "an object with role and content", Some(item)));
        };
        let content = object.get("content").unwrap_or(&Value::Null);
        let content_path = format!("{path}.content");
        match object.get("role").and_then(Value::as_str) {
            Some("user") => user(&content_path, content, &mut messages)?,
            Some("assistant") => messages.push(assistant(&content_path, content)?),
            Some("system") => messages.push(system_message(&content_path, content)?),
            _ => {
                let role = object.get("role");
                return Err(wrong(&format!("{path}.role"), "user, assistant or system", role));
            }
        }
    }
    let messages = settle(messages);
    if messages.is_empty() {
        let message = "messages must not be empty, and system messages without text are nothing";
        return Err(ApiError::invalid("messages", message));
    }
    Ok(messages)
}

fn system_message(path: &str, content: &Value) -> Result<Value, ApiError> {
    let texts = texts(path, content)?;
    let text: String = texts.into_iter().map(without_billing_header).collect();
    Ok(json!({"role": "system", "content": text}))
}

fn user(path: &str, content: &Value, messages: &mut Vec<Value>) -> Result<(), ApiError> {
    let before = messages.len();
    let mut texts = Vec::new();
    for (path, block) in blocks(path, content)? {
        match block {
            Block::Text(text) => texts.push(text),
            Block::Object("tool_result", result) => messages.push(tool_result(&path, result)?),
            Block::Object(kind, _) => return Err(unsupported(&path, kind)),
        }
    }
    let content = match texts.as_slice() {
        [] if messages.len() > before => return Ok(()),
        [] => Value::from(""),
        [text] => Value::from(*text),
        texts => texts.iter().map(|text| json!({"type": "text", "text": text})).collect(),
    };
    messages.push(json!({"role": "user", "content": content}));
    Ok(())
}

fn tool_result(path: &str, result: &Map<String, Value>) -> Result<Value, ApiError> {
    let id = string(path, result, "tool_use_id")?;
    let content_path = format!("{path}.content");
    let text = match result.get("content") {
        None | Some(Value::Null) => String::new(),
        Some(content) => texts(&content_path, content)?.join("\n"),
    };
    let failed = result.get("is_error").is_some_and(|is_error| *is_error == Value::Bool(true));
    // Most clients say so in the text as well.
    let says_so = text.lines().next().unwrap_or_default().to_lowercase().contains("error");
    let text = if failed && !says_so { format!("Error: {text}") } else { text };
    Ok(json!({"role": "tool", "tool_call_id": id, "content": text}))
}

fn assistant(path: &str, content: &Value) -> Result<Value, ApiError> {
    let (mut text, mut reasoning) = (None::<String>, None::<String>);
    let mut calls = Vec::new();
    for (path, block) in blocks(path, content)? {
        match block {
            Block::Text(more) => text.get_or_insert_default().push_str(more),
            Block::Object("thinking", block) => {
                reasoning.get_or_insert_default().push_str(string(&path, block, "thinking")?);
            }
            Block::Object("redacted_thinking", _) => {}
            Block::Object("tool_use", block) => calls.push(tool_use(&path, block)?),
            Block::Object(kind, _) => return Err(unsupported(&path, kind)),
        }
    }
    let says_nothing = reasoning.is_none() && calls.is_empty();
    let text = text.or_else(|| says_nothing.then(String::new));
    let mut message = json!({"role": "assistant", "content": text});
    if let Some(reasoning) = reasoning {
        message["reasoning"] = reasoning.into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    Ok(message)
}

fn tool_use(path: &str, block: &Map<String, Value>) -> Result<Value, ApiError> {
    let arguments = match block.get("input") {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(input @ Value::Object(_)) => input.to_string(),
        other => return Err(wrong(&format!("{path}.input"), "an object", other)),
    };
    Ok(json!({
        "id": string(path, block, "id")?,
        "type": "function",
        "function": {"name": string(path, block, "name")?, "arguments": arguments},
    }))
}

enum Block<'a> {
    Text(&'a str),
    /// With its type.
    Object(&'a str, &'a Map<String, Value>),
}

/// The blocks of a content, each with its path; a string is one block of text.
fn blocks<'a>(path: &str, content: &'a Value) -> Result<Vec<(String, Block<'a>)>, ApiError> {
    let list = match content {
        Value::String(text) => return Ok(vec![(path.to_owned(), Block::Text(text))]),
        Value::Array(list) => list,
        other => return Err(wrong(path, "a string or a list of blocks", Some(other))),
    };
    let block = |(i, item): (usize, &'a Value)| {
        let path = format!("{path}[{i}]");
        let kind = item.get("type").and_then(Value::as_str);
        match (kind, item) {
            (Some("text"), _) => Ok((path.clone(), Block::Text(part_text(&path, item)?))),
            (Some(kind), Value::Object(object)) => Ok((path, Block::Object(kind, object))),
            _ => Err(wrong(&path, "a block with a type", Some(item))),
        }
    };
    list.iter().enumerate().map(block).collect()
}

/// The texts of a content that takes nothing else. Of a reference to a tool that is its name.
fn texts<'a>(path: &str, content: &'a Value) -> Result<Vec<&'a str>, ApiError> {
    let text = |(path, block): (String, Block<'a>)| match block {
        Block::Text(text) => Ok(text),
        Block::Object("tool_reference", block) => string(&path, block, "tool_name"),
        Block::Object(kind, _) => Err(unsupported(&path, kind)),
    };
    blocks(path, content)?.into_iter().map(text).collect()
}

fn string<'a>(path: &str, block: &'a Map<String, Value>, name: &str) -> Result<&'a str, ApiError> {
    let value = block.get(name);
    value.and_then(Value::as_str).ok_or_else(|| wrong(&format!("{path}.{name}"), "a string", value))
}

fn unsupported(path: &str, kind: &str) -> ApiError {
    let path = format!("{path}.type");
    if MEDIA.contains(&kind) {
        return text_only(&path, kind);
    }
    let kind = shown(&kind.into());
    ApiError::invalid(&path, format!("{path} {kind} is not supported in this place; leave it out"))
}
