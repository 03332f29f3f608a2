//! Request routers.

use super::*;
use serde_json::json;
use tyndall_types::protocol::{PrefixAffinity, RouterBackoff};

fn option(written: &str) -> Option<RouterOption> {
    let text =
        format!("applications: [{{import_path: m:app, deployments: [{{name: D{written}}}]}}]");
    match application(&text).kind {
        ApplicationKind::Python { overrides, .. } => overrides[0].options.request_router.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_class_in_python_has_rays_defaults_and_the_built_in_rule_its_names() {
    let Some(RouterOption::Python(router)) =
        option(", request_router_config: {request_router_class: m.routers.C}")
    else {
        panic!("it is in Python");
    };
    assert_eq!(router.request_router_class, "m.routers.C");
    let stats = (router.request_routing_stats_period_s, router.request_routing_stats_timeout_s);
    assert_eq!((stats, router.backoff), ((10.0, 30.0), RouterBackoff::default()));
    let Some(RouterOption::Python(router)) = option(
        ", request_router_config: {request_router_class: 'm:C', request_router_kwargs: {a: [1]}, \
         request_routing_stats_period_s: 0.5, request_routing_stats_timeout_s: 2, \
         initial_backoff_s: 1, backoff_multiplier: 3, max_backoff_s: 4}",
    ) else {
        panic!("it is in Python");
    };
    assert_eq!(json!(router.request_router_kwargs), json!({"a": [1]}));
    assert_eq!(router.request_routing_stats_period_s, 0.5);
    let backoff =
        RouterBackoff { initial_backoff_s: 1.0, backoff_multiplier: 3.0, max_backoff_s: 4.0 };
    assert_eq!(router.backoff, backoff);
    for built_in in [
        "ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter",
        "tyndall.serve.request_router.PowerOfTwoChoicesRequestRouter",
    ] {
        let written = format!(", request_router_config: {{request_router_class: '{built_in}'}}");
        assert_eq!(option(&written), Some(RouterOption::BuiltIn));
    }
    // Null takes back what code says.
    assert_eq!(option(", request_router_config: null"), Some(RouterOption::BuiltIn));
    assert_eq!(option(""), None);
}

#[test]
fn what_is_written_replaces_the_router_of_the_code_as_a_whole() {
    let read = |json: serde_json::Value| DeploymentOverride::from_json(&json).unwrap().options;
    let config = json!({"request_router_class": "m:C", "request_router_kwargs": {"a": 1}});
    let code = read(json!({"name": "D", "request_router_config": config}));
    let over = read(json!({"name": "D", "request_router_config": {"request_router_class": "m:E"}}));
    let Some(RouterOption::Python(router)) = over.over(&code).request_router else { panic!() };
    assert_eq!(router.request_router_class, "m:E");
    assert!(router.request_router_kwargs.is_empty());
    let nothing = read(json!({"name": "D"}));
    assert_eq!(nothing.over(&code).request_router, code.request_router);
}

#[test]
fn routers_are_for_code_in_python_and_the_built_in_rule_has_no_arguments() {
    let router = |name: &str| {
        format!(
            "deployments: [{{name: '{name}', request_router_config: {{request_router_class: 'm:C'}}}}]"
        )
    };
    let path = "applications[0].deployments[0].request_router_config.request_router_class";
    let said = "a request router in Python is for an application in Python\n  help: write \
                import_path: of one, or leave it out";
    for (way, name) in [("program: p", "D"), ("model: m", "LLMServer:m")] {
        let text = format!("applications:\n- {{{way}, {}}}", router(name));
        assert_one(&text, "'m:C'", &format!("{path}: {said}"));
    }
    let text = "applications:\n- {import_path: 'm:app', deployments: [{name: D, \
                request_router_config: {max_backoff_s: 1}}]}";
    let path = "applications[0].deployments[0].request_router_config.max_backoff_s";
    let said = "max_backoff_s has no effect: the built-in rule has no arguments, and gives a \
                request its replica as soon as one has room";
    assert_one(text, "max_backoff_s", &format!("{path}: {said}"));
    let text = "applications:\n- {import_path: 'm:app', deployments: [{name: D, \
                request_router_config: {request_router_class: 'm:C', backoff_multiplier: 0}}]}";
    let path = "applications[0].deployments[0].request_router_config.backoff_multiplier";
    assert_one(text, "0}", &format!("{path}: 0 is not a number above 0"));
}

#[test]
fn prompts_of_a_model_may_be_routed_by_their_beginnings() {
    let affinity = |router: &str| {
        let app = format!(
            "applications: [{{model: {{model_loading_config: {{model_id: m}}, deployment_config: \
             {{num_replicas: 2, request_router_config: {router}}}}}}}]"
        );
        let ApplicationKind::Models(models) = application(&app).kind else { panic!("{app}") };
        let name = tyndall_types::ApplicationName::new("a").unwrap();
        let place = ("/m".into(), Default::default());
        models[0].to_deployment(&name, place, None, None, None).prefix_affinity
    };
    let class = "request_router_class: 'ray.serve.llm.request_router:PrefixCacheAffinityRouter'";
    assert_eq!(affinity(&format!("{{{class}}}")), Some(PrefixAffinity::default()));
    let kwargs = "request_router_kwargs: {imbalanced_threshold: 4, match_rate_threshold: 0.5, \
                  eviction_threshold_chars: 1000}";
    let expected = PrefixAffinity {
        imbalanced_threshold: Some(4.0),
        match_rate_threshold: 0.5,
        max_bytes: 1000,
    };
    assert_eq!(affinity(&format!("{{{class}, {kwargs}}}")), Some(expected));
    assert_eq!(affinity("{}"), None);
    let with = |way: &str, router: &str| {
        format!(
            "applications:\n- {{{way}, deployments: [{{name: D, request_router_config: {router}}}]}}"
        )
    };
    let path = "applications[0].deployments[0].request_router_config.request_router_class";
    let said = "PrefixCacheAffinityRouter is for models\n  help: write it in the \
                deployment_config of a model, or leave it out";
    let text = with("import_path: 'm:app'", &format!("{{{class}}}"));
    assert_one(&text, "'ray.serve.llm", &format!("{path}: {said}"));
    let text = with("model: m", &format!("{{{class}, request_router_kwargs: {{rate: 1}}}}"));
    let text = text.replace("name: D", "name: 'LLMServer:m'");
    let path = "applications[0].deployments[0].request_router_config.request_router_kwargs.rate";
    assert_one(&text, "rate: 1", &format!("{path}: \"rate\" is no field"));
}

#[test]
fn what_models_do_not_look_at_is_told() {
    let of_model = |router: &str| {
        format!(
            "applications:\n- model:\n    model_loading_config: {{model_id: m}}\n    \
             deployment_config: {{request_router_config: {router}}}"
        )
    };
    let path = "applications[0].model.deployment_config.request_router_config";
    let said = "request_router_class is ignored: replicas of models are chosen by the proxy\n  \
                help: leave it out, or name";
    let text = of_model("{request_router_class: 'm:C'}");
    assert_one(&text, "'m:C'", &format!("{path}.request_router_class: {said}"));
    let said = "request_router_kwargs is ignored: the built-in rule has no arguments";
    let text = of_model("{request_router_kwargs: {match_rate_threshold: 0.3}}");
    assert_one(&text, "{match_rate", &format!("{path}.request_router_kwargs: {said}"));
    let text = of_model(
        "{request_router_class: ray.serve.llm.request_router.PrefixCacheAffinityRouter, \
         request_router_kwargs: {match_rate_threshold: 2}}",
    );
    let path = format!("{path}.request_router_kwargs.match_rate_threshold");
    assert_one(&text, "2}", &format!("{path}: 2 is not a number from 0 to 1"));
}
