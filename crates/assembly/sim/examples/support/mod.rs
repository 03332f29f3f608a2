//! What the examples deploy.

use std::collections::BTreeMap;
use std::sync::Arc;
use tyndall_types::protocol::{
    ApplicationConfig, ApplicationSource, AutoscalingConfig, DeploymentConfig, HealthCheck,
    ProgramConfig, Workload,
};
use tyndall_types::{ApplicationName, DeploymentId, DeploymentName};

/// An application of one deployment with at least so many replicas.
pub(crate) fn application(name: &str, replicas: u32) -> ApplicationConfig {
    let deployment = DeploymentConfig {
        id: DeploymentId::single(DeploymentName::new(name).expect("a name")),
        workload: Workload::Program(ProgramConfig {
            executable: "/simulated".into(),
            deployment: name.to_owned(),
            init: serde_json::Value::Null,
            ..ProgramConfig::default()
        }),
        code_version: String::new(),
        num_replicas: None,
        autoscaling: AutoscalingConfig {
            min_replicas: replicas,
            initial_replicas: None,
            max_replicas: replicas * 2,
            target_ongoing_requests: 2.0,
            look_back_period_s: 30.0,
            aggregation_function: Default::default(),
            upscale_delay_s: 30.0,
            downscale_delay_s: 600.0,
            downscale_to_zero_delay_s: 600.0,
            upscaling_factor: 1.0,
            downscaling_factor: 1.0,
            policy: Default::default(),
            python_policy: None,
        },
        max_ongoing_requests: 5,
        max_queued_requests: u32::MAX,
        backpressure: Default::default(),
        request_timeout_s: 600.0,
        graceful_shutdown_timeout_s: 20.0,
        startup_timeout_s: 60.0,
        health_check: HealthCheck::default(),
        max_constructor_retry_count: 20,
        rollout: Default::default(),
        resources: Default::default(),
        residency: Default::default(),
        env_vars: BTreeMap::new(),
        user_config: serde_json::Value::Null,
        warm: Default::default(),
        deployment_actors: Vec::new(),
        request_router: None,
        gang_scheduling: None,
        prefix_affinity: None,
    };
    ApplicationConfig {
        name: ApplicationName::new(name).expect("a name"),
        route_prefix: None,
        source: ApplicationSource::Declarative,
        external_scaler_enabled: false,
        autoscaling_policy: None,
        submitted: Default::default(),
        deployments: vec![Arc::new(deployment)],
    }
}
