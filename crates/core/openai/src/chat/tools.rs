//! `tools` and `tool_choice`.

use crate::ApiError;
use crate::fields::{Fields, shown};
use serde_json::{Map, Value, json};
use tyndall_types::{Tool, ToolChoice};

/// What a request says of tools.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Tools {
    pub(super) tools: Vec<Tool>,
    /// As sent, for the template.
    pub(super) shown: Option<Value>,
    pub(super) choice: ToolChoice,
}

/// Reads `tools` and `tool_choice`.
pub(super) fn read(fields: &Fields<'_>) -> Result<Tools, ApiError> {
    let sent = fields.get("tool_choice");
    let Some(list) = fields.list("tools")? else {
        let asks = sent.is_some_and(|choice| choice != "none" && choice != "auto");
        return match asks {
            true => Err(ApiError::invalid("tool_choice", "tool_choice needs tools; send tools")),
            false => Ok(Tools::default()),
        };
    };
    if list.is_empty() {
        return Err(ApiError::invalid("tools", "tools must not be empty; leave it out"));
    }
    let tools: Vec<Tool> =
        list.iter().enumerate().map(|(i, item)| tool(i, item)).collect::<Result<_, _>>()?;
    for (i, tool) in tools.iter().enumerate() {
        if tools[..i].iter().any(|other| other.name == tool.name) {
            return Err(ApiError::invalid(
                &format!("tools[{i}].function.name"),
                format!("tools must have different names, got {:?} twice", tool.name),
            ));
        }
    }
    let choice = match sent {
        None => ToolChoice::Auto,
        Some(sent) => choice(sent, &tools)?,
    };
    Ok(Tools { tools, shown: Some(Value::Array(list.to_vec())), choice })
}

fn tool(index: usize, item: &Value) -> Result<Tool, ApiError> {
    let path = format!("tools[{index}]");
    let wrong = |path: &str, expected: &str, value: Option<&Value>| {
        let value = shown(value.unwrap_or(&Value::Null));
        ApiError::malformed(path, format!("{path} must be {expected}, got {value}"))
    };
    let kind = item.get("type");
    if kind.is_some_and(|kind| kind != "function") {
        let path = format!("{path}.type");
        return Err(wrong(&path, "\"function\"", kind));
    }
    let Some(Value::Object(function)) = item.get("function") else {
        let expected = "{\"type\": \"function\", \"function\": {\"name\": …, \"parameters\": …}}";
        return Err(wrong(&path, expected, Some(item)));
    };
    let path = format!("{path}.function");
    let name = match function.get("name") {
        Some(Value::String(name)) if !name.is_empty() => name.clone(),
        other => return Err(wrong(&format!("{path}.name"), "a name", other)),
    };
    let description = match function.get("description") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        other => return Err(wrong(&format!("{path}.description"), "a string", other)),
    };
    let parameters = match function.get("parameters") {
        None | Some(Value::Null) => no_parameters(),
        Some(Value::Object(schema)) if schema.is_empty() => no_parameters(),
        Some(schema @ Value::Object(_)) => schema.clone(),
        other => {
            return Err(wrong(&format!("{path}.parameters"), "a JSON schema of an object", other));
        }
    };
    let strict = function.get("strict").and_then(Value::as_bool).unwrap_or_default();
    Ok(Tool { name, description, parameters, strict })
}

fn no_parameters() -> Value {
    json!({"type": "object", "properties": {}})
}

fn choice(sent: &Value, tools: &[Tool]) -> Result<ToolChoice, ApiError> {
    let named = |object: &Map<String, Value>| {
        let name = object.get("function").and_then(|function| function.get("name"));
        name.or_else(|| object.get("name")).and_then(Value::as_str).map(str::to_owned)
    };
    match sent {
        Value::String(word) => match word.as_str() {
            "none" => return Ok(ToolChoice::None),
            "auto" => return Ok(ToolChoice::Auto),
            "required" => return Ok(ToolChoice::Required),
            _ => {}
        },
        Value::Object(object) => {
            if let Some(name) = named(object) {
                if tools.iter().any(|tool| tool.name == name) {
                    return Ok(ToolChoice::Named(name));
                }
                let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
                return Err(ApiError::invalid(
                    "tool_choice",
                    format!("tool_choice names {name:?}; tools has {}", names.join(", ")),
                ));
            }
        }
        _ => {}
    }
    Err(ApiError::malformed(
        "tool_choice",
        format!(
            "tool_choice must be \"none\", \"auto\", \"required\" or {{\"type\": \"function\", \
             \"function\": {{\"name\": …}}}}, got {}",
            shown(sent)
        ),
    ))
}
