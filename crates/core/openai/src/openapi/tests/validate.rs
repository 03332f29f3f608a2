//! Whether a value fits a schema, for the words that the document uses. Any other is a panic, so
//! that none is overlooked.

use regex::Regex;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::HashMap;

thread_local! {
    static PATTERNS: RefCell<HashMap<String, Regex>> = RefCell::default();
}

fn matches(pattern: &str, text: &str) -> bool {
    PATTERNS.with_borrow_mut(|patterns| {
        let compiled = patterns.entry(pattern.to_owned());
        compiled.or_insert_with(|| Regex::new(pattern).expect("a pattern")).is_match(text)
    })
}

/// Names are looked up in the components of `document`.
pub(super) fn fits(document: &Value, schema: &Value, value: &Value) -> bool {
    let schema = match schema {
        Value::Bool(all) => return *all,
        Value::Object(schema) => schema,
        other => panic!("no schema: {other}"),
    };
    schema.iter().all(|(word, says)| fits_word(document, schema, word, says, value))
}

/// The schema that a reference names.
pub(super) fn resolved<'a>(document: &'a Value, reference: &str) -> &'a Value {
    let pointer = reference.strip_prefix('#').expect("within the document");
    document.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
}

fn fits_word(
    document: &Value,
    schema: &Map<String, Value>,
    word: &str,
    says: &Value,
    value: &Value,
) -> bool {
    let fits = |schema: &Value, value: &Value| fits(document, schema, value);
    let size = says.as_u64().unwrap_or_default() as usize;
    match (word, value) {
        ("description" | "examples" | "default" | "contentMediaType", _) => true,
        ("$ref", _) => fits(resolved(document, says.as_str().expect("a name")), value),
        ("type", _) => match says {
            Value::Array(kinds) => kinds.iter().any(|kind| is_of(kind, value)),
            kind => is_of(kind, value),
        },
        ("enum", _) => says.as_array().expect("words").iter().any(|word| equal(word, value)),
        ("anyOf", _) => forms(says).iter().any(|form| fits(form, value)),
        ("allOf", _) => forms(says).iter().all(|form| fits(form, value)),
        ("not", _) => !fits(says, value),
        ("required", Value::Object(object)) => {
            forms(says).iter().all(|name| object.contains_key(name.as_str().expect("a name")))
        }
        ("properties", Value::Object(object)) => says
            .as_object()
            .expect("properties")
            .iter()
            .all(|(name, schema)| object.get(name).is_none_or(|value| fits(schema, value))),
        ("additionalProperties", Value::Object(object)) => {
            let named = schema.get("properties").and_then(Value::as_object);
            let is_named = |name: &String| named.is_some_and(|named| named.contains_key(name));
            object.iter().all(|(name, value)| is_named(name) || fits(says, value))
        }
        ("propertyNames", Value::Object(object)) => {
            object.keys().all(|name| fits(says, &name.as_str().into()))
        }
        ("items", Value::Array(items)) => items.iter().all(|item| fits(says, item)),
        ("minItems", Value::Array(items)) => items.len() >= size,
        ("maxItems", Value::Array(items)) => items.len() <= size,
        ("minLength", Value::String(text)) => text.chars().count() >= size,
        ("maxLength", Value::String(text)) => text.chars().count() <= size,
        ("pattern", Value::String(text)) => matches(says.as_str().expect("a pattern"), text),
        ("minimum", Value::Number(_)) => compare(value, says).is_ge(),
        ("maximum", Value::Number(_)) => compare(value, says).is_le(),
        ("exclusiveMinimum", Value::Number(_)) => compare(value, says).is_gt(),
        (
            "required"
            | "properties"
            | "additionalProperties"
            | "propertyNames"
            | "items"
            | "minItems"
            | "maxItems"
            | "minLength"
            | "maxLength"
            | "pattern"
            | "minimum"
            | "maximum"
            | "exclusiveMinimum",
            _,
        ) => true,
        _ => panic!("{word} is not known here"),
    }
}

fn forms(says: &Value) -> &[Value] {
    says.as_array().expect("a list")
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind.as_str().expect("a type") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0)
        }
        other => panic!("the type {other} is not known"),
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    if a.is_number() && b.is_number() { compare(a, b).is_eq() } else { a == b }
}

/// Whole numbers as such, since not every one is a float.
fn compare(a: &Value, b: &Value) -> std::cmp::Ordering {
    let whole =
        |value: &Value| value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => {
            let float = |value: &Value| value.as_f64().expect("a number");
            float(a).total_cmp(&float(b))
        }
    }
}
