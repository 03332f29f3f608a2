//! Defaults as Ray's, and what is refused.

use super::*;
use serde_json::json;
use std::collections::BTreeMap;
use tyndall_config::file;
use tyndall_types::protocol::{
    Aggregation, DeploymentConfig, ProgramConfig, ScalingPolicy, Workload,
};
use tyndall_types::{ApplicationName, DeploymentId};

fn resolve(options: &DeploymentOptions) -> crate::Result<DeploymentConfig> {
    let program = ProgramConfig {
        executable: "/p".into(),
        deployment: "D".into(),
        init: json!({"a": 1}),
        ..ProgramConfig::default()
    };
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
    assert_eq!((config.max_queued_requests, config.backpressure.status_code), (1024, 503));
    assert_eq!(resolve(&options().max_queued_requests(-1)).unwrap().max_queued_requests, NO_LIMIT);
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

fn gangs_of(gang_size: u32) -> GangOptions {
    GangOptions { gang_size }
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
        (options().gang_scheduling_config(gangs_of(0)), "gang_size"),
        (options().gang_scheduling_config(gangs_of(2)), "num_replicas (1) must be a multiple"),
        (
            options().autoscaling(scaling(None, None, Some(5))).gang_scheduling_config(gangs_of(2)),
            "max_replicas (5) must be a multiple of gang_size (2)",
        ),
        (
            options().max_replicas_per_node(2).gang_scheduling_config(gangs_of(1)),
            "leave one of them out",
        ),
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

/// Every option there is, set but for what does not go with the others; a new one does not compile until
/// it is here.
fn all() -> DeploymentOptions {
    let autoscaling = AutoscalingOptions {
        min_replicas: Some(0),
        initial_replicas: Some(1),
        max_replicas: Some(3),
        target_ongoing_requests: Some(1.5),
        metrics_interval_s: Some(1.0),
        look_back_period_s: Some(2.0),
        upscale_delay_s: Some(3.0),
        downscale_delay_s: Some(4.0),
        downscale_to_zero_delay_s: Some(5.0),
        upscaling_factor: Some(0.5),
        downscaling_factor: Some(0.6),
        aggregation_function: Some(Aggregation::Max),
        policy: Some(ScalingPolicy::Tokens { target_tokens: 100.0, max_kv_use: 0.5 }),
    };
    let actor = ActorOptions {
        num_cpus: Some(0.5),
        num_gpus: Some(0.0),
        memory: Some(1 << 20),
        resources: BTreeMap::from([("disk".to_owned(), 1.0)]),
        runtime_env: Some(RuntimeEnv { env_vars: [("A".to_owned(), "b".to_owned())].into() }),
    };
    let set = Set {
        num_replicas: Some(NumReplicas::AUTO),
        autoscaling_config: Some(autoscaling),
        ray_actor_options: Some(actor),
        max_replicas_per_node: Some(7),
        gang_scheduling_config: None,
        user_config: Some(json!({"k": [1]})),
        max_ongoing_requests: Some(8),
        max_queued_requests: Some(9),
        backpressure_config: Some(BackpressureOptions {
            status_code: 429,
            retry_after_s: Some(1.5),
        }),
        graceful_shutdown_wait_loop_s: Some(1.0),
        graceful_shutdown_timeout_s: Some(10.0),
        health_check_period_s: Some(11.0),
        health_check_timeout_s: Some(12.0),
        rolling_update_percentage: Some(0.3),
        max_surge_percent: Some(13),
    };
    let tyndall = Own { max_constructor_retry_count: Some(14) };
    DeploymentOptions { name: "D".to_owned(), set, tyndall }
}

/// What the server makes of what a program says of itself.
fn served(options: &DeploymentOptions) -> DeploymentConfig {
    let written = serde_json::to_value(options).unwrap();
    let read = file::DeploymentOverride::from_json(&written)
        .unwrap_or_else(|problems| panic!("{written}: {problems:?}"));
    let text = "applications: [{name: app, program: /p}]";
    let application =
        file::ConfigFile::parse(text).unwrap().typed().unwrap().applications.remove(0);
    let id = DeploymentId { application: application.name.clone(), deployment: read.name };
    let program = ProgramConfig {
        executable: "/p".into(),
        deployment: "D".into(),
        init: json!({"a": 1}),
        ..ProgramConfig::default()
    };
    read.options.to_deployment(id, program, &application, None)
}

#[test]
fn a_config_file_understands_every_option() {
    let policies = [
        ScalingPolicy::OngoingRequests,
        ScalingPolicy::QueueLength { target_queued_requests: 2.0 },
        ScalingPolicy::TimeToFirstToken { target_s: 0.5, idle_threshold: 0.1 },
    ];
    let other = policies.map(|policy| {
        options().autoscaling(AutoscalingOptions { policy: Some(policy), ..Default::default() })
    });
    let gangs = options().num_replicas(4).gang_scheduling_config(gangs_of(2));
    for options in other.into_iter().chain([options(), all(), gangs]) {
        assert_eq!(served(&options), resolve(&options).unwrap());
        let written = serde_json::to_value(&options).unwrap();
        assert_eq!(serde_json::from_value::<DeploymentOptions>(written).unwrap(), options);
    }
}

/// Names and defaults of the options in a page's tables.
fn rows(page: &str) -> Vec<(&str, &str)> {
    page.lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split(" | ").collect();
            let name = cells.first()?.strip_prefix("| `")?.strip_suffix('`')?;
            // The default stands before the last column.
            Some((name, *cells.get(cells.len().checked_sub(2)?)?))
        })
        .collect()
}

#[test]
fn the_docs_have_every_option_with_its_default() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/rust.md");
    let docs = std::fs::read_to_string(path).unwrap();
    let (_, docs) = docs.split_once("<!-- options -->\n").unwrap();
    let told = rows(docs.split_once("<!-- end -->").unwrap().0);
    let table = file::table();
    let of = |title: &str| {
        let (_, rest) = table.split_once(&format!("### {title}\n")).unwrap();
        rows(rest.split("\n### ").next().unwrap())
    };
    let known = [of("DeploymentSchema"), of("AutoscalingConfig"), of("TyndallOptions")].concat();
    for row in &told {
        assert!(known.contains(row), "{row:?} is not in the tables of config files");
    }
    let written = serde_json::to_value(all()).unwrap();
    let deployment = written.as_object().unwrap();
    let nested = ["autoscaling_config", "tyndall"].map(|name| deployment[name].as_object());
    let names = nested.into_iter().flatten().chain([deployment]).flat_map(|map| map.keys());
    for name in names.filter(|name| !["name", "tyndall"].contains(&name.as_str())) {
        assert!(told.iter().any(|(known, _)| known == name), "docs/rust.md has no {name}");
    }
}
