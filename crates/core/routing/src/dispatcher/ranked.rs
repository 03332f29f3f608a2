//! Requests whose replica somebody else has ranked.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn id(n: u8) -> ReplicaId {
    ReplicaId::new(format!("r{n}"))
}

fn ranked(ranks: &[&[u8]]) -> Wish {
    let rank = |rank: &&[u8]| rank.iter().map(|n| id(*n)).collect();
    Wish::Ranked(ranks.iter().map(rank).collect())
}

fn arrive(dispatcher: &mut Dispatcher, ticket: Ticket) -> Admission {
    dispatcher.arrive_in(Flow::default(), Wish::Undecided, ticket, None)
}

fn taken(dispatcher: &mut Dispatcher, ticket: Ticket, wish: Wish) -> Vec<(Ticket, ReplicaId)> {
    let decided = dispatcher.decide(ticket, wish).unwrap();
    assert_eq!(decided.displaced, None);
    decided.assigned.into_iter().map(|one| (one.ticket, one.replica)).collect()
}

#[test]
fn the_first_rank_with_a_free_replica_has_the_request() {
    let mut dispatcher = Dispatcher::new(1, 9, 0);
    dispatcher.update([0, 1, 2].map(id), 1, 9);
    assert_eq!(arrive(&mut dispatcher, 0), Admission::Queued, "nothing is known of it");
    let wish = ranked(&[&[7], &[1], &[0, 2]]);
    assert_eq!(taken(&mut dispatcher, 0, wish.clone()), [(0, id(1))]);
    assert_eq!(arrive(&mut dispatcher, 1), Admission::Queued);
    let second = taken(&mut dispatcher, 1, wish.clone());
    assert!(second == [(1, id(0))] || second == [(1, id(2))], "{second:?}");
    // No other will do, though one has room.
    assert_eq!(arrive(&mut dispatcher, 2), Admission::Queued);
    assert_eq!(taken(&mut dispatcher, 2, ranked(&[&[1]])), []);
    assert!(dispatcher.has_room());
    let served = dispatcher.release(&id(1), &wish, None);
    assert_eq!(served, [Assignment { ticket: 2, replica: id(1) }]);
    assert_eq!(dispatcher.decide(2, Wish::Any), None, "it waits no longer");
}

#[test]
fn what_is_ranked_anew_goes_by_the_new_ranks() {
    let mut dispatcher = Dispatcher::new(1, 9, 0);
    dispatcher.update([id(0)], 1, 9);
    arrive(&mut dispatcher, 0);
    assert_eq!(taken(&mut dispatcher, 0, ranked(&[])), [], "none will do");
    assert_eq!(taken(&mut dispatcher, 0, ranked(&[&[1]])), []);
    assert_eq!(taken(&mut dispatcher, 0, Wish::Any), [(0, id(0))]);
    // One that came back is decided as those that never had one.
    assert_eq!(dispatcher.come_back(0, &id(0), Wish::Undecided, vec![id(0)]), []);
    assert_eq!(taken(&mut dispatcher, 0, ranked(&[&[0]])), [], "it failed there");
    assert_eq!(dispatcher.forgive(0), [Assignment { ticket: 0, replica: id(0) }]);
}

#[test]
fn who_is_undecided_counts_only_where_there_is_no_room_for_it() {
    let mut dispatcher = Dispatcher::new(2, 1, 0);
    dispatcher.update([id(0), id(1)], 2, 1);
    let arrive = |dispatcher: &mut Dispatcher, ticket| arrive(dispatcher, ticket);
    // Four have room, and one may wait.
    for ticket in 0..5 {
        assert_eq!(arrive(&mut dispatcher, ticket), Admission::Queued);
    }
    assert_eq!(arrive(&mut dispatcher, 5), Admission::Refused);
    let wish = ranked(&[&[0]]);
    for ticket in 0..2 {
        assert_eq!(taken(&mut dispatcher, ticket, wish.clone()), [(ticket, id(0))]);
    }
    assert_eq!(taken(&mut dispatcher, 2, wish.clone()), []);
    // All decide for one replica: two would wait, and the newest of them is refused after all.
    let decided = dispatcher.decide(3, wish.clone()).unwrap();
    assert_eq!(decided, Decided { assigned: vec![], displaced: Some(3) });
    assert_eq!(dispatcher.queued(), 2);
    assert_eq!(taken(&mut dispatcher, 4, ranked(&[&[1]])), [(4, id(1))]);
    assert_eq!(dispatcher.loads().map(|(_, load)| load).sum::<u32>(), 3);
}

#[derive(Debug, Clone)]
enum Step {
    Arrive(u64),
    Decide(usize, Vec<Vec<u8>>),
    Release(usize),
    ComeBack(usize),
    Cancel(usize),
    Forgive(usize),
    Suspect(u8),
    Trust(u8),
    Update(BTreeSet<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let ranks = prop::collection::vec(prop::collection::vec(0u8..5, 0..3), 0..3);
    prop_oneof![
        5 => (0u64..3).prop_map(Step::Arrive),
        5 => ((0usize..9), ranks).prop_map(|(nth, ranks)| Step::Decide(nth, ranks)),
        3 => (0usize..9).prop_map(Step::Release),
        1 => (0usize..9).prop_map(Step::ComeBack),
        1 => (0usize..9).prop_map(Step::Cancel),
        1 => (0usize..9).prop_map(Step::Forgive),
        1 => (0u8..4).prop_map(Step::Suspect),
        1 => (0u8..4).prop_map(Step::Trust),
        1 => prop::collection::btree_set(0u8..4, 0..5).prop_map(Step::Update),
    ]
}

#[derive(Debug, Clone)]
struct Waiter {
    ranks: Option<Vec<Vec<ReplicaId>>>,
    avoid: Vec<ReplicaId>,
    came_back: bool,
}

/// Where every request is, told only by what the dispatcher returned.
#[derive(Default)]
struct Model {
    next: Ticket,
    waiting: BTreeMap<Ticket, Waiter>,
    running: BTreeMap<Ticket, ReplicaId>,
    listed: BTreeSet<ReplicaId>,
    suspects: BTreeSet<ReplicaId>,
}

const MAX_ONGOING: u32 = 2;
const MAX_QUEUED: u32 = 3;

impl Model {
    fn load(&self, replica: &ReplicaId) -> usize {
        self.running.values().filter(|id| *id == replica).count()
    }

    fn is_free(&self, replica: &ReplicaId) -> bool {
        let takes = self.listed.contains(replica) && !self.suspects.contains(replica);
        takes && self.load(replica) < MAX_ONGOING as usize
    }

    /// The first rank in which it could have a replica now.
    fn best(&self, waiter: &Waiter) -> Option<usize> {
        let may = |id: &ReplicaId| self.is_free(id) && !waiter.avoid.contains(id);
        waiter.ranks.as_ref()?.iter().position(|rank| rank.iter().any(may))
    }

    fn take(&mut self, assigned: Vec<Assignment>) {
        for Assignment { ticket, replica } in assigned {
            let waiter = self.waiting.remove(&ticket).expect("only who waits is assigned");
            assert!(self.is_free(&replica), "{replica} takes nothing");
            assert!(!waiter.avoid.contains(&replica), "{replica} has failed it");
            let best = self.best(&waiter).expect("it has ranks");
            let ranks = waiter.ranks.expect("it has ranks");
            assert!(ranks[best].contains(&replica), "a better rank is free");
            self.running.insert(ticket, replica);
        }
    }

    fn num_decided(&self) -> usize {
        let counts = |waiter: &&Waiter| waiter.ranks.is_some() && !waiter.came_back;
        self.waiting.values().filter(counts).count()
    }

    fn room(&self) -> usize {
        let free = self.listed.iter().filter(|id| !self.suspects.contains(*id));
        free.map(|id| (MAX_ONGOING as usize).saturating_sub(self.load(id))).sum()
    }
}

fn arrive_in(dispatcher: &mut Dispatcher, state: &mut Model, flow: u64) {
    let ticket = state.next;
    state.next += 1;
    let flow = Flow { id: flow, weight: 1 + flow as u32 };
    let bound = MAX_QUEUED as usize + state.room();
    let waiter = Waiter { ranks: None, avoid: Vec::new(), came_back: false };
    match dispatcher.arrive_in(flow, Wish::Undecided, ticket, None) {
        Admission::Queued => {
            assert!(state.waiting.len() < bound);
            state.waiting.insert(ticket, waiter);
        }
        Admission::QueuedInstead(displaced) => {
            assert!(state.waiting.len() >= bound);
            assert!(state.waiting.remove(&displaced).is_some());
            state.waiting.insert(ticket, waiter);
        }
        Admission::Refused => assert!(state.waiting.len() >= bound),
        other => panic!("{other:?}"),
    }
}

fn decide(dispatcher: &mut Dispatcher, state: &mut Model, ticket: Ticket, ranks: Vec<Vec<u8>>) {
    let ranks: Vec<Vec<ReplicaId>> =
        ranks.iter().map(|rank| rank.iter().map(|n| id(*n)).collect()).collect();
    let wish = Wish::Ranked(ranks.iter().cloned().collect());
    state.waiting.get_mut(&ticket).unwrap().ranks = Some(ranks);
    let before = state.num_decided();
    let decided = dispatcher.decide(ticket, wish).unwrap();
    state.take(decided.assigned);
    if let Some(displaced) = decided.displaced {
        assert!(state.waiting.remove(&displaced).is_some_and(|w| w.ranks.is_some()));
        assert!(state.num_decided() < before);
    }
}

fn apply(dispatcher: &mut Dispatcher, state: &mut Model, step: Step) {
    let waiting = |nth: usize, state: &Model| state.waiting.keys().nth(nth).copied();
    let running = |nth: usize, state: &Model| {
        state.running.iter().nth(nth).map(|(ticket, id)| (*ticket, id.clone()))
    };
    match step {
        Step::Arrive(flow) => arrive_in(dispatcher, state, flow),
        Step::Decide(nth, ranks) => match waiting(nth, state) {
            Some(ticket) => decide(dispatcher, state, ticket, ranks),
            None => assert_eq!(dispatcher.decide(state.next, Wish::Any), None),
        },
        Step::Release(nth) => {
            if let Some((ticket, replica)) = running(nth, state) {
                state.running.remove(&ticket);
                state.take(dispatcher.release(&replica, &ranked(&[]), None));
            }
        }
        Step::ComeBack(nth) => {
            if let Some((ticket, replica)) = running(nth, state) {
                state.running.remove(&ticket);
                let avoid = vec![replica.clone()];
                let waiter = Waiter { ranks: None, avoid: avoid.clone(), came_back: true };
                state.waiting.insert(ticket, waiter);
                state.take(dispatcher.come_back(ticket, &replica, Wish::Undecided, avoid));
            }
        }
        Step::Cancel(nth) => {
            if let Some(ticket) = waiting(nth, state) {
                state.waiting.remove(&ticket);
                assert!(dispatcher.cancel(ticket));
            }
        }
        Step::Forgive(nth) => {
            if let Some(ticket) = waiting(nth, state) {
                state.waiting.get_mut(&ticket).unwrap().avoid.clear();
                state.take(dispatcher.forgive(ticket));
            }
        }
        Step::Suspect(n) => {
            if state.listed.contains(&id(n)) || state.load(&id(n)) > 0 {
                state.suspects.insert(id(n));
            }
            state.take(dispatcher.suspect(&id(n)).unwrap_or_default());
        }
        Step::Trust(n) => {
            state.suspects.remove(&id(n));
            state.take(dispatcher.trust(&id(n)));
        }
        Step::Update(listed) => {
            state.listed = listed.into_iter().map(id).collect();
            let listed = state.listed.iter().cloned();
            let assigned = dispatcher.update(listed, MAX_ONGOING, MAX_QUEUED);
            state.take(assigned);
        }
    }
}

proptest! {
    #[test]
    fn ranked_requests_are_neither_lost_nor_left_beside_a_free_replica(
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let mut dispatcher = Dispatcher::new(MAX_ONGOING, MAX_QUEUED, 1);
        let mut state = Model::default();
        for step in steps {
            let decided_before = state.num_decided();
            apply(&mut dispatcher, &mut state, step);
            prop_assert_eq!(dispatcher.queued() as usize, state.waiting.len());
            prop_assert_eq!(dispatcher.ongoing() as usize, state.running.len());
            prop_assert!(state.num_decided() <= decided_before.max(MAX_QUEUED as usize));
            let known: BTreeSet<_> =
                state.listed.iter().chain(state.running.values()).cloned().collect();
            state.suspects.retain(|id| known.contains(id));
            for replica in &state.listed {
                prop_assert!(state.load(replica) <= MAX_ONGOING as usize);
            }
            for (ticket, waiter) in &state.waiting {
                prop_assert_eq!(state.best(waiter), None, "{} waits beside a free one", ticket);
            }
        }
        let all: Vec<Ticket> = state.waiting.keys().copied().collect();
        prop_assert_eq!(dispatcher.fail_waiting(), all);
    }
}
