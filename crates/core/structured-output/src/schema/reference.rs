//! `$ref`: which schema it names. All of them lie in the same document.

use std::collections::HashMap;

use serde_json::Value;

use super::{Result, error, keyword};

/// Where a document's schemas are.
pub(super) struct References<'a> {
    root: &'a Value,
    /// The document's own `$id`, without a fragment.
    id: Option<&'a str>,
    /// `$anchor` → pointer.
    anchors: HashMap<&'a str, String>,
    /// Pointers of schemas with an `$id` of their own, in which references are relative to that.
    embedded: Vec<String>,
}

impl<'a> References<'a> {
    pub(super) fn new(root: &'a Value) -> Self {
        let id = root.get("$id").and_then(Value::as_str).map(|id| id.trim_end_matches('#'));
        let mut found = Self { root, id, anchors: HashMap::new(), embedded: Vec::new() };
        found.collect(root, "");
        found
    }

    fn collect(&mut self, value: &'a Value, at: &str) {
        match value {
            Value::Object(map) => {
                let text = |key: &str| map.get(key).and_then(Value::as_str);
                match text("$id") {
                    // What an anchor was before it had a keyword.
                    Some(id) if id.starts_with('#') => {
                        self.anchors.insert(&id[1..], at.to_owned());
                    }
                    Some(_) if !at.is_empty() => {
                        // Its anchors are its own.
                        self.embedded.push(at.to_owned());
                        return;
                    }
                    _ => {}
                }
                for key in ["$anchor", "$dynamicAnchor"] {
                    if let Some(name) = text(key) {
                        self.anchors.insert(name, at.to_owned());
                    }
                }
                for (key, value) in map {
                    if !matches!(key.as_str(), "enum" | "const" | "default" | "examples") {
                        self.collect(value, &below(at, key));
                    }
                }
            }
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.collect(item, &format!("{at}/{i}"));
                }
            }
            _ => {}
        }
    }

    /// The pointer of the schema that `reference` at `at` names, and the schema.
    pub(super) fn resolve(&self, reference: &str, at: &str) -> Result<(String, &'a Value)> {
        let inside = |pointer: &str| self.embedded.iter().any(|e| within(pointer, e));
        let outside = || {
            let cause = format!("$ref names {reference:?}, which is not in this schema");
            error(at, cause, "put the schema below $defs and name it as in #/$defs/name")
        };
        let own = self.id.and_then(|id| reference.strip_prefix(id)).unwrap_or(reference);
        let fragment = match own.strip_prefix('#') {
            Some(fragment) => fragment,
            None if own.is_empty() => "",
            None => return Err(outside()),
        };
        let fragment = percent_decoded(fragment).ok_or_else(outside)?;
        let pointer = if fragment.is_empty() || fragment.starts_with('/') {
            fragment
        } else {
            self.anchors.get(fragment.as_str()).ok_or_else(outside)?.clone()
        };
        let target = self.root.pointer(&pointer).ok_or_else(outside)?;
        let embedded = self.embedded.contains(&pointer);
        if inside(at) || (inside(&pointer) && !embedded) {
            let cause = "$ref is used with an $id inside of the schema";
            return Err(error(at, cause, "remove the inner $id and refer to #/$defs/name"));
        }
        Ok((pointer, target))
    }

    /// A schema, or the one that its `$ref` names if it has no other keyword that matters.
    pub(super) fn followed(&self, schema: &'a Value) -> &'a Value {
        let mut schema = schema;
        for _ in 0..8 {
            let Some(map) = schema.as_object() else { break };
            let Some(reference) = map.get("$ref").and_then(Value::as_str) else { break };
            if map.keys().any(|key| key != "$ref" && !keyword::is_annotation(key)) {
                break;
            }
            match self.resolve(reference, "") {
                Ok((_, target)) => schema = target,
                Err(_) => break,
            }
        }
        schema
    }
}

/// Appends a step to a JSON pointer.
pub(crate) fn below(at: &str, key: &str) -> String {
    format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"))
}

fn within(pointer: &str, outer: &str) -> bool {
    pointer.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok()
}
