//! `messages`.

use crate::ApiError;
use crate::fields::{Fields, shown};
use serde_json::Value;

const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];
const TEXT_PARTS: [&str; 5] = ["text", "input_text", "output_text", "refusal", "thinking"];

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
                let key = if ["refusal", "thinking"].contains(&kind) { kind } else { "text" };
                part.get(key).and_then(Value::as_str)
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
