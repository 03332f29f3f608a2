//! Calls of gRPC.

use super::fakes::{Node, PATIENCE};
use super::{program, programs::node_with, table};
use crate::KeySources;
use crate::grpc::ANSWER_TYPE;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tyndall_transport::{
    Body, Handler, Listener, RequestBody, ServeOptions, Upgrade, empty, full, read_body, serve,
    text,
};
use tyndall_types::protocol::{DeploymentRoute, ReplicaRoute};
use tyndall_types::{HEADER_GRPC, HEADER_NOT_STARTED, ReplicaId};

type Calls = SendRequest<UnsyncBoxBody<Bytes, Infallible>>;

fn frame(flags: u8, content: &[u8]) -> Bytes {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&[flags], &length[..], content].concat().into()
}

fn end(code: u32, details: &str) -> Bytes {
    let json = format!(r#"{{"code": {code}, "details": "{details}", "metadata": [["own", "7"]]}}"#);
    frame(0x80, json.as_bytes())
}

/// A replica that does what the method says.
#[derive(Clone)]
struct Servicer {
    asked: Arc<AtomicUsize>,
    is_draining: bool,
}

impl Handler for Servicer {
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        assert_eq!(request.headers()[HEADER_GRPC], "1");
        if self.is_draining {
            let mut response = empty(StatusCode::SERVICE_UNAVAILABLE);
            response.headers_mut().insert(HEADER_NOT_STARTED, HeaderValue::from_static("draining"));
            return response;
        }
        let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
        match method.as_str() {
            "Plain" => return text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"),
            "Http" => return text(StatusCode::NOT_FOUND, "no such path"),
            "Hangs" => return std::future::pending().await,
            _ => {}
        }
        let told = |name: &str| {
            let value = request.headers().get(name).map(|value| value.to_str().unwrap());
            value.unwrap_or("-").to_owned()
        };
        let metadata = ["application", "x-request-id", "own", "serve_multiplexed_model_id"]
            .map(told)
            .join(" ");
        let peer = told("x-tyndall-peer");
        let frames = move |input: Bytes| match method.as_str() {
            "Echo" => vec![input, frame(0, metadata.as_bytes()), end(0, "")],
            "Peer" => vec![frame(0, peer.as_bytes()), end(0, "")],
            "Refuse" => vec![end(9, "not so")],
            "Stops" => vec![frame(0, b"part")],
            other => panic!("{other}"),
        };
        // How fast the client's words come decides which of both it is.
        if request.method() == Method::GET {
            return converse(request, frames);
        }
        let body = read_body(request.into_body(), 1 << 20).await.unwrap();
        let mut response = Response::new(full(frames(body).concat()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(ANSWER_TYPE));
        response
    }
}

/// Answers by a WebSocket. `Chat` gives back every message at once, and says how many there were.
fn converse(
    mut request: Request<RequestBody>,
    frames: impl FnOnce(Bytes) -> Vec<Bytes> + Send + 'static,
) -> Response<Body> {
    let accept = derive_accept_key(request.headers()[header::SEC_WEBSOCKET_KEY].as_bytes());
    let is_chat = request.uri().path().ends_with("/Chat");
    let upgrade = Upgrade::of(&mut request);
    tokio::spawn(async move {
        let stream = upgrade.stream().await.unwrap();
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        let (mut count, mut input) = (0, BytesMut::new());
        loop {
            match socket.next().await {
                Some(Ok(Message::Binary(message))) if is_chat => {
                    count += 1;
                    socket.send(Message::Binary(message)).await.unwrap();
                }
                Some(Ok(Message::Binary(message))) => input.extend_from_slice(&message),
                Some(Ok(Message::Text(text))) if text == "end" => break,
                _ => return,
            }
        }
        let told = if is_chat {
            vec![end(0, &format!("{count} messages"))]
        } else {
            frames(input.freeze())
        };
        for message in told {
            socket.send(Message::Binary(message)).await.unwrap();
        }
        drop(socket.close(None).await);
    });
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).unwrap());
    response
}

fn start(node: &Node, id: &str, is_draining: bool) -> (ReplicaRoute, Arc<AtomicUsize>) {
    let (id, asked) = (ReplicaId::new(id), Arc::<AtomicUsize>::default());
    let socket = node.runtime_dir().replica_socket(&id);
    let listener = Listener::bind_unix(&socket).unwrap();
    let servicer = Servicer { asked: asked.clone(), is_draining };
    tokio::spawn(serve(listener, servicer, ServeOptions::default(), std::future::pending()));
    (ReplicaRoute::new(id, socket), asked)
}

fn application(name: &str, replicas: Vec<ReplicaRoute>) -> DeploymentRoute {
    let route_prefix = Some(format!("/{name}"));
    DeploymentRoute { route_prefix, replicas, ..program(&format!("{name}#ingress")) }
}

async fn node() -> Node {
    node_with(|node| application("app", vec![start(node, "r0", false).0])).await
}

async fn connect(node: &Node) -> Calls {
    let stream = TcpStream::connect(node.grpc_address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (calls, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    calls
}

fn request(
    path: &str,
    metadata: &[(&str, &str)],
    body: UnsyncBoxBody<Bytes, Infallible>,
) -> Request<UnsyncBoxBody<Bytes, Infallible>> {
    let mut request = Request::post(format!("http://host{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in metadata {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

/// What a client makes of an answer: messages, and how it ended.
async fn outcome(response: Response<hyper::body::Incoming>) -> (Vec<u8>, HeaderMap) {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc");
    let head = response.headers().clone();
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or(head);
    (collected.to_bytes().to_vec(), trailers)
}

async fn call(calls: &mut Calls, path: &str, metadata: &[(&str, &str)]) -> (Vec<u8>, HeaderMap) {
    let body = Full::new(frame(0, b"hello")).boxed_unsync();
    let sent = calls.send_request(request(path, metadata, body));
    let response = tokio::time::timeout(PATIENCE, sent).await.unwrap().unwrap();
    outcome(response).await
}

fn status(trailers: &HeaderMap) -> (&str, &str) {
    let text = |name| trailers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default();
    (text("grpc-status"), text("grpc-message"))
}

#[tokio::test]
async fn a_call_is_answered_by_the_application() {
    let node = node().await;
    let mut calls = connect(&node).await;
    let metadata = [("request_id", "id-1"), ("own", "x"), ("multiplexed_model_id", "m")];
    let (messages, trailers) = call(&mut calls, "/a.B/Echo", &metadata).await;
    assert_eq!(messages, [frame(0, b"hello"), frame(0, b"app id-1 x m")].concat());
    assert_eq!(status(&trailers), ("0", ""));
    assert_eq!((trailers["request_id"] == "id-1", trailers["own"] == "7"), (true, true));
    let (messages, trailers) = call(&mut calls, "/a.B/Peer", &[("x-tyndall-peer", "forged")]).await;
    assert!(messages[5..].starts_with(b"ipv4:127.0.0.1:"), "{messages:?}");
    assert_eq!(trailers["request_id"].len(), 32);
    let (messages, trailers) = call(&mut calls, "/a.B/Refuse", &[]).await;
    assert_eq!((messages.len(), status(&trailers)), (0, ("9", "not so")));
    assert_eq!(trailers["own"], "7");
    let page =
        node.client.send(Request::get("/metrics").body(Bytes::new()).unwrap()).await.unwrap();
    let page = super::body(page).await;
    let counted = page.lines().filter(|line| line.contains("handler=\"grpc\"")).count();
    assert!(counted > 0, "{page}");
}

#[tokio::test]
async fn a_client_that_goes_on_is_answered_meanwhile() {
    let node = node().await;
    let mut calls = connect(&node).await;
    let (sender, receiver) = mpsc::channel::<Bytes>(4);
    let parts = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|part| (Ok(Frame::data(part)), receiver))
    });
    let sent = calls.send_request(request("/a.B/Chat", &[], StreamBody::new(parts).boxed_unsync()));
    let response = tokio::time::timeout(PATIENCE, sent).await.unwrap().unwrap();
    let mut body = response.into_body();
    let mut told = BytesMut::new();
    for (number, cut) in [(1_u8, 3), (2, 7), (3, 5)] {
        let message = frame(0, &[number; 4]);
        sender.send(message.slice(..cut)).await.unwrap();
        sender.send(message.slice(cut..)).await.unwrap();
        while told.len() < 9 {
            told.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        assert_eq!(told.split(), message);
    }
    drop(sender);
    let trailers = body.collect().await.unwrap().trailers().cloned().unwrap();
    assert_eq!(status(&trailers), ("0", "3 messages"));
    // One that leaves in the middle is ended in the replica too.
    let (sender, receiver) = mpsc::channel::<Bytes>(4);
    let parts = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|part: Bytes| (Ok(Frame::data(part)), receiver))
    });
    let sent = calls.send_request(request("/a.B/Chat", &[], StreamBody::new(parts).boxed_unsync()));
    let response = tokio::time::timeout(PATIENCE, sent).await.unwrap().unwrap();
    node.demand_is("app#ingress", 0, 1).await;
    drop((response, sender));
    node.demand_is("app#ingress", 0, 0).await;
}

#[tokio::test]
async fn what_is_not_answered_has_a_code() {
    let node = node().await;
    let mut calls = connect(&node).await;
    let mut check = async |path: &str, metadata: &[(&str, &str)], expected: (&str, &str)| {
        let (_, trailers) = call(&mut calls, path, metadata).await;
        let (code, details) = status(&trailers);
        assert_eq!(
            (code, details.starts_with(expected.1)),
            (expected.0, true),
            "{path}: {details}"
        );
        assert!(trailers.contains_key("request_id"));
    };
    check("/a.B/Stops", &[], ("13", "the replica's answer has no end")).await;
    check("/a.B/Plain", &[], ("13", "Internal Server Error")).await;
    check("/a.B/Http", &[], ("12", "the application does not answer gRPC")).await;
    check("/a.B/Hangs", &[("grpc-timeout", "50m")], ("4", "Request timed out after 0.05s.")).await;
    check("/a.B/Echo", &[("application", "b")], ("5", "Application 'b' not found. Ping ")).await;
    check("/ray.serve.RayServeAPIService/Other", &[], ("12", "there is no method")).await;
    // One that has no end, and one that is larger than is taken.
    let half = Full::new(frame(0, b"hello").slice(..7)).boxed_unsync();
    let sent = calls.send_request(request("/a.B/Echo", &[], half)).await.unwrap();
    assert_eq!(status(&outcome(sent).await.1).1, "the input ends in the midst of a message");
    let sent = calls.send_request(request(
        "/a.B/Echo",
        &[],
        Full::new(Bytes::from_static(&[0, 255, 255, 255, 255, 1])).boxed_unsync(),
    ));
    assert_eq!(status(&outcome(sent.await.unwrap()).await.1).0, "8");
    let plain = Request::post("http://host/a.B/Echo").body(Full::default().boxed_unsync()).unwrap();
    let refused = calls.send_request(plain).await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn a_call_goes_to_another_replica_where_none_has_begun_it() {
    let mut asked = Vec::new();
    let node = node_with(|node| {
        let (draining, of_draining) = start(node, "r0", true);
        let (other, of_other) = start(node, "r1", false);
        asked = vec![of_draining, of_other];
        application("app", vec![draining, other])
    })
    .await;
    let mut calls = connect(&node).await;
    for _ in 0..8 {
        assert_eq!(status(&call(&mut calls, "/a.B/Echo", &[]).await.1), ("0", ""));
    }
    assert_eq!(asked[1].load(Ordering::SeqCst), 8);
}

#[tokio::test]
async fn applications_are_named_and_models_are_none() {
    let node = node().await;
    let mut calls = connect(&node).await;
    let own = "/ray.serve.RayServeAPIService/";
    let (messages, trailers) = call(&mut calls, &format!("{own}ListApplications"), &[]).await;
    assert_eq!((&messages[5..], status(&trailers)), (&b"\x0a\x03app"[..], ("0", "")));
    let (replica, _) = start(&node, "r1", false);
    let model = DeploymentRoute {
        deployment: "llm".to_owned().try_into().unwrap(),
        ..super::fakes::route("llm")
    };
    node.publish(table(2, vec![application("other", vec![replica]), model]));
    let named =
        async |calls: &mut Calls, name| call(calls, "/a.B/Echo", &[("application", name)]).await;
    let applied = async {
        while status(&named(&mut calls, "other").await.1).0 != "0" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, applied).await.unwrap();
    let (_, trailers) = call(&mut calls, "/a.B/Echo", &[]).await;
    let details = "Application metadata not set. Ping /ray.serve.RayServeAPIService/ListApplications \
                   for available applications.";
    assert_eq!(status(&trailers), ("5", details));
    let (_, trailers) = named(&mut calls, "llm").await;
    assert_eq!(status(&trailers).0, "12");
    let healthz = format!("{own}Healthz");
    let (messages, trailers) = call(&mut calls, &healthz, &[]).await;
    assert_eq!((&messages[5..], status(&trailers).0), (&b"\x0a\x07success"[..], "0"));
}

#[tokio::test]
async fn who_waits_at_the_end_is_told() {
    let mut node = Node::start_with_drain(Duration::from_millis(300)).await;
    node.publish(table(1, vec![application("app", vec![start(&node, "r0", false).0])]));
    let mut calls = connect(&node).await;
    let waits = tokio::spawn(calls.send_request(request(
        "/a.B/Hangs",
        &[],
        Full::new(frame(0, b"")).boxed_unsync(),
    )));
    node.demand_is("app#ingress", 0, 1).await;
    let ended = node.begin_stop();
    let (_, trailers) = outcome(waits.await.unwrap().unwrap()).await;
    assert_eq!(status(&trailers), ("14", "the server shuts down before it could answer"));
    tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn keys_are_wanted_here_too() {
    let node = Node::start_with_keys(super::fakes::route("llm"), KeySources::default()).await;
    let mut calls = connect(&node).await;
    for (metadata, code) in [
        (&[][..], "16"),
        (&[("authorization", "Bearer wrong")][..], "16"),
        // The only application takes no calls, which nobody else learns.
        (&[("authorization", "Bearer root")][..], "12"),
    ] {
        assert_eq!(status(&call(&mut calls, "/a.B/Echo", metadata).await.1).0, code);
    }
    let own = "/ray.serve.RayServeAPIService/Healthz";
    assert_eq!(status(&call(&mut calls, own, &[]).await.1).0, "0");
}
