//! Runs of the whole: what a control plane promises, over many seeds.

use crate::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tyndall_types::protocol::{
    ApplicationConfig, ApplicationSource, AutoscalingConfig, DeploymentConfig, HealthCheck,
    ProgramConfig, Residency, Resources, Workload,
};
use tyndall_types::{ApplicationName, DeploymentId, DeploymentName};

mod outcomes;
mod promises;
mod scale;

/// Ray's defaults of `num_replicas: auto`, but for the delays.
fn scaling(min_replicas: u32, max_replicas: u32) -> AutoscalingConfig {
    AutoscalingConfig {
        min_replicas,
        initial_replicas: None,
        max_replicas,
        target_ongoing_requests: 2.0,
        look_back_period_s: 10.0,
        aggregation_function: Default::default(),
        upscale_delay_s: 5.0,
        downscale_delay_s: 30.0,
        downscale_to_zero_delay_s: 30.0,
        upscaling_factor: 1.0,
        downscaling_factor: 1.0,
        policy: Default::default(),
        python_policy: None,
    }
}

fn deployment(name: &str, autoscaling: AutoscalingConfig) -> DeploymentConfig {
    DeploymentConfig {
        id: DeploymentId::single(DeploymentName::new(name).unwrap()),
        workload: Workload::Program(ProgramConfig {
            executable: "/simulated".into(),
            deployment: name.into(),
            init: serde_json::Value::Null,
            ..ProgramConfig::default()
        }),
        code_version: String::new(),
        num_replicas: None,
        autoscaling,
        max_ongoing_requests: 4,
        max_queued_requests: 1_000_000,
        backpressure: Default::default(),
        request_timeout_s: 3600.0,
        graceful_shutdown_timeout_s: 20.0,
        startup_timeout_s: 30.0,
        health_check: HealthCheck::default(),
        max_constructor_retry_count: 20,
        rollout: Default::default(),
        resources: Resources::default(),
        residency: Residency::default(),
        env_vars: BTreeMap::new(),
        user_config: serde_json::Value::Null,
        warm: Default::default(),
        deployment_actors: Vec::new(),
        request_router: None,
        gang_scheduling: None,
        prefix_affinity: None,
    }
}

fn application(deployments: Vec<DeploymentConfig>) -> ApplicationConfig {
    ApplicationConfig {
        name: ApplicationName::new(deployments[0].id.application.as_str()).unwrap(),
        route_prefix: None,
        source: ApplicationSource::Declarative,
        external_scaler_enabled: false,
        autoscaling_policy: None,
        submitted: Default::default(),
        deployments: deployments.into_iter().map(Arc::new).collect(),
    }
}

/// One application of each deployment.
fn sim(deployments: Vec<DeploymentConfig>) -> SimConfig {
    SimConfig::new(deployments.into_iter().map(|one| application(vec![one])).collect())
}

/// Runs under a generated load; deployments are called by their places.
fn run(config: SimConfig, trace: &str) -> Outcome {
    let find = |name: &str| Ok(name.parse().unwrap_or(0));
    let trace = Trace::generate(trace, config.seed, &find).unwrap();
    let outcome = Simulation::new(config).run(trace);
    assert_eq!(outcome.anomalies, [""; 0]);
    assert_eq!(outcome.totals.lost, 0, "{:?}", outcome.totals);
    outcome
}

/// Decisions of the autoscaler: when in seconds, from, to.
fn decisions(outcome: &Outcome, deployment: usize) -> Vec<(f64, u32, u32)> {
    let all = outcome.deployments[deployment].decisions.iter();
    all.filter(|one| one.why != "deployed")
        .map(|one| (one.time_ms as f64 / 1000.0, one.from, one.to))
        .collect()
}
