//! Options to what the controller is asked to run.

use super::deployment::{DeploymentOptions, RouterOption};
use super::{ApplicationSpec, LoggingOptions, read, scaling};
use std::collections::BTreeMap;
use tyndall_types::DeploymentId;
use tyndall_types::protocol::{
    DeploymentConfig, HealthCheck, ProgramConfig, Residency, Resources, Rollout, WarmPool, Workload,
};

const MAX_CONSTRUCTOR_RETRY_COUNT: u32 = 20;
/// Ray's defaults of deployments of code.
const MAX_ONGOING_REQUESTS: u32 = 5;
const TARGET_ONGOING_REQUESTS: f64 = 2.0;
const NUM_CPUS: f64 = 1.0;
/// In bundles, what a kind of GPU is asked for by.
const ACCELERATOR_PREFIX: &str = "accelerator_type:";

/// What differs between deployments of code and of models.
pub(super) struct Base<'a> {
    pub(super) max_ongoing_requests: u32,
    pub(super) target_ongoing_requests: f64,
    pub(super) resources: Resources,
    /// Of the application; those of the options win.
    pub(super) env_vars: &'a BTreeMap<String, String>,
    /// Of the application; those of the options win.
    pub(super) logging: Option<&'a LoggingOptions>,
    pub(super) http_request_timeout_s: Option<f64>,
}

impl DeploymentOptions {
    /// What the controller is asked to run for a deployment of a program: these options are all
    /// that holds for it, [laid over](DeploymentOptions::over) those of the program; `application`
    /// and `http_request_timeout_s`, which is the file's, say the rest.
    #[must_use]
    pub fn to_deployment(
        &self,
        id: DeploymentId,
        program: ProgramConfig,
        application: &ApplicationSpec,
        http_request_timeout_s: Option<f64>,
    ) -> DeploymentConfig {
        let base = Base {
            max_ongoing_requests: MAX_ONGOING_REQUESTS,
            target_ongoing_requests: TARGET_ONGOING_REQUESTS,
            resources: self.resources_of_code(),
            env_vars: &application.env_vars,
            logging: application.logging.as_ref(),
            http_request_timeout_s,
        };
        let request_router = match &self.request_router {
            Some(RouterOption::Python(router)) => Some(router.clone()),
            Some(RouterOption::BuiltIn | RouterOption::PrefixCache(_)) | None => None,
        };
        let config = self.resolve(id, Workload::Program(program), base);
        let deployment_actors = self.actors.clone().unwrap_or_default();
        DeploymentConfig { request_router, deployment_actors, ..config }
    }

    pub(super) fn resolve(
        &self,
        id: DeploymentId,
        workload: Workload,
        base: Base<'_>,
    ) -> DeploymentConfig {
        let (num_replicas, autoscaling) = scaling::resolve(
            self.num_replicas,
            self.autoscaling.as_ref(),
            base.target_ongoing_requests,
        );
        let own = &self.own;
        let request_timeout_s = own.request_timeout_s.or(base.http_request_timeout_s);
        let mut env_vars = base.env_vars.clone();
        env_vars.extend(self.actor.iter().flat_map(|actor| actor.env_vars.clone()));
        for (name, value) in
            self.logging.as_ref().or(base.logging).iter().flat_map(|l| l.program_env_vars())
        {
            env_vars.entry(name).or_insert(value);
        }
        DeploymentConfig {
            id,
            workload,
            code_version: String::new(),
            num_replicas,
            autoscaling,
            max_ongoing_requests: self.max_ongoing_requests.unwrap_or(base.max_ongoing_requests),
            max_queued_requests: self
                .max_queued_requests
                .unwrap_or_else(|| read::default_of("max_queued_requests")),
            backpressure: self.backpressure.unwrap_or_default(),
            request_timeout_s: request_timeout_s
                .unwrap_or_else(|| read::default_of("request_timeout")),
            graceful_shutdown_timeout_s: self
                .graceful_shutdown_timeout_s
                .unwrap_or_else(|| read::default_of("graceful_timeout")),
            startup_timeout_s: own
                .startup_timeout_s
                .unwrap_or_else(|| read::default_of("startup_timeout")),
            health_check: self.health_check(),
            max_constructor_retry_count: own
                .max_constructor_retry_count
                .unwrap_or(MAX_CONSTRUCTOR_RETRY_COUNT),
            rollout: self.rollout(),
            resources: Resources {
                max_replicas_per_node: self.max_replicas_per_node,
                ..base.resources
            },
            residency: Residency {
                is_pinned: own.is_pinned.unwrap_or(false),
                priority: own.priority.unwrap_or(0),
                min_residency_s: own.min_residency_s.unwrap_or(0.0),
            },
            env_vars,
            user_config: self.user_config.clone().unwrap_or_default(),
            warm: WarmPool::default(),
            deployment_actors: Vec::new(),
            request_router: None,
            gang_scheduling: self.gang_scheduling.flatten(),
            prefix_affinity: None,
        }
    }

    fn health_check(&self) -> HealthCheck {
        let default = HealthCheck::default();
        HealthCheck {
            period_s: self.health_check_period_s.unwrap_or(default.period_s),
            timeout_s: self.health_check_timeout_s.unwrap_or(default.timeout_s),
        }
    }

    fn rollout(&self) -> Rollout {
        let default = Rollout::default();
        Rollout {
            rolling_update_percentage: self
                .rolling_update_percentage
                .unwrap_or(default.rolling_update_percentage),
            max_surge_percent: self.max_surge_percent.unwrap_or(default.max_surge_percent),
            is_automatic_rollback: self
                .own
                .is_automatic_rollback
                .unwrap_or(default.is_automatic_rollback),
        }
    }

    /// A replica of code runs in the first bundle: with bundles, their sum is all that it takes.
    fn resources_of_code(&self) -> Resources {
        match self.bundles.as_deref() {
            Some([_, ..]) => self.bundles(),
            _ => {
                let default = Resources { num_cpus: NUM_CPUS, ..Resources::default() };
                self.with_actor(default)
            }
        }
    }

    /// A model's replica takes what its options say beside the bundles of its engine, and nothing
    /// that is not written: models that are not asked leave the CPUs to each other.
    pub(super) fn resources_of_model(&self) -> Resources {
        let bundles = self.bundles();
        let actor = self.with_actor(Resources::default());
        let memory = [bundles.memory_bytes, actor.memory_bytes].into_iter().flatten();
        let mut custom = bundles.custom;
        for (name, amount) in actor.custom {
            *custom.entry(name).or_default() += amount;
        }
        Resources {
            num_cpus: bundles.num_cpus + actor.num_cpus,
            num_gpus: 0.0,
            memory_bytes: memory.reduce(u64::saturating_add),
            custom,
            max_replicas_per_node: None,
        }
    }

    fn with_actor(&self, default: Resources) -> Resources {
        let Some(actor) = &self.actor else { return default };
        Resources {
            num_cpus: actor.num_cpus.unwrap_or(default.num_cpus),
            num_gpus: actor.num_gpus.unwrap_or(default.num_gpus),
            memory_bytes: actor.memory_bytes,
            custom: actor.resources.clone(),
            max_replicas_per_node: None,
        }
    }

    /// The sum of the bundles, by Ray's names.
    fn bundles(&self) -> Resources {
        let mut sum = Resources::default();
        for (name, amount) in self.bundles.iter().flatten().flatten() {
            match name.as_str() {
                "CPU" => sum.num_cpus += amount,
                "GPU" => sum.num_gpus += amount,
                "memory" => {
                    let bytes = sum.memory_bytes.unwrap_or(0);
                    sum.memory_bytes = Some(bytes.saturating_add(*amount as u64));
                }
                other if other.starts_with(ACCELERATOR_PREFIX) => {}
                other => *sum.custom.entry(other.to_owned()).or_default() += amount,
            }
        }
        sum
    }
}
