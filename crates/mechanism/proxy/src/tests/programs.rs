//! Applications that are programs.

use super::fakes::{Node, PATIENCE};
use super::{PROMPT, body, get, json_body, post, program, table};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tyndall_transport::{
    Body, BoxError, Handler, Listener, RequestBody, ResponseBody, ServeOptions, empty,
    json as json_response, read_body, serve,
};
use tyndall_types::protocol::{
    ALIVE_PATH, Backpressure, DeploymentRoute, ReplicaRoute, Unavailable,
};
use tyndall_types::{HEADER_NOT_STARTED, ReplicaId};

type Stream = mpsc::Sender<Result<Bytes, BoxError>>;

/// A program that does what the last part of the path says.
#[derive(Clone)]
struct FakeProgram {
    id: String,
    is_draining: bool,
    asked: Arc<AtomicUsize>,
    streams: mpsc::Sender<Stream>,
}

impl Handler for FakeProgram {
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        if request.uri().path() == ALIVE_PATH {
            return empty(StatusCode::NO_CONTENT);
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.is_draining {
            let mut response = empty(StatusCode::SERVICE_UNAVAILABLE);
            let reason = HeaderValue::from_static("draining");
            response.headers_mut().insert(HEADER_NOT_STARTED, reason);
            return response;
        }
        match request.uri().path().rsplit('/').next().unwrap() {
            "hang" => std::future::pending().await,
            "die" => panic!("killed, as the test wants"),
            "stream" => self.stream("foo/bar").await,
            "events" => self.stream("text/event-stream").await,
            _ => self.echo(request).await,
        }
    }
}

impl FakeProgram {
    async fn echo(&self, request: Request<RequestBody>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = read_body(body, 1 << 20).await.unwrap();
        let headers: Value = parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap())))
            .collect();
        let mut response = json_response(
            StatusCode::IM_A_TEAPOT,
            &json!({
                "replica": self.id, "method": parts.method.as_str(),
                "uri": parts.uri.to_string(), "headers": headers,
                "body": String::from_utf8(body.to_vec()).unwrap(),
            }),
        );
        for cookie in ["a=1", "b=2"] {
            response.headers_mut().append(header::SET_COOKIE, HeaderValue::from_static(cookie));
        }
        response
    }

    async fn stream(&self, kind: &'static str) -> Response<Body> {
        let (sender, receiver) = mpsc::channel(8);
        self.streams.send(sender).await.unwrap();
        let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|frame| (frame, receiver))
        });
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", HeaderValue::from_static("7"));
        let end = futures_util::stream::iter([Ok(Frame::trailers(trailers))]);
        let body = StreamBody::new(frames.map(|data| data.map(Frame::data)).chain(end));
        let mut response = Response::new(body.boxed_unsync());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert("x-own", HeaderValue::from_static("1"));
        let names = HeaderValue::from_static("x-checksum");
        response.headers_mut().insert(header::TRAILER, names);
        response
    }
}

/// A program's replica, and what it was asked.
struct Program {
    route: ReplicaRoute,
    asked: Arc<AtomicUsize>,
    streams: mpsc::Receiver<Stream>,
}

impl Program {
    fn start(node: &Node, id: &str, is_draining: bool) -> Self {
        let id = ReplicaId::new(id);
        let socket = node.runtime_dir().replica_socket(&id);
        let (sender, streams) = mpsc::channel(8);
        let asked = Arc::<AtomicUsize>::default();
        let fake =
            FakeProgram { id: id.to_string(), is_draining, asked: asked.clone(), streams: sender };
        let listener = Listener::bind_unix(&socket).unwrap();
        tokio::spawn(serve(listener, fake, ServeOptions::default(), std::future::pending()));
        Self { route: ReplicaRoute::new(id, socket), asked, streams }
    }

    fn times_asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn next_stream(&mut self) -> Stream {
        tokio::time::timeout(PATIENCE, self.streams.recv()).await.unwrap().unwrap()
    }
}

/// An application at `/p` on these replicas.
fn mounted(replicas: &[&Program]) -> DeploymentRoute {
    DeploymentRoute {
        route_prefix: Some("/p".to_owned()),
        replicas: replicas.iter().map(|replica| replica.route.clone()).collect(),
        ..program("app#ingress")
    }
}

/// A proxy that knows one application.
pub(super) async fn node_with(edit: impl FnOnce(&Node) -> DeploymentRoute) -> Node {
    let node = Node::start_without_table().await;
    let route = edit(&node);
    node.publish(table(1, vec![route]));
    let applied = async {
        while get(&node.client, "/-/healthz").await.status() != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, applied).await.unwrap();
    node
}

async fn send(
    node: &Node,
    method: &str,
    path: &str,
    own: &[(&str, &str)],
) -> Response<ResponseBody> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in own {
        request = request.header(*name, *value);
    }
    node.client.send(request.body(Bytes::from_static(b"sent")).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_program_gets_what_was_sent_and_its_answer_is_passed_on() {
    let mut replica = None;
    let node = node_with(|node| {
        let started = Program::start(node, "r0", false);
        let route = mounted(&[&started]);
        replica = Some(started);
        route
    })
    .await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
        let own = [("x-request-id", "id-1"), ("serve_multiplexed_model_id", "m"), ("x-a", "1")];
        let response = send(&node, method, "/p/a%20b/echo?x=1&y", &own).await;
        assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
        assert_eq!(response.headers()["x-request-id"], "id-1");
        assert_eq!(response.headers().get_all(header::SET_COOKIE).iter().count(), 2);
        let echo = json_body(response).await;
        assert_eq!((&echo["method"], &echo["body"]), (&json!(method), &json!("sent")));
        assert_eq!(echo["uri"], "/p/a%20b/echo?x=1&y");
        for (name, value) in own.into_iter().chain([("x-tyndall-root-path", "/p")]) {
            assert_eq!(echo["headers"][name], value, "{echo}");
        }
    }
    let head = send(&node, "HEAD", "/p", &[]).await;
    assert_eq!(head.status(), StatusCode::IM_A_TEAPOT);
    assert!(head.headers()[header::CONTENT_LENGTH].to_str().unwrap().len() > 2);
    assert_eq!(body(head).await, "");
    let id = get(&node.client, "/p").await.headers()["x-request-id"].clone();
    assert_eq!(id.len(), 32);
    node.demand_is("app#ingress", 0, 0).await;
    assert_eq!(get(&node.client, "/pp").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn bodies_in_chunks_are_forwarded_whole() {
    let node = node_with(|node| {
        let started = Program::start(node, "r0", false);
        DeploymentRoute { route_prefix: Some("/".to_owned()), ..mounted(&[&started]) }
    })
    .await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let sent = "POST /v1/models HTTP/1.1\r\nhost: h.example\r\ntransfer-encoding: chunked\r\n\
        connection: close, x-mine\r\nx-mine: 1\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    stream.write_all(sent.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let echo: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!((&echo["body"], &echo["uri"]), (&json!("abcde"), &json!("/v1/models")));
    let headers = echo["headers"].as_object().unwrap();
    assert_eq!((&headers["host"], &headers["content-length"]), (&json!("h.example"), &json!("5")));
    assert_eq!(headers["x-tyndall-root-path"], "");
    assert!(!headers.contains_key("transfer-encoding") && !headers.contains_key("x-mine"));
    // At the root it has all paths but those of the node.
    for (path, status) in [("/health", 418), ("/metrics", 418), ("/", 418), ("/-/x", 404)] {
        assert_eq!(get(&node.client, path).await.status().as_u16(), status, "{path}");
    }
}

#[tokio::test]
async fn a_streamed_answer_comes_as_it_is_made() {
    let mut replica = None;
    let node = node_with(|node| {
        let started = replica.insert(Program::start(node, "r0", false));
        mounted(&[started])
    })
    .await;
    let mut replica = replica.unwrap();
    let client = node.client.clone();
    let request = Request::get("/p/stream").header("te", "trailers").body(Bytes::new()).unwrap();
    let asked = tokio::spawn(async move { client.send(request).await.unwrap() });
    let stream = replica.next_stream().await;
    let mut response = asked.await.unwrap();
    assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY);
    assert_eq!(
        (&response.headers()["x-own"], &response.headers()["content-type"]),
        (&HeaderValue::from_static("1"), &HeaderValue::from_static("foo/bar"))
    );
    for chunk in ["one", "two"] {
        stream.send(Ok(chunk.into())).await.unwrap();
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), chunk);
    }
    node.demand_is("app#ingress", 0, 1).await;
    drop(stream);
    let rest = response.into_body().collect().await.unwrap();
    assert_eq!(rest.trailers().unwrap()["x-checksum"], "7");
    node.demand_is("app#ingress", 0, 0).await;

    // A stream of events is the program's own: nothing is added when it breaks.
    let client = node.client.clone();
    let asked = tokio::spawn(async move { get(&client, "/p/events").await });
    let stream = replica.next_stream().await;
    stream.send(Ok("data: half".into())).await.unwrap();
    let mut response = asked.await.unwrap();
    let frame = response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "data: half");
    stream.send(Err("killed".into())).await.unwrap();
    assert!(response.body_mut().frame().await.unwrap().is_err());
    node.demand_is("app#ingress", 0, 0).await;
}

#[tokio::test]
async fn a_request_past_its_time_is_a_408_or_cut() {
    let mut replica = None;
    let node = node_with(|node| {
        let started = replica.insert(Program::start(node, "r0", false));
        DeploymentRoute { request_timeout_s: 0.05, ..mounted(&[started]) }
    })
    .await;
    for (own, told) in [
        (&[][..], "0.05s"),
        (&[("x-request-timeout-seconds", "soon")], "0.05s"),
        (&[("x-request-timeout-seconds", "0.1")], "0.1s"),
    ] {
        let own = [own, &[("x-request-id", "id-1")]].concat();
        let response = send(&node, "POST", "/p/hang", &own).await;
        assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(body(response).await, format!("Request id-1 timed out after {told}."));
    }
    node.demand_is("app#ingress", 0, 0).await;
    // With no limit it is answered after more than the deployment's.
    let client = node.client.clone();
    let request = |limit: &str| {
        let request = Request::get("/p/stream").header("x-request-timeout-seconds", limit);
        request.body(Bytes::new()).unwrap()
    };
    let (endless, short) = (request("-1"), request("0.2"));
    let asked = tokio::spawn(async move { client.send(endless).await.unwrap() });
    let mut replica = replica.unwrap();
    let stream = replica.next_stream().await;
    stream.send(Ok("a".into())).await.unwrap();
    let response = asked.await.unwrap();
    let late = send(&node, "POST", "/p/hang", &[]).await;
    assert_eq!(late.status(), StatusCode::REQUEST_TIMEOUT, "the deployment's limit has passed");
    drop(stream);
    assert_eq!(body(response).await, "a");
    // After the first byte the answer is cut, and the program sees it.
    let client = node.client.clone();
    let asked = tokio::spawn(async move { client.send(short).await.unwrap() });
    let stream = replica.next_stream().await;
    stream.send(Ok("a".into())).await.unwrap();
    let response = asked.await.unwrap();
    assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY);
    assert!(response.into_body().collect().await.is_err());
    tokio::time::timeout(PATIENCE, stream.closed()).await.unwrap();
    node.demand_is("app#ingress", 0, 0).await;
}

#[tokio::test]
async fn a_full_queue_and_a_program_that_cannot_run_are_told_as_configured() {
    let node = node_with(|_| DeploymentRoute {
        max_queued_requests: 0,
        backpressure: Backpressure { status_code: 429, retry_after_s: Some(6.2) },
        ..mounted(&[])
    })
    .await;
    let full = get(&node.client, "/p").await;
    assert_eq!(full.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(full.headers()[header::RETRY_AFTER], "7");
    assert!(body(full).await.starts_with("Request dropped due to backpressure"));
    let node = node_with(|_| DeploymentRoute { max_queued_requests: 0, ..mounted(&[]) }).await;
    let full = get(&node.client, "/p").await;
    assert_eq!(full.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(full.headers()[header::RETRY_AFTER], "1");
    let why = Unavailable { reason: "no module named x".to_owned(), retry_after_s: 3.0 };
    let node = node_with(|_| DeploymentRoute { unavailable: Some(why), ..mounted(&[]) }).await;
    let unavailable = get(&node.client, "/p").await;
    assert_eq!(unavailable.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(unavailable.headers()[header::RETRY_AFTER], "3");
    assert_eq!(body(unavailable).await, "no module named x");
}

#[tokio::test]
async fn only_what_may_run_twice_is_tried_again_when_a_replica_is_lost() {
    let mut replicas = Vec::new();
    let node = node_with(|node| {
        replicas = ["r0", "r1", "r2", "r3"].map(|id| Program::start(node, id, false)).into();
        mounted(&replicas.iter().collect::<Vec<_>>())
    })
    .await;
    let asked = || replicas.iter().map(Program::times_asked).sum::<usize>();
    for (method, times) in [("POST", 1), ("PATCH", 1), ("GET", 3), ("PUT", 3), ("DELETE", 3)] {
        let before = asked();
        let response = send(&node, method, "/p/die", &[("x-request-id", "id-1")]).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR, "{method}");
        assert!(body(response).await.contains("lost while it worked on request id-1"));
        assert_eq!(asked() - before, times, "{method}");
    }
    node.demand_is("app#ingress", 0, 0).await;
}

#[tokio::test]
async fn what_no_replica_began_goes_to_another_one() {
    let mut replicas = Vec::new();
    let node = node_with(|node| {
        replicas = vec![Program::start(node, "r0", true), Program::start(node, "r1", false)];
        let gone = ReplicaRoute::new(
            ReplicaId::new("r2"),
            node.runtime_dir().replica_socket(&ReplicaId::new("r2")),
        );
        let mut route = mounted(&replicas.iter().collect::<Vec<_>>());
        route.replicas.push(gone);
        route
    })
    .await;
    for _ in 0..10 {
        assert_eq!(json_body(post(&node.client, "/p", PROMPT).await).await["replica"], "r1");
    }
    assert_eq!(replicas[1].times_asked(), 10);
}

#[tokio::test]
async fn what_a_program_never_gets_is_refused_in_plain_text() {
    let mut replica = None;
    let node = node_with(|node| {
        let started = replica.insert(Program::start(node, "r0", false));
        mounted(&[started])
    })
    .await;
    let large = vec![b' '; crate::app::MAX_BODY_BYTES + 1];
    let request = Request::builder().method(Method::PUT).uri("/p").body(large.into()).unwrap();
    // The answer may come while the body is still on its way, and close the connection.
    if let Ok(response) = node.client.send(request).await {
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert!(body(response).await.starts_with("the body is larger than"));
    }
    assert_eq!(replica.unwrap().times_asked(), 0);
    assert!(node.never_reported_demand());
}

#[tokio::test]
async fn a_request_that_waits_for_a_program_when_the_drain_ends_learns_it() {
    let mut node = Node::start_with_drain(std::time::Duration::from_millis(50)).await;
    node.publish(table(1, vec![mounted(&[])]));
    let client = node.client.clone();
    let waiting = tokio::spawn(async move { get(&client, "/p").await });
    node.demand_is("app#ingress", 1, 0).await;
    let stopping = node.begin_stop();
    let refused = waiting.await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body(refused).await, "the server shuts down before it could answer");
    tokio::time::timeout(PATIENCE, stopping).await.unwrap().unwrap();
}
