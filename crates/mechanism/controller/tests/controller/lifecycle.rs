//! Replicas come and go.

use crate::support::*;
use http::{Method, StatusCode};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tyndall_controller::ControllerError;
use tyndall_transport::{Client, Listener};
use tyndall_types::protocol::*;
use tyndall_types::{ApplicationStatus, DeploymentStatus};

#[tokio::test]
async fn a_request_wakes_a_replica_and_idleness_ends_it() {
    let mut node = Node::start().await;
    let (mut routes, mut table) = (node.routes().await, RouteTable::default());
    node.deploy(&config("org/demo")).await;
    until(&mut routes, &mut table, |table| table.deployments.len() == 1).await;
    assert_eq!(table.deployments[0].model.as_ref().unwrap().id, "org/demo");
    let length = |table: &RouteTable| table.deployments[0].model.as_ref().unwrap().max_model_len;
    assert_eq!(length(&table), Some(96), "as configured, before the first wake");
    node.demand("org/demo", 1).await;
    let spec = node.started().await;
    let dir = node.dir.path().display().to_string();
    assert_eq!(spec.args[..6], ["role", "replica", "--runtime-dir", &dir, "--id", &spec.id]);
    assert_eq!(spec.args[6], "--deployment-config");
    let sent: DeploymentConfig = serde_json::from_str(&spec.args[7]).unwrap();
    assert_eq!(sent, config("org/demo"));

    node.ready(&spec.id).await;
    until(&mut routes, &mut table, |table| !routed(table).is_empty()).await;
    let route = &table.deployments[0];
    assert_eq!(route.replicas[0].socket, node.dir.path().join(format!("{}.sock", spec.id)));
    assert_eq!(length(&table), Some(card().max_model_len));
    let details = node.application("org/demo").await.unwrap();
    assert_eq!(details.status, ApplicationStatus::Running);
    assert_eq!(details.deployments["org/demo"].replicas[0].pid, Some(4242));
    let phases = ColdStartPhases(vec![("weights".into(), 0.0), ("first_step".into(), 0.002)]);
    node.report(&spec.id, &ReplicaReport::FirstToken { phases }).await.unwrap();

    node.demand("org/demo", 0).await;
    assert_eq!(node.stopped().await, spec.id);
    until(&mut routes, &mut table, |table| routed(table).is_empty()).await;
    node.supervisor.exit(&spec.id, None);
    let page = node.page(&node.admin, "/metrics").await;
    for line in [
        "tyndall_wakes_total{deployment=\"org/demo\"} 1",
        "tyndall_replica_failures_total{deployment=\"org/demo\"} 0",
        "tyndall_cold_start_seconds_count{deployment=\"org/demo\",phase=\"spawn\"} 1",
        "tyndall_cold_start_seconds_count{deployment=\"org/demo\",phase=\"first_step\"} 1",
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
    assert!(node.page(&node.socket, "/-/metrics").await.contains("tyndall_replicas{"));
}

#[tokio::test]
async fn a_process_that_waits_is_prepared_taken_and_replaced() {
    let mut node = Node::start().await;
    let mut always = config("other");
    always.autoscaling.min_replicas = 1;
    node.deploy(&always).await;
    let other = node.started_and_ready().await;
    let mut warm = config("org/demo");
    warm.warm = WarmPool { processes: 1, preload: vec!["torch".into()] };
    node.deploy(&warm).await;
    let waiting = node.started().await;
    assert!(waiting.waits && waiting.args[..2] == ["role", "warm"], "{waiting:?}");
    node.supervisor.prepare(&waiting.id);
    // Events are read in turn: it is known when the next one has its effect.
    node.supervisor.exit(&other, None);
    let other = node.started_and_ready().await;
    node.demand("org/demo", 1).await;
    let replica = node.started().await;
    assert_eq!((replica.waits, replica.takes), (false, Some(waiting.id)));
    node.ready(&replica.id).await;
    let next = node.started().await;
    assert!(next.waits && next.takes.is_none());
    node.supervisor.prepare(&next.id);
    let told = node.json("/api/tyndall/node").await;
    let processes = told["processes"].as_array().unwrap().iter();
    let states: Vec<_> = processes
        .map(|one| (one["id"].as_str().unwrap(), one["state"].as_str().unwrap()))
        .collect();
    let mut expected = [(&*other, "replica"), (&*replica.id, "replica"), (&*next.id, "prepared")];
    expected.sort_unstable();
    assert_eq!(states, expected);
    let line = "tyndall_warm_starts_total{deployment=\"org/demo\",outcome=\"taken\"} 1";
    let page = node.page(&node.admin, "/metrics").await;
    assert!(page.contains(line), "{line} is not in\n{page}");

    // Three that die are the last.
    let mut last = next.id;
    for _ in 0..2 {
        node.supervisor.exit(&last, Some(9));
        last = node.started().await.id;
    }
    node.supervisor.exit(&last, Some(9));
    node.demand("org/demo", 0).await;
    assert_eq!(node.stopped().await, replica.id);
    let events = node.json("/api/tyndall/events?application=org/demo").await;
    let told = |event: &&serde_json::Value| event["kind"] == "no_warm_processes";
    let event = events.as_array().unwrap().iter().find(told).unwrap();
    assert!(event["message"].as_str().unwrap().contains("was killed by signal 9"), "{event}");
}

#[tokio::test]
async fn a_program_is_started_with_its_arguments_where_it_wants_to_be() {
    let mut node = Node::start().await;
    let mut program = config("app");
    program.workload = Workload::Program(ProgramConfig {
        executable: "/venv/bin/python".into(),
        args: ["-m", "tyndall._program", "--import-path", "a:b"].map(str::to_owned).to_vec(),
        working_dir: Some("/src".into()),
        deployment: "app".into(),
        ..ProgramConfig::default()
    });
    node.deploy(&program).await;
    node.demand("app", 1).await;
    let spec = node.started().await;
    assert_eq!(spec.executable, Some("/venv/bin/python".into()));
    assert_eq!(spec.working_dir, Some("/src".into()));
    assert_eq!(
        spec.args[..6],
        ["-m", "tyndall._program", "--import-path", "a:b", "role", "replica"]
    );
    let sent = spec.args.iter().skip_while(|arg| *arg != "--deployment-config").nth(1).unwrap();
    assert_eq!(serde_json::from_str::<DeploymentConfig>(sent).unwrap(), program);
}

#[tokio::test]
async fn a_replica_that_fails_makes_the_deployment_unavailable_with_its_reason() {
    let mut node = Node::start().await;
    let (mut routes, mut table) = (node.routes().await, RouteTable::default());
    let mut hasty = config("demo");
    hasty.max_constructor_retry_count = 1;
    node.deploy(&hasty).await;
    node.demand("demo", 1).await;
    let spec = node.started().await;
    let reason = "no config.json; give a checkpoint's directory".to_owned();
    node.fail(&spec.id, &reason).await;
    let is_unavailable =
        |table: &RouteTable| table.deployments.first().is_some_and(|d| d.unavailable.is_some());
    until(&mut routes, &mut table, is_unavailable).await;
    assert_eq!(table.deployments[0].unavailable.as_ref().unwrap().reason, reason);
    node.demand("demo", 0).await;
    let details = node.application("demo").await.unwrap();
    assert_eq!(details.status, ApplicationStatus::DeployFailed);
    assert!(details.message.contains("demo"), "{}", details.message);
    let message = &details.deployments["demo"].message;
    assert!(message.contains(&reason), "{message}");
    assert_eq!(node.stopped().await, spec.id);
}

#[tokio::test]
async fn a_replica_that_dies_is_replaced() {
    let mut node = Node::start().await;
    let (mut routes, mut table) = (node.routes().await, RouteTable::default());
    node.deploy(&config("demo")).await;
    node.demand("demo", 1).await;
    let first = node.started().await.id;
    node.ready(&first).await;
    until(&mut routes, &mut table, |table| routed(table) == [first.as_str()]).await;
    node.supervisor.exit(&first, Some(9));
    until(&mut routes, &mut table, |table| routed(table).is_empty()).await;
    let second = node.started().await.id;
    assert_ne!(first, second);
    let late = node.report(&first, &ReplicaReport::Failed { reason: "late".into() }).await;
    assert_eq!(refused(late).0, StatusCode::NOT_FOUND);
    node.ready(&second).await;
    until(&mut routes, &mut table, |table| routed(table) == [second.as_str()]).await;
    let state = node.application("demo").await.unwrap().deployments["demo"].status;
    assert_eq!(state, DeploymentStatus::Healthy);
}

#[tokio::test]
async fn demand_goes_with_its_proxy() {
    let mut node = Node::start().await;
    let routes = node.routes().await;
    let mut slow = config("demo");
    slow.autoscaling.downscale_to_zero_delay_s = 1000.0;
    node.deploy(&slow).await;
    node.demand("demo", 3).await;
    node.started().await;
    let queued = async |node: &Node| {
        node.application("demo").await.unwrap().deployments["demo"].queued_requests
    };
    assert_eq!(queued(&node).await, 3);
    drop(routes);
    let began = Instant::now();
    while queued(&node).await > 0 {
        assert!(began.elapsed() < DEADLINE, "the demand of a lost proxy stays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_new_controller_takes_over_what_runs() {
    let mut node = Node::start().await;
    let mut always = config("org/demo");
    always.autoscaling.min_replicas = 1;
    node.deploy(&always).await;
    let id = node.started().await.id;
    node.ready(&id).await;
    node.serve_replica(&id);
    // Something that no deployment knows.
    let args = vec!["role".into()];
    let stray = ProcessInfo { id: "stray".into(), pid: 1, args, ..ProcessInfo::default() };
    node.supervisor.running.lock().unwrap().insert("stray".into(), stray);
    node.restart().await;
    assert_eq!(node.stopped().await, "stray");
    let (mut routes, mut table) = (node.routes().await, RouteTable::default());
    until(&mut routes, &mut table, |_| true).await;
    assert_eq!(routed(&table), [id.as_str()], "the first table is complete");
    let model = table.deployments[0].model.as_ref().unwrap();
    assert_eq!(model.max_model_len, Some(card().max_model_len));
    node.supervisor.exit(&id, None);
    assert_ne!(node.started().await.id, id, "nothing was started before");
}

#[tokio::test]
async fn deleting_stops_and_unknown_names_are_answered_with_the_known() {
    let mut node = Node::start().await;
    for name in ["a", "org/b"] {
        let mut always = config(name);
        always.autoscaling.min_replicas = 1;
        node.deploy(&always).await;
        let id = node.started().await.id;
        node.ready(&id).await;
    }
    let delete = |name: &str| {
        let (admin, path) = (node.admin.clone(), format!("/api/serve/applications/{name}"));
        async move { admin.tell(Method::DELETE, &path, &()).await }
    };
    let (status, why) = refused(delete("c").await);
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(why, "no application c; there are: a, org/b");
    assert_eq!(refused(delete("%20").await).0, StatusCode::BAD_REQUEST);
    delete("org%2Fb").await.unwrap();
    let id = node.stopped().await;
    let details = node.application("org/b").await.unwrap();
    assert_eq!(details.status, ApplicationStatus::Deleting);
    node.supervisor.exit(&id, None);
    node.until_gone("org/b").await;
    node.restart().await;
    assert!(node.application("org/b").await.is_none(), "and not restored");
    assert!(node.application("a").await.is_some());
}

#[tokio::test]
async fn bad_requests_are_refused_and_the_admin_port_is_not_the_nodes() {
    let node = Node::start().await;
    let put = |client: &Client, name: &str, body: serde_json::Value| {
        let (client, path) = (client.clone(), format!("/-/applications/{name}"));
        async move { refused(client.tell(Method::PUT, &path, &body).await).0 }
    };
    let good = serde_json::to_value(application("demo", vec![config("demo")])).unwrap();
    let with = |path: &str, value: serde_json::Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(path).unwrap() = value;
        changed
    };
    let bad = StatusCode::BAD_REQUEST;
    assert_eq!(put(&node.socket, "other", good.clone()).await, bad);
    assert_eq!(put(&node.socket, "demo", serde_json::json!({})).await, bad);
    let scaling = |field: &str| format!("/deployments/0/autoscaling/{field}");
    let twice = vec![good["deployments"][0].clone(); 2];
    for changed in [
        with(&scaling("max_replicas"), 0.into()),
        with(&scaling("target_ongoing_requests"), 0.0.into()),
        with("/deployments/0/id", "other#demo".into()),
        with("/deployments", twice.into()),
        with("/deployments", serde_json::json!([])),
    ] {
        assert_eq!(put(&node.socket, "demo", changed).await, bad);
    }
    assert_eq!(put(&node.admin, "demo", good.clone()).await, StatusCode::NOT_FOUND);
    for path in ["/nowhere", "/-/proxies/p/routes", "/api/serve/applications/x"] {
        let answer = refused(node.admin.get::<()>(path).await);
        assert_eq!(answer.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert!(node.application("demo").await.is_none());
}

#[tokio::test]
async fn the_end_of_the_node_is_passed_on_and_no_failure() {
    let mut node = Node::start().await;
    let mut always = config("demo");
    always.autoscaling.min_replicas = 1;
    node.deploy(&always).await;
    let id = node.started().await.id;
    node.ready(&id).await;
    node.admin.tell(Method::POST, "/api/shutdown", &()).await.unwrap();
    assert!(matches!(node.asked().await, Asked::Shutdown));
    node.supervisor.events.send(ProcessEvent::ShuttingDown).unwrap();
    node.supervisor.exit(&id, None);
    // Round trips, so that both events have come and gone.
    for _ in 0..50 {
        let status = node.application("demo").await.unwrap().status;
        assert_eq!(status, ApplicationStatus::Running);
    }
    assert!(node.asked.try_recv().is_err(), "a replica was started");
}

#[tokio::test]
async fn without_a_supervisor_it_ends() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let listen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = options(dir.path(), Listener::Tcp(listen), None);
    let error = tyndall_controller::run(options).await.unwrap_err();
    assert!(matches!(error, ControllerError::Supervisor(_)), "{error}");
}
