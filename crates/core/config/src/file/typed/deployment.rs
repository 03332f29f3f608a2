//! Options of one deployment.

use super::code::CodePaths;
use super::scaling::AutoscalingOption;
use super::{LoggingOptions, gangs, read};
use crate::file::check::object;
use crate::file::fields::{DEPLOYMENT, Named, is_capacity_queue, named};
use crate::file::node::{Node, Value as NodeValue};
use crate::file::problem::{Problem, Severity};
use crate::file::rules;
use serde_json::Value;
use std::collections::BTreeMap;
use tyndall_types::DeploymentName;
use tyndall_types::protocol::{
    Backpressure, DeploymentActor, GangScheduling, PrefixAffinity, PythonRouter, Resources,
    RouterBackoff, WarmPool,
};

/// Ray's defaults of what replicas say of themselves to request routers.
const STATS_PERIOD_S: f64 = 10.0;
const STATS_TIMEOUT_S: f64 = 30.0;

/// `num_replicas`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaCount {
    /// So many.
    Fixed(u32),
    /// By load, from 1 to 100 where `autoscaling_config` does not say.
    Auto,
}

/// Options of a deployment; absent is what is not written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeploymentOptions {
    /// How many replicas, where load does not decide.
    pub num_replicas: Option<ReplicaCount>,
    /// How many replicas, when.
    pub autoscaling: Option<AutoscalingOption>,
    /// Requests that a replica has at a time.
    pub max_ongoing_requests: Option<u32>,
    /// Requests that wait for a replica; -1 in the file is `u32::MAX`.
    pub max_queued_requests: Option<u32>,
    /// The answer when the queue is full.
    pub backpressure: Option<Backpressure>,
    /// Handed to `reconfigure`; null is null.
    pub user_config: Option<Value>,
    /// Seconds that a draining replica has.
    pub graceful_shutdown_timeout_s: Option<f64>,
    /// Seconds between health checks.
    pub health_check_period_s: Option<f64>,
    /// Seconds of one health check.
    pub health_check_timeout_s: Option<f64>,
    /// What a replica needs.
    pub actor: Option<ActorOptions>,
    /// `placement_group_bundles`, or what `placement_group_config` of a model makes of it; null is
    /// no bundle.
    pub bundles: Option<Vec<BTreeMap<String, f64>>>,
    /// Replicas of it on one node.
    pub max_replicas_per_node: Option<u32>,
    /// How its replicas form gangs; null is not at all.
    pub gang_scheduling: Option<Option<GangScheduling>>,
    /// Its logs.
    pub logging: Option<LoggingOptions>,
    /// Objects that replicas share; those that have no effect are left out.
    pub actors: Option<Vec<DeploymentActor>>,
    /// What chooses replicas.
    pub request_router: Option<RouterOption>,
    /// Share of replicas that an update replaces at a time.
    pub rolling_update_percentage: Option<f64>,
    /// Replicas beyond the target during an update, in percent.
    pub max_surge_percent: Option<u32>,
    /// Options that Ray does not have.
    pub own: OwnOptions,
}

/// `request_router_config`.
#[derive(Debug, Clone, PartialEq)]
pub enum RouterOption {
    /// The rule that is built in.
    BuiltIn,
    /// A class in Python.
    Python(Box<PythonRouter>),
    /// The rule for prompts, for models.
    PrefixCache(PrefixAffinity),
}

/// `ray_actor_options`; absent is what is not written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ActorOptions {
    /// CPUs of a replica.
    pub num_cpus: Option<f64>,
    /// GPUs, also fractions.
    pub num_gpus: Option<f64>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Other resources.
    pub resources: BTreeMap<String, f64>,
    /// `runtime_env.env_vars`.
    pub env_vars: BTreeMap<String, String>,
    /// Where its code lies.
    pub paths: CodePaths,
}

/// The map `tyndall`; absent is what is not written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OwnOptions {
    /// Whether it never gives way to another model.
    pub is_pinned: Option<bool>,
    /// Larger ones stay longer when memory is short.
    pub priority: Option<i32>,
    /// Seconds after a wake in which it does not give way.
    pub min_residency_s: Option<f64>,
    /// Whether a version that does not start gives way to the one before.
    pub is_automatic_rollback: Option<bool>,
    /// Seconds to readiness.
    pub startup_timeout_s: Option<f64>,
    /// Seconds to the begin of an answer.
    pub request_timeout_s: Option<f64>,
    /// Failed starts in a row after which a version is given up.
    pub max_constructor_retry_count: Option<u32>,
    /// Processes that wait to become replicas.
    pub warm: WarmOptions,
}

/// Processes that wait to become replicas of code in Python; absent is what is not written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WarmOptions {
    /// What they import.
    pub preload: Option<Vec<String>>,
    /// How many wait.
    pub processes: Option<u32>,
}

/// Options for the deployment of that name.
#[derive(Debug, Clone, PartialEq)]
pub struct DeploymentOverride {
    /// Of a deployment of the application.
    pub name: DeploymentName,
    /// What is written of it.
    pub options: DeploymentOptions,
}

impl DeploymentOverride {
    pub(super) fn read(node: &Node) -> Self {
        let name = read::text(node, "name").unwrap_or_default();
        Self {
            name: DeploymentName::new(name).expect("names are checked"),
            options: DeploymentOptions::read(node),
        }
    }

    /// Reads what a program says of one of its deployments: a map as in `deployments` of a file.
    ///
    /// # Errors
    /// All that is wrong with it; lines are of no meaning there, paths are.
    pub fn from_json(json: &Value) -> Result<Self, Vec<Problem>> {
        let node = Node::from_json(json);
        let mut problems = Vec::new();
        object(&DEPLOYMENT, &node, "", &mut problems);
        rules::of_deployment(&node, &mut problems);
        problems.retain(|problem| problem.severity == Severity::Error);
        if problems.is_empty() { Ok(Self::read(&node)) } else { Err(problems) }
    }
}

impl DeploymentOptions {
    pub(super) fn read(node: &Node) -> Self {
        let queued = |number: f64| if number < 0.0 { u32::MAX } else { number as u32 };
        Self {
            num_replicas: node.get("num_replicas").map(replica_count),
            autoscaling: AutoscalingOption::read(node),
            max_ongoing_requests: read::whole(node, "max_ongoing_requests"),
            max_queued_requests: read::number(node, "max_queued_requests").map(queued),
            backpressure: or_null(node, "backpressure_config", backpressure),
            user_config: or_null(node, "user_config", Node::to_json),
            graceful_shutdown_timeout_s: read::seconds(node, "graceful_shutdown_timeout_s"),
            health_check_period_s: read::seconds(node, "health_check_period_s"),
            health_check_timeout_s: read::seconds(node, "health_check_timeout_s"),
            actor: or_null(node, "ray_actor_options", ActorOptions::read),
            bundles: or_null(node, "placement_group_bundles", |list| {
                list.items().iter().map(read::amounts).collect()
            }),
            max_replicas_per_node: read::whole(node, "max_replicas_per_node"),
            gang_scheduling: or_null(node, "gang_scheduling_config", gangs::read),
            logging: node.get("logging_config").map(LoggingOptions::read),
            actors: or_null(node, "deployment_actors", actors),
            request_router: or_null(node, "request_router_config", request_router),
            rolling_update_percentage: read::number(node, "rolling_update_percentage"),
            max_surge_percent: read::whole(node, "max_surge_percent"),
            own: node.get("tyndall").map(OwnOptions::read).unwrap_or_default(),
        }
    }

    /// These options where they are written, else those of the code, by Ray's rules: an option
    /// replaces that of the code as a whole, only `runtime_env` is joined; a number of replicas leaves
    /// autoscaling of the code in force, and `num_replicas: auto` its values.
    ///
    /// Source: ray 2.60.0 `python/ray/serve/_private/application_state.py`.
    #[must_use]
    pub fn over(&self, code: &Self) -> Self {
        let (over, code) = (self.clone(), code.clone());
        let num_replicas = match (over.num_replicas, code.num_replicas) {
            (Some(ReplicaCount::Fixed(_)), auto @ Some(ReplicaCount::Auto))
                if over.autoscaling.is_none() =>
            {
                auto
            }
            // `auto` of the code is a way to write autoscaling, which is replaced as a whole.
            (None, Some(ReplicaCount::Auto)) if over.autoscaling.is_some() => None,
            (over, code) => over.or(code),
        };
        let actor = match (over.actor, code.actor) {
            (Some(over), Some(code)) => Some(over.with_environment_over(&code)),
            (over, code) => over.or(code),
        };
        Self {
            num_replicas,
            autoscaling: over.autoscaling.or(code.autoscaling),
            max_ongoing_requests: over.max_ongoing_requests.or(code.max_ongoing_requests),
            max_queued_requests: over.max_queued_requests.or(code.max_queued_requests),
            backpressure: over.backpressure.or(code.backpressure),
            user_config: over.user_config.or(code.user_config),
            graceful_shutdown_timeout_s: over
                .graceful_shutdown_timeout_s
                .or(code.graceful_shutdown_timeout_s),
            health_check_period_s: over.health_check_period_s.or(code.health_check_period_s),
            health_check_timeout_s: over.health_check_timeout_s.or(code.health_check_timeout_s),
            actor,
            bundles: over.bundles.or(code.bundles),
            max_replicas_per_node: over.max_replicas_per_node.or(code.max_replicas_per_node),
            gang_scheduling: over.gang_scheduling.or(code.gang_scheduling),
            logging: over.logging.or(code.logging),
            actors: over.actors.or(code.actors),
            request_router: over.request_router.or(code.request_router),
            rolling_update_percentage: over
                .rolling_update_percentage
                .or(code.rolling_update_percentage),
            max_surge_percent: over.max_surge_percent.or(code.max_surge_percent),
            own: over.own.over(code.own),
        }
    }
}

impl ActorOptions {
    fn read(node: &Node) -> Self {
        Self {
            num_cpus: read::number(node, "num_cpus"),
            num_gpus: read::number(node, "num_gpus"),
            memory_bytes: read::number(node, "memory").map(|bytes| bytes as u64),
            resources: node.get("resources").map(read::amounts).unwrap_or_default(),
            env_vars: read::env_vars(node),
            paths: CodePaths::read(node),
        }
    }

    /// With what of the `runtime_env` of `base` it has not itself.
    fn with_environment_over(mut self, base: &Self) -> Self {
        for (name, value) in &base.env_vars {
            self.env_vars.entry(name.clone()).or_insert_with(|| value.clone());
        }
        self.paths = self.paths.over(&base.paths);
        self
    }
}

impl OwnOptions {
    fn read(node: &Node) -> Self {
        Self {
            is_pinned: read::flag(node, "pinned"),
            priority: read::number(node, "priority").map(|number| number as i32),
            min_residency_s: read::seconds(node, "min_residency_s"),
            is_automatic_rollback: read::flag(node, "automatic_rollback"),
            startup_timeout_s: read::seconds(node, "startup_timeout_s"),
            request_timeout_s: read::seconds(node, "request_timeout_s"),
            max_constructor_retry_count: read::whole(node, "max_constructor_retry_count"),
            warm: WarmOptions::read(node),
        }
    }

    fn over(self, code: Self) -> Self {
        Self {
            is_pinned: self.is_pinned.or(code.is_pinned),
            priority: self.priority.or(code.priority),
            min_residency_s: self.min_residency_s.or(code.min_residency_s),
            is_automatic_rollback: self.is_automatic_rollback.or(code.is_automatic_rollback),
            startup_timeout_s: self.startup_timeout_s.or(code.startup_timeout_s),
            request_timeout_s: self.request_timeout_s.or(code.request_timeout_s),
            max_constructor_retry_count: self
                .max_constructor_retry_count
                .or(code.max_constructor_retry_count),
            warm: self.warm.over(&code.warm),
        }
    }
}

impl WarmOptions {
    /// Of a map `tyndall`.
    pub(super) fn read(node: &Node) -> Self {
        let names =
            |list: &Node| list.items().iter().filter_map(Node::text).map(str::to_owned).collect();
        Self {
            preload: node.get("preload").map(names),
            processes: read::whole(node, "warm_processes"),
        }
    }

    /// These where they are written, else those of `base`.
    #[must_use]
    pub fn over(&self, base: &Self) -> Self {
        let (over, base) = (self.clone(), base.clone());
        Self {
            preload: over.preload.or(base.preload),
            processes: over.processes.or(base.processes),
        }
    }

    /// With the defaults.
    #[must_use]
    pub fn to_pool(&self) -> WarmPool {
        let preload = self.preload.clone().unwrap_or_default();
        let processes = self.processes.unwrap_or_else(|| (!preload.is_empty()).into());
        WarmPool { processes, preload }
    }
}

/// Null is what the option is read as from nothing.
fn or_null<T>(node: &Node, name: &str, read: impl Fn(&Node) -> T) -> Option<T> {
    if read::is_null(node, name) {
        return Some(read(&node.beside(NodeValue::Null)));
    }
    node.get(name).map(read)
}

fn replica_count(node: &Node) -> ReplicaCount {
    node.number().map_or(ReplicaCount::Auto, |count| ReplicaCount::Fixed(count as u32))
}

fn request_router(node: &Node) -> RouterOption {
    let kwargs = node.get("request_router_kwargs");
    let class = match named(node) {
        Named::BuiltIn => return RouterOption::BuiltIn,
        Named::PrefixCache => return RouterOption::PrefixCache(prefix_affinity(kwargs)),
        Named::Python(class) => class,
    };
    let kwargs = match kwargs.map(Node::to_json) {
        Some(Value::Object(kwargs)) => kwargs,
        Some(_) | None => Default::default(),
    };
    let seconds = |name, default| read::seconds(node, name).unwrap_or(default);
    let default = RouterBackoff::default();
    RouterOption::Python(Box::new(PythonRouter {
        request_router_class: class.to_owned(),
        request_router_kwargs: kwargs,
        request_routing_stats_period_s: seconds("request_routing_stats_period_s", STATS_PERIOD_S),
        request_routing_stats_timeout_s: seconds(
            "request_routing_stats_timeout_s",
            STATS_TIMEOUT_S,
        ),
        backoff: RouterBackoff {
            initial_backoff_s: seconds("initial_backoff_s", default.initial_backoff_s),
            backoff_multiplier: read::number(node, "backoff_multiplier")
                .unwrap_or(default.backoff_multiplier),
            max_backoff_s: seconds("max_backoff_s", default.max_backoff_s),
        },
    }))
}

fn actors(node: &Node) -> Vec<DeploymentActor> {
    node.items().iter().map(actor).filter(|one| !is_capacity_queue(&one.actor_class)).collect()
}

fn actor(node: &Node) -> DeploymentActor {
    let text = |name| read::text(node, name).unwrap_or_default().to_owned();
    let args = node.get("init_args").map_or(&[][..], Node::items);
    let kwargs = node.get("init_kwargs").map_or(&[][..], Node::entries).iter();
    let kwargs = kwargs.map(|entry| (entry.name().to_owned(), entry.value.to_json()));
    let nothing = node.beside(NodeValue::Null);
    let given = node.get("actor_options").unwrap_or(&nothing);
    let options = ActorOptions::read(given);
    DeploymentActor {
        name: text("name"),
        actor_class: text("actor_class"),
        init_args: args.iter().map(Node::to_json).collect(),
        init_kwargs: kwargs.collect(),
        resources: Resources {
            num_cpus: options.num_cpus.unwrap_or(0.0),
            num_gpus: options.num_gpus.unwrap_or(0.0),
            memory_bytes: options.memory_bytes,
            custom: options.resources,
            max_replicas_per_node: None,
        },
        env_vars: options.env_vars,
        max_concurrency: read::whole(given, "max_concurrency"),
        max_pending_calls: read::number(given, "max_pending_calls")
            .filter(|number| *number > 0.0)
            .map(|number| number as u32),
    }
}

fn prefix_affinity(kwargs: Option<&Node>) -> PrefixAffinity {
    let default = PrefixAffinity::default();
    let number = |name| read::number(kwargs?, name);
    let max_bytes = number("eviction_threshold_chars").map(|bytes| bytes as usize);
    PrefixAffinity {
        imbalanced_threshold: number("imbalanced_threshold"),
        match_rate_threshold: number("match_rate_threshold")
            .unwrap_or(default.match_rate_threshold),
        max_bytes: max_bytes.unwrap_or(default.max_bytes),
    }
}

fn backpressure(node: &Node) -> Backpressure {
    let default = Backpressure::default();
    Backpressure {
        status_code: read::whole(node, "status_code")
            .and_then(|code| code.try_into().ok())
            .unwrap_or(default.status_code),
        retry_after_s: read::seconds(node, "retry_after_s"),
    }
}
