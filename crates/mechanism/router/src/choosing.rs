//! Replica choice by code of the application.
//!
//! 1. A request whose deployment has a request router in Python waits undecided. As soon as there is a
//!    replica, the router's process is asked for ranks.
//! 2. It gets a replica of the first rank that has a free one, now or when one comes free.
//! 3. While it waits though some replica has room, the router is asked again: at once the first time,
//!    then after pauses that grow. Where it had nobody because none had room, it is asked when one has,
//!    in the order of arrival.
//! 4. A router that waits itself, as one that counts what replicas may have, says so in time and is asked
//!    again at once: who asks keeps its turn. It hears of requests that end meanwhile, and by a connection
//!    that is held open of the end of this process, with which all of its requests end.
//! 5. A router that fails, or whose process is away, leaves the request to the rule that is built in.
//!    One that does not answer is asked by one request at a time until it does; the others do not wait
//!    for it.
//!
//! Nothing is asked under a lock, and no answer is waited for without a deadline.

use crate::deployment::{Deployment, Outcome, Refusal};
use crate::permit::{Permit, Waiting};
use crate::send::Call;
use bytes::{BufMut, Bytes, BytesMut};
use http::Method;
use serde::Serialize;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tyndall_routing::Wish;
use tyndall_transport::Client;
use tyndall_types::ReplicaId;
use tyndall_types::protocol::{
    RouterAnswer, RouterBackoff, RouterCaller, RouterGone, RouterNews, RouterQuestion, RouterRoute,
};

/// A router has less, and says so itself when it takes longer: who does not answer by then hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// Questions of one process to one router at a time. It is one thread: more would only wait there.
const MAX_ASKING: usize = 16;

/// Before a router is told again that this process is there; its process is gone, or goes next.
const ATTEND_PAUSE: Duration = Duration::from_secs(1);

/// Names the next request for which a router is asked.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);

/// The way to the router of one deployment.
#[derive(Debug)]
pub(crate) struct RouterLink {
    route: RouterRoute,
    client: Client,
    asking: Semaphore,
    /// It did not answer the last time that it was asked.
    is_silent: AtomicBool,
    /// Somebody finds out whether it answers again.
    is_tried: AtomicBool,
    /// It said that it wants to hear of requests; it knows of this process by what is held open then.
    attending: OnceLock<AbortHandle>,
}

impl Drop for RouterLink {
    fn drop(&mut self) {
        if let Some(attending) = self.attending.get() {
            attending.abort();
        }
    }
}

impl RouterLink {
    pub(crate) fn new(route: RouterRoute) -> Self {
        let client = Client::unix(&route.socket);
        let asking = Semaphore::new(MAX_ASKING);
        let attending = OnceLock::new();
        Self { route, client, asking, is_silent: false.into(), is_tried: false.into(), attending }
    }

    pub(crate) fn route(&self) -> &RouterRoute {
        &self.route
    }

    /// Its answer; none where the rule that is built in has to do. The question is made when it is sent.
    /// One that waits is asked again for as long as it is the router.
    async fn ask(
        &self,
        question: impl Fn() -> Bytes,
        is_current: impl Fn() -> bool,
    ) -> Option<RouterAnswer> {
        let _turn = self.asking.acquire().await.ok()?;
        loop {
            let answer = self.ask_once(question()).await?;
            if !answer.waits || !is_current() {
                return Some(answer);
            }
        }
    }

    async fn ask_once(&self, question: Bytes) -> Option<RouterAnswer> {
        let _trial = match self.is_silent.load(Ordering::Relaxed) {
            true => Some(Trial::begin(&self.is_tried)?),
            false => None,
        };
        let asked = self.client.ask(Method::POST, "/-/choose", question);
        let answer = timeout(ANSWER_TIMEOUT, asked).await;
        let is_silent = answer.is_err();
        if self.is_silent.swap(is_silent, Ordering::Relaxed) != is_silent {
            let socket = self.route.socket.display();
            match is_silent {
                true => tracing::warn!(
                    %socket,
                    "a request router does not answer: the built-in rule chooses replicas meanwhile"
                ),
                false => tracing::info!(%socket, "a request router answers again"),
            }
        }
        // Its process has told why, and the controller tells it.
        let told = answer.ok()?;
        told.inspect_err(|error| tracing::debug!(%error, "a request router did not choose")).ok()
    }

    /// Tells it that a request has its replica, and, when what is returned is dropped, that the replica
    /// is done with it.
    fn tell(self: Arc<Self>, news: RouterNews) -> oneshot::Sender<()> {
        let (held, over) = oneshot::channel();
        tokio::spawn(async move {
            self.post("/-/routed", &news).await;
            drop(over.await);
            self.post("/-/completed", &news).await;
        });
        held
    }

    /// Whether it hears of requests, as far as is known.
    fn hears(&self) -> bool {
        self.attending.get().is_some()
    }

    /// It hears of requests: it is to know when this process is gone.
    fn attend(&self, caller: &str) {
        self.attending.get_or_init(|| {
            let (client, caller) =
                (self.client.clone(), RouterCaller { caller: caller.to_owned() });
            let attending = tokio::spawn(async move {
                loop {
                    let over = client.tell(Method::POST, "/-/attend", &caller).await;
                    tracing::debug!(?over, "a request router does not hold the connection");
                    sleep(ATTEND_PAUSE).await;
                }
            });
            attending.abort_handle()
        });
    }

    async fn post(&self, path: &str, news: &impl Serialize) {
        let told = timeout(ANSWER_TIMEOUT, self.client.tell(Method::POST, path, news)).await;
        if !matches!(told, Ok(Ok(()))) {
            tracing::debug!(path, "a request router did not hear what became of a request");
        }
    }
}

/// Only one at a time.
struct Trial<'a>(&'a AtomicBool);

impl<'a> Trial<'a> {
    fn begin(is_tried: &'a AtomicBool) -> Option<Self> {
        (!is_tried.swap(true, Ordering::Relaxed)).then_some(Self(is_tried))
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A request that a router which hears of them was asked about, and that has no replica of it. When this
/// is dropped, the router is told that it needs none.
struct Asked {
    link: Arc<RouterLink>,
    gone: Option<RouterGone>,
}

impl Asked {
    /// It has a replica.
    fn settle(mut self) {
        self.gone = None;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let Some(gone) = self.gone.take() else { return };
        // None at the end of the process, which is told by its end.
        let Ok(runtime) = Handle::try_current() else { return };
        let link = self.link.clone();
        runtime.spawn(async move { link.post("/-/cancelled", &gone).await });
    }
}

/// A request on its way through a router.
#[derive(Debug)]
pub(crate) struct Choosing<'a> {
    call: &'a Call,
    number: u64,
}

impl<'a> Choosing<'a> {
    pub(crate) fn new(call: &'a Call) -> Self {
        Self { call, number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed) }
    }

    /// Waits for a permit for a replica that the router has ranked; none when no router chooses any
    /// more. `avoid` are replicas that have failed the request: after `forgive_after` it may have them
    /// again.
    ///
    /// # Cancel safety
    /// Cancel safe: the place is kept until `waiting` is dropped.
    pub(crate) async fn permit(
        &self,
        deployment: &Deployment,
        waiting: &mut Waiting,
        avoid: &mut Vec<ReplicaId>,
        forgive_after: Duration,
    ) -> Option<Result<Permit, Refusal>> {
        let mut asked: Option<Asked> = None;
        let mut times = 0;
        let outcome = loop {
            if let Some(outcome) = replica_comes(deployment, waiting).await {
                break outcome;
            }
            if let Some(turn) = deployment.take_turn(waiting.ticket()) {
                tokio::select! {
                    biased;
                    outcome = waiting.outcome() => break outcome,
                    _ = turn => {}
                }
            }
            let link = deployment.router()?;
            let is_current = || deployment.router().is_some_and(|now| Arc::ptr_eq(&now, &link));
            asked = asked.filter(|asked| Arc::ptr_eq(&asked.link, &link));
            if asked.is_none() && link.hears() {
                asked = Some(self.asked(deployment, &link));
            }
            let answer = tokio::select! {
                biased;
                outcome = waiting.outcome() => break outcome,
                answer = link.ask(|| self.question(deployment, avoid), is_current) => answer?,
            };
            if answer.hears && asked.is_none() {
                link.attend(deployment.caller());
                asked = Some(self.asked(deployment, &link));
            }
            waiting.decide(Wish::Ranked(answer.ranks.iter().cloned().collect()));
            let pause = match avoid.is_empty() {
                true => pause(&link.route.backoff, times),
                false => forgive_after,
            };
            let has_ranks = answer.ranks.iter().any(|rank| !rank.is_empty());
            let waits = Waits { has_ranks, pause, link };
            match next(deployment, waiting, waits).await {
                Next::Is(outcome) => break outcome,
                Next::Ask => {}
                Next::AskAfterAll => {
                    avoid.clear();
                    waiting.forgive();
                    times += 1;
                }
            }
        };
        let mut permit = waiting.settle(outcome);
        if let (Ok(permit), Some(asked)) = (&mut permit, asked) {
            let link = asked.link.clone();
            asked.settle();
            let news = RouterNews {
                deployment: deployment.id().deployment.clone(),
                caller: deployment.caller().to_owned(),
                number: self.number,
                replica: permit.replica().clone(),
            };
            permit.is_told_of(link.tell(news));
        }
        Some(permit)
    }

    fn asked(&self, deployment: &Deployment, link: &Arc<RouterLink>) -> Asked {
        let gone = RouterGone {
            deployment: deployment.id().deployment.clone(),
            caller: deployment.caller().to_owned(),
            number: self.number,
        };
        Asked { link: link.clone(), gone: Some(gone) }
    }

    /// A line of JSON, and the arguments of a call by a handle.
    fn question(&self, deployment: &Deployment, avoid: &[ReplicaId]) -> Bytes {
        let call = self.call;
        // As bytes have them: what a client sends need not be text.
        let text = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect();
        let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            (name.as_str().to_owned(), text(value.as_bytes()))
        };
        let question = RouterQuestion {
            deployment: deployment.id().deployment.clone(),
            caller: deployment.caller().to_owned(),
            number: self.number,
            ongoing: deployment.loads(),
            avoid: avoid.to_vec(),
            method: call.method.to_string(),
            uri: call.uri.to_string(),
            headers: call.headers.iter().map(header).collect(),
        };
        let line = serde_json::to_vec(&question).expect("wire types have string keys only");
        let arguments: &[u8] = if call.has_arguments { &call.body } else { b"" };
        let mut body = BytesMut::with_capacity(line.len() + 1 + arguments.len());
        for part in [&line, &b"\n"[..], arguments] {
            body.put_slice(part);
        }
        body.freeze()
    }
}

/// Resolves when there is a replica, or with what becomes of the request before.
async fn replica_comes(deployment: &Deployment, waiting: &mut Waiting) -> Option<Outcome> {
    loop {
        let mut news = pin!(deployment.moves().news.notified());
        news.as_mut().enable();
        if deployment.has_replica() {
            return None;
        }
        tokio::select! {
            biased;
            outcome = waiting.outcome() => return Some(outcome),
            () = news => {}
        }
    }
}

/// What comes after an answer.
enum Next {
    Is(Outcome),
    /// Something has changed.
    Ask,
    /// Nothing has, for as long as a pause takes.
    AskAfterAll,
}

/// What a request waits by.
struct Waits {
    has_ranks: bool,
    pause: Duration,
    /// Who has said it.
    link: Arc<RouterLink>,
}

/// Waits for what the router has ranked, or for a reason to ask it again: room, where it had nobody
/// because none had, and else a pause, in which some replica has room.
async fn next(deployment: &Deployment, waiting: &mut Waiting, waits: Waits) -> Next {
    let Waits { has_ranks, pause, link } = waits;
    loop {
        let moves = deployment.moves();
        let (mut news, mut room) = (pin!(moves.news.notified()), pin!(moves.room.notified()));
        news.as_mut().enable();
        room.as_mut().enable();
        if deployment.router().is_none_or(|now| !Arc::ptr_eq(&now, &link)) {
            return Next::Ask;
        }
        let turn = match has_ranks {
            true => None,
            false => deployment.wait_for_room(waiting.ticket()),
        };
        if let Some(turn) = turn {
            return tokio::select! {
                biased;
                outcome = waiting.outcome() => Next::Is(outcome),
                () = news => Next::Ask,
                _ = turn => Next::Ask,
            };
        }
        let has_room = deployment.has_room();
        tokio::select! {
            biased;
            outcome = waiting.outcome() => return Next::Is(outcome),
            () = news => return Next::Ask,
            () = sleep(pause), if has_room => return Next::AskAfterAll,
            () = room, if !has_room => {}
        }
    }
}

/// Until a router is asked again that was asked again so many times before.
fn pause(backoff: &RouterBackoff, times: u32) -> Duration {
    let Some(exponent) = times.checked_sub(1) else { return Duration::ZERO };
    let exponent = i32::try_from(exponent).unwrap_or(i32::MAX);
    let pause_s = backoff.initial_backoff_s * backoff.backoff_multiplier.powi(exponent);
    // Not a number, and what is too large for a time, is the longest.
    let pause_s = if pause_s < backoff.max_backoff_s { pause_s } else { backoff.max_backoff_s };
    Duration::try_from_secs_f64(pause_s).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests;
