//! Power of two choices: of two random replicas, the one with less to do.
//!
//! Two samples get within a constant of the best balance, without every proxy herding onto the
//! same least-loaded replica. Source: Mitzenmacher, "The power of two choices in randomized load
//! balancing", 2001; Ray Serve uses the same rule in `pow_2_router.py`.

/// Picks one of `ongoing`'s indices, or none when each is at `max_ongoing`.
///
/// `ongoing[i]` is what replica `i` has in flight; `None` takes the replica out of the choice.
/// The same seed and counts give the same pick.
#[must_use]
pub fn choose(ongoing: &[Option<u32>], max_ongoing: u32, seed: u64) -> Option<usize> {
    let has_room = |i: &usize| ongoing[*i].is_some_and(|count| count < max_ongoing);
    let room = (0..ongoing.len()).filter(has_room).count();
    let nth = |n: usize| (0..ongoing.len()).filter(has_room).nth(n);
    if room == 0 {
        return None;
    }
    let mixed = mix(seed);
    let first = (mixed >> 32) as usize % room;
    if room == 1 {
        return nth(first);
    }
    // A second one that is never the first.
    let second = (first + 1 + (mixed & 0xffff_ffff) as usize % (room - 1)) % room;
    let (first, second) = (nth(first)?, nth(second)?);
    Some(if ongoing[second] < ongoing[first] { second } else { first })
}

/// Spreads a counter over all bits. Source: Steele et al., SplitMix64, 2014.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn with_two_replicas_the_freer_one_is_picked() {
        for seed in 0..100 {
            assert_eq!(choose(&[Some(3), Some(1)], 5, seed), Some(1));
            assert_eq!(choose(&[Some(3), None], 5, seed), Some(0));
            assert_eq!(choose(&[Some(5), Some(5)], 5, seed), None);
            assert_eq!(choose(&[], 5, seed), None);
        }
    }

    #[test]
    fn equal_replicas_share_the_load() {
        let mut ongoing = [Some(0); 4];
        for seed in 0..400 {
            let pick = choose(&ongoing, u32::MAX, seed).unwrap();
            ongoing[pick] = ongoing[pick].map(|count| count + 1);
        }
        for count in ongoing {
            assert!((90..=110).contains(&count.unwrap()), "{ongoing:?}");
        }
    }

    proptest! {
        #[test]
        fn a_pick_has_room_and_is_found_when_there_is_one(
            ongoing in prop::collection::vec(prop::option::of(0u32..6), 0..8),
            max in 1u32..6,
            seed: u64,
        ) {
            let room = |count: &Option<u32>| count.is_some_and(|count| count < max);
            match choose(&ongoing, max, seed) {
                Some(pick) => prop_assert!(room(&ongoing[pick])),
                None => prop_assert!(!ongoing.iter().any(room)),
            }
        }
    }
}
