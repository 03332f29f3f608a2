//! How many replicas, when.

use super::deployment::ReplicaCount;
use super::read;
use crate::file::fields::{BuiltInPolicy, PolicyKind, in_python};
use crate::file::node::Node;
use serde_json::Value;
use tyndall_types::protocol::{Aggregation, AutoscalingConfig, PythonPolicy, ScalingPolicy};

/// Ray's `num_replicas: auto`.
const AUTO_MAX_REPLICAS: u32 = 100;
const LOOK_BACK_PERIOD_S: f64 = 30.0;
const UPSCALE_DELAY_S: f64 = 30.0;
const DOWNSCALE_DELAY_S: f64 = 600.0;
const MAX_KV_USE: f64 = 0.9;
const TARGET_TTFT_S: f64 = 2.0;
const IDLE_THRESHOLD: f64 = 1.0;

/// `autoscaling_config`.
#[derive(Debug, Clone, PartialEq)]
pub enum AutoscalingOption {
    /// Null: also what code says is taken back.
    Off,
    /// By these.
    On(AutoscalingOptions),
}

/// What `autoscaling_config` says; absent is the default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AutoscalingOptions {
    /// Never fewer.
    pub min_replicas: Option<u32>,
    /// At the first deploy.
    pub initial_replicas: Option<u32>,
    /// Never more.
    pub max_replicas: Option<u32>,
    /// Requests per replica that it aims at.
    pub target_ongoing_requests: Option<f64>,
    /// Seconds over which load is taken.
    pub look_back_period_s: Option<f64>,
    /// What of that window counts.
    pub aggregation_function: Option<Aggregation>,
    /// Seconds that more load must last.
    pub upscale_delay_s: Option<f64>,
    /// Seconds that less load must last.
    pub downscale_delay_s: Option<f64>,
    /// Seconds without a request before the last goes.
    pub downscale_to_zero_delay_s: Option<f64>,
    /// Share of the way up per decision, also by its old names.
    pub upscaling_factor: Option<f64>,
    /// Share of the way down per decision, also by its old names.
    pub downscaling_factor: Option<f64>,
    /// What is aimed at.
    pub policy: Option<ScalingPolicy>,
    /// Decides in place of it.
    pub python_policy: Option<Box<PythonPolicy>>,
}

impl AutoscalingOption {
    pub(super) fn read(options: &Node) -> Option<Self> {
        if read::is_null(options, "autoscaling_config") {
            return Some(Self::Off);
        }
        options.get("autoscaling_config").map(|node| Self::On(AutoscalingOptions::read(node)))
    }
}

impl AutoscalingOptions {
    fn read(node: &Node) -> Self {
        let factor = |names: [&str; 2]| {
            let [name, old] = names;
            let number = |name| read::number(node, name);
            number(name).or_else(|| number(old)).or_else(|| number("smoothing_factor"))
        };
        Self {
            min_replicas: read::whole(node, "min_replicas"),
            initial_replicas: read::whole(node, "initial_replicas"),
            max_replicas: read::whole(node, "max_replicas"),
            target_ongoing_requests: read::number(node, "target_ongoing_requests"),
            look_back_period_s: read::seconds(node, "look_back_period_s"),
            aggregation_function: read::text(node, "aggregation_function").map(aggregation),
            upscale_delay_s: read::seconds(node, "upscale_delay_s"),
            downscale_delay_s: read::seconds(node, "downscale_delay_s"),
            downscale_to_zero_delay_s: read::seconds(node, "downscale_to_zero_delay_s"),
            upscaling_factor: factor(["upscaling_factor", "upscale_smoothing_factor"]),
            downscaling_factor: factor(["downscaling_factor", "downscale_smoothing_factor"]),
            policy: node.get("policy").and_then(policy),
            python_policy: node.get("policy").and_then(python_policy).map(Box::new),
        }
    }

    /// With the defaults of Ray Serve in the places of what is absent; `is_auto` are those of
    /// `num_replicas: auto`.
    fn resolve(&self, is_auto: bool, target_ongoing_requests: f64) -> AutoscalingConfig {
        let min_replicas = self.min_replicas.unwrap_or(1);
        let most = if is_auto { AUTO_MAX_REPLICAS } else { 1 };
        // Bounds are checked as they are written, but not with what they are laid over.
        let max_replicas = self.max_replicas.unwrap_or(most).max(min_replicas).max(1);
        let downscale_delay_s = self.downscale_delay_s.unwrap_or(DOWNSCALE_DELAY_S);
        AutoscalingConfig {
            min_replicas,
            initial_replicas: self.initial_replicas.map(|n| n.clamp(min_replicas, max_replicas)),
            max_replicas,
            target_ongoing_requests: self
                .target_ongoing_requests
                .unwrap_or(target_ongoing_requests),
            look_back_period_s: self.look_back_period_s.unwrap_or(LOOK_BACK_PERIOD_S),
            aggregation_function: self.aggregation_function.unwrap_or_default(),
            upscale_delay_s: self.upscale_delay_s.unwrap_or(UPSCALE_DELAY_S),
            downscale_delay_s,
            downscale_to_zero_delay_s: self.downscale_to_zero_delay_s.unwrap_or(downscale_delay_s),
            upscaling_factor: self.upscaling_factor.unwrap_or(1.0),
            downscaling_factor: self.downscaling_factor.unwrap_or(1.0),
            policy: self.policy.unwrap_or_default(),
            python_policy: self.python_policy.as_deref().cloned(),
        }
    }
}

/// A fixed number, if any, and how many replicas otherwise.
pub(super) fn resolve(
    num_replicas: Option<ReplicaCount>,
    autoscaling: Option<&AutoscalingOption>,
    target_ongoing_requests: f64,
) -> (Option<u32>, AutoscalingConfig) {
    let is_auto = num_replicas == Some(ReplicaCount::Auto);
    let none = AutoscalingOptions::default();
    let options = match autoscaling {
        Some(AutoscalingOption::On(options)) => Some(options),
        Some(AutoscalingOption::Off) | None => is_auto.then_some(&none),
    };
    if let Some(options) = options {
        return (None, options.resolve(is_auto, target_ongoing_requests));
    }
    let count = match num_replicas {
        Some(ReplicaCount::Fixed(count)) => count,
        Some(ReplicaCount::Auto) | None => 1,
    };
    let bounds = AutoscalingOptions {
        min_replicas: Some(count),
        max_replicas: Some(count),
        ..AutoscalingOptions::default()
    };
    (Some(count), bounds.resolve(false, target_ongoing_requests))
}

fn aggregation(text: &str) -> Aggregation {
    match text.to_ascii_lowercase().as_str() {
        "max" => Aggregation::Max,
        "min" => Aggregation::Min,
        _ => Aggregation::Mean,
    }
}

fn policy(node: &Node) -> Option<ScalingPolicy> {
    let number = |name| node.get("policy_kwargs").and_then(|kwargs| read::number(kwargs, name));
    Some(match BuiltInPolicy::of(node)?.kind {
        PolicyKind::OngoingRequests => ScalingPolicy::OngoingRequests,
        PolicyKind::QueueLength => {
            ScalingPolicy::QueueLength { target_queued_requests: number("target_queued_requests")? }
        }
        PolicyKind::Tokens => ScalingPolicy::Tokens {
            target_tokens: number("target_tokens")?,
            max_kv_use: number("max_kv_use").unwrap_or(MAX_KV_USE),
        },
        PolicyKind::TimeToFirstToken => ScalingPolicy::TimeToFirstToken {
            target_s: number("target_s").unwrap_or(TARGET_TTFT_S),
            idle_threshold: number("idle_threshold").unwrap_or(IDLE_THRESHOLD),
        },
        PolicyKind::SharedBudget => return None,
    })
}

/// A policy that is none of those built in.
pub(super) fn python_policy(node: &Node) -> Option<PythonPolicy> {
    let kwargs = match node.get("policy_kwargs").map(Node::to_json) {
        Some(Value::Object(kwargs)) => kwargs,
        Some(_) | None => Default::default(),
    };
    let policy_function = in_python(node)?.to_owned();
    Some(PythonPolicy { policy_function, policy_kwargs: kwargs })
}
