//! The life of a replica in this process, with a deployment that does as it is told.

use super::*;
use crate::application::Application;
use crate::caller::{Call, Encoding};
use crate::deployment::Deployment;
use crate::multiplex::Multiplexed;
use crate::options::DeploymentOptions;
use crate::wire;
use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{Request, Response, StatusCode};
use serde_json::json;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tyndall_transport::{Body, Handler, OpenRequest, Opening, RequestBody, empty, read_body};
use tyndall_types::protocol::{ProgramConfig, ReplicaStatus};
use tyndall_types::{ApplicationName, HEADER_NOT_STARTED, ReplicaState};

const PATIENCE: Duration = Duration::from_secs(30);

/// What tests tell the deployment, and see of it.
#[derive(Default)]
struct Probe {
    is_ill: AtomicBool,
    is_stopped: AtomicBool,
    begun: Notify,
    dropped: Notify,
    go: Notify,
    reconfiguring: Notify,
    compute: Mutex<Option<Compute>>,
}

type Compute = Box<dyn FnOnce() + Send>;

tokio::task_local! {
    static PROBE: Arc<Probe>;
}

struct Told(Arc<Probe>, Multiplexed<usize>);

/// A call that is over, however it ended.
struct OnDrop(Arc<Probe>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.dropped.notify_one();
    }
}

impl Deployment for Told {
    type Init = String;
    type Request = Value;
    type Response = Value;

    async fn start(init: String, context: ReplicaContext) -> Result<Self> {
        if let Some(zone) = init.strip_prefix("zone ") {
            context.set_metadata(&json!({"zone": zone}));
            context.set_metadata(&json!({"zone": "another"}));
        }
        match init.as_str() {
            "fail" => Err(Error::user("told to fail")),
            "hang" => std::future::pending().await,
            _ => {
                let load = |id: String| async move { Ok(id.len()) };
                Ok(Self(PROBE.with(Clone::clone), Multiplexed::new(2, load)?))
            }
        }
    }

    async fn call(&self, request: Value) -> Result<Value> {
        if let Some(model) = request.get("model").and_then(Value::as_str) {
            return Ok(json!(*self.1.get(model).await?));
        }
        if request == "wait" {
            let _over = OnDrop(self.0.clone());
            self.0.begun.notify_one();
            self.0.go.notified().await;
        }
        if let Some(compute) = self.0.compute.lock().unwrap().take() {
            compute();
        }
        Ok(request)
    }

    fn stream(self: Arc<Self>, n: Value) -> impl Stream<Item = Result<Value>> + Send + 'static {
        let n = n.as_u64().unwrap_or_default();
        let end = (n == 0).then(|| Error::user("nothing to count"));
        stream::iter((0..n).map(|n| Ok(json!(n))).chain(end.map(Err)))
    }

    async fn reconfigure(&self, user_config: Value) -> Result<()> {
        if user_config == "wait" {
            self.0.reconfiguring.notify_one();
            self.0.go.notified().await;
        }
        Ok(())
    }

    async fn check_health(&self) -> Result<()> {
        let is_ill = self.0.is_ill.load(Ordering::Relaxed);
        if is_ill { Err(Error::user("told to be ill")) } else { Ok(()) }
    }

    async fn stop(&self) {
        self.0.is_stopped.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct Controller(mpsc::Sender<ReplicaReport>);

impl Handler for Controller {
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        let body = read_body(request.into_body(), 1 << 20).await.unwrap();
        self.0.send(serde_json::from_slice(&body).unwrap()).await.unwrap();
        empty(StatusCode::NO_CONTENT)
    }
}

struct Process {
    probe: Arc<Probe>,
    client: Client,
    reports: mpsc::Receiver<ReplicaReport>,
    stop: oneshot::Sender<()>,
    replica: JoinHandle<Result<(), ReplicaError>>,
    dir: tempfile::TempDir,
}

impl Process {
    fn start(init: &str) -> Self {
        Self::start_by(init, false)
    }

    fn start_by(init: &str, may_stall: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime_dir = RuntimeDir(dir.path().to_owned());
        let (sender, reports) = mpsc::channel(8);
        let listener = Listener::bind_unix(&runtime_dir.controller_socket()).unwrap();
        let forever = std::future::pending();
        tokio::spawn(serve(listener, Controller(sender), ServeOptions::default(), forever));
        let id = ReplicaId::new("r0");
        let client = Client::unix(runtime_dir.replica_socket(&id));
        let init = ProgramInit { args: json!({}), init: json!(init) };
        let program = ProgramConfig {
            executable: "/p".into(),
            deployment: "Told".into(),
            init: serde_json::to_value(init).unwrap(),
            ..ProgramConfig::default()
        };
        let options = DeploymentOptions::new("Told").max_ongoing_requests(2);
        let config = options.resolve(&ApplicationName::new("app").unwrap(), program).unwrap();
        let options = ReplicaOptions {
            runtime_dir,
            id,
            config,
            rank: 0,
            gang: None,
            started_at: Instant::now(),
        };
        let probe = Arc::<Probe>::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let build = from_application(|_| Application::new(Told::bind(String::new())).build());
        let life = run(options, may_stall, build, async { drop(stopped.await) });
        let replica = tokio::spawn(PROBE.scope(probe.clone(), life));
        Self { probe, client, reports, stop, replica, dir }
    }

    async fn ready() -> Self {
        Self::ready_by(false).await
    }

    async fn ready_by(may_stall: bool) -> Self {
        let mut process = Self::start_by("go", may_stall);
        let report = process.report().await;
        assert!(matches!(report, ReplicaReport::Ready { .. }), "{report:?}");
        process
    }

    async fn report(&mut self) -> ReplicaReport {
        tokio::time::timeout(PATIENCE, self.reports.recv()).await.unwrap().unwrap()
    }

    async fn state(&self) -> ReplicaState {
        self.client.get::<ReplicaStatus>("/-/status").await.unwrap().state
    }

    fn send(&self, call: &Call, is_stream: bool) -> JoinHandle<(Response<Bytes>, bool)> {
        let (client, request) = (self.client.clone(), wire::encode(call, is_stream).unwrap());
        tokio::spawn(async move {
            let (head, body) = client.send(request).await.unwrap().into_parts();
            let read = read_body(body, 1 << 20).await;
            let is_whole = read.is_ok();
            (Response::from_parts(head, read.unwrap_or_default()), is_whole)
        })
    }

    /// Has a place kept for a call.
    async fn open(&self, call: &Call) -> Opening {
        let (parts, _) = wire::encode(call, false).unwrap().into_parts();
        self.client.open(&parts.method, &parts.uri, &parts.headers).await.unwrap()
    }

    async fn taken(&self, call: &Call) -> OpenRequest {
        match self.open(call).await {
            Opening::Taken(taken) => taken,
            Opening::Answered(answer) => panic!("{answer:?}"),
        }
    }

    /// Calls, and waits for its turn.
    fn insist(&self, call: &Call) -> JoinHandle<Response<Bytes>> {
        let (client, mut request) = (self.client.clone(), wire::encode(call, false).unwrap());
        wire::set_waits(request.headers_mut());
        tokio::spawn(async move {
            let (head, body) = client.send(request).await.unwrap().into_parts();
            Response::from_parts(head, read_body(body, 1 << 20).await.unwrap())
        })
    }

    async fn page(&self) -> String {
        let request = Request::get("/-/metrics").body(Bytes::new()).unwrap();
        let response = self.client.send(request).await.unwrap();
        let body = read_body(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    /// Waits until it has so many.
    async fn has(&self, ongoing: u32) {
        let has = async || self.client.get::<ReplicaStatus>("/-/status").await.unwrap().ongoing;
        while has().await != ongoing {
            tokio::task::yield_now().await;
        }
    }

    async fn end(self) -> Result<(), ReplicaError> {
        drop(self.stop);
        tokio::time::timeout(PATIENCE, self.replica).await.unwrap().unwrap()
    }
}

fn call(method: &str, request: Value) -> Call {
    Call {
        application: None,
        encoding: Encoding::Json,
        deployment: "Told".into(),
        method: method.into(),
        body: serde_json::to_vec(&request).unwrap().into(),
        context: crate::RequestContext::default(),
    }
}

#[tokio::test]
async fn the_models_of_a_replica_are_told_when_they_change() {
    let mut process = Process::ready().await;
    let mut told = Vec::new();
    for model in ["a", "bb", "a", "ccc"] {
        let (answer, _) =
            process.send(&call("call", json!({"model": model})), false).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let mut times_answered = 0;
    while told != ["a", "ccc"] || times_answered == 0 {
        match process.report().await {
            ReplicaReport::Models { ids } => {
                assert_ne!(ids, told, "only changes are told");
                told = ids;
            }
            ReplicaReport::Answered => times_answered += 1,
            other => panic!("{other:?}"),
        }
    }
    let status = process.client.get::<ReplicaStatus>("/-/status").await.unwrap();
    assert_eq!(status.models, ["a", "ccc"]);
    drop(std::mem::replace(&mut process.stop, oneshot::channel().0));
    // Of the answers only the first is told, and then the end.
    assert!(matches!(process.report().await, ReplicaReport::Leaving));
    process.end().await.unwrap();
}

#[tokio::test]
async fn what_a_replica_is_is_told_before_it_is_ready_and_when_it_is_asked() {
    let mut process = Process::start("zone a");
    let ReplicaReport::Metadata { metadata } = process.report().await else { panic!("not told") };
    assert_eq!(metadata.value(), json!({"zone": "a"}), "what is said first holds");
    assert!(matches!(process.report().await, ReplicaReport::Ready { .. }));
    let status = process.client.get::<ReplicaStatus>("/-/status").await.unwrap();
    assert_eq!(status.metadata, metadata);
    process.end().await.unwrap();
}

#[tokio::test]
async fn health_is_the_deployments_own() {
    let process = Process::ready().await;
    assert_eq!(process.state().await, ReplicaState::Running);
    process.probe.is_ill.store(true, Ordering::Relaxed);
    let error = process.client.get::<ReplicaStatus>("/-/status").await.unwrap_err().to_string();
    assert!(error.contains("503") && error.contains("told to be ill"), "{error}");
    let probe = process.probe.clone();
    process.end().await.unwrap();
    assert!(probe.is_stopped.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_failed_start_is_reported() {
    let mut process = Process::start("fail");
    let reason = "told to fail".to_owned();
    assert_eq!(process.report().await, ReplicaReport::Failed { reason });
    let ended = tokio::time::timeout(PATIENCE, process.replica).await.unwrap().unwrap();
    assert!(matches!(ended, Err(ReplicaError::Start { .. })));
}

#[tokio::test]
async fn a_start_can_be_ended_and_refuses_meanwhile() {
    let process = Process::start("hang");
    while process.client.get::<ReplicaStatus>("/-/status").await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(process.state().await, ReplicaState::Starting);
    let (answer, _) = process.send(&call("call", json!(1)), false).await.unwrap();
    assert_eq!(answer.headers()[HEADER_NOT_STARTED], "starting");
    process.end().await.unwrap();
}

#[tokio::test]
async fn streams_are_lines() {
    let process = Process::ready().await;
    let (answer, is_whole) = process.send(&call("stream", json!(2)), true).await.unwrap();
    assert!(is_whole && answer.status() == StatusCode::OK);
    assert_eq!(answer.body(), "{\"item\":0}\n{\"item\":1}\n");
    let (early, _) = process.send(&call("stream", json!(0)), true).await.unwrap();
    assert_eq!(early.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let error: Error = serde_json::from_slice(early.body()).unwrap();
    assert_eq!(error, Error::user("nothing to count"));
    process.end().await.unwrap();
}

#[tokio::test]
async fn a_drain_finishes_what_was_begun_and_refuses_the_rest() {
    let process = Process::ready().await;
    // A connection that is kept open, for a request after the drain has begun.
    let waiting = process.send(&call("call", json!("wait")), false);
    process.probe.begun.notified().await;
    let second = process.send(&call("call", json!("wait")), false);
    process.probe.begun.notified().await;
    let (full, _) = process.send(&call("call", json!(1)), false).await.unwrap();
    assert_eq!(full.headers()[HEADER_NOT_STARTED], "full");
    let probe = process.probe.clone();
    let ending = tokio::spawn(process.end());
    tokio::task::yield_now().await;
    assert!(!ending.is_finished() && !probe.is_stopped.load(Ordering::Relaxed));
    for waiting in [waiting, second] {
        probe.go.notify_one();
        assert_eq!(waiting.await.unwrap().0.body(), "\"wait\"");
    }
    ending.await.unwrap().unwrap();
    assert!(probe.is_stopped.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_place_is_kept_for_a_call_and_given_back_with_its_connection() {
    let process = Process::ready().await;
    let one = call("call", json!(1));
    let taken = process.taken(&one).await;
    let kept = process.taken(&one).await;
    let (full, _) = process.send(&one, false).await.unwrap();
    assert_eq!(full.headers()[HEADER_NOT_STARTED], "full");
    let Opening::Answered(full) = process.open(&one).await else { panic!("there was no place") };
    assert_eq!(full.headers()[HEADER_NOT_STARTED], "full");
    let page = process.page().await;
    let gauge = |name: &str, n: u32| {
        let labels = "application=\"app\",deployment=\"Told\",replica=\"r0\"";
        format!("ray_serve_{name}{{{labels}}} {n}")
    };
    for line in [gauge("reserved_slots_active", 2), gauge("replica_processing_queries", 0)] {
        assert!(page.contains(&line), "{line} is not in\n{page}");
    }
    let answer = taken.send(b"2").await.unwrap();
    assert_eq!(read_body(answer.into_body(), 100).await.unwrap(), "2");
    process.has(1).await;
    drop(kept);
    process.has(0).await;
    // What never came is no request, and no error.
    let page = process.page().await;
    for line in [
        gauge("reserved_slots_active", 0),
        gauge("deployment_request_counter_total", 1),
        gauge("deployment_processing_latency_ms_count", 1),
    ] {
        assert!(page.contains(&line), "{line} is not in\n{page}");
    }
    assert!(!page.contains("exception_type"), "{page}");
    // A drain waits for what was promised.
    let promised = process.taken(&one).await;
    let app = process.client.clone();
    let ending = tokio::spawn(process.end());
    while app
        .get::<ReplicaStatus>("/-/status")
        .await
        .is_ok_and(|s| s.state == ReplicaState::Running)
    {
        tokio::task::yield_now().await;
    }
    let answer = promised.send(b"3").await.unwrap();
    assert_eq!(read_body(answer.into_body(), 100).await.unwrap(), "3");
    drop(app);
    ending.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_call_that_insists_gets_the_next_place() {
    let process = Process::ready().await;
    let waiting = [(); 2].map(|()| process.send(&call("call", json!("wait")), false));
    for _ in &waiting {
        process.probe.begun.notified().await;
    }
    let insisting = process.insist(&call("call", json!(7)));
    let gone = process.insist(&call("call", json!("wait")));
    for _ in 0..50 {
        process.has(2).await;
    }
    assert!(!insisting.is_finished());
    gone.abort();
    process.probe.go.notify_one();
    assert_eq!(insisting.await.unwrap().body(), "7");
    process.probe.go.notify_one();
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap().0.body(), "\"wait\"");
    }
    process.has(0).await;
    process.end().await.unwrap();
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels_its_call() {
    let process = Process::ready().await;
    let waiting = process.send(&call("call", json!("wait")), false);
    process.probe.begun.notified().await;
    waiting.abort();
    tokio::time::timeout(PATIENCE, process.probe.dropped.notified()).await.unwrap();
    process.has(0).await;
    process.end().await.unwrap();
}

#[tokio::test]
async fn what_a_replica_does_is_on_its_page() {
    let process = Process::ready().await;
    let page = async || process.page().await;
    let has = async |line: &str| page().await.lines().any(|l| l == line);
    let labels = "application=\"app\",deployment=\"Told\",replica=\"r0\"";
    let count = |name: &str, n: u32| format!("ray_serve_{name}{{{labels}}} {n}");
    process.send(&call("call", json!(1)), false).await.unwrap();
    process.send(&call("stream", json!(2)), true).await.unwrap();
    process.send(&call("stream", json!(0)), true).await.unwrap();
    process.send(&call("nothing", json!(0)), false).await.unwrap();
    let waiting = process.send(&call("call", json!("wait")), false);
    process.probe.begun.notified().await;
    for line in [
        count("deployment_request_counter_total", 2),
        count("deployment_processing_latency_ms_count", 4),
        count("replica_processing_queries", 1),
    ] {
        assert!(has(&line).await, "{line} is not in\n{}", page().await);
    }
    waiting.abort();
    for kind in ["UserError", "InvalidRequest", "RequestCancelled"] {
        let kind = format!("{labels},exception_type=\"{kind}\"");
        let line = format!("ray_serve_deployment_error_counter_total{{{kind}}} 1");
        let counted = async {
            while !has(&line).await {
                tokio::task::yield_now().await;
            }
        };
        let counted = tokio::time::timeout(PATIENCE, counted).await;
        assert!(counted.is_ok(), "{line} is not in\n{}", page().await);
    }
    process.end().await.unwrap();
}

#[tokio::test]
async fn a_replica_that_takes_a_configuration_says_so() {
    let process = Process::ready().await;
    let client = process.client.clone();
    let told =
        tokio::spawn(
            async move { client.tell(Method::POST, "/-/reconfigure", &json!("wait")).await },
        );
    process.probe.reconfiguring.notified().await;
    assert_eq!(process.state().await, ReplicaState::Updating);
    let (answer, _) = process.send(&call("call", json!(1)), false).await.unwrap();
    assert_eq!(answer.body(), "1", "calls go on");
    process.probe.go.notify_one();
    told.await.unwrap().unwrap();
    assert_eq!(process.state().await, ReplicaState::Running);
    process.end().await.unwrap();
}

#[tokio::test]
async fn a_replica_whose_thread_computes_is_well_and_ends_when_it_is_told() {
    let process = Process::ready_by(true).await;
    let socket = RuntimeDir(process.dir.path().to_owned()).replica_socket(&ReplicaId::new("r0"));
    let (asked, seen) = std::sync::mpsc::channel();
    let ask = move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(async {
            let client = Client::unix(socket);
            client.get::<ReplicaStatus>("/-/status").await
        });
        asked.send(answer.unwrap()).unwrap();
    };
    // It ends when another has been told how the replica is, on the thread that serves.
    *process.probe.compute.lock().unwrap() = Some(Box::new(move || {
        std::thread::spawn(ask).join().unwrap();
    }));
    let (answer, _) = process.send(&call("call", json!(1)), false).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let status = seen.recv().unwrap();
    assert_eq!((status.state, status.ongoing), (ReplicaState::Running, 1));
    process.end().await.unwrap();
}
