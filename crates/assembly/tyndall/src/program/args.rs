//! What a program is started with.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use tyndall_types::ReplicaId;
use tyndall_types::protocol::{DeploymentConfig, GangContext, RuntimeDir};

/// What to do.
#[derive(Debug)]
pub(super) enum Args {
    None,
    Role(Role),
}

/// Which process to be.
#[derive(Debug)]
pub(super) enum Role {
    Describe { args: Value },
    Replica(Box<ReplicaArgs>),
}

/// What a replica is started with.
#[derive(Debug)]
pub(super) struct ReplicaArgs {
    pub(super) runtime_dir: RuntimeDir,
    pub(super) id: ReplicaId,
    pub(super) parent_pid: u32,
    pub(super) config: DeploymentConfig,
    /// Of a replica that is of a gang.
    pub(super) gang: Option<GangContext>,
}

/// Reads the words after the program's name.
pub(super) fn parse(words: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut words = words;
    match (words.next().as_deref(), words.next().as_deref()) {
        (None, _) => Ok(Args::None),
        (Some("role"), Some("describe")) => {
            let mut named = named(words)?;
            let args = match named.remove("args") {
                Some(json) => parse_json("args", &json)?,
                None => Value::Object(Map::new()),
            };
            nothing_left(&named)?;
            Ok(Args::Role(Role::Describe { args }))
        }
        (Some("role"), Some("replica")) => {
            let mut named = named(words)?;
            let gang = named.remove("gang").map(|json| parse_json("gang", &json)).transpose()?;
            let mut take = |name: &str| named.remove(name).ok_or(format!("--{name} is missing"));
            let args = ReplicaArgs {
                runtime_dir: RuntimeDir(take("runtime-dir")?.into()),
                id: ReplicaId::new(take("id")?),
                parent_pid: parse_json("parent-pid", &take("parent-pid")?)?,
                config: parse_json("deployment-config", &take("deployment-config")?)?,
                gang,
            };
            nothing_left(&named)?;
            Ok(Args::Role(Role::Replica(Box::new(args))))
        }
        (Some(first), second) => {
            Err(format!("{} is not understood", [first, second.unwrap_or_default()].join(" ")))
        }
    }
}

fn named(words: impl Iterator<Item = String>) -> Result<BTreeMap<String, String>, String> {
    let mut words = words;
    let mut named = BTreeMap::new();
    while let Some(word) = words.next() {
        let name = word.strip_prefix("--").ok_or_else(|| format!("{word} is not understood"))?;
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => {
                let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
                (name.to_owned(), value)
            }
        };
        named.insert(name, value);
    }
    Ok(named)
}

fn nothing_left(named: &BTreeMap<String, String>) -> Result<(), String> {
    match named.keys().next() {
        None => Ok(()),
        Some(name) => Err(format!("--{name} is not understood")),
    }
}

fn parse_json<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("--{name} is not as expected: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<Args, String> {
        parse(line.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn roles_are_read() {
        assert!(matches!(parsed(&[]), Ok(Args::None)));
        let Ok(Args::Role(Role::Describe { args })) = parsed(&["role", "describe"]) else {
            panic!("no role")
        };
        assert_eq!(args, serde_json::json!({}));
        let line = ["role", "describe", "--args={\"a\":1}"];
        let Ok(Args::Role(Role::Describe { args })) = parsed(&line) else { panic!("no role") };
        assert_eq!(args["a"], 1);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let table: [(&[&str], &str); 8] = [
            (&["serve"], "serve  is not understood"),
            (&["role", "proxy"], "role proxy is not understood"),
            (&["role", "describe", "x"], "x is not understood"),
            (&["role", "describe", "--args"], "--args needs a value"),
            (&["role", "describe", "--args", "{"], "--args is not as expected"),
            (&["role", "describe", "--id", "x"], "--id is not understood"),
            (&["role", "replica", "--id", "x"], "--runtime-dir is missing"),
            (&["role", "replica", "--gang", "{}"], "--gang is not as expected: missing field"),
        ];
        for (line, expected) in table {
            let message = parsed(line).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
