//! The JSON schema of the text of calls that must be made.

use serde_json::{Map, Value, json};
use tyndall_types::{StructuredOutput, Tool, ToolChoice};

/// Keys under which a schema keeps named schemas for others to refer to.
const DEFINITIONS: &[&str] = &["$defs", "definitions"];

/// Keys whose values are data, not schemas.
const DATA: &[&str] = &["const", "enum", "default", "examples"];

/// Keys whose values are schemas by name.
const NAMED_SCHEMAS: &[&str] =
    &["properties", "patternProperties", "dependentSchemas", "$defs", "definitions"];

/// What the text of [`ToolChoice::Required`] and [`ToolChoice::Named`] must be: JSON without white
/// space, which small models would go on and on with.
#[must_use]
pub fn call_structure(
    tools: &[Tool],
    choice: &ToolChoice,
    parallel: bool,
) -> Option<StructuredOutput> {
    let schema = call_schema(tools, choice, parallel)?;
    Some(StructuredOutput::Json { schema, compact: true, closed: true })
}

/// The JSON schema that the text of required or named calls must follow; none where the model is
/// free, or where the tools do not have what is asked for.
///
/// For [`ToolChoice::Required`] it is an array of objects with `name` and `parameters`, one at most
/// unless calls may be `parallel`. What tools define for themselves, under `$defs` or
/// `definitions`, comes to the root under names that are unique, and what refers to it follows. For
/// [`ToolChoice::Named`] it is the function's own schema.
#[must_use]
pub fn call_schema(tools: &[Tool], choice: &ToolChoice, parallel: bool) -> Option<Value> {
    match choice {
        ToolChoice::None | ToolChoice::Auto => None,
        ToolChoice::Named(name) => {
            tools.iter().find(|tool| tool.name == *name).map(|tool| tool.parameters.clone())
        }
        ToolChoice::Required if tools.is_empty() => None,
        ToolChoice::Required => Some(array(tools, parallel)),
    }
}

fn array(tools: &[Tool], parallel: bool) -> Value {
    let mut definitions = Map::new();
    let calls: Vec<Value> = tools.iter().map(|tool| call(tool, &mut definitions)).collect();
    let mut schema = json!({"type": "array", "minItems": 1, "items": {"anyOf": calls}});
    if !parallel {
        schema["maxItems"] = json!(1);
    }
    if !definitions.is_empty() {
        schema["$defs"] = Value::Object(definitions);
    }
    schema
}

fn call(tool: &Tool, definitions: &mut Map<String, Value>) -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"const": tool.name},
            "parameters": hoist(tool, definitions),
        },
        "required": ["name", "parameters"],
        "additionalProperties": false,
    })
}

/// The tool's schema without its definitions, which go to `definitions`.
fn hoist(tool: &Tool, definitions: &mut Map<String, Value>) -> Value {
    let mut schema = tool.parameters.clone();
    let mut own: Vec<(&str, String, Value)> = Vec::new();
    if let Some(schema) = schema.as_object_mut() {
        for key in DEFINITIONS {
            if let Some(Value::Object(found)) = schema.shift_remove(*key) {
                own.extend(found.into_iter().map(|(name, definition)| (*key, name, definition)));
            }
        }
    }
    let mut refs = Refs { renamed: Vec::new(), root: String::new(), is_root_used: false };
    for (key, name, definition) in &own {
        let is_same = definitions.get(name) == Some(definition) && !has_ref(definition);
        let is_free = !definitions.contains_key(name);
        let new = if is_same || is_free {
            name.clone()
        } else {
            unique(definitions, &format!("{}.{name}", tool.name))
        };
        // The name is taken from here on.
        definitions.insert(new.clone(), definition.clone());
        refs.renamed.push((format!("#/{key}/{}", pointer_token(name)), new));
    }
    refs.root = unique(definitions, &tool.name);
    for (new, definition) in refs.renamed.clone().into_iter().zip(own).map(|((_, n), o)| (n, o.2)) {
        let mut definition = definition;
        refs.rewrite(&mut definition);
        definitions.insert(new, definition);
    }
    refs.rewrite(&mut schema);
    if refs.is_root_used {
        definitions.insert(refs.root.clone(), schema);
        return json!({"$ref": format!("#/$defs/{}", pointer_token(&refs.root))});
    }
    schema
}

/// A name like this one that nothing has.
fn unique(definitions: &Map<String, Value>, name: &str) -> String {
    let numbered = (2..).map(|number| format!("{name}.{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    names.find(|name| !definitions.contains_key(name)).unwrap_or_default()
}

/// A name as a part of a JSON pointer.
fn pointer_token(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A reference as it is before it was made fit for an address.
fn percent_decoded(reference: &str) -> String {
    let mut parts = reference.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let code = part.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok());
        bytes.extend(code.or(Some(b'%')));
        bytes.extend_from_slice(if code.is_some() {
            &part.as_bytes()[2..]
        } else {
            part.as_bytes()
        });
    }
    String::from_utf8(bytes).unwrap_or_else(|_| reference.to_owned())
}

fn has_ref(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => map.iter().any(|(key, value)| key == "$ref" || has_ref(value)),
        Value::Array(items) => items.iter().any(has_ref),
        _ => false,
    }
}

/// Where references of one tool's schema lead at the root.
struct Refs {
    /// Old pointer and new name.
    renamed: Vec<(String, String)>,
    /// Name of the whole schema, for references to anything else in it.
    root: String,
    is_root_used: bool,
}

impl Refs {
    fn rewrite(&mut self, schema: &mut Value) {
        match schema {
            Value::Array(schemas) => schemas.iter_mut().for_each(|schema| self.rewrite(schema)),
            Value::Object(keywords) => {
                for (key, value) in keywords {
                    self.rewrite_keyword(key, value);
                }
            }
            _ => {}
        }
    }

    fn rewrite_keyword(&mut self, key: &str, value: &mut Value) {
        match value {
            Value::String(target) if key == "$ref" => *target = self.target(target),
            Value::Object(schemas) if NAMED_SCHEMAS.contains(&key) => {
                schemas.values_mut().for_each(|schema| self.rewrite(schema));
            }
            value if !DATA.contains(&key) => self.rewrite(value),
            _ => {}
        }
    }

    fn target(&mut self, old: &str) -> String {
        let decoded = percent_decoded(old);
        let old = decoded.as_str();
        let Some(pointer) = old.strip_prefix('#') else {
            return old.to_owned();
        };
        for (from, name) in &self.renamed {
            let rest = old.strip_prefix(from.as_str());
            if let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with('/')) {
                return format!("#/$defs/{}{rest}", pointer_token(name));
            }
        }
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return old.to_owned();
        }
        self.is_root_used = true;
        format!("#/$defs/{}{pointer}", pointer_token(&self.root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, parameters: Value) -> Tool {
        Tool { name: name.into(), description: None, parameters, strict: false }
    }

    #[test]
    fn free_choices_have_none_and_named_ones_their_own() {
        let tools = [tool("f", json!({"type": "object", "$defs": {"A": {}}}))];
        assert_eq!(call_schema(&tools, &ToolChoice::Auto, true), None);
        assert_eq!(call_schema(&tools, &ToolChoice::None, true), None);
        let named = call_schema(&tools, &ToolChoice::Named("f".into()), true);
        assert_eq!(named, Some(tools[0].parameters.clone()));
        assert_eq!(call_schema(&tools, &ToolChoice::Named("g".into()), true), None);
        assert_eq!(call_schema(&[], &ToolChoice::Required, true), None);
    }

    #[test]
    fn required_is_an_array_of_calls() {
        let tools = [
            tool("f", json!({"type": "object", "properties": {"a": {"type": "string"}}})),
            tool("g", json!({"type": "object"})),
        ];
        let item = |name: &str, parameters: Value| {
            json!({
                "type": "object",
                "properties": {"name": {"const": name}, "parameters": parameters},
                "required": ["name", "parameters"],
                "additionalProperties": false,
            })
        };
        let calls = [
            item("f", json!({"type": "object", "properties": {"a": {"type": "string"}}})),
            item("g", json!({"type": "object"})),
        ];
        let expected = json!({
            "type": "array", "minItems": 1, "items": {"anyOf": calls}, "maxItems": 1,
        });
        assert_eq!(call_schema(&tools, &ToolChoice::Required, false), Some(expected));
        let parallel = call_schema(&tools, &ToolChoice::Required, true).expect("is required");
        assert_eq!(parallel.get("maxItems"), None);
    }

    #[test]
    fn references_lead_where_they_led() {
        let one = json!({
            "type": "object",
            "properties": {"u": {"$ref": "#/$defs/Unit"}, "p/q": {"$ref": "#/$defs/p%7E1q"}},
            "$defs": {"Unit": {"enum": ["C", {"$ref": "#/$defs/Unit"}]}, "p/q": {"type": "null"}},
        });
        let two = json!({
            "type": "object",
            "properties": {"u": {"$ref": "#/definitions/Unit"}, "$ref": {"$ref": "#"}},
            "definitions": {"Unit": {"items": {"$ref": "#/definitions/Unit"}}},
        });
        let tools = [tool("one", one.clone()), tool("two", two), tool("three", one)];
        let schema = call_schema(&tools, &ToolChoice::Required, true).expect("is required");
        let parameters = |i: usize| &schema["items"]["anyOf"][i]["properties"]["parameters"];
        assert_eq!(parameters(0)["properties"]["u"], json!({"$ref": "#/$defs/Unit"}));
        assert_eq!(parameters(0)["properties"]["p/q"], json!({"$ref": "#/$defs/p~1q"}));
        assert_eq!(parameters(0).get("$defs"), None);
        assert_eq!(*parameters(1), json!({"$ref": "#/$defs/two"}));
        let expected = json!({
            "Unit": {"enum": ["C", {"$ref": "#/$defs/Unit"}]},
            "p/q": {"type": "null"},
            "two.Unit": {"items": {"$ref": "#/$defs/two.Unit"}},
            "two": {
                "type": "object",
                "properties": {"u": {"$ref": "#/$defs/two.Unit"}, "$ref": {"$ref": "#/$defs/two"}},
            },
            "three.Unit": {"enum": ["C", {"$ref": "#/$defs/Unit"}]},
        });
        assert_eq!(schema["$defs"], expected);
    }
}
