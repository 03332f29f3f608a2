//! Values of a checked map. One that is not there, or null, is absent.

use crate::file::node::{Entry, Node, Value};
use crate::settings::setting;
use std::collections::BTreeMap;
use std::str::FromStr;

/// Longer times are as good as this one, 31 years, and all clocks can count it.
const MAX_SECONDS: f64 = 1e9;

pub(super) fn text<'a>(node: &'a Node, name: &str) -> Option<&'a str> {
    node.get(name)?.text()
}

pub(super) fn number(node: &Node, name: &str) -> Option<f64> {
    node.get(name)?.number()
}

/// A whole number that is not negative.
pub(super) fn whole(node: &Node, name: &str) -> Option<u32> {
    number(node, name).map(|number| number as u32)
}

pub(super) fn seconds(node: &Node, name: &str) -> Option<f64> {
    number(node, name).map(|seconds| seconds.min(MAX_SECONDS))
}

pub(super) fn flag(node: &Node, name: &str) -> Option<bool> {
    match node.get(name)?.value {
        Value::Bool(value) => Some(value),
        _ => None,
    }
}

/// A map of numbers.
pub(super) fn amounts(node: &Node) -> BTreeMap<String, f64> {
    let amount = |entry: &Entry| Some((entry.name().to_owned(), entry.value.number()?));
    node.entries().iter().filter_map(amount).collect()
}

/// `runtime_env.env_vars` of a map.
pub(super) fn env_vars(node: &Node) -> BTreeMap<String, String> {
    let found = node.get("runtime_env").and_then(|env| env.get("env_vars"));
    let entries = found.map_or(&[][..], Node::entries).iter();
    entries
        .filter_map(|entry| Some((entry.name().to_owned(), entry.value.text()?.to_owned())))
        .collect()
}

/// Whether a key is there with null, by which some options mean something.
pub(super) fn is_null(node: &Node, name: &str) -> bool {
    let given = node.entries().iter().find(|entry| entry.name() == name);
    given.is_some_and(|entry| entry.value.is_null())
}

/// The default of `tyndall run`, so that both ways of serving agree.
pub(super) fn default_of<T: FromStr>(key: &str) -> T {
    setting(key)
        .and_then(|row| row.default.parse().ok())
        .expect("keys in this crate are in the table, and defaults are of their type")
}
