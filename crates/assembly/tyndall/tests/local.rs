//! Applications in local testing mode, through the public API.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use futures_util::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tyndall::axum::body::{Body, to_bytes};
use tyndall::axum::extract::{OriginalUri, State};
use tyndall::axum::http::{Request, StatusCode};
use tyndall::axum::routing::get;
use tyndall::axum::{Json, Router};
use tyndall::testing::{self, Local};
use tyndall::{
    Application, BackpressureOptions, CallOptions, Deployment, DeploymentOptions, Error, Handle,
    Methods, Multiplexed, ReplicaContext, Result, context,
};

async fn start(application: impl Into<Application>) -> Local {
    testing::start(&application.into()).await.unwrap()
}

/// Adds a number to what it gets; counts down; fails as it is told.
struct Adder {
    add: i64,
    context: ReplicaContext,
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Task {
    Add(i64),
    Fail(String),
    Panic,
    Context,
}

impl Deployment for Adder {
    type Init = i64;
    type Request = Task;
    type Response = Value;

    async fn start(add: i64, context: ReplicaContext) -> Result<Self> {
        Ok(Self { add, context })
    }

    async fn call(&self, task: Task) -> Result<Value> {
        match task {
            Task::Add(to) => Ok(json!(self.add + to)),
            Task::Fail(message) => Err(Error::user(message)),
            Task::Panic => panic!("a bug"),
            Task::Context => {
                let request = context::request().unwrap();
                let replica = context::replica().unwrap();
                assert_eq!(replica.replica_id(), self.context.replica_id());
                Ok(json!([
                    replica.deployment(),
                    request.request_id,
                    request.multiplexed_model_id,
                    request.session_id,
                ]))
            }
        }
    }

    fn stream(self: Arc<Self>, task: Task) -> impl Stream<Item = Result<Value>> + Send + 'static {
        let items = match task {
            Task::Add(to) => (self.add..=to).rev().map(|n| Ok(json!(n))).collect(),
            Task::Fail(message) => vec![Ok(json!(1)), Err(Error::user(message)), Ok(json!(2))],
            Task::Context => {
                vec![Ok(json!(context::request().unwrap().request_id))]
            }
            Task::Panic => panic!("a bug"),
        };
        stream::iter(items)
    }

    fn methods() -> Methods<Self> {
        Methods::new()
            .call("negate", |_this: Arc<Self>, n: i64| async move { Ok(-n) })
            .stream("twice", |_this: Arc<Self>, n: i64| stream::iter([Ok(n), Ok(n)]))
    }
}

/// Calls two others; they may be one.
struct Pair {
    init: PairInit,
}

#[derive(Serialize, Deserialize)]
struct PairInit {
    left: Handle<Adder>,
    others: Vec<Handle<Adder>>,
}

impl Deployment for Pair {
    type Init = PairInit;
    type Request = i64;
    type Response = Vec<Value>;

    async fn start(init: PairInit, _context: ReplicaContext) -> Result<Self> {
        Ok(Self { init })
    }

    async fn call(&self, n: i64) -> Result<Vec<Value>> {
        if n == 0 {
            let named = self.init.left.remote(Task::Context).await?;
            return Ok(vec![named, json!(context::request().unwrap().request_id)]);
        }
        // All of them begin before the first is awaited.
        let responses: Vec<_> = std::iter::once(&self.init.left)
            .chain(&self.init.others)
            .map(|handle| handle.remote(Task::Add(n)))
            .collect();
        let mut values = Vec::new();
        for response in responses {
            values.push(response.await?);
        }
        Ok(values)
    }
}

#[tokio::test]
async fn handles_call_what_was_bound() {
    let (one, ten) = (Adder::bind(1), Adder::bind(10));
    let others = vec![ten.handle(), one.handle(), Adder::bind(100).handle()];
    let pair = Application::new(Pair::bind(PairInit { left: one.handle(), others }));
    let described = pair.describe(json!({})).unwrap();
    let names: Vec<_> = described.deployments.iter().map(|d| d.options.given_name()).collect();
    assert_eq!(names, ["Pair", "Adder_2", "Adder_1", "Adder"]);
    assert_eq!(described.ingress, "Pair");
    assert_eq!(described.deployments[0].calls, ["Adder", "Adder_1", "Adder_2"]);
    assert_eq!(described.deployments[0].init.init["left"], json!({"deployment": "Adder"}));
    assert_eq!(described.deployments[3].init.init, json!(1));
    let json = serde_json::to_string(&described).unwrap();
    assert_eq!(serde_json::from_str::<tyndall::Described>(&json).unwrap(), described);

    let local = start(pair).await;
    let values = local.handle::<Pair>().remote(5).await.unwrap();
    assert_eq!(values, [6, 15, 6, 105]);
    let named = local.handle::<Pair>().remote(0).await.unwrap();
    assert_eq!((&named[0][0], &named[0][1]), (&json!("Adder"), &named[1]), "one request id");
}

#[test]
fn applications_that_cannot_be_say_why() {
    let bad = Adder::bind_with(Adder::options().num_replicas(0), 1);
    let others = Vec::new();
    let pair = Application::new(Pair::bind(PairInit { left: bad.handle(), others }));
    let message = pair.describe(json!({})).unwrap_err().to_string();
    assert!(message.contains("num_replicas is expected to larger than 0"), "{message}");
    assert!(serde_json::to_value(bad.handle()).is_err(), "a handle belongs into an init");
}

#[tokio::test]
async fn options_of_a_handle_are_copies() {
    let local = start(Adder::bind(1)).await;
    let plain = local.handle::<Adder>();
    let with = plain.options(CallOptions {
        multiplexed_model_id: "m".into(),
        session_id: "s".into(),
        ..CallOptions::default()
    });
    let seen = with.remote(Task::Context).await.unwrap();
    assert_eq!((&seen[2], &seen[3]), (&json!("m"), &json!("s")));
    let response = plain.remote(Task::Context);
    let request_id = response.request_id().to_owned();
    assert_eq!(response.await.unwrap(), json!(["Adder", request_id, "", ""]));
}

#[tokio::test]
async fn errors_reach_the_caller() {
    let local = start(Adder::bind(1)).await;
    let handle = local.handle::<Adder>();
    assert_eq!(handle.remote(Task::Fail("no".into())).await, Err(Error::user("no")));
    let panicked = handle.remote(Task::Panic).await.unwrap_err().to_string();
    assert_eq!(panicked, "the deployment panicked: a bug");
    assert_eq!(handle.remote(Task::Add(1)).await, Ok(json!(2)), "it goes on");
    let missing = handle.method::<i64, i64>("missing").remote(1).await.unwrap_err().to_string();
    assert!(missing.contains("[\"call\", \"negate\", \"stream\", \"twice\"]"), "{missing}");
    let wrong = handle.method::<i64, i64>("twice").remote(1).await.unwrap_err().to_string();
    assert!(wrong.contains("returned a generator. You must use `handle.stream"), "{wrong}");
    let wrong: Vec<_> = handle.method::<i64, i64>("negate").stream(1).collect().await;
    assert!(wrong[0].clone().unwrap_err().to_string().contains("did not return a generator"));
    let typed = handle.method::<&str, i64>("negate").remote("x").await;
    assert!(matches!(typed, Err(Error::InvalidRequest { .. })));
    assert_eq!(handle.method::<i64, i64>("negate").remote(3).await, Ok(-3));
    let nobody = local.handle_of::<Adder>("Nobody").remote(Task::Add(1)).await.unwrap_err();
    assert!(matches!(nobody, Error::DeploymentUnavailable { .. }), "{nobody}");
    drop(local);
    let gone = handle.remote(Task::Add(1)).await.unwrap_err();
    assert!(gone.to_string().contains("the application has ended"), "{gone}");
}

#[tokio::test]
async fn streams_come_item_by_item_and_end_with_their_error() {
    let local = start(Adder::bind(1)).await;
    let handle = local.handle::<Adder>();
    let items: Vec<_> = handle.stream(Task::Add(3)).collect().await;
    assert_eq!(items, [Ok(json!(3)), Ok(json!(2)), Ok(json!(1))]);
    assert!(handle.stream(Task::Add(0)).collect::<Vec<_>>().await.is_empty());
    let items: Vec<_> = handle.stream(Task::Fail("no".into())).collect().await;
    assert_eq!(items, [Ok(json!(1)), Err(Error::user("no"))]);
    assert_eq!(handle.stream(Task::Context).collect::<Vec<_>>().await.len(), 1);
    let items: Vec<_> = handle.stream(Task::Panic).collect().await;
    assert!(items[0].clone().unwrap_err().to_string().contains("a bug"));
    let items: Vec<_> = handle.method::<i64, i64>("twice").stream(4).collect().await;
    assert_eq!(items, [Ok(4), Ok(4)]);
}

/// Says when a call begins and when it is dropped, and ends when it is let go.
struct Slow {
    events: mpsc::Sender<&'static str>,
    go: Arc<Notify>,
    calls: AtomicU32,
}

/// What tests share with the deployment, which is made in the same process.
#[derive(Clone)]
struct Probe {
    events: mpsc::Sender<&'static str>,
    go: Arc<Notify>,
}

tokio::task_local! {
    static PROBE: Probe;
}

struct OnDrop(mpsc::Sender<&'static str>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        // At the end of a test nobody listens.
        let _nobody = self.0.try_send("end");
    }
}

impl Deployment for Slow {
    type Init = ();
    type Request = ();
    type Response = u32;

    async fn start(_init: (), _context: ReplicaContext) -> Result<Self> {
        let Probe { events, go } = PROBE.with(Clone::clone);
        Ok(Self { events, go, calls: AtomicU32::new(0) })
    }

    async fn call(&self, _request: ()) -> Result<u32> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let _end = OnDrop(self.events.clone());
        self.events.try_send("begin").unwrap();
        self.go.notified().await;
        Ok(call)
    }

    fn stream(self: Arc<Self>, _request: ()) -> impl Stream<Item = Result<u32>> + Send + 'static {
        let end = OnDrop(self.events.clone());
        stream::iter([Ok(1)]).chain(stream::pending()).map(move |item| {
            let _until_the_end = &end;
            item
        })
    }
}

/// Calls [`Slow`].
struct Parent {
    slow: Handle<Slow>,
}

impl Deployment for Parent {
    type Init = Handle<Slow>;
    type Request = ();
    type Response = u32;

    async fn start(slow: Handle<Slow>, _context: ReplicaContext) -> Result<Self> {
        Ok(Self { slow })
    }

    async fn call(&self, _request: ()) -> Result<u32> {
        self.slow.remote(()).await
    }
}

async fn slow(options: DeploymentOptions) -> (Local, mpsc::Receiver<&'static str>, Arc<Notify>) {
    let (events, seen) = mpsc::channel(16);
    let go = Arc::new(Notify::new());
    let probe = Probe { events, go: go.clone() };
    let parent = Parent::bind(Slow::bind_with(options, ()).handle());
    let local = PROBE.scope(probe, start(parent)).await;
    (local, seen, go)
}

#[tokio::test]
async fn a_dropped_response_cancels_the_call_and_those_that_it_made() {
    let (local, mut seen, _) = slow(Slow::options()).await;
    let response = local.handle::<Parent>().remote(());
    assert_eq!(seen.recv().await, Some("begin"));
    drop(response);
    assert_eq!(seen.recv().await, Some("end"));

    let response = local.handle::<Parent>().remote(());
    assert_eq!(seen.recv().await, Some("begin"));
    response.cancel();
    let request_id = response.request_id().to_owned();
    assert_eq!(response.await, Err(Error::RequestCancelled { request_id }));
    assert_eq!(seen.recv().await, Some("end"));

    let mut items = local.handle_of::<Slow>("Slow").stream(());
    assert_eq!(items.next().await, Some(Ok(1)));
    drop(items);
    assert_eq!(seen.recv().await, Some("end"));
}

#[tokio::test(start_paused = true)]
async fn calls_have_a_time() {
    let (local, mut seen, _) = slow(Slow::options()).await;
    let options = CallOptions { timeout_s: Some(0.5), ..CallOptions::default() };
    let handle = local.handle_of::<Slow>("Slow").options(options);
    let error = handle.remote(()).await.unwrap_err();
    assert!(matches!(&error, Error::Timeout { timeout_s, .. } if *timeout_s == 0.5), "{error}");
    assert_eq!((seen.recv().await, seen.recv().await), (Some("begin"), Some("end")));
    let items: Vec<_> = handle.stream(()).collect().await;
    assert_eq!(items[0], Ok(1));
    assert!(matches!(items[1], Err(Error::Timeout { .. })));
    assert_eq!(items.len(), 2);
}

#[tokio::test]
async fn the_bounds_of_a_deployment_hold() {
    let backpressure = BackpressureOptions { status_code: 429, retry_after_s: Some(7.0) };
    let options = Slow::options()
        .max_ongoing_requests(1)
        .max_queued_requests(1)
        .backpressure_config(backpressure);
    let (local, mut seen, go) = slow(options).await;
    let handle = local.handle_of::<Slow>("Slow");
    let first = handle.remote(());
    assert_eq!(seen.recv().await, Some("begin"));
    let queued = handle.remote(());
    // The test has one thread: the call comes to its wait before this goes on.
    tokio::task::yield_now().await;
    let refused = local.handle_of::<Slow>("Slow").remote(()).await.unwrap_err();
    let text =
        "Request dropped due to backpressure (num_queued_requests=1, max_queued_requests=1).";
    assert_eq!(refused.to_string(), text);

    let answer = local.http(Request::post("/").body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS, "the child's own configuration");
    assert_eq!(answer.headers()["retry-after"], "7");

    drop(queued);
    go.notify_one();
    assert_eq!(first.await, Ok(0));
    let next = handle.remote(());
    go.notify_one();
    assert_eq!(next.await, Ok(1), "a queued call that was cancelled never began");
}

#[tokio::test(start_paused = true)]
async fn a_chosen_replica_keeps_a_place_for_one_call() {
    let (local, mut seen, go) = slow(Slow::options().max_ongoing_requests(1)).await;
    let handle = local.handle_of::<Slow>("Slow");
    let chosen = handle.choose_replica().await.unwrap();
    assert_eq!(chosen.replica_id(), "local-Slow");
    let late = CallOptions { timeout_s: Some(0.5), ..CallOptions::default() };
    let late = handle.options(late);
    assert!(matches!(late.remote(()).await, Err(Error::Timeout { .. })), "the place is taken");
    let response = chosen.dispatch(());
    assert_eq!(seen.recv().await, Some("begin"));
    go.notify_one();
    assert_eq!((response.await, seen.recv().await), (Ok(0), Some("end")));
    // One that is not used is given back by its drop, and by the end of its time.
    drop(handle.choose_replica().await.unwrap());
    let forgotten = late.choose_replica().await.unwrap();
    let next = handle.remote(());
    assert_eq!(seen.recv().await, Some("begin"));
    assert!(matches!(forgotten.dispatch(()).await, Err(Error::Timeout { .. })));
    go.notify_one();
    assert_eq!(next.await, Ok(1));
}

#[tokio::test]
async fn a_broadcast_has_the_answer_of_the_only_replica() {
    let local = start(Adder::bind(1)).await;
    let handle = local.handle::<Adder>();
    assert_eq!(handle.broadcast(Task::Add(2)).await, Ok(vec![Ok(json!(3))]));
    assert_eq!(handle.method::<i64, i64>("negate").broadcast(2).await, Ok(vec![Ok(-2)]));
    let failed = handle.broadcast(Task::Fail("told to".into())).await;
    assert_eq!(failed, Ok(vec![Err(Error::user("told to"))]));
    let negate = handle.method::<i64, i64>("negate").choose_replica().await.unwrap();
    assert_eq!(negate.dispatch(5).await, Ok(-5));
    let gone = local.handle_of::<Adder>("Nothing");
    assert!(matches!(gone.broadcast(Task::Panic).await, Err(Error::DeploymentUnavailable { .. })));
    assert!(gone.choose_replica().await.is_err());
}

async fn body(answer: tyndall::axum::response::Response) -> String {
    let bytes = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn bodies_are_calls_by_default() {
    let local = start(Adder::bind(1)).await;
    let post = |body: &str| {
        Request::post("/any").header("x-request-id", "r9").body(Body::from(body.to_owned()))
    };
    let answer = local.http(post(r#"{"add": 2}"#).unwrap()).await;
    assert_eq!(answer.headers()["x-request-id"], "r9");
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert_eq!(body(answer).await, "3");
    let answer = local.http(post(r#""context""#).unwrap()).await;
    assert_eq!(body(answer).await, r#"["Adder","r9","",""]"#);
    for failing in [r#"{"fail": "no"}"#, r#""panic""#] {
        let answer = local.http(post(failing).unwrap()).await;
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(body(answer).await, "Internal Server Error");
    }
    assert_eq!(local.http(post("{").unwrap()).await.status(), StatusCode::BAD_REQUEST);

    let streamed = |kind: &str, text: &'static str| {
        Request::post("/").header("accept", kind).body(Body::from(text)).unwrap()
    };
    let lines = local.http(streamed("application/x-ndjson", r#"{"add": 3}"#)).await;
    assert_eq!(body(lines).await, "3\n2\n1\n");
    let events = local.http(streamed("text/event-stream", r#"{"add": 2}"#)).await;
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    assert_eq!(body(events).await, "data: 2\n\ndata: 1\n\n");
    let broken = local.http(streamed("text/event-stream", r#"{"fail": "late"}"#)).await;
    assert_eq!(broken.status(), StatusCode::OK);
    assert!(to_bytes(broken.into_body(), 1 << 20).await.is_err(), "no clean end");
    let early = local.http(streamed("text/event-stream", r#""panic""#)).await;
    assert_eq!(early.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

/// A router of its own, and models that requests name.
struct Ingress {
    models: Multiplexed<String>,
}

async fn routed(OriginalUri(whole): OriginalUri, uri: tyndall::axum::http::Uri) -> Json<Value> {
    let request = context::request().unwrap();
    Json(json!([whole.path(), uri.path(), request.root_path]))
}

async fn model(State(this): State<Arc<Ingress>>) -> Result<String> {
    Ok((*this.models.current().await?).clone())
}

impl Deployment for Ingress {
    type Init = ();
    type Request = ();
    type Response = ();

    async fn start(_init: (), _context: ReplicaContext) -> Result<Self> {
        let load = |id: String| async move {
            assert_eq!(context::replica().unwrap().deployment(), "Ingress");
            Ok(format!("model {id}"))
        };
        Ok(Self { models: Multiplexed::new(3, load)? })
    }

    async fn call(&self, _request: ()) -> Result<()> {
        Ok(())
    }

    fn router(self: Arc<Self>) -> Router {
        Router::new().route("/a", get(routed)).route("/model", get(model)).with_state(self)
    }
}

#[tokio::test]
async fn routers_answer_under_their_prefix() {
    let local = start(Ingress::bind(())).await;
    let ask = |path: &str| {
        let request = Request::get(path).header("x-tyndall-root-path", "/shop/");
        let request = request.header("serve-multiplexed-model-id", "m1");
        local.http(request.body(Body::empty()).unwrap())
    };
    assert_eq!(body(ask("/shop/a").await).await, r#"["/shop/a","/a","/shop"]"#);
    assert_eq!(ask("/shop").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(body(ask("/shop/model").await).await, "model m1");
    let plain = Request::get("/model").body(Body::empty()).unwrap();
    assert_eq!(local.http(plain).await.status(), StatusCode::BAD_REQUEST);
}

/// What its configuration says.
struct Configured {
    word: std::sync::Mutex<String>,
}

impl Deployment for Configured {
    type Init = ();
    type Request = ();
    type Response = String;

    async fn start(_init: (), _context: ReplicaContext) -> Result<Self> {
        Ok(Self { word: std::sync::Mutex::default() })
    }

    async fn call(&self, _request: ()) -> Result<String> {
        Ok(self.word.lock().unwrap().clone())
    }

    async fn reconfigure(&self, user_config: Value) -> Result<()> {
        let word = user_config.as_str().ok_or_else(|| Error::user("the word is no text"))?;
        *self.word.lock().unwrap() = word.to_owned();
        Ok(())
    }

    async fn check_health(&self) -> Result<()> {
        if *self.word.lock().unwrap() == "ill" { Err(Error::user("ill")) } else { Ok(()) }
    }
}

#[tokio::test]
async fn configurations_are_handed_over_and_health_is_asked() {
    let options = Configured::options().user_config(json!("first"));
    let local = start(Configured::bind_with(options.clone(), ())).await;
    let handle = local.handle::<Configured>();
    assert_eq!(handle.remote(()).await.unwrap(), "first");
    local.reconfigure("Configured", json!("second")).await.unwrap();
    assert_eq!(handle.remote(()).await.unwrap(), "second");
    assert_eq!(
        local.reconfigure("Configured", json!(1)).await,
        Err(Error::user("the word is no text"))
    );
    local.check_health("Configured").await.unwrap();
    local.reconfigure("Configured", json!("ill")).await.unwrap();
    assert_eq!(local.check_health("Configured").await, Err(Error::user("ill")));

    let ill = Configured::bind_with(options.user_config(json!("ill")), ());
    assert_eq!(testing::start(&ill.into()).await.unwrap_err(), Error::user("ill"));
    let without = Adder::bind_with(Adder::options().user_config(json!(1)), 1);
    let error = testing::start(&without.into()).await.unwrap_err().to_string();
    assert!(error.contains("no `reconfigure`"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_its_requests() {
    let (local, mut seen, go) = slow(Slow::options()).await;
    let response = local.handle::<Parent>().remote(());
    assert_eq!(seen.recv().await, Some("begin"));
    let mut ending = Box::pin(local.shutdown());
    assert!(tokio::time::timeout(Duration::from_secs(5), &mut ending).await.is_err());
    go.notify_one();
    assert_eq!(response.await, Ok(0));
    ending.await;
}
