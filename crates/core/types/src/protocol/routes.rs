//! What proxies are told.

use super::{Backpressure, GenerateDefaults, JsonText, ModelTask, PrefixAffinity, RouterRoute};
use crate::{DeploymentId, ReplicaId};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// What a proxy needs to route: all of it first, then what changed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RouteTable {
    /// Grows with every change.
    pub version: u64,
    /// Deployments that are not named here are gone; otherwise they are as they were.
    pub is_complete: bool,
    /// Those that are new or have changed.
    pub deployments: Vec<Arc<DeploymentRoute>>,
    /// Those that are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<DeploymentId>,
}

/// One deployment in a [`RouteTable`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeploymentRoute {
    /// Which.
    pub deployment: DeploymentId,
    /// When it was first deployed, as a number that grows; the first model is the default of
    /// `/generate`.
    pub order: u64,
    /// Where its application is mounted; absent takes no requests from outside.
    pub route_prefix: Option<String>,
    /// Whether it is the deployment of its application that requests from outside go to.
    pub is_ingress: bool,
    /// The model, where it serves one.
    pub model: Option<ModelRoute>,
    /// As in [`DeploymentConfig`](super::DeploymentConfig).
    pub max_ongoing_requests: u32,
    /// As in [`DeploymentConfig`](super::DeploymentConfig).
    pub max_queued_requests: u32,
    /// As in [`DeploymentConfig`](super::DeploymentConfig).
    pub backpressure: Backpressure,
    /// As in [`DeploymentConfig`](super::DeploymentConfig).
    pub request_timeout_s: f64,
    /// Those that take requests; a replica that drains is not here.
    pub replicas: Vec<ReplicaRoute>,
    /// No replica can be had: waiting requests and new ones fail with this.
    pub unavailable: Option<Unavailable>,
    /// Who is asked which replicas a request may have; absent leaves it to whoever sends the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<Box<RouterRoute>>,
}

/// The model of a [`DeploymentRoute`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelRoute {
    /// The public model id.
    pub id: String,
    /// As in [`ModelConfig`](super::ModelConfig).
    pub aliases: Vec<String>,
    /// What it is for.
    pub task: ModelTask,
    /// Unix seconds of its deployment, for `/v1/models`.
    pub created_s: u64,
    /// As in [`ModelConfig`](super::ModelConfig).
    pub generate: GenerateDefaults,
    /// Largest prompt plus output, in tokens: what a replica last said, before that what is
    /// configured.
    pub max_model_len: Option<u32>,
    /// Whether prompts go to replicas that had their beginning before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_affinity: Option<PrefixAffinity>,
}

/// A replica in a [`RouteTable`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRoute {
    /// Which.
    pub id: ReplicaId,
    /// Where it listens.
    pub socket: PathBuf,
    /// The multiplexed models that it has, as in [`ReplicaReport::Models`](super::ReplicaReport::Models).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// What it says of itself to request routers, as in
    /// [`ReplicaReport::RoutingStats`](super::ReplicaReport::RoutingStats).
    #[serde(default, skip_serializing_if = "JsonText::is_null")]
    pub routing_stats: JsonText,
    /// What it is, as in [`ReplicaReport::Metadata`](super::ReplicaReport::Metadata).
    #[serde(default, skip_serializing_if = "JsonText::is_null")]
    pub metadata: JsonText,
}

impl ReplicaRoute {
    /// One that has said nothing of itself.
    #[must_use]
    pub fn new(id: ReplicaId, socket: PathBuf) -> Self {
        let (routing_stats, metadata) = (JsonText::default(), JsonText::default());
        Self { id, socket, models: Vec::new(), routing_stats, metadata }
    }
}

/// Seconds as clients are told to wait: never zero, which they read as "at once", and a day at most.
#[must_use]
pub fn retry_after_s(seconds: f64) -> f64 {
    seconds.clamp(1.0, 86_400.0)
}

/// Why a deployment has no replica and will not have one soon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unavailable {
    /// One line of cause and one of cure.
    pub reason: String,
    /// Seconds until the next try may succeed.
    pub retry_after_s: f64,
}
