//! The tables for other readers: editors, and the docs.

use super::fields::ROOTS;
use super::kind::{Fate, Field, Kind, Object};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// The JSON schema (draft 2020-12) of a config file.
#[must_use]
pub fn schema() -> Value {
    let mut definitions = Map::new();
    for object in ROOTS {
        define(object, &mut definitions);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of applications",
        "$ref": format!("#/$defs/{}", ROOTS[0].name),
        "$defs": definitions,
    })
}

fn define(object: &Object, definitions: &mut Map<String, Value>) {
    if definitions.contains_key(object.name) {
        return;
    }
    definitions.insert(object.name.to_owned(), Value::Null);
    let mut properties = Map::new();
    for field in object.fields.iter().filter(|field| !is_refused(field)) {
        let mut property = match (field.fate, serde_json::from_str::<Value>(field.default)) {
            (Fate::Refused(_), Ok(default)) => json!({ "const": default }),
            _ => of_kind(&field.kind, definitions),
        };
        if field.takes_null {
            property = json!({ "anyOf": [property, { "type": "null" }] });
        }
        property["description"] = json!(field.about);
        if let Ok(default) = serde_json::from_str::<Value>(field.default) {
            property["default"] = default;
        }
        properties.insert(field.name.to_owned(), property);
    }
    let required: Vec<&str> =
        object.fields.iter().filter(|field| field.is_required).map(|field| field.name).collect();
    let definition = json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": object.is_open,
    });
    definitions.insert(object.name.to_owned(), definition);
}

/// Nothing but what leaving it out means may be written.
fn is_refused(field: &Field) -> bool {
    matches!(field.fate, Fate::Refused(_)) && matches!(field.default, "" | "null")
}

fn of_kind(kind: &Kind, definitions: &mut Map<String, Value>) -> Value {
    match kind {
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Whole(least, most) => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        Kind::Number { least, most, above } => {
            let mut number = json!({ "type": "number" });
            number[if *above { "exclusiveMinimum" } else { "minimum" }] = json!(least);
            if *most < f64::MAX {
                number["maximum"] = json!(most);
            }
            number
        }
        Kind::Text => json!({ "type": "string", "minLength": 1 }),
        Kind::Word(words) => json!({ "enum": words }),
        Kind::Module => {
            let pattern = "^[^\\W\\d]\\w*(\\.[^\\W\\d]\\w*)*$";
            json!({ "type": "string", "pattern": pattern })
        }
        Kind::ImportPath => {
            let pattern = "^([^:]+:[^:]+|[^:.][^:]*\\.[^:]*[^:.])$";
            json!({ "type": "string", "pattern": pattern })
        }
        Kind::Route => json!({ "type": "string", "pattern": "^/([^{}]*[^/{}])?$" }),
        Kind::Name => json!({
            "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:/-]*$", "maxLength": 128,
        }),
        Kind::Host => json!({ "type": "string" }),
        Kind::Tokens | Kind::Bytes => json!({ "type": ["integer", "string"], "minimum": 1 }),
        Kind::Any => json!({}),
        Kind::Map => json!({ "type": "object" }),
        Kind::Texts | Kind::Variables => {
            json!({ "type": "object", "additionalProperties": { "type": "string" } })
        }
        Kind::Amounts => {
            json!({ "type": "object", "additionalProperties": { "type": "number", "minimum": 0 } })
        }
        Kind::List(inner) => json!({ "type": "array", "items": of_kind(inner, definitions) }),
        Kind::Object(object) => {
            define(object, definitions);
            json!({ "$ref": format!("#/$defs/{}", object.name) })
        }
        Kind::Either(kinds) => {
            let kinds: Vec<Value> = kinds.iter().map(|kind| of_kind(kind, definitions)).collect();
            json!({ "anyOf": kinds })
        }
    }
}

/// The tables in Markdown: what each field takes and what becomes of it.
#[must_use]
pub fn table() -> String {
    let mut text = String::new();
    let mut told = Vec::new();
    for object in ROOTS {
        describe(object, &mut told, &mut text);
    }
    text
}

fn describe(object: &'static Object, told: &mut Vec<&'static str>, text: &mut String) {
    if told.contains(&object.name) {
        return;
    }
    told.push(object.name);
    let mut line = |line: String| writeln!(text, "{line}").expect("a string takes all");
    line(format!("\n### {}\n", object.name));
    line("| field | takes | default | |\n|---|---|---|---|".to_owned());
    for field in object.fields {
        let default = match (field.is_required, field.default) {
            (true, _) => "required".to_owned(),
            (false, "") => String::new(),
            (false, default) => format!("`{default}`"),
        };
        let fate = match field.fate {
            Fate::Used => field.about.to_owned(),
            Fate::Ignored(why) => format!("{}. **Ignored**: {why}", field.about),
            Fate::Refused(cure) => format!("{}. **Refused**: {cure}", field.about),
        };
        line(format!("| `{}` | {} | {default} | {fate} |", field.name, field.accepted()));
    }
    if object.is_open {
        line(
            "\nOther fields are ignored with a warning, as newer versions may have more."
                .to_owned(),
        );
    }
    for field in object.fields {
        inner_objects(&field.kind).into_iter().for_each(|inner| describe(inner, told, text));
    }
}

fn inner_objects(kind: &Kind) -> Vec<&'static Object> {
    match kind {
        Kind::Object(object) => vec![object],
        Kind::List(inner) => inner_objects(inner),
        Kind::Either(kinds) => kinds.iter().flat_map(inner_objects).collect(),
        _ => Vec::new(),
    }
}
