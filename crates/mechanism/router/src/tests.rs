//! A router between a fake controller and fake replicas, over real sockets.

use crate::changes::Changes;
use crate::deployment::Deployment;
use crate::{Answer, Call, Refusal, Router, Scope, SendErrorKind, TooLate};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::Instant;
use tyndall_routing::Flow;
use tyndall_transport::{
    Body, Client, Handler, Listener, RequestBody, ServeOptions, empty, line_channel, serve, text,
};
use tyndall_types::protocol::{
    ALIVE_PATH, Backpressure, DeploymentRoute, GenerateDefaults, ModelRoute, ModelTask,
    ReplicaRoute, RouteTable, RouterBackoff, RouterRoute,
};
use tyndall_types::{DeploymentId, HEADER_NOT_STARTED, ReplicaId};

pub(crate) fn route(model: &str) -> DeploymentRoute {
    DeploymentRoute {
        deployment: id(model),
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
        max_ongoing_requests: 1,
        max_queued_requests: 1,
        backpressure: Backpressure { status_code: 429, retry_after_s: Some(7.0) },
        request_timeout_s: 60.0,
        replicas: Vec::new(),
        unavailable: None,
        router: None,
    }
}

pub(crate) fn id(text: &str) -> DeploymentId {
    DeploymentId::try_from(text.to_owned()).unwrap()
}

/// A deployment that no table lists.
pub(crate) fn made(id: &DeploymentId) -> Arc<Deployment> {
    let route = DeploymentRoute { deployment: id.clone(), ..route("model") };
    let changes = Changes {
        caller: "test".into(),
        demand: Notify::new(),
        queued: Notify::new(),
        busy: Mutex::default(),
        metrics: Arc::default(),
    };
    Arc::new(Deployment::new(Arc::new(route), 0, Arc::new(changes)))
}

/// How a replica treats a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Behaviour {
    Echo,
    /// With the body that it was sent.
    Reads,
    Dies,
    NotStarted,
    Hangs,
}

#[derive(Clone)]
struct Replica {
    behaviour: Behaviour,
    asked: Arc<AtomicUsize>,
}

impl Handler for Replica {
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        if request.uri().path() == ALIVE_PATH {
            return empty(StatusCode::NO_CONTENT);
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        let head = format!("{} {}", request.method(), request.uri());
        match self.behaviour {
            Behaviour::Echo => text(StatusCode::CREATED, head),
            Behaviour::Reads => match request.into_body().collect().await {
                Ok(body) => text(StatusCode::OK, body.to_bytes()),
                Err(error) => text(StatusCode::BAD_REQUEST, error.to_string()),
            },
            Behaviour::NotStarted => {
                let mut response = empty(StatusCode::SERVICE_UNAVAILABLE);
                let reason = HeaderValue::from_static("draining");
                response.headers_mut().insert(HEADER_NOT_STARTED, reason);
                response
            }
            // The task of the connection ends, and the connection with it.
            Behaviour::Dies => panic!("killed, as the test wants"),
            Behaviour::Hangs => std::future::pending().await,
        }
    }
}

pub(crate) struct Node {
    pub(crate) dir: TempDir,
    pub(crate) router: Router,
    /// Who chooses, if not the router itself.
    pub(crate) chooser: Option<PathBuf>,
    asked: Vec<Arc<AtomicUsize>>,
}

impl Node {
    /// One deployment with these replicas.
    pub(crate) fn start(behaviours: &[Behaviour]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut node = Self {
            router: Router::new(Client::unix(dir.path().join("none")), "test"),
            dir,
            chooser: None,
            asked: Vec::new(),
        };
        let replicas = (0..).zip(behaviours).map(|(n, behaviour)| node.replica(n, *behaviour));
        let replicas: Vec<_> = replicas.collect();
        node.list(replicas);
        node
    }

    pub(crate) fn list(&self, replicas: Vec<ReplicaRoute>) {
        let backoff = RouterBackoff::default();
        let route_to = |socket: PathBuf| Box::new(RouterRoute { socket, backoff });
        let router = self.chooser.clone().map(route_to);
        let deployments = vec![Arc::new(DeploymentRoute { replicas, router, ..route("app#d") })];
        self.router.apply(RouteTable {
            version: 1,
            is_complete: false,
            deployments,
            removed: Vec::new(),
        });
    }

    pub(crate) fn replica(&mut self, n: usize, behaviour: Behaviour) -> ReplicaRoute {
        let socket: PathBuf = self.dir.path().join(format!("r{n}"));
        let asked = Arc::<AtomicUsize>::default();
        self.asked.push(asked.clone());
        let listener = Listener::bind_unix(&socket).unwrap();
        let options = ServeOptions::default();
        tokio::spawn(serve(
            listener,
            Replica { behaviour, asked },
            options,
            std::future::pending(),
        ));
        ReplicaRoute::new(ReplicaId::new(format!("r{n}")), socket)
    }

    pub(crate) async fn send(&self, call: Call) -> Result<Answer, SendErrorKind> {
        let deployment = self.router.deployment(&id("app#d")).unwrap();
        deployment.send(&call).await.map_err(|error| error.kind)
    }

    fn times_asked(&self) -> usize {
        self.asked.iter().map(|asked| asked.load(Ordering::SeqCst)).sum()
    }

    pub(crate) fn load(&self) -> (u32, u32) {
        self.router.demand().first().map_or((0, 0), |demand| (demand.queued, demand.ongoing))
    }
}

pub(crate) fn call() -> Call {
    Call {
        method: Method::PUT,
        uri: "/x?y=1".parse().unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"body"),
        deadline: None,
        runs_once: false,
        flow: Flow::default(),
        model: None,
        has_arguments: false,
        prefix: None,
    }
}

#[tokio::test]
async fn an_answer_holds_the_permit_until_it_was_read() {
    let node = Node::start(&[Behaviour::Echo]);
    let answer = node.send(call()).await.unwrap();
    assert_eq!(answer.response.status(), StatusCode::CREATED);
    assert_eq!(answer.response.body().replica().as_str(), "r0");
    assert_eq!(node.load(), (0, 1));
    let body = answer.response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "PUT /x?y=1");
    assert_eq!(node.load(), (0, 0));
    drop(node.send(call()).await.unwrap());
    assert_eq!(node.load(), (0, 0));
}

#[tokio::test]
async fn what_no_replica_began_goes_elsewhere_even_if_it_must_run_once() {
    let mut node = Node::start(&[Behaviour::NotStarted, Behaviour::Echo]);
    let gone = ReplicaRoute::new(ReplicaId::new("gone"), node.dir.path().join("gone"));
    let others = [node.replica(2, Behaviour::NotStarted), node.replica(3, Behaviour::Echo), gone];
    node.list(others.to_vec());
    for _ in 0..10 {
        let answer = node.send(Call { runs_once: true, ..call() }).await.unwrap();
        assert_eq!(answer.response.body().replica().as_str(), "r3");
    }
}

#[tokio::test]
async fn what_a_replica_may_have_begun_runs_again_only_if_it_may() {
    let node = Node::start(&[Behaviour::Dies; 4]);
    for (runs_once, attempts) in [(true, 1), (false, 3)] {
        let before = node.times_asked();
        match node.send(Call { runs_once, ..call() }).await.unwrap_err() {
            SendErrorKind::Lost { broken_attempts, reason } => {
                assert_eq!(broken_attempts, attempts);
                // No path of the machine.
                assert_eq!(reason, "its connection broke before the answer");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(node.times_asked() - before, attempts as usize);
        assert_eq!(node.load(), (0, 0));
    }
}

/// What a killed process looks like: its connections end one by one, its socket last.
#[tokio::test]
async fn a_replica_whose_connection_broke_gets_nothing_until_it_answers() {
    let mut node = Node::start(&[]);
    let socket = node.dir.path().join("dying");
    let dying = tokio::net::UnixListener::bind(&socket).unwrap();
    let listed = ReplicaRoute::new(ReplicaId::new("dying"), socket);
    let other = node.replica(0, Behaviour::Echo);
    node.list(vec![listed.clone()]);
    let once = || Call { runs_once: true, ..call() };
    let end_one = async {
        let (mut first, _) = dying.accept().await.unwrap();
        while node.load() != (1, 1) {
            tokio::task::yield_now().await;
        }
        let mut head = [0; 3];
        first.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"PUT");
        drop(first);
        // The next that it is sent is no call.
        let (mut next, _) = dying.accept().await.unwrap();
        next.read_exact(&mut head).await.unwrap();
        assert_eq!((&head, node.load()), (b"GET", (1, 0)));
        drop((next, dying));
        node.list(vec![listed, other]);
    };
    let second = async {
        while node.load() != (0, 1) {
            tokio::task::yield_now().await;
        }
        node.send(once()).await
    };
    let (first, second, ()) = tokio::join!(node.send(once()), second, end_one);
    let lost = matches!(first, Err(SendErrorKind::Lost { broken_attempts: 1, .. }));
    assert!(lost, "{first:?}");
    assert_eq!(second.unwrap().response.body().replica().as_str(), "r0");
}

#[tokio::test]
async fn deadlines_and_full_queues_end_calls() {
    let node = Node::start(&[Behaviour::Hangs]);
    let soon = || Some(Instant::now() + Duration::from_millis(50));
    let (late, waiting) = tokio::join!(node.send(Call { deadline: soon(), ..call() }), async {
        tokio::task::yield_now().await;
        node.send(Call { deadline: soon(), ..call() }).await
    });
    assert_eq!(late.unwrap_err(), SendErrorKind::TooLate(TooLate::AtWork));
    // It waits for the first one, or gets the replica for what is left of its time.
    assert!(matches!(waiting.unwrap_err(), SendErrorKind::TooLate(_)));
    assert_eq!(node.load(), (0, 0));

    node.list(Vec::new());
    let full = async {
        while node.load() != (1, 0) {
            tokio::task::yield_now().await;
        }
        node.send(call()).await.unwrap_err()
    };
    let (waited, full) = tokio::join!(node.send(Call { deadline: soon(), ..call() }), full);
    assert_eq!(waited.unwrap_err(), SendErrorKind::TooLate(TooLate::Waiting));
    let backpressure = Backpressure { status_code: 429, retry_after_s: Some(7.0) };
    assert_eq!(full, SendErrorKind::Refused(Refusal::Full { max_queued: 1, backpressure }));
}

#[tokio::test]
async fn a_call_for_a_model_goes_where_it_is_and_waits_for_no_other_replica_for_long() {
    let mut node = Node::start(&[]);
    let with = |mut replica: ReplicaRoute, models: &[&str]| {
        replica.models = models.iter().map(|model| (*model).to_owned()).collect();
        replica
    };
    let [empty, holder] = [node.replica(0, Behaviour::Echo), node.replica(1, Behaviour::Echo)];
    let full = with(node.replica(2, Behaviour::Echo), &["x", "y"]);
    let holder = with(holder, &["m"]);
    node.list(vec![empty.clone(), holder, full]);
    let of = |model: &str| Call { model: Some(model.into()), ..call() };
    for _ in 0..10 {
        let answer = node.send(of("m")).await.unwrap();
        assert_eq!(answer.response.body().replica().as_str(), "r1");
    }
    let first = node.send(of("m")).await.unwrap();
    let second = node.send(of("m")).await.unwrap();
    assert_eq!(second.response.body().replica().as_str(), "r0", "it has the fewest models");
    // The last one would unload a model, and is taken when the time for better ones is over.
    tokio::time::pause();
    let third = node.send(of("m")).await.unwrap();
    assert_eq!(third.response.body().replica().as_str(), "r2");
    drop((first, second, third));
    assert_eq!(node.load(), (0, 0));
}

#[tokio::test]
async fn who_fills_the_queue_makes_room_for_others() {
    let mut node = Node::start(&[]);
    let replica = node.replica(0, Behaviour::Echo);
    let list = |node: &Node, replicas| {
        let route = route("app#d");
        let (max_ongoing_requests, max_queued_requests) = (2, 2);
        let route =
            DeploymentRoute { replicas, max_ongoing_requests, max_queued_requests, ..route };
        let deployments = vec![Arc::new(route)];
        node.router.apply(RouteTable { version: 2, deployments, ..RouteTable::default() });
    };
    list(&node, Vec::new());
    let of = |id| Call { flow: Flow { id, weight: 1 }, ..call() };
    let [first, second] = [1, 1].map(|id| node.send(of(id)));
    let others = async {
        while node.load() != (2, 0) {
            tokio::task::yield_now().await;
        }
        let (other, ()) = tokio::join!(node.send(of(2)), async {
            tokio::task::yield_now().await;
            list(&node, vec![replica]);
        });
        other
    };
    let (first, second, other) = tokio::join!(first, second, others);
    assert!(first.is_ok() && other.is_ok());
    let refused = second.unwrap_err();
    assert!(matches!(refused, SendErrorKind::Refused(Refusal::Full { max_queued: 2, .. })));
}

#[tokio::test]
async fn a_reservation_holds_its_place_until_it_is_sent_or_dropped() {
    let mut node = Node::start(&[]);
    let full = node.replica(0, Behaviour::NotStarted);
    let reads = node.replica(1, Behaviour::Reads);
    let (id_of_gone, socket) = (ReplicaId::new("gone"), node.dir.path().join("gone"));
    let gone = ReplicaRoute { id: id_of_gone, socket, ..reads.clone() };
    node.list(vec![full, gone, reads]);
    let deployment = node.router.deployment(&id("app#d")).unwrap();
    for _ in 0..5 {
        let reserved = deployment.reserve(&call()).await.unwrap();
        assert_eq!((reserved.replica().as_str(), node.load()), ("r1", (0, 1)));
        let answer = reserved.send(&Bytes::from_static(b"now")).await.unwrap();
        assert_eq!((answer.response.body().replica().as_str(), node.load()), ("r1", (0, 1)));
        let body = answer.response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!((&body[..], node.load()), (&b"now"[..], (0, 0)));
        drop(deployment.reserve(&call()).await.unwrap());
        assert_eq!(node.load(), (0, 0));
    }
    // Nobody else gets the place meanwhile.
    let only = node.replica(2, Behaviour::Reads);
    node.list(vec![only]);
    let reserved = deployment.reserve(&call()).await.unwrap();
    let soon = Some(Instant::now() + Duration::from_millis(20));
    let late = node.send(Call { deadline: soon, ..call() }).await.unwrap_err();
    assert_eq!(late, SendErrorKind::TooLate(TooLate::Waiting));
    let (next, ()) = tokio::join!(node.send(call()), async { drop(reserved) });
    assert_eq!(next.unwrap().response.body().replica().as_str(), "r2");
}

#[tokio::test]
async fn a_reservation_at_a_replica_that_is_gone_is_lost_and_goes_nowhere_else() {
    let mut node = Node::start(&[]);
    let socket = node.dir.path().join("dying");
    let dying = tokio::net::UnixListener::bind(&socket).unwrap();
    let other = node.replica(0, Behaviour::Echo);
    let listed = ReplicaRoute { id: ReplicaId::new("dying"), socket, ..other.clone() };
    node.list(vec![listed.clone()]);
    let deployment = node.router.deployment(&id("app#d")).unwrap();
    let reserve = async |call: Call| {
        let (reserved, stream) = tokio::join!(deployment.reserve(&call), async {
            let (mut stream, _) = dying.accept().await.unwrap();
            stream.read_exact(&mut [0; 3]).await.unwrap();
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            stream
        });
        (reserved.unwrap(), stream)
    };
    let soon = Some(Instant::now() + Duration::from_millis(500));
    let (late, stream) = reserve(Call { deadline: soon, ..call() }).await;
    let error = late.send(&Bytes::new()).await.unwrap_err();
    assert_eq!(error.kind, SendErrorKind::TooLate(TooLate::AtWork));
    drop(stream);
    let (lost, stream) = reserve(call()).await;
    node.list(vec![listed, other]);
    drop((stream, dying));
    let error = lost.send(&Bytes::new()).await.unwrap_err();
    let is_lost = matches!(error.kind, SendErrorKind::Lost { broken_attempts: 1, .. });
    assert!(is_lost, "{error}");
    assert_eq!((node.load(), node.times_asked()), ((0, 0), 0));
}

#[tokio::test]
async fn a_broadcast_asks_every_replica_and_leaves_out_those_that_end() {
    let mut node = Node::start(&[]);
    let deployment = node.router.deployment(&id("app#d")).unwrap();
    let none = deployment.broadcast(&call()).err().unwrap();
    let cause = "no replica of it is running, and nobody wakes one for a broadcast";
    assert_eq!(none.to_string(), cause);
    let kinds = [Behaviour::Echo, Behaviour::Reads, Behaviour::NotStarted, Behaviour::Dies];
    let mut replicas: Vec<_> = (0..).zip(kinds).map(|(n, kind)| node.replica(n, kind)).collect();
    let (id_of_gone, socket) = (ReplicaId::new("gone"), node.dir.path().join("gone"));
    replicas.push(ReplicaRoute { id: id_of_gone, socket, ..replicas[0].clone() });
    node.list(replicas);
    let busy = node.send(call()).await.ok();
    let parts = deployment.broadcast(&Call { runs_once: true, ..call() }).unwrap();
    assert_eq!(node.load().1, 5 + u32::from(busy.is_some()), "full ones are asked too");
    let mut told = Vec::new();
    for part in parts {
        told.push(match part.await {
            Some(Ok(answer)) => {
                let replica = answer.response.body().replica().to_string();
                let body = answer.response.into_body().collect().await.unwrap().to_bytes();
                format!("{replica} {}", String::from_utf8_lossy(&body))
            }
            Some(Err(error)) => error.to_string(),
            None => "none".to_owned(),
        });
    }
    let lost = "1 replicas were lost while they worked on this request";
    assert_eq!(told, ["r0 PUT /x?y=1", "r1 body", "none", lost, "none"]);
    drop(busy);
    assert_eq!(node.load(), (0, 0));
    drop(deployment.broadcast(&call()).unwrap());
    assert_eq!(node.load(), (0, 0));
}

/// Sends two tables to whoever follows and ends when told; the next time, one table.
#[derive(Clone, Default)]
struct Controller {
    followed: Arc<AtomicUsize>,
    end: Arc<Notify>,
}

impl Handler for Controller {
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        if request.uri().path() != "/-/proxies/test/routes" {
            return empty(StatusCode::NO_CONTENT);
        }
        let times = self.followed.fetch_add(1, Ordering::SeqCst);
        let (sender, body) = line_channel(2);
        let table = |is_complete, names: &[&str], removed: &[&str]| RouteTable {
            version: 1,
            is_complete,
            deployments: names.iter().map(|name| Arc::new(route(name))).collect(),
            removed: removed.iter().map(|name| id(name)).collect(),
        };
        if times == 0 {
            assert!(sender.send(&table(true, &["a", "b"], &[])).await);
            assert!(sender.send(&table(false, &["c"], &["a"])).await);
            let end = self.end.clone();
            tokio::spawn(async move {
                end.notified().await;
                drop(sender);
            });
        } else {
            assert!(sender.send(&table(true, &["d"], &[])).await);
            tokio::spawn(async move {
                sender.closed().await;
            });
        }
        Response::new(body)
    }
}

#[tokio::test]
async fn tables_are_followed_across_controllers() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("controller");
    let listener = Listener::bind_unix(&socket).unwrap();
    let controller = Controller::default();
    let forever = std::future::pending();
    tokio::spawn(serve(listener, controller.clone(), ServeOptions::default(), forever));
    let router = Router::new(Client::unix(&socket), "test");
    let seen = async {
        router.ready().await;
        for names in [&["b", "c"][..], &["d"]] {
            loop {
                let found: Vec<_> = router.with_models(&Scope::Everywhere, |models| {
                    models.iter().map(|model| model.id().to_string()).collect()
                });
                if found == names {
                    break;
                }
                tokio::task::yield_now().await;
            }
            controller.end.notify_one();
        }
    };
    tokio::select! {
        () = router.run() => panic!("the links never end"),
        seen = tokio::time::timeout(Duration::from_secs(20), seen) => seen.unwrap(),
    }
}
