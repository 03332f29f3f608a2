//! The ways by which an application says what is served.

use super::*;
use serde_json::json;
use tyndall_types::protocol::ApplicationPolicy;
use tyndall_types::protocol::ProgramConfig;

#[test]
fn a_file_of_several_applications_becomes_typed() {
    let text = r#"
http_options: {port: 8001, request_timeout_s: 30}
logging_config: {encoding: JSON, log_level: 30}
target_capacity: 50
applications:
- name: small
  route_prefix: /small
  model: org/m-1.5
  runtime_env: {env_vars: {A: "1"}}
- name: text
  route_prefix: null
  program: ./bin/text
  external_scaler_enabled: true
  args: {greeting: hello, nested: [1, null, {b: 2, a: 1}]}
  autoscaling_policy:
    policy_function: tyndall.policies:shared_budget
    policy_kwargs: {max_total_replicas: 6}
  deployments:
  - name: Upper
    num_replicas: 2
- import_path: text.main:app
"#;
    let file = ConfigFile::parse(text).unwrap();
    let config = file.typed().unwrap();
    assert_eq!(config.http.port, Some(8001));
    assert_eq!(config.http.request_timeout_s, Some(30.0));
    assert_eq!((config.http.host, config.http.keep_alive_timeout_s), (None, None));
    assert!(config.http.has_listener());
    assert_eq!(config.target_capacity, Some(50.0));
    assert_eq!(
        config.shared,
        json!({"logging_config": {"encoding": "JSON", "log_level": 30},
            "http_options": {"request_timeout_s": 30}})
    );
    let [small, text, python] = &config.applications[..] else { panic!() };
    let ApplicationKind::Models(models) = &small.kind else { panic!() };
    assert_eq!(models[0].name.as_str(), "LLMServer:org--m-1_5");
    assert_eq!(
        (models[0].model_id.as_str(), models[0].source.as_str()),
        ("org/m-1.5", "org/m-1.5")
    );
    let env_vars = json!({"A": "1", "TYNDALL_LOG": "warn", "TYNDALL_LOG_FORMAT": "json"});
    assert_eq!(json!(models[0].env_vars), env_vars);
    assert_eq!(small.code_version, json!(null));
    assert_eq!(
        small.submitted,
        json!({"name": "small", "route_prefix": "/small", "model": "org/m-1.5",
            "runtime_env": {"env_vars": {"A": "1"}}})
    );
    assert_eq!((text.name.as_str(), &text.route_prefix), ("text", &None));
    assert!(text.external_scaler_enabled);
    let budget = ApplicationPolicy::SharedBudget { max_total_replicas: 6 };
    assert_eq!(text.autoscaling_policy, Some(budget));
    assert_eq!(text.submitted["route_prefix"], json!(null));
    assert!(text.submitted.as_object().unwrap().contains_key("route_prefix"));
    let ApplicationKind::Program { executable, args, overrides } = &text.kind else { panic!() };
    assert_eq!((executable.as_str(), &args["greeting"]), ("./bin/text", &json!("hello")));
    assert_eq!(overrides[0].name.as_str(), "Upper");
    assert_eq!(overrides[0].options.num_replicas, Some(ReplicaCount::Fixed(2)));
    assert_eq!((python.name.as_str(), python.route_prefix.as_deref()), ("default", Some("/")));
    let ApplicationKind::Python { import_path, .. } = &python.kind else { panic!() };
    assert_eq!(import_path, "text.main:app");
}

/// What the nearest `logging_config` says, as a whole, reaches replicas as variables; variables that
/// are written win.
#[test]
fn logs_are_those_of_the_nearest_place() {
    let all_env = |file: &str, app: &str, deployment: &str| {
        let text = format!(
            "{file}\napplications: [{{program: ./p, {app} deployments: [{{name: D, {deployment}}}]}}]"
        );
        let app = application(&text);
        let ApplicationKind::Program { overrides, .. } = &app.kind else { panic!() };
        let program = ProgramConfig {
            executable: "/p".into(),
            deployment: "D".into(),
            init: json!(null),
            ..ProgramConfig::default()
        };
        let id = tyndall_types::DeploymentId::try_from("a#D".to_owned()).unwrap();
        json!(overrides[0].options.to_deployment(id, program, &app, None).env_vars)
    };
    let env = |file: &str, app: &str, deployment: &str| {
        let mut env = all_env(file, app, deployment);
        env.as_object_mut().unwrap().remove("TYNDALL_LOGGING_CONFIG");
        env
    };
    let file = "logging_config: {encoding: JSON, log_level: ERROR}";
    assert_eq!(env("", "", ""), json!({}));
    let whole = json!({"TYNDALL_LOG": "error", "TYNDALL_LOG_FORMAT": "json"});
    assert_eq!(env(file, "", ""), whole);
    let app = "logging_config: {log_level: CRITICAL},";
    assert_eq!(env(file, app, ""), json!({"TYNDALL_LOG": "error"}));
    let deployment = "logging_config: {log_level: 10, encoding: TEXT}";
    let own = json!({"TYNDALL_LOG": "debug", "TYNDALL_LOG_FORMAT": "text"});
    assert_eq!(env(file, app, deployment), own);
    let written = "ray_actor_options: {runtime_env: {env_vars: {TYNDALL_LOG: trace}}}";
    let both = json!({"TYNDALL_LOG": "trace", "TYNDALL_LOG_FORMAT": "json"});
    assert_eq!(env(file, "", written), both);
    // Python gets it by Ray's names, as it was written.
    let attributes = "logging_config: {enable_access_log: false, \
                      additional_log_standard_attrs: [name, thread], log_level: 50}";
    assert_eq!(
        all_env(file, app, attributes)["TYNDALL_LOGGING_CONFIG"],
        "{\"additional_log_standard_attrs\":[\"name\",\"thread\"],\
         \"enable_access_log\":false,\"log_level\":\"CRITICAL\"}"
    );
}

#[test]
fn the_code_version_is_what_restarts_replicas_in_one_order() {
    let version = |app: &str| {
        application(&format!("applications: [{{program: p, {app}}}]")).code_version.to_string()
    };
    let base = version("args: {a: 1, b: {d: 1, c: 2}}");
    assert_eq!(base, version("args: {b: {c: 2, d: 1}, a: 1}"));
    assert_eq!(base, version("args: {a: 1, b: {d: 1, c: 2}}, name: x, route_prefix: /x"));
    let light = "deployments: [{name: D, num_replicas: 3, user_config: {x: 1}}]";
    assert_eq!(base, version(&format!("args: {{a: 1, b: {{d: 1, c: 2}}}}, {light}")));
    for other in [
        "args: {a: 2, b: {d: 1, c: 2}}",
        "args: {a: 1, b: {d: 1, c: 2}}, runtime_env: {env_vars: {A: b}}",
        "args: {a: 1, b: {d: 1, c: 2}}, deployments: [{name: D, autoscaling_config: {policy: {}}}]",
    ] {
        assert_ne!(base, version(other), "{other}");
    }
}

#[test]
fn exactly_one_way_is_written_and_what_goes_with_it() {
    for (app, token, expected) in [
        ("name: a", "{name", ": nothing says what is served\n  help: write model:"),
        (
            "model: m, program: p",
            "p}",
            ".program: model and program exclude each other\n  help: keep one",
        ),
        ("import_path: a:b, model: m", "m}", ".model: import_path and model exclude each other"),
        (
            "model: m, args: {a: 1}",
            "{a: 1",
            ".args: a model takes no args\n  help: write engine_kw",
        ),
        (
            "program: p, engine_kwargs: {max_num_seqs: 1}",
            "{max_num",
            ".engine_kwargs: engine_kwargs stands beside `model:` and an id or path only\n  help: \
             write it inside of the model",
        ),
        (
            "model: {model_loading_config: {model_id: m}}, deployment_config: {num_replicas: 1}",
            "{num",
            ".deployment_config: deployment_config stands beside `model:` and an id or path \
             only\n  help: write it inside of model:",
        ),
        ("name: a b, program: p", "a b", ".name: \"a b\" is not a name of 1 to 128 letters"),
        ("name: a#b, program: p", "a#b", ".name: \"a#b\" is not a name of 1 to 128 letters"),
        (
            "program: p, deployments: [{name: a#b}]",
            "a#b",
            ".deployments[0].name: \"a#b\" is not a name",
        ),
        (
            "program: p, runtime_env: {env_vars: {A: 1}}",
            "{A",
            ".runtime_env.env_vars: {\"A\": 1} is not a map of texts",
        ),
        ("program: p, runtime_env: {env_vars: {A=B: x}}", "{A", ".runtime_env.env_vars: "),
        (
            "program: p, runtime_env: {pip: [x]}",
            "pip",
            ".runtime_env.pip: pip has no effect: nothing is installed",
        ),
    ] {
        let text = format!("applications:\n- {{{app}}}");
        assert_one(&text, token, &format!("applications[0]{expected}"));
    }
    assert_one("applications: []\nhttp_options: {host: a.org}", "a.org", "http_options.host: ");
}

#[test]
fn a_file_with_errors_has_no_types() {
    let file = ConfigFile::parse("applications: [{}]").unwrap();
    assert!(file.typed().unwrap_err().message.starts_with("nothing says"));
}
