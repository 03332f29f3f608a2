//! WebSockets to applications that are programs.

use super::fakes::{Node, PATIENCE};
use super::programs::node_with;
use super::{body, program, table};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, split};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tyndall_transport::{
    Body, Handler, Listener, RequestBody, ResponseBody, ServeOptions, Upgrade, Upgraded, empty,
    serve, text,
};
use tyndall_types::protocol::{ALIVE_PATH, DeploymentRoute, ReplicaRoute};
use tyndall_types::{HEADER_NOT_STARTED, ReplicaId};

/// A program that says back whatever a tunnel brings, or does what the last part of the path says.
#[derive(Clone)]
struct Echo {
    is_draining: bool,
    asked: Arc<AtomicUsize>,
    /// Echoes that run; aborting one breaks its tunnel.
    tunnels: mpsc::Sender<JoinHandle<()>>,
}

impl Handler for Echo {
    async fn handle(&self, mut request: Request<RequestBody>) -> Response<Body> {
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
        let headers = request.headers().clone();
        match request.uri().path().rsplit('/').next().unwrap() {
            "refuse" => return text(StatusCode::FORBIDDEN, "not you"),
            "hang" => return std::future::pending().await,
            "die" => panic!("killed, as the test wants"),
            _ => {}
        }
        let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
        for (name, value) in
            [("connection", "upgrade, x-hop"), ("upgrade", "websocket"), ("x-hop", "1")]
        {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY).cloned();
        let key = key.unwrap_or(HeaderValue::from_static("none"));
        response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, key);
        let root_path = headers["x-tyndall-root-path"].clone();
        response.headers_mut().insert("x-root", root_path);
        if headers[header::UPGRADE] == "websocket" {
            let upgrade = Upgrade::of(&mut request);
            let echo = tokio::spawn(async move {
                let (mut read, mut write) = split(upgrade.stream().await.unwrap());
                copy(&mut read, &mut write).await.unwrap();
                write.write_all(b"bye").await.unwrap();
            });
            self.tunnels.send(echo).await.unwrap();
        }
        response
    }
}

struct Program {
    route: ReplicaRoute,
    asked: Arc<AtomicUsize>,
    tunnels: mpsc::Receiver<JoinHandle<()>>,
}

impl Program {
    fn start(node: &Node, id: &str, is_draining: bool) -> Self {
        let id = ReplicaId::new(id);
        let socket = node.runtime_dir().replica_socket(&id);
        let (sender, tunnels) = mpsc::channel(8);
        let asked = Arc::<AtomicUsize>::default();
        let echo = Echo { is_draining, asked: asked.clone(), tunnels: sender };
        let listener = Listener::bind_unix(&socket).unwrap();
        tokio::spawn(serve(listener, echo, ServeOptions::default(), std::future::pending()));
        Self { route: ReplicaRoute::new(id, socket), asked, tunnels }
    }
}

fn mounted(replicas: &[Program]) -> DeploymentRoute {
    DeploymentRoute {
        route_prefix: Some("/p".to_owned()),
        replicas: replicas.iter().map(|replica| replica.route.clone()).collect(),
        ..program("app#ingress")
    }
}

/// A proxy with an application on replicas, each of which drains or does not.
async fn start(draining: &[bool]) -> (Node, Vec<Program>) {
    let mut replicas = Vec::new();
    let node = node_with(|node| {
        let named = draining.iter().enumerate();
        replicas.extend(
            named.map(|(n, is_draining)| Program::start(node, &format!("r{n}"), *is_draining)),
        );
        mounted(&replicas)
    })
    .await;
    (node, replicas)
}

async fn handshake(node: &Node, path: &str, own: &[(&str, &str)]) -> Response<ResponseBody> {
    let mut request = Request::get(path)
        .header("connection", "keep-alive, Upgrade")
        .header("upgrade", "WebSocket")
        .header("sec-websocket-key", "k");
    for (name, value) in own {
        request = request.header(*name, *value);
    }
    let sent = node.client.send(request.body(Bytes::new()).unwrap());
    timeout(PATIENCE, sent).await.unwrap().unwrap()
}

async fn open(node: &Node) -> Upgraded {
    let answer = handshake(node, "/p/a", &[]).await;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    answer.into_body().upgrade().unwrap()
}

async fn says_back(tunnel: &mut Upgraded, sent: &[u8]) {
    let (mut read, mut write) = split(tunnel);
    let mut back = vec![0; sent.len()];
    let (written, read) = tokio::join!(write.write_all(sent), read.read_exact(&mut back));
    written.unwrap();
    read.unwrap();
    assert!(back == sent);
}

/// Up to its end, which may be torn.
async fn rest(mut tunnel: Upgraded) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, tunnel.read_to_end(&mut rest)).await.unwrap();
    drop(read);
    rest
}

#[tokio::test]
async fn a_handshake_opens_a_tunnel_that_holds_the_permit() {
    let (node, _replicas) = start(&[false]).await;
    let answer = handshake(&node, "/p/a", &[("x-request-id", "id-1")]).await;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    let headers = answer.headers();
    for (name, value) in [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-accept", "k"),
        ("x-root", "/p"),
        ("x-request-id", "id-1"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert!(!headers.contains_key("x-hop"));
    let mut tunnel = answer.into_body().upgrade().unwrap();
    says_back(&mut tunnel, b"a").await;
    says_back(&mut tunnel, &vec![7; 1 << 20]).await;
    node.demand_is("app#ingress", 0, 1).await;
    let page = node.client.get_text("/-/metrics").await.unwrap();
    assert!(!page.contains("method=\"WS\""), "it is not over");
    // What the replica says to the client's end still comes.
    tunnel.shutdown().await.unwrap();
    assert_eq!(rest(tunnel).await, b"bye");
    node.demand_is("app#ingress", 0, 0).await;
    let counted = async {
        while !node
            .client
            .get_text("/-/metrics")
            .await
            .unwrap()
            .contains("method=\"WS\",status=\"101\"")
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, counted).await.unwrap();
}

#[tokio::test]
async fn the_time_of_a_request_bounds_the_handshake_only() {
    let (node, mut replicas) = start(&[false]).await;
    let limit = [("x-request-timeout-seconds", "0.1"), ("x-request-id", "id-1")];
    let answer = handshake(&node, "/p/a", &limit).await;
    let mut tunnel = answer.into_body().upgrade().unwrap();
    let late = handshake(&node, "/p/hang", &limit).await;
    assert_eq!(late.status(), StatusCode::REQUEST_TIMEOUT);
    assert_eq!(body(late).await, "Request id-1 timed out after 0.1s.");
    says_back(&mut tunnel, b"still here").await;
    let echo = replicas[0].tunnels.recv().await.unwrap();
    drop(tunnel);
    // The replica sees the end; whether its last words still find anybody is open.
    drop(timeout(PATIENCE, echo).await.unwrap());
    node.demand_is("app#ingress", 0, 0).await;
}

#[tokio::test]
async fn other_answers_are_passed_on_and_others_do_not_become_tunnels() {
    let (node, replicas) = start(&[false]).await;
    let refused = handshake(&node, "/p/refuse", &[]).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert_eq!(body(refused).await, "not you");
    let lost = handshake(&node, "/p/die", &[]).await;
    assert_eq!(lost.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(replicas[0].asked.load(Ordering::SeqCst), 1 + 3, "a handshake may run twice");
    node.demand_is("app#ingress", 0, 0).await;
}

#[tokio::test]
async fn a_handshake_that_no_replica_took_goes_to_another() {
    let (node, replicas) = start(&[true, false, true]).await;
    for _ in 0..4 {
        says_back(&mut open(&node).await, b"a").await;
    }
    assert_eq!(replicas[1].asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_replica_that_is_lost_ends_its_tunnels() {
    let (node, mut replicas) = start(&[false]).await;
    let mut tunnel = open(&node).await;
    says_back(&mut tunnel, b"a").await;
    replicas[0].tunnels.recv().await.unwrap().abort();
    assert_eq!(rest(tunnel).await, b"");
    node.demand_is("app#ingress", 0, 0).await;
    says_back(&mut open(&node).await, b"the next one").await;
}

#[tokio::test]
async fn a_proxy_that_drains_keeps_tunnels_up_to_its_drain_time() {
    for (drain, ends_by_itself) in [(PATIENCE, true), (Duration::from_millis(50), false)] {
        let mut node = Node::start_with_drain(drain).await;
        let replicas = [Program::start(&node, "r0", false)];
        node.publish(table(1, vec![mounted(&replicas)]));
        let applied = async {
            while handshake(&node, "/p/refuse", &[]).await.status() != StatusCode::FORBIDDEN {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, applied).await.unwrap();
        let mut tunnel = open(&node).await;
        let stopping = node.begin_stop();
        if ends_by_itself {
            node.refuses_connections().await;
            says_back(&mut tunnel, b"a").await;
            drop(tunnel);
        } else {
            assert_eq!(rest(tunnel).await, b"");
        }
        timeout(PATIENCE, stopping).await.unwrap().unwrap();
    }
}
