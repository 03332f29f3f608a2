//! Defaults as Ray's, and what is refused.

use super::*;
use serde_json::json;
use tyndall_types::ApplicationName;
use tyndall_types::protocol::{DeploymentConfig, ProgramConfig, Workload};

fn resolve(options: &DeploymentOptions) -> crate::Result<DeploymentConfig> {
    let program =
        ProgramConfig { executable: "/p".into(), deployment: "D".into(), init: json!({"a": 1}) };
    options.resolve(&ApplicationName::new("app").unwrap(), program)
}

fn options() -> DeploymentOptions {
    DeploymentOptions::new("D")
}

#[test]
fn defaults_are_rays() {
    let config = resolve(&options()).unwrap();
    assert_eq!(config.id.to_string(), "app#D");
    assert_eq!((config.num_replicas, config.max_ongoing_requests), (Some(1), 5));
    assert_eq!((config.max_queued_requests, config.backpressure.status_code), (NO_LIMIT, 503));
    assert_eq!(config.graceful_shutdown_timeout_s, 20.0);
    assert_eq!((config.health_check.period_s, config.health_check.timeout_s), (10.0, 30.0));
    assert_eq!(config.max_constructor_retry_count, 20);
    assert_eq!(config.rollout.rolling_update_percentage, 0.2);
    assert_eq!((config.resources.num_cpus, config.resources.num_gpus), (1.0, 0.0));
    assert_eq!(config.user_config, Value::Null);
    let Workload::Program(program) = &config.workload else { panic!("no program") };
    assert_eq!(program.init["a"], 1);
}

#[test]
fn auto_starts_from_its_own_defaults() {
    let auto = resolve(&options().num_replicas(NumReplicas::AUTO)).unwrap();
    let scaling = auto.autoscaling;
    assert_eq!((auto.num_replicas, scaling.min_replicas, scaling.max_replicas), (None, 1, 100));
    assert_eq!(scaling.target_ongoing_requests, 2.0);
    assert_eq!(scaling.downscale_to_zero_delay_s, 600.0);

    let own = AutoscalingOptions {
        min_replicas: Some(0),
        downscale_delay_s: Some(5.0),
        ..AutoscalingOptions::default()
    };
    let scaling = resolve(&options().num_replicas(NumReplicas::AUTO).autoscaling(own)).unwrap();
    let scaling = scaling.autoscaling;
    assert_eq!((scaling.min_replicas, scaling.max_replicas), (0, 100));
    assert_eq!(scaling.downscale_to_zero_delay_s, 5.0);
    assert_eq!(resolve(&options().autoscaling(own)).unwrap().autoscaling.max_replicas, 1);
}

#[test]
fn bad_options_name_cause_and_cure() {
    let scaling = |min, initial, max| AutoscalingOptions {
        min_replicas: min,
        initial_replicas: initial,
        max_replicas: max,
        ..AutoscalingOptions::default()
    };
    let bad = [
        (options().num_replicas(0), "larger than 0"),
        (options().num_replicas(2).autoscaling(scaling(None, None, None)), "not allowed"),
        (options().autoscaling(scaling(Some(3), None, Some(2))), "below min_replicas"),
        (options().autoscaling(scaling(Some(3), None, None)), "below min_replicas"),
        (options().autoscaling(scaling(Some(1), Some(5), Some(4))), "initial_replicas"),
        (options().autoscaling(scaling(None, None, Some(0))), "max_replicas"),
        (options().max_ongoing_requests(0), "max_ongoing_requests"),
        (options().max_queued_requests(0), "-1 for no bound"),
        (options().max_queued_requests(-2), "-1 for no bound"),
        (options().max_replicas_per_node(101), "1 to 100"),
        (options().health_check_period_s(0.0), "health_check_period_s"),
        (options().health_check_timeout_s(f64::NAN), "health_check_timeout_s"),
        (options().graceful_shutdown_timeout_s(-1.0), "graceful_shutdown_timeout_s"),
        (options().max_constructor_retry_count(0), "max_constructor_retry_count"),
        (options().rolling_update_percentage(0.0), "rolling_update_percentage"),
        (options().max_surge_percent(101), "max_surge_percent"),
        (
            options()
                .backpressure_config(BackpressureOptions { status_code: 500, retry_after_s: None }),
            "503 or 429",
        ),
        (
            options().ray_actor_options(ActorOptions {
                num_cpus: Some(-1.0),
                ..ActorOptions::default()
            }),
            "num_cpus",
        ),
        (options().name("a b"), "usable name"),
        (options().name("a#b"), "usable name"),
    ];
    for (options, expected) in bad {
        let error = resolve(&options).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.starts_with("deployment "), "{error}");
        assert_eq!(options.check().unwrap_err().to_string(), error);
    }
}

#[test]
fn only_what_was_set_is_written() {
    let set = options().num_replicas(NumReplicas::AUTO).user_config(json!({"k": 1}));
    let written = serde_json::to_value(&set).unwrap();
    assert_eq!(written, json!({"name": "D", "num_replicas": "auto", "user_config": {"k": 1}}));
    assert_eq!(serde_json::from_value::<DeploymentOptions>(written).unwrap(), set);
}
