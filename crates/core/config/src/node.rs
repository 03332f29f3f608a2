//! What a machine has for replicas, as far as settings say.

use crate::ConfigError;
use crate::origin::Reader;
use crate::parse;
use std::collections::BTreeMap;

const MAX_GPUS: u32 = 1024;
const MAX_AMOUNT: f64 = 1e12;

/// What all replicas of a machine share.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeResources {
    /// Bytes of memory; absent is what is free.
    pub memory_bytes: Option<u64>,
    /// GPUs; absent is what the driver shows.
    pub num_gpus: Option<u32>,
    /// CPUs; absent is not accounted.
    pub num_cpus: Option<f64>,
    /// Others, by name.
    pub custom: BTreeMap<String, f64>,
}

pub(crate) fn read(reader: &mut Reader<'_>) -> Result<NodeResources, ConfigError> {
    Ok(NodeResources {
        memory_bytes: reader.read_optional("node_memory", parse::parse_bytes)?,
        num_gpus: reader.read("num_gpus", parse::auto_or(0..=MAX_GPUS))?.value,
        num_cpus: reader.read_optional("num_cpus", parse::number(0.0..=MAX_AMOUNT))?,
        custom: reader.read_optional("resources", amounts)?.unwrap_or_default(),
    })
}

fn amounts(text: &str) -> Result<BTreeMap<String, f64>, String> {
    let accepted = || "a JSON object of amounts from 0 on, such as {\"disk\": 2}".to_owned();
    let read: BTreeMap<String, f64> = serde_json::from_str(text).map_err(|_| accepted())?;
    if let Some(own) = read.keys().find(|name| ["CPU", "GPU", "memory"].contains(&name.as_str())) {
        let flag = match own.as_str() {
            "CPU" => "--num-cpus",
            "GPU" => "--num-gpus",
            _ => "--node-memory",
        };
        return Err(format!("{} without {own:?}, which {flag} says", accepted()));
    }
    let is_amount =
        |(name, amount): (&String, &f64)| !name.is_empty() && (0.0..=MAX_AMOUNT).contains(amount);
    if read.iter().all(is_amount) { Ok(read) } else { Err(accepted()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_names_and_are_not_negative() {
        assert_eq!(amounts(r#"{"disk": 2, "x": 0.5}"#).unwrap().len(), 2);
        assert!(amounts("{}").unwrap().is_empty());
        for text in
            ["", "1", "[1]", r#"{"a": -1}"#, r#"{"a": "1"}"#, r#"{"": 1}"#, r#"{"a": 1e13}"#]
        {
            assert!(amounts(text).unwrap_err().starts_with("a JSON object"), "{text}");
        }
        assert!(amounts(r#"{"GPU": 1}"#).unwrap_err().ends_with("which --num-gpus says"));
    }
}
