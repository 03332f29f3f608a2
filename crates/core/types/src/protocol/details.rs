//! What people and tools are shown.

use super::DeploymentConfig;
use crate::{ApplicationStatus, DeploymentStatus, ReplicaId, ReplicaState};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// `GET /api/tyndall/applications/`: all that there is to know, and what `tyndall status` prints.
/// Ray Serve's `ServeInstanceDetails` is made from it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct InstanceDetails {
    /// By name.
    pub applications: BTreeMap<String, ApplicationDetails>,
    /// Percent of all replica counts that is carried out; absent is all.
    #[serde(default)]
    pub target_capacity: Option<f64>,
    /// The proxies that read the route table.
    #[serde(default)]
    pub proxies: Vec<String>,
}

/// One application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApplicationDetails {
    /// Its name.
    pub name: String,
    /// Where it is mounted; absent takes no requests from outside.
    pub route_prefix: Option<String>,
    /// The deployment that takes requests from outside.
    #[serde(default)]
    pub ingress: Option<String>,
    /// By which way it came, by Ray's words.
    #[serde(default)]
    pub source: String,
    /// Grows with each change that was submitted.
    #[serde(default)]
    pub version: u64,
    /// Whether the scale endpoint may set replica counts.
    #[serde(default)]
    pub external_scaler_enabled: bool,
    /// What was submitted, only with the fields that were given.
    #[serde(default)]
    pub submitted: Value,
    /// How it is doing.
    pub status: ApplicationStatus,
    /// Why, in words; empty when there is nothing to say.
    pub message: String,
    /// Unix seconds of its last deployment.
    pub last_deployed_time_s: f64,
    /// By name.
    pub deployments: BTreeMap<String, DeploymentDetails>,
}

/// One deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeploymentDetails {
    /// Its name.
    pub name: String,
    /// How it is doing.
    pub status: DeploymentStatus,
    /// Why the status last changed, by Ray's words, such as `AUTOSCALING`.
    pub status_trigger: String,
    /// Why, in words; empty when there is nothing to say.
    pub message: String,
    /// The public model id, where it serves a model.
    #[serde(default)]
    pub model_id: Option<String>,
    /// What the autoscaler wants.
    pub target_num_replicas: u32,
    /// Requests waiting in all proxies.
    pub queued_requests: u32,
    /// Requests that replicas have.
    pub ongoing_requests: u32,
    /// What is carried out.
    #[serde(default)]
    pub config: Option<Arc<DeploymentConfig>>,
    /// Every replica whose process may still run.
    pub replicas: Vec<ReplicaDetails>,
    /// Its actors, with those of versions that go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actors: Vec<ActorDetails>,
    /// The last that ended, newest first.
    #[serde(default)]
    pub dead_replicas: Vec<DeadReplica>,
}

/// A replica that is gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadReplica {
    /// Its id.
    pub replica_id: ReplicaId,
    /// Its process, when it had one.
    pub pid: Option<u32>,
    /// Unix seconds at which it was asked for.
    pub start_time_s: f64,
    /// Unix seconds at which it was gone.
    pub end_time_s: f64,
    /// Why.
    pub reason: String,
}

/// One replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaDetails {
    /// Its id.
    pub replica_id: ReplicaId,
    /// Its number among the replicas of its deployment, from 0 on; absent once it stops.
    #[serde(default)]
    pub rank: Option<u32>,
    /// The gang that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gang_id: Option<String>,
    /// The version of its deployment that it serves.
    #[serde(default)]
    pub version: u64,
    /// Where it is in its life.
    pub state: ReplicaState,
    /// Its process, when it runs.
    pub pid: Option<u32>,
    /// Unix seconds at which it was asked for.
    pub start_time_s: f64,
    /// Seconds that the state has lasted.
    pub since_s: f64,
    /// Why it is in a state that is not final, and what happens next.
    pub message: String,
    /// The multiplexed models that it has, loaded or being loaded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Seconds until the controller acts on its own, where the state has a deadline.
    pub deadline_s: Option<f64>,
}

/// One actor of a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActorDetails {
    /// Its name in the deployment.
    pub name: String,
    /// The version of its deployment that it is of; 0 where it was found and is of none that is known.
    pub version: u64,
    /// Where it is in its life; STOPPED has no process, and may have one again.
    pub state: ReplicaState,
    /// Its process, when it runs.
    pub pid: Option<u32>,
    /// Seconds since its process was asked for.
    pub since_s: Option<f64>,
    /// Why it is in a state that is not final.
    pub message: String,
    /// Seconds until the controller acts on its own, where the state has a deadline.
    pub deadline_s: Option<f64>,
}
