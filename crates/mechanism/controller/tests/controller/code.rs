//! Applications that bring their code.

use crate::support::*;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::path::PathBuf;
use tyndall_transport::ClientError;
use tyndall_types::ApplicationStatus::{DeployFailed, Running};
use tyndall_types::DeploymentName;

/// What `serve.run` sends of an application of one deployment: "one" and "two" are its pickles.
fn submission(code: &str) -> Value {
    json!({
        "application": {"route_prefix": "/x", "runtime_env": {"working_dir": "/src"}},
        "described": {"ingress": "D", "deployments": [
            {"name": "D", "max_ongoing_requests": 7, "init": {"args": {}, "init": null}, "calls": []},
        ]},
        "python": "/venv/bin/python",
        "sys_path": ["/src"],
        "code": code,
    })
}

const ONE: &str = "b25l";
const TWO: &str = "dHdv";

/// Answers the version.
async fn put(node: &Node, body: &Value) -> Result<u64, ClientError> {
    let answer: Value = node.admin.call(Method::PUT, &format!("{OURS}app"), body).await?;
    Ok(answer["version"].as_u64().unwrap())
}

/// The pickles that are kept.
fn kept(node: &Node) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(node.dir.path().join("state/code")).unwrap();
    entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
}

#[tokio::test]
async fn one_application_brings_its_code_and_others_stay() {
    let mut node = Node::start().await;
    node.builds_to(&application("other", vec![resident("other", "1")]));
    node.put(&file(&[("other", "1")])).await.unwrap();
    node.started_and_ready().await;
    assert_eq!(put(&node, &submission(ONE)).await.unwrap(), 1);
    let first = node.started().await;
    assert_eq!(first.executable, Some("/venv/bin/python".into()));
    assert_eq!(first.working_dir, Some("/src".into()));
    let at = first.args.iter().position(|arg| arg == "--code").unwrap();
    let code = PathBuf::from(&first.args[at + 1]);
    assert_eq!(std::fs::read(&code).unwrap(), b"one");
    assert!(code.starts_with(node.dir.path().join("state/code")), "{}", code.display());
    assert_eq!(first.args[..2], ["-m", "tyndall._program"]);
    assert_eq!(first.args[at + 2..at + 6], ["--path", "/src", "role", "replica"]);
    node.ready(&first.id).await;
    let details = node.until("app", Running).await;
    assert_eq!(
        (details.source.as_str(), details.route_prefix.as_deref()),
        ("imperative", Some("/x"))
    );
    assert_eq!(details.deployments["D"].config.as_ref().unwrap().max_ongoing_requests, 7);
    node.until("other", Running).await;

    // The very same again is a new version, and one with other code lets the first go.
    put(&node, &submission(ONE)).await.unwrap();
    let again = node.started_and_ready().await;
    assert_ne!(again, first.id);
    assert_eq!(node.stopped().await, first.id);
    node.supervisor.exit(&first.id, None);
    assert_eq!(kept(&node), [b"one"]);
    assert_eq!(put(&node, &submission(TWO)).await.unwrap(), 3);
    assert_eq!(kept(&node).len(), 2, "the first may still be gone back to");
    node.started_and_ready().await;
    let old = node.stopped().await;
    node.supervisor.exit(&old, None);
    node.until("app", Running).await;
    assert_eq!(kept(&node), [b"two"]);
    let (path, first) = (format!("{OURS}app/rollback"), json!({"version": 1}));
    let (status, why) = refused(node.admin.tell(Method::POST, &path, &first).await);
    assert_eq!(status, StatusCode::GONE);
    assert!(why.contains("the code of this version of app is not kept"), "{why}");

    node.restart().await;
    node.until("app", Running).await;
    assert_eq!(kept(&node), [b"two"]);
    // A config file knows nothing of it, and leaves it alone.
    node.put(&file(&[])).await.unwrap();
    node.until("app", Running).await;
    node.admin.tell(Method::DELETE, &format!("{OURS}app"), &()).await.unwrap();
    assert!(kept(&node).is_empty());
}

#[tokio::test]
async fn programs_of_the_machine_are_told_where_its_node_is() {
    let node = Node::start().await;
    let told = node.json("/api/tyndall/node").await;
    let expected = json!({
        "url": "http://127.0.0.1:8000", "runtime_dir": node.dir.path(), "processes": [],
    });
    assert_eq!(told, expected);
}

#[tokio::test]
async fn what_cannot_be_carried_out_leaves_nothing() {
    let node = Node::start().await;
    let with = |pointer: &str, value: Value| {
        let mut body = submission(ONE);
        match pointer.rsplit_once('/').unwrap() {
            ("", key) => body[key] = value,
            (parent, key) => body.pointer_mut(parent).unwrap()[key] = value,
        }
        body
    };
    for (body, expected) in [
        (with("/code", json!("?")), "code is no base64"),
        (with("/code", json!("")), "code is empty"),
        (with("/more", json!(1)), "unknown field `more`"),
        (with("/described", json!({})), "application app: it has no deployment"),
        (
            with("/described/deployments", json!([{"name": "D", "num_replicas": -1}])),
            "num_replicas",
        ),
        (
            with("/application/route_prefix", json!("x")),
            "application app: route_prefix: \"x\" is not",
        ),
        (with("/application/model", json!("demo")), "exclude each other"),
        (
            with("/application/runtime_env", json!({"working_dir": "https://e.org/a.zip"})),
            "is not on this machine, and nothing is fetched\n  help: ",
        ),
    ] {
        let (status, why) = refused(put(&node, &body).await);
        assert_eq!(status, StatusCode::BAD_REQUEST, "{why}");
        assert!(why.contains(expected), "{why}");
    }
    put(&node, &submission(ONE)).await.unwrap();
    let mut same_place = submission(TWO);
    same_place["application"]["route_prefix"] = json!("/x");
    let other = node.admin.tell(Method::PUT, &format!("{OURS}other"), &same_place).await;
    let (status, why) = refused(other);
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(
        why,
        "Prefix /x is being used by application \"app\". Failed to deploy application \"other\"."
    );
    assert_eq!(kept(&node), [b"one"]);
}

#[tokio::test]
async fn code_is_not_taken_from_pages_or_without_the_token() {
    let node = Node::with_token(Some("secret")).await;
    let (status, _) = refused(put(&node, &submission(ONE)).await);
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    node.admin
        .clone()
        .with_token("secret")
        .tell(Method::PUT, &format!("{OURS}app"), &submission(ONE))
        .await
        .unwrap();
    assert_eq!(kept(&node), [b"one"]);
}

#[tokio::test]
async fn models_are_built_without_code_and_belong_to_no_file() {
    let mut node = Node::start().await;
    let mut built = application("app", vec![resident("app", "1")]);
    built.route_prefix = Some("/x".to_owned());
    node.builds_to(&built);
    let path = format!("{OURS}app");
    let models = json!({"application": {"route_prefix": "/x", "model": "demo"}});
    node.admin.tell(Method::PUT, &path, &models).await.unwrap();
    node.started_and_ready().await;
    let details = node.until("app", Running).await;
    assert_eq!(details.source.as_str(), "imperative");
    assert!(!node.dir.path().join("state/code").exists());
    node.put(&file(&[])).await.unwrap();
    node.until("app", Running).await;

    for (body, expected) in [
        (json!({"application": {"import_path": "a:b"}}), "without code is one of models"),
        (json!({"application": {"model": "demo", "nothing": 1}}), "nothing"),
    ] {
        let (status, why) = refused(node.admin.tell(Method::PUT, &path, &body).await);
        assert_eq!(status, StatusCode::BAD_REQUEST, "{why}");
        assert!(why.contains(expected), "{why}");
    }
}

#[tokio::test]
async fn code_with_models_is_deployed_with_them_when_they_are_built() {
    let mut node = Node::start().await;
    let model = |code_version: &str| {
        let mut model = resident("app", code_version);
        model.id.deployment = DeploymentName::new("LLM").unwrap();
        application("app", vec![model])
    };
    let mut body = submission(ONE);
    body["described"]["deployments"][0]["calls"] = json!(["LLM"]);
    let described = json!({"name": "LLM", "model": source_of("m"), "calls": []});
    body["described"]["deployments"].as_array_mut().unwrap().push(described);
    let path = format!("{OURS}app");
    let put = async |node: &Node, body: &Value| -> Result<Value, ClientError> {
        node.admin.call(Method::PUT, &path, body).await
    };

    node.builds_to(&model("1"));
    assert_eq!(put(&node, &body).await.unwrap(), json!({}));
    node.started_and_ready().await;
    node.started_and_ready().await;
    let details = node.until("app", Running).await;
    assert_eq!((details.version, details.ingress.as_deref()), (1, Some("D")));
    assert_eq!(details.deployments["LLM"].model_id.as_deref(), Some("app"));
    assert_eq!(kept(&node), [b"one"]);

    // Models that cannot be: what runs stays, and nothing is left of the code.
    let mut wrong = body.clone();
    wrong["code"] = json!(TWO);
    wrong["described"]["deployments"][1]["model"]["engine_kwargs"] = json!({"nonsense": 1});
    let (status, why) = refused(put(&node, &wrong).await);
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(why.contains("engine_kwargs.nonsense"), "{why}");
    std::fs::write(node.builder("app", "fail"), "there is no such model\n").unwrap();
    wrong["described"]["deployments"][1]["model"] = source_of("m");
    put(&node, &wrong).await.unwrap();
    let details = node.until("app", DeployFailed).await;
    assert_eq!((details.version, details.deployments.len()), (1, 2));
    assert_eq!(kept(&node), [b"one"]);
    node.admin.tell(Method::DELETE, &path, &()).await.unwrap();
    assert!(kept(&node).is_empty());
}

fn source_of(id: &str) -> Value {
    json!({"model_loading_config": {"model_id": id, "model_source": "demo"}})
}
