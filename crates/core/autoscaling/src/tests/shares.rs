use super::*;
use proptest::prelude::*;

fn shared(max_total_replicas: u32, deployments: &[(u32, u32, u32)]) -> Vec<u32> {
    let deployments: Vec<_> = deployments
        .iter()
        .map(|&(lower, upper, wanted)| (Bounds { lower, upper, gang_size: 1 }, wanted))
        .collect();
    share(max_total_replicas, &deployments)
}

#[test]
fn what_suffices_is_given_and_what_does_not_is_shared() {
    assert_eq!(shared(10, &[(0, 10, 4), (0, 10, 6)]), [4, 6]);
    assert_eq!(shared(10, &[(0, 5, 40), (0, 10, 5)]), [5, 5]);
    assert_eq!(shared(10, &[(0, 20, 5), (0, 20, 15)]), [3, 7]);
    // Equal remainders go by position.
    assert_eq!(shared(10, &[(0, 20, 10), (0, 20, 10), (0, 20, 10)]), [4, 3, 3]);
    // Lower bounds come first, and the rest is in proportion.
    assert_eq!(shared(10, &[(5, 20, 5), (0, 20, 10), (0, 20, 5)]), [5, 3, 2]);
    assert_eq!(shared(3, &[(2, 20, 9), (2, 20, 9)]), [2, 2]);
    // A small one gets its first.
    assert_eq!(shared(4, &[(0, 100, 100), (0, 100, 1), (0, 100, 0)]), [3, 1, 0]);
    assert_eq!(shared(2, &[(0, 9, 1), (0, 9, 3), (0, 9, 2)]), [0, 1, 1]);
    assert_eq!(shared(0, &[(0, 9, 1), (0, 9, 3)]), [0, 0]);
    assert_eq!(shared(5, &[]), [] as [u32; 0]);
}

#[test]
fn deployments_of_an_application_share() {
    let config = config();
    let bounds = bounds(&config);
    let mut all = [Autoscaler::at(0), Autoscaler::at(0)];
    let loads = [40, 20];
    for now in [0.0, 1.0, 4.0] {
        let loads = [load(loads[0], all[0].target()), load(loads[1], all[1].target())];
        let wanted: Vec<_> = all
            .iter_mut()
            .zip(loads)
            .map(|(one, load)| (bounds, one.wanted(&config, load, at(now))))
            .collect();
        let shares = share(6, &wanted);
        for ((one, load), share) in all.iter_mut().zip(loads).zip(shares) {
            one.decide_for(&config, bounds, share, load, at(now));
        }
    }
    // Both want ten or more, within their bounds.
    assert_eq!(all.map(|one| one.target()), [3, 3]);
}

proptest! {
    #[test]
    fn shares_are_fair(
        budget in 0u32..60,
        deployments in prop::collection::vec((0u32..4, 0u32..20, 0u32..40), 0..8),
    ) {
        let deployments: Vec<_> =
            deployments.iter().map(|&(low, more, wanted)| (low, low + more, wanted)).collect();
        let shares = shared(budget, &deployments);
        let lowest: u32 = deployments.iter().map(|one| one.0).sum();
        let wanted: Vec<u32> = deployments.iter().map(|&(l, u, w)| w.clamp(l, u)).collect();
        let expected = wanted.iter().sum::<u32>().min(budget.max(lowest));
        prop_assert_eq!(shares.iter().sum::<u32>(), expected);
        for i in 0..shares.len() {
            prop_assert!(shares[i] >= deployments[i].0 && shares[i] <= wanted[i]);
            for j in 0..shares.len() {
                if wanted[i] >= wanted[j] && deployments[j].0 == 0 {
                    prop_assert!(shares[i] + 1 >= shares[j], "{:?} of {:?}", shares, wanted);
                }
            }
        }
    }

    #[test]
    fn large_numbers_do_no_harm(
        budget in any::<u32>(),
        deployments in prop::collection::vec(any::<(u32, u32, u32)>(), 0..6),
    ) {
        prop_assert_eq!(shared(budget, &deployments).len(), deployments.len());
    }
}

#[test]
fn gangs_are_shared_out_whole() {
    let gangs = |size| {
        move |(lower, upper, wanted)| (Bounds { lower, upper, gang_size: 1 }.of_gangs(size), wanted)
    };
    let of = |size, deployments: &[(u32, u32, u32)]| -> Vec<_> {
        deployments.iter().copied().map(gangs(size)).collect()
    };
    assert_eq!(share(12, &of(4, &[(0, 8, 5), (0, 8, 3)])), [8, 4]);
    assert_eq!(share(11, &of(4, &[(0, 8, 5), (0, 8, 3)])), [4, 4], "less than that is no gang");
    assert_eq!(share(3, &of(4, &[(0, 8, 5), (0, 8, 3)])), [0, 0]);
    assert_eq!(share(3, &of(4, &[(4, 8, 5), (0, 8, 3)])), [4, 0], "a minimum is kept");
}
