//! Requests with the beginnings of prompts.

use super::*;
use crate::Prefix;
use proptest::prelude::*;
use std::collections::BTreeMap;

const MAX_ONGOING: u32 = 2;

fn id(index: usize) -> ReplicaId {
    ReplicaId::new(format!("r{index}"))
}

fn wish(text: &str) -> Wish {
    Wish::Prefix(Prefix::of([text]))
}

fn conversation(number: usize, turns: usize) -> String {
    format!("conversation {number}: {}", "and so it goes on ".repeat(10 * (1 + turns)))
}

#[test]
fn a_conversation_stays_where_it_began_unless_there_is_no_room() {
    let mut dispatcher = Dispatcher::new(1, 4, 0);
    dispatcher.update([id(0), id(1), id(2)], 1, 4);
    let mut ask = |ticket, number, turns| {
        let wish = wish(&conversation(number, turns));
        match dispatcher.arrive_in(Flow::default(), wish.clone(), ticket, None) {
            Admission::Assigned(replica) => (dispatcher.release(&replica, &wish, None), replica).1,
            other => panic!("{other:?}"),
        }
    };
    let first: Vec<_> = (0..3).map(|number| ask(number as Ticket, number, 0)).collect();
    // Each began where nothing was.
    assert_eq!(first.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
    for turns in 1..5 {
        for (number, replica) in first.iter().enumerate() {
            assert_eq!(ask(turns as Ticket, number, turns), *replica);
        }
    }
    // One that is busy is no reason to wait, and who took the prompt has it then.
    let busy = wish(&conversation(0, 9));
    assert_eq!(
        dispatcher.arrive_in(Flow::default(), busy.clone(), 50, None),
        Admission::Assigned(first[0].clone())
    );
    let Admission::Assigned(other) = dispatcher.arrive_in(Flow::default(), busy.clone(), 51, None)
    else {
        panic!("there is room")
    };
    assert_ne!(other, first[0]);
    assert_eq!(dispatcher.release(&first[0], &busy, None), []);
    // What comes back goes elsewhere, and is known there.
    assert_eq!(dispatcher.suspect(&first[0]), Some(vec![]));
    let assigned = dispatcher.come_back(51, &other, busy.clone(), vec![other.clone()]);
    assert_eq!(assigned.len(), 1);
    assert!(![&first[0], &other].contains(&&assigned[0].replica));
}

proptest! {
    #[test]
    fn nobody_waits_for_a_cache(
        steps in prop::collection::vec((0_usize..4, 0_usize..5, 0_usize..3, any::<bool>()), 0..80),
        threshold in prop::option::of(0.0_f64..3.0),
    ) {
        let mut dispatcher = Dispatcher::new(MAX_ONGOING, 100, 0);
        dispatcher.set_prefix_affinity(PrefixAffinity {
            imbalanced_threshold: threshold,
            max_bytes: 2000,
            ..Default::default()
        });
        dispatcher.update((0..3).map(id), MAX_ONGOING, 100);
        let mut running: BTreeMap<Ticket, (ReplicaId, Wish)> = BTreeMap::new();
        let mut waiting: BTreeMap<Ticket, Wish> = BTreeMap::new();
        for (ticket, (kind, number, turns, is_last)) in steps.into_iter().enumerate() {
            let assigned = match (kind, running.pop_first()) {
                (0, Some((_, (replica, wish)))) => dispatcher.release(&replica, &wish, None),
                (1, taken) => {
                    running.extend(taken);
                    let listed = (0..3).map(id).take(if is_last { 2 } else { 3 });
                    dispatcher.update(listed, MAX_ONGOING, 100)
                }
                (_, taken) => {
                    running.extend(taken);
                    let (has_room, ticket) = (dispatcher.has_room(), ticket as Ticket);
                    let wish = wish(&conversation(number, turns));
                    waiting.insert(ticket, wish.clone());
                    match dispatcher.arrive_in(Flow::default(), wish, ticket, None) {
                        Admission::Assigned(replica) => {
                            prop_assert!(has_room);
                            vec![Assignment { ticket, replica }]
                        }
                        admission => {
                            prop_assert_eq!(admission, Admission::Queued);
                            prop_assert!(!has_room);
                            Vec::new()
                        }
                    }
                }
            };
            for Assignment { ticket, replica } in assigned {
                running.insert(ticket, (replica, waiting.remove(&ticket).unwrap()));
            }
            prop_assert_eq!(dispatcher.ongoing() as usize, running.len());
            prop_assert!(dispatcher.loads().all(|(_, ongoing)| ongoing <= MAX_ONGOING));
            prop_assert!(waiting.is_empty() || !dispatcher.has_room());
        }
    }
}
