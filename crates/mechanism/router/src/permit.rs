//! A request's place in the queue of a deployment, and its right to a replica.

use crate::deployment::{Deployment, Outcome, Refusal, Waits};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tyndall_routing::{Held, Ticket, Wish};
use tyndall_transport::Client;
use tyndall_types::ReplicaId;

/// A place in the queue.
#[derive(Debug)]
pub(crate) struct Waiting {
    deployment: Arc<Deployment>,
    ticket: Ticket,
    wish: Wish,
    place: Place,
    since: Instant,
    absence_before: Duration,
    settled: bool,
}

#[derive(Debug)]
pub(crate) enum Place {
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
    /// Its time begins now; `absence` says how long there was no running replica up to then.
    pub(crate) fn new(
        deployment: Arc<Deployment>,
        ticket: Ticket,
        wish: Wish,
        place: Place,
        absence: impl FnOnce(Instant) -> Duration,
    ) -> Self {
        let since = Instant::now();
        let absence_before = absence(since);
        Self { deployment, ticket, wish, place, since, absence_before, settled: false }
    }

    /// Whether a router has to choose yet.
    pub(crate) fn is_undecided(&self) -> bool {
        self.wish == Wish::Undecided
    }

    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// It wishes for this from now on, unless it has its outcome.
    pub(crate) fn decide(&mut self, wish: Wish) {
        if self.deployment.decide(self.ticket, &wish) {
            self.wish = wish;
        }
    }

    /// It no longer minds which of those that it wishes for has failed it.
    pub(crate) fn forgive(&self) {
        self.deployment.forgive(self.ticket);
    }

    /// What becomes of it; to be [settled](Waiting::settle).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn outcome(&mut self) -> Outcome {
        self.place.outcome().await
    }

    /// Waits for a permit. After `forgive_after` any replica may have the request, also one that
    /// failed it before or that has not the model that it asks for.
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
                    self.deployment.forgive(self.ticket);
                    self.place.outcome().await
                }
            },
        };
        self.settle(outcome)
    }

    /// Takes its outcome.
    pub(crate) fn settle(&mut self, outcome: Outcome) -> Result<Permit, Refusal> {
        self.settled = true;
        match outcome {
            Outcome::Failed(refusal) => Err(refusal),
            Outcome::Assigned(replica, client, at_work) => Ok(Permit {
                deployment: self.deployment.clone(),
                ticket: self.ticket,
                wish: self.wish.clone(),
                replica,
                client,
                since: Some(if self.is_at_once() { self.since } else { Instant::now() }),
                answered: None,
                at_work,
                returned: false,
                told: None,
            }),
        }
    }

    /// Whether there was a replica when it came.
    fn is_at_once(&self) -> bool {
        matches!(self.place, Place::Found(_))
    }

    /// How long it has waited.
    pub(crate) fn waits(&self) -> Waits {
        if self.is_at_once() {
            return Waits::default();
        }
        let now = Instant::now();
        let wake = self.deployment.absence(now).saturating_sub(self.absence_before);
        Waits { wake, queue: (now - self.since).saturating_sub(wake) }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.settled || self.deployment.leave(self.ticket) {
            return;
        }
        let outcome = match &mut self.place {
            Place::Found(outcome) => outcome.take(),
            Place::Queued(receiver) => receiver.try_recv().ok(),
        };
        if let Some(Outcome::Assigned(replica, ..)) = outcome {
            self.deployment.release(&replica, &self.wish, None);
        }
    }
}

/// The right to have one request at a replica. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    deployment: Arc<Deployment>,
    ticket: Ticket,
    wish: Wish,
    replica: ReplicaId,
    client: Client,
    /// When its request was sent; none of one that only keeps a place.
    since: Option<Instant>,
    /// After so long an answer began.
    answered: Option<Duration>,
    /// Requests at work when it got it.
    at_work: u32,
    returned: bool,
    /// Its end is told to the router that has chosen when this is dropped.
    told: Option<oneshot::Sender<()>>,
}

impl Permit {
    /// That of a part of a broadcast, which did not wait, and of which nothing is learned.
    pub(crate) fn of_broadcast(
        deployment: Arc<Deployment>,
        replica: ReplicaId,
        client: Client,
    ) -> Self {
        Self {
            deployment,
            ticket: Ticket::MAX,
            wish: Wish::Any,
            replica,
            client,
            since: None,
            answered: None,
            at_work: 0,
            returned: false,
            told: None,
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    pub(crate) fn is_answered(&mut self) {
        self.answered = self.since.map(|since| since.elapsed());
    }

    /// It keeps a place for a request that may never be sent, and says nothing of how long one takes.
    pub(crate) fn reserve(&mut self) {
        self.since = None;
    }

    /// The request is sent now.
    pub(crate) fn begin(&mut self) {
        self.since = Some(Instant::now());
    }

    pub(crate) fn is_told_of(&mut self, told: oneshot::Sender<()>) {
        self.told = Some(told);
    }

    pub(crate) fn deployment(&self) -> &Arc<Deployment> {
        &self.deployment
    }

    /// Goes back to the queue, to its old place, and not to the replicas in `avoid`.
    pub(crate) fn come_back(mut self, avoid: Vec<ReplicaId>) -> Waiting {
        self.returned = true;
        self.deployment.come_back(self.ticket, &self.replica, self.wish.anew(), avoid)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.returned {
            let (until_answer, at_work) = (self.answered, self.at_work);
            let held =
                self.since.map(|since| Held { whole: since.elapsed(), until_answer, at_work });
            self.deployment.release(&self.replica, &self.wish, held);
        }
    }
}
