//! Gangs, from the file and the code to what the controller gets.

use super::*;
use serde_json::json;
use std::path::Path;
use tyndall_types::protocol::{DeploymentConfig, GangPlacementStrategy};

/// What is run of code that says `code`, in a file that says `file` of it.
fn deploy(code: serde_json::Value, file: &str) -> Result<DeploymentConfig, String> {
    let text = format!("applications: [{{import_path: m:app, deployments: [{{name: D{file}}}]}}]");
    let app = application(&text);
    let ApplicationKind::Python { overrides, .. } = &app.kind else { panic!() };
    let launch = |paths: &CodePaths| PythonCode::ImportPath("m:app").launch(paths, &[]);
    let mut deployment = json!({"name": "D", "init": {"args": {}, "init": null}, "calls": []});
    for (name, value) in code.as_object().unwrap() {
        deployment[name] = value.clone();
    }
    let described = json!({"ingress": "D", "deployments": [deployment]});
    let program = DescribedProgram {
        executable: Path::new("/python"),
        launch: &launch,
        identity: serde_json::Value::Null,
        described: &described,
    };
    let deployed = app.deployments(&program, overrides, None);
    deployed.map(|mut all| all.remove(0)).map_err(|error| error.to_string())
}

#[test]
fn a_gang_is_what_is_written_with_rays_defaults() {
    let plain = deploy(json!({}), "").unwrap();
    assert_eq!((plain.gang_scheduling, plain.gang_size()), (None, 1));
    let written = ", num_replicas: 4, gang_scheduling_config: {gang_size: 2}";
    let config = deploy(json!({}), written).unwrap();
    assert_eq!((config.num_replicas, config.gang_size()), (Some(4), 2));
    let told = json!({
        "gang_size": 2, "gang_placement_strategy": "PACK", "runtime_failure_policy": "RESTART_GANG",
    });
    assert_eq!(json!(config.gang_scheduling), told);
    let spread = written.replace("size: 2", "size: 2, gang_placement_strategy: SPREAD");
    let other = deploy(json!({}), &spread).unwrap();
    let strategy = other.gang_scheduling.unwrap().gang_placement_strategy;
    assert_eq!(strategy, GangPlacementStrategy::Spread);
    // As in Ray, all of it is code: replicas are told of their gangs when they start.
    assert_ne!(config.code_version, other.code_version);
    assert!(!config.has_code_of(&other) && !config.has_code_of(&plain));
    assert!(config.has_code_of(&DeploymentConfig { num_replicas: Some(6), ..config.clone() }));
}

#[test]
fn a_file_replaces_the_gangs_of_the_code_and_both_must_fit() {
    let code = || json!({"num_replicas": 4, "gang_scheduling_config": {"gang_size": 2}});
    assert_eq!(deploy(code(), "").unwrap().gang_size(), 2);
    let four = deploy(code(), ", gang_scheduling_config: {gang_size: 4}").unwrap();
    assert_eq!(four.gang_size(), 4);
    let none = deploy(code(), ", gang_scheduling_config: null, num_replicas: 3").unwrap();
    assert_eq!((none.gang_size(), none.num_replicas), (1, Some(3)));
    let auto = "autoscaling_config: {min_replicas: 0, max_replicas: 6}";
    assert_eq!(deploy(code(), &format!(", num_replicas: auto, {auto}")).unwrap().gang_size(), 2);
    // Bounds that nobody wrote need not fit.
    assert!(deploy(code(), ", num_replicas: auto, autoscaling_config: {max_replicas: 4}").is_ok());
    for (file, expected) in [
        (", num_replicas: 3", "num_replicas (3) must be a multiple of gang_size (2)"),
        (", gang_scheduling_config: {gang_size: 3}", "num_replicas (4) must be a multiple of gang"),
        (", num_replicas: auto, autoscaling_config: {max_replicas: 5}", "max_replicas (5) must be"),
        (", max_replicas_per_node: 2", "max_replicas_per_node does not go with gang_scheduling"),
    ] {
        let message = deploy(code(), file).unwrap_err();
        assert!(message.contains("deployment \"D\": ") && message.contains(expected), "{message}");
        assert_eq!(message.lines().count(), 2, "a cause and a cure: {message}");
    }
    // One replica, where nothing is said of their number.
    let message = deploy(json!({"gang_scheduling_config": {"gang_size": 2}}), "").unwrap_err();
    assert!(message.contains("num_replicas (1) must be a multiple of gang_size (2)"), "{message}");
}

#[test]
fn what_does_not_go_with_gangs_is_told_with_its_place() {
    for (options, token, field, expected) in [
        (
            "gang_scheduling_config: {gang_size: 1}, max_replicas_per_node: 2",
            "2}",
            ".max_replicas_per_node",
            "it does not go with gang_scheduling_config\n  help: take one of them out",
        ),
        (
            "num_replicas: 3, gang_scheduling_config: {gang_size: 2}",
            "3, ",
            ".num_replicas",
            "3 is no multiple of gang_size, 2\n  help: choose a multiple",
        ),
        (
            "autoscaling_config: {max_replicas: 3}, gang_scheduling_config: {gang_size: 2}",
            "3}",
            ".autoscaling_config.max_replicas",
            "3 is no multiple of gang_size, 2",
        ),
        (
            "gang_scheduling_config: {gang_size: 1, runtime_failure_policy: RESTART_REPLICA}",
            "RESTART_REPLICA",
            ".gang_scheduling_config.runtime_failure_policy",
            "\"RESTART_REPLICA\" is not \"RESTART_GANG\"",
        ),
        ("gang_scheduling_config: {}", "{}", ".gang_scheduling_config", "`gang_size` is missing"),
    ] {
        let text =
            format!("applications:\n- import_path: a:b\n  deployments: [{{name: D, {options}}}]");
        assert_one(&text, token, &format!("applications[0].deployments[0]{field}: {expected}"));
    }
}

#[test]
fn models_have_no_gangs() {
    let text = "applications:\n- model: m\n  deployments: [{name: 'LLMServer:m', gang_scheduling_config: \
                {gang_size: 2}}]";
    let path = "applications[0].deployments[0].gang_scheduling_config";
    assert_one(text, "{gang_size", &format!("{path}: a model needs no gang"));
}
