//! A controller and replicas that do as a test says.

use crate::{GrpcOptions, KeySources, ProxyOptions, run_until};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tyndall_api_keys::{Key, KeyName};
use tyndall_transport::{
    Body, BoxError, Client, Handler, Listener, RequestBody, ServeOptions, empty,
    json as json_response, line_channel, read_body, serve, text,
};
use tyndall_types::protocol::{
    Backpressure, DemandReport, DeploymentRoute, GenerateDefaults, KeyUsage, KeyUsageReport,
    ModelRoute, ModelTask, ReplicaRoute, RouteTable, RuntimeDir,
};
use tyndall_types::{CorsConfig, DeploymentId, HEADER_NOT_STARTED, HEADER_USAGE, ReplicaId};

/// No wait of a test is longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn route(model: &str) -> DeploymentRoute {
    DeploymentRoute {
        deployment: DeploymentId::try_from(model.to_owned()).unwrap(),
        order: 1,
        route_prefix: Some("/".to_owned()),
        is_ingress: true,
        model: Some(ModelRoute {
            id: model.to_owned(),
            aliases: Vec::new(),
            task: ModelTask::Generate,
            created_s: 1,
            generate: GenerateDefaults { max_new_tokens: 8, temperature: 0.0, top_p: 1.0 },
            max_model_len: Some(512),
            prefix_affinity: None,
        }),
        max_ongoing_requests: 8,
        max_queued_requests: 100,
        backpressure: Backpressure::default(),
        request_timeout_s: 60.0,
        replicas: Vec::new(),
        unavailable: None,
        router: None,
    }
}

/// The ingress of an application that is a program.
pub(crate) fn program(id: &str) -> DeploymentRoute {
    DeploymentRoute { model: None, ..route(id) }
}

pub(crate) fn table(version: u64, routes: Vec<DeploymentRoute>) -> RouteTable {
    let deployments = routes.into_iter().map(Arc::new).collect();
    RouteTable { version, is_complete: true, deployments, removed: Vec::new() }
}

#[derive(Clone)]
struct Controller {
    table: watch::Receiver<RouteTable>,
    demand: Arc<watch::Sender<Vec<DemandReport>>>,
    usage: Arc<watch::Sender<Vec<KeyUsageReport>>>,
}

impl Handler for Controller {
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        match request.uri().path() {
            "/-/proxies/proxy-0/routes" => {
                let (sender, body) = line_channel(4);
                let mut tables = self.table.clone();
                tokio::spawn(async move {
                    loop {
                        let table = tables.borrow_and_update().clone();
                        if table.version > 0 && !sender.send(&table).await {
                            return;
                        }
                        tokio::select! {
                            () = sender.closed() => return,
                            changed = tables.changed() => if changed.is_err() { return },
                        }
                    }
                });
                Response::new(body)
            }
            "/-/proxies/proxy-0/demand" => {
                let bytes = read_body(request.into_body(), 1 << 20).await.unwrap();
                let report = serde_json::from_slice(&bytes).unwrap();
                self.demand.send_modify(|reports| reports.push(report));
                empty(StatusCode::NO_CONTENT)
            }
            "/-/proxies/proxy-0/usage" => {
                let bytes = read_body(request.into_body(), 1 << 20).await.unwrap();
                let report = serde_json::from_slice(&bytes).unwrap();
                self.usage.send_modify(|reports| reports.push(report));
                empty(StatusCode::NO_CONTENT)
            }
            "/-/metrics" => {
                text(StatusCode::OK, "# TYPE fake_controller gauge\nfake_controller 1\n")
            }
            other => panic!("the proxy asked the controller for {other}"),
        }
    }
}

pub(super) struct Node {
    pub(super) client: Client,
    dir: tempfile::TempDir,
    pub(super) address: std::net::SocketAddr,
    pub(super) grpc_address: std::net::SocketAddr,
    table: watch::Sender<RouteTable>,
    demand: Arc<watch::Sender<Vec<DemandReport>>>,
    usage: Arc<watch::Sender<Vec<KeyUsageReport>>>,
    controller: Option<JoinHandle<usize>>,
    stop: Option<oneshot::Sender<()>>,
    proxy: Option<JoinHandle<()>>,
}

impl Node {
    /// A proxy that knows one deployment without replicas.
    pub(super) async fn start(route: DeploymentRoute) -> Self {
        let node = Self::start_without_table().await;
        node.publish(table(1, vec![route]));
        node.has_applied(1).await;
        node
    }

    pub(super) async fn start_without_table() -> Self {
        Self::start_with_drain(PATIENCE).await
    }

    pub(super) async fn start_with_drain(drain: Duration) -> Self {
        Self::start_with(drain, None, KeySources::default()).await
    }

    /// A proxy that asks for keys; its client has one that may do everything.
    pub(super) async fn start_with_keys(route: DeploymentRoute, mut keys: KeySources) -> Self {
        keys.keys.push(Key::unlimited(KeyName::new("root").unwrap(), "root"));
        let mut node = Self::start_with(PATIENCE, None, keys).await;
        node.client = node.client.with_token("root");
        node.publish(table(1, vec![route]));
        node.has_applied(1).await;
        node
    }

    pub(super) async fn start_with_cors(drain: Duration, cors: Option<CorsConfig>) -> Self {
        Self::start_with(drain, cors, KeySources::default()).await
    }

    async fn start_with(drain: Duration, cors: Option<CorsConfig>, keys: KeySources) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let grpc_address = grpc.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let options = ProxyOptions {
            runtime_dir: RuntimeDir(dir.path().to_owned()),
            id: "proxy-0".to_owned(),
            listener: Listener::Tcp(listener),
            drain,
            cors,
            keys,
            grpc: Some(GrpcOptions { listener: Listener::Tcp(grpc), request_timeout: None }),
        };
        let proxy = tokio::spawn(run_until(options, async { drop(stopped.await) }));
        let mut node = Self {
            client: Client::tcp(address),
            dir,
            address,
            grpc_address,
            table: watch::Sender::new(RouteTable::default()),
            demand: Arc::default(),
            usage: Arc::default(),
            controller: None,
            stop: Some(stop),
            proxy: Some(proxy),
        };
        node.start_controller();
        node
    }

    pub(super) fn runtime_dir(&self) -> RuntimeDir {
        RuntimeDir(self.dir.path().to_owned())
    }

    pub(super) fn start_controller(&mut self) {
        let listener = Listener::bind_unix(&self.runtime_dir().controller_socket()).unwrap();
        let handler = Controller {
            table: self.table.subscribe(),
            demand: self.demand.clone(),
            usage: self.usage.clone(),
        };
        let forever = std::future::pending();
        self.controller =
            Some(tokio::spawn(serve(listener, handler, ServeOptions::default(), forever)));
    }

    /// As if killed: every connection breaks; what it heard is forgotten.
    pub(super) async fn stop_controller(&mut self) {
        let controller = self.controller.take().unwrap();
        controller.abort();
        assert!(controller.await.unwrap_err().is_cancelled());
        self.demand.send_modify(Vec::clear);
    }

    pub(super) fn publish(&self, table: RouteTable) {
        self.table.send_replace(table);
    }

    /// Changes the only deployment's route, and waits until the proxy knows.
    pub(super) async fn edit(&self, edit: impl FnOnce(&mut DeploymentRoute)) {
        self.table.send_modify(|table| {
            table.version += 1;
            let route = Arc::make_mut(&mut table.deployments[0]);
            edit(route);
            if let Some(model) = &mut route.model {
                model.created_s = table.version;
            }
        });
        let version = self.table.borrow().version;
        self.has_applied(version).await;
    }

    async fn has_applied(&self, version: u64) {
        let applied = async {
            loop {
                let models: Value = self.client.get("/v1/models").await.unwrap();
                if models["data"][0]["created"] == version {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, applied).await.unwrap();
    }

    /// Waits until the last report says so.
    pub(super) async fn demand_is(&self, deployment: &str, queued: u32, ongoing: u32) {
        let mut demand = self.demand.subscribe();
        let matches = |reports: &Vec<DemandReport>| {
            assert!(reports.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
            let Some(last) = reports.last() else { return false };
            let of = |d: &&tyndall_types::protocol::Demand| d.deployment.to_string() == deployment;
            let counts = last.deployments.iter().find(of).map_or((0, 0), |d| (d.queued, d.ongoing));
            counts == (queued, ongoing)
        };
        let reached = tokio::time::timeout(PATIENCE, demand.wait_for(matches)).await.is_ok();
        assert!(
            reached,
            "wanted {queued} queued, {ongoing} ongoing: {:?}",
            self.demand.borrow().last()
        );
    }

    /// Waits until the reports of a key say all of this together.
    pub(super) async fn usage_is(&self, expected: &KeyUsage) {
        let mut usage = self.usage.subscribe();
        let sum = |reports: &Vec<KeyUsageReport>| {
            let of = reports.iter().flat_map(|report| &report.keys);
            let of = of.filter(|key| key.name == expected.name);
            let start = KeyUsage { name: expected.name.clone(), ..KeyUsage::default() };
            of.fold(start, |sum, key| KeyUsage {
                name: sum.name,
                requests: sum.requests + key.requests,
                refused: sum.refused + key.refused,
                prompt_tokens: sum.prompt_tokens + key.prompt_tokens,
                cached_tokens: sum.cached_tokens + key.cached_tokens,
                completion_tokens: sum.completion_tokens + key.completion_tokens,
            })
        };
        let reached = usage.wait_for(|reports| sum(reports) == *expected);
        let reached = tokio::time::timeout(PATIENCE, reached).await.is_ok();
        assert!(reached, "wanted {expected:?}: {:?}", self.usage.borrow());
    }

    pub(super) fn never_reported_demand(&self) -> bool {
        self.demand.borrow().iter().all(|report| report.deployments.is_empty())
    }

    /// SIGTERM; the result resolves when the proxy has ended.
    pub(super) fn begin_stop(&mut self) -> JoinHandle<()> {
        self.stop.take().unwrap().send(()).unwrap();
        self.proxy.take().unwrap()
    }

    pub(super) async fn refuses_connections(&self) {
        let refused = async {
            while TcpStream::connect(self.address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, refused).await.unwrap();
    }
}

/// How a replica treats a request for text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// Answers what it was asked.
    Echo,
    /// Closes the connection when it has read the request.
    Dies,
    /// Says that it does not take the request.
    NotStarted,
    /// Never answers.
    Hangs,
    /// Streams what the test sends.
    Streams,
}

type Stream = mpsc::Sender<Result<Bytes, BoxError>>;

pub(super) struct Replica {
    route: ReplicaRoute,
    asked: Arc<AtomicUsize>,
    was_asked: Arc<Notify>,
    streams: mpsc::Receiver<Stream>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct FakeReplica {
    id: String,
    behaviour: Behaviour,
    asked: Arc<AtomicUsize>,
    was_asked: Arc<Notify>,
    streams: mpsc::Sender<Stream>,
}

impl Handler for FakeReplica {
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        if request.uri().path() == "/-/metrics" {
            let page = format!(
                "# HELP fake_steps Steps.\n# TYPE fake_steps counter\n\
                 fake_steps_total{{replica=\"{}\"}} 1\n# EOF\n",
                self.id
            );
            return text(StatusCode::OK, page);
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.was_asked.notify_one();
        assert!(request.headers().contains_key("x-request-id"));
        let path = request.uri().path().to_owned();
        let sent = read_body(request.into_body(), 1 << 20).await.unwrap();
        let sent: Value = serde_json::from_slice(&sent).unwrap();
        match self.behaviour {
            Behaviour::Echo => {
                let answer = json!({"replica": self.id, "path": path, "sent": sent});
                let mut response = json_response(StatusCode::OK, &answer);
                let timing = HeaderValue::from_static("prefill;dur=1.5, decode;dur=2.5");
                response.headers_mut().insert("server-timing", timing);
                let usage = HeaderValue::from_static("prompt=7, cached=2, completion=3");
                response.headers_mut().insert(HEADER_USAGE, usage);
                response
            }
            Behaviour::NotStarted => {
                let mut response = empty(StatusCode::SERVICE_UNAVAILABLE);
                let reason = HeaderValue::from_static("draining");
                response.headers_mut().insert(HEADER_NOT_STARTED, reason);
                response
            }
            Behaviour::Streams => {
                let (sender, receiver) = mpsc::channel(8);
                self.streams.send(sender).await.unwrap();
                let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
                    receiver.recv().await.map(|frame| (frame, receiver))
                });
                let mut trailers = http::HeaderMap::new();
                trailers.insert("server-timing", HeaderValue::from_static("decode;dur=9.5"));
                let usage = HeaderValue::from_static("prompt=7, cached=2, completion=30");
                trailers.insert(HEADER_USAGE, usage);
                let end = futures_util::stream::iter([Ok(Frame::trailers(trailers))]);
                let body = StreamBody::new(frames.map(|data| data.map(Frame::data)).chain(end));
                let mut response = Response::new(body.boxed_unsync());
                let kind = HeaderValue::from_static("text/event-stream");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                let usage = HeaderValue::from_static("prompt=7");
                response.headers_mut().insert(HEADER_USAGE, usage);
                let names = HeaderValue::from_static("server-timing, x-tyndall-usage");
                response.headers_mut().insert(header::TRAILER, names);
                response
            }
            Behaviour::Hangs | Behaviour::Dies => std::future::pending().await,
        }
    }
}

impl Replica {
    pub(super) fn start(node: &Node, id: &str, behaviour: Behaviour) -> Self {
        let id = ReplicaId::new(id);
        let socket = node.runtime_dir().replica_socket(&id);
        let (sender, streams) = mpsc::channel(8);
        let (asked, was_asked) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
        let fake = FakeReplica {
            id: id.to_string(),
            behaviour,
            asked: asked.clone(),
            was_asked: was_asked.clone(),
            streams: sender,
        };
        let listener = Listener::bind_unix(&socket).unwrap();
        let task = tokio::spawn(async move {
            match listener {
                Listener::Unix(listener) if behaviour == Behaviour::Dies => {
                    die(listener, fake).await
                }
                listener => {
                    let forever = std::future::pending();
                    serve(listener, fake, ServeOptions::default(), forever).await;
                }
            }
        });
        Self { route: ReplicaRoute::new(id, socket), asked, was_asked, streams, task }
    }

    pub(super) fn route(&self) -> ReplicaRoute {
        self.route.clone()
    }

    pub(super) fn times_asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(super) async fn was_asked(&self) {
        tokio::time::timeout(PATIENCE, self.was_asked.notified()).await.unwrap();
    }

    /// The stream of the next request that arrives.
    pub(super) async fn next_stream(&mut self) -> Stream {
        tokio::time::timeout(PATIENCE, self.streams.recv()).await.unwrap().unwrap()
    }

    pub(super) async fn stop(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// Reads a request and closes its connection, again and again.
async fn die(listener: UnixListener, fake: FakeReplica) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut some = [0; 4];
        if stream.read_exact(&mut some).await.is_ok() && some == *b"POST" {
            fake.asked.fetch_add(1, Ordering::SeqCst);
            fake.was_asked.notify_one();
        }
    }
}
