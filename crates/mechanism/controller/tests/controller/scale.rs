//! Many deployments, and how little of them is told at a time.

use crate::support::*;
use tyndall_types::protocol::*;

async fn next(lines: &mut Lines) -> RouteTable {
    tokio::time::timeout(DEADLINE, lines.next()).await.expect("no table").unwrap().unwrap()
}

fn names(table: &RouteTable) -> Vec<String> {
    table.deployments.iter().map(|route| route.deployment.to_string()).collect()
}

#[tokio::test]
async fn a_proxy_gets_all_and_then_what_changes() {
    let mut node = Node::start().await;
    node.deploy(&config("a")).await;
    node.deploy(&config("b")).await;
    let mut lines = node.routes().await;
    let all = next(&mut lines).await;
    assert!(all.is_complete && all.removed.is_empty());
    assert_eq!(names(&all), ["a", "b"]);

    node.deploy(&config("c")).await;
    let new = next(&mut lines).await;
    assert_eq!((names(&new), new.is_complete), (vec!["c".to_owned()], false));
    node.demand("b", 1).await;
    let id = node.started().await.id;
    node.ready(&id).await;
    let woken = next(&mut lines).await;
    assert_eq!((names(&woken), routed(&woken)), (vec!["b".to_owned()], vec![id.as_str()]));

    // While nobody reads the changes they are told together.
    node.admin.tell(http::Method::DELETE, &format!("{OURS}a"), &()).await.unwrap();
    let gone = next(&mut lines).await;
    assert!(!gone.is_complete && gone.deployments.is_empty());
    assert_eq!(gone.removed.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a"]);
    assert!(all.version < new.version && new.version < woken.version);
    assert!(woken.version < gone.version);

    let mut other: Lines = node.socket.lines("/-/proxies/proxy-1/routes").await.unwrap();
    let all = next(&mut other).await;
    assert!(all.is_complete);
    assert_eq!(names(&all), ["b", "c"]);
}

async fn deploy_many(node: &Node, count: usize) {
    for i in 0..count {
        let mut config = config(&format!("m{i}"));
        config.autoscaling.downscale_to_zero_delay_s = 1000.0;
        node.deploy(&config).await;
    }
}

#[tokio::test]
async fn one_wake_among_a_thousand_is_one_deployment() {
    let mut node = Node::start().await;
    deploy_many(&node, 1000).await;
    let mut lines = node.routes().await;
    let all = next(&mut lines).await;
    assert_eq!(all.deployments.len(), 1000);
    node.demand("m500", 1).await;
    let id = node.started().await.id;
    node.ready(&id).await;
    let woken = next(&mut lines).await;
    assert_eq!((names(&woken), routed(&woken)), (vec!["m500".to_owned()], vec![id.as_str()]));
    assert!(!woken.is_complete && woken.removed.is_empty());
}
