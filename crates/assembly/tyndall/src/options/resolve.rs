//! What was set → what is carried out, or why not.

use super::{AutoscalingOptions, BackpressureOptions, DeploymentOptions, GangOptions, NumReplicas};
use crate::error::{Error, Result};
use serde_json::Value;
use tyndall_types::protocol::{
    AutoscalingConfig, Backpressure, DeploymentConfig, GangFailurePolicy, GangPlacementStrategy,
    GangScheduling, HealthCheck, ProgramConfig, Residency, Resources, Rollout, Workload,
};
use tyndall_types::{ApplicationName, DeploymentId, DeploymentName};

/// What `max_queued_requests` -1 becomes.
pub const NO_LIMIT: u32 = u32::MAX;

/// Ray has no bound, or no such option; these are the values of `tyndall run`.
const MAX_QUEUED_REQUESTS: u32 = 1024;
const REQUEST_TIMEOUT_S: f64 = 600.0;
const STARTUP_TIMEOUT_S: f64 = 600.0;

/// Replicas of `num_replicas` auto.
const AUTO_MAX_REPLICAS: u32 = 100;

impl DeploymentOptions {
    /// Every default filled in, for a replica that runs `program`.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] with the option, the cause and the cure.
    pub fn resolve(
        &self,
        application: &ApplicationName,
        program: ProgramConfig,
    ) -> Result<DeploymentConfig> {
        self.resolved(application, program).map_err(|error| match error {
            Error::InvalidOptions { message } => {
                Error::options(format!("deployment {:?}: {message}", self.name))
            }
            other => other,
        })
    }

    /// Checks all that can be checked without a program.
    pub(crate) fn check(&self) -> Result<()> {
        let program = ProgramConfig {
            executable: std::path::PathBuf::new(),
            deployment: self.name.clone(),
            init: Value::Null,
            ..ProgramConfig::default()
        };
        let application = ApplicationName::new("default").expect("the word is a usable name");
        self.resolve(&application, program).map(drop)
    }

    fn resolved(
        &self,
        application: &ApplicationName,
        program: ProgramConfig,
    ) -> Result<DeploymentConfig> {
        let set = &self.set;
        let deployment = DeploymentName::new(self.name.as_str())
            .map_err(|error| Error::options(error.to_string()))?;
        let (num_replicas, autoscaling) = self.replicas()?;
        if let Some(count) = set.max_replicas_per_node {
            check((1..=100).contains(&count), || {
                format!("max_replicas_per_node is {count}; use 1 to 100, or leave it out")
            })?;
        }
        let timeout = set.graceful_shutdown_timeout_s;
        at_least(0.0, "graceful_shutdown_wait_loop_s", set.graceful_shutdown_wait_loop_s, 2.0)?;
        Ok(DeploymentConfig {
            id: DeploymentId { application: application.clone(), deployment },
            workload: Workload::Program(program),
            code_version: String::new(),
            num_replicas,
            autoscaling,
            max_ongoing_requests: count("max_ongoing_requests", set.max_ongoing_requests, 5)?,
            max_queued_requests: max_queued(set.max_queued_requests)?,
            backpressure: backpressure(set.backpressure_config.unwrap_or_default())?,
            request_timeout_s: REQUEST_TIMEOUT_S,
            graceful_shutdown_timeout_s: at_least(
                0.0,
                "graceful_shutdown_timeout_s",
                timeout,
                20.0,
            )?,
            startup_timeout_s: STARTUP_TIMEOUT_S,
            health_check: HealthCheck {
                period_s: positive("health_check_period_s", set.health_check_period_s, 10.0)?,
                timeout_s: positive("health_check_timeout_s", set.health_check_timeout_s, 30.0)?,
            },
            max_constructor_retry_count: count(
                "max_constructor_retry_count",
                self.tyndall.max_constructor_retry_count,
                20,
            )?,
            rollout: self.rollout()?,
            resources: self.resources()?,
            residency: Residency::default(),
            env_vars: set
                .ray_actor_options
                .as_ref()
                .and_then(|actor| actor.runtime_env.clone())
                .map(|env| env.env_vars)
                .unwrap_or_default(),
            user_config: set.user_config.clone().unwrap_or(Value::Null),
            warm: Default::default(),
            deployment_actors: Vec::new(),
            request_router: None,
            gang_scheduling: self.gangs()?,
            prefix_affinity: None,
        })
    }

    fn replicas(&self) -> Result<(Option<u32>, AutoscalingConfig)> {
        let given = self.set.autoscaling_config;
        let fixed = match (self.set.num_replicas, given) {
            (Some(NumReplicas::Auto(_)), given) => {
                return Ok((None, given.unwrap_or_default().resolve(AUTO_MAX_REPLICAS)?));
            }
            (None, Some(given)) => return Ok((None, given.resolve(1)?)),
            (Some(NumReplicas::Fixed(_)), Some(_)) => {
                return Err(Error::options(
                    "Manually setting num_replicas is not allowed when autoscaling_config is \
                     provided. Leave num_replicas out, or make it auto",
                ));
            }
            (Some(NumReplicas::Fixed(count)), None) => count,
            (None, None) => 1,
        };
        check(fixed > 0, || {
            "num_replicas is expected to larger than 0; for none while idle set \
             autoscaling_config with min_replicas 0"
                .to_owned()
        })?;
        let bounds = AutoscalingOptions {
            min_replicas: Some(fixed),
            max_replicas: Some(fixed),
            ..AutoscalingOptions::default()
        };
        Ok((Some(fixed), bounds.resolve(fixed)?))
    }

    fn gangs(&self) -> Result<Option<GangScheduling>> {
        let Some(GangOptions { gang_size }) = self.set.gang_scheduling_config else {
            return Ok(None);
        };
        count("gang_size", Some(gang_size), 1)?;
        check(self.set.max_replicas_per_node.is_none(), || {
            "max_replicas_per_node does not go with gang_scheduling_config; leave one of them out"
                .to_owned()
        })?;
        let numbers = match (self.set.num_replicas, self.set.autoscaling_config) {
            (Some(NumReplicas::Fixed(count)), _) => vec![("num_replicas", Some(count))],
            (None, None) => vec![("num_replicas", Some(1))],
            // Defaults are rounded up.
            (_, scaling) => {
                let scaling = scaling.unwrap_or_default();
                vec![
                    ("min_replicas", scaling.min_replicas),
                    ("max_replicas", scaling.max_replicas),
                    ("initial_replicas", scaling.initial_replicas),
                ]
            }
        };
        let gang = GangScheduling {
            gang_size,
            gang_placement_strategy: GangPlacementStrategy::default(),
            runtime_failure_policy: GangFailurePolicy::default(),
        };
        gang.misfit(numbers).map_or(Ok(Some(gang)), |problem| Err(Error::options(problem)))
    }

    fn rollout(&self) -> Result<Rollout> {
        let share = self.set.rolling_update_percentage.unwrap_or(0.2);
        check(share > 0.0 && share <= 1.0, || {
            format!("rolling_update_percentage is {share}; use more than 0 and up to 1")
        })?;
        let surge = self.set.max_surge_percent.unwrap_or(0);
        check(surge <= 100, || format!("max_surge_percent is {surge}; use 0 to 100"))?;
        Ok(Rollout {
            rolling_update_percentage: share,
            max_surge_percent: surge,
            ..Rollout::default()
        })
    }

    fn resources(&self) -> Result<Resources> {
        let actor = self.set.ray_actor_options.clone().unwrap_or_default();
        for (name, amount) in &actor.resources {
            at_least(0.0, &format!("ray_actor_options.resources.{name}"), Some(*amount), 0.0)?;
        }
        Ok(Resources {
            num_cpus: at_least(0.0, "ray_actor_options.num_cpus", actor.num_cpus, 1.0)?,
            num_gpus: at_least(0.0, "ray_actor_options.num_gpus", actor.num_gpus, 0.0)?,
            memory_bytes: actor.memory,
            custom: actor.resources,
            max_replicas_per_node: self.set.max_replicas_per_node,
        })
    }
}

fn max_queued(given: Option<i64>) -> Result<u32> {
    match given {
        None => Ok(MAX_QUEUED_REQUESTS),
        Some(-1) => Ok(NO_LIMIT),
        Some(count) => u32::try_from(count).ok().filter(|count| *count > 0).ok_or_else(|| {
            Error::options(format!(
                "max_queued_requests is {count}; use at least 1, or -1 for no bound"
            ))
        }),
    }
}

fn backpressure(options: BackpressureOptions) -> Result<Backpressure> {
    let BackpressureOptions { status_code, retry_after_s } = options;
    check([503, 429].contains(&status_code), || {
        format!("backpressure_config.status_code is {status_code}; use 503 or 429")
    })?;
    at_least(0.0, "backpressure_config.retry_after_s", retry_after_s, 0.0)?;
    Ok(Backpressure { status_code, retry_after_s })
}

fn count(name: &str, given: Option<u32>, default: u32) -> Result<u32> {
    let value = given.unwrap_or(default);
    check(value > 0, || format!("{name} is 0; use at least 1, or leave it out for {default}"))?;
    Ok(value)
}

/// A finite number above 0.
pub(super) fn positive(name: &str, given: Option<f64>, default: f64) -> Result<f64> {
    let value = given.unwrap_or(default);
    check(value > 0.0 && value.is_finite(), || {
        format!("{name} is {value}; use a number above 0, or leave it out for {default}")
    })?;
    Ok(value)
}

/// A finite number, at least `least`.
pub(super) fn at_least(least: f64, name: &str, given: Option<f64>, default: f64) -> Result<f64> {
    let value = given.unwrap_or(default);
    check(value >= least && value.is_finite(), || {
        format!("{name} is {value}; use a number of at least {least}, or leave it out")
    })?;
    Ok(value)
}

/// An error with `message` unless it holds.
pub(super) fn check(holds: bool, message: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::options(message())) }
}
