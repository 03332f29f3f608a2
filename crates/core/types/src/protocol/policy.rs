//! Autoscaling policies in Python: what they are, what they are asked, and what they answer.

use super::AutoscalingConfig;
use crate::{DeploymentName, ReplicaId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A function or class in Python that decides how many replicas there are.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PythonPolicy {
    /// `module:attribute`, or the path of what the application's code itself has.
    pub policy_function: String,
    /// What a class is made with; functions get none.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub policy_kwargs: Map<String, Value>,
}

/// Asks a policy for its decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyQuestion {
    /// Whose policy; absent is the application's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentName>,
    /// What it decides by: one deployment, or those of the application that are autoscaled.
    pub contexts: Vec<PolicyContext>,
}

/// What a policy decides by, in the words of Ray Serve's `AutoscalingContext`; times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyContext {
    /// Which deployment.
    pub deployment_name: DeploymentName,
    /// Replicas that take requests.
    pub current_num_replicas: u32,
    /// Replicas that there should be.
    pub target_num_replicas: u32,
    /// Those that take requests.
    pub running_replicas: Vec<ReplicaId>,
    /// Requests, queued and ongoing, over the window of `look_back_period_s`.
    pub total_num_requests: f64,
    /// Requests that wait for a replica, over the same window.
    pub total_queued_requests: f64,
    /// What replicas say of themselves: the points of each metric in the window, oldest first, by
    /// replica.
    #[serde(default)]
    pub raw_metrics: BTreeMap<String, BTreeMap<ReplicaId, Vec<(f64, f64)>>>,
    /// The fewest, at the target capacity.
    pub capacity_adjusted_min_replicas: u32,
    /// The most, at the target capacity.
    pub capacity_adjusted_max_replicas: u32,
    /// What the policy gave back with its last decision, as it wrote it; absent at first.
    #[serde(default)]
    pub policy_state: Option<String>,
    /// When the target last rose.
    pub last_scale_up_time: Option<f64>,
    /// When the target last fell.
    pub last_scale_down_time: Option<f64>,
    /// Now.
    pub current_time: f64,
    /// The deployment's own.
    pub config: AutoscalingConfig,
}

/// What a policy decided.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PolicyAnswer {
    /// Replicas; deployments that are left out keep their target.
    pub decisions: BTreeMap<DeploymentName, f64>,
    /// What it wants to have back the next time, as only it can read.
    #[serde(default)]
    pub states: BTreeMap<DeploymentName, String>,
}
