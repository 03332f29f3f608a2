//! Options of deployments, from the file to what the controller gets.

use super::*;
use serde_json::json;
use tyndall_types::DeploymentId;
use tyndall_types::protocol::{Aggregation, DeploymentConfig, ProgramConfig};

/// The options of the only deployment in a program's application.
#[track_caller]
fn options(written: &str) -> DeploymentOptions {
    let text = format!("applications: [{{program: ./p, deployments: [{{name: D, {written}}}]}}]");
    match application(&text).kind {
        ApplicationKind::Program { mut overrides, .. } => overrides.remove(0).options,
        other => panic!("{other:?}"),
    }
}

pub(super) fn deploy(options: &DeploymentOptions) -> DeploymentConfig {
    let id = DeploymentId::try_from("a#D".to_owned()).unwrap();
    let program = ProgramConfig {
        executable: "/p".into(),
        deployment: "D".into(),
        init: json!(null),
        ..ProgramConfig::default()
    };
    let app = "applications: [{program: ./p, runtime_env: {env_vars: {A: app}}}]";
    options.to_deployment(id, program, &application(app), Some(7.0))
}

#[test]
fn what_is_not_written_is_as_the_tables_say() {
    let config = deploy(&DeploymentOptions::default());
    let default = |object: &'static str, name: &str| -> serde_json::Value {
        schema()["$defs"][object]["properties"][name]["default"].clone()
    };
    let number = |object, name| default(object, name).as_f64().unwrap();
    let of = |name| number("DeploymentSchema", name);
    assert_eq!(config.num_replicas, Some(1));
    assert_eq!(f64::from(config.max_ongoing_requests), of("max_ongoing_requests"));
    assert_eq!(f64::from(config.max_queued_requests), of("max_queued_requests"));
    assert_eq!(config.graceful_shutdown_timeout_s, of("graceful_shutdown_timeout_s"));
    assert_eq!(config.health_check.period_s, of("health_check_period_s"));
    assert_eq!(config.health_check.timeout_s, of("health_check_timeout_s"));
    assert_eq!(config.rollout.rolling_update_percentage, of("rolling_update_percentage"));
    assert_eq!(f64::from(config.rollout.max_surge_percent), of("max_surge_percent"));
    assert_eq!(config.resources.num_cpus, number("RayActorOptionsSchema", "num_cpus"));
    let of = |name| number("TyndallOptions", name);
    assert_eq!(config.startup_timeout_s, of("startup_timeout_s"));
    assert_eq!(f64::from(config.max_constructor_retry_count), of("max_constructor_retry_count"));
    assert_eq!(json!(config.residency.is_pinned), default("TyndallOptions", "pinned"));
    assert_eq!(f64::from(config.residency.priority), of("priority"));
    let is_back = config.rollout.is_automatic_rollback;
    assert_eq!(json!(is_back), default("TyndallOptions", "automatic_rollback"));
    let scaling = deploy(&options("autoscaling_config: {}")).autoscaling;
    let of = |name| number("AutoscalingConfig", name);
    assert_eq!(f64::from(scaling.min_replicas), of("min_replicas"));
    assert_eq!(f64::from(scaling.max_replicas), of("max_replicas"));
    assert_eq!(scaling.target_ongoing_requests, of("target_ongoing_requests"));
    assert_eq!(scaling.look_back_period_s, of("look_back_period_s"));
    assert_eq!(scaling.upscale_delay_s, of("upscale_delay_s"));
    assert_eq!(scaling.downscale_delay_s, of("downscale_delay_s"));
    assert_eq!(config.request_timeout_s, 7.0);
}

#[test]
fn numbers_of_replicas_follow_ray() {
    for (written, fixed, min, max, target) in [
        ("num_replicas: 3", Some(3), 3, 3, 2.0),
        ("num_replicas: null", Some(1), 1, 1, 2.0),
        ("num_replicas: auto", None, 1, 100, 2.0),
        ("num_replicas: auto, autoscaling_config: null", None, 1, 100, 2.0),
        ("num_replicas: auto, autoscaling_config: {min_replicas: 2}", None, 2, 100, 2.0),
        ("autoscaling_config: {max_replicas: 4, target_ongoing_requests: 1}", None, 1, 4, 1.0),
        ("autoscaling_config: {min_replicas: 0}", None, 0, 1, 2.0),
    ] {
        let config = deploy(&options(written));
        let scaling = config.autoscaling;
        assert_eq!(
            (config.num_replicas, scaling.min_replicas, scaling.max_replicas),
            (fixed, min, max),
            "{written}"
        );
        assert_eq!(scaling.target_ongoing_requests, target, "{written}");
    }
}

#[test]
fn autoscaling_falls_back_as_ray_does() {
    let scaling = |written: &str| {
        deploy(&options(&format!("max_ongoing_requests: 9, autoscaling_config: {{{written}}}")))
            .autoscaling
    };
    for (written, up, down) in [
        ("", 1.0, 1.0),
        ("smoothing_factor: 0.5", 0.5, 0.5),
        ("smoothing_factor: 0.5, upscale_smoothing_factor: 2", 2.0, 0.5),
        ("upscale_smoothing_factor: 2, upscaling_factor: 3, downscaling_factor: 0.1", 3.0, 0.1),
        ("upscaling_factor: null, smoothing_factor: 4", 4.0, 4.0),
    ] {
        let scaling = scaling(written);
        assert_eq!((scaling.upscaling_factor, scaling.downscaling_factor), (up, down), "{written}");
    }
    assert_eq!(scaling("downscale_delay_s: 5").downscale_to_zero_delay_s, 5.0);
    assert_eq!(
        scaling("downscale_delay_s: 5, downscale_to_zero_delay_s: 0").downscale_to_zero_delay_s,
        0.0
    );
    assert_eq!(scaling("aggregation_function: MAX").aggregation_function, Aggregation::Max);
    assert_eq!(scaling("look_back_period_s: 3").look_back_period_s, 3.0);
    assert_eq!(scaling("max_replicas: 3, initial_replicas: 2").initial_replicas, Some(2));
    assert_eq!(scaling("upscale_delay_s: 1e300").upscale_delay_s, 1e9, "all clocks count it");
}

#[test]
fn options_are_laid_over_those_of_code_by_rays_rules() {
    let check = |over: &str, code: &str, expected: (Option<u32>, u32, u32)| {
        let config = deploy(&options(over).over(&options(code)));
        let scaling = config.autoscaling;
        let found = (config.num_replicas, scaling.min_replicas, scaling.max_replicas);
        assert_eq!(found, expected, "{over} over {code}");
    };
    let scaled = "autoscaling_config: {min_replicas: 2, max_replicas: 5}";
    check("", scaled, (None, 2, 5));
    // Ray: a number does not remove autoscaling that is in the code, null does.
    check("num_replicas: 3", scaled, (None, 2, 5));
    check("num_replicas: 3", "num_replicas: auto", (None, 1, 100));
    check("autoscaling_config: null", scaled, (Some(1), 1, 1));
    check("autoscaling_config: null", "num_replicas: 4", (Some(4), 4, 4));
    check("autoscaling_config: null", "num_replicas: auto", (Some(1), 1, 1));
    // It is replaced as a whole, and `auto` keeps its values.
    check("autoscaling_config: {max_replicas: 7}", scaled, (None, 1, 7));
    check("autoscaling_config: {max_replicas: 7}", "num_replicas: auto", (None, 1, 7));
    check("num_replicas: auto", "autoscaling_config: {min_replicas: 0}", (None, 0, 100));
    check("autoscaling_config: {max_replicas: 7}", "num_replicas: 4", (None, 1, 7));
    let actor = "ray_actor_options: {num_cpus: 2, resources: {x: 1}, \
                 runtime_env: {env_vars: {A: code, B: code}}}";
    let over = options("ray_actor_options: {num_gpus: 1, runtime_env: {env_vars: {B: file}}}");
    let config = deploy(&over.over(&options(actor)));
    assert_eq!((config.resources.num_cpus, config.resources.num_gpus), (1.0, 1.0));
    assert!(config.resources.custom.is_empty());
    assert_eq!(json!(config.env_vars), json!({"A": "code", "B": "file"}));
    let own = options("tyndall: {pinned: true}").over(&options("tyndall: {priority: 3}"));
    assert_eq!((own.own.is_pinned, own.own.priority), (Some(true), Some(3)));
    assert_eq!(options("user_config: null").over(&options("user_config: 3")).user_config, {
        Some(json!(null))
    });
}

#[test]
fn every_option_reaches_the_deployment() {
    let config = deploy(&options(
        "max_ongoing_requests: 9, max_queued_requests: 4, user_config: {t: 0.5}, \
         backpressure_config: {status_code: 429, retry_after_s: 2}, graceful_shutdown_timeout_s: 1, \
         health_check_period_s: 2, health_check_timeout_s: 3, max_replicas_per_node: 2, \
         rolling_update_percentage: 0.5, max_surge_percent: 10, \
         ray_actor_options: {num_cpus: 0.5, memory: 1e9, resources: {x: 2}}, \
         tyndall: {pinned: true, priority: -1, min_residency_s: 5, automatic_rollback: false, \
         startup_timeout_s: 6, request_timeout_s: 8, max_constructor_retry_count: 2}",
    ));
    assert_eq!((config.max_ongoing_requests, config.max_queued_requests), (9, 4));
    assert_eq!(config.user_config, json!({"t": 0.5}));
    assert_eq!(
        (config.backpressure.status_code, config.backpressure.retry_after_s),
        (429, Some(2.0))
    );
    assert_eq!(config.graceful_shutdown_timeout_s, 1.0);
    assert_eq!((config.health_check.period_s, config.health_check.timeout_s), (2.0, 3.0));
    assert_eq!(config.resources.max_replicas_per_node, Some(2));
    assert_eq!(
        (config.resources.num_cpus, config.resources.memory_bytes),
        (0.5, Some(1_000_000_000))
    );
    assert_eq!(json!(config.resources.custom), json!({"x": 2.0}));
    assert_eq!(config.rollout.rolling_update_percentage, 0.5);
    assert_eq!(
        (config.rollout.max_surge_percent, config.rollout.is_automatic_rollback),
        (10, false)
    );
    assert!(config.residency.is_pinned);
    assert_eq!((config.residency.priority, config.residency.min_residency_s), (-1, 5.0));
    assert_eq!((config.startup_timeout_s, config.request_timeout_s), (6.0, 8.0));
    assert_eq!(config.max_constructor_retry_count, 2);
    assert_eq!(json!(config.env_vars), json!({"A": "app"}));
}

#[test]
fn a_queue_without_a_bound_has_the_largest() {
    assert_eq!(deploy(&options("max_queued_requests: -1")).max_queued_requests, u32::MAX);
    assert_eq!(deploy(&options("max_queued_requests: 1")).max_queued_requests, 1);
    assert_eq!(deploy(&options("")).max_queued_requests, 1024);
}

#[test]
fn bundles_are_summed() {
    let bundles = "placement_group_bundles: [{CPU: 1, GPU: 0.5}, {CPU: 2, memory: 10, x: 1, \
                   'accelerator_type:L4': 0.001}, {memory: 5, x: 2}]";
    let found = deploy(&options(&format!("{bundles}, ray_actor_options: {{num_cpus: 1}}")));
    assert_eq!((found.resources.num_cpus, found.resources.num_gpus), (3.0, 0.5));
    assert_eq!(found.resources.memory_bytes, Some(15));
    assert_eq!(json!(found.resources.custom), json!({"x": 3.0}));
    assert_eq!(deploy(&options("placement_group_bundles: []")).resources.num_cpus, 1.0);
}

#[test]
fn a_program_says_its_options_by_the_same_names() {
    let read = |json| DeploymentOverride::from_json(&json);
    let found = read(json!({"name": "D", "max_ongoing_requests": 3, "num_replicas": "auto"}));
    let found = found.unwrap();
    assert_eq!(found.name.as_str(), "D");
    assert_eq!(found.options, options("max_ongoing_requests: 3, num_replicas: auto"));
    for (bad, expected) in [
        (json!({"max_ongoing_requests": 3}), "`name` is missing"),
        (json!({"name": "D", "num_replicas": 0}), "num_replicas: 0 is not"),
        (json!({"name": "D", "num_replicas": 2, "autoscaling_config": {}}), "exclude each other"),
        (json!(3), "the file is 3"),
    ] {
        let problems = read(bad).unwrap_err();
        assert!(problems[0].to_string().contains(expected), "{problems:?}");
    }
}
