//! Arrays: what is in them and how many.

use serde_json::Value;

use super::keyword::{self, Kind};
use super::{Lowering, Node, Result, count, error, lower_count, upper_count};

impl<'a> Lowering<'a> {
    pub(super) fn array(&mut self, node: &mut Node<'a>, key: &str, value: &'a Value) -> Result<()> {
        if !node.may_be(Kind::Array) {
            return Ok(());
        }
        let at = node.pointer(key);
        match key {
            "minItems" => {
                let number = lower_count(&at, value)?;
                node.set(key, number);
            }
            "maxItems" => {
                let number = upper_count(&at, value)?;
                node.set(key, number);
            }
            "uniqueItems" => {
                let at_most_one = match node.value("maxItems") {
                    Some(max) => count(&node.pointer("maxItems"), max)? <= 1,
                    None => false,
                };
                if *value != Value::Bool(false) && !at_most_one {
                    return Err(keyword::refused(node, key));
                }
            }
            "prefixItems" => self.positions(node, &at, value)?,
            // The older way to say it.
            "items" if value.is_array() => {
                self.positions(node, &at, value)?;
                if let Some(rest) = node.value("additionalItems") {
                    let at = node.pointer("additionalItems");
                    let rest = self.schema(rest, &at, node.level + 1)?;
                    node.set("items", rest);
                }
            }
            "items" => {
                let items = self.schema(value, &at, node.level + 1)?;
                node.set(key, items);
            }
            "unevaluatedItems" => self.unevaluated_items(node, &at, value)?,
            _ => {}
        }
        Ok(())
    }

    fn positions(&mut self, node: &mut Node<'a>, at: &str, value: &'a Value) -> Result<()> {
        let Some(items) = value.as_array() else {
            return Err(error(at, "this is no list of schemas", "use an array"));
        };
        let mut lowered = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            lowered.push(self.schema(item, &format!("{at}/{i}"), node.level + 1)?);
        }
        node.set("prefixItems", lowered);
        Ok(())
    }

    /// Alone it is `items`; beside other schemas it depends on which of them hold.
    fn unevaluated_items(&mut self, node: &mut Node<'a>, at: &str, value: &'a Value) -> Result<()> {
        let has = |key: &str| node.source.contains_key(key);
        if *value == Value::Bool(true) || (has("items") && !node.source["items"].is_array()) {
            return Ok(());
        }
        if ["allOf", "anyOf", "oneOf", "$ref", "items", "contains"].into_iter().any(has) {
            let cause = "unevaluatedItems beside other schemas cannot be enforced";
            return Err(error(at, cause, "use items"));
        }
        let rest = self.schema(value, at, node.level + 1)?;
        node.set("items", rest);
        Ok(())
    }
}
