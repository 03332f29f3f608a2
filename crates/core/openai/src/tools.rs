//! Tools, where the APIs agree on them.

use crate::ApiError;
use crate::fields::wrong;
use serde_json::{Map, Value, json};
use tyndall_types::{Tool, ToolChoice};

/// Reads a function out of the object that holds its name; the key of its schema differs.
pub(crate) fn function(
    path: &str,
    object: &Map<String, Value>,
    schema: &str,
) -> Result<Tool, ApiError> {
    let name = name(path, object)?;
    let description = description(path, object)?;
    let parameters = match object.get(schema) {
        None | Some(Value::Null) => no_parameters(),
        Some(Value::Object(schema)) if schema.is_empty() => no_parameters(),
        Some(schema @ Value::Object(_)) => schema.clone(),
        other => {
            return Err(wrong(&format!("{path}.{schema}"), "a JSON schema of an object", other));
        }
    };
    let strict = object.get("strict").and_then(Value::as_bool).unwrap_or_default();
    Ok(Tool { name, description, parameters, strict })
}

/// The `name` of a tool.
pub(crate) fn name(path: &str, object: &Map<String, Value>) -> Result<String, ApiError> {
    match object.get("name") {
        Some(Value::String(name)) if !name.is_empty() => Ok(name.clone()),
        other => Err(wrong(&format!("{path}.name"), "a name", other)),
    }
}

/// The `description` of a tool.
pub(crate) fn description(
    path: &str,
    object: &Map<String, Value>,
) -> Result<Option<String>, ApiError> {
    match object.get("description") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        other => Err(wrong(&format!("{path}.description"), "a string", other)),
    }
}

fn no_parameters() -> Value {
    json!({"type": "object", "properties": {}})
}

/// No name stands for two tools.
pub(crate) fn check_distinct(tools: &[Tool]) -> Result<(), ApiError> {
    for (i, tool) in tools.iter().enumerate() {
        if tools[..i].iter().any(|other| other.name == tool.name) {
            return Err(ApiError::invalid(
                &format!("tools[{i}]"),
                format!("tools must have different names, got {:?} twice", tool.name),
            ));
        }
    }
    Ok(())
}

/// The choice of one tool, which must be there.
pub(crate) fn named(name: &str, tools: &[Tool]) -> Result<ToolChoice, ApiError> {
    if tools.iter().any(|tool| tool.name == name) {
        return Ok(ToolChoice::Named(name.to_owned()));
    }
    let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
    Err(ApiError::invalid(
        "tool_choice",
        format!("tool_choice names {name:?}; tools has {}", names.join(", ")),
    ))
}

/// The error of a choice that needs tools where there are none.
pub(crate) fn missing() -> ApiError {
    ApiError::invalid("tool_choice", "tool_choice needs tools; send tools")
}

/// Tools as templates show them, for APIs in which they are sent otherwise.
pub(crate) fn shown(tools: &[Tool]) -> Option<Value> {
    let function = |tool: &Tool| {
        let mut function = json!({"name": tool.name});
        if let Some(description) = &tool.description {
            function["description"] = description.as_str().into();
        }
        function["parameters"] = tool.parameters.clone();
        json!({"type": "function", "function": function})
    };
    (!tools.is_empty()).then(|| tools.iter().map(function).collect())
}
