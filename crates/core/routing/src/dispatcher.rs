//! One deployment's replicas and queue at one proxy.
//!
//! Invariants, held by a property test:
//! - a replica never has more than `max_ongoing` requests, nor a new one when it is not listed, nor one
//!   while it is under suspicion, all but for what [`Dispatcher::broadcast`] gives to every listed one;
//! - what was assigned or broadcast, and is released, is counted no longer, whether it was sent or not;
//! - nobody waits while a listed replica that it does not avoid, and that is not under suspicion,
//!   has room, but for a request for a model that neither has the model nor is one of those with the
//!   fewest, and that only until [`Dispatcher::forgive`], and for one that is in none of the ranks of
//!   a request that has some;
//! - a request with the beginning of a prompt waits no longer than one that takes any;
//! - a request with ranks goes to a replica of the first rank that has a free one;
//! - at most `max_queued` requests wait, not counting those that came back from a lost replica, and
//!   not those that are undecided while a replica has room for them;
//! - requests of one flow that avoid nothing and wish for the same are served in the order of their
//!   arrival, and so are those that take any replica; one that came back had its turn, and goes first;
//! - every ticket is in exactly one place: waiting, assigned, or gone.

use crate::fair::{FairQueue, Queued, Returned};
use crate::pool::Pool;
use crate::{Ahead, Flow, Held, Listed, Pace, Wish};
use std::time::Duration;
use tyndall_types::ReplicaId;
use tyndall_types::protocol::PrefixAffinity;

/// Names a request; later arrivals have larger ones.
pub type Ticket = u64;

/// Of the time that a request can wait, what it may be expected to: the expectation is a mean.
const OF_PATIENCE: f64 = 0.8;

/// A request and the replica that shall have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Which request.
    pub ticket: Ticket,
    /// Where to.
    pub replica: ReplicaId,
}

/// What becomes of an arriving request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It goes to this replica now.
    Assigned(ReplicaId),
    /// It waits; a later call returns its [`Assignment`].
    Queued,
    /// It waits, and this one, whose flow has more than its share of a full queue, no longer does.
    QueuedInstead(Ticket),
    /// The queue is full.
    Refused,
    /// It would have its answer after so long, which is later than it can wait.
    TooLate(Duration),
}

/// What follows from a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Requests that got a replica by it.
    pub assigned: Vec<Assignment>,
    /// This one waits no longer: the queue was full.
    pub displaced: Option<Ticket>,
}

/// Replicas, counts and queue of one deployment.
#[derive(Debug)]
pub struct Dispatcher {
    max_queued: usize,
    pool: Pool,
    waiting: FairQueue,
    pace: Pace,
}

impl Dispatcher {
    /// An empty one: all requests wait until replicas are known. The seed decides between replicas
    /// that are alike.
    #[must_use]
    pub fn new(max_ongoing: u32, max_queued: u32, seed: u64) -> Self {
        Self {
            max_queued: max_queued as usize,
            pool: Pool::new(max_ongoing, seed),
            waiting: FairQueue::default(),
            pace: Pace::default(),
        }
    }

    /// Takes a new list of replicas and new bounds. Replicas that are no longer listed keep what
    /// they have.
    pub fn update<L: Into<Listed>>(
        &mut self,
        listed: impl IntoIterator<Item = L>,
        max_ongoing: u32,
        max_queued: u32,
    ) -> Vec<Assignment> {
        self.max_queued = max_queued as usize;
        self.pool.update(listed.into_iter().map(Into::into), max_ongoing);
        self.pump()
    }

    /// How requests with a [`Prefix`](crate::Prefix) find their replicas.
    pub fn set_prefix_affinity(&mut self, affinity: PrefixAffinity) {
        self.pool.set_prefix_affinity(affinity);
    }

    /// A new request that is nobody's and takes any replica; see [`Dispatcher::arrive_in`].
    pub fn arrive(&mut self, ticket: Ticket, patience: Option<Duration>) -> Admission {
        self.arrive_in(Flow::default(), Wish::Any, ticket, patience)
    }

    /// A new request of a flow, which waits at most so long for its answer to begin.
    pub fn arrive_in(
        &mut self,
        flow: Flow,
        wish: Wish,
        ticket: Ticket,
        patience: Option<Duration>,
    ) -> Admission {
        if let Some(expected) = patience.and_then(|patience| self.too_late(flow, patience)) {
            return Admission::TooLate(expected);
        }
        if let Some(replica) = self.pool.assign(&wish, false, &[]) {
            return Admission::Assigned(replica);
        }
        let mut admission = Admission::Queued;
        // One that is undecided may be about to have some of the room that there is.
        let room = if wish == Wish::Undecided { self.pool.room() } else { 0 };
        if self.waiting.len() as u64 >= room.saturating_add(self.max_queued as u64) {
            match self.waiting.displace_for(flow) {
                Some(displaced) => admission = Admission::QueuedInstead(displaced),
                None => return Admission::Refused,
            }
        }
        self.waiting.push(flow, Queued { ticket, wish, takes_any: false });
        admission
    }

    /// When an answer would begin, if that is later than a request of such patience can wait.
    fn too_late(&self, flow: Flow, patience: Duration) -> Option<Duration> {
        let waiting = (!self.pool.has_room()).then(|| count(self.waiting.ahead_of(flow)));
        let ahead =
            Ahead { waiting, at_work: self.ongoing(), replicas: count(self.pool.num_listed()) };
        self.pace.expected(ahead).filter(|expected| *expected > patience.mul_f64(OF_PATIENCE))
    }

    /// A request for every listed replica, also for those that are full or under suspicion: whoever has
    /// something to say to all of them says it to all. Each of them is to be released by itself, with
    /// [`Wish::Any`] and without a [`Held`]: what it took says nothing of other requests.
    pub fn broadcast(&mut self) -> Vec<ReplicaId> {
        self.pool.give_all()
    }

    /// A request comes back from a replica that failed it, which is released. It takes
    /// its old place in the order of arrival and does not go to the replicas in `avoid`; any other will
    /// do.
    pub fn come_back(
        &mut self,
        ticket: Ticket,
        from: &ReplicaId,
        wish: Wish,
        avoid: Vec<ReplicaId>,
    ) -> Vec<Assignment> {
        self.pool.end(from, &wish);
        self.waiting.come_back(Returned { ticket, wish, avoid });
        self.pump()
    }

    /// A waiting request no longer minds where it goes. Not an error when it does not wait.
    pub fn forgive(&mut self, ticket: Ticket) -> Vec<Assignment> {
        self.waiting.forgive(ticket);
        self.pump()
    }

    /// A waiting request wishes for this from now on. None when it does not wait.
    pub fn decide(&mut self, ticket: Ticket, wish: Wish) -> Option<Decided> {
        let before = self.waiting.num_decided();
        if !self.waiting.decide(ticket, wish) {
            return None;
        }
        let has_joined = self.waiting.num_decided() > before;
        let assigned = self.pump();
        // Now it counts, as if it had come just now.
        let is_too_many = has_joined && self.waiting.num_decided() > self.max_queued;
        let displaced = if is_too_many { self.waiting.displace_decided() } else { None };
        Some(Decided { assigned, displaced })
    }

    /// A replica is done with a request of this wish, or the request with it; `held` is absent for one
    /// that was never sent there.
    pub fn release(
        &mut self,
        replica: &ReplicaId,
        wish: &Wish,
        held: Option<Held>,
    ) -> Vec<Assignment> {
        if let Some(held) = held {
            self.pace.ended(held, self.ongoing(), count(self.pool.num_listed()));
        }
        self.pool.end(replica, wish);
        self.pump()
    }

    /// A replica gets nothing new until [`Dispatcher::trust`]. None when it was under suspicion before,
    /// or is not known; else what others get that waited for it to have room, because it has the fewest
    /// models.
    pub fn suspect(&mut self, id: &ReplicaId) -> Option<Vec<Assignment>> {
        self.pool.suspect(id).then(|| self.pump())
    }

    /// A replica that was under suspicion may have requests again.
    pub fn trust(&mut self, id: &ReplicaId) -> Vec<Assignment> {
        self.pool.trust(id);
        self.pump()
    }

    /// A waiting request is gone. False when it does not wait.
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        self.waiting.cancel(ticket)
    }

    /// Ends the wait of all, because no replica will come.
    pub fn fail_waiting(&mut self) -> Vec<Ticket> {
        self.waiting.drain()
    }

    /// Requests that wait.
    #[must_use]
    pub fn queued(&self) -> u32 {
        count(self.waiting.len())
    }

    /// Requests that replicas have, also those that are no longer listed.
    #[must_use]
    pub fn ongoing(&self) -> u32 {
        self.pool.ongoing()
    }

    /// Whether any replica takes requests.
    #[must_use]
    pub fn has_replica(&self) -> bool {
        self.pool.num_listed() > 0
    }

    /// Whether any replica takes requests and has room for one.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.pool.has_room()
    }

    /// Requests for which replicas have room.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.pool.room()
    }

    /// Replicas that have requests, and how many.
    pub fn loads(&self) -> impl Iterator<Item = (&ReplicaId, u32)> {
        self.pool.loads()
    }

    fn pump(&mut self) -> Vec<Assignment> {
        let mut assigned = Vec::new();
        let mut next = 0;
        while next < self.waiting.returned.len() && self.pool.has_room() {
            let Returned { wish, avoid, .. } = &self.waiting.returned[next];
            if let Some(replica) = self.pool.assign(wish, true, avoid) {
                let ticket = self.waiting.returned.remove(next).ticket;
                assigned.push(Assignment { ticket, replica });
            } else {
                next += 1;
            }
        }
        // Of those that wish for the same, none has to be asked after one that found nothing: what
        // follows in this loop only takes room.
        let mut hopeless: Vec<Wish> = Vec::new();
        while self.waiting.has_lines() && self.pool.has_room() {
            let pool = &mut self.pool;
            let served = self.waiting.pop_with(|queued| {
                // Ranks are rarely the same twice, and are looked at faster than compared.
                let is_shared = matches!(queued.wish, Wish::Any | Wish::Model(_));
                if is_shared && !queued.takes_any && hopeless.contains(&queued.wish) {
                    return None;
                }
                let replica = pool.assign(&queued.wish, queued.takes_any, &[]);
                if is_shared && replica.is_none() {
                    hopeless.push(queued.wish.clone());
                }
                replica
            });
            let Some((ticket, replica)) = served else { break };
            assigned.push(Assignment { ticket, replica });
        }
        assigned
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod prefixes;
#[cfg(test)]
mod ranked;
#[cfg(test)]
mod tests;
