//! Whether a text can ever end: a schema whose every value holds another value of it has none.

use serde_json::{Map, Value};

use super::{Result, error};

/// # Errors
/// The root of the definitions, which is number 0, has no finite value.
pub(super) fn check(definitions: &Map<String, Value>) -> Result<()> {
    let mut finite = vec![false; definitions.len()];
    let schemas: Vec<&Value> = definitions.values().collect();
    loop {
        let mut changed = false;
        // References mostly lead to later ones.
        for (i, schema) in schemas.iter().enumerate().rev() {
            if !finite[i] && ends(schema, &finite) {
                finite[i] = true;
                changed = true;
            }
        }
        if finite.first().is_some_and(|root| *root) {
            return Ok(());
        }
        if !changed {
            let cause = "every value of this schema holds another one of it, without end";
            return Err(error("", cause, "make a property optional, or allow null"));
        }
    }
}

/// Whether the schema may have a value, as far as is known. Errs towards yes.
fn ends(schema: &Value, finite: &[bool]) -> bool {
    let Some(map) = schema.as_object() else { return true };
    let number = map.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit('/').next());
    if let Some(number) = number.and_then(|number| number.parse::<usize>().ok())
        && !finite.get(number).is_some_and(|finite| *finite)
    {
        return false;
    }
    let list = |key: &str| map.get(key).and_then(Value::as_array);
    if list("anyOf").is_some_and(|parts| !parts.iter().any(|part| ends(part, finite)))
        || list("allOf").is_some_and(|parts| !parts.iter().all(|part| ends(part, finite)))
    {
        return false;
    }
    // Values of other kinds may be small.
    match map.get("type").and_then(Value::as_str) {
        Some("object") => object_ends(map, finite),
        Some("array") => array_ends(map, finite),
        _ => true,
    }
}

fn object_ends(map: &Map<String, Value>, finite: &[bool]) -> bool {
    let properties = map.get("properties");
    let required = map.get("required").and_then(Value::as_array).into_iter().flatten();
    required.filter_map(Value::as_str).all(|name| {
        let schema = properties.and_then(|properties| properties.get(name));
        schema.is_none_or(|schema| ends(schema, finite))
    })
}

fn array_ends(map: &Map<String, Value>, finite: &[bool]) -> bool {
    let min = map.get("minItems").and_then(Value::as_u64).unwrap_or(0) as usize;
    let first = map.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut needed = first.iter().take(min);
    needed.all(|item| ends(item, finite))
        && (min <= first.len() || map.get("items").is_none_or(|items| ends(items, finite)))
}
