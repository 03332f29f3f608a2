//! Config files: what is built, what stays, what goes.

use crate::support::*;
use http::{Method, StatusCode};
use tyndall_types::ApplicationStatus::{DeployFailed, Deploying, Running};
use tyndall_types::protocol::*;

/// The builder answers with one resident deployment of this code.
fn builds(node: &Node, name: &str, code: &str) {
    node.builds_to(&application(name, vec![resident(name, code)]));
}

/// Deploys a file of one application for the first time.
async fn deployed(node: &mut Node, name: &str) -> String {
    builds(node, name, "1");
    node.put(&file(&[(name, "1")])).await.unwrap();
    let id = node.started_and_ready().await;
    node.until(name, Running).await;
    id
}

#[tokio::test]
async fn a_file_is_built_deployed_and_listed() {
    let mut node = Node::start().await;
    builds(&node, "a", "1");
    node.put(&file(&[("a", "1")])).await.unwrap();
    let id = node.started_and_ready().await;
    let details = node.until("a", Running).await;
    assert_eq!((details.source.as_str(), details.version), ("declarative", 1));
    assert_eq!(details.submitted["args"]["value"], 1);
    assert_eq!(details.deployments["a"].replicas[0].replica_id.as_str(), id);

    // The same as JSON, with one more.
    builds(&node, "b", "1");
    let one = |name: &str| {
        serde_json::json!({
            "name": name, "route_prefix": format!("/{name}"), "import_path": "a:b",
            "args": {"value": 1},
        })
    };
    let json = serde_json::json!({"applications": [one("a"), one("b")]});
    node.put(&json.to_string()).await.unwrap();
    node.started_and_ready().await;
    node.until("b", Running).await;
    assert_eq!(node.built(), ["a", "b"], "what is the same is not built again");
    let mut routes = node.routes().await;
    let mut table = RouteTable::default();
    until(&mut routes, &mut table, |_| true).await;
    let prefixes: Vec<_> = table.deployments.iter().map(|d| d.route_prefix.as_deref()).collect();
    assert_eq!(prefixes, [Some("/a"), Some("/b")]);
}

#[tokio::test]
async fn a_bad_file_is_refused_with_its_lines_and_changes_nothing() {
    let node = Node::start().await;
    let (status, why) = refused(node.put("applications: [").await);
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(why.contains("no YAML or JSON"), "{why}");
    let bad = "target_capacity: 300\napplications:\n- name: a\n  import_path: 7\n- name: a\n  \
               import_path: a:b\n";
    let (status, why) = refused(node.put(bad).await);
    assert_eq!(status, StatusCode::BAD_REQUEST);
    for part in ["1:", "4:", "target_capacity", "import_path"] {
        assert!(why.contains(part), "{part} is not in {why}");
    }
    assert!(why.lines().count() > 2, "one for each: {why}");
    let bytes = http::Request::put(RAY).body(bytes::Bytes::from_static(b"\xff\xfe")).unwrap();
    assert_eq!(node.admin.send(bytes).await.unwrap().status(), StatusCode::BAD_REQUEST);
    let details = node.details().await;
    assert_eq!((details.applications.len(), details.target_capacity), (0, None));
}

#[tokio::test]
async fn while_a_build_fails_the_version_before_serves() {
    let mut node = Node::start().await;
    let id = deployed(&mut node, "a").await;
    std::fs::write(node.builder("a", "fail"), "ModuleNotFoundError: no module named x\n").unwrap();
    node.put(&file(&[("a", "2")])).await.unwrap();
    let details = node.until("a", DeployFailed).await;
    assert_eq!(details.message, "ModuleNotFoundError: no module named x");
    let (mut routes, mut table) = (node.routes().await, RouteTable::default());
    until(&mut routes, &mut table, |_| true).await;
    assert_eq!(routed(&table), [id.as_str()]);
    let events = node.json("/api/tyndall/events?application=a").await;
    let failed = events.as_array().unwrap().iter().find(|e| e["kind"] == "build_failed").unwrap();
    assert!(failed["message"].as_str().unwrap().contains("ModuleNotFoundError"));

    // A new controller still knows why.
    node.restart().await;
    let details = node.until("a", DeployFailed).await;
    assert_eq!(details.message, "ModuleNotFoundError: no module named x");
    assert_eq!(node.built().len(), 2, "it is not tried again");

    builds(&node, "a", "1");
    node.put(&file(&[("a", "1")])).await.unwrap();
    let details = node.until("a", Running).await;
    assert_eq!(details.deployments["a"].replicas[0].replica_id.as_str(), id);
    assert_eq!((details.version, details.message.as_str()), (1, ""));
    assert!(node.asked.try_recv().is_err(), "its replica stays");
}

#[tokio::test]
async fn a_builder_must_answer_with_what_was_asked_for() {
    let node = Node::start().await;
    let answer = |text: &str| std::fs::write(node.builder("a", "json"), text).unwrap();
    let other = serde_json::to_string(&application("b", vec![config("b")])).unwrap();
    let empty = serde_json::to_string(&application("a", Vec::new())).unwrap();
    for (nth, (text, expected)) in [
        ("{}", "answered something else"),
        (other.as_str(), "answered with application b"),
        (empty.as_str(), "has no deployment"),
    ]
    .into_iter()
    .enumerate()
    {
        answer(text);
        node.put(&file(&[("a", &nth.to_string())])).await.unwrap();
        let details = node.until("a", DeployFailed).await;
        assert!(details.message.contains(expected), "{}", details.message);
    }
    assert_eq!(node.details().await.applications.len(), 1);
    // Where and by which way it came is not the builder's to say.
    let mut strange = application("a", vec![config("a")]);
    strange.submitted = (&serde_json::json!("other")).into();
    node.builds_to(&strange);
    node.put(&file(&[("a", "7")])).await.unwrap();
    let details = node.until("a", Running).await;
    assert_eq!(
        (details.source.as_str(), &details.submitted["args"]["value"]),
        ("declarative", &7.into())
    );
}

#[tokio::test]
async fn a_newer_file_ends_an_unfinished_build() {
    let mut node = Node::start().await;
    builds(&node, "a", "old");
    std::fs::write(node.builder("a", "wait"), "").unwrap();
    node.put(&file(&[("a", "1")])).await.unwrap();
    node.until_built(1).await;
    node.put(&file(&[("a", "1")])).await.unwrap();
    node.put(&file(&[("a", "2")])).await.unwrap();
    node.until_built(2).await;
    assert_eq!(node.application("a").await.unwrap().status, Deploying);
    builds(&node, "a", "new");
    std::fs::remove_file(node.builder("a", "wait")).unwrap();
    let spec = node.started().await;
    let sent: DeploymentConfig = serde_json::from_str(&spec.args[7]).unwrap();
    assert_eq!(sent.code_version, "new");
    node.ready(&spec.id).await;
    let details = node.until("a", Running).await;
    assert_eq!((details.version, &details.submitted["args"]["value"]), (1, &2.into()));
    assert_eq!(node.built().len(), 2, "the same file again began no build");
}

#[tokio::test]
async fn a_deployment_by_hand_goes_before_an_unfinished_build() {
    let mut node = Node::start().await;
    builds(&node, "a", "file");
    std::fs::write(node.builder("a", "wait"), "").unwrap();
    node.put(&file(&[("a", "1")])).await.unwrap();
    node.until_built(1).await;
    node.deploy(&resident("a", "hand")).await;
    node.started_and_ready().await;
    let details = node.until("a", Running).await;
    std::fs::remove_file(node.builder("a", "wait")).unwrap();
    assert_eq!(details.source, "imperative");
    // A file without it does not end it: its way has changed.
    node.put(&file(&[])).await.unwrap();
    assert_eq!(node.until("a", Running).await.version, 1);
}

#[tokio::test]
async fn a_file_replaces_files_and_nothing_else() {
    let mut node = Node::start().await;
    node.deploy(&resident("hand", "1")).await;
    let hand = node.started_and_ready().await;
    for name in ["a", "b"] {
        builds(&node, name, "1");
    }
    node.put(&file(&[("a", "1"), ("b", "1")])).await.unwrap();
    let ids = [node.started_and_ready().await, node.started_and_ready().await];
    node.until("a", Running).await;
    let b = node.until("b", Running).await.deployments["b"].replicas[0].clone();
    node.put(&file(&[("a", "1")])).await.unwrap();
    let gone = node.stopped().await;
    assert!(gone == b.replica_id.as_str() && ids.contains(&gone));
    node.supervisor.exit(&gone, None);
    node.until_gone("b").await;
    node.put(&file(&[])).await.unwrap();
    let gone = node.stopped().await;
    node.supervisor.exit(&gone, None);
    node.until_gone("a").await;
    let details = node.until("hand", Running).await;
    assert_eq!(details.deployments["hand"].replicas[0].replica_id.as_str(), hand);
    node.restart().await;
    assert_eq!(node.details().await.applications.into_keys().collect::<Vec<_>>(), ["hand"]);
}

#[tokio::test]
async fn the_same_file_again_starts_nothing() {
    let mut node = Node::start().await;
    let id = deployed(&mut node, "a").await;
    for _ in 0..3 {
        node.put(&file(&[("a", "1")])).await.unwrap();
    }
    let details = node.until("a", Running).await;
    assert_eq!(details.deployments["a"].replicas[0].replica_id.as_str(), id);
    assert_eq!((node.built().len(), details.version), (1, 1));
    assert!(node.asked.try_recv().is_err());
}

/// What a file says of all its applications reaches each build, also after a restart, and another
/// word of it builds them all anew.
#[tokio::test]
async fn what_a_file_says_of_all_is_built_into_each() {
    let mut node = Node::start().await;
    let of_all = |timeout_s: u32| {
        let shared = format!("http_options: {{request_timeout_s: {timeout_s}, port: 1}}\n");
        shared + &file(&[("a", "1")])
    };
    let seen = |node: &Node| {
        let text = std::fs::read_to_string(node.builder("a", "file")).unwrap();
        let seen: serde_json::Value = serde_json::from_str(&text).unwrap();
        (seen["http_options"].clone(), seen["applications"][0]["args"]["value"].clone())
    };
    builds(&node, "a", "1");
    node.put(&of_all(7)).await.unwrap();
    node.started_and_ready().await;
    node.until("a", Running).await;
    assert_eq!(seen(&node), (serde_json::json!({"request_timeout_s": 7}), 1.into()));
    node.put(&of_all(7)).await.unwrap();
    assert_eq!(node.built().len(), 1);
    std::fs::write(node.builder("a", "wait"), "").unwrap();
    node.put(&of_all(8)).await.unwrap();
    node.until_built(2).await;
    node.restart().await;
    node.until_built(3).await;
    std::fs::remove_file(node.builder("a", "wait")).unwrap();
    node.until("a", Running).await;
    assert_eq!(seen(&node).0, serde_json::json!({"request_timeout_s": 8}));
}

#[tokio::test]
async fn no_two_applications_are_at_one_place() {
    let node = Node::start().await;
    node.deploy(&config("hand")).await;
    let text = file(&[("a", "1")]).replace("/a", "/hand");
    let (status, why) = refused(node.put(&text).await);
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(why.contains("application hand is mounted at /hand already"), "{why}");
    let twice = file(&[("a", "1"), ("b", "1")]).replace("/b", "/a");
    assert_eq!(refused(node.put(&twice).await).0, StatusCode::BAD_REQUEST);
    assert!(node.built().is_empty());

    let program = |name: &str| {
        let mut code = config(name);
        code.workload = Workload::Program(ProgramConfig {
            executable: "/bin/true".into(),
            deployment: name.into(),
            init: serde_json::Value::Null,
            ..ProgramConfig::default()
        });
        let mut application = application(name, vec![code]);
        application.route_prefix = Some("/hand".into());
        application
    };
    let (status, why) = refused(node.deploy_all(&program("p")).await);
    assert_eq!(status, StatusCode::BAD_REQUEST, "{why}");
    // Models are told apart by their ids, as with `tyndall run`.
    let mut model = application("other", vec![config("other")]);
    model.route_prefix = Some("/hand".into());
    node.deploy_all(&model).await.unwrap();
}

#[tokio::test]
async fn the_capacity_of_a_file_holds_and_survives() {
    let mut node = Node::start().await;
    let mut four = resident("a", "1");
    four.num_replicas = Some(4);
    node.builds_to(&application("a", vec![four]));
    let half = format!("target_capacity: 50\n{}", file(&[("a", "1")]));
    node.put(&half).await.unwrap();
    for _ in 0..2 {
        node.started_and_ready().await;
    }
    let details = node.until("a", Running).await;
    assert_eq!(details.deployments["a"].target_num_replicas, 2);
    node.restart().await;
    assert_eq!(node.details().await.target_capacity, Some(50.0));
    node.until("a", Running).await;
    node.put(&file(&[("a", "1")])).await.unwrap();
    for _ in 0..2 {
        node.started_and_ready().await;
    }
    assert_eq!(node.built(), ["a"], "the capacity is not what is built");
    node.put(&half).await.unwrap();
    node.stopped().await;
    node.admin.tell(Method::DELETE, RAY, &()).await.unwrap();
    assert_eq!(node.details().await.target_capacity, None);
}

#[tokio::test]
async fn the_scale_endpoint_sets_counts_that_survive() {
    let mut node = Node::start().await;
    let path = |application: &str, deployment: &str| {
        format!("/api/v1/applications/{application}/deployments/{deployment}/scale")
    };
    let body = serde_json::json!({"target_num_replicas": 2});
    let mut scaled = application("a", vec![resident("a", "1")]);
    node.deploy_all(&scaled).await.unwrap();
    node.started_and_ready().await;
    let post = async |node: &Node, path: &str, body: &serde_json::Value| {
        node.admin.call::<_, serde_json::Value>(Method::POST, path, body).await
    };
    assert_eq!(
        refused(post(&node, &path("a", "a"), &body).await).0,
        StatusCode::PRECONDITION_FAILED
    );
    scaled.external_scaler_enabled = true;
    node.deploy_all(&scaled).await.unwrap();
    for (application, deployment) in [("a", "x"), ("x", "a"), ("%20", "a")] {
        let answer = refused(post(&node, &path(application, deployment), &body).await);
        assert_eq!(answer.0, StatusCode::NOT_FOUND);
        assert_eq!(answer.1, r#"{"error":"Application or Deployment not found"}"#);
    }
    for bad in [serde_json::json!({}), serde_json::json!({"target_num_replicas": -1})] {
        let answer = refused(post(&node, &path("a", "a"), &bad).await);
        assert_eq!(answer.0, StatusCode::BAD_REQUEST);
    }
    let answer = post(&node, &path("a", "a"), &body).await.unwrap();
    let message = "Scaling request received. Deployment will get scaled asynchronously.";
    assert_eq!(answer, serde_json::json!({"message": message}));
    node.started_and_ready().await;
    node.restart().await;
    let details = node.until("a", Running).await;
    assert_eq!(details.deployments["a"].target_num_replicas, 2);
    assert!(node.asked.try_recv().is_err(), "both replicas are kept");

    node.admin.tell(Method::DELETE, &format!("{OURS}a"), &()).await.unwrap();
    let answer = refused(post(&node, &path("a", "a"), &body).await);
    assert_eq!(answer.0, StatusCode::PRECONDITION_FAILED);
    assert!(answer.1.contains("Deployment is deleted"), "{}", answer.1);
}
