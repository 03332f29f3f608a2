//! Versions, rollbacks, events, usage, logs.

use crate::support::*;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tyndall_types::ApplicationStatus::Running;
use tyndall_types::protocol::*;

async fn roll_back(
    node: &Node,
    name: &str,
    body: &Value,
) -> Result<Value, tyndall_transport::ClientError> {
    node.admin.call(Method::POST, &format!("{OURS}{name}/rollback"), body).await
}

async fn kinds(node: &Node, query: &str) -> Vec<String> {
    let events = node.json(&format!("/api/tyndall/events{query}")).await;
    let kinds = events.as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap().to_owned());
    kinds.collect()
}

/// Deploys a version, and lets its replica take the place of the one before.
async fn rolled_out(node: &mut Node, code: &str) -> String {
    let (mut routes, mut table) = (node.routes().await, RouteTable::default());
    let mut config = resident("a", code);
    config.env_vars.insert("CODE".into(), code.into());
    let is_first = node.application("a").await.is_none();
    node.deploy(&config).await;
    let id = node.started_and_ready().await;
    until(&mut routes, &mut table, |table| routed(table) == [id.as_str()]).await;
    if !is_first {
        let old = node.stopped().await;
        node.supervisor.exit(&old, None);
    }
    node.until("a", Running).await;
    id
}

#[tokio::test]
async fn an_operator_goes_back_to_a_version() {
    let mut node = Node::start().await;
    for code in ["1", "2", "3"] {
        rolled_out(&mut node, code).await;
    }
    let versions = node.json(&format!("{OURS}a/versions")).await;
    let numbers: Vec<_> = versions.as_array().unwrap().iter().map(|v| &v["version"]).collect();
    assert_eq!(numbers, [3, 2, 1]);
    assert_eq!(versions[0]["is_proven"], true);
    assert_eq!(versions[2]["deployments"][0]["code_version"], "1");

    assert_eq!(roll_back(&node, "a", &json!({"version": 1})).await.unwrap(), json!({"version": 1}));
    let spec = node.started().await;
    assert_eq!(spec.env["CODE"], "1");
    node.ready(&spec.id).await;
    let old = node.stopped().await;
    node.supervisor.exit(&old, None);
    assert_eq!(node.until("a", Running).await.version, 4);
    let versions = node.json(&format!("{OURS}a/versions")).await;
    assert_eq!(versions[0]["note"], "back to version 1, as asked");
    // Without a number: the last that served and is another one.
    assert_eq!(roll_back(&node, "a", &Value::Null).await.unwrap(), json!({"version": 3}));
    assert_eq!(node.started().await.env["CODE"], "3");

    let (status, why) = refused(roll_back(&node, "a", &json!({"version": 9})).await);
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(why, "a: there is no version 9; its versions are 5, 4, 3, 2, 1");
    let (status, why) = refused(roll_back(&node, "b", &Value::Null).await);
    assert_eq!((status, why.as_str()), (StatusCode::NOT_FOUND, "no application b; there are: a"));
    let bad = refused(roll_back(&node, "a", &json!({"version": "x"})).await);
    assert_eq!(bad.0, StatusCode::BAD_REQUEST);
    let none = refused(node.admin.get::<Value>(&format!("{OURS}b/versions")).await);
    assert_eq!(none.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn nothing_older_served() {
    let mut node = Node::start().await;
    rolled_out(&mut node, "1").await;
    let (status, why) = refused(roll_back(&node, "a", &Value::Null).await);
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(why, "a: no older version of it ever served; its versions are 1");
}

#[tokio::test]
async fn a_version_that_cannot_be_rolled_out_is_taken_back() {
    let mut node = Node::start().await;
    let first = rolled_out(&mut node, "1").await;
    let mut bad = resident("a", "2");
    bad.max_constructor_retry_count = 1;
    node.deploy(&bad).await;
    let failed = node.started().await.id;
    node.fail(&failed, "no such weights").await;
    assert_eq!(node.stopped().await, failed);
    node.supervisor.exit(&failed, None);
    let details = node.until("a", Running).await;
    assert_eq!(details.version, 3);
    assert!(
        details.message.contains("version 2 was rolled back to version 1"),
        "{}",
        details.message
    );
    for _ in 0..2 {
        let versions = node.json(&format!("{OURS}a/versions")).await;
        assert_eq!(versions[0]["version"], 3);
        let note = versions[0]["note"].as_str().unwrap();
        assert!(note.starts_with("rolled back to version 1") && note.contains("weights"), "{note}");
        assert_eq!(versions[0]["deployments"], versions[2]["deployments"]);
        let events = kinds(&node, "?application=a").await;
        assert_eq!(events.iter().filter(|kind| *kind == "rolled_back").count(), 1, "{events:?}");
        node.restart().await;
        let details = node.until("a", Running).await;
        assert_eq!(details.version, 3);
        assert_eq!(details.deployments["a"].replicas[0].replica_id.as_str(), first);
    }
    assert!(node.asked.try_recv().is_err(), "nothing is started or stopped");
}

#[tokio::test]
async fn a_rolled_back_application_is_of_the_way_that_it_goes_back_to() {
    let mut node = Node::start().await;
    rolled_out(&mut node, "1").await;
    let mut bad = resident("a", "2");
    bad.max_constructor_retry_count = 1;
    node.builds_to(&application("a", vec![bad]));
    node.put(&file(&[("a", "2")])).await.unwrap();
    let failed = node.started().await.id;
    node.fail(&failed, "no such weights").await;
    assert_eq!(node.stopped().await, failed);
    node.supervisor.exit(&failed, None);
    assert_eq!(node.until("a", Running).await.source, "imperative");
    node.put(&file(&[])).await.unwrap();
    node.until("a", Running).await;
    assert!(node.asked.try_recv().is_err(), "no file had it");
}

#[tokio::test]
async fn events_and_usage_are_told() {
    let mut node = Node::start().await;
    let routes = node.routes().await;
    node.deploy(&config("a")).await;
    node.deploy(&config("b")).await;
    node.demand("a", 1).await;
    let id = node.started().await.id;
    node.ready(&id).await;
    let phases = ColdStartPhases(vec![("first_step".into(), 0.002)]);
    node.report(&id, &ReplicaReport::FirstToken { phases }).await.unwrap();
    node.demand("a", 0).await;
    assert_eq!(node.stopped().await, id);
    node.supervisor.exit(&id, None);
    while node.application("a").await.unwrap().deployments["a"].dead_replicas.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(kinds(&node, "?application=a").await, ["deployed", "scaled", "woke", "scaled"]);
    let all = node.json("/api/tyndall/events").await;
    assert_eq!(all.as_array().unwrap().len(), 5);
    let last = all[4]["id"].as_i64().unwrap();
    assert_eq!(all[4]["deployment"], "a");
    assert_eq!(kinds(&node, &format!("?after={}", last - 1)).await, ["scaled"]);
    assert_eq!(kinds(&node, "?limit=2&application=a").await, ["woke", "scaled"]);
    assert_eq!(kinds(&node, "?limit=x&after=x&application=%62").await, ["deployed"]);
    let usage = node.json("/api/tyndall/usage").await;
    assert_eq!((usage[0]["application"].as_str(), &usage[0]["wakes"]), (Some("a"), &1.into()));
    assert!(usage[0]["replica_seconds"].as_f64().unwrap() > 0.0);
    drop(routes);
    node.restart().await;
    assert_eq!(node.json("/api/tyndall/events").await.as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn the_log_is_read_from_its_end() {
    let node = Node::start().await;
    let none = refused(node.admin.get::<Value>("/api/tyndall/logs").await);
    assert_eq!(none.0, StatusCode::INTERNAL_SERVER_ERROR);
    std::fs::write(node.dir.path().join("node.log"), "one\ntwo\nthree\n").unwrap();
    let logs = node.json("/api/tyndall/logs?lines=2").await;
    assert_eq!(logs, json!({"text": "two\nthree\n", "offset": 14}));
    let logs = node.json("/api/tyndall/logs?offset=4").await;
    assert_eq!(logs, json!({"text": "two\nthree\n", "offset": 14}));
}
