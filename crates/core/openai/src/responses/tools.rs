//! `tools` and `tool_choice`.
//!
//! A model knows functions only. Functions are carried out as they are; custom tools as functions
//! with one string, their input; those in a namespace under the name of both. The answer has
//! the client's names and kinds again. A grammar of a custom tool's input is told to the model and
//! not enforced.
//!
//! Tools that would run at OpenAI's (`web_search`, `local_shell`, `mcp`, …) are left out: clients
//! such as Codex send them always and do without. The `tools` of the answer say which were taken.

use crate::fields::{Fields, Numbers, shown, wrong};
use crate::{ApiError, tools};
use serde_json::{Map, Value, json};
use tyndall_types::{Tool, ToolChoice};

/// What stands for no namespace.
const DEFAULT_NAMESPACE: &str = "functions";

/// A tool by its two names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ToolName {
    /// For the model.
    pub(super) shown: String,
    /// For the client.
    pub(super) name: String,
    /// For the client.
    pub(super) namespace: Option<String>,
    /// Its input is text.
    pub(super) custom: bool,
}

/// The tools of a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ToolNames(Vec<ToolName>);

impl ToolNames {
    /// The tool that the model calls so.
    pub(super) fn by_shown(&self, shown: &str) -> Option<&ToolName> {
        self.0.iter().find(|tool| tool.shown == shown)
    }
}

/// The model's name of what the client calls so.
pub(super) fn shown_name(name: &str, namespace: Option<&str>) -> String {
    match namespace {
        None | Some("" | DEFAULT_NAMESPACE) => name.to_owned(),
        Some(namespace) if namespace.ends_with("__") => format!("{namespace}{name}"),
        Some(namespace) => format!("{namespace}__{name}"),
    }
}

/// What a request says of tools.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Tools {
    /// Those that the model may call.
    pub(super) tools: Vec<Tool>,
    pub(super) names: ToolNames,
    /// All, for the template.
    pub(super) shown: Option<Value>,
    pub(super) choice: ToolChoice,
    /// Those that are carried out, as sent.
    pub(super) echo: Vec<Value>,
}

/// Reads `tools` and `tool_choice`.
pub(super) fn read(fields: &Fields<'_>) -> Result<Tools, ApiError> {
    let mut read = Tools::default();
    for (i, item) in fields.list("tools")?.unwrap_or_default().iter().enumerate() {
        let path = format!("tools[{i}]");
        let before = read.tools.len();
        add(&path, item, None, &mut read)?;
        if read.tools.len() > before {
            read.echo.push(item.clone());
        }
    }
    tools::check_distinct(&read.tools)?;
    read.shown = tools::shown(&read.tools);
    choose(fields, &mut read)?;
    Ok(read)
}

fn add(
    path: &str,
    item: &Value,
    namespace: Option<&str>,
    read: &mut Tools,
) -> Result<(), ApiError> {
    let expected = "{\"type\": \"function\", \"name\": …, \"parameters\": …}";
    let Value::Object(object) = item else { return Err(wrong(path, expected, Some(item))) };
    let (mut tool, custom) = match object.get("type").and_then(Value::as_str) {
        None => return Err(wrong(path, expected, Some(item))),
        Some("function") => {
            // Some clients send the form of /v1/chat/completions.
            let function = object.get("function").and_then(Value::as_object).unwrap_or(object);
            (tools::function(path, function, "parameters")?, false)
        }
        Some("custom") => (custom_tool(path, object)?, true),
        Some("namespace") if namespace.is_none() => {
            let name = tools::name(path, object)?;
            let list = object.get("tools");
            let Some(Value::Array(list)) = list else {
                return Err(wrong(&format!("{path}.tools"), "a list", list));
            };
            for (i, item) in list.iter().enumerate() {
                add(&format!("{path}.tools[{i}]"), item, Some(&name), read)?;
            }
            return Ok(());
        }
        Some(_) => return Ok(()),
    };
    let name = std::mem::take(&mut tool.name);
    tool.name = shown_name(&name, namespace);
    let (shown, namespace) =
        (tool.name.clone(), namespace.filter(|name| *name != DEFAULT_NAMESPACE));
    let namespace = namespace.map(str::to_owned);
    read.names.0.push(ToolName { shown, name, namespace, custom });
    read.tools.push(tool);
    Ok(())
}

/// A function whose one argument is the text that the tool takes.
fn custom_tool(path: &str, object: &Map<String, Value>) -> Result<Tool, ApiError> {
    let mut description = tools::description(path, object)?.unwrap_or_default();
    let text = |name: &str| object.get("format")?.get(name)?.as_str();
    if let Some(definition) = text("definition") {
        let syntax = text("syntax").unwrap_or("lark");
        description
            .push_str(&format!("\n\nThe input follows this {syntax} grammar:\n{definition}"));
    }
    Ok(Tool {
        name: tools::name(path, object)?,
        description: Some(description).filter(|text| !text.is_empty()),
        parameters: json!({
            "type": "object",
            "properties": {"input": {"type": "string", "description": "The whole input, as text."}},
            "required": ["input"],
            "additionalProperties": false,
        }),
        strict: false,
    })
}

/// Reads `tool_choice`. The allowed tools are those that may be called; the template shows all,
/// so that the prompt stays the same.
fn choose(fields: &Fields<'_>, read: &mut Tools) -> Result<(), ApiError> {
    let default = if read.tools.is_empty() { ToolChoice::None } else { ToolChoice::Auto };
    let wrong_choice = |value: &Value| {
        let expected = "\"none\", \"auto\", \"required\", {\"type\": \"function\", \"name\": …}, \
                        {\"type\": \"custom\", …} or {\"type\": \"allowed_tools\", …}";
        wrong("tool_choice", expected, Some(value))
    };
    let required = |tools: &[Tool]| match tools {
        [] => Err(tools::missing()),
        _ => Ok(ToolChoice::Required),
    };
    read.choice = match fields.get("tool_choice") {
        None => default,
        Some(Value::String(word)) => match word.as_str() {
            "none" => ToolChoice::None,
            "auto" => default,
            "required" => required(&read.tools)?,
            _ => return Err(wrong_choice(&word.as_str().into())),
        },
        Some(sent @ Value::Object(object)) => match object.get("type").and_then(Value::as_str) {
            Some("allowed_tools") => {
                allow(object, read)?;
                let nested = Fields::nested(object, "tool_choice.", Numbers::Strict);
                match nested.string("mode")? {
                    None | Some("auto") => default,
                    Some("required") => required(&read.tools)?,
                    Some(_) => {
                        let mode = object.get("mode");
                        return Err(wrong("tool_choice.mode", "auto or required", mode));
                    }
                }
            }
            Some("function" | "custom") => {
                tools::named(&choice_name("tool_choice", object)?, &read.tools)?
            }
            Some(kind) => return Err(not_taken(kind)),
            None => return Err(wrong_choice(sent)),
        },
        Some(other) => return Err(wrong_choice(other)),
    };
    Ok(())
}

fn allow(object: &Map<String, Value>, read: &mut Tools) -> Result<(), ApiError> {
    let list = object.get("tools");
    let Some(Value::Array(list)) = list else {
        return Err(wrong("tool_choice.tools", "a list", list));
    };
    let mut allowed = Vec::new();
    for (i, item) in list.iter().enumerate() {
        let path = format!("tool_choice.tools[{i}]");
        match item.get("type").and_then(Value::as_str) {
            Some("function" | "custom") => {
                let object = item.as_object().expect("it has a type");
                let name = choice_name(&path, object)?;
                tools::named(&name, &read.tools)?;
                allowed.push(name);
            }
            Some(_) => {}
            None => return Err(wrong(&path, "{\"type\": \"function\", \"name\": …}", Some(item))),
        }
    }
    read.tools.retain(|tool| allowed.contains(&tool.name));
    Ok(())
}

/// The model's name of the tool that a choice names.
fn choice_name(path: &str, object: &Map<String, Value>) -> Result<String, ApiError> {
    let inner = object.get("function").and_then(Value::as_object).unwrap_or(object);
    let name = tools::name(path, inner)?;
    Ok(shown_name(&name, inner.get("namespace").and_then(Value::as_str)))
}

fn not_taken(kind: &str) -> ApiError {
    ApiError::invalid(
        "tool_choice.type",
        format!(
            "tool_choice.type {} is not supported: only function and custom tools are run, by the \
             client",
            shown(&kind.into())
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::object;

    fn of(body: &Value) -> Result<Tools, ApiError> {
        let object = object(body.to_string().as_bytes())?;
        read(&Fields::new(&object, Numbers::Strict))
    }

    fn tools() -> Value {
        json!([
            {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": true},
            {"type": "web_search"},
            {"type": "custom", "name": "patch", "description": "d",
             "format": {"type": "grammar", "syntax": "lark", "definition": "start: \"x\""}},
            {"type": "namespace", "name": "mcp__db", "description": "", "tools": [
                {"type": "function", "name": "query"}]},
        ])
    }

    #[test]
    fn every_kind_becomes_a_function() {
        let read = of(&json!({"tools": tools()})).unwrap();
        let names: Vec<&str> = read.tools.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names, ["f", "patch", "mcp__db__query"]);
        assert!(read.tools[0].strict);
        assert_eq!(read.tools[1].parameters["required"], json!(["input"]));
        let description = read.tools[1].description.as_deref().unwrap();
        assert_eq!(description, "d\n\nThe input follows this lark grammar:\nstart: \"x\"");
        let query = read.names.by_shown("mcp__db__query").unwrap();
        assert_eq!((query.name.as_str(), query.namespace.as_deref()), ("query", Some("mcp__db")));
        assert!(read.names.by_shown("patch").unwrap().custom);
        assert_eq!((read.echo.len(), read.choice), (3, ToolChoice::Auto));
        assert_eq!(of(&json!({"tools": [{"type": "mcp"}]})).unwrap(), Tools::default());
        let inside = json!({"tools": [{"type": "namespace", "name": "functions", "tools": [
            {"type": "custom", "name": "exec"}]}]});
        let inside = of(&inside).unwrap();
        assert_eq!((inside.tools[0].name.as_str(), &inside.names.0[0].namespace), ("exec", &None));
    }

    #[test]
    fn choices() {
        let check = |choice: Value, expected: ToolChoice, num_callable: usize| {
            let read = of(&json!({"tools": tools(), "tool_choice": choice})).unwrap();
            assert_eq!((&read.choice, read.tools.len()), (&expected, num_callable), "{choice}");
            assert_eq!(read.shown.unwrap().as_array().unwrap().len(), 3);
        };
        let named = |name: &str| ToolChoice::Named(name.to_owned());
        check(Value::Null, ToolChoice::Auto, 3);
        check(json!("none"), ToolChoice::None, 3);
        check(json!("required"), ToolChoice::Required, 3);
        check(json!({"type": "function", "name": "f"}), named("f"), 3);
        check(json!({"type": "custom", "name": "patch"}), named("patch"), 3);
        check(
            json!({"type": "function", "name": "query", "namespace": "mcp__db"}),
            named("mcp__db__query"),
            3,
        );
        let allowed = json!([{"type": "function", "name": "f"}, {"type": "web_search"}]);
        check(
            json!({"type": "allowed_tools", "mode": "required", "tools": allowed}),
            ToolChoice::Required,
            1,
        );
        check(json!({"type": "allowed_tools", "tools": allowed}), ToolChoice::Auto, 1);
    }

    #[test]
    fn bad_tools_are_named() {
        let check = |body: Value, part: &str| {
            let error = of(&body).unwrap_err();
            assert!(error.status == 400 && error.message.contains(part), "{}", error.message);
        };
        let choice = |choice: Value| json!({"tools": tools(), "tool_choice": choice});
        check(json!({"tools": ["f"]}), "tools[0] must be {\"type\": \"function\"");
        check(json!({"tools": [{"type": "function"}]}), "tools[0].name must be a name, got null");
        check(json!({"tools": [{"type": "namespace", "name": "n"}]}), "tools[0].tools must be");
        check(choice(json!("any")), "tool_choice must be \"none\", \"auto\"");
        check(choice(json!({"type": "web_search"})), "\"web_search\" is not supported: only");
        check(choice(json!({"type": "function", "name": "g"})), "tool_choice names \"g\"; tools");
        check(choice(json!({"type": "allowed_tools"})), "tool_choice.tools must be a list");
        check(json!({"tools": [{"type": "mcp"}], "tool_choice": "required"}), "needs tools");
    }
}
