//! What the admin port looks like, and to whom it answers.

use crate::support::*;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tyndall_transport::{Client, read_body};
use tyndall_types::ApplicationStatus::Running;

const ACTOR: [&str; 7] = [
    "node_id",
    "node_ip",
    "node_instance_id",
    "actor_id",
    "actor_name",
    "worker_id",
    "log_file_path",
];

/// Exactly these keys.
#[track_caller]
fn has_keys(value: &Value, expected: &[&str]) {
    let found: BTreeSet<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(found, expected.iter().copied().collect());
}

fn with<'a>(keys: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [keys, more].concat()
}

#[tokio::test]
async fn the_details_have_rays_keys_and_no_others() {
    let mut node = Node::start().await;
    let _routes = node.routes().await;
    let mut fixed = resident("fixed", "1");
    fixed.env_vars.insert("A".into(), "1".into());
    fixed.resources.num_gpus = 0.0;
    fixed.resources.max_replicas_per_node = Some(3);
    node.builds_to(&application("a", vec![fixed, config("scaled")]));
    node.put(&file(&[("a", "1")])).await.unwrap();
    let first = node.started_and_ready().await;
    node.until("a", Running).await;
    node.supervisor.exit(&first, Some(9));
    node.started_and_ready().await;
    node.until("a", Running).await;

    let all = node.json(RAY).await;
    has_keys(
        &all,
        &[
            "target_capacity",
            "controller_info",
            "proxy_location",
            "http_options",
            "grpc_options",
            "proxies",
            "applications",
            "target_groups",
            "controller_health_metrics",
            "restores_unset_config_options",
        ],
    );
    has_keys(&all["controller_info"], &ACTOR);
    has_keys(&all["http_options"], &["host", "port"]);
    has_keys(&all["grpc_options"], &[]);
    has_keys(&all["proxies"]["node"], &with(&ACTOR, &["status"]));
    assert_eq!(all["proxies"]["node"]["status"], "HEALTHY");
    assert_eq!(all["target_groups"].as_array().unwrap().len(), 1);
    let group = &all["target_groups"][0];
    has_keys(
        group,
        &[
            "targets",
            "route_prefix",
            "protocol",
            "app_name",
            "ingress_request_router_targets",
            "ingress_deployment_name",
        ],
    );
    assert_eq!((&group["route_prefix"], &group["protocol"]), (&json!("/"), &json!("HTTP")));
    has_keys(&group["targets"][0], &["ip", "port", "instance_id", "name"]);

    application_has_rays_keys(&all["applications"]["a"]);
}

fn application_has_rays_keys(a: &Value) {
    has_keys(
        a,
        &[
            "name",
            "route_prefix",
            "docs_path",
            "status",
            "message",
            "last_deployed_time_s",
            "deployed_app_config",
            "source",
            "external_scaler_enabled",
            "deployments",
            "deployment_topology",
        ],
    );
    has_keys(&a["deployed_app_config"], &["name", "route_prefix", "import_path", "args"]);
    assert_eq!((&a["source"], &a["status"]), (&json!("declarative"), &json!("RUNNING")));
    let topology = &a["deployment_topology"];
    has_keys(topology, &["app_name", "ingress_deployment", "nodes"]);
    assert_eq!(topology["ingress_deployment"], "fixed");
    let node_keys = ["name", "app_name", "outbound_deployments", "is_ingress"];
    has_keys(&topology["nodes"]["scaled"], &node_keys);
    deployments_have_rays_keys(&a["deployments"]);
}

fn deployments_have_rays_keys(deployments: &Value) {
    let fixed = &deployments["fixed"];
    for deployment in [fixed, &deployments["scaled"]] {
        has_keys(
            deployment,
            &[
                "name",
                "status",
                "status_trigger",
                "message",
                "deployment_config",
                "target_num_replicas",
                "required_resources",
                "replicas",
                "recent_dead_replicas",
            ],
        );
    }
    let config = [
        "name",
        "max_ongoing_requests",
        "max_queued_requests",
        "backpressure_config",
        "user_config",
        "graceful_shutdown_wait_loop_s",
        "graceful_shutdown_timeout_s",
        "health_check_period_s",
        "health_check_timeout_s",
        "ray_actor_options",
        "request_router_config",
        "rolling_update_percentage",
        "max_surge_percent",
    ];
    has_keys(
        &fixed["deployment_config"],
        &with(&config, &["num_replicas", "max_replicas_per_node"]),
    );
    let scaled = &deployments["scaled"]["deployment_config"];
    has_keys(scaled, &with(&config, &["autoscaling_config"]));
    has_keys(&scaled["backpressure_config"], &["status_code", "retry_after_s"]);
    has_keys(&fixed["deployment_config"]["ray_actor_options"], &["num_cpus", "runtime_env"]);
    let autoscaling: BTreeSet<&str> =
        scaled["autoscaling_config"].as_object().unwrap().keys().map(String::as_str).collect();
    let known = BTreeSet::from([
        "min_replicas",
        "initial_replicas",
        "max_replicas",
        "target_ongoing_requests",
        "metrics_interval_s",
        "look_back_period_s",
        "upscale_delay_s",
        "downscale_delay_s",
        "downscale_to_zero_delay_s",
        "upscaling_factor",
        "downscaling_factor",
        "smoothing_factor",
        "upscale_smoothing_factor",
        "downscale_smoothing_factor",
        "aggregation_function",
        "policy",
    ]);
    assert!(autoscaling.is_subset(&known), "{autoscaling:?}");
    let replica = with(&ACTOR, &["replica_id", "state", "pid", "start_time_s"]);
    has_keys(&fixed["replicas"][0], &replica);
    has_keys(&fixed["recent_dead_replicas"][0], &replica);
    assert_eq!(fixed["recent_dead_replicas"][0]["state"], "STOPPED");
}

#[tokio::test]
async fn an_instance_without_anything_has_its_keys() {
    let node = Node::start().await;
    let all = node.json(RAY).await;
    assert_eq!((&all["proxies"], &all["applications"]), (&json!({}), &json!({})));
    assert_eq!((&all["target_capacity"], &all["target_groups"]), (&Value::Null, &json!([])));
    let version = node.json("/api/ray/version").await;
    has_keys(&version, &["version", "ray_version", "ray_commit", "session_name"]);
    assert_eq!(version["version"], "4");
}

#[tokio::test]
async fn applications_are_told_by_their_way() {
    let node = Node::start().await;
    node.deploy(&config("hand")).await;
    node.builds_to(&application("a", vec![config("a")]));
    node.put(&file(&[("a", "1")])).await.unwrap();
    node.until("a", Running).await;
    for (query, expected) in [
        ("", &["a", "hand"][..]),
        ("?api_type=imperative", &["hand"]),
        ("?api_type=declarative", &["a"]),
    ] {
        // With the slash at the end and without.
        for path in [RAY, "/api/serve/applications"] {
            let all = node.json(&format!("{path}{query}")).await;
            has_keys(&all["applications"], expected);
        }
    }
    let all = node.json(RAY).await;
    assert_eq!(all["applications"]["hand"]["deployed_app_config"], Value::Null);
    let (status, why) = refused(node.admin.get::<Value>(&format!("{RAY}?api_type=x")).await);
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(why.contains("imperative or declarative"), "{why}");
}

async fn send(client: &Client, method: &str, path: &str) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(path).body(Bytes::new()).unwrap();
    let answer = client.send(request).await.unwrap();
    let status = answer.status();
    let body = read_body(answer.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn the_document_lists_what_there_is() {
    let node = Node::start().await;
    let document = node.json("/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
    let mut listed = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            listed.insert(format!("{} {path}", method.to_uppercase()));
            let path = path.replace("{application}", "x").replace("{deployment}", "x");
            let (status, body) = send(&node.admin, &method.to_uppercase(), &path).await;
            let is_route = status != StatusCode::NOT_FOUND || !body.contains("no such route");
            assert!(is_route, "{method} {path} is no route");
        }
    }
    let routes = [
        "GET /api/serve/applications/",
        "PUT /api/serve/applications/",
        "DELETE /api/serve/applications/",
        "DELETE /api/serve/applications/{application}",
        "POST /api/v1/applications/{application}/deployments/{deployment}/scale",
        "GET /api/ray/version",
        "GET /api/tyndall/applications/",
        "DELETE /api/tyndall/applications/{application}",
        "PUT /api/tyndall/applications/{application}",
        "GET /api/tyndall/applications/{application}/versions",
        "POST /api/tyndall/applications/{application}/rollback",
        "GET /api/tyndall/controller-health",
        "GET /api/tyndall/node",
        "GET /api/tyndall/events",
        "GET /api/tyndall/usage",
        "GET /api/tyndall/keys/usage",
        "GET /api/tyndall/logs",
        "GET /openapi.json",
        "GET /metrics",
        "GET /-/healthz",
        "POST /api/shutdown",
    ];
    assert_eq!(listed, routes.into_iter().map(str::to_owned).collect());
}

#[tokio::test]
async fn the_token_is_asked_for_on_the_admin_port_alone() {
    let node = Node::with_token(Some("secret")).await;
    let unknown = [RAY, OURS, "/metrics", "/openapi.json", "/nowhere", "/-/metrics"];
    for path in unknown {
        let (status, why) = send(&node.admin, "GET", path).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        assert!(why.contains("Authorization: Bearer"), "{why}");
    }
    assert_eq!(send(&node.admin, "DELETE", RAY).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(send(&node.admin, "GET", "/-/healthz").await.0, StatusCode::OK);
    for wrong in ["", "secre", "secrets", "Secret"] {
        let client = node.admin.clone().with_token(wrong);
        assert_eq!(send(&client, "GET", RAY).await.0, StatusCode::UNAUTHORIZED, "{wrong:?}");
    }
    let client = node.admin.clone().with_token("secret");
    assert_eq!(send(&client, "GET", RAY).await.0, StatusCode::OK);
    node.deploy(&config("a")).await;
    assert_eq!(send(&node.socket, "GET", RAY).await.0, StatusCode::OK);
}

#[tokio::test]
async fn pages_of_other_origins_may_not_change_anything() {
    let node = Node::start().await;
    node.deploy(&config("a")).await;
    let ask = async |method: Method, path: &str| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("origin", "http://evil.example")
            .body(Bytes::new())
            .unwrap();
        node.admin.send(request).await.unwrap().status()
    };
    assert_eq!(ask(Method::DELETE, RAY).await, StatusCode::FORBIDDEN);
    assert_eq!(ask(Method::POST, "/api/shutdown").await, StatusCode::FORBIDDEN);
    assert_eq!(ask(Method::PUT, RAY).await, StatusCode::FORBIDDEN);
    assert_eq!(ask(Method::GET, RAY).await, StatusCode::OK);
    assert!(node.application("a").await.is_some());
}
