//! The controller against a supervisor, replicas and proxies that only pretend.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;
use tyndall_controller::{ControllerError, ControllerOptions};
use tyndall_transport::{
    Body, Client, ClientError, Handler, JsonLines, Listener, ResponseBody, ServeOptions, empty,
    json, line_channel, read_body, serve,
};
use tyndall_types::protocol::*;
use tyndall_types::{ApplicationStatus, DeploymentName, DeploymentStatus, ReplicaId, ReplicaState};

const DEADLINE: Duration = Duration::from_secs(20);

fn config(name: &str) -> DeploymentConfig {
    DeploymentConfig {
        name: DeploymentName::new(name).unwrap(),
        model: ModelConfig {
            id: name.into(),
            path: "/models/demo".into(),
            max_model_len: Some(96),
            memory_budget_bytes: None,
            max_num_seqs: 8,
            max_num_batched_tokens: 512,
            num_threads: None,
            speculation: true,
            quantization: Default::default(),
            generate: GenerateDefaults { max_new_tokens: 16, temperature: 0.7, top_p: 0.95 },
        },
        autoscaling: AutoscalingConfig {
            min_replicas: 0,
            max_replicas: 2,
            target_ongoing_requests: 2.0,
            upscale_delay_s: 0.0,
            downscale_delay_s: 0.0,
            downscale_to_zero_delay_s: 0.05,
        },
        max_ongoing_requests: 4,
        max_queued_requests: 100,
        request_timeout_s: 60.0,
        graceful_shutdown_timeout_s: 20.0,
        startup_timeout_s: 120.0,
    }
}

/// What the controller asked of the supervisor.
#[derive(Debug)]
enum Asked {
    Start(ProcessSpec),
    Stop(String),
    Shutdown,
}

/// A supervisor whose processes are entries in a table.
#[derive(Clone)]
struct Supervisor {
    running: Arc<Mutex<BTreeMap<String, ProcessInfo>>>,
    events: broadcast::Sender<ProcessEvent>,
    asked: mpsc::Sender<Asked>,
}

impl Supervisor {
    fn exit(&self, id: &str, signal: Option<i32>) {
        self.running.lock().unwrap().remove(id).unwrap();
        self.events.send(ProcessEvent::Exited { id: id.into(), code: None, signal }).unwrap();
    }

    fn snapshot(&self) -> (ProcessEvent, broadcast::Receiver<ProcessEvent>) {
        let processes = self.running.lock().unwrap().values().cloned().collect();
        (ProcessEvent::Snapshot { processes }, self.events.subscribe())
    }
}

impl Handler for Supervisor {
    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if path == "/-/events" {
            let (snapshot, mut events) = self.snapshot();
            let (lines, body) = line_channel(8);
            tokio::spawn(async move {
                lines.send(&snapshot).await;
                while let Ok(event) = events.recv().await {
                    lines.send(&event).await;
                }
            });
            return Response::new(body);
        }
        if path == "/-/shutdown" {
            self.asked.send(Asked::Shutdown).await.unwrap();
            return empty(StatusCode::ACCEPTED);
        }
        let body = read_body(request.into_body(), 1 << 20).await.unwrap();
        if let Some(id) = path.strip_prefix("/-/processes/") {
            let id = id.strip_suffix("/stop").unwrap();
            serde_json::from_slice::<StopProcess>(&body).unwrap();
            self.asked.send(Asked::Stop(id.into())).await.unwrap();
            return empty(StatusCode::ACCEPTED);
        }
        let spec: ProcessSpec = serde_json::from_slice(&body).unwrap();
        let info = ProcessInfo { id: spec.id.clone(), pid: 4242, args: spec.args.clone() };
        self.running.lock().unwrap().insert(spec.id.clone(), info.clone());
        self.asked.send(Asked::Start(spec)).await.unwrap();
        json(StatusCode::OK, &info)
    }
}

/// A replica that only answers for its status.
#[derive(Clone)]
struct Replica(ReplicaStatus);

impl Handler for Replica {
    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        assert_eq!(request.uri().path(), "/-/status");
        json(StatusCode::OK, &self.0)
    }
}

fn serve_unix(path: &Path, handler: impl Handler) -> JoinHandle<usize> {
    let listener = Listener::bind_unix(path).unwrap();
    tokio::spawn(serve(listener, handler, ServeOptions::default(), std::future::pending()))
}

struct Node {
    dir: tempfile::TempDir,
    supervisor: Supervisor,
    asked: mpsc::Receiver<Asked>,
    controller: JoinHandle<Result<(), ControllerError>>,
    socket: Client,
    admin: Client,
    sequence: u64,
}

type Lines = JsonLines<RouteTable, ResponseBody>;

impl Node {
    async fn start() -> Self {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let (asks, asked) = mpsc::channel(100);
        let (events, _) = broadcast::channel(100);
        let supervisor = Supervisor { running: Arc::default(), events, asked: asks };
        serve_unix(&dir.path().join("supervisor.sock"), supervisor.clone());
        let (controller, admin) = Self::controller(dir.path()).await;
        let socket = Client::unix(dir.path().join("controller.sock"));
        Self { dir, supervisor, asked, controller, socket, admin, sequence: 0 }
    }

    async fn controller(dir: &Path) -> (JoinHandle<Result<(), ControllerError>>, Client) {
        let admin = Listener::Tcp(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = admin.tcp_addr().unwrap();
        let controller = tokio::spawn(tyndall_controller::run(ControllerOptions {
            runtime_dir: RuntimeDir(dir.to_owned()),
            state_dir: Some(dir.join("state")),
            admin,
        }));
        let client = Client::tcp(address);
        let healthz = Request::get("/-/healthz").body(bytes::Bytes::new()).unwrap();
        let answer = tokio::time::timeout(DEADLINE, client.send(healthz)).await.unwrap();
        assert_eq!(answer.unwrap().status(), StatusCode::OK);
        (controller, client)
    }

    /// Kills the controller, with its connections, and starts another one.
    async fn restart(&mut self) {
        self.controller.abort();
        assert!((&mut self.controller).await.unwrap_err().is_cancelled());
        (self.controller, self.admin) = Self::controller(self.dir.path()).await;
        self.socket = Client::unix(self.dir.path().join("controller.sock"));
    }

    async fn deploy(&self, config: &DeploymentConfig) {
        let path = format!("/-/deployments/{}", config.name);
        self.socket.tell(Method::PUT, &path, config).await.unwrap();
    }

    async fn routes(&self) -> Lines {
        self.socket.lines("/-/proxies/proxy-0/routes").await.unwrap()
    }

    async fn demand(&mut self, name: &str, queued: u32) {
        self.sequence += 1;
        let deployment = DeploymentName::new(name).unwrap();
        let deployments = vec![Demand { deployment, queued, ongoing: 0 }];
        let report = DemandReport { sequence: self.sequence, deployments };
        self.socket.tell(Method::POST, "/-/proxies/proxy-0/demand", &report).await.unwrap();
    }

    async fn asked(&mut self) -> Asked {
        tokio::time::timeout(DEADLINE, self.asked.recv()).await.expect("not asked").unwrap()
    }

    async fn started(&mut self) -> ProcessSpec {
        match self.asked().await {
            Asked::Start(spec) => spec,
            other => panic!("{other:?}"),
        }
    }

    async fn stopped(&mut self) -> String {
        match self.asked().await {
            Asked::Stop(id) => id,
            other => panic!("{other:?}"),
        }
    }

    async fn report(&self, id: &str, report: &ReplicaReport) -> Result<(), ClientError> {
        self.socket.tell(Method::POST, &format!("/-/replicas/{id}/report"), report).await
    }

    async fn ready(&self, id: &str) {
        let phases = ColdStartPhases(vec![("weights".into(), 0.0)]);
        self.report(id, &ReplicaReport::Ready { phases, card: card() }).await.unwrap();
    }

    async fn application(&self, name: &str) -> Option<ApplicationDetails> {
        let mut details: InstanceDetails =
            self.admin.get("/api/serve/applications/").await.unwrap();
        details.applications.remove(name)
    }

    async fn page(&self, client: &Client, path: &str) -> String {
        let request = Request::get(path).body(bytes::Bytes::new()).unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let body = read_body(answer.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }
}

fn card() -> ModelCard {
    ModelCard { max_model_len: 128, num_kv_blocks: 64, block_size: 16 }
}

/// The first table that is as it should be.
async fn until(lines: &mut Lines, is_so: impl Fn(&RouteTable) -> bool) -> RouteTable {
    let wait = async {
        loop {
            let table = lines.next().await.unwrap().expect("the routes ended");
            if is_so(&table) {
                return table;
            }
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("no such route table")
}

fn routed(table: &RouteTable) -> Vec<&str> {
    table.deployments.iter().flat_map(|d| &d.replicas).map(|r| r.id.as_str()).collect()
}

fn status_of(error: &ClientError) -> Option<StatusCode> {
    match error {
        ClientError::Status { status, .. } => Some(*status),
        _ => None,
    }
}

#[tokio::test]
async fn a_request_wakes_a_replica_and_idleness_ends_it() {
    let mut node = Node::start().await;
    let mut routes = node.routes().await;
    node.deploy(&config("org/demo")).await;
    let table = until(&mut routes, |table| table.deployments.len() == 1).await;
    assert_eq!(table.deployments[0].model_id, "org/demo");
    assert_eq!(
        table.deployments[0].max_model_len,
        Some(96),
        "as configured, before the first wake"
    );
    node.demand("org/demo", 1).await;
    let spec = node.started().await;
    let dir = node.dir.path().display().to_string();
    assert_eq!(spec.args[..6], ["role", "replica", "--runtime-dir", &dir, "--id", &spec.id]);
    assert_eq!(spec.args[6], "--deployment-config");
    let sent: DeploymentConfig = serde_json::from_str(&spec.args[7]).unwrap();
    assert_eq!(sent, config("org/demo"));

    node.ready(&spec.id).await;
    let table = until(&mut routes, |table| !routed(table).is_empty()).await;
    let route = &table.deployments[0];
    assert_eq!(route.replicas[0].socket, node.dir.path().join(format!("{}.sock", spec.id)));
    assert_eq!(route.max_model_len, Some(card().max_model_len));
    let details = node.application("org/demo").await.unwrap();
    assert_eq!(details.status, ApplicationStatus::Running);
    assert_eq!(details.deployments["org/demo"].replicas[0].pid, Some(4242));
    let phases = ColdStartPhases(vec![("weights".into(), 0.0), ("first_step".into(), 0.002)]);
    node.report(&spec.id, &ReplicaReport::FirstToken { phases }).await.unwrap();

    node.demand("org/demo", 0).await;
    assert_eq!(node.stopped().await, spec.id);
    until(&mut routes, |table| routed(table).is_empty()).await;
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
async fn a_replica_that_fails_makes_the_deployment_unavailable_with_its_reason() {
    let mut node = Node::start().await;
    let mut routes = node.routes().await;
    node.deploy(&config("demo")).await;
    node.demand("demo", 1).await;
    let spec = node.started().await;
    let reason = "no config.json; give a checkpoint's directory".to_owned();
    node.report(&spec.id, &ReplicaReport::Failed { reason: reason.clone() }).await.unwrap();
    let is_unavailable =
        |table: &RouteTable| table.deployments.first().is_some_and(|d| d.unavailable.is_some());
    let table = until(&mut routes, is_unavailable).await;
    assert_eq!(table.deployments[0].unavailable.as_ref().unwrap().reason, reason);
    node.demand("demo", 0).await;
    let details = node.application("demo").await.unwrap();
    assert_eq!(details.status, ApplicationStatus::DeployFailed);
    assert!(details.message.contains(&reason), "{}", details.message);
    assert_eq!(node.stopped().await, spec.id);
}

#[tokio::test]
async fn a_replica_that_dies_is_replaced() {
    let mut node = Node::start().await;
    let mut routes = node.routes().await;
    node.deploy(&config("demo")).await;
    node.demand("demo", 1).await;
    let first = node.started().await.id;
    node.ready(&first).await;
    until(&mut routes, |table| routed(table) == [first.as_str()]).await;
    node.supervisor.exit(&first, Some(9));
    until(&mut routes, |table| routed(table).is_empty()).await;
    let second = node.started().await.id;
    assert_ne!(first, second);
    let unknown = node.report(&first, &ReplicaReport::Failed { reason: "late".into() }).await;
    assert_eq!(status_of(&unknown.unwrap_err()), Some(StatusCode::NOT_FOUND));
    node.ready(&second).await;
    until(&mut routes, |table| routed(table) == [second.as_str()]).await;
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
    let queued = |node: &Node| {
        let admin = node.admin.clone();
        async move {
            let details: InstanceDetails = admin.get("/api/serve/applications/").await.unwrap();
            details.applications["demo"].deployments["demo"].queued_requests
        }
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
    let status = ReplicaStatus {
        replica_id: ReplicaId::new(id.as_str()),
        state: ReplicaState::Running,
        ongoing: 0,
        card: Some(card()),
    };
    serve_unix(&node.dir.path().join(format!("{id}.sock")), Replica(status));
    // Something that no deployment knows.
    let stray = ProcessInfo { id: "stray".into(), pid: 1, args: vec!["role".into()] };
    node.supervisor.running.lock().unwrap().insert("stray".into(), stray);
    node.restart().await;
    assert_eq!(node.stopped().await, "stray");
    let mut routes = node.routes().await;
    let table = until(&mut routes, |_| true).await;
    assert_eq!(routed(&table), [id.as_str()], "the first table is complete");
    assert_eq!(table.deployments[0].max_model_len, Some(card().max_model_len));
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
    let error = delete("c").await.unwrap_err();
    assert_eq!(status_of(&error), Some(StatusCode::NOT_FOUND));
    assert!(error.to_string().contains("no application c; there are: a, org/b"), "{error}");
    let error = delete("%20").await.unwrap_err();
    assert_eq!(status_of(&error), Some(StatusCode::BAD_REQUEST));
    delete("org%2Fb").await.unwrap();
    let id = node.stopped().await;
    let details = node.application("org/b").await.unwrap();
    assert_eq!(details.status, ApplicationStatus::Deleting);
    node.supervisor.exit(&id, None);
    let began = Instant::now();
    while node.application("org/b").await.is_some() {
        assert!(began.elapsed() < DEADLINE, "never forgotten");
        tokio::task::yield_now().await;
    }
    node.restart().await;
    assert!(node.application("org/b").await.is_none(), "and not restored");
    assert!(node.application("a").await.is_some());
}

#[tokio::test]
async fn bad_requests_are_refused_and_the_admin_port_is_not_the_nodes() {
    let node = Node::start().await;
    let put = |client: &Client, name: &str, body: serde_json::Value| {
        let (client, path) = (client.clone(), format!("/-/deployments/{name}"));
        async move {
            let error = client.tell(Method::PUT, &path, &body).await.unwrap_err();
            status_of(&error).unwrap()
        }
    };
    let good = serde_json::to_value(config("demo")).unwrap();
    let with = |path: &str, value: serde_json::Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(path).unwrap() = value;
        changed
    };
    let bad = StatusCode::BAD_REQUEST;
    assert_eq!(put(&node.socket, "other", good.clone()).await, bad);
    assert_eq!(put(&node.socket, "demo", serde_json::json!({})).await, bad);
    let scaling = |field: &str| format!("/autoscaling/{field}");
    let none = with(&scaling("max_replicas"), 0.into());
    assert_eq!(put(&node.socket, "demo", none).await, bad);
    let zero = with(&scaling("target_ongoing_requests"), 0.0.into());
    assert_eq!(put(&node.socket, "demo", zero).await, bad);
    assert_eq!(put(&node.admin, "demo", good.clone()).await, StatusCode::NOT_FOUND);
    for path in ["/nowhere", "/-/proxies/p/routes", "/api/serve/applications/x"] {
        let error = node.admin.get::<()>(path).await.unwrap_err();
        assert_eq!(status_of(&error), Some(StatusCode::NOT_FOUND), "{path}");
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
    let options = ControllerOptions {
        runtime_dir: RuntimeDir(dir.path().to_owned()),
        state_dir: None,
        admin: Listener::Tcp(listen),
    };
    let error = tyndall_controller::run(options).await.unwrap_err();
    assert!(matches!(error, ControllerError::Supervisor(_)), "{error}");
}
