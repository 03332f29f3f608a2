//! Policies for all deployments of an application.

use crate::Bounds;
use std::cmp::Reverse;

/// What each deployment gets of what it [wants](crate::Autoscaler::wanted), where all of them
/// together may have so many replicas.
///
/// All of it where it suffices. Else each keeps its lower bound, even if those are more than there
/// is; then each that wants any gets one (or one gang), those that want most first; and the rest is shared so
/// that everyone comes as near as that allows to the same part of what it wants, by largest
/// remainder and then by position.
///
/// It says what should be, not how to get there: [delays](crate::Autoscaler::decide_for) apply to
/// each deployment, so targets may be more than the budget until what one must give back is due.
/// Which gets one of too few does not depend on which has one.
#[must_use]
pub fn share(max_total_replicas: u32, deployments: &[(Bounds, u32)]) -> Vec<u32> {
    let wanted: Vec<u32> = deployments.iter().map(|(bounds, n)| bounds.clamp(*n)).collect();
    let budget = u128::from(max_total_replicas);
    if sum(&wanted) <= budget {
        return wanted;
    }
    let floors = floors(budget, deployments, &wanted);
    let left = budget.saturating_sub(sum(&floors));
    if left == 0 {
        return floors;
    }
    let shares = proportional(budget, &floors, &wanted).into_iter().zip(deployments);
    // A part of a gang is of no use to anybody.
    shares.map(|(share, (bounds, _))| share - share % bounds.gang_size.max(1)).collect()
}

/// What each gets at least.
fn floors(budget: u128, deployments: &[(Bounds, u32)], wanted: &[u32]) -> Vec<u32> {
    let mut floors: Vec<u32> = deployments.iter().map(|(bounds, _)| bounds.lower).collect();
    let mut left = budget.saturating_sub(sum(&floors));
    let mut without: Vec<usize> =
        (0..wanted.len()).filter(|&i| floors[i] == 0 && wanted[i] > 0).collect();
    without.sort_by_key(|&i| Reverse(wanted[i]));
    for i in without {
        let least = deployments[i].0.gang_size;
        if left >= u128::from(least) {
            floors[i] = least;
            left -= u128::from(least);
        }
    }
    floors
}

/// Shares `budget`, less than the sum of `wanted` and more than that of `floors`.
///
/// Those whose proportion is below their floor get the floor; the others share what is left, which
/// may bring more of them to their floors. No proportion is above what was wanted, because the
/// budget is less than the sum and floors only take from it.
fn proportional(budget: u128, floors: &[u32], wanted: &[u32]) -> Vec<u32> {
    let mut is_floor = vec![false; wanted.len()];
    let (budget, total) = loop {
        let of = |values: &[u32], which: bool| -> u128 {
            values
                .iter()
                .zip(&is_floor)
                .filter(|(_, at)| **at == which)
                .map(|(n, _)| u128::from(*n))
                .sum()
        };
        let (rest, total) = (budget - of(floors, true), of(wanted, false));
        let below: Vec<usize> = (0..wanted.len())
            .filter(|&i| {
                !is_floor[i] && rest * u128::from(wanted[i]) < total * u128::from(floors[i])
            })
            .collect();
        if below.is_empty() {
            break (rest, total);
        }
        below.into_iter().for_each(|i| is_floor[i] = true);
    };
    let mut shares = floors.to_vec();
    let mut open: Vec<usize> = (0..wanted.len()).filter(|&i| !is_floor[i]).collect();
    if total == 0 {
        return shares;
    }
    let mut left = budget;
    for &i in &open {
        let whole = budget * u128::from(wanted[i]) / total;
        left -= whole;
        shares[i] = u32::try_from(whole).unwrap_or(u32::MAX);
    }
    open.sort_by_key(|&i| Reverse(budget * u128::from(wanted[i]) % total));
    for i in open.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
        shares[i] += 1;
    }
    shares
}

fn sum(replicas: &[u32]) -> u128 {
    replicas.iter().map(|n| u128::from(*n)).sum()
}
