//! Request routers in Python: what they are, what they are asked, and what they answer.

use crate::{DeploymentName, ReplicaId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A class in Python that chooses replicas for the requests of a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PythonRouter {
    /// `module:attribute`, or the path of what the application's code itself has.
    pub request_router_class: String,
    /// What its `initialize_state` gets.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub request_router_kwargs: Map<String, Value>,
    /// Between two looks at what replicas say of themselves.
    pub request_routing_stats_period_s: f64,
    /// How long they may take to say it.
    pub request_routing_stats_timeout_s: f64,
    /// When it is asked again.
    #[serde(flatten)]
    pub backoff: RouterBackoff,
}

/// When a router is asked again about a request that has no replica though some have room.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RouterBackoff {
    /// After the first time that it is asked again.
    pub initial_backoff_s: f64,
    /// Each pause is so many times the one before.
    pub backoff_multiplier: f64,
    /// No pause is longer.
    pub max_backoff_s: f64,
}

impl Default for RouterBackoff {
    /// Ray's.
    fn default() -> Self {
        Self { initial_backoff_s: 0.025, backoff_multiplier: 2.0, max_backoff_s: 0.5 }
    }
}

/// Where the router of a deployment is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouterRoute {
    /// Its process listens there.
    pub socket: PathBuf,
    /// When it is asked again.
    #[serde(flatten)]
    pub backoff: RouterBackoff,
}

/// Replicas of a model get prompts whose beginning they had before. Source: `PrefixCacheAffinityRouter` of
/// Ray Serve LLM, with its names and defaults.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PrefixAffinity {
    /// By how many requests replicas may differ; beyond it only their load counts. Absent is by any
    /// number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imbalanced_threshold: Option<f64>,
    /// The share of a prompt that a replica must have had.
    pub match_rate_threshold: f64,
    /// How much text is remembered of each replica.
    pub max_bytes: usize,
}

impl Default for PrefixAffinity {
    /// Ray's.
    fn default() -> Self {
        Self { imbalanced_threshold: None, match_rate_threshold: 0.1, max_bytes: 400_000 }
    }
}

/// Asks a router which replicas a request may have. As it is sent, one line of it comes first, and then
/// the arguments of a call by a handle, as its body has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouterQuestion {
    /// Whose router.
    pub deployment: DeploymentName,
    /// The process that asks.
    pub caller: String,
    /// Names the request among those of the caller, each time that it is asked about.
    pub number: u64,
    /// Requests that replicas have from this caller.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ongoing: BTreeMap<ReplicaId, u32>,
    /// Replicas that have failed it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub avoid: Vec<ReplicaId>,
    /// Of the request.
    pub method: String,
    /// Its path and query.
    pub uri: String,
    /// Its headers.
    pub headers: Vec<(String, String)>,
}

/// Which replicas a request may have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RouterAnswer {
    /// The best first; it gets one of the first rank that has a free one.
    pub ranks: Vec<Vec<ReplicaId>>,
    /// The router wants to hear which one it got, and when it is done with it.
    #[serde(default)]
    pub hears: bool,
    /// It still waits for one that it may name: it is to be asked again at once, and goes on.
    #[serde(default)]
    pub waits: bool,
}

/// Tells a router that a request which it was asked about needs no replica any more, and had none of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterGone {
    /// Whose router.
    pub deployment: DeploymentName,
    /// As in the [`RouterQuestion`].
    pub caller: String,
    /// As in the [`RouterQuestion`].
    pub number: u64,
}

/// Says to routers that a process is there which may have requests of theirs. It has no answer: the
/// process is gone when its last connection with it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterCaller {
    /// As in the [`RouterQuestion`].
    pub caller: String,
}

/// Tells a router what became of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterNews {
    /// Whose router.
    pub deployment: DeploymentName,
    /// As in the [`RouterQuestion`].
    pub caller: String,
    /// As in the [`RouterQuestion`].
    pub number: u64,
    /// Which one it got.
    pub replica: ReplicaId,
}
