//! One deployment's replicas and queue at one proxy.
//!
//! Invariants, held by a property test:
//! - a replica never has more than `max_ongoing` requests, nor a new one when it is not listed;
//! - a replica under suspicion gets nothing new;
//! - nobody waits while a listed replica that it does not avoid, and that is not under suspicion,
//!   has room;
//! - at most `max_queued` requests wait, not counting those that came back from a lost replica;
//! - requests of one flow that avoid nothing are served in the order of their arrival;
//! - every ticket is in exactly one place: waiting, assigned, or gone.

use crate::fair::{FairQueue, Returned};
use crate::{Ahead, Flow, Held, Pace, choose};
use std::time::Duration;
use tyndall_types::ReplicaId;

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

#[derive(Debug)]
struct Replica {
    id: ReplicaId,
    ongoing: u32,
    /// In the last route table; one that is not takes nothing new and is forgotten at zero.
    listed: bool,
    /// A connection to it broke: its process may be gone.
    suspect: bool,
}

impl Replica {
    fn has_room(&self, max_ongoing: u32) -> bool {
        self.listed && !self.suspect && self.ongoing < max_ongoing
    }
}

/// Replicas, counts and queue of one deployment.
#[derive(Debug)]
pub struct Dispatcher {
    max_ongoing: u32,
    max_queued: usize,
    replicas: Vec<Replica>,
    waiting: FairQueue,
    pace: Pace,
    seed: u64,
}

impl Dispatcher {
    /// An empty one: all requests wait until replicas are known. The seed decides between replicas
    /// that are alike.
    #[must_use]
    pub fn new(max_ongoing: u32, max_queued: u32, seed: u64) -> Self {
        Self {
            max_ongoing: max_ongoing.max(1),
            max_queued: max_queued as usize,
            replicas: Vec::new(),
            waiting: FairQueue::default(),
            pace: Pace::default(),
            seed,
        }
    }

    /// Takes a new list of replicas and new bounds. Replicas that are no longer listed keep what
    /// they have.
    pub fn update(
        &mut self,
        listed: impl IntoIterator<Item = ReplicaId>,
        max_ongoing: u32,
        max_queued: u32,
    ) -> Vec<Assignment> {
        self.max_ongoing = max_ongoing.max(1);
        self.max_queued = max_queued as usize;
        for replica in &mut self.replicas {
            replica.listed = false;
        }
        for id in listed {
            match self.replicas.iter_mut().find(|replica| replica.id == id) {
                Some(replica) => replica.listed = true,
                None => {
                    self.replicas.push(Replica { id, ongoing: 0, listed: true, suspect: false });
                }
            }
        }
        self.replicas.retain(|replica| replica.listed || replica.ongoing > 0);
        self.pump()
    }

    /// A new request that is nobody's; see [`Dispatcher::arrive_in`].
    pub fn arrive(&mut self, ticket: Ticket, patience: Option<Duration>) -> Admission {
        self.arrive_in(Flow::default(), ticket, patience)
    }

    /// A new request of a flow, which waits at most so long for its answer to begin.
    pub fn arrive_in(
        &mut self,
        flow: Flow,
        ticket: Ticket,
        patience: Option<Duration>,
    ) -> Admission {
        if let Some(expected) = patience.and_then(|patience| self.too_late(flow, patience)) {
            return Admission::TooLate(expected);
        }
        if let Some(replica) = self.assign(&[]) {
            return Admission::Assigned(replica);
        }
        let mut admission = Admission::Queued;
        if self.waiting.len() >= self.max_queued {
            match self.waiting.displace_for(flow) {
                Some(displaced) => admission = Admission::QueuedInstead(displaced),
                None => return Admission::Refused,
            }
        }
        self.waiting.push(flow, ticket);
        admission
    }

    /// When an answer would begin, if that is later than a request of such patience can wait.
    fn too_late(&self, flow: Flow, patience: Duration) -> Option<Duration> {
        let waiting = (!self.has_room()).then(|| count(self.waiting.ahead_of(flow)));
        let ahead = Ahead { waiting, at_work: self.ongoing(), replicas: self.num_listed() };
        self.pace.expected(ahead).filter(|expected| *expected > patience.mul_f64(OF_PATIENCE))
    }

    /// A request comes back from a replica that failed it, which is released. It takes
    /// its old place in the order of arrival and does not go to the replicas in `avoid`.
    pub fn come_back(
        &mut self,
        ticket: Ticket,
        from: &ReplicaId,
        avoid: Vec<ReplicaId>,
    ) -> Vec<Assignment> {
        self.end(from);
        self.waiting.come_back(Returned { ticket, avoid });
        self.pump()
    }

    /// A waiting request no longer minds where it goes. Not an error when it does not wait.
    pub fn forgive(&mut self, ticket: Ticket) -> Vec<Assignment> {
        let mut returned = self.waiting.returned.iter_mut();
        if let Some(returned) = returned.find(|returned| returned.ticket == ticket) {
            returned.avoid.clear();
        }
        self.pump()
    }

    /// A replica is done with a request, or the request with it; `held` is absent for one that was
    /// never sent there.
    pub fn release(&mut self, replica: &ReplicaId, held: Option<Held>) -> Vec<Assignment> {
        if let Some(held) = held {
            self.pace.ended(held, self.ongoing(), self.num_listed());
        }
        self.end(replica);
        self.pump()
    }

    /// A replica gets nothing new until [`Dispatcher::trust`]. True when it was not under suspicion
    /// before.
    pub fn suspect(&mut self, id: &ReplicaId) -> bool {
        let replica = self.replicas.iter_mut().find(|replica| replica.id == *id);
        replica.is_some_and(|replica| !std::mem::replace(&mut replica.suspect, true))
    }

    /// A replica that was under suspicion may have requests again.
    pub fn trust(&mut self, id: &ReplicaId) -> Vec<Assignment> {
        if let Some(replica) = self.replicas.iter_mut().find(|replica| replica.id == *id) {
            replica.suspect = false;
        }
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
        self.replicas.iter().map(|replica| replica.ongoing).sum()
    }

    /// Whether any replica takes requests.
    #[must_use]
    pub fn has_replica(&self) -> bool {
        self.replicas.iter().any(|replica| replica.listed)
    }

    fn end(&mut self, id: &ReplicaId) {
        if let Some(replica) = self.replicas.iter_mut().find(|replica| replica.id == *id) {
            replica.ongoing = replica.ongoing.saturating_sub(1);
        }
        self.replicas.retain(|replica| replica.listed || replica.ongoing > 0);
    }

    fn assign(&mut self, avoid: &[ReplicaId]) -> Option<ReplicaId> {
        let ongoing: Vec<Option<u32>> = self
            .replicas
            .iter()
            .map(|replica| {
                let may_have = replica.has_room(self.max_ongoing) && !avoid.contains(&replica.id);
                may_have.then_some(replica.ongoing)
            })
            .collect();
        let pick = choose(&ongoing, self.max_ongoing, self.seed)?;
        self.seed = self.seed.wrapping_add(1);
        let replica = &mut self.replicas[pick];
        replica.ongoing += 1;
        Some(replica.id.clone())
    }

    fn num_listed(&self) -> u32 {
        count(self.replicas.iter().filter(|replica| replica.listed).count())
    }

    fn has_room(&self) -> bool {
        self.replicas.iter().any(|replica| replica.has_room(self.max_ongoing))
    }

    fn pump(&mut self) -> Vec<Assignment> {
        let mut assigned = Vec::new();
        let mut next = 0;
        while next < self.waiting.returned.len() && self.has_room() {
            let avoid = std::mem::take(&mut self.waiting.returned[next].avoid);
            if let Some(replica) = self.assign(&avoid) {
                let ticket = self.waiting.returned.remove(next).ticket;
                assigned.push(Assignment { ticket, replica });
            } else {
                self.waiting.returned[next].avoid = avoid;
                next += 1;
            }
        }
        while self.waiting.has_lines()
            && let Some(replica) = self.assign(&[])
        {
            let ticket = self.waiting.pop().expect("somebody waits in a line");
            assigned.push(Assignment { ticket, replica });
        }
        assigned
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn id(n: u8) -> ReplicaId {
        ReplicaId::new(format!("r{n}"))
    }

    fn to(ticket: Ticket, replica: u8) -> Assignment {
        Assignment { ticket, replica: id(replica) }
    }

    #[test]
    fn a_queue_at_zero_replicas_goes_out_in_order_when_one_comes() {
        let mut dispatcher = Dispatcher::new(2, 3, 0);
        for ticket in 0..3 {
            assert_eq!(dispatcher.arrive(ticket, None), Admission::Queued);
        }
        assert_eq!(dispatcher.arrive(3, None), Admission::Refused);
        assert_eq!((dispatcher.queued(), dispatcher.ongoing()), (3, 0));
        assert_eq!(dispatcher.update([id(0)], 2, 3), [to(0, 0), to(1, 0)]);
        assert_eq!((dispatcher.queued(), dispatcher.ongoing()), (1, 2));
        assert_eq!(dispatcher.release(&id(0), None), [to(2, 0)]);
        assert_eq!(dispatcher.release(&id(0), None), []);
        assert_eq!(dispatcher.arrive(4, None), Admission::Assigned(id(0)));
    }

    #[test]
    fn a_replica_that_drains_keeps_what_it_has() {
        let mut dispatcher = Dispatcher::new(2, 3, 0);
        dispatcher.update([id(0)], 2, 3);
        assert_eq!(dispatcher.arrive(0, None), Admission::Assigned(id(0)));
        assert_eq!(dispatcher.update([], 2, 3), []);
        assert!(!dispatcher.has_replica());
        assert_eq!((dispatcher.arrive(1, None), dispatcher.ongoing()), (Admission::Queued, 1));
        assert_eq!(dispatcher.release(&id(0), None), []);
        assert_eq!(dispatcher.ongoing(), 0);
    }

    #[test]
    fn a_request_that_comes_back_goes_first_and_elsewhere() {
        let mut dispatcher = Dispatcher::new(1, 1, 0);
        dispatcher.update([id(0)], 1, 1);
        assert_eq!(dispatcher.arrive(0, None), Admission::Assigned(id(0)));
        assert_eq!(dispatcher.arrive(1, None), Admission::Queued);
        // It avoids the only replica, which the next in line can have.
        assert_eq!(dispatcher.come_back(0, &id(0), vec![id(0)]), [to(1, 0)]);
        assert_eq!(dispatcher.update([id(0), id(1)], 1, 1), [to(0, 1)]);
        // Forgiven, it may have the same one again.
        assert_eq!(dispatcher.come_back(0, &id(1), vec![id(1)]), []);
        assert_eq!(dispatcher.forgive(0), [to(0, 1)]);
    }

    #[test]
    fn a_replica_under_suspicion_gets_nothing_new() {
        let mut dispatcher = Dispatcher::new(1, 4, 0);
        dispatcher.update([id(0)], 1, 4);
        assert_eq!(dispatcher.arrive(0, None), Admission::Assigned(id(0)));
        assert_eq!(dispatcher.arrive(1, None), Admission::Queued);
        assert!(dispatcher.suspect(&id(0)) && !dispatcher.suspect(&id(0)));
        assert_eq!(dispatcher.release(&id(0), None), []);
        assert_eq!(dispatcher.update([id(0), id(1)], 1, 4), [to(1, 1)]);
        assert_eq!(dispatcher.arrive(2, None), Admission::Queued);
        assert_eq!(dispatcher.trust(&id(0)), [to(2, 0)]);
        assert!(!dispatcher.suspect(&id(9)));
    }

    #[test]
    fn waiting_requests_can_be_cancelled_and_failed() {
        let mut dispatcher = Dispatcher::new(1, 4, 0);
        for ticket in 0..3 {
            assert_eq!(dispatcher.arrive(ticket, None), Admission::Queued);
        }
        assert!(dispatcher.cancel(1) && !dispatcher.cancel(1));
        assert_eq!(dispatcher.fail_waiting(), [0, 2]);
        assert_eq!(dispatcher.queued(), 0);
    }

    #[test]
    fn who_would_wait_too_long_is_told_at_once() {
        let mut dispatcher = Dispatcher::new(1, 100, 0);
        dispatcher.update([id(0)], 1, 100);
        let second = Duration::from_secs(1);
        for ticket in 0..40 {
            // Nothing is known yet.
            assert!(!matches!(dispatcher.arrive(ticket, Some(second)), Admission::TooLate(_)));
        }
        for end in 0..20 {
            let held = Held { whole: second, until_answer: Some(second), at_work: 1 };
            assert_eq!(dispatcher.release(&id(0), Some(held)), [to(end + 1, 0)]);
        }
        assert_eq!(dispatcher.queued(), 19);
        let soon = dispatcher.arrive(40, Some(second * 26));
        assert_eq!(soon, Admission::TooLate(second * 21));
        assert_eq!(dispatcher.queued(), 19);
        assert_eq!(dispatcher.arrive(41, Some(second * 27)), Admission::Queued);
        assert_eq!(dispatcher.arrive(42, None), Admission::Queued);
    }

    #[test]
    fn a_flow_that_fills_the_queue_leaves_room_for_others() {
        let mut dispatcher = Dispatcher::new(1, 4, 0);
        let [greedy, modest] = [1, 2].map(|id| Flow { id, weight: 1 });
        for ticket in 0..4 {
            assert_eq!(dispatcher.arrive_in(greedy, ticket, None), Admission::Queued);
        }
        assert_eq!(dispatcher.arrive_in(greedy, 4, None), Admission::Refused);
        assert_eq!(dispatcher.arrive_in(modest, 5, None), Admission::QueuedInstead(3));
        assert_eq!(dispatcher.arrive_in(modest, 6, None), Admission::QueuedInstead(2));
        assert_eq!(dispatcher.arrive_in(modest, 7, None), Admission::Refused);
        assert_eq!(dispatcher.update([id(0)], 4, 4), [0, 5, 1, 6].map(|ticket| to(ticket, 0)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Arrive(u64),
        Release(usize),
        ComeBack(usize),
        Cancel(usize),
        Forgive(usize),
        Suspect(u8),
        Trust(u8),
        Update(BTreeSet<u8>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u64..3).prop_map(Step::Arrive),
            3 => (0usize..8).prop_map(Step::Release),
            1 => (0usize..8).prop_map(Step::ComeBack),
            1 => (0usize..8).prop_map(Step::Cancel),
            1 => (0usize..8).prop_map(Step::Forgive),
            1 => (0u8..4).prop_map(Step::Suspect),
            1 => (0u8..4).prop_map(Step::Trust),
            1 => prop::collection::btree_set(0u8..4, 0..4).prop_map(Step::Update),
        ]
    }

    /// Where every request is, told only by what the dispatcher returned.
    #[derive(Default)]
    struct Model {
        next: Ticket,
        waiting: Vec<(Ticket, Vec<ReplicaId>)>,
        flows: BTreeMap<Ticket, u64>,
        running: BTreeMap<Ticket, ReplicaId>,
        listed: BTreeSet<ReplicaId>,
        suspects: BTreeSet<ReplicaId>,
    }

    impl Model {
        fn take(&mut self, assignments: Vec<Assignment>) {
            for Assignment { ticket, replica } in assignments {
                let position = self.waiting.iter().position(|(t, _)| *t == ticket).unwrap();
                let (_, avoid) = self.waiting.remove(position);
                assert!(!avoid.contains(&replica) && self.listed.contains(&replica));
                assert!(!self.suspects.contains(&replica), "{replica} may be gone");
                let overtaken = |(t, avoid): &(Ticket, Vec<_>)| {
                    *t < ticket && avoid.is_empty() && self.flows[t] == self.flows[&ticket]
                };
                assert!(!self.waiting.iter().any(overtaken), "{ticket} overtook a patient one");
                assert!(self.running.insert(ticket, replica).is_none());
            }
        }

        fn load(&self, replica: &ReplicaId) -> usize {
            self.running.values().filter(|id| *id == replica).count()
        }
    }

    const MAX_ONGOING: u32 = 2;
    const MAX_QUEUED: u32 = 3;

    fn apply(dispatcher: &mut Dispatcher, model: &mut Model, step: Step) {
        let nth =
            |n: usize, model: &Model| model.running.iter().nth(n).map(|(t, r)| (*t, r.clone()));
        match step {
            Step::Arrive(id) => {
                let ticket = model.next;
                model.next += 1;
                model.waiting.push((ticket, Vec::new()));
                model.flows.insert(ticket, id);
                match dispatcher.arrive_in(Flow { id, weight: 1 + id as u32 }, ticket, None) {
                    Admission::Assigned(replica) => {
                        model.take(vec![Assignment { ticket, replica }])
                    }
                    Admission::Queued => assert!(model.waiting.len() <= model.next as usize),
                    Admission::QueuedInstead(displaced) => {
                        assert!(model.waiting.len() > MAX_QUEUED as usize);
                        assert_ne!(model.flows[&displaced], id);
                        model.waiting.retain(|(ticket, _)| *ticket != displaced);
                    }
                    Admission::TooLate(_) => panic!("it has time"),
                    Admission::Refused => {
                        model.waiting.pop();
                        assert!(model.waiting.len() >= MAX_QUEUED as usize);
                    }
                }
            }
            Step::Release(n) => {
                if let Some((ticket, replica)) = nth(n, model) {
                    model.running.remove(&ticket);
                    model.take(dispatcher.release(&replica, None));
                }
            }
            Step::ComeBack(n) => {
                if let Some((ticket, replica)) = nth(n, model) {
                    model.running.remove(&ticket);
                    model.waiting.push((ticket, vec![replica.clone()]));
                    model.waiting.sort_by_key(|(ticket, _)| *ticket);
                    model.take(dispatcher.come_back(ticket, &replica, vec![replica.clone()]));
                }
            }
            Step::Cancel(n) => {
                if n < model.waiting.len() {
                    assert!(dispatcher.cancel(model.waiting.remove(n).0));
                }
            }
            Step::Forgive(n) => {
                if let Some((ticket, avoid)) = model.waiting.get_mut(n) {
                    avoid.clear();
                    let ticket = *ticket;
                    model.take(dispatcher.forgive(ticket));
                }
            }
            Step::Suspect(n) => {
                let known = model.listed.contains(&id(n)) || model.load(&id(n)) > 0;
                let is_new = known && model.suspects.insert(id(n));
                assert_eq!(dispatcher.suspect(&id(n)), is_new);
            }
            Step::Trust(n) => {
                model.suspects.remove(&id(n));
                model.take(dispatcher.trust(&id(n)));
            }
            Step::Update(listed) => {
                model.listed = listed.iter().map(|n| id(*n)).collect();
                model.take(dispatcher.update(model.listed.clone(), MAX_ONGOING, MAX_QUEUED));
            }
        }
    }

    proptest! {
        #[test]
        fn no_request_is_lost_doubled_or_left_waiting(steps in prop::collection::vec(step(), 1..80)) {
            let mut dispatcher = Dispatcher::new(MAX_ONGOING, MAX_QUEUED, 1);
            let mut model = Model::default();
            for step in steps {
                apply(&mut dispatcher, &mut model, step);
                prop_assert_eq!(dispatcher.queued() as usize, model.waiting.len());
                prop_assert_eq!(dispatcher.ongoing() as usize, model.running.len());
                // What is neither listed nor at work is forgotten, with what was said of it.
                let known: BTreeSet<_> = model.listed.iter().chain(model.running.values()).collect();
                let forgotten = |id: &ReplicaId| !known.contains(id);
                let forgotten: Vec<_> =
                    model.suspects.iter().filter(|id| forgotten(id)).cloned().collect();
                for id in forgotten {
                    model.suspects.remove(&id);
                }
                for replica in &model.listed {
                    prop_assert!(model.load(replica) <= MAX_ONGOING as usize);
                    let idle = model.load(replica) < MAX_ONGOING as usize
                        && !model.suspects.contains(replica);
                    let wanted = model.waiting.iter().any(|(_, avoid)| !avoid.contains(replica));
                    prop_assert!(!(idle && wanted), "one waits while {} has room", replica);
                }
            }
        }
    }
}
