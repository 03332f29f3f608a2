//! How many replicas a deployment shall have.

use super::PythonPolicy;
use serde::{Deserialize, Serialize};

/// Ray Serve's autoscaling fields, by Ray's names, and the policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AutoscalingConfig {
    /// Never fewer; 0 allows scale to zero.
    pub min_replicas: u32,
    /// At the first deploy, and after a change; absent is `min_replicas`.
    #[serde(default)]
    pub initial_replicas: Option<u32>,
    /// Never more.
    pub max_replicas: u32,
    /// Ongoing and queued requests per replica that the autoscaler aims at.
    pub target_ongoing_requests: f64,
    /// The load is taken over so many seconds; 0 takes it as it is now.
    #[serde(default)]
    pub look_back_period_s: f64,
    /// What of that window counts.
    #[serde(default)]
    pub aggregation_function: Aggregation,
    /// How long more load must last before replicas are added; the first replica never waits.
    pub upscale_delay_s: f64,
    /// How long less load must last before replicas are removed.
    pub downscale_delay_s: f64,
    /// How long there must be no request before the last replica goes.
    pub downscale_to_zero_delay_s: f64,
    /// Share of the way up per decision; from zero, its ceiling is the number of replicas.
    #[serde(default = "one")]
    pub upscaling_factor: f64,
    /// Share of the way down per decision.
    #[serde(default = "one")]
    pub downscaling_factor: f64,
    /// What is aimed at.
    #[serde(default)]
    pub policy: ScalingPolicy,
    /// Decides in place of `policy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub python_policy: Option<PythonPolicy>,
}

/// What a record from before the field means.
fn one() -> f64 {
    1.0
}

/// What of a window counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregation {
    /// The mean over time.
    #[default]
    Mean,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

/// What an autoscaler aims at. Bounds, delays and factors apply to all of them, and so does the
/// first replica for the first request.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum ScalingPolicy {
    /// `target_ongoing_requests` per replica, as Ray's default policy.
    #[default]
    OngoingRequests,
    /// Requests that wait for a replica.
    QueueLength {
        /// Waiting requests per replica.
        target_queued_requests: f64,
    },
    /// Tokens that are worked on or wait, and the cache that they fill.
    Tokens {
        /// Tokens, running and waiting, per replica.
        target_tokens: f64,
        /// Share of the KV cache, above 0 and up to 1, beyond which a replica is full.
        max_kv_use: f64,
    },
    /// The time to the first token: one replica more above the target, one fewer below it where
    /// replicas have little to do.
    TimeToFirstToken {
        /// Seconds.
        target_s: f64,
        /// Ongoing requests per replica below which one may go.
        idle_threshold: f64,
    },
}
