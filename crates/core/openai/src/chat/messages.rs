//! `messages`.

use crate::ApiError;
use crate::fields::{Fields, shown, wrong};
use crate::system::clean;
use serde_json::Value;

pub(crate) const ROLES: [&str; 6] =
    ["system", "developer", "user", "assistant", "tool", "function"];
pub(crate) const TEXT_PARTS: [&str; 5] =
    ["text", "input_text", "output_text", "refusal", "thinking"];

/// Reads them as they were sent: objects with a known role whose content is text.
pub(super) fn read(fields: &Fields<'_>) -> Result<Vec<Value>, ApiError> {
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
    let mut messages = list.to_vec();
    messages.iter_mut().for_each(clean);
    Ok(messages)
}

fn check_message(index: usize, item: &Value) -> Result<(), ApiError> {
    let path = format!("messages[{index}]");
    let Value::Object(object) = item else {
        return Err(wrong(&path, "an object with role and content", Some(item)));
    };
    let role = match object.get("role") {
        Some(Value::String(role)) if ROLES.contains(&role.as_str()) => role.as_str(),
        other => {
            let expected = format!("one of {}", ROLES.join(", "));
            return Err(wrong(&format!("{path}.role"), &expected, other));
        }
    };
    match object.get("content") {
        None | Some(Value::Null) if role == "assistant" => Ok(()),
        Some(Value::String(_)) => Ok(()),
        Some(Value::Array(parts)) => {
            let mut parts = parts.iter().enumerate();
            parts.try_for_each(|(i, part)| {
                part_text(&format!("{path}.content[{i}]"), part).map(drop)
            })
        }
        other => Err(wrong(&format!("{path}.content"), "a string or a list of text parts", other)),
    }
}

/// The text of a part, which must be one of text.
pub(crate) fn part_text<'a>(path: &str, part: &'a Value) -> Result<&'a str, ApiError> {
    if let Value::String(text) = part {
        return Ok(text);
    }
    let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
    if !TEXT_PARTS.contains(&kind) {
        return Err(text_only(&format!("{path}.type"), kind));
    }
    let key = if ["refusal", "thinking"].contains(&kind) { kind } else { "text" };
    part.get(key)
        .and_then(Value::as_str)
        .ok_or_else(|| wrong(path, "{\"type\": \"text\", \"text\": …}", Some(part)))
}

/// The error of a part that is no text.
pub(crate) fn text_only(path: &str, kind: &str) -> ApiError {
    let kind = shown(&kind.into());
    ApiError::invalid(path, format!("{path} {kind} is not supported: the model takes text only"))
}
