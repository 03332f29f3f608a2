//! WebSockets of a replica in this process: of another language's deployment, and of a router.

use super::*;
use crate::application::Application;
use crate::context::RequestContext;
use crate::deployment::Deployment;
use crate::foreign::{Adapter, Foreign};
use crate::options::DeploymentOptions;
use crate::websocket::{Close, Handshake, Message, Outgoing};
use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::json;
use std::path::PathBuf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::Frame as RawFrame};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message as Frame};
use tokio_tungstenite::{WebSocketStream, client_async};
use tyndall_transport::Upgrade;
use tyndall_types::protocol::{ProgramConfig, ReplicaStatus};
use tyndall_types::{ApplicationName, ReplicaState};

const PATIENCE: Duration = Duration::from_secs(30);

/// Says back what it hears, and tells the test how it ended.
struct Echo(mpsc::Sender<Close>);

impl Foreign for Echo {
    fn call(&self, _: &str, body: Bytes, _: RequestContext) -> BoxFuture<'static, Result<Bytes>> {
        std::future::ready(Ok(body)).boxed()
    }

    fn stream(&self, _: &str, body: Bytes, _: RequestContext) -> BoxStream<'static, Result<Bytes>> {
        futures_util::stream::iter([Ok(body)]).boxed()
    }

    fn http(&self, _: Request, _: RequestContext) -> BoxFuture<'static, Response> {
        std::future::ready("over HTTP".into_response()).boxed()
    }

    fn websocket(
        &self,
        request: Request,
        handshake: Handshake,
        context: RequestContext,
    ) -> BoxFuture<'static, Response> {
        assert_eq!(context.deadline, None);
        if request.uri().path() == "/refuse" {
            return std::future::ready(StatusCode::FORBIDDEN.into_response()).boxed();
        }
        let protocol = handshake.protocols().last();
        let protocol = protocol.map(|name| HeaderValue::from_str(name).unwrap());
        let mut headers = HeaderMap::new();
        headers.insert("x-own", HeaderValue::from_static("1"));
        let (response, sender, mut receiver) = handshake.accept(protocol, headers);
        let ends = self.0.clone();
        let is_deaf = request.uri().path() == "/deaf";
        tokio::spawn(async move {
            while is_deaf && sender.send(Outgoing::Message(Message::Text("so".into()))).await {}
            let end = loop {
                let answer = match receiver.next().await {
                    Ok(Message::Text(text)) if text.as_str() == "close" => {
                        Outgoing::Close(Close::new(4001, "ä".repeat(100)))
                    }
                    Ok(Message::Text(text)) if text.as_str() == "drop" => {
                        drop(sender);
                        break receiver.next().await.unwrap_err();
                    }
                    Ok(message) => Outgoing::Message(message),
                    Err(end) => break end,
                };
                sender.send(answer).await;
            };
            ends.send(end).await.unwrap();
        });
        std::future::ready(response).boxed()
    }

    fn reconfigure(&self, _: Value) -> BoxFuture<'_, Result<()>> {
        std::future::ready(Ok(())).boxed()
    }

    fn check_health(&self) -> BoxFuture<'_, Result<()>> {
        std::future::ready(Ok(())).boxed()
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

/// A deployment in Rust whose router has a route that leaves HTTP.
struct Raw;

impl Deployment for Raw {
    type Init = ();
    type Request = ();
    type Response = ();

    async fn start(_init: (), _context: ReplicaContext) -> Result<Self> {
        Ok(Self)
    }

    async fn call(&self, (): ()) -> Result<()> {
        Ok(())
    }

    fn router(self: Arc<Self>) -> Router {
        Router::new().route("/ws", any(raw))
    }
}

async fn raw(mut request: Request) -> Response {
    let upgrade = Upgrade::of(&mut request);
    tokio::spawn(async move {
        let mut stream = upgrade.stream().await.unwrap();
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).await.unwrap();
        stream.write_all(&heard).await.unwrap();
        assert_eq!(stream.read(&mut heard).await.unwrap(), 0);
    });
    let headers = [("connection", "upgrade"), ("upgrade", "mine")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

struct Process {
    client: Client,
    socket: PathBuf,
    ends: mpsc::Receiver<Close>,
    stop: oneshot::Sender<()>,
    replica: JoinHandle<Result<(), ReplicaError>>,
    _dir: tempfile::TempDir,
}

impl Process {
    async fn of_foreign(drain_s: f64) -> Self {
        let (sender, ends) = mpsc::channel(8);
        let start = move |started: ReplicaStart| {
            let adapter = Adapter::new(Arc::new(Echo(sender)), started.context);
            std::future::ready(Ok(Arc::new(adapter) as Arc<dyn Servant>)).boxed()
        };
        Self::start("Echo", drain_s, ends, start).await
    }

    async fn of_router() -> Self {
        let build = from_application(|_| Application::new(Raw::bind(())).build());
        Self::start("Raw", 20.0, mpsc::channel(8).1, build).await
    }

    async fn start(
        name: &str,
        drain_s: f64,
        ends: mpsc::Receiver<Close>,
        start: impl Start + Send + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime_dir = RuntimeDir(dir.path().to_owned());
        let id = ReplicaId::new("r0");
        let socket = runtime_dir.replica_socket(&id);
        let init = ProgramInit { args: json!({}), init: json!(null) };
        let program = ProgramConfig {
            executable: "/p".into(),
            deployment: name.to_owned(),
            init: serde_json::to_value(init).unwrap(),
            ..ProgramConfig::default()
        };
        let options = DeploymentOptions::new(name).graceful_shutdown_timeout_s(drain_s);
        let config = options.resolve(&ApplicationName::new("app").unwrap(), program).unwrap();
        let options = ReplicaOptions {
            runtime_dir,
            id,
            config,
            rank: 0,
            gang: None,
            started_at: Instant::now(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let replica = tokio::spawn(run(options, false, start, async { drop(stopped.await) }));
        let client = Client::unix(&socket);
        let this = Self { client, socket, ends, stop, replica, _dir: dir };
        let running = async {
            while this.status().await.is_none_or(|status| status.state != ReplicaState::Running) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, running).await.unwrap();
        this
    }

    async fn status(&self) -> Option<ReplicaStatus> {
        self.client.get("/-/status").await.ok()
    }

    async fn ongoing_is(&self, ongoing: u32) {
        let reached = async {
            while self.status().await.unwrap().ongoing != ongoing {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap();
    }

    async fn open(&self) -> WebSocketStream<UnixStream> {
        let (socket, response) = self.handshake("/a", &[]).await.unwrap();
        assert_eq!(response.headers()["x-own"], "1");
        socket
    }

    async fn handshake(
        &self,
        path: &str,
        own: &[(&'static str, &'static str)],
    ) -> Result<(WebSocketStream<UnixStream>, http::Response<Option<Vec<u8>>>), SocketError> {
        let mut request = format!("ws://host{path}").into_client_request().unwrap();
        for (name, value) in own {
            request.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        timeout(PATIENCE, client_async(request, stream)).await.unwrap()
    }

    async fn end(&mut self) -> (u16, String) {
        let Close { code, reason } = timeout(PATIENCE, self.ends.recv()).await.unwrap().unwrap();
        (code, reason)
    }
}

async fn next(socket: &mut WebSocketStream<UnixStream>) -> Option<Frame> {
    timeout(PATIENCE, socket.next()).await.unwrap().transpose().unwrap()
}

fn closed(code: u16, reason: &str) -> Frame {
    Frame::Close(Some(CloseFrame { code: code.into(), reason: reason.into() }))
}

#[tokio::test]
async fn messages_go_both_ways_and_either_side_may_close() {
    let mut process = Process::of_foreign(20.0).await;
    let own = [("sec-websocket-protocol", "a, b"), ("x-request-timeout-seconds", "1")];
    let (mut socket, response) = process.handshake("/a", &own).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "b");
    for message in ["hi".into(), Frame::binary(vec![7; 1 << 20]), Frame::binary(Bytes::new())] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(next(&mut socket).await, Some(message));
    }
    socket.send(Frame::Ping("a".into())).await.unwrap();
    assert_eq!(next(&mut socket).await, Some(Frame::Pong("a".into())));
    process.ongoing_is(1).await;
    let frame = CloseFrame { code: CloseCode::Away, reason: "off".into() };
    socket.close(Some(frame)).await.unwrap();
    assert_eq!(next(&mut socket).await, Some(closed(1001, "off")));
    assert_eq!(process.end().await, (1001, "off".to_owned()));
    process.ongoing_is(0).await;

    let mut socket = process.open().await;
    socket.send("close".into()).await.unwrap();
    assert_eq!(next(&mut socket).await, Some(closed(4001, &"ä".repeat(61))));
    assert_eq!(next(&mut socket).await, None);
    assert_eq!(process.end().await.0, 4001);
    let mut socket = process.open().await;
    socket.send("drop".into()).await.unwrap();
    assert_eq!(next(&mut socket).await, Some(closed(1000, "")));
    assert_eq!(next(&mut socket).await, None);
    assert_eq!(process.end().await.0, 1000);
    process.ongoing_is(0).await;
}

#[tokio::test]
async fn clients_that_vanish_or_break_the_rules_are_told_to_the_deployment() {
    let mut process = Process::of_foreign(20.0).await;
    drop(process.open().await);
    assert_eq!(process.end().await, (1006, String::new()));
    let mut socket = process.open().await;
    let torn = RawFrame::from_payload(
        tokio_tungstenite::tungstenite::protocol::frame::FrameHeader {
            opcode: 3.into(),
            ..Default::default()
        },
        Bytes::new(),
    );
    socket.send(Frame::Frame(torn)).await.unwrap();
    let Some(Frame::Close(Some(CloseFrame { code, .. }))) = next(&mut socket).await else {
        panic!("not closed")
    };
    assert_eq!(u16::from(code), 1002);
    drop(socket);
    assert_eq!(process.end().await.0, 1002);
    process.ongoing_is(0).await;
}

#[tokio::test]
async fn code_that_only_talks_learns_that_its_client_is_gone() {
    let mut process = Process::of_foreign(20.0).await;
    let (mut socket, _) = process.handshake("/deaf", &[]).await.unwrap();
    // More than waits for the code: its client's end is not read.
    for _ in 0..100 {
        socket.send("hear me".into()).await.unwrap();
    }
    assert_eq!(next(&mut socket).await, Some("so".into()));
    drop(socket);
    // What was read before is there first.
    assert_eq!(process.end().await.0, 1006);
    process.ongoing_is(0).await;
}

#[tokio::test]
async fn handshakes_that_are_none_are_answered() {
    let process = Process::of_foreign(20.0).await;
    for (path, own, status) in [
        ("/refuse", &[][..], StatusCode::FORBIDDEN),
        ("/a", &[("sec-websocket-version", "8")], StatusCode::UPGRADE_REQUIRED),
    ] {
        let Err(SocketError::Http(refused)) = process.handshake(path, own).await else {
            panic!("accepted")
        };
        assert_eq!(refused.status(), status);
    }
    assert_eq!(process.client.get_text("/a").await.unwrap(), "over HTTP");
    process.ongoing_is(0).await;
}

#[tokio::test]
async fn what_is_open_when_the_drain_time_is_over_is_told_to_come_again() {
    let mut process = Process::of_foreign(0.4).await;
    let mut socket = process.open().await;
    process.stop.send(()).unwrap();
    socket.send("still there".into()).await.unwrap();
    assert_eq!(next(&mut socket).await, Some("still there".into()));
    assert_eq!(next(&mut socket).await, Some(closed(1012, "the replica ends")));
    assert_eq!(next(&mut socket).await, None);
    let end = timeout(PATIENCE, process.ends.recv()).await.unwrap().unwrap();
    assert_eq!(end.code, 1012);
    timeout(PATIENCE, process.replica).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn routers_may_leave_http() {
    let process = Process::of_router().await;
    let request =
        http::Request::get("/ws").header("connection", "upgrade").header("upgrade", "mine");
    let answer = process.client.send(request.body(Bytes::new()).unwrap()).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["upgrade"]),
        (101, &"mine".parse().unwrap())
    );
    let mut stream = answer.into_body().upgrade().unwrap();
    process.ongoing_is(1).await;
    stream.write_all(b"said").await.unwrap();
    let mut heard = [0; 4];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, *b"said");
    process.stop.send(()).unwrap();
    drop(stream);
    timeout(PATIENCE, process.replica).await.unwrap().unwrap().unwrap();
}
