//! Actors of deployments in Python: one object each, which all replicas of a version share.

use super::Resources;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// An actor, as its deployment names it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DeploymentActor {
    /// Of no other actor of the deployment.
    pub name: String,
    /// `module:attribute`, or the path of what the application's code itself has.
    pub actor_class: String,
    /// What it is made from; of what code says and JSON cannot, the names of types.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init_args: Vec<Value>,
    /// The same, by name.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub init_kwargs: Map<String, Value>,
    /// What it takes of the machine.
    #[serde(default)]
    pub resources: Resources,
    /// Added to the environment that replicas have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
    /// Calls that it works on at a time; absent is one, of a class with `async` methods 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
    /// Calls of one process that may be under way; absent is 10,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pending_calls: Option<u32>,
}
