//! Policies of autoscaling.

use super::*;
use tyndall_types::protocol::{ApplicationPolicy, PythonPolicy, ScalingPolicy};

#[track_caller]
fn policy(written: &str) -> Option<ScalingPolicy> {
    let config = format!("autoscaling_config: {{policy: {written}}}");
    let text = format!("applications: [{{model: m, deployment_config: {{{config}}}}}]");
    match application(&text).kind {
        ApplicationKind::Models(models) => match &models[0].options.autoscaling {
            Some(AutoscalingOption::On(options)) => options.policy,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn built_in_policies_are_typed() {
    let ttft =
        |target_s, idle_threshold| ScalingPolicy::TimeToFirstToken { target_s, idle_threshold };
    for (written, expected) in [
        ("{}", ScalingPolicy::OngoingRequests),
        ("{policy_function: tyndall.policies:ongoing_requests}", ScalingPolicy::OngoingRequests),
        (
            "{policy_function: ray.serve.autoscaling_policy.default_autoscaling_policy}",
            ScalingPolicy::OngoingRequests,
        ),
        (
            "{policy_function: tyndall.policies:queue_length, policy_kwargs: \
             {target_queued_requests: 2}}",
            ScalingPolicy::QueueLength { target_queued_requests: 2.0 },
        ),
        (
            "{policy_function: tyndall.policies:tokens, policy_kwargs: {target_tokens: 4000}}",
            ScalingPolicy::Tokens { target_tokens: 4000.0, max_kv_use: 0.9 },
        ),
        (
            "{policy_function: tyndall.policies.tokens, policy_kwargs: {target_tokens: 4000, \
             max_kv_use: 1}}",
            ScalingPolicy::Tokens { target_tokens: 4000.0, max_kv_use: 1.0 },
        ),
        ("{policy_function: tyndall.policies:time_to_first_token}", ttft(2.0, 1.0)),
        (
            "{policy_function: tyndall.policies:time_to_first_token, policy_kwargs: {target_s: \
             0.5, idle_threshold: 3}}",
            ttft(0.5, 3.0),
        ),
    ] {
        assert_eq!(policy(written), Some(expected), "{written}");
    }
}

#[test]
fn other_policies_and_arguments_are_told() {
    let in_python = "a policy in Python is for an application in Python\n  help: write import_path: of \
                     one, or name a built-in policy of tyndall.policies";
    let unknown = "there is no such policy\n  help: built in are tyndall.policies:";
    for (written, token, expected) in [
        (
            "{policy_function: my.module:policy}",
            "my.m",
            format!(".policy_function: {in_python}"),
        ),
        (
            "{policy_function: tyndall.policies.fastest}",
            "tyndall.p",
            format!(".policy_function: {unknown}ongoing_requests, tyndall.policies:queue_length"),
        ),
        (
            "{policy_function: tyndall.policies:shared_budget, policy_kwargs: {max_total_replicas: 2}}",
            "tyndall.p",
            ".policy_function: this policy is for an application".to_owned(),
        ),
        (
            "{policy_function: tyndall.policies:tokens}",
            "{policy_f",
            ".policy_kwargs: `target_tokens` is missing".to_owned(),
        ),
        (
            "{policy_function: tyndall.policies:queue_length, policy_kwargs: \
             {target_queued_requests: 0}}",
            "0}",
            ".policy_kwargs.target_queued_requests: 0 is not a number above 0".to_owned(),
        ),
        (
            "{policy_function: tyndall.policies:time_to_first_token, policy_kwargs: {target: 1}}",
            "target",
            ".policy_kwargs.target: \"target\" is no field of tyndall.policies:time_to_first_token\n  \
             help: did you mean target_s?"
                .to_owned(),
        ),
    ] {
        let config = format!("autoscaling_config: {{policy: {written}}}");
        let text = format!("applications:\n- {{model: m, deployment_config: {{{config}}}}}");
        let path = "applications[0].deployment_config.autoscaling_config.policy";
        assert_one(&text, token, &format!("{path}{expected}"));
    }
    for (written, token, expected) in [
        ("{policy_function: my:policy}", "my:p", in_python.to_owned()),
        ("{policy_function: tyndall.policies:all}", "tyndall.p", format!("{unknown}shared_budget")),
        ("{}", "{}}", "this policy is for one deployment, not for an application".to_owned()),
    ] {
        let text = format!("applications:\n- {{program: p, autoscaling_policy: {written}}}");
        let path = "applications[0].autoscaling_policy.policy_function";
        assert_one(&text, token, &format!("{path}: {expected}"));
    }
}

#[test]
fn policies_in_python_are_taken_where_the_application_is() {
    let path = "applications: [{import_path: m:app, autoscaling_policy: {policy_function: m:all}, \
                deployments: [{name: D, autoscaling_config: {max_replicas: 9, policy: \
                {policy_function: m.policies.Own, policy_kwargs: {limit: 3}}}}]}]";
    let application = application(path);
    let all = PythonPolicy { policy_function: "m:all".into(), ..PythonPolicy::default() };
    assert_eq!(application.autoscaling_policy, Some(ApplicationPolicy::Python(all)));
    let ApplicationKind::Python { overrides, .. } = &application.kind else {
        panic!("{application:?}");
    };
    let Some(AutoscalingOption::On(options)) = &overrides[0].options.autoscaling else {
        panic!("{overrides:?}");
    };
    let own = options.python_policy.as_ref().unwrap();
    assert_eq!((own.policy_function.as_str(), options.policy), ("m.policies.Own", None));
    assert_eq!(own.policy_kwargs["limit"], 3);
    let builder = "applications:\n- import_path: ray.serve.llm:build_openai_app\n  args: {llm_configs: \
                   [{model_loading_config: {model_id: m}}]}\n  autoscaling_policy: {policy_function: a:b}";
    assert_one(
        builder,
        "a:b",
        "applications[0].autoscaling_policy.policy_function: a policy in Python",
    );
}
