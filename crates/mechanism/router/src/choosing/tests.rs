//! A request router's process is played by a function.

use super::*;
use crate::tests::{Behaviour, Node, call, id};
use crate::{Answer, SendErrorKind};
use http::{HeaderValue, Request, Response, StatusCode};
use std::sync::Mutex;
use tyndall_transport::{
    Body, Handler, Listener, RequestBody, ServeOptions, empty, json, read_body, serve, text,
};
use tyndall_types::protocol::{DeploymentRoute, ReplicaRoute, RouteTable};

/// What becomes of a question.
enum Says {
    Ranks(Vec<Vec<&'static str>>),
    Waits,
    Fails,
    Hangs,
}

type Choose = dyn Fn(usize, RouterQuestion, &[u8]) -> Says + Send + Sync;

/// Plays the process; it writes down what it hears.
#[derive(Clone)]
struct Chooser {
    choose: Arc<Choose>,
    asked: Arc<Mutex<usize>>,
    heard: Arc<Mutex<Vec<String>>>,
    /// Who is there, once for each connection that says so.
    callers: Arc<Mutex<Vec<String>>>,
}

/// A connection that says who is there.
struct Attending(Arc<Mutex<Vec<String>>>);

impl Drop for Attending {
    fn drop(&mut self) {
        self.0.lock().unwrap().pop();
    }
}

impl Handler for Chooser {
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let body = read_body(request.into_body(), 1 << 20).await.unwrap();
        if path == "/-/attend" {
            let RouterCaller { caller } = serde_json::from_slice(&body).unwrap();
            self.callers.lock().unwrap().push(caller);
            let _attending = Attending(self.callers.clone());
            return std::future::pending().await;
        }
        if path == "/-/cancelled" {
            let gone: RouterGone = serde_json::from_slice(&body).unwrap();
            assert_eq!(gone.deployment.as_str(), "d");
            self.heard.lock().unwrap().push(path);
            return empty(StatusCode::NO_CONTENT);
        }
        if path != "/-/choose" {
            let news: RouterNews = serde_json::from_slice(&body).unwrap();
            self.heard.lock().unwrap().push(format!("{path} {}", news.replica));
            return empty(StatusCode::NO_CONTENT);
        }
        let end = body.iter().position(|byte| *byte == b'\n').unwrap();
        let question = serde_json::from_slice(&body[..end]).unwrap();
        let times = {
            let mut asked = self.asked.lock().unwrap();
            *asked += 1;
            *asked
        };
        match (self.choose)(times, question, &body[end + 1..]) {
            Says::Ranks(ranks) => {
                let rank = |rank: Vec<&str>| rank.into_iter().map(ReplicaId::new).collect();
                let ranks = ranks.into_iter().map(rank).collect();
                json(StatusCode::OK, &RouterAnswer { ranks, hears: true, waits: false })
            }
            Says::Waits => {
                let answer = RouterAnswer { waits: true, hears: true, ..RouterAnswer::default() };
                json(StatusCode::OK, &answer)
            }
            Says::Fails => text(StatusCode::UNPROCESSABLE_ENTITY, "it raised"),
            Says::Hangs => std::future::pending().await,
        }
    }
}

/// A node whose replicas are chosen by this.
struct Chosen {
    node: Node,
    chooser: Chooser,
}

impl Chosen {
    fn start(
        num_replicas: usize,
        choose: impl Fn(usize, RouterQuestion, &[u8]) -> Says + Send + Sync + 'static,
    ) -> (Self, Vec<ReplicaRoute>) {
        let mut node = Node::start(&[]);
        let socket = node.dir.path().join("chooser");
        let listener = Listener::bind_unix(&socket).unwrap();
        let (asked, heard, callers) = Default::default();
        let chooser = Chooser { choose: Arc::new(choose), asked, heard, callers };
        let options = ServeOptions::default();
        tokio::spawn(serve(listener, chooser.clone(), options, std::future::pending()));
        node.chooser = Some(socket);
        let routes: Vec<_> = (0..num_replicas).map(|n| node.replica(n, Behaviour::Echo)).collect();
        node.list(routes.clone());
        (Self { node, chooser }, routes)
    }

    /// Lets so many wait.
    fn widen(&self, max_queued_requests: u32, replicas: Vec<ReplicaRoute>) {
        let route = self.node.router.deployment(&id("app#d")).unwrap().route();
        let route = DeploymentRoute { max_queued_requests, replicas, ..(*route).clone() };
        let deployments = vec![Arc::new(route)];
        self.node.router.apply(RouteTable { version: 2, deployments, ..RouteTable::default() });
    }

    fn num_in_line(&self) -> usize {
        self.node.router.deployment(&id("app#d")).unwrap().num_in_line()
    }

    async fn send(&self) -> Answer {
        self.node.send(call()).await.unwrap()
    }

    fn heard(&self) -> Vec<String> {
        self.chooser.heard.lock().unwrap().clone()
    }

    fn num_callers(&self) -> usize {
        self.chooser.callers.lock().unwrap().len()
    }

    fn times_asked(&self) -> usize {
        *self.chooser.asked.lock().unwrap()
    }

    async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn replica(answer: &Answer) -> &str {
    answer.response.body().replica().as_str()
}

#[tokio::test]
async fn a_request_goes_where_it_was_ranked_and_the_router_hears_of_it() {
    let (node, _) = Chosen::start(3, |_, question, arguments| {
        assert_eq!((question.method.as_str(), question.uri.as_str()), ("PUT", "/x?y=1"));
        let header = |name: &str| {
            let mut named = question.headers.iter().filter(|(other, _)| other == name);
            named.next().map(|(_, value)| value.clone())
        };
        assert_eq!(header("x-bytes").as_deref(), Some("\u{e9}"));
        match arguments {
            b"" => Says::Ranks(vec![vec!["r1"], vec!["r2"]]),
            b"body" => Says::Ranks(vec![vec!["gone"], vec![], vec!["r2", "r0"]]),
            other => panic!("{other:?}"),
        }
    });
    let mut asking = call();
    asking.headers.insert("x-bytes", HeaderValue::from_bytes(b"\xe9").unwrap());
    let answer = node.node.send(asking.clone()).await.unwrap();
    assert_eq!((replica(&answer), node.times_asked()), ("r1", 1));
    let heard = || node.chooser.heard.lock().unwrap().clone();
    node.until(|_| !heard().is_empty()).await;
    assert_eq!(heard(), ["/-/routed r1"]);
    drop(answer);
    node.until(|_| heard().len() > 1).await;
    assert_eq!(heard(), ["/-/routed r1", "/-/completed r1"]);
    // Of a handle's call the arguments are told too.
    let answer = node.node.send(Call { has_arguments: true, ..asking }).await.unwrap();
    assert!(["r0", "r2"].contains(&replica(&answer)));
}

#[tokio::test]
async fn a_request_waits_for_what_was_ranked_and_the_router_may_think_again() {
    let (node, _) = Chosen::start(2, |times, question, _| match times {
        1 => Says::Ranks(vec![vec!["r0"]]),
        // The first is full: nothing else will do for a while.
        2..6 => {
            assert_eq!(question.ongoing.len(), 1);
            Says::Ranks(vec![vec!["r0"]])
        }
        6 => Says::Ranks(vec![]),
        7 => Says::Ranks(vec![vec!["r0"], vec!["r1"]]),
        _ => Says::Ranks(vec![vec!["r0"]]),
    });
    let first = node.send().await;
    let second = node.send().await;
    assert_eq!((replica(&first), replica(&second), node.times_asked()), ("r0", "r1", 7));
    // Now that nothing has room it is not asked again and again; what comes free is taken at once.
    let third = async {
        let third = node.send().await;
        assert_eq!(replica(&third), "r0");
    };
    let free = async {
        node.until(|node| node.times_asked() == 8).await;
        assert_eq!(node.node.load(), (1, 2));
        drop(first);
    };
    tokio::join!(third, free);
    assert!(node.times_asked() <= 9);
}

#[tokio::test]
async fn a_router_that_fails_or_is_away_leaves_it_to_the_built_in_rule() {
    let (node, routes) = Chosen::start(1, |_, _, _| Says::Fails);
    assert_eq!(replica(&node.send().await), "r0");
    assert_eq!(node.times_asked(), 1);
    let Chosen { mut node, .. } = node;
    node.chooser = Some(node.dir.path().join("nobody"));
    node.list(routes);
    assert_eq!(replica(&node.send(call()).await.unwrap()), "r0");
    assert_eq!(node.load(), (0, 0));
}

#[tokio::test]
async fn only_one_request_at_a_time_waits_for_a_router_that_hangs() {
    let (node, _) = Chosen::start(1, |times, _, _| match times {
        1 | 2 => Says::Hangs,
        _ => Says::Ranks(vec![vec!["r0"]]),
    });
    drop(node.send().await);
    assert_eq!(node.times_asked(), 1);
    let order = Mutex::new(Vec::new());
    let tries = async {
        drop(node.send().await);
        order.lock().unwrap().push("tries");
    };
    let does_not = async {
        node.until(|node| node.times_asked() == 2).await;
        drop(node.send().await);
        order.lock().unwrap().push("does not");
    };
    tokio::join!(tries, does_not);
    assert_eq!((order.into_inner().unwrap(), node.times_asked()), (vec!["does not", "tries"], 2));
    // It is asked as before once it has answered.
    drop(node.send().await);
    drop(node.send().await);
    assert_eq!(node.times_asked(), 4);
}

#[tokio::test]
async fn nobody_is_asked_before_there_is_a_replica() {
    let (mut node, _) = Chosen::start(0, |_, _, _| Says::Ranks(vec![vec!["r0"]]));
    let route = node.node.replica(0, Behaviour::Echo);
    let comes = async {
        node.until(|node| node.node.load() == (1, 0)).await;
        assert_eq!(node.times_asked(), 0);
        node.node.list(vec![route.clone()]);
    };
    let (answer, ()) = tokio::join!(node.send(), comes);
    assert_eq!((replica(&answer), node.times_asked()), ("r0", 1));
}

#[tokio::test]
async fn a_replica_that_failed_is_told_and_tried_again_only_later() {
    let (mut node, mut routes) = Chosen::start(1, |times, question, _| match times {
        1 => Says::Ranks(vec![vec!["r1"]]),
        _ if !question.avoid.is_empty() => Says::Ranks(vec![vec!["r1"], vec!["r0"]]),
        _ => Says::Ranks(vec![vec!["r1"]]),
    });
    routes.push(node.node.replica(1, Behaviour::NotStarted));
    node.node.list(routes);
    assert_eq!((replica(&node.send().await), node.times_asked()), ("r0", 2));
}

#[tokio::test]
async fn the_bound_of_the_queue_holds_for_those_that_are_ranked() {
    let (node, _) = Chosen::start(2, |_, _, _| Says::Ranks(vec![vec!["r0"]]));
    let first = node.send().await;
    // One may wait; the other replica has room, and nobody wants it.
    let waits = async { replica(&node.send().await).to_owned() };
    let refused = async {
        node.until(|node| node.node.load() == (1, 1) && node.times_asked() >= 2).await;
        let error = node.node.send(call()).await.unwrap_err();
        drop(first);
        error
    };
    let (waited, error) = tokio::join!(waits, refused);
    assert_eq!(waited, "r0");
    assert!(
        matches!(error, SendErrorKind::Refused(Refusal::Full { max_queued: 1, .. })),
        "{error:?}"
    );
}

/// Those that are full are left out.
fn free(question: &RouterQuestion, replicas: &[&'static str]) -> Says {
    let is_free = |id: &&&str| !question.ongoing.contains_key(&ReplicaId::new(**id));
    Says::Ranks(vec![replicas.iter().filter(is_free).copied().collect()])
}

#[tokio::test]
async fn who_comes_later_does_not_overtake_those_that_nobody_was_free_for() {
    let (node, routes) = Chosen::start(1, |_, question, _| free(&question, &["r0"]));
    node.widen(8, routes);
    let order = Mutex::new(Vec::new());
    let first = node.send().await;
    let waits = async |nth: usize| {
        node.until(|node| node.num_in_line() == nth).await;
        let answer = node.send().await;
        order.lock().unwrap().push(nth);
        // The next comes while this one's replica comes free.
        tokio::join!(async { drop(answer) }, async {
            if nth == 0 {
                drop(node.send().await);
                order.lock().unwrap().push(9);
            }
        });
    };
    let frees = async {
        node.until(|node| node.num_in_line() == 3).await;
        assert_eq!((node.node.load(), node.times_asked()), ((3, 1), 2));
        drop(first);
    };
    tokio::join!(waits(0), waits(1), waits(2), frees);
    assert_eq!(order.into_inner().unwrap(), [0, 1, 2, 9]);
    assert_eq!(node.node.load(), (0, 0));
}

#[tokio::test]
async fn who_waits_for_a_router_goes_on_without_it_when_it_is_gone() {
    let (node, routes) = Chosen::start(1, |_, question, _| free(&question, &["r0"]));
    node.widen(8, routes.clone());
    let first = node.send().await;
    let gone = async {
        node.until(|node| node.num_in_line() == 2).await;
        let route = node.node.router.deployment(&id("app#d")).unwrap().route();
        let route = DeploymentRoute { router: None, ..(*route).clone() };
        let deployments = vec![Arc::new(route)];
        node.node.router.apply(RouteTable { version: 3, deployments, ..RouteTable::default() });
        drop(first);
    };
    let (second, third, ()) =
        tokio::join!(async { drop(node.send().await) }, async { drop(node.send().await) }, gone);
    assert_eq!((second, third, node.node.load()), ((), (), (0, 0)));
}

/// A router that wants nobody while all are full, and one request that only one replica can have.
#[tokio::test]
async fn room_that_the_first_in_line_does_not_want_is_not_lost_on_the_others() {
    let (node, routes) = Chosen::start(2, |_, question, _| {
        let header = |name: &str| question.headers.iter().any(|(other, _)| other == name);
        match header("x-strict") {
            true => Says::Ranks(vec![vec!["r0"]]),
            false => free(&question, &["r0", "r1"]),
        }
    });
    node.widen(8, routes);
    let mut strict = call();
    strict.headers.insert("x-strict", HeaderValue::from_static("yes"));
    let first = node.node.send(strict.clone()).await.unwrap();
    let second = node.send().await;
    assert_eq!((replica(&first), replica(&second)), ("r0", "r1"));
    let strictly = async {
        let answer = node.node.send(strict.clone()).await.unwrap();
        assert_eq!(replica(&answer), "r0");
    };
    let freely = async {
        node.until(|node| node.node.load() == (1, 2) && node.times_asked() >= 3).await;
        let answer = node.send().await;
        assert_eq!(replica(&answer), "r1");
        drop(first);
    };
    let ends = async {
        node.until(|node| node.node.load() == (2, 2) && node.times_asked() >= 4).await;
        drop(second);
    };
    tokio::join!(strictly, freely, ends);
}

#[tokio::test]
async fn a_router_that_waits_itself_is_asked_on_and_hears_of_every_end() {
    let is_free = Arc::new(AtomicBool::new(true));
    let free = is_free.clone();
    let (node, _) = Chosen::start(1, move |_, _, _| match free.load(Ordering::SeqCst) {
        true => Says::Ranks(vec![vec!["r0"]]),
        false => Says::Waits,
    });
    assert_eq!(node.num_callers(), 0);
    let first = node.send().await;
    // It knows from the first answer on that this process is there.
    node.until(|node| node.num_callers() == 1).await;
    is_free.store(false, Ordering::SeqCst);
    tokio::select! {
        _ = node.send() => panic!("it waits"),
        () = node.until(|node| node.times_asked() >= 5) => {}
    }
    node.until(|node| node.heard() == ["/-/routed r0", "/-/cancelled"]).await;
    let third = async {
        let third = node.send().await;
        assert_eq!(replica(&third), "r0");
    };
    let before = node.times_asked();
    let frees = async {
        node.until(|node| node.times_asked() > before + 2).await;
        is_free.store(true, Ordering::SeqCst);
        drop(first);
    };
    tokio::join!(third, frees);
    node.until(|node| node.heard().len() == 5).await;
    let mut heard = node.heard().split_off(2);
    heard.sort();
    assert_eq!(heard, ["/-/completed r0", "/-/completed r0", "/-/routed r0"]);
    // Without the router the connection ends.
    assert_eq!(node.num_callers(), 1);
    let route = node.node.router.deployment(&id("app#d")).unwrap().route();
    let route = DeploymentRoute { router: None, ..(*route).clone() };
    let deployments = vec![Arc::new(route)];
    node.node.router.apply(RouteTable { version: 3, deployments, ..RouteTable::default() });
    node.until(|node| node.num_callers() == 0).await;
}

#[test]
fn pauses_grow_up_to_the_longest() {
    let backoff = RouterBackoff::default();
    let ms = |times| pause(&backoff, times).as_millis();
    assert_eq!([0, 1, 2, 3, 5, 6, 60_000].map(ms), [0, 25, 50, 100, 400, 500, 500]);
    let odd = RouterBackoff { backoff_multiplier: 1e300, max_backoff_s: 1e300, ..backoff };
    assert_eq!(pause(&odd, 9), Duration::MAX);
}
