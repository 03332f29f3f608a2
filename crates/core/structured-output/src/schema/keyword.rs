//! Which keywords say something of a text, and which of those cannot be enforced.

use serde_json::Value;

use super::{Node, Result, error};

/// JSON's types. A whole number is a number too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Object,
}

const KINDS: [(&str, Kind); 7] = [
    ("null", Kind::Null),
    ("boolean", Kind::Boolean),
    ("integer", Kind::Integer),
    ("number", Kind::Number),
    ("string", Kind::String),
    ("array", Kind::Array),
    ("object", Kind::Object),
];

/// What the value of `type` allows; everything if there is none.
pub(super) fn kinds(types: Option<&Value>, at: &str) -> Result<Vec<Kind>> {
    let at = format!("{at}/type");
    let one = |value: &Value| {
        let name = value.as_str().unwrap_or_default();
        let found = KINDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
        found.ok_or_else(|| {
            let known = KINDS.map(|(name, _)| name).join(", ");
            error(&at, format!("{value} is no type"), format!("use one of {known}"))
        })
    };
    match types {
        None => Ok(KINDS.iter().map(|(_, kind)| *kind).collect()),
        Some(Value::Array(types)) if types.is_empty() => {
            Err(error(&at, "there is no type in the list", "name at least one"))
        }
        Some(Value::Array(types)) => types.iter().map(one).collect(),
        Some(name) => Ok(vec![one(name)?]),
    }
}

/// Keywords that describe a schema or a value, for those who read them.
const ANNOTATIONS: [&str; 24] = [
    "$anchor",
    "$comment",
    "$defs",
    "$dynamicAnchor",
    "$id",
    "$recursiveAnchor",
    "$schema",
    "$vocabulary",
    "default",
    "definitions",
    "deprecated",
    "description",
    "discriminator",
    "example",
    "examples",
    "externalDocs",
    "id",
    "nullable",
    "readOnly",
    "strict",
    "title",
    "writeOnly",
    "xml",
    "x-order",
];

/// Keywords that would have to be enforced, and with what they can be replaced.
const REFUSED: [(&str, &str); 24] = [
    ("$dynamicRef", "use $ref"),
    ("$recursiveRef", "use $ref"),
    ("contains", "use items or prefixItems"),
    ("contentMediaType", "remove it, or describe the text by pattern"),
    ("contentSchema", "remove it, or describe the value itself"),
    ("dependencies", "use anyOf with one object for each case"),
    ("dependentRequired", "use anyOf with one object for each case"),
    ("dependentSchemas", "use anyOf with one object for each case"),
    ("disallow", "name what is allowed"),
    ("divisibleBy", "use multipleOf"),
    ("else", "use anyOf with one schema for each case"),
    ("extends", "use allOf"),
    ("formatExclusiveMaximum", "use pattern"),
    ("formatExclusiveMinimum", "use pattern"),
    ("formatMaximum", "use pattern"),
    ("formatMinimum", "use pattern"),
    ("if", "use anyOf with one schema for each case"),
    ("maxContains", "use items or prefixItems"),
    ("minContains", "use items or prefixItems"),
    ("not", "name what is allowed, as by enum or type"),
    ("patternRequired", "use properties and required"),
    ("propertyNames", "use properties, or patternProperties with additionalProperties false"),
    ("then", "use anyOf with one schema for each case"),
    ("uniqueItems", "remove it, and remove what occurs twice afterwards"),
];

/// Keywords that are enforced.
const ENFORCED: [&str; 29] = [
    "$ref",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "contentEncoding",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "required",
    "type",
    "unevaluatedProperties",
];

pub(super) fn is_annotation(key: &str) -> bool {
    ANNOTATIONS.contains(&key)
}

/// A keyword that has no place in what is compiled: an error unless it says nothing here.
pub(super) fn refuse(node: &Node, key: &str, value: &Value) -> Result<()> {
    let has = |key: &str| node.source.contains_key(key);
    let silent = match key {
        "if" => !has("then") && !has("else"),
        "then" | "else" => !has("if"),
        "minContains" | "maxContains" => !has("contains") || !node.may_be(Kind::Array),
        "not" => *value == Value::Bool(false),
        "contains" | "uniqueItems" => !node.may_be(Kind::Array),
        "contentMediaType" | "contentSchema" => !node.may_be(Kind::String),
        _ => is_annotation(key),
    };
    if silent {
        return Ok(());
    }
    if let Some((_, cure)) = REFUSED.iter().find(|(known, _)| *known == key) {
        return Err(unsupported(&node.pointer(key), key, cure));
    }
    let refused = REFUSED.iter().map(|(known, _)| known);
    let mut known = ENFORCED.iter().chain(refused);
    if let Some(meant) = known.find(|known| known.eq_ignore_ascii_case(key)) {
        let cause = format!("{key} is no keyword");
        return Err(error(&node.pointer(key), cause, format!("write {meant}")));
    }
    Ok(())
}

/// The error of a keyword that is not enforced, with the usual cure.
pub(super) fn refused(node: &Node, key: &str) -> super::StructuredOutputError {
    let cure = REFUSED.iter().find(|(known, _)| *known == key).map_or("remove it", |(_, c)| c);
    unsupported(&node.pointer(key), key, cure)
}

fn unsupported(at: &str, key: &str, cure: &str) -> super::StructuredOutputError {
    error(at, format!("{key} cannot be enforced"), cure)
}

/// Dialects whose keywords mean what they mean here.
pub(super) fn dialect(value: &Value, at: &str) -> Result<()> {
    let name = value.as_str().unwrap_or_default();
    let plain = name.trim_end_matches('#').split_once("://").map_or("", |(_, rest)| rest);
    let known = [
        "json-schema.org/draft/2020-12/schema",
        "json-schema.org/draft/2019-09/schema",
        "json-schema.org/draft-07/schema",
        "json-schema.org/draft-06/schema",
        "json-schema.org/schema",
    ];
    if known.contains(&plain) {
        return Ok(());
    }
    let cure = "use https://json-schema.org/draft/2020-12/schema";
    Err(error(at, format!("{value} is a dialect that is not known"), cure))
}
