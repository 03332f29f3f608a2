//! Temperature, `min_p`, `top_k`, `top_p` and the draw.
//!
//! A token's weight is `exp((logit - max) / temperature)` in fixed point. Sums of weights are
//! integers, so they are the same in every order, and a token below 2^-40 of the most likely one
//! weighs nothing.

use crate::math::exp_nonpositive;
use crate::scan::for_each_at_least;
use std::cmp::Ordering;

/// Weight of the most likely token. Sums over 2^24 tokens still fit in 64 bits.
const ONE: f32 = (1_u64 << 40) as f32;
/// A token this far below the best one, after temperature, weighs nothing.
const NEGLIGIBLE: f32 = -28.0;

/// A token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    id: u32,
    /// Logit above the largest one, divided by the temperature: at most 0.
    scaled: f32,
    weight: u64,
}

/// Most likely first, equal ones by id.
fn order(a: &Candidate, b: &Candidate) -> Ordering {
    b.scaled.total_cmp(&a.scaled).then(a.id.cmp(&b.id))
}

/// What the filters keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Filter {
    pub(crate) temperature: f32,
    /// 0 is off.
    pub(crate) min_p: f32,
    /// 0 is off.
    pub(crate) top_k: u32,
    /// 1 is off.
    pub(crate) top_p: f32,
}

/// Reused buffers of [`Filter::draw`].
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    all: Vec<Candidate>,
    /// A copy to reorder.
    work: Vec<Candidate>,
}

impl Filter {
    /// Draws a token with `random`, uniform over 64 bits. `max` is the largest logit, finite.
    pub(crate) fn draw(
        &self,
        logits: &[f32],
        max: f32,
        random: u64,
        candidates: &mut Candidates,
    ) -> u32 {
        self.keep(logits, max, candidates);
        let total: u64 = candidates.all.iter().map(|candidate| candidate.weight).sum();
        // Uniform in 0..total, to within total / 2^64.
        let mut rest = ((u128::from(random) * u128::from(total)) >> 64) as u64;
        for candidate in &candidates.all {
            if rest < candidate.weight {
                return candidate.id;
            }
            rest -= candidate.weight;
        }
        unreachable!("the rest is below the sum of the weights, and the best token weighs 2^40")
    }

    /// Leaves what may be drawn in `candidates.all`, in the order of ids.
    fn keep(&self, logits: &[f32], max: f32, candidates: &mut Candidates) {
        let Candidates { all, work } = candidates;
        all.clear();
        let lowest = if self.min_p > 0.0 { self.min_p.ln().max(NEGLIGIBLE) } else { NEGLIGIBLE };
        let threshold = max + lowest * self.temperature;
        for_each_at_least(
            logits,
            all,
            |_| threshold,
            |all, index, logit| {
                let scaled = (logit - max) / self.temperature;
                all.push(Candidate { id: index as u32, scaled, weight: weight(scaled) });
            },
        );
        let top_k = self.top_k as usize;
        if top_k > 0 && top_k < all.len() {
            work.clone_from(all);
            let (_, last, _) = work.select_nth_unstable_by(top_k - 1, order);
            let last = *last;
            all.retain(|candidate| order(candidate, &last) != Ordering::Greater);
        }
        if self.top_p < 1.0 {
            work.clone_from(all);
            let last = last_of_nucleus(work, self.top_p);
            all.retain(|candidate| order(candidate, &last) != Ordering::Greater);
        }
    }
}

fn weight(scaled: f32) -> u64 {
    (exp_nonpositive(scaled) * ONE) as u64
}

/// The least likely token of the smallest set of best tokens whose weights sum to at least
/// `top_p` of all. Halves the undecided part each time, so it takes linear time.
fn last_of_nucleus(mut undecided: &mut [Candidate], top_p: f32) -> Candidate {
    let sum = |part: &[Candidate]| part.iter().map(|candidate| candidate.weight).sum::<u64>();
    let mut wanted = (f64::from(top_p) * sum(undecided) as f64).ceil() as u64;
    while undecided.len() > 1 {
        let half = undecided.len() / 2;
        undecided.select_nth_unstable_by(half, order);
        let (best, rest) = undecided.split_at_mut(half);
        let best_sum = sum(best);
        undecided = if best_sum >= wanted {
            best
        } else {
            wanted -= best_sum;
            rest
        };
    }
    undecided[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OFF: Filter = Filter { temperature: 1.0, min_p: 0.0, top_k: 0, top_p: 1.0 };

    fn kept(filter: Filter, logits: &[f32]) -> Vec<u32> {
        let mut candidates = Candidates::default();
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        filter.keep(logits, max, &mut candidates);
        candidates.all.iter().map(|candidate| candidate.id).collect()
    }

    /// By definition: sort everything, then drop.
    fn kept_naive(filter: Filter, logits: &[f32]) -> Vec<u32> {
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let scaled = |id: usize| (logits[id] - max) / filter.temperature;
        let mut ids: Vec<usize> = (0..logits.len()).collect();
        ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        ids.retain(|&id| filter.min_p == 0.0 || scaled(id) >= filter.min_p.ln());
        if filter.top_k > 0 {
            ids.truncate(filter.top_k as usize);
        }
        if filter.top_p < 1.0 {
            let total: u64 = ids.iter().map(|&id| weight(scaled(id))).sum();
            let wanted = (f64::from(filter.top_p) * total as f64).ceil() as u64;
            let mut sum = 0;
            let len = ids.iter().take_while(|&&id| {
                let goes_on = sum < wanted;
                sum += weight(scaled(id));
                goes_on
            });
            let len = len.count().max(1);
            ids.truncate(len);
        }
        let mut ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn each_filter_alone() {
        let logits = [0.1_f32, 0.4, 0.2, 0.3].map(f32::ln);
        let check = |filter: Filter, expected: &[u32]| {
            assert_eq!(kept(filter, &logits), expected, "{filter:?}");
        };
        check(OFF, &[0, 1, 2, 3]);
        check(Filter { top_k: 2, ..OFF }, &[1, 3]);
        check(Filter { top_k: 9, ..OFF }, &[0, 1, 2, 3]);
        check(Filter { min_p: 0.4, ..OFF }, &[1, 2, 3]);
        check(Filter { min_p: 1.0, ..OFF }, &[1]);
        check(Filter { top_p: 0.65, ..OFF }, &[1, 3]);
        check(Filter { top_p: 0.75, ..OFF }, &[1, 2, 3]);
        check(Filter { top_p: 1e-9, ..OFF }, &[1]);
        // The nucleus is that of the tokens that top_k left: 0.4 of 0.7.
        check(Filter { top_k: 2, top_p: 0.55, ..OFF }, &[1]);
        // Temperature comes first: at 0.5 the probabilities go with their squares.
        check(Filter { temperature: 0.5, min_p: 0.4, ..OFF }, &[1, 3]);
    }

    #[test]
    fn equal_logits_are_kept_by_id() {
        let logits = [1.0, 3.0, 3.0, 3.0, 1.0];
        assert_eq!(kept(Filter { top_k: 2, ..OFF }, &logits), [1, 2]);
        assert_eq!(kept(Filter { top_p: 0.3, ..OFF }, &logits), [1]);
        assert_eq!(kept(Filter { top_p: 0.5, ..OFF }, &[0.0, 0.0]), [0]);
    }

    #[test]
    fn impossible_tokens_are_never_drawn() {
        let mut logits = vec![f32::NEG_INFINITY; 70];
        logits[69] = -2.0;
        assert_eq!(kept(OFF, &logits), [69]);
        for random in [0, 1, u64::MAX] {
            assert_eq!(OFF.draw(&logits, -2.0, random, &mut Candidates::default()), 69);
        }
    }

    #[test]
    fn the_draw_covers_the_range() {
        let draw = |random| OFF.draw(&[0.0, 0.0], 0.0, random, &mut Candidates::default());
        assert_eq!(draw(0), 0);
        assert_eq!(draw((1 << 63) - 1), 0);
        assert_eq!(draw(1 << 63), 1);
        assert_eq!(draw(u64::MAX), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

        #[test]
        fn filters_equal_naive_ones(
            logits in prop::collection::vec((-40..40i32).prop_map(|x| x as f32 * 0.1), 1..200),
            temperature in 0.5..2.0f32,
            min_p in prop_oneof![Just(0.0f32), 0.01..1.0f32],
            top_k in 0..50u32,
            top_p in prop_oneof![Just(1.0f32), 0.01..1.0f32],
        ) {
            // Off the edge, where logit >= max + T ln p and (logit - max) / T >= ln p may differ.
            let max = logits.iter().copied().fold(f32::MIN, f32::max);
            let near = |x: f32| ((x - max) / temperature - min_p.ln()).abs() < 1e-4;
            prop_assume!(min_p == 0.0 || !logits.iter().any(|&x| near(x)));
            let filter = Filter { temperature, min_p, top_k, top_p };
            prop_assert_eq!(kept(filter, &logits), kept_naive(filter, &logits));
        }
    }
}
