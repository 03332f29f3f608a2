//! `oneOf`: whether at most one of its schemas can hold for a value.

use std::cell::Cell;

use serde_json::{Map, Value};

use super::keyword::{Kind, kinds};
use super::reference::References;
use super::{Result, error};

/// How many references and alternatives are followed in search of a difference.
const STEPS: usize = 8;

/// Comparisons in search of differences in a schema's `oneOf`.
const COMPARISONS: u32 = 100_000;

struct Search<'s, 'v> {
    references: &'s References<'v>,
    comparisons: Cell<u32>,
}

/// # Errors
/// Two schemas that may hold for the same value.
pub(super) fn check(references: &References, parts: &[Value], at: &str) -> Result<()> {
    let search = Search { references, comparisons: Cell::new(0) };
    for (i, first) in parts.iter().enumerate() {
        for (j, second) in parts.iter().enumerate().skip(i + 1) {
            if !disjoint(&search, first, second, STEPS) {
                let cause = format!("schemas {i} and {j} of oneOf may hold for the same value");
                let cure = "use anyOf, or give each a required property with a const of its own";
                return Err(error(at, cause, cure));
            }
        }
    }
    Ok(())
}

fn disjoint(search: &Search, first: &Value, second: &Value, steps: usize) -> bool {
    let Some(steps) = steps.checked_sub(1) else { return false };
    search.comparisons.set(search.comparisons.get() + 1);
    if search.comparisons.get() > COMPARISONS {
        return false;
    }
    if *first == Value::Bool(false) || *second == Value::Bool(false) {
        return true;
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    facts(search.references, first, steps, &mut ours);
    facts(search.references, second, steps, &mut theirs);
    let either = |all: &[&Map<String, Value>], other: &Value| {
        all.iter().any(|fact| alternatives_disjoint(search, fact, other, steps))
    };
    ours.iter().any(|ours| theirs.iter().any(|theirs| apart(search, ours, theirs, steps)))
        || either(&ours, second)
        || either(&theirs, first)
}

/// Schemas that all hold where this one does.
fn facts<'v>(
    references: &References<'v>,
    schema: &'v Value,
    steps: usize,
    all: &mut Vec<&'v Map<String, Value>>,
) {
    let (Some(map), Some(steps)) = (schema.as_object(), steps.checked_sub(1)) else { return };
    all.push(map);
    if let Some(reference) = map.get("$ref").and_then(Value::as_str)
        && let Ok((_, target)) = references.resolve(reference, "")
    {
        facts(references, target, steps, all);
    }
    for part in map.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        facts(references, part, steps, all);
    }
}

fn alternatives_disjoint(
    search: &Search,
    fact: &Map<String, Value>,
    other: &Value,
    steps: usize,
) -> bool {
    ["anyOf", "oneOf"].iter().any(|key| {
        let parts = fact.get(*key).and_then(Value::as_array);
        parts.is_some_and(|parts| parts.iter().all(|p| disjoint(search, p, other, steps)))
    })
}

fn apart(
    search: &Search,
    first: &Map<String, Value>,
    second: &Map<String, Value>,
    steps: usize,
) -> bool {
    if let (Some(ours), Some(theirs)) = (values(first), values(second)) {
        return !ours.iter().any(|our| theirs.iter().any(|their| same(our, their)));
    }
    let (ours, theirs) = (possible(first), possible(second));
    let shared: Vec<Kind> = ours.into_iter().filter(|kind| theirs.contains(kind)).collect();
    shared.iter().all(|kind| *kind == Kind::Object)
        && (shared.is_empty() || properties_apart(search, first, second, steps))
}

/// The values that `const` or `enum` lists.
fn values(schema: &Map<String, Value>) -> Option<Vec<&Value>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => Some(vec![value]),
        (None, Some(values)) => values.as_array().map(|values| values.iter().collect()),
        (None, None) => None,
    }
}

fn same(first: &Value, second: &Value) -> bool {
    match (first, second) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        // Numbers inside of them may be written in two ways.
        (Value::Array(_), Value::Array(_)) | (Value::Object(_), Value::Object(_)) => true,
        _ => first == second,
    }
}

/// Kinds of value for which the schema may hold; `Integer` wherever a number may be whole.
fn possible(schema: &Map<String, Value>) -> Vec<Kind> {
    if let Some(values) = values(schema) {
        return values.into_iter().flat_map(kinds_of).collect();
    }
    let mut found = kinds(schema.get("type"), "").unwrap_or_default();
    if found.contains(&Kind::Number) {
        found.push(Kind::Integer);
    }
    found
}

fn kinds_of(value: &Value) -> Vec<Kind> {
    match value {
        Value::Null => vec![Kind::Null],
        Value::Bool(_) => vec![Kind::Boolean],
        Value::Number(_) => vec![Kind::Number, Kind::Integer],
        Value::String(_) => vec![Kind::String],
        Value::Array(_) => vec![Kind::Array],
        Value::Object(_) => vec![Kind::Object],
    }
}

/// Whether a property that one of two objects must have cannot be the same in both.
fn properties_apart(
    search: &Search,
    first: &Map<String, Value>,
    second: &Map<String, Value>,
    steps: usize,
) -> bool {
    let required = |schema: &Map<String, Value>| -> Vec<String> {
        let names = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        names.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut names = required(first);
    names.extend(required(second));
    names.iter().any(|name| match (property(first, name), property(second, name)) {
        (Some(ours), Some(theirs)) => disjoint(search, ours, theirs, steps),
        (Some(only), None) | (None, Some(only)) => *only == Value::Bool(false),
        (None, None) => false,
    })
}

/// The schema of a property, if it is certain which one that is.
fn property<'v>(schema: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    let named = schema.get("properties").and_then(|properties| properties.get(name));
    let rest =
        || schema.get("additionalProperties").filter(|_| !schema.contains_key("patternProperties"));
    named.or_else(rest)
}
