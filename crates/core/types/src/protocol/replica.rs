//! What replicas tell.

use super::JsonText;
use crate::{DeploymentName, ReplicaId, ReplicaState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Phases of a wake, in order, in seconds. Their sum is the time from the decision to the end.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ColdStartPhases(pub Vec<(String, f64)>);

impl ColdStartPhases {
    /// From ready to the first request in the engine: the news goes to the proxies, the waiting
    /// request comes back and is tokenized. It is part of a wake only if a request waited for it.
    pub const HANDOVER: &str = "handover";
    /// From the first request in the engine to its first token.
    pub const FIRST_STEP: &str = "first_step";

    /// The phases that come after those of [`ReplicaReport::Ready`].
    pub fn after_ready(&self) -> impl Iterator<Item = &(String, f64)> {
        self.0
            .iter()
            .filter(|(name, _)| [Self::HANDOVER, Self::FIRST_STEP].contains(&name.as_str()))
    }
}

/// So many multiplexed models of a replica are told of: what is told goes to every proxy.
pub const MAX_TOLD_MODELS: usize = 128;

/// What a replica tells the controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum ReplicaReport {
    /// It answers requests on its socket.
    Ready {
        /// What it took to get there, since the process began.
        phases: ColdStartPhases,
        /// What it serves, where that is a model.
        card: Option<ModelCard>,
    },
    /// Its first request got its first token.
    FirstToken {
        /// The phases up to here: those of `Ready`, then `handover` and `first_step`.
        phases: ColdStartPhases,
    },
    /// It has answered a request; told once, by programs.
    Answered,
    /// Its process was told to end: it takes nothing new, and ends when it has finished what it has.
    /// Where the controller did not want that, it knows now.
    Leaving,
    /// How busy its engine is; at most one a second, and only when it changed.
    Load(EngineLoad),
    /// What its code says of itself for autoscaling policies.
    Stats {
        /// By name.
        metrics: BTreeMap<String, f64>,
    },
    /// What its code says of itself for request routers; nobody else reads it.
    RoutingStats {
        /// A map.
        stats: JsonText,
    },
    /// What its code says of its replica, once, before [`ReplicaReport::Ready`].
    Metadata {
        /// A map.
        metadata: JsonText,
    },
    /// Why request routers do not choose; told by their process when that changes.
    RouterTroubles {
        /// By deployment; those that are not named choose.
        troubles: BTreeMap<DeploymentName, String>,
    },
    /// Which multiplexed models it has, loaded or being loaded; told when that changes.
    Models {
        /// Their ids, sorted, and at most [`MAX_TOLD_MODELS`].
        ids: Vec<String>,
    },
    /// It cannot start; its process ends next.
    Failed {
        /// One line of cause and one of cure.
        reason: String,
    },
}

/// What a replica says of itself when asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Its id.
    pub replica_id: ReplicaId,
    /// Starting, running or stopping.
    pub state: ReplicaState,
    /// Requests it has.
    pub ongoing: u32,
    /// Absent until it is running, and where it serves no model.
    pub card: Option<ModelCard>,
    /// As in [`ReplicaReport::Models`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// As in [`ReplicaReport::Metadata`].
    #[serde(default, skip_serializing_if = "JsonText::is_null")]
    pub metadata: JsonText,
    /// Seconds since its engine last finished a step, while it has one to do; absent while it has
    /// not. A busy engine keeps it small.
    #[serde(default)]
    pub step_age_s: Option<f64>,
}

impl ReplicaStatus {
    /// One that has nothing to do and says nothing of itself.
    #[must_use]
    pub fn new(replica_id: ReplicaId, state: ReplicaState) -> Self {
        Self {
            replica_id,
            state,
            ongoing: 0,
            card: None,
            models: Vec::new(),
            metadata: JsonText::default(),
            step_age_s: None,
        }
    }
}

/// How busy an engine is.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct EngineLoad {
    /// Tokens of requests in work.
    pub running_tokens: u64,
    /// Tokens of prompts that wait.
    pub waiting_tokens: u64,
    /// Share of the KV cache in use, from 0 to 1.
    pub kv_use: f64,
    /// Mean time to the first token of the requests that got theirs since the last report, in
    /// seconds; absent when there was none.
    pub ttft_s: Option<f64>,
}

/// The facts of a loaded model that clients may see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard {
    /// Largest prompt plus output, in tokens.
    pub max_model_len: u32,
    /// KV blocks of the replica; 0 of a model that writes no text.
    pub num_kv_blocks: u32,
    /// Tokens per KV block.
    pub block_size: u32,
}
