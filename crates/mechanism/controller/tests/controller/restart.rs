//! A controller is killed at some point and another one goes on from there.

use crate::support::*;
use http::{Method, StatusCode};
use tyndall_controller::ControllerError;
use tyndall_types::ApplicationStatus::{Deploying, Running};
use tyndall_types::protocol::*;

fn pids(details: &ApplicationDetails) -> Vec<(String, Option<u32>)> {
    let replicas = details.deployments.values().flat_map(|deployment| &deployment.replicas);
    replicas.map(|replica| (replica.replica_id.to_string(), replica.pid)).collect()
}

#[tokio::test]
async fn a_submission_that_was_not_built_is_built() {
    let mut node = Node::start().await;
    node.builds_to(&application("a", vec![resident("a", "1")]));
    std::fs::write(node.builder("a", "wait"), "").unwrap();
    node.put(&file(&[("a", "1")])).await.unwrap();
    node.until_built(1).await;
    node.kill().await;
    std::fs::remove_file(node.builder("a", "wait")).unwrap();
    node.revive().await;
    node.started_and_ready().await;
    let details = node.until("a", Running).await;
    assert_eq!((details.source.as_str(), details.version), ("declarative", 1));
    assert_eq!(node.built(), ["a", "a"]);
    // Nor is what it would replace forgotten.
    node.put(&file(&[])).await.unwrap();
    node.stopped().await;
}

#[tokio::test]
async fn what_serves_is_adopted_while_the_next_version_is_built() {
    let mut node = Node::start().await;
    node.builds_to(&application("a", vec![resident("a", "1")]));
    node.put(&file(&[("a", "1")])).await.unwrap();
    let first = node.started_and_ready().await;
    let before = pids(&node.until("a", Running).await);
    node.builds_to(&application("a", vec![resident("a", "2")]));
    std::fs::write(node.builder("a", "wait"), "").unwrap();
    node.put(&file(&[("a", "2")])).await.unwrap();
    node.restart().await;
    let (mut routes, mut table) = (node.routes().await, RouteTable::default());
    until(&mut routes, &mut table, |_| true).await;
    assert_eq!(routed(&table), [first.as_str()]);
    let details = node.until("a", Deploying).await;
    assert_eq!(pids(&details), before);
    std::fs::remove_file(node.builder("a", "wait")).unwrap();
    let second = node.started_and_ready().await;
    assert_eq!(node.stopped().await, first);
    until(&mut routes, &mut table, |table| routed(table) == [second.as_str()]).await;
    node.supervisor.exit(&first, None);
    assert_eq!(node.until("a", Running).await.version, 2);
}

#[tokio::test]
async fn a_start_that_was_on_its_way_is_found() {
    let mut node = Node::start().await;
    node.deploy(&resident("a", "1")).await;
    let id = node.started().await.id;
    node.restart().await;
    assert!(node.application("a").await.unwrap().deployments["a"].replicas[0].pid.is_some());
    // It reports to the new one, which did not start it.
    node.ready(&id).await;
    node.until("a", Running).await;
    assert!(node.asked.try_recv().is_err(), "no other was started");
}

#[tokio::test]
async fn a_rollout_goes_on() {
    let mut node = Node::start().await;
    let mut two = resident("a", "1");
    two.num_replicas = Some(2);
    node.deploy(&two).await;
    let old = [node.started_and_ready().await, node.started_and_ready().await];
    node.until("a", Running).await;
    two.code_version = "2".into();
    node.deploy(&two).await;
    let new = node.started_and_ready().await;
    // One of the new ones serves, the other is on its way, one of the old ones ends.
    let second = node.started().await.id;
    assert!(old.contains(&node.stopped().await));
    node.restart().await;
    node.ready(&second).await;
    node.serve_replica(&second);
    let (mut routes, mut table) = (node.routes().await, RouteTable::default());
    until(&mut routes, &mut table, |table| {
        let mut expected = [new.as_str(), second.as_str()];
        let mut found = routed(table);
        expected.sort_unstable();
        found.sort_unstable();
        found == expected
    })
    .await;
    for _ in 0..2 {
        let stopped = node.stopped().await;
        assert!(old.contains(&stopped), "only old ones end, and none is started");
        node.supervisor.exit(&stopped, None);
    }
    let details = node.until("a", Running).await;
    let mut left: Vec<String> = pids(&details).into_iter().map(|(id, _)| id).collect();
    left.sort();
    let mut expected = [new, second];
    expected.sort();
    assert_eq!(left, expected);
}

#[tokio::test]
async fn a_deletion_goes_on() {
    let mut node = Node::start().await;
    node.deploy(&resident("a", "1")).await;
    let id = node.started_and_ready().await;
    node.until("a", Running).await;
    node.admin.tell(Method::DELETE, &format!("{OURS}a"), &()).await.unwrap();
    assert_eq!(node.stopped().await, id);
    node.restart().await;
    assert_eq!(node.stopped().await, id, "it is of no application that is wanted");
    assert!(node.application("a").await.is_none());
}

#[tokio::test]
async fn a_state_that_cannot_be_read_stops_no_replica() {
    let mut node = Node::start().await;
    for i in 0..20 {
        node.deploy(&config(&format!("a{i}"))).await;
    }
    node.deploy(&resident("a", "1")).await;
    node.started_and_ready().await;
    node.kill().await;
    let path = node.dir.path().join("state/state.db");
    let mut bytes = std::fs::read(&path).unwrap();
    // All but the first page, with the schema, is noise.
    bytes[4096..].fill(0x5a);
    std::fs::write(&path, &bytes).unwrap();
    let listen = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = options(node.dir.path(), tyndall_transport::Listener::Tcp(listen), None);
    let error = tyndall_controller::run(options).await.unwrap_err();
    assert!(matches!(error, ControllerError::Store(_)), "{error}");
    assert!(error.to_string().contains("move the file away"), "{error}");
    assert!(node.asked.try_recv().is_err(), "a replica was stopped as a stray");
    assert!(std::fs::read(&path).unwrap() == bytes);
}

#[tokio::test]
async fn a_delete_of_all_holds() {
    let mut node = Node::start().await;
    node.builds_to(&application("a", vec![config("a")]));
    node.put(&file(&[("a", "1")])).await.unwrap();
    node.until("a", Running).await;
    node.deploy(&config("hand")).await;
    node.admin.tell(Method::DELETE, RAY, &()).await.unwrap();
    node.admin.tell(Method::DELETE, RAY, &()).await.unwrap();
    node.until_gone("a").await;
    node.until_gone("hand").await;
    node.restart().await;
    assert!(node.details().await.applications.is_empty());
    let gone = refused(node.admin.tell(Method::DELETE, &format!("{OURS}a"), &()).await);
    assert_eq!(gone, (StatusCode::NOT_FOUND, "no application a; there are: none".to_owned()));
}
