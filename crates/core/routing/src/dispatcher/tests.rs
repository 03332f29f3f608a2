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
    assert_eq!(dispatcher.release(&id(0), &Wish::Any, None), [to(2, 0)]);
    assert_eq!(dispatcher.release(&id(0), &Wish::Any, None), []);
    assert_eq!(dispatcher.arrive(4, None), Admission::Assigned(id(0)));
}

#[test]
fn a_replica_that_drains_keeps_what_it_has() {
    let mut dispatcher = Dispatcher::new(2, 3, 0);
    dispatcher.update([id(0)], 2, 3);
    assert_eq!(dispatcher.arrive(0, None), Admission::Assigned(id(0)));
    assert_eq!(dispatcher.update([] as [Listed; 0], 2, 3), []);
    assert!(!dispatcher.has_replica());
    assert_eq!((dispatcher.arrive(1, None), dispatcher.ongoing()), (Admission::Queued, 1));
    assert_eq!(dispatcher.release(&id(0), &Wish::Any, None), []);
    assert_eq!(dispatcher.ongoing(), 0);
}

#[test]
fn a_request_that_comes_back_goes_first_and_elsewhere() {
    let mut dispatcher = Dispatcher::new(1, 1, 0);
    dispatcher.update([id(0)], 1, 1);
    assert_eq!(dispatcher.arrive(0, None), Admission::Assigned(id(0)));
    assert_eq!(dispatcher.arrive(1, None), Admission::Queued);
    // It avoids the only replica, which the next in line can have.
    assert_eq!(dispatcher.come_back(0, &id(0), Wish::Any, vec![id(0)]), [to(1, 0)]);
    assert_eq!(dispatcher.update([id(0), id(1)], 1, 1), [to(0, 1)]);
    // Forgiven, it may have the same one again.
    assert_eq!(dispatcher.come_back(0, &id(1), Wish::Any, vec![id(1)]), []);
    assert_eq!(dispatcher.forgive(0), [to(0, 1)]);
}

#[test]
fn a_replica_under_suspicion_gets_nothing_new() {
    let mut dispatcher = Dispatcher::new(1, 4, 0);
    dispatcher.update([id(0)], 1, 4);
    assert_eq!(dispatcher.arrive(0, None), Admission::Assigned(id(0)));
    assert_eq!(dispatcher.arrive(1, None), Admission::Queued);
    assert_eq!((dispatcher.suspect(&id(0)), dispatcher.suspect(&id(0))), (Some(vec![]), None));
    assert_eq!(dispatcher.release(&id(0), &Wish::Any, None), []);
    assert_eq!(dispatcher.update([id(0), id(1)], 1, 4), [to(1, 1)]);
    assert_eq!(dispatcher.arrive(2, None), Admission::Queued);
    assert_eq!(dispatcher.trust(&id(0)), [to(2, 0)]);
    assert_eq!(dispatcher.suspect(&id(9)), None);
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
        assert_eq!(dispatcher.release(&id(0), &Wish::Any, Some(held)), [to(end + 1, 0)]);
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
        assert_eq!(dispatcher.arrive_in(greedy, Wish::Any, ticket, None), Admission::Queued);
    }
    assert_eq!(dispatcher.arrive_in(greedy, Wish::Any, 4, None), Admission::Refused);
    assert_eq!(dispatcher.arrive_in(modest, Wish::Any, 5, None), Admission::QueuedInstead(3));
    assert_eq!(dispatcher.arrive_in(modest, Wish::Any, 6, None), Admission::QueuedInstead(2));
    assert_eq!(dispatcher.arrive_in(modest, Wish::Any, 7, None), Admission::Refused);
    assert_eq!(dispatcher.update([id(0)], 4, 4), [0, 5, 1, 6].map(|ticket| to(ticket, 0)));
}

fn wish(model: &str) -> Wish {
    if model.is_empty() { Wish::Any } else { Wish::Model(model.into()) }
}

fn holding(n: u8, models: &[&str]) -> Listed {
    Listed { id: id(n), models: models.iter().map(|model| (*model).to_owned()).collect() }
}

#[test]
fn requests_go_where_their_model_is() {
    let mut dispatcher = Dispatcher::new(2, 9, 0);
    let arrive = |dispatcher: &mut Dispatcher, ticket, model: &str| {
        dispatcher.arrive_in(Flow::default(), wish(model), ticket, None)
    };
    dispatcher.update([holding(0, &["a"]), holding(1, &["b", "c"])], 2, 9);
    assert_eq!(arrive(&mut dispatcher, 0, "b"), Admission::Assigned(id(1)));
    assert_eq!(arrive(&mut dispatcher, 1, "d"), Admission::Assigned(id(0)));
    // Whoever was sent a request for it is about to have it.
    assert_eq!(arrive(&mut dispatcher, 2, "d"), Admission::Assigned(id(0)));
    assert_eq!(dispatcher.release(&id(0), &wish("d"), None), []);
    assert_eq!(dispatcher.release(&id(0), &wish("d"), None), []);
    dispatcher.update([holding(0, &["a"]), holding(1, &[])], 2, 9);
    // What a replica is about to have counts as much as what it has.
    assert_eq!(arrive(&mut dispatcher, 3, ""), Admission::Assigned(id(0)));
    assert_eq!(arrive(&mut dispatcher, 4, "b"), Admission::Assigned(id(1)));
}

#[test]
fn a_full_holder_is_passed_by_and_other_models_are_spared_for_a_while() {
    let mut dispatcher = Dispatcher::new(1, 9, 0);
    let arrive = |dispatcher: &mut Dispatcher, ticket, model: &str| {
        dispatcher.arrive_in(Flow::default(), wish(model), ticket, None)
    };
    dispatcher.update([holding(0, &["a"]), holding(1, &[]), holding(2, &["x", "y"])], 1, 9);
    assert_eq!(arrive(&mut dispatcher, 0, "a"), Admission::Assigned(id(0)));
    assert_eq!(arrive(&mut dispatcher, 1, "a"), Admission::Assigned(id(1)));
    // Both that have it are full, and the third would unload something.
    assert_eq!(arrive(&mut dispatcher, 2, "a"), Admission::Queued);
    assert_eq!(arrive(&mut dispatcher, 3, "b"), Admission::Queued);
    assert_eq!(dispatcher.queued(), 2);
    // Who wishes for what is there goes, and so does who does not care.
    assert_eq!(arrive(&mut dispatcher, 4, "y"), Admission::Assigned(id(2)));
    assert_eq!(dispatcher.release(&id(2), &wish("y"), None), []);
    assert_eq!(arrive(&mut dispatcher, 5, ""), Admission::Assigned(id(2)));
    assert_eq!(dispatcher.release(&id(2), &Wish::Any, None), []);
    // Time is over for the second of those that wait.
    assert_eq!(dispatcher.forgive(3), [to(3, 2)]);
    assert_eq!(dispatcher.release(&id(0), &wish("a"), None), [to(2, 0)]);
    // One that comes back takes what there is.
    assert_eq!(dispatcher.come_back(3, &id(2), wish("b"), vec![id(2)]), []);
    assert_eq!(
        dispatcher.update([holding(2, &["x", "y"]), holding(3, &["z", "u", "v"])], 1, 9),
        [to(3, 3)]
    );
}

#[test]
fn a_broadcast_reaches_full_replicas_and_counts_until_it_is_over() {
    let mut dispatcher = Dispatcher::new(1, 4, 0);
    assert_eq!(dispatcher.broadcast(), []);
    dispatcher.update([id(0)], 1, 4);
    assert_eq!(dispatcher.arrive(0, None), Admission::Assigned(id(0)));
    dispatcher.update([id(0), id(1)], 1, 4);
    assert_eq!(dispatcher.suspect(&id(1)), Some(vec![]));
    assert_eq!(dispatcher.broadcast(), [id(0), id(1)]);
    assert_eq!(dispatcher.trust(&id(1)), []);
    assert_eq!((dispatcher.ongoing(), dispatcher.queued()), (3, 0));
    // One that has its part of it has no room beside it.
    assert_eq!(dispatcher.arrive(1, None), Admission::Queued);
    assert_eq!(dispatcher.release(&id(0), &Wish::Any, None), []);
    assert_eq!(dispatcher.release(&id(1), &Wish::Any, None), [to(1, 1)]);
}

#[derive(Debug, Clone)]
enum Step {
    Arrive(u64, &'static str),
    Broadcast,
    Release(usize),
    GiveBack(usize),
    ComeBack(usize),
    Cancel(usize),
    Forgive(usize),
    Suspect(u8),
    Trust(u8),
    Update(BTreeMap<u8, BTreeSet<&'static str>>),
}

fn model() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just(""), 1 => Just("m"), 1 => Just("n"), 1 => Just("o")]
}

fn models() -> impl Strategy<Value = BTreeSet<&'static str>> {
    prop::collection::btree_set(prop::sample::select(vec!["m", "n", "o"]), 0..3)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..3, model()).prop_map(|(flow, model)| Step::Arrive(flow, model)),
        1 => Just(Step::Broadcast),
        3 => (0usize..8).prop_map(Step::Release),
        2 => (0usize..8).prop_map(Step::GiveBack),
        1 => (0usize..8).prop_map(Step::ComeBack),
        1 => (0usize..8).prop_map(Step::Cancel),
        1 => (0usize..8).prop_map(Step::Forgive),
        1 => (0u8..4).prop_map(Step::Suspect),
        1 => (0u8..4).prop_map(Step::Trust),
        1 => prop::collection::btree_map(0u8..4, models(), 0..4).prop_map(Step::Update),
    ]
}

/// One that waits.
#[derive(Debug, Clone, PartialEq)]
struct Waiter {
    ticket: Ticket,
    model: &'static str,
    avoid: Vec<ReplicaId>,
    takes_any: bool,
    came_back: bool,
}

/// Where every request is, told only by what the dispatcher returned.
#[derive(Default)]
struct Model {
    next: Ticket,
    waiting: Vec<Waiter>,
    flows: BTreeMap<Ticket, u64>,
    running: BTreeMap<Ticket, (ReplicaId, &'static str)>,
    /// Those of `running` that are parts of broadcasts.
    broadcast: BTreeSet<Ticket>,
    listed: BTreeMap<ReplicaId, BTreeSet<&'static str>>,
    suspects: BTreeSet<ReplicaId>,
}

impl Model {
    fn take(&mut self, assignments: Vec<Assignment>) {
        for Assignment { ticket, replica } in assignments {
            let position = self.waiting.iter().position(|w| w.ticket == ticket).unwrap();
            let Waiter { model, avoid, takes_any, came_back, .. } = self.waiting.remove(position);
            assert!(!avoid.contains(&replica) && self.listed.contains_key(&replica));
            assert!(!self.suspects.contains(&replica), "{replica} may be gone");
            let overtaken = |w: &Waiter| {
                let is_alike =
                    w.model.is_empty() || w.takes_any || (w.model == model && !takes_any);
                let is_earlier = w.ticket < ticket && w.avoid.is_empty() && is_alike;
                is_earlier && !came_back && self.flows[&w.ticket] == self.flows[&ticket]
            };
            assert!(!self.waiting.iter().any(overtaken), "{ticket} overtook a patient one");
            assert!(self.running.insert(ticket, (replica, model)).is_none());
        }
    }

    fn load(&self, replica: &ReplicaId) -> usize {
        self.running.values().filter(|(id, _)| id == replica).count()
    }

    /// What it was assigned: all but its parts of broadcasts.
    fn assigned(&self, replica: &ReplicaId) -> usize {
        let told_to_all = |ticket: &&Ticket| self.running[ticket].0 == *replica;
        self.load(replica) - self.broadcast.iter().filter(told_to_all).count()
    }

    /// What a replica has or is about to have.
    fn models(&self, replica: &ReplicaId) -> BTreeSet<&'static str> {
        let asked_for =
            self.running.values().filter(|(id, model)| id == replica && !model.is_empty());
        let told = self.listed.get(replica).cloned().unwrap_or_default();
        asked_for.map(|(_, model)| *model).chain(told).collect()
    }

    /// Whether a replica that has room is one for a request that waits.
    fn is_for(&self, replica: &ReplicaId, waiter: &Waiter) -> bool {
        let models = self.models(replica);
        let trusted = self.listed.keys().filter(|id| !self.suspects.contains(*id));
        let fewest = trusted.map(|id| self.models(id).len()).min();
        let is_wished_for = waiter.model.is_empty()
            || waiter.takes_any
            || models.contains(waiter.model)
            || Some(models.len()) == fewest;
        is_wished_for && !waiter.avoid.contains(replica)
    }
}

const MAX_ONGOING: u32 = 2;
const MAX_QUEUED: u32 = 3;

fn arrive(dispatcher: &mut Dispatcher, state: &mut Model, id: u64, model: &'static str) {
    let ticket = state.next;
    state.next += 1;
    state.waiting.push(Waiter {
        ticket,
        model,
        avoid: Vec::new(),
        takes_any: false,
        came_back: false,
    });
    state.flows.insert(ticket, id);
    let flow = Flow { id, weight: 1 + id as u32 };
    match dispatcher.arrive_in(flow, wish(model), ticket, None) {
        Admission::Assigned(replica) => state.take(vec![Assignment { ticket, replica }]),
        Admission::Queued => assert!(state.waiting.len() <= state.next as usize),
        Admission::QueuedInstead(displaced) => {
            assert!(state.waiting.len() > MAX_QUEUED as usize);
            assert_ne!(state.flows[&displaced], id);
            state.waiting.retain(|waiter| waiter.ticket != displaced);
        }
        Admission::TooLate(_) => panic!("it has time"),
        Admission::Refused => {
            state.waiting.pop();
            assert!(state.waiting.len() >= MAX_QUEUED as usize);
        }
    }
}

/// Ends the `n`th of those that replicas have.
fn release(dispatcher: &mut Dispatcher, state: &mut Model, n: usize, held: Option<Held>) {
    let Some((&ticket, &(ref replica, model))) = state.running.iter().nth(n) else { return };
    let replica = replica.clone();
    state.running.remove(&ticket);
    state.broadcast.remove(&ticket);
    state.take(dispatcher.release(&replica, &wish(model), held));
}

fn broadcast(dispatcher: &mut Dispatcher, state: &mut Model) {
    let reached: BTreeSet<_> = dispatcher.broadcast().into_iter().collect();
    assert!(reached.iter().eq(state.listed.keys()), "each that is listed, once");
    for replica in reached {
        state.broadcast.insert(state.next);
        state.running.insert(state.next, (replica, ""));
        state.next += 1;
    }
}

fn apply(dispatcher: &mut Dispatcher, state: &mut Model, step: Step) {
    let nth = |n: usize, state: &Model| state.running.iter().nth(n).map(|(t, r)| (*t, r.clone()));
    match step {
        Step::Arrive(flow, model) => arrive(dispatcher, state, flow, model),
        Step::Broadcast => broadcast(dispatcher, state),
        Step::Release(n) => {
            let took = Duration::from_secs(1);
            let held =
                Held { whole: took, until_answer: Some(took), at_work: dispatcher.ongoing() };
            release(dispatcher, state, n, Some(held));
        }
        // A place that was kept for a request, and is not wanted any more.
        Step::GiveBack(n) => release(dispatcher, state, n, None),
        Step::ComeBack(n) => {
            let assigned = nth(n, state).filter(|(ticket, _)| !state.broadcast.contains(ticket));
            if let Some((ticket, (replica, model))) = assigned {
                state.running.remove(&ticket);
                let avoid = vec![replica.clone()];
                state.waiting.push(Waiter {
                    ticket,
                    model,
                    avoid,
                    takes_any: true,
                    came_back: true,
                });
                state.waiting.sort_by_key(|waiter| waiter.ticket);
                let avoid = vec![replica.clone()];
                state.take(dispatcher.come_back(ticket, &replica, wish(model), avoid));
            }
        }
        Step::Cancel(n) => {
            if n < state.waiting.len() {
                assert!(dispatcher.cancel(state.waiting.remove(n).ticket));
            }
        }
        Step::Forgive(n) => {
            if let Some(waiter) = state.waiting.get_mut(n) {
                waiter.avoid.clear();
                waiter.takes_any = true;
                let ticket = waiter.ticket;
                state.take(dispatcher.forgive(ticket));
            }
        }
        Step::Suspect(n) => {
            let known = state.listed.contains_key(&id(n)) || state.load(&id(n)) > 0;
            let is_new = known && state.suspects.insert(id(n));
            let assigned = dispatcher.suspect(&id(n));
            assert_eq!(assigned.is_some(), is_new);
            state.take(assigned.unwrap_or_default());
        }
        Step::Trust(n) => {
            state.suspects.remove(&id(n));
            state.take(dispatcher.trust(&id(n)));
        }
        Step::Update(listed) => {
            state.listed = listed.into_iter().map(|(n, models)| (id(n), models)).collect();
            let listed: Vec<Listed> = state
                .listed
                .iter()
                .map(|(id, models)| {
                    let models = models.iter().map(|model| (*model).to_owned()).collect();
                    Listed { id: id.clone(), models }
                })
                .collect();
            state.take(dispatcher.update(listed, MAX_ONGOING, MAX_QUEUED));
        }
    }
}

proptest! {
    #[test]
    fn no_request_is_lost_doubled_or_left_waiting(steps in prop::collection::vec(step(), 1..80)) {
        let mut dispatcher = Dispatcher::new(MAX_ONGOING, MAX_QUEUED, 1);
        let mut state = Model::default();
        for step in steps {
            apply(&mut dispatcher, &mut state, step);
            prop_assert_eq!(dispatcher.queued() as usize, state.waiting.len());
            prop_assert_eq!(dispatcher.ongoing() as usize, state.running.len());
            // What is neither listed nor at work is forgotten, with what was said of it.
            let at_work = state.running.values().map(|(id, _)| id);
            let known: BTreeSet<_> = state.listed.keys().chain(at_work).cloned().collect();
            state.suspects.retain(|id| known.contains(id));
            for replica in state.listed.keys() {
                prop_assert!(state.assigned(replica) <= MAX_ONGOING as usize);
                let idle = state.load(replica) < MAX_ONGOING as usize
                    && !state.suspects.contains(replica);
                let wanted = state.waiting.iter().any(|waiter| state.is_for(replica, waiter));
                prop_assert!(!(idle && wanted), "one waits while {} has room", replica);
            }
        }
        // Whatever was given out comes back, sent or not, and with it every place.
        while !state.running.is_empty() {
            release(&mut dispatcher, &mut state, 0, None);
        }
        prop_assert_eq!(dispatcher.ongoing(), 0);
        let reached = dispatcher.broadcast();
        prop_assert!(reached.iter().all(|id| state.listed.contains_key(id)), "others are forgotten");
    }
}
