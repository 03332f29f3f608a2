//! Options of a deployment, by Ray Serve's names.
//!
//! [`DeploymentOptions`] holds what was written and nothing else, so that a config file can tell
//! what the code says from what is a default. [`DeploymentOptions::resolve`] fills the rest in and
//! refuses what does not go together.

mod autoscaling;
mod policy;
mod resolve;

#[cfg(test)]
mod tests;

pub use autoscaling::AutoscalingOptions;
pub use resolve::NO_LIMIT;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A number of replicas, or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum NumReplicas {
    /// So many.
    Fixed(u32),
    /// From 1 to 100 by load, with 2 ongoing requests per replica; what `autoscaling` says goes
    /// before.
    Auto(Auto),
}

/// The word `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auto {
    /// `auto`.
    Auto,
}

impl NumReplicas {
    /// `auto`.
    pub const AUTO: Self = Self::Auto(Auto::Auto);
}

impl From<u32> for NumReplicas {
    fn from(count: u32) -> Self {
        Self::Fixed(count)
    }
}

/// What a replica needs of its machine: Ray's `ray_actor_options`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActorOptions {
    /// CPUs; by default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_cpus: Option<f64>,
    /// GPUs, also fractions; by default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_gpus: Option<f64>,
    /// Bytes of memory; by default not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Others, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<String, f64>,
    /// The environment of its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_env: Option<RuntimeEnv>,
}

/// The environment of a replica's process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeEnv {
    /// Variables, added to the inherited ones.
    pub env_vars: BTreeMap<String, String>,
}

/// How a request is refused when the queue is full: Ray's `backpressure_config`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackpressureOptions {
    /// 503 or 429; by default 503.
    pub status_code: u16,
    /// Seconds in `Retry-After`, at least 0; by default there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<f64>,
}

impl Default for BackpressureOptions {
    fn default() -> Self {
        Self { status_code: 503, retry_after_s: None }
    }
}

/// Replicas that start and end together: Ray's `gang_scheduling_config`. What Ray has beside the
/// size has one value, or no meaning on one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GangOptions {
    /// Replicas of a gang, at least 1.
    pub gang_size: u32,
}

/// Options of a deployment: those that were set, by Ray Serve's names.
///
/// As JSON it is a deployment of a config file: `name`, and the options that were set.
///
/// ```
/// use tyndall::DeploymentOptions;
///
/// let options = DeploymentOptions::new("Ranker").num_replicas(2).max_ongoing_requests(8);
/// let json = serde_json::to_value(&options)?;
/// assert_eq!(json, serde_json::json!({
///     "name": "Ranker", "num_replicas": 2, "max_ongoing_requests": 8,
/// }));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeploymentOptions {
    name: String,
    #[serde(flatten)]
    set: Set,
    /// What a config file has under `tyndall`.
    #[serde(default, skip_serializing_if = "Own::is_empty")]
    tyndall: Own,
}

/// Options that a config file of Ray does not have.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Own {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_constructor_retry_count: Option<u32>,
}

impl Own {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

macro_rules! options {
    ($($(#[$doc:meta])* $name:ident: $kind:ty, $taken:ty => $as:expr;)*) => {
        /// Each option, if it was set.
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(default)]
        struct Set {
            $(#[serde(skip_serializing_if = "Option::is_none")] $name: Option<$kind>,)*
        }

        impl DeploymentOptions {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(mut self, $name: $taken) -> Self {
                self.set.$name = Some($as($name));
                self
            })*
        }
    };
}

fn same<T>(value: T) -> T {
    value
}

options! {
    /// A fixed number of replicas, at least 1, or [`NumReplicas::AUTO`]. By default 1. A number
    /// does not go with `autoscaling_config`.
    num_replicas: NumReplicas, impl Into<NumReplicas> => Into::into;
    /// When replicas come and go. By default they do not.
    autoscaling_config: AutoscalingOptions, AutoscalingOptions => same;
    /// What a replica needs of its machine. By default one CPU.
    ray_actor_options: ActorOptions, ActorOptions => same;
    /// Replicas on one machine, from 1 to 100. By default not bounded.
    max_replicas_per_node: u32, u32 => same;
    /// Replicas start and end in gangs, of which `num_replicas`, and bounds that `autoscaling_config`
    /// has, are multiples; see [`ReplicaContext::gang`](crate::ReplicaContext::gang). Does not go with
    /// `max_replicas_per_node`. By default each is for itself.
    gang_scheduling_config: GangOptions, GangOptions => same;
    /// Handed to [`Deployment::reconfigure`](crate::Deployment::reconfigure) at the start and
    /// whenever it changes, without a restart. By default there is none.
    user_config: Value, Value => same;
    /// Requests that a replica works on at a time, at least 1. By default 5, as in Ray.
    max_ongoing_requests: u32, u32 => same;
    /// Requests that may wait in each caller's process; more are refused with
    /// [`Error::BackPressure`](crate::Error::BackPressure). By default 1,024, where Ray has no bound;
    /// -1 is none.
    max_queued_requests: i64, i64 => same;
    /// How a request is refused when the queue is full.
    backpressure_config: BackpressureOptions, BackpressureOptions => same;
    /// Accepted and without effect: the end of the last request is an event, nothing looks for it.
    graceful_shutdown_wait_loop_s: f64, f64 => same;
    /// Seconds that a replica has for its requests when it is to end, at least 0. By default 20.
    graceful_shutdown_timeout_s: f64, f64 => same;
    /// Seconds between health checks, above 0. By default 10.
    health_check_period_s: f64, f64 => same;
    /// Seconds of one health check, above 0. By default 30.
    health_check_timeout_s: f64, f64 => same;
    /// Share of the replicas that an update replaces at a time, above 0 and up to 1. By default
    /// 0.2.
    rolling_update_percentage: f64, f64 => same;
    /// Replicas beyond the target during an update, in percent of it, from 0 to 100. By default 0.
    max_surge_percent: u32, u32 => same;
}

impl DeploymentOptions {
    /// Nothing set but the name: 1 to 128 letters, digits, `.`, `_`, `-`, `:` or `/`, the first a
    /// letter or digit.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), set: Set::default(), tyndall: Own::default() }
    }

    /// Failed starts in a row after which a version is given up, at least 1. By default 20.
    #[must_use]
    pub fn max_constructor_retry_count(mut self, max_constructor_retry_count: u32) -> Self {
        self.tyndall.max_constructor_retry_count = Some(max_constructor_retry_count);
        self
    }

    /// Another name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// [`Self::autoscaling_config`] by a shorter name.
    #[must_use]
    pub fn autoscaling(self, options: AutoscalingOptions) -> Self {
        self.autoscaling_config(options)
    }

    /// The name that was given; in an application with several of that name, all but the first get
    /// a suffix.
    #[must_use]
    pub fn given_name(&self) -> &str {
        &self.name
    }
}
