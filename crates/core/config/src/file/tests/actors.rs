//! Actors of deployments.

use super::*;
use serde_json::json;
use tyndall_types::protocol::{DeploymentActor, Resources};

const PATH: &str = "applications[0].deployments[0].deployment_actors";

/// A file with one deployment and these actors.
fn file(actors: &str) -> String {
    format!(
        "applications:\n- {{import_path: 'm:app', deployments: [{{name: D, deployment_actors: \
         {actors}}}]}}"
    )
}

fn read(actors: &str) -> Option<Vec<DeploymentActor>> {
    match application(&file(actors)).kind {
        ApplicationKind::Python { overrides, .. } => overrides[0].options.actors.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn actors_are_read_with_all_that_they_need() {
    let found = read(
        "[{name: a, actor_class: 'm:C', init_args: [1, {b: c}], init_kwargs: {d: [2]}, actor_options: \
         {num_cpus: 0.5, num_gpus: 1, memory: 7, resources: {disk: 2}, max_concurrency: 3, \
         max_pending_calls: 4, runtime_env: {env_vars: {E: f}}}}, {name: b, actor_class: m.C, \
         actor_options: {max_pending_calls: -1, num_cpus: null}}]",
    );
    let full = DeploymentActor {
        name: "a".into(),
        actor_class: "m:C".into(),
        init_args: vec![json!(1), json!({"b": "c"})],
        init_kwargs: json!({"d": [2]}).as_object().unwrap().clone(),
        resources: Resources {
            num_cpus: 0.5,
            num_gpus: 1.0,
            memory_bytes: Some(7),
            custom: [("disk".to_owned(), 2.0)].into(),
            max_replicas_per_node: None,
        },
        env_vars: [("E".to_owned(), "f".to_owned())].into(),
        max_concurrency: Some(3),
        max_pending_calls: Some(4),
    };
    let plain =
        DeploymentActor { name: "b".into(), actor_class: "m.C".into(), ..Default::default() };
    assert_eq!(found, Some(vec![full, plain]));
    // Null and none take back what code says.
    assert_eq!((read("null"), read("[]")), (Some(vec![]), Some(vec![])));
}

#[test]
fn what_is_written_replaces_the_actors_of_the_code_as_a_whole() {
    let read = |json: serde_json::Value| DeploymentOverride::from_json(&json).unwrap().options;
    let actor = |name: &str| json!({"name": name, "actor_class": "m:C"});
    let code = read(json!({"name": "D", "deployment_actors": [actor("a"), actor("b")]}));
    let over = read(json!({"name": "D", "deployment_actors": [actor("c")]}));
    let names = |options: &DeploymentOptions| -> Vec<String> {
        options.actors.iter().flatten().map(|actor| actor.name.clone()).collect()
    };
    assert_eq!(names(&over.over(&code)), ["c"]);
    assert_eq!(names(&read(json!({"name": "D"})).over(&code)), ["a", "b"]);
}

#[test]
fn the_tokens_of_a_router_need_no_actor() {
    for class in [
        "ray.serve.experimental.capacity_queue:CapacityQueue",
        "tyndall.serve.experimental.capacity_queue.CapacityQueue",
    ] {
        let queue =
            format!("[{{name: q, actor_class: '{class}', init_kwargs: {{token_ttl_s: 1}}}}]");
        let said = "CapacityQueue has no effect: CapacityQueueRouter keeps its tokens itself";
        assert_one(&file(&queue), "{name: q", &format!("{PATH}[0]: {said}"));
        assert_eq!(read(&queue), Some(vec![]));
    }
}

#[test]
fn what_cannot_be_carried_out_is_said() {
    let two = "[{name: a, actor_class: 'm:C'}, {name: a, actor_class: 'm:D'}]";
    let said = "two actors are called \"a\"\n  help: give each its own name";
    assert_one(&file(two), "{name: a, actor_class: 'm:D'", &format!("{PATH}[1]: {said}"));
    let with = |options: &str| {
        file(&format!("[{{name: a, actor_class: 'm:C', actor_options: {{{options}}}}}]"))
    };
    for (options, at, path, said) in [
        (
            "runtime_env: {env_vars: {RAY_SERVE_INTERNAL_DEPLOYMENT_NAME: x}}",
            "RAY_SERVE",
            ".runtime_env.env_vars",
            "RAY_SERVE_INTERNAL_DEPLOYMENT_NAME is the server's to set\n  help: leave it out",
        ),
        (
            "concurrency_groups: {io: 2}",
            "concurrency_groups",
            ".concurrency_groups",
            "concurrency_groups cannot be carried out\n  help: leave it out: all methods share \
             max_concurrency",
        ),
        (
            "max_restarts: 3",
            "max_restarts",
            ".max_restarts",
            "max_restarts has no effect: the server names it, starts it again, and ends it with its \
             deployment",
        ),
        (
            "max_concurrency: 0",
            "0}",
            ".max_concurrency",
            "0 is not a whole number from 1 on or null",
        ),
    ] {
        assert_one(&with(options), at, &format!("{PATH}[0].actor_options{path}: {said}"));
    }
    let text = "applications:\n- {program: p, deployments: [{name: D, deployment_actors: [{name: a, \
                actor_class: 'm:C'}]}]}";
    let said = "actors are for an application in Python\n  help: write import_path: of one, or leave \
                it out";
    assert_one(text, "[{name: a", &format!("{PATH}: {said}"));
}

#[test]
fn actors_are_code_of_replicas() {
    let version = |actors: serde_json::Value| {
        let described = json!({"deployments": [{"name": "D", "deployment_actors": actors}]});
        let program = DescribedProgram {
            executable: std::path::Path::new("/python"),
            launch: &|_| Launch { args: vec!["-m".to_owned()], working_dir: None },
            identity: json!(1),
            described: &described,
        };
        let spec = application("applications: [{import_path: m:app}]");
        let config = spec.deployments(&program, &[], None).unwrap().remove(0);
        (config.code_version, config.deployment_actors.len())
    };
    let actor = |class: &str| json!([{"name": "a", "actor_class": class}]);
    let none = version(json!([]));
    assert_eq!((none.1, version(actor("m:C")).1), (0, 1));
    assert_ne!(version(actor("m:C")), version(actor("m:D")));
    let queue = actor("ray.serve.experimental.capacity_queue:CapacityQueue");
    assert_eq!(version(queue), none);
}
