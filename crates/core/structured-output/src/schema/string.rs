//! Strings: lengths, patterns, formats; and values that are given as they are.

use serde_json::{Value, json};

use super::formats::{Format, format};
use super::keyword::Kind;
use super::number::Bounds;
use super::reference::below;
use super::{Node, Result, error, keyword, lower_count, number, upper_count};
use crate::regex;

/// `const` and `enum`.
pub(super) fn literals(node: &mut Node, key: &str, value: &Value) -> Result<()> {
    let at = node.pointer(key);
    if key == "const" {
        literal(&at, value)?;
    } else {
        let Some(values) = value.as_array().filter(|values| !values.is_empty()) else {
            return Err(error(&at, "this is no list of values", "give at least one"));
        };
        for (i, value) in values.iter().enumerate() {
            literal(&format!("{at}/{i}"), value)?;
        }
    }
    node.set(key, value.clone());
    Ok(())
}

/// A value that can be written in exactly one way, besides white space.
fn literal(at: &str, value: &Value) -> Result<()> {
    match value {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::Number(number) if number::is_beyond_exact(number) => {
            let cause = format!("{number} is beyond 2^53, up to where numbers are exact");
            Err(error(at, cause, "use a string"))
        }
        Value::Number(_) => Ok(()),
        Value::String(text) => text_literal(at, text),
        Value::Array(items) => {
            let mut items = items.iter().enumerate();
            items.try_for_each(|(i, item)| literal(&format!("{at}/{i}"), item))
        }
        Value::Object(map) => {
            map.iter().try_for_each(|(name, value)| literal(&below(at, name), value))
        }
    }
}

fn text_literal(at: &str, text: &str) -> Result<()> {
    let unwritable =
        |c: char| c.is_ascii_control() && !matches!(c, '\n' | '\r' | '\t' | '\x08' | '\x0c');
    match text.chars().find(|c| unwritable(*c)) {
        None => Ok(()),
        Some(c) => {
            let cause = format!("the text has the control character {c:?}");
            Err(error(at, cause, "leave it out"))
        }
    }
}

pub(super) fn length(node: &mut Node, key: &str, value: &Value) -> Result<()> {
    let at = node.pointer(key);
    let number = if key == "minLength" { lower_count(&at, value) } else { upper_count(&at, value) };
    let number = number?;
    if node.may_be(Kind::String) {
        node.set(key, number);
    }
    Ok(())
}

/// `pattern`, `format` and `contentEncoding`, each as a pattern of its own.
pub(super) fn expression(
    bounds: &mut Bounds,
    node: &mut Node,
    key: &str,
    value: &Value,
) -> Result<()> {
    let at = node.pointer(key);
    let Some(text) = value.as_str() else {
        return Err(error(&at, format!("{value} is no string"), "use a string"));
    };
    let (expression, length) = match key {
        "pattern" if node.may_be(Kind::String) => {
            (regex::anywhere(text).map_err(|e| e.below(&at))?, None)
        }
        "pattern" => return Ok(()),
        "format" => match string_format(bounds, node, text)? {
            Some(Format::Expression(expression, length)) => (expression.to_owned(), length),
            Some(Format::Free) | None => return Ok(()),
        },
        _ => match format(text) {
            _ if !node.may_be(Kind::String) => return Ok(()),
            Some(Format::Expression(expression, None)) if text.starts_with("base64") => {
                (expression.to_owned(), None)
            }
            _ => return Err(keyword::refused(node, key)),
        },
    };
    let whole = format!("^(?:{expression})$");
    if node.plain.contains_key("pattern") || length.is_some() {
        let mut also = json!({ "pattern": whole });
        if let Some(types) = node.value("type") {
            also["type"] = types.clone();
        }
        if let Some(length) = length {
            also["maxLength"] = length.into();
        }
        node.also.push(also);
    } else {
        node.set("pattern", whole);
    }
    Ok(())
}

/// None if it says nothing of strings here.
fn string_format(bounds: &mut Bounds, node: &mut Node, name: &str) -> Result<Option<Format>> {
    let range = match name {
        "int32" => Some((-2_147_483_648i64, 2_147_483_647i64)),
        // Clamped to where numbers are exact.
        "int64" => Some((-(1i64 << 53), 1i64 << 53)),
        "float" | "double" => return Ok(None),
        _ => None,
    };
    if let Some((min, max)) = range {
        for (key, bound) in [("minimum", min), ("maximum", max)] {
            if !node.source.contains_key(key) {
                number::keyword(bounds, node, key, &bound.into())?;
            }
        }
        return Ok(None);
    }
    if !node.may_be(Kind::String) {
        return Ok(None);
    }
    let found = format(name);
    if found.is_none() {
        let cause = format!("the format {name:?} cannot be enforced");
        return Err(error(&node.pointer("format"), cause, "use pattern, or remove it"));
    }
    Ok(found)
}
