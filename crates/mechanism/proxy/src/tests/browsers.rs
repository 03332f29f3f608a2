//! What browsers get: the chat page, and what pages of other origins may do.

use super::fakes::{Behaviour, Node, PATIENCE, Replica, program, route, table};
use super::{PROMPT, body, get};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use tyndall_transport::ResponseBody;
use tyndall_types::protocol::DeploymentRoute;
use tyndall_types::{Allowed, CorsConfig};

const PAGE: &str = "https://a.example";

async fn lets_one_origin_in() -> Node {
    let cors = CorsConfig {
        origins: Allowed::Only(vec![PAGE.to_owned()]),
        methods: Allowed::Any,
        headers: Allowed::Any,
        credentials: false,
        max_age_s: 600,
    };
    let node = Node::start_with_cors(PATIENCE, Some(cors)).await;
    let mounted = DeploymentRoute { route_prefix: Some("/p".to_owned()), ..program("app#d") };
    node.publish(table(1, vec![route("demo"), mounted]));
    node.edit(|_| {}).await;
    node
}

async fn ask(node: &Node, method: Method, path: &str) -> Response<ResponseBody> {
    let request = Request::builder().method(method.clone()).uri(path).header("origin", PAGE);
    let request = match method {
        Method::OPTIONS => request.header("access-control-request-method", "POST"),
        _ => request,
    };
    let sent = if method == Method::POST { PROMPT } else { "" };
    node.client.send(request.body(Bytes::from(sent)).unwrap()).await.unwrap()
}

fn let_in(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn pages_that_are_let_in_may_read_answers_of_models_and_their_errors() {
    let node = lets_one_origin_in().await;
    for (method, path, status) in [
        (Method::OPTIONS, "/v1/chat/completions", 204),
        (Method::OPTIONS, "/v1/nothing", 204),
        (Method::GET, "/v1/models", 200),
        (Method::GET, "/v1/completions", 405),
        (Method::GET, "/v1/nothing", 404),
    ] {
        let response = ask(&node, method, path).await;
        assert_eq!(response.status().as_u16(), status, "{path}");
        assert_eq!(let_in(response.headers()), Some(PAGE), "{path}");
        assert_eq!(response.headers()[header::VARY], "origin");
    }
    assert!(node.never_reported_demand(), "a preflight wakes nothing");
    let replica = Replica::start(&node, "r0", Behaviour::Echo);
    node.edit(|demo| demo.replicas = vec![replica.route()]).await;
    let answer = ask(&node, Method::POST, "/generate").await;
    assert_eq!((answer.status(), let_in(answer.headers())), (StatusCode::OK, Some(PAGE)));
    assert!(answer.headers().contains_key("x-request-id"));
}

#[tokio::test]
async fn programs_and_pages_about_the_node_speak_for_themselves() {
    let node = lets_one_origin_in().await;
    for path in ["/-/routes", "/"] {
        let response = ask(&node, Method::GET, path).await;
        assert_eq!((response.status(), let_in(response.headers())), (StatusCode::OK, None));
    }
    let replica = Replica::start(&node, "r0", Behaviour::Echo);
    let mut app = DeploymentRoute { route_prefix: Some("/p".to_owned()), ..program("app#d") };
    app.replicas = vec![replica.route()];
    node.publish(table(3, vec![route("demo"), app]));
    node.edit(|_| {}).await;
    let request = Request::options("/p").header("origin", PAGE);
    let request = request.header("access-control-request-method", "POST");
    let request = request.body(Bytes::from("{}")).unwrap();
    let response = node.client.send(request).await.unwrap();
    // The program's own answer, to an `OPTIONS` that it got itself.
    assert_eq!((response.status(), let_in(response.headers())), (StatusCode::OK, None));
    assert!(body(response).await.contains("r0"));
}

#[tokio::test]
async fn without_a_configuration_no_page_of_another_origin_is_let_in() {
    let node = Node::start(route("demo")).await;
    let response = ask(&node, Method::OPTIONS, "/v1/chat/completions").await;
    assert_eq!((response.status(), let_in(response.headers())), (StatusCode::FORBIDDEN, None));
    assert!(body(response).await.contains("--cors-origins https://a.example"));
    let response = ask(&node, Method::GET, "/v1/models").await;
    assert_eq!((response.status(), let_in(response.headers())), (StatusCode::OK, None));
}

#[tokio::test]
async fn the_chat_page_is_at_the_root_and_is_only_read() {
    let node = Node::start(route("demo")).await;
    let response = get(&node.client, "/").await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
    assert!(body(response).await.starts_with("<!doctype html>"));
    let response = ask(&node, Method::POST, "/").await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers()[header::ALLOW], "GET");
}
