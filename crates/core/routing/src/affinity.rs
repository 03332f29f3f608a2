//! Which replica takes a request for one of several models that a deployment loads on demand.
//!
//! 1. One that has the model, loaded or being loaded, by power of two choices.
//! 2. Else one of those that have the fewest models of all, and not any other that has room: it would
//!    unload a model that somebody else asks for.
//! 3. A request that has waited long enough takes any, those with the fewest models first.
//!
//! Source: Ray Serve's `MultiplexMixin`, which tries these in turns with pauses between them.

use crate::choose;

/// A replica, as a request for a model sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Requests that it has.
    pub ongoing: u32,
    /// Models that it has, or will have for the requests that it was given.
    pub num_models: usize,
    /// Whether the one that is asked for is among them.
    pub has_model: bool,
}

/// Picks one of `replicas`' indices, or none when the request has to wait; `None` takes a replica
/// out of the choice. `takes_any` says that the request has waited long enough.
#[must_use]
pub fn choose_for_model(
    replicas: &[Option<Standing>],
    max_ongoing: u32,
    takes_any: bool,
    seed: u64,
) -> Option<usize> {
    let pick = |may: &dyn Fn(&Standing) -> bool| {
        let ongoing = |standing: &Option<Standing>| standing.filter(may).map(|it| it.ongoing);
        let ongoing: Vec<Option<u32>> = replicas.iter().map(ongoing).collect();
        choose(&ongoing, max_ongoing, seed)
    };
    pick(&|standing| standing.has_model).or_else(|| {
        let counted = |standing: &&Standing| !takes_any || standing.ongoing < max_ongoing;
        let counted = replicas.iter().flatten().filter(counted);
        let fewest = counted.map(|standing| standing.num_models).min()?;
        pick(&|standing| standing.num_models == fewest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn standing(ongoing: u32, num_models: usize, has_model: bool) -> Option<Standing> {
        Some(Standing { ongoing, num_models, has_model })
    }

    #[test]
    fn who_has_the_model_comes_first_and_then_who_has_the_fewest() {
        let check = |replicas: &[Option<Standing>], takes_any, expected: Option<usize>| {
            for seed in 0..50 {
                assert_eq!(choose_for_model(replicas, 2, takes_any, seed), expected);
            }
        };
        let holder = standing(1, 3, true);
        check(&[standing(0, 0, false), holder], false, Some(1));
        check(&[standing(1, 0, false), standing(2, 3, true)], false, Some(0));
        // Who has the fewest is full: the others would unload something.
        let full = [standing(2, 0, false), standing(0, 1, false), standing(2, 1, true)];
        check(&full, false, None);
        check(&full, true, Some(1));
        check(&[None, standing(0, 4, false), standing(0, 5, false)], true, Some(1));
        check(&[None, standing(2, 4, true)], true, None);
        check(&[], true, None);
    }

    #[test]
    fn of_two_that_have_the_model_the_freer_one_is_picked() {
        for seed in 0..50 {
            let replicas = [standing(3, 1, true), standing(1, 1, true), standing(0, 0, false)];
            assert_eq!(choose_for_model(&replicas, 9, false, seed), Some(1));
        }
    }

    proptest! {
        #[test]
        fn a_pick_has_room_and_nobody_better_has(
            replicas in prop::collection::vec(
                prop::option::of((0u32..4, 0usize..4, any::<bool>())
                    .prop_map(|(ongoing, num_models, has_model)| Standing { ongoing, num_models, has_model })),
                0..6,
            ),
            max in 1u32..4,
            takes_any: bool,
            seed: u64,
        ) {
            let known = || replicas.iter().flatten();
            let room = |it: &&Standing| it.ongoing < max;
            let fewest = known().map(|it| it.num_models).min();
            match choose_for_model(&replicas, max, takes_any, seed) {
                Some(pick) => {
                    let pick = replicas[pick].unwrap();
                    prop_assert!(pick.ongoing < max);
                    if !pick.has_model {
                        prop_assert!(!known().filter(room).any(|it| it.has_model));
                        let of_free = known().filter(room).map(|it| it.num_models).min();
                        prop_assert_eq!(Some(pick.num_models), if takes_any { of_free } else { fewest });
                    }
                }
                None => {
                    let wanted = |it: &Standing| takes_any || it.has_model || Some(it.num_models) == fewest;
                    prop_assert!(!known().filter(room).any(wanted));
                }
            }
        }
    }
}
