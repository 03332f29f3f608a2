//! One deployment at this router: its queue, its permits, its connections.
//!
//! All counting is the [`Dispatcher`]'s; this module gives its tickets to tasks and takes them
//! back. A plain mutex guards it: nothing is awaited under it, and each hold is a few microseconds.
//!
//! A ticket is waited for by a [`Waiting`] and, when a replica was found, held by a [`Permit`].
//! Dropping either gives the place back, wherever its task was. An outcome is sent under the lock
//! that also guards cancellation, so that of both exactly one happens.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tyndall_routing::{Admission, Assignment, Dispatcher, Flow, Held, Ticket};
use tyndall_telemetry::ProxyMetrics;
use tyndall_transport::Client;
use tyndall_types::protocol::{Backpressure, Demand, DeploymentRoute, Unavailable};
use tyndall_types::{DeploymentId, ReplicaId};

/// Where deployments report that their counts changed.
#[derive(Debug)]
pub(crate) struct Changes {
    /// Any count.
    pub(crate) demand: Notify,
    /// How many wait: a replica may have to come for them.
    pub(crate) queued: Notify,
    /// Every deployment with a count above zero, so that a report costs what is busy and not what
    /// there is.
    pub(crate) busy: Mutex<HashMap<DeploymentId, Arc<Load>>>,
    pub(crate) metrics: Arc<ProxyMetrics>,
}

/// Both counts of a deployment, queued and ongoing, as one value.
#[derive(Debug, Default)]
pub(crate) struct Load(AtomicU64);

impl Load {
    fn set(&self, queued: u32, ongoing: u32) {
        self.0.store(u64::from(queued) << 32 | u64::from(ongoing), Ordering::Relaxed);
    }

    fn get(&self) -> (u32, u32) {
        let both = self.0.load(Ordering::Relaxed);
        ((both >> 32) as u32, both as u32)
    }
}

/// Why a request gets no replica.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The queue is full.
    #[error("{max_queued} requests wait already, as many as max_queued_requests allows")]
    Full {
        /// How many may wait.
        max_queued: u32,
        /// How the caller shall learn it.
        backpressure: Backpressure,
    },
    /// Its answer would come later than it can wait.
    #[error("an answer is expected after {:.1} s, which is too late", .expected.as_secs_f64())]
    TooLate {
        /// When its answer would have begun.
        expected: Duration,
        /// How many wait.
        queued: u32,
        /// How many may.
        max_queued: u32,
        /// How the caller shall learn it, but for when to come again.
        backpressure: Backpressure,
    },
    /// No replica will come soon.
    #[error("{}", .0.reason)]
    Unavailable(Unavailable),
}

impl Refusal {
    /// The word that metrics use.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Full { .. } => "full",
            Self::TooLate { .. } => "too_late",
            Self::Unavailable(_) => "no_replica",
        }
    }
}

/// How long a request waited: with a running replica, and without one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waits {
    /// While a replica was running.
    pub queue: Duration,
    /// While none was.
    pub wake: Duration,
}

impl Waits {
    pub(crate) fn add(&mut self, other: Self) {
        self.queue += other.queue;
        self.wake += other.wake;
    }
}

impl Changes {
    /// The load now: every deployment with a count above zero.
    pub(crate) fn loads(&self) -> Vec<Demand> {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let demand = |(id, load): (&DeploymentId, &Arc<Load>)| {
            let (queued, ongoing) = load.get();
            Demand { deployment: id.clone(), queued, ongoing }
        };
        busy.iter().map(demand).collect()
    }

    fn set_busy(&self, id: &DeploymentId, load: &Arc<Load>, is_busy: bool) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if is_busy {
            busy.insert(id.clone(), load.clone());
        } else {
            busy.remove(id);
        }
    }
}

/// A deployment of the route table.
#[derive(Debug)]
pub struct Deployment {
    id: DeploymentId,
    changes: Arc<Changes>,
    load: Arc<Load>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    route: Arc<DeploymentRoute>,
    label: Arc<str>,
    dispatcher: Dispatcher,
    clients: HashMap<ReplicaId, Client>,
    waiters: HashMap<Ticket, oneshot::Sender<Outcome>>,
    next_ticket: Ticket,
    absence: Absence,
    /// As [`Changes::queued`] told it last.
    told_queued: u32,
    /// It is in [`Changes::busy`].
    is_busy: bool,
    /// It is in no table any more; its counts are nobody's demand.
    is_retired: bool,
}

#[derive(Debug)]
enum Outcome {
    /// With how many requests are at work then.
    Assigned(ReplicaId, Client, u32),
    Failed(Refusal),
}

/// How long there was no running replica.
#[derive(Debug)]
struct Absence {
    before: Duration,
    since: Option<Instant>,
}

impl Absence {
    fn set(&mut self, absent: bool, now: Instant) {
        match (absent, self.since) {
            (true, None) => self.since = Some(now),
            (false, Some(since)) => {
                self.before += now - since;
                self.since = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    fn total(&self, now: Instant) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| now - since)
    }
}

impl Deployment {
    pub(crate) fn new(route: Arc<DeploymentRoute>, seed: u64, changes: Arc<Changes>) -> Self {
        let dispatcher =
            Dispatcher::new(route.max_ongoing_requests, route.max_queued_requests, seed);
        let deployment = Self {
            id: route.deployment.clone(),
            changes,
            load: Arc::default(),
            state: Mutex::new(State {
                route: route.clone(),
                label: label(&route),
                dispatcher,
                clients: HashMap::new(),
                waiters: HashMap::new(),
                next_ticket: 0,
                absence: Absence { before: Duration::ZERO, since: Some(Instant::now()) },
                told_queued: 0,
                is_busy: false,
                is_retired: false,
            }),
        };
        deployment.update(route);
        deployment
    }

    /// Its application's name and its own.
    #[must_use]
    pub fn id(&self) -> &DeploymentId {
        &self.id
    }

    /// What the route table last said of it.
    #[must_use]
    pub fn route(&self) -> Arc<DeploymentRoute> {
        self.lock().route.clone()
    }

    /// What metrics call it: its model, else its id.
    #[must_use]
    pub fn label(&self) -> Arc<str> {
        self.lock().label.clone()
    }

    /// A client of each replica that takes requests.
    #[must_use]
    pub fn clients(&self) -> Vec<Client> {
        let state = self.lock();
        let listed = state.route.replicas.iter();
        listed.filter_map(|replica| state.clients.get(&replica.id).cloned()).collect()
    }

    pub(crate) fn metrics(&self) -> &ProxyMetrics {
        &self.changes.metrics
    }

    /// Takes its part of a new route table.
    pub(crate) fn update(&self, route: Arc<DeploymentRoute>) {
        let mut state = self.lock();
        let state = &mut *state;
        let listed = |id: &ReplicaId| route.replicas.iter().any(|replica| replica.id == *id);
        state.clients.retain(|id, _| listed(id));
        for replica in &route.replicas {
            state
                .clients
                .entry(replica.id.clone())
                .or_insert_with(|| Client::unix(&replica.socket));
        }
        state.absence.set(route.replicas.is_empty(), Instant::now());
        let replicas = route.replicas.iter().map(|replica| replica.id.clone());
        let assigned = state.dispatcher.update(
            replicas,
            route.max_ongoing_requests,
            route.max_queued_requests,
        );
        state.deliver(assigned);
        if let Some(unavailable) = &route.unavailable {
            state.fail_waiting(unavailable);
        }
        state.label = label(&route);
        state.route = route;
        self.changed(state);
    }

    /// The deployment is gone: for those that wait, for those that come back from a replica, and for
    /// those that found it in the table just before.
    pub(crate) fn retire(&self) {
        let mut state = self.lock();
        let reason = format!("deployment {} was deleted", self.id);
        let unavailable = Unavailable { reason, retry_after_s: 1.0 };
        state.fail_waiting(&unavailable);
        Arc::make_mut(&mut state.route).unavailable = Some(unavailable);
        // A deployment of the same name that comes next is another one.
        state.is_retired = true;
        if state.is_busy {
            self.changes.set_busy(&self.id, &self.load, false);
        }
        self.changes.metrics.load(&state.label, 0, 0);
        self.changed(&mut state);
    }

    /// Writes the counts to the metrics. Done when somebody looks, and not at every change.
    pub(crate) fn show(&self) {
        let state = self.lock();
        if !state.is_retired {
            let (queued, ongoing) = self.load.get();
            self.changes.metrics.load(&state.label, queued, ongoing);
        }
    }

    /// Takes a place in the queue, or a permit at once, for a request that can wait for so long.
    pub(crate) fn enter(
        self: &Arc<Self>,
        flow: Flow,
        patience: Option<Duration>,
    ) -> Result<Waiting, Refusal> {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        let place = match state.dispatcher.arrive_in(flow, ticket, patience) {
            Admission::Assigned(replica) => Place::Found(Some(state.outcome(replica))),
            Admission::Queued => {
                if let Some(unavailable) = state.route.unavailable.clone() {
                    state.dispatcher.cancel(ticket);
                    return Err(Refusal::Unavailable(unavailable));
                }
                state.queue(ticket)
            }
            // A queue is full of requests only while there may be a replica.
            Admission::QueuedInstead(displaced) => {
                let full = state.full();
                state.fail(displaced, full);
                state.queue(ticket)
            }
            Admission::Refused => return Err(state.full()),
            Admission::TooLate(expected) => {
                return Err(Refusal::TooLate {
                    expected,
                    queued: state.dispatcher.queued(),
                    max_queued: state.route.max_queued_requests,
                    backpressure: state.route.backpressure,
                });
            }
        };
        let waiting = self.waiting(&state, ticket, place);
        self.changed(&mut state);
        Ok(waiting)
    }

    fn waiting(self: &Arc<Self>, state: &State, ticket: Ticket, place: Place) -> Waiting {
        let since = Instant::now();
        Waiting {
            deployment: self.clone(),
            ticket,
            place,
            since,
            absence_before: state.absence.total(since),
            settled: false,
        }
    }

    fn release(&self, replica: &ReplicaId, held: Option<Held>) {
        let mut state = self.lock();
        let assigned = state.dispatcher.release(replica, held);
        state.deliver(assigned);
        self.changed(&mut state);
    }

    fn changed(&self, state: &mut State) {
        let (queued, ongoing) = (state.dispatcher.queued(), state.dispatcher.ongoing());
        self.load.set(queued, ongoing);
        let is_busy = (queued, ongoing) != (0, 0);
        if state.is_busy != is_busy && !state.is_retired {
            state.is_busy = is_busy;
            self.changes.set_busy(&self.id, &self.load, is_busy);
        }
        self.changes.demand.notify_one();
        if state.told_queued != queued {
            state.told_queued = queued;
            self.changes.queued.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn label(route: &DeploymentRoute) -> Arc<str> {
    match &route.model {
        Some(model) => model.id.as_str().into(),
        None => route.deployment.to_string().into(),
    }
}

impl State {
    /// Puts a request among those that an outcome is sent to.
    fn queue(&mut self, ticket: Ticket) -> Place {
        let (sender, receiver) = oneshot::channel();
        self.waiters.insert(ticket, sender);
        Place::Queued(receiver)
    }

    fn outcome(&self, replica: ReplicaId) -> Outcome {
        let client = self.clients.get(&replica).expect("only listed replicas are assigned");
        Outcome::Assigned(replica, client.clone(), self.dispatcher.ongoing())
    }

    fn deliver(&mut self, assigned: Vec<Assignment>) {
        for Assignment { ticket, replica } in assigned {
            let outcome = self.outcome(replica);
            let waiter = self.waiters.remove(&ticket).expect("a waiting ticket has its waiter");
            // The receiver lives until its drop, which takes the lock that is held here.
            drop(waiter.send(outcome));
        }
    }

    fn fail_waiting(&mut self, why: &Unavailable) {
        for ticket in self.dispatcher.fail_waiting() {
            self.fail(ticket, Refusal::Unavailable(why.clone()));
        }
    }

    /// Tells one that waited why it does no longer.
    fn fail(&mut self, ticket: Ticket, why: Refusal) {
        let waiter = self.waiters.remove(&ticket).expect("a waiting ticket has its waiter");
        drop(waiter.send(Outcome::Failed(why)));
    }

    fn full(&self) -> Refusal {
        Refusal::Full {
            max_queued: self.route.max_queued_requests,
            backpressure: self.route.backpressure,
        }
    }
}

/// A place in the queue.
#[derive(Debug)]
pub(crate) struct Waiting {
    deployment: Arc<Deployment>,
    ticket: Ticket,
    place: Place,
    since: Instant,
    absence_before: Duration,
    settled: bool,
}

#[derive(Debug)]
enum Place {
    /// There was a replica at once; empty once the outcome is taken.
    Found(Option<Outcome>),
    Queued(oneshot::Receiver<Outcome>),
}

impl Place {
    async fn outcome(&mut self) -> Outcome {
        match self {
            Self::Found(outcome) => outcome.take().expect("an outcome is taken once"),
            Self::Queued(receiver) => {
                receiver.await.expect("a waiter is answered before it is dropped")
            }
        }
    }
}

impl Waiting {
    /// Waits for a permit. After `forgive_after` the replicas that failed the request before may
    /// have it again.
    ///
    /// # Cancel safety
    /// Cancel safe: the place is kept until the value is dropped.
    pub(crate) async fn permit(
        &mut self,
        forgive_after: Option<Duration>,
    ) -> Result<Permit, Refusal> {
        let outcome = match forgive_after {
            None => self.place.outcome().await,
            Some(pause) => match tokio::time::timeout(pause, self.place.outcome()).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    self.forgive();
                    self.place.outcome().await
                }
            },
        };
        self.settled = true;
        match outcome {
            Outcome::Failed(refusal) => Err(refusal),
            Outcome::Assigned(replica, client, at_work) => Ok(Permit {
                deployment: self.deployment.clone(),
                ticket: self.ticket,
                replica,
                client,
                since: Instant::now(),
                answered: None,
                at_work,
                returned: false,
            }),
        }
    }

    /// How long it has waited.
    pub(crate) fn waits(&self) -> Waits {
        let now = Instant::now();
        let wake = self.deployment.lock().absence.total(now).saturating_sub(self.absence_before);
        Waits { wake, queue: (now - self.since).saturating_sub(wake) }
    }

    fn forgive(&self) {
        let mut state = self.deployment.lock();
        let assigned = state.dispatcher.forgive(self.ticket);
        state.deliver(assigned);
        self.deployment.changed(&mut state);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let mut state = self.deployment.lock();
        if state.dispatcher.cancel(self.ticket) {
            state.waiters.remove(&self.ticket);
            self.deployment.changed(&mut state);
            return;
        }
        drop(state);
        let outcome = match &mut self.place {
            Place::Found(outcome) => outcome.take(),
            Place::Queued(receiver) => receiver.try_recv().ok(),
        };
        if let Some(Outcome::Assigned(replica, ..)) = outcome {
            self.deployment.release(&replica, None);
        }
    }
}

impl Deployment {
    /// A connection to the replica broke. False when that was known, or the replica is gone.
    pub(crate) fn suspect(&self, replica: &ReplicaId) -> bool {
        self.lock().dispatcher.suspect(replica)
    }

    pub(crate) fn trust(&self, replica: &ReplicaId) {
        let mut state = self.lock();
        let assigned = state.dispatcher.trust(replica);
        state.deliver(assigned);
        self.changed(&mut state);
    }

    pub(crate) fn has(&self, replica: &ReplicaId) -> bool {
        self.lock().clients.contains_key(replica)
    }
}

/// The right to have one request at a replica. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    deployment: Arc<Deployment>,
    ticket: Ticket,
    replica: ReplicaId,
    client: Client,
    since: Instant,
    /// After so long an answer began.
    answered: Option<Duration>,
    /// Requests at work when it got it.
    at_work: u32,
    returned: bool,
}

impl Permit {
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    pub(crate) fn is_answered(&mut self) {
        self.answered = Some(self.since.elapsed());
    }

    pub(crate) fn deployment(&self) -> &Arc<Deployment> {
        &self.deployment
    }

    /// Goes back to the queue, to its old place, and not to the replicas in `avoid`.
    pub(crate) fn come_back(mut self, avoid: Vec<ReplicaId>) -> Waiting {
        self.returned = true;
        let deployment = self.deployment.clone();
        let mut state = deployment.lock();
        let place = state.queue(self.ticket);
        let waiting = deployment.waiting(&state, self.ticket, place);
        let assigned = state.dispatcher.come_back(self.ticket, &self.replica, avoid);
        state.deliver(assigned);
        if let Some(unavailable) = state.route.unavailable.clone() {
            state.fail_waiting(&unavailable);
        }
        deployment.changed(&mut state);
        drop(state);
        waiting
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.returned {
            let (whole, until_answer) = (self.since.elapsed(), self.answered);
            let held = Held { whole, until_answer, at_work: self.at_work };
            self.deployment.release(&self.replica, Some(held));
        }
    }
}
