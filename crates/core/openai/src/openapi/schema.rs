//! The words of JSON Schema that the document needs.

use crate::fields::{Bounds, LARGEST};
use serde_json::{Map, Value, json};

/// The properties of an object, in the order in which they are shown.
pub(super) type Properties = Vec<(&'static str, Value)>;

/// A schema of the components.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// An object that may hold more than what is named.
pub(super) fn object(properties: Properties, required: &[&str]) -> Value {
    let mut schema = json!({"type": "object", "properties": map(properties)});
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

/// An object of an answer: it holds what is named and nothing else. All of it is there but what
/// may be absent.
pub(super) fn answer(properties: Properties, may_be_absent: &[&str]) -> Value {
    let names = properties.iter().map(|(name, _)| *name);
    let required: Vec<&str> = names.filter(|name| !may_be_absent.contains(name)).collect();
    let mut schema = json!({"type": "object", "required": required});
    schema["properties"] = Value::Object(map(properties));
    schema["additionalProperties"] = false.into();
    schema
}

fn map(properties: Properties) -> Map<String, Value> {
    properties.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

/// The same, or null. Requests say null for what they leave out.
pub(super) fn or_null(mut schema: Value) -> Value {
    if let Some(Value::Array(words)) = schema.get_mut("enum") {
        words.push(Value::Null);
    } else if let Some(Value::Array(forms)) = schema.get_mut("anyOf") {
        forms.push(null());
    } else if let Some(kind @ Value::String(_)) = schema.get_mut("type") {
        *kind = json!([kind, "null"]);
    } else {
        schema = any_of([schema, null()]);
    }
    schema
}

/// With what a reader should know.
pub(super) fn told(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    schema
}

pub(super) fn null() -> Value {
    json!({"type": "null"})
}

pub(super) fn any_of(forms: impl IntoIterator<Item = Value>) -> Value {
    json!({"anyOf": forms.into_iter().collect::<Vec<_>>()})
}

pub(super) fn one_of(words: &[&str]) -> Value {
    json!({"enum": words})
}

pub(super) fn bool() -> Value {
    json!({"type": "boolean"})
}

pub(super) fn string() -> Value {
    json!({"type": "string"})
}

/// A string that is not empty.
pub(super) fn text() -> Value {
    json!({"type": "string", "minLength": 1})
}

pub(super) fn integer(min: i64, max: i64) -> Value {
    json!({"type": "integer", "minimum": min, "maximum": max})
}

/// What [`count`](crate::fields::Fields::count) takes.
pub(super) fn count(min: u32, max: u32) -> Value {
    integer(min.into(), max.into())
}

/// A count without a bound.
pub(super) fn counted() -> Value {
    json!({"type": "integer", "minimum": 0})
}

pub(super) fn token_id() -> Value {
    count(0, u32::MAX)
}

/// What [`number`](crate::fields::Fields::number) takes.
pub(super) fn number(bounds: Bounds) -> Value {
    let min = if bounds.min_excluded { "exclusiveMinimum" } else { "minimum" };
    let max = bounds.max.min(LARGEST);
    let mut schema = json!({"type": "number"});
    schema[min] = whole(bounds.min);
    schema["maximum"] = whole(max);
    schema
}

/// Without a fraction where there is none.
fn whole(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e9 { (value as i64).into() } else { value.into() }
}

pub(super) fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

/// A list of so many.
pub(super) fn list_of(items: Value, min: usize, max: usize) -> Value {
    let mut schema = json!({"type": "array", "items": items, "minItems": min});
    if max < usize::MAX {
        schema["maxItems"] = max.into();
    }
    schema
}
