//! One deployment at this router: its queue, its permits, its connections.
//!
//! All counting is the [`Dispatcher`]'s; this module gives its tickets to tasks and takes them
//! back. A plain mutex guards it: nothing is awaited under it, and each hold is a few microseconds.
//!
//! A ticket is waited for by a [`Waiting`] and, when a replica was found, held by a [`Permit`].
//! Dropping either gives the place back, wherever its task was. An outcome is sent under the lock
//! that also guards cancellation, so that of both exactly one happens.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tyndall_routing::{Admission, Assignment, Dispatcher, Ticket};
use tyndall_telemetry::ProxyMetrics;
use tyndall_transport::Client;
use tyndall_types::protocol::{Backpressure, Demand, DeploymentRoute, Unavailable};
use tyndall_types::{DeploymentId, ReplicaId};

/// Where deployments report that their counts changed.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) demand: Notify,
    /// Every deployment with a count above zero, so that a report costs what is busy and not what
    /// there is.
    pub(crate) busy: Mutex<HashMap<DeploymentId, (u32, u32)>>,
    pub(crate) metrics: Arc<ProxyMetrics>,
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
        let demand = |(id, &(queued, ongoing)): (&DeploymentId, &(u32, u32))| Demand {
            deployment: id.clone(),
            queued,
            ongoing,
        };
        busy.iter().map(demand).collect()
    }

    fn set_load(&self, id: &DeploymentId, queued: u32, ongoing: u32) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if (queued, ongoing) == (0, 0) {
            busy.remove(id);
        } else if let Some(load) = busy.get_mut(id) {
            *load = (queued, ongoing);
        } else {
            busy.insert(id.clone(), (queued, ongoing));
        }
    }
}

/// A deployment of the route table.
#[derive(Debug)]
pub struct Deployment {
    id: DeploymentId,
    changes: Arc<Changes>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    route: Arc<DeploymentRoute>,
    dispatcher: Dispatcher,
    clients: HashMap<ReplicaId, Client>,
    waiters: HashMap<Ticket, oneshot::Sender<Outcome>>,
    next_ticket: Ticket,
    absence: Absence,
    /// It is in no table any more; its counts are nobody's demand.
    is_retired: bool,
}

#[derive(Debug)]
enum Outcome {
    Assigned(ReplicaId, Client),
    Failed(Unavailable),
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
            state: Mutex::new(State {
                route: route.clone(),
                dispatcher,
                clients: HashMap::new(),
                waiters: HashMap::new(),
                next_ticket: 0,
                absence: Absence { before: Duration::ZERO, since: Some(Instant::now()) },
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
        self.changes.set_load(&self.id, 0, 0);
        self.changed(&state);
    }

    /// Takes a place in the queue, or a permit at once.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Waiting, Refusal> {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        let admission = state.dispatcher.arrive(ticket);
        let waiting = self.waiting(&mut state, ticket);
        let refusal = match admission {
            Admission::Assigned(replica) => {
                state.deliver(vec![Assignment { ticket, replica }]);
                None
            }
            Admission::Queued => state.route.unavailable.clone().map(|unavailable| {
                state.dispatcher.cancel(ticket);
                Refusal::Unavailable(unavailable)
            }),
            Admission::Refused => Some(Refusal::Full {
                max_queued: state.route.max_queued_requests,
                backpressure: state.route.backpressure,
            }),
        };
        if let Some(refusal) = refusal {
            state.waiters.remove(&ticket);
            drop(state);
            return Err(refusal);
        }
        self.changed(&state);
        Ok(waiting)
    }

    fn waiting(self: &Arc<Self>, state: &mut State, ticket: Ticket) -> Waiting {
        let (sender, receiver) = oneshot::channel();
        state.waiters.insert(ticket, sender);
        let now = Instant::now();
        Waiting {
            deployment: self.clone(),
            ticket,
            receiver,
            since: now,
            absence_before: state.absence.total(now),
            settled: false,
        }
    }

    fn release(&self, replica: &ReplicaId) {
        let mut state = self.lock();
        let assigned = state.dispatcher.release(replica);
        state.deliver(assigned);
        self.changed(&state);
    }

    fn changed(&self, state: &State) {
        let (queued, ongoing) = (state.dispatcher.queued(), state.dispatcher.ongoing());
        // Of one that is retired nobody asks, and its series were forgotten.
        if !state.is_retired {
            self.changes.metrics.load(&label(&state.route), queued, ongoing);
            self.changes.set_load(&self.id, queued, ongoing);
        }
        self.changes.demand.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What metrics call a deployment: its model, else its id.
pub(crate) fn label(route: &DeploymentRoute) -> Cow<'_, str> {
    match &route.model {
        Some(model) => Cow::Borrowed(&model.id),
        None => Cow::Owned(route.deployment.to_string()),
    }
}

impl State {
    fn deliver(&mut self, assigned: Vec<Assignment>) {
        for Assignment { ticket, replica } in assigned {
            let client = self.clients.get(&replica).expect("only listed replicas are assigned");
            let outcome = Outcome::Assigned(replica.clone(), client.clone());
            let waiter = self.waiters.remove(&ticket).expect("a waiting ticket has its waiter");
            // The receiver lives until its drop, which takes the lock that is held here.
            drop(waiter.send(outcome));
        }
    }

    fn fail_waiting(&mut self, why: &Unavailable) {
        for ticket in self.dispatcher.fail_waiting() {
            let waiter = self.waiters.remove(&ticket).expect("a waiting ticket has its waiter");
            drop(waiter.send(Outcome::Failed(why.clone())));
        }
    }
}

/// A place in the queue.
#[derive(Debug)]
pub(crate) struct Waiting {
    deployment: Arc<Deployment>,
    ticket: Ticket,
    receiver: oneshot::Receiver<Outcome>,
    since: Instant,
    absence_before: Duration,
    settled: bool,
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
            None => (&mut self.receiver).await,
            Some(pause) => match tokio::time::timeout(pause, &mut self.receiver).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    self.forgive();
                    (&mut self.receiver).await
                }
            },
        };
        self.settled = true;
        match outcome.expect("a waiter is answered before it is dropped") {
            Outcome::Failed(unavailable) => Err(Refusal::Unavailable(unavailable)),
            Outcome::Assigned(replica, client) => Ok(Permit {
                deployment: self.deployment.clone(),
                ticket: self.ticket,
                replica,
                client,
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
        self.deployment.changed(&state);
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
            self.deployment.changed(&state);
            return;
        }
        drop(state);
        if let Ok(Outcome::Assigned(replica, _)) = self.receiver.try_recv() {
            self.deployment.release(&replica);
        }
    }
}

/// The right to have one request at a replica. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    deployment: Arc<Deployment>,
    ticket: Ticket,
    replica: ReplicaId,
    client: Client,
    returned: bool,
}

impl Permit {
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    /// Goes back to the queue, to its old place, and not to the replicas in `avoid`.
    pub(crate) fn come_back(mut self, avoid: Vec<ReplicaId>) -> Waiting {
        self.returned = true;
        let deployment = self.deployment.clone();
        let mut state = deployment.lock();
        let waiting = deployment.waiting(&mut state, self.ticket);
        let assigned = state.dispatcher.come_back(self.ticket, &self.replica, avoid);
        state.deliver(assigned);
        if let Some(unavailable) = state.route.unavailable.clone() {
            state.fail_waiting(&unavailable);
        }
        deployment.changed(&state);
        drop(state);
        waiting
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.returned {
            self.deployment.release(&self.replica);
        }
    }
}
