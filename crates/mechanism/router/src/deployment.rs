//! One deployment at this router: its queue, its permits, its connections.
//!
//! All counting is the [`Dispatcher`]'s; this module gives its tickets to tasks and takes them
//! back. A plain mutex guards it: nothing is awaited under it, and each hold is a few microseconds.
//!
//! A ticket is waited for by a [`Waiting`] and, when a replica was found, held by a
//! [`Permit`](crate::permit::Permit). Dropping either gives the place back, wherever its task was. An outcome is sent under the lock
//! that also guards cancellation, so that of both exactly one happens.

use crate::absence::Absence;
use crate::changes::{Changes, Load};
use crate::choosing::RouterLink;
use crate::permit::{Permit, Place, Waiting};
use crate::turns::Turns;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tyndall_routing::{Admission, Assignment, Dispatcher, Flow, Held, Listed, Ticket, Wish};
use tyndall_telemetry::ProxyMetrics;
use tyndall_transport::Client;
use tyndall_types::protocol::{Backpressure, DeploymentRoute, RouterRoute, Unavailable};
use tyndall_types::{DeploymentId, ReplicaId};

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

/// A deployment of the route table.
#[derive(Debug)]
pub struct Deployment {
    id: DeploymentId,
    changes: Arc<Changes>,
    load: Arc<Load>,
    state: Mutex<State>,
    moves: Moves,
}

/// For requests that wait and that a router ranks replicas for.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// There are other replicas, or there is another router.
    pub(crate) news: Notify,
    /// Some replica has room, where none had.
    pub(crate) room: Notify,
}

#[derive(Debug)]
struct State {
    route: Arc<DeploymentRoute>,
    label: Arc<str>,
    dispatcher: Dispatcher,
    clients: HashMap<ReplicaId, Client>,
    /// Who chooses replicas, where that is code of the application.
    router: Option<Arc<RouterLink>>,
    waiters: HashMap<Ticket, oneshot::Sender<Outcome>>,
    next_ticket: Ticket,
    absence: Absence,
    /// Those that ask the router when there is room again.
    turns: Turns,
    /// As [`Moves::room`] told it last; no longer when the room is taken.
    told_room: bool,
    /// As [`Changes::queued`] told it last.
    told_queued: u32,
    /// It is in [`Changes::busy`].
    is_busy: bool,
    /// It is in no table any more; its counts are nobody's demand.
    is_retired: bool,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    /// With how many requests are at work then.
    Assigned(ReplicaId, Client, u32),
    Failed(Refusal),
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
                router: None,
                waiters: HashMap::new(),
                next_ticket: 0,
                absence: Absence::since(Instant::now()),
                turns: Turns::default(),
                told_room: false,
                told_queued: 0,
                is_busy: false,
                is_retired: false,
            }),
            moves: Moves::default(),
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
        let is_new = |id: &ReplicaId| !state.clients.contains_key(id);
        let mut has_moved = route.replicas.iter().any(|replica| is_new(&replica.id))
            || route.replicas.len() != state.clients.len()
            || route.max_ongoing_requests > state.route.max_ongoing_requests;
        state.clients.retain(|id, _| listed(id));
        if state.router.as_ref().map(|link| link.route()) != route.router.as_deref() {
            let link = |route: &RouterRoute| Arc::new(RouterLink::new(route.clone()));
            state.router = route.router.as_deref().map(link);
            has_moved = true;
        }
        for replica in &route.replicas {
            state
                .clients
                .entry(replica.id.clone())
                .or_insert_with(|| Client::unix(&replica.socket).linked());
        }
        if let Some(affinity) = route.model.as_ref().and_then(|model| model.prefix_affinity) {
            state.dispatcher.set_prefix_affinity(affinity);
        }
        state.absence.set(route.replicas.is_empty(), Instant::now());
        let replicas = route
            .replicas
            .iter()
            .map(|replica| Listed { id: replica.id.clone(), models: replica.models.clone() });
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
        if has_moved {
            self.moves.news.notify_waiters();
        }
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
        wish: Wish,
        patience: Option<Duration>,
    ) -> Result<Waiting, Refusal> {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        let place = match state.dispatcher.arrive_in(flow, wish.clone(), ticket, patience) {
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
        let waiting = self.waiting(&state, ticket, wish, place);
        self.changed(&mut state);
        Ok(waiting)
    }

    fn waiting(
        self: &Arc<Self>,
        state: &State,
        ticket: Ticket,
        wish: Wish,
        place: Place,
    ) -> Waiting {
        Waiting::new(self.clone(), ticket, wish, place, |now| state.absence.total(now))
    }

    /// A permit for each replica that takes requests, however many each has; none is a refusal.
    pub(crate) fn enter_all(self: &Arc<Self>) -> Result<Vec<Permit>, Refusal> {
        let mut state = self.lock();
        let state = &mut *state;
        let permit = |replica: ReplicaId| {
            let client = state.clients.get(&replica).expect("only listed replicas are given any");
            Permit::of_broadcast(self.clone(), replica.clone(), client.clone())
        };
        let permits: Vec<_> = state.dispatcher.broadcast().into_iter().map(permit).collect();
        if permits.is_empty() {
            let reason =
                "no replica of it is running, and nobody wakes one for a broadcast".to_owned();
            let unavailable = state.route.unavailable.clone();
            let unavailable = unavailable.unwrap_or(Unavailable { reason, retry_after_s: 1.0 });
            return Err(Refusal::Unavailable(unavailable));
        }
        self.changed(state);
        Ok(permits)
    }

    pub(crate) fn release(&self, replica: &ReplicaId, wish: &Wish, held: Option<Held>) {
        let mut state = self.lock();
        let assigned = state.dispatcher.release(replica, wish, held);
        state.deliver(assigned);
        self.changed(&mut state);
    }

    /// A connection to the replica broke. False when that was known, or the replica is gone.
    pub(crate) fn suspect(&self, replica: &ReplicaId) -> bool {
        let mut state = self.lock();
        let Some(assigned) = state.dispatcher.suspect(replica) else { return false };
        state.deliver(assigned);
        self.changed(&mut state);
        true
    }

    pub(crate) fn trust(&self, replica: &ReplicaId) {
        let mut state = self.lock();
        let assigned = state.dispatcher.trust(replica);
        state.deliver(assigned);
        self.changed(&mut state);
    }

    /// Who chooses replicas, where that is code of the application.
    pub(crate) fn router(&self) -> Option<Arc<RouterLink>> {
        self.lock().router.clone()
    }

    /// Names this process to request routers.
    pub(crate) fn caller(&self) -> &str {
        &self.changes.caller
    }

    pub(crate) fn moves(&self) -> &Moves {
        &self.moves
    }

    pub(crate) fn has_replica(&self) -> bool {
        self.lock().dispatcher.has_replica()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.lock().dispatcher.has_room()
    }

    /// Whether a request may ask the router now; else what resolves when it may.
    pub(crate) fn take_turn(&self, ticket: Ticket) -> Option<oneshot::Receiver<()>> {
        let mut state = self.lock();
        let room = state.dispatcher.room();
        state.turns.take(ticket, room)
    }

    /// Requests that ask the router again when there is room.
    #[cfg(test)]
    pub(crate) fn num_in_line(&self) -> usize {
        self.lock().turns.len()
    }

    /// What resolves when there is room for a request that the router has nobody for; none while there
    /// is room, which it does not want then.
    pub(crate) fn wait_for_room(&self, ticket: Ticket) -> Option<oneshot::Receiver<()>> {
        let mut state = self.lock();
        if state.dispatcher.has_room() {
            let room = state.dispatcher.room();
            state.turns.leave(ticket);
            state.turns.grant(room);
            return None;
        }
        Some(state.turns.wait(ticket))
    }

    /// Requests of this process that replicas have.
    pub(crate) fn loads(&self) -> BTreeMap<ReplicaId, u32> {
        let state = self.lock();
        state.dispatcher.loads().map(|(id, ongoing)| (id.clone(), ongoing)).collect()
    }

    /// A request that waits wishes for this from now on. False when it does not wait.
    pub(crate) fn decide(&self, ticket: Ticket, wish: &Wish) -> bool {
        let mut state = self.lock();
        let Some(decided) = state.dispatcher.decide(ticket, wish.clone()) else { return false };
        if !matches!(wish, Wish::Ranked(_)) {
            state.turns.leave(ticket);
        }
        state.deliver(decided.assigned);
        if let Some(displaced) = decided.displaced {
            let full = state.full();
            state.fail(displaced, full);
        }
        self.changed(&mut state);
        true
    }

    pub(crate) fn has(&self, replica: &ReplicaId) -> bool {
        self.lock().clients.contains_key(replica)
    }

    /// How long there was no running replica, all in all.
    pub(crate) fn absence(&self, now: Instant) -> Duration {
        self.lock().absence.total(now)
    }

    /// A request that waits no longer minds which replica it gets.
    pub(crate) fn forgive(&self, ticket: Ticket) {
        let mut state = self.lock();
        let assigned = state.dispatcher.forgive(ticket);
        state.deliver(assigned);
        self.changed(&mut state);
    }

    /// A request waits no longer. False when it does not.
    pub(crate) fn leave(&self, ticket: Ticket) -> bool {
        let mut state = self.lock();
        let waited = state.dispatcher.cancel(ticket);
        if waited {
            state.waiter(ticket);
            self.changed(&mut state);
        }
        waited
    }

    /// A request goes back to the queue, to its old place, and not to the replicas in `avoid`.
    pub(crate) fn come_back(
        self: &Arc<Self>,
        ticket: Ticket,
        from: &ReplicaId,
        wish: Wish,
        avoid: Vec<ReplicaId>,
    ) -> Waiting {
        let mut state = self.lock();
        let place = state.queue(ticket);
        let waiting = self.waiting(&state, ticket, wish.clone(), place);
        let assigned = state.dispatcher.come_back(ticket, from, wish, avoid);
        state.deliver(assigned);
        if let Some(unavailable) = state.route.unavailable.clone() {
            state.fail_waiting(&unavailable);
        }
        self.changed(&mut state);
        drop(state);
        waiting
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
        // Who only waits for a router's answer needs no replica that is not there.
        let has_room = state.router.is_some() && state.dispatcher.has_room();
        if state.turns.len() > 0 {
            state.turns.grant(state.dispatcher.room());
        }
        let is_wanted = has_room && queued > 0;
        if is_wanted && !state.told_room {
            self.moves.room.notify_waiters();
        }
        state.told_room = is_wanted;
        let queued = if has_room { 0 } else { queued };
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
            let waiter = self.waiter(ticket);
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
        drop(self.waiter(ticket).send(Outcome::Failed(why)));
    }

    /// Of one that waits no longer.
    fn waiter(&mut self, ticket: Ticket) -> oneshot::Sender<Outcome> {
        self.turns.leave(ticket);
        self.waiters.remove(&ticket).expect("a waiting ticket has its waiter")
    }

    fn full(&self) -> Refusal {
        Refusal::Full {
            max_queued: self.route.max_queued_requests,
            backpressure: self.route.backpressure,
        }
    }
}
