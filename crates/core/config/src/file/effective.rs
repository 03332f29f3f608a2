//! Every value that holds.

use super::EffectiveValue;
use super::kind::{Fate, Kind, Object};
use super::node::{Node, Value};
use super::problem::inside;

pub(super) fn values(object: &Object, root: &Node) -> Vec<EffectiveValue> {
    let mut found = Vec::new();
    of_object(object, Some(root), "", &mut found);
    found
}

/// `node` is absent where only defaults hold.
fn of_object(object: &Object, node: Option<&Node>, path: &str, found: &mut Vec<EffectiveValue>) {
    for field in object.fields {
        let path = inside(path, field.name);
        let entries = node.map_or(&[][..], Node::entries);
        let entry = entries.iter().find(|entry| entry.name() == field.name);
        match (&field.kind, entry) {
            (Kind::Object(inner), Some(entry)) if !entry.value.is_null() => {
                of_object(inner, Some(&entry.value), &path, found);
            }
            (Kind::Object(inner), None) if field.default == "{}" => {
                of_object(inner, None, &path, found);
            }
            (kind, Some(entry)) => of_value(kind, &entry.value, path, found),
            // What has no effect is told where it is written only.
            (_, None) if field.default.is_empty() || field.fate != Fate::Used => {}
            (_, None) => {
                found.push(EffectiveValue { path, value: field.default.to_owned(), line: None });
            }
        }
    }
}

fn of_value(kind: &Kind, node: &Node, path: String, found: &mut Vec<EffectiveValue>) {
    if let (Kind::List(Kind::Object(inner)), Value::List(items)) = (kind, &node.value) {
        for (i, item) in items.iter().enumerate() {
            of_object(inner, Some(item), &format!("{path}[{i}]"), found);
        }
        return;
    }
    found.push(EffectiveValue { path, value: node.json(), line: Some(node.line) });
}
