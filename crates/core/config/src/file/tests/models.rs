//! Applications of models.

use super::*;
use serde_json::json;
use tyndall_types::protocol::{DeploymentConfig, Quantization};

/// The models of an application with these fields.
#[track_caller]
fn models(app: &str) -> Vec<ModelSpec> {
    match application(&format!("applications: [{{{app}}}]")).kind {
        ApplicationKind::Models(models) => models,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn deploy(app: &str) -> DeploymentConfig {
    let name = tyndall_types::ApplicationName::new("a").unwrap();
    models(app)[0].to_deployment(&name, ("/m".into(), Default::default()), None, None, None)
}

#[test]
fn all_ways_of_a_model_give_the_same() {
    let inside = "engine_kwargs: {max_model_len: 4k}, deployment_config: {max_ongoing_requests: 9}";
    let loading = "model_loading_config: {model_id: org/m, model_source: org/m}";
    let short = models(&format!("model: org/m, {inside}"));
    assert_eq!(short, models(&format!("model: {{{loading}, {inside}}}")));
    for builder in ["tyndall.llm:build_openai_app", "ray.serve.llm:build_openai_app"] {
        let args = format!("args: {{llm_configs: [{{{loading}, {inside}}}]}}");
        assert_eq!(short, models(&format!("import_path: '{builder}', {args}")));
    }
    assert_eq!(short[0].engine.max_model_len, Some(4000));
    assert_eq!(short[0].options.max_ongoing_requests, Some(9));
}

#[test]
fn what_is_not_written_of_a_model_is_as_tyndall_run_has_it() {
    let config = deploy("model: org/m");
    let run = crate::resolve(&crate::RawSettings::default(), &crate::Environment::default());
    let name = tyndall_types::DeploymentName::new("m").unwrap();
    let run = run.unwrap().deployment(name, "org/m".into(), "/m".into());
    assert_eq!(config.workload, run.workload);
    assert_eq!(config.max_ongoing_requests, run.max_ongoing_requests);
    assert_eq!(config.max_queued_requests, run.max_queued_requests);
    assert_eq!(config.request_timeout_s, run.request_timeout_s);
    assert_eq!(config.startup_timeout_s, run.startup_timeout_s);
    assert_eq!(config.graceful_shutdown_timeout_s, run.graceful_shutdown_timeout_s);
    assert_eq!(config.resources, Default::default(), "models leave the CPUs to each other");
    assert_eq!(config.id.to_string(), "a#LLMServer:org--m");
    assert_eq!(config.num_replicas, Some(1));
    let defaults = &schema()["$defs"]["LLMConfig.deployment_config"]["properties"];
    assert_eq!(defaults["max_ongoing_requests"]["default"], json!(config.max_ongoing_requests));
    let engine = &schema()["$defs"]["EngineArgs"]["properties"];
    let model = config.workload.model().unwrap();
    assert_eq!(engine["max_num_seqs"]["default"], json!(model.max_num_seqs));
    assert_eq!(engine["max_num_batched_tokens"]["default"], json!(model.max_num_batched_tokens));
}

#[test]
fn a_model_aims_at_half_of_what_it_has_at_a_time() {
    for (app, target) in [
        ("engine_kwargs: {}, deployment_config: {num_replicas: auto}", 32.0),
        ("engine_kwargs: {max_num_seqs: 8}, deployment_config: {autoscaling_config: {}}", 4.0),
        ("engine_kwargs: {max_num_seqs: 1}, deployment_config: {autoscaling_config: {}}", 1.0),
        ("deployment_config: {max_ongoing_requests: 6, num_replicas: auto}", 3.0),
        (
            "deployment_config: {autoscaling_config: {target_ongoing_requests: 1000000000}, \
          max_ongoing_requests: 1000000000}",
            1e9,
        ),
    ] {
        let config = deploy(&format!("model: m, {app}"));
        assert_eq!(config.autoscaling.target_ongoing_requests, target, "{app}");
        assert_eq!(config.num_replicas, None);
    }
}

#[test]
fn names_and_ids_of_models_are_usable() {
    for (model, id, name) in [
        ("demo", "demo", "LLMServer:demo"),
        ("./models/m.1/", "m.1", "LLMServer:m_1"),
        ("/m", "m", "LLMServer:m"),
        ("org/m:x", "org/m:x", "LLMServer:org--m:x"),
    ] {
        let found = models(&format!("model: '{model}'"));
        assert_eq!((found[0].model_id.as_str(), found[0].name.as_str()), (id, name));
        assert_eq!(found[0].source, model);
    }
    let named = models("model: m, deployment_config: {name: Mine}");
    assert_eq!(named[0].name.as_str(), "Mine");
    let long = "x".repeat(125);
    for (app, token, expected) in [
        ("model: a b".to_owned(), "a b", ".model: \"a b\" is not a name of 1 to 128".to_owned()),
        ("model: ..".to_owned(), "..", ".model: \"..\" is not a name".to_owned()),
        (
            format!("model: {long}"),
            &long[..],
            ".model: the name of its deployment, made".to_owned(),
        ),
        (
            "model: {model_loading_config: {model_id: a b}}".to_owned(),
            "a b",
            ".model.model_loading_config.model_id: \"a b\" is not a name".to_owned(),
        ),
        (
            "model: s3://bucket/m".to_owned(),
            "s3",
            ".model: models are not read from buckets".to_owned(),
        ),
        (
            "model: {model_loading_config: {model_id: m, model_source: {bucket_uri: x}}}"
                .to_owned(),
            "{bucket",
            ".model.model_loading_config.model_source: models are not read from buckets\n  help: \
             copy it"
                .to_owned(),
        ),
        (
            "model: {model_loading_config: {model_id: m, model_source: 'gs://b/m'}}".to_owned(),
            "'gs",
            ".model.model_loading_config.model_source: models are not read".to_owned(),
        ),
    ] {
        let text = format!("applications:\n- {{{app}}}");
        let found = problems(&text);
        let expected = format!("applications[0]{expected}");
        assert!(found.iter().any(|p| p.contains(&expected)), "{found:#?}\nhas no {expected}");
        assert!(text.contains(token));
    }
    let two = "model_loading_config: {model_id: a/b}}, {model_loading_config: {model_id: a--b}}";
    let text = format!(
        "applications:\n- {{import_path: tyndall.llm:build_openai_app, args: {{llm_configs: [{{{two}]}}}}"
    );
    let found = problems(&text);
    assert!(found[0].contains("has the same deployment, \"LLMServer:a--b\""), "{found:?}");
}

#[test]
fn variables_are_joined_and_the_nearest_wins() {
    let found = models(
        "runtime_env: {env_vars: {A: app, B: app, C: app}}, model: {model_loading_config: \
         {model_id: m}, runtime_env: {env_vars: {C: model}}, deployment_config: \
         {ray_actor_options: {runtime_env: {env_vars: {B: actor, C: actor}}}}}",
    );
    assert_eq!(json!(found[0].env_vars), json!({"A": "app", "B": "actor", "C": "model"}));
}

#[test]
fn a_replica_computes_on_the_cpus_that_it_is_given() {
    let config = deploy(
        "model: {model_loading_config: {model_id: m}, placement_group_config: {bundles: [{CPU: 2, \
         memory: 7}, {CPU: 1}]}, deployment_config: {ray_actor_options: {num_cpus: 0.5, memory: 3}}}",
    );
    assert_eq!(config.resources.num_cpus, 3.5);
    let model = config.workload.model().unwrap();
    assert_eq!((model.num_threads, model.memory_budget_bytes), (Some(4), Some(10)));
    let asked = "model: {model_loading_config: {model_id: m}, placement_group_config: \
                 {bundle_per_worker: {GPU: 1}}}";
    let text = format!("applications:\n- {{{asked}}}");
    assert_one(&text, "1}}", "applications[0].model.placement_group_config: GPUs have no effect");
    assert_eq!(deploy(asked).resources.num_gpus, 0.0);
    assert_one(
        "applications:\n- {model: {model_loading_config: {model_id: m}, placement_group_config: {}}}",
        "{}",
        "applications[0].model.placement_group_config: it has exactly one of",
    );
}

#[test]
fn what_the_caller_knows_comes_before_the_file() {
    let found = models("model: m, engine_kwargs: {max_model_len: 100, quantization: INT8}");
    let name = tyndall_types::ApplicationName::new("a").unwrap();
    let config = found[0].to_deployment(
        &name,
        ("/m".into(), Default::default()),
        Some(5),
        Some(50),
        Some(9.0),
    );
    let model = config.workload.model().unwrap();
    assert_eq!((model.memory_budget_bytes, model.max_model_len), (Some(5), Some(50)));
    assert_eq!(model.quantization, Quantization::Int8);
    assert_eq!(config.request_timeout_s, 9.0);
}

#[test]
fn deployments_of_models_are_overridden_by_name() {
    let found = models(
        "model: org/m, deployment_config: {max_ongoing_requests: 9, num_replicas: 2}, deployments: \
         [{name: 'LLMServer:org--m', num_replicas: 3}, {name: OpenAiIngress, num_replicas: 5}]",
    );
    assert_eq!(found[0].options.num_replicas, Some(ReplicaCount::Fixed(3)));
    assert_eq!(found[0].options.max_ongoing_requests, Some(9));
    assert_one(
        "applications:\n- {model: org/m, deployments: [{name: other}]}",
        "{name",
        "applications[0].deployments[0].name: there is no deployment \"other\"\n  help: it has \
         LLMServer:org--m",
    );
    assert_one(
        "applications:\n- {model: m, external_scaler_enabled: true, deployment_config: \
         {num_replicas: auto}}",
        "true",
        "applications[0].external_scaler_enabled: applications[0].deployment_config scales by load",
    );
}

#[test]
fn files_of_models_are_read_through_the_caller() {
    let text = "applications:\n- import_path: tyndall.llm:build_openai_app\n  args:\n    \
                llm_configs: [a.yaml, b.yaml]\n";
    let file = ConfigFile::parse(text).unwrap();
    assert!(file.is_valid());
    let problem = file.typed().unwrap_err();
    assert_eq!(problem.message, "files of models are not read here");
    let read = |b: &'static str| {
        move |path: &str| match path {
            "a.yaml" => Ok("model_loading_config: {model_id: a}".to_owned()),
            _ if b.is_empty() => Err("no such file".to_owned()),
            _ => Ok(b.to_owned()),
        }
    };
    let file =
        ConfigFile::parse_with(text, &mut read("model_loading_config:\n  model_id: b")).unwrap();
    let config = file.typed().unwrap();
    let ApplicationKind::Models(models) = &config.applications[0].kind else { panic!() };
    assert_eq!((models[0].model_id.as_str(), models[1].model_id.as_str()), ("a", "b"));
    let submitted = &config.applications[0].submitted["args"]["llm_configs"][1];
    assert_eq!(submitted["model_loading_config"]["model_id"], "b");
    for (b, expected) in [
        ("", "4:27: applications[0].args.llm_configs[1]: failed to read b.yaml: no such file"),
        ("model_loading_config:\n  modelid: b", "b.yaml:2:3: applications[0].args.llm_configs[1]."),
        ("[1, 2", "b.yaml:2:1: this is no YAML"),
        (
            "model_loading_config: {model_id: a}",
            "b.yaml:1:1: applications[0].args.llm_configs[1].model_id: ",
        ),
    ] {
        let file = ConfigFile::parse_with(text, &mut read(b)).unwrap();
        let found: Vec<String> = file.problems().iter().map(ToString::to_string).collect();
        assert!(found.iter().any(|p| p.starts_with(expected)), "{found:#?}\nhas no {expected}");
        assert!(file.typed().is_err());
    }
}
