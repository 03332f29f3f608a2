//! `tools` and `tool_choice`.

use crate::fields::{Fields, shown, wrong};
use crate::{ApiError, tools};
use serde_json::{Map, Value};
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
            true => Err(tools::missing()),
            false => Ok(Tools::default()),
        };
    };
    if list.is_empty() {
        return Err(ApiError::invalid("tools", "tools must not be empty; leave it out"));
    }
    let tools: Vec<Tool> =
        list.iter().enumerate().map(|(i, item)| tool(i, item)).collect::<Result<_, _>>()?;
    tools::check_distinct(&tools)?;
    let choice = match sent {
        None => ToolChoice::Auto,
        Some(sent) => choice(sent, &tools)?,
    };
    Ok(Tools { tools, shown: Some(Value::Array(list.to_vec())), choice })
}

fn tool(index: usize, item: &Value) -> Result<Tool, ApiError> {
    let path = format!("tools[{index}]");
    let kind = item.get("type");
    if kind.is_some_and(|kind| kind != "function") {
        return Err(wrong(&format!("{path}.type"), "\"function\"", kind));
    }
    let Some(Value::Object(function)) = item.get("function") else {
        let expected = "{\"type\": \"function\", \"function\": {\"name\": …, \"parameters\": …}}";
        return Err(wrong(&path, expected, Some(item)));
    };
    tools::function(&format!("{path}.function"), function, "parameters")
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
                return tools::named(&name, tools);
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
