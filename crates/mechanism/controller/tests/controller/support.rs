//! A supervisor, replicas, proxies and a builder that only pretend, and a controller among them.

use http::{Method, Request, Response, StatusCode};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;
use tyndall_controller::{Builder, Capacity, ControllerError, ControllerOptions, Http, Instance};
use tyndall_transport::{
    Body, Client, ClientError, Handler, JsonLines, Listener, RequestBody, ResponseBody,
    ServeOptions, empty, json, line_channel, read_body, serve,
};
use tyndall_types::protocol::*;
use tyndall_types::{
    ApplicationName, ApplicationStatus, DeploymentId, DeploymentName, ReplicaId, ReplicaState,
};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const RAY: &str = "/api/serve/applications/";
pub(crate) const OURS: &str = "/api/tyndall/applications/";

/// Prints `NAME.json` of its folder for the application NAME, fails with `NAME.fail`, and waits as
/// long as there is a `NAME.wait`. Each start is a line in `log`.
const BUILDER: &str = r#"
file=$(cat)
name=$(echo "$file" | sed -n 's/.*"applications":\[{"name":"\([^"]*\)".*/\1/p')
echo "$file" > "$1/$name.file"
echo "$name" >> "$1/log"
while [ -f "$1/$name.wait" ]; do sleep 0.01; done
if [ -f "$1/$name.fail" ]; then cat "$1/$name.fail" >&2; exit 1; fi
cat "$1/$name.json"
"#;

/// A deployment of the application of the same name that wakes and ends at once.
pub(crate) fn config(name: &str) -> DeploymentConfig {
    let id = DeploymentId::single(DeploymentName::new(name).unwrap());
    let model = ModelConfig {
        id: name.into(),
        aliases: Vec::new(),
        task: Default::default(),
        sampling: Default::default(),
        path: "/models/demo".into(),
        max_model_len: Some(96),
        memory_budget_bytes: None,
        max_num_seqs: 8,
        max_num_batched_tokens: 512,
        num_threads: None,
        speculation: true,
        quantization: Default::default(),
        chat: Default::default(),
        generate: GenerateDefaults { max_new_tokens: 16, temperature: 0.7, top_p: 0.95 },
    };
    DeploymentConfig {
        id,
        workload: Workload::Model(model),
        code_version: String::new(),
        num_replicas: None,
        autoscaling: AutoscalingConfig {
            min_replicas: 0,
            initial_replicas: None,
            max_replicas: 2,
            target_ongoing_requests: 2.0,
            look_back_period_s: 0.0,
            aggregation_function: Aggregation::Mean,
            upscale_delay_s: 0.0,
            downscale_delay_s: 0.0,
            downscale_to_zero_delay_s: 0.05,
            upscaling_factor: 1.0,
            downscaling_factor: 1.0,
            policy: ScalingPolicy::OngoingRequests,
            python_policy: None,
        },
        max_ongoing_requests: 4,
        max_queued_requests: 100,
        backpressure: Backpressure::default(),
        request_timeout_s: 60.0,
        graceful_shutdown_timeout_s: 20.0,
        startup_timeout_s: 120.0,
        health_check: HealthCheck { period_s: 1000.0, timeout_s: 30.0 },
        max_constructor_retry_count: 20,
        rollout: Rollout::default(),
        resources: Resources::default(),
        residency: Residency::default(),
        env_vars: BTreeMap::new(),
        user_config: serde_json::Value::Null,
        warm: Default::default(),
        deployment_actors: Vec::new(),
        request_router: None,
        gang_scheduling: None,
        prefix_affinity: None,
    }
}

/// One that always has a replica, made from this code.
pub(crate) fn resident(name: &str, code_version: &str) -> DeploymentConfig {
    let mut config = config(name);
    config.num_replicas = Some(1);
    config.code_version = code_version.to_owned();
    config
}

/// An application of these deployments, mounted at the place of its name.
pub(crate) fn application(name: &str, deployments: Vec<DeploymentConfig>) -> ApplicationConfig {
    let name = ApplicationName::new(name).unwrap();
    let of = |mut one: DeploymentConfig| {
        one.id.application = name.clone();
        one
    };
    ApplicationConfig {
        route_prefix: Some(format!("/{name}")),
        source: ApplicationSource::Imperative,
        external_scaler_enabled: false,
        autoscaling_policy: None,
        submitted: Default::default(),
        deployments: deployments.into_iter().map(of).map(Arc::new).collect(),
        name,
    }
}

/// A config file of these applications, each with a value that makes it another.
pub(crate) fn file(applications: &[(&str, &str)]) -> String {
    let one = |(name, value): &(&str, &str)| {
        format!(
            "- name: {name}\n  route_prefix: /{name}\n  import_path: a:b\n  \
             args: {{value: {value}}}\n"
        )
    };
    let all: String = applications.iter().map(one).collect();
    if all.is_empty() { "applications: []\n".to_owned() } else { format!("applications:\n{all}") }
}

/// What the controller asked of the supervisor.
#[derive(Debug)]
pub(crate) enum Asked {
    Start(ProcessSpec),
    Stop(String),
    Shutdown,
}

/// A supervisor whose processes are entries in a table.
#[derive(Clone)]
pub(crate) struct Supervisor {
    pub(crate) running: Arc<Mutex<BTreeMap<String, ProcessInfo>>>,
    pub(crate) events: broadcast::Sender<ProcessEvent>,
    asked: mpsc::Sender<Asked>,
}

impl Supervisor {
    pub(crate) fn exit(&self, id: &str, signal: Option<i32>) {
        self.running.lock().unwrap().remove(id).unwrap();
        self.events.send(ProcessEvent::Exited { id: id.into(), code: None, signal }).unwrap();
    }

    /// A process that waits says that it is prepared.
    pub(crate) fn prepare(&self, id: &str) {
        self.running.lock().unwrap().get_mut(id).unwrap().is_prepared = true;
        self.events.send(ProcessEvent::Prepared { id: id.into() }).unwrap();
    }

    fn snapshot(&self) -> (ProcessEvent, broadcast::Receiver<ProcessEvent>) {
        let processes = self.running.lock().unwrap().values().cloned().collect();
        (ProcessEvent::Snapshot { processes }, self.events.subscribe())
    }
}

impl Handler for Supervisor {
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
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
        if request.method() == Method::GET && path == "/-/processes" {
            let running = self.running.lock().unwrap();
            return json(StatusCode::OK, &running.values().collect::<Vec<_>>());
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
        let info = {
            let mut running = self.running.lock().unwrap();
            let pid = running.values().map(|process| process.pid).max().unwrap_or(4241) + 1;
            let (id, args) = (spec.id.clone(), spec.args.clone());
            let (gpus, waits) = (spec.gpus.clone(), spec.waits);
            let info = ProcessInfo { id, pid, args, gpus, waits, is_prepared: false };
            // It has the place of the one that it is made of.
            let taken = spec.takes.as_ref().and_then(|waiting| running.remove(waiting));
            let info = ProcessInfo { pid: taken.map_or(info.pid, |taken| taken.pid), ..info };
            running.insert(spec.id.clone(), info.clone());
            info
        };
        self.asked.send(Asked::Start(spec)).await.unwrap();
        json(StatusCode::OK, &info)
    }
}

/// A replica that only answers for its status.
#[derive(Clone)]
struct Replica(ReplicaStatus);

impl Handler for Replica {
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        assert_eq!(request.uri().path(), "/-/status");
        json(StatusCode::OK, &self.0)
    }
}

pub(crate) fn serve_unix(path: &Path, handler: impl Handler) -> JoinHandle<usize> {
    let listener = Listener::bind_unix(path).unwrap();
    tokio::spawn(serve(listener, handler, ServeOptions::default(), std::future::pending()))
}

pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) supervisor: Supervisor,
    pub(crate) asked: mpsc::Receiver<Asked>,
    pub(crate) controller: JoinHandle<Result<(), ControllerError>>,
    pub(crate) socket: Client,
    pub(crate) admin: Client,
    token: Option<String>,
    sequence: u64,
}

pub(crate) type Lines = JsonLines<RouteTable, ResponseBody>;

pub(crate) fn options(dir: &Path, admin: Listener, token: Option<String>) -> ControllerOptions {
    let builder = dir.join("builder");
    std::fs::create_dir_all(&builder).unwrap();
    std::fs::write(builder.join("build.sh"), BUILDER).unwrap();
    let args = [builder.join("build.sh"), builder].map(|path| path.display().to_string());
    ControllerOptions {
        runtime_dir: RuntimeDir(dir.to_owned()),
        state_dir: Some(dir.join("state")),
        admin,
        admin_token: token,
        builder: Builder {
            executable: Some("/bin/sh".into()),
            args: args.into(),
            ..Builder::default()
        },
        capacity: Capacity::default(),
        instance: Instance {
            node_id: "node".into(),
            node_ip: "127.0.0.1".into(),
            grpc: None,
            http: Http { host: "127.0.0.1".into(), port: 8000 },
        },
        log_file: Some(dir.join("node.log")),
    }
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::with_token(None).await
    }

    pub(crate) async fn with_token(token: Option<&str>) -> Self {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let (asks, asked) = mpsc::channel(100);
        let (events, _) = broadcast::channel(100);
        let supervisor = Supervisor { running: Arc::default(), events, asked: asks };
        serve_unix(&dir.path().join("supervisor.sock"), supervisor.clone());
        let token = token.map(str::to_owned);
        let (controller, admin) = Self::controller(dir.path(), token.clone()).await;
        let socket = Client::unix(dir.path().join("controller.sock"));
        Self { dir, supervisor, asked, controller, socket, admin, token, sequence: 0 }
    }

    async fn controller(
        dir: &Path,
        token: Option<String>,
    ) -> (JoinHandle<Result<(), ControllerError>>, Client) {
        let admin = Listener::Tcp(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = admin.tcp_addr().unwrap();
        let options = options(dir, admin, token);
        let controller = tokio::spawn(tyndall_controller::run(options));
        let client = Client::tcp(address);
        let healthz = Request::get("/-/healthz").body(bytes::Bytes::new()).unwrap();
        let answer = tokio::time::timeout(DEADLINE, client.send(healthz)).await.unwrap();
        assert_eq!(answer.unwrap().status(), StatusCode::OK);
        (controller, client)
    }

    /// Kills the controller, with its connections, and starts another one.
    pub(crate) async fn restart(&mut self) {
        self.kill().await;
        self.revive().await;
    }

    pub(crate) async fn kill(&mut self) {
        self.controller.abort();
        assert!((&mut self.controller).await.unwrap_err().is_cancelled());
    }

    pub(crate) async fn revive(&mut self) {
        let started = Self::controller(self.dir.path(), self.token.clone()).await;
        (self.controller, self.admin) = started;
        self.socket = Client::unix(self.dir.path().join("controller.sock"));
    }

    pub(crate) async fn deploy(&self, config: &DeploymentConfig) {
        let name = config.id.application.as_str();
        self.deploy_all(&application(name, vec![config.clone()])).await.unwrap();
    }

    pub(crate) async fn deploy_all(&self, config: &ApplicationConfig) -> Result<(), ClientError> {
        self.socket.tell(Method::PUT, &format!("/-/applications/{}", config.name), config).await
    }

    /// What the builder says of an application from now on.
    pub(crate) fn builds_to(&self, config: &ApplicationConfig) {
        let json = serde_json::to_string(config).unwrap();
        std::fs::write(self.builder(config.name.as_str(), "json"), json).unwrap();
        drop(std::fs::remove_file(self.builder(config.name.as_str(), "fail")));
    }

    pub(crate) fn builder(&self, name: &str, kind: &str) -> PathBuf {
        self.dir.path().join("builder").join(format!("{name}.{kind}"))
    }

    /// The applications whose builds were started.
    pub(crate) fn built(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.dir.path().join("builder/log"));
        log.unwrap_or_default().lines().map(str::to_owned).collect()
    }

    pub(crate) async fn until_built(&self, count: usize) {
        let began = Instant::now();
        while self.built().len() < count {
            assert!(began.elapsed() < DEADLINE, "built only {:?}", self.built());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn put(&self, text: &str) -> Result<(), ClientError> {
        self.admin.tell_text(Method::PUT, RAY, text.to_owned()).await
    }

    pub(crate) async fn routes(&self) -> Lines {
        self.socket.lines("/-/proxies/proxy-0/routes").await.unwrap()
    }

    pub(crate) async fn demand(&mut self, name: &str, queued: u32) {
        self.sequence += 1;
        let deployment = DeploymentId::single(DeploymentName::new(name).unwrap());
        let deployments = vec![Demand { deployment, queued, ongoing: 0 }];
        let report = DemandReport { sequence: self.sequence, deployments };
        self.socket.tell(Method::POST, "/-/proxies/proxy-0/demand", &report).await.unwrap();
    }

    pub(crate) async fn asked(&mut self) -> Asked {
        tokio::time::timeout(DEADLINE, self.asked.recv()).await.expect("not asked").unwrap()
    }

    pub(crate) async fn started(&mut self) -> ProcessSpec {
        match self.asked().await {
            Asked::Start(spec) => spec,
            other => panic!("{other:?}"),
        }
    }

    /// The next replica that is started is ready at once, and answers a later controller.
    pub(crate) async fn started_and_ready(&mut self) -> String {
        let id = self.started().await.id;
        self.ready(&id).await;
        self.serve_replica(&id);
        id
    }

    pub(crate) async fn stopped(&mut self) -> String {
        match self.asked().await {
            Asked::Stop(id) => id,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn report(&self, id: &str, report: &ReplicaReport) -> Result<(), ClientError> {
        self.socket.tell(Method::POST, &format!("/-/replicas/{id}/report"), report).await
    }

    pub(crate) async fn ready(&self, id: &str) {
        let phases = ColdStartPhases(vec![("weights".into(), 0.0)]);
        self.report(id, &ReplicaReport::Ready { phases, card: Some(card()) }).await.unwrap();
    }

    pub(crate) async fn fail(&self, id: &str, reason: &str) {
        self.report(id, &ReplicaReport::Failed { reason: reason.into() }).await.unwrap();
    }

    pub(crate) fn serve_replica(&self, id: &str) {
        let status = ReplicaStatus {
            card: Some(card()),
            ..ReplicaStatus::new(ReplicaId::new(id), ReplicaState::Running)
        };
        serve_unix(&self.dir.path().join(format!("{id}.sock")), Replica(status));
    }

    pub(crate) async fn details(&self) -> InstanceDetails {
        self.socket.get(OURS).await.unwrap()
    }

    pub(crate) async fn application(&self, name: &str) -> Option<ApplicationDetails> {
        self.details().await.applications.remove(name)
    }

    /// The application when it has this status.
    pub(crate) async fn until(&self, name: &str, status: ApplicationStatus) -> ApplicationDetails {
        let began = Instant::now();
        loop {
            let details = self.application(name).await;
            if let Some(details) = details.filter(|details| details.status == status) {
                return details;
            }
            assert!(
                began.elapsed() < DEADLINE,
                "{name} is never {status}: {:#?}",
                self.details().await
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn until_gone(&self, name: &str) {
        let began = Instant::now();
        while self.application(name).await.is_some() {
            assert!(began.elapsed() < DEADLINE, "{name} is never forgotten");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn page(&self, client: &Client, path: &str) -> String {
        client.get_text(path).await.unwrap()
    }

    pub(crate) async fn json(&self, path: &str) -> serde_json::Value {
        self.admin.get(path).await.unwrap()
    }
}

pub(crate) fn card() -> ModelCard {
    ModelCard { max_model_len: 128, num_kv_blocks: 64, block_size: 16 }
}

/// The route table as a proxy has it: changes are taken in until it is as it should be.
pub(crate) async fn until(
    lines: &mut Lines,
    known: &mut RouteTable,
    is_so: impl Fn(&RouteTable) -> bool,
) {
    let wait = async {
        loop {
            let table = lines.next().await.unwrap().expect("the routes ended");
            merge(known, table);
            if is_so(known) {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("no such route table");
}

fn merge(known: &mut RouteTable, table: RouteTable) {
    assert!(known.version < table.version, "it grows");
    if table.is_complete {
        *known = table;
        return;
    }
    let is_other = |route: &Arc<DeploymentRoute>| {
        let id = &route.deployment;
        !table.removed.contains(id) && table.deployments.iter().all(|new| new.deployment != *id)
    };
    known.deployments.retain(is_other);
    known.deployments.extend(table.deployments);
    known.deployments.sort_by_key(|route| route.order);
    known.version = table.version;
}

pub(crate) fn routed(table: &RouteTable) -> Vec<&str> {
    table.deployments.iter().flat_map(|d| &d.replicas).map(|r| r.id.as_str()).collect()
}

/// What was answered that is no success.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> (StatusCode, String) {
    match answer {
        Err(ClientError::Status { status, body, .. }) => (status, body),
        other => panic!("{other:?}"),
    }
}
