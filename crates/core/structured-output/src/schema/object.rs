//! Objects: which properties they have, and what those hold.

use serde_json::{Map, Value};

use super::keyword::{self, Kind};
use super::reference::below;
use super::{Lowering, Node, Result, error, lower_count, upper_count};
use crate::regex;

impl<'a> Lowering<'a> {
    pub(super) fn object(
        &mut self,
        node: &mut Node<'a>,
        key: &str,
        value: &'a Value,
    ) -> Result<()> {
        if !node.may_be(Kind::Object) {
            return Ok(());
        }
        let at = node.pointer(key);
        match key {
            // These three depend on the names that propertyNames allows.
            "properties" | "patternProperties" | "additionalProperties"
                if node.source.contains_key("propertyNames") => {}
            "properties" => {
                let properties = self.schemas(node, key, value)?;
                node.set(key, properties);
                self.close(node);
            }
            "patternProperties" => {
                let properties = self.pattern_properties(node, key, value)?;
                node.set(key, properties);
                self.close(node);
            }
            "additionalProperties" => {
                let additional = self.schema(value, &at, node.level + 1)?;
                node.set(key, additional);
            }
            "required" => {
                names(&at, value)?;
                node.set(key, value.clone());
            }
            "minProperties" => min_properties(node, value)?,
            "maxProperties" => max_properties(node, value)?,
            "propertyNames" => self.property_names(node, value)?,
            "unevaluatedProperties" => self.unevaluated(node, &at, value)?,
            _ => {
                if value.as_object().is_none_or(|map| !map.is_empty()) {
                    return Err(keyword::refused(node, key));
                }
            }
        }
        Ok(())
    }

    /// No properties but the named ones, if that was asked for and the schema says nothing of it.
    fn close(&self, node: &mut Node) {
        let says = ["additionalProperties", "unevaluatedProperties", "propertyNames"];
        if self.closed && !says.into_iter().any(|key| node.source.contains_key(key)) {
            node.set("additionalProperties", false);
        }
    }

    fn pattern_properties(
        &mut self,
        node: &Node<'a>,
        key: &str,
        value: &'a Value,
    ) -> Result<Map<String, Value>> {
        let at = node.pointer(key);
        let mut lowered = Map::new();
        for (pattern, schema) in self.schemas(node, key, value)? {
            let name = regex::anywhere(&pattern).map_err(|e| e.below(&below(&at, &pattern)))?;
            // Two patterns that differ only in their spelling would be one.
            if lowered.insert(format!("^(?:{name})$"), schema).is_some() {
                let cure = "use patterns that match no common name";
                return Err(error(&at, "a name may match two patternProperties", cure));
            }
        }
        Ok(lowered)
    }

    /// Names that are listed become properties; names that a pattern describes, one for all.
    fn property_names(&mut self, node: &mut Node<'a>, value: &'a Value) -> Result<()> {
        let refused = || keyword::refused(node, "propertyNames");
        let rule = self.references.followed(value);
        let rule = match rule {
            Value::Object(rule) => rule,
            _ if *rule == Value::Bool(true) => &Map::new(),
            _ => return Err(refused()),
        };
        let says: Vec<&str> = rule
            .keys()
            .map(String::as_str)
            .filter(|key| !keyword::is_annotation(key) && *key != "type")
            .collect();
        let of_strings = rule.get("type").is_none_or(|kind| kind == "string");
        if !of_strings || node.source.contains_key("patternProperties") {
            return Err(refused());
        }
        let level = node.level + 1;
        let rest = match node.value("additionalProperties") {
            Some(rest) => self.schema(rest, &node.pointer("additionalProperties"), level)?,
            None => Value::Bool(true),
        };
        let mut named = match node.value("properties") {
            Some(named) => self.schemas(node, "properties", named)?,
            None => Map::new(),
        };
        match says.as_slice() {
            [] => {
                node.set("properties", named);
                node.set("additionalProperties", rest);
                return Ok(());
            }
            ["enum" | "const"] => {
                let values = match rule.get("enum") {
                    Some(values) => values.as_array().cloned().unwrap_or_default(),
                    None => rule.get("const").cloned().into_iter().collect(),
                };
                let mut listed = Map::new();
                for name in values.iter().filter_map(Value::as_str) {
                    let schema = named.shift_remove(name).unwrap_or_else(|| rest.clone());
                    listed.insert(name.to_owned(), schema);
                }
                node.set("properties", listed);
            }
            ["pattern"] if named.is_empty() => {
                let pattern = rule.get("pattern").and_then(Value::as_str).ok_or_else(refused)?;
                let at = below(&node.pointer("propertyNames"), "pattern");
                let name = regex::anywhere(pattern).map_err(|e| e.below(&at))?;
                let patterns = Map::from_iter([(format!("^(?:{name})$"), rest)]);
                node.set("patternProperties", patterns);
            }
            _ => return Err(refused()),
        }
        node.set("additionalProperties", false);
        Ok(())
    }

    /// Alone it is `additionalProperties`; beside other schemas it depends on which of them hold.
    fn unevaluated(&mut self, node: &mut Node<'a>, at: &str, value: &'a Value) -> Result<()> {
        let has = |key: &str| node.source.contains_key(key);
        if *value == Value::Bool(true) || has("additionalProperties") {
            return Ok(());
        }
        if ["allOf", "anyOf", "oneOf", "$ref", "propertyNames"].into_iter().any(has) {
            let cause = "unevaluatedProperties beside other schemas cannot be enforced";
            return Err(error(at, cause, "list all properties and use additionalProperties"));
        }
        let rest = self.schema(value, at, node.level + 1)?;
        node.set("additionalProperties", rest);
        Ok(())
    }
}

fn names<'v>(at: &str, value: &'v Value) -> Result<Vec<&'v str>> {
    let names = value.as_array().map(|names| names.iter().map(Value::as_str).collect());
    let names: Option<Option<Vec<&str>>> = names;
    names.flatten().ok_or_else(|| error(at, "this is no list of names", "use an array of strings"))
}

/// Properties that must be there, whose number counts towards the bounds.
fn required(node: &Node) -> Result<Vec<String>> {
    let at = node.pointer("required");
    let names = node.value("required").map_or(Ok(Vec::new()), |value| names(&at, value))?;
    let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

fn min_properties(node: &mut Node, value: &Value) -> Result<()> {
    let at = node.pointer("minProperties");
    let min = lower_count(&at, value)?;
    let required = required(node)?.len() as u64;
    if min <= required {
        return Ok(());
    }
    // A name may be written twice where names are not listed, and counts once.
    if min > required + 1 {
        let cause = "more properties are asked for than are named in required";
        return Err(error(&at, cause, "name them in required"));
    }
    check_optional(node, &at)?;
    node.set("minProperties", min);
    Ok(())
}

fn max_properties(node: &mut Node, value: &Value) -> Result<()> {
    let at = node.pointer("maxProperties");
    let max = upper_count(&at, value)?;
    check_optional(node, &at)?;
    node.set("maxProperties", max);
    Ok(())
}

/// Which of the optional properties occur is not counted.
fn check_optional(node: &Node, at: &str) -> Result<()> {
    let required = required(node)?;
    let named = node.value("properties").and_then(Value::as_object);
    let optional = |name: &String| !required.contains(name);
    if named.is_some_and(|named| named.keys().any(optional)) {
        let cause = "the number of properties is bounded and some of them are optional";
        return Err(error(at, cause, "name all properties in required, or remove the bound"));
    }
    Ok(())
}
