//! Temperature, `min_p`, `top_k`, `top_p` and the draw.
//!
//! A token's weight is `exp((logit - max) / temperature)` in fixed point. Sums of weights are
//! integers, so they are the same in every order, and a token below 2^-31 of the most likely one
//! weighs nothing.
//!
//! Which tokens are kept, and that the draw goes through them in the order of their ids, does not
//! depend on the way to find them:
//!
//! * no filter, or a tiny `min_p`: sums of weights per run of the vocabulary, then one run is
//!   looked at token by token;
//! * a small `top_k`: one scan that keeps the best;
//! * else: the tokens that can matter are collected and selected from in linear time.

use crate::math::exp_nonpositive;
use crate::scan::{for_each_at_least, top_k};
use std::cmp::Ordering;

/// Weight of the most likely token. Sums over 2^34 tokens still fit in 64 bits.
const ONE: f32 = (1_u32 << 30) as f32;
/// A token this far below the best one, after temperature, weighs nothing.
const NEGLIGIBLE: f32 = -22.0;
/// Tokens per sum of the plain draw.
const RUN: usize = 512;
/// The largest `top_k` for which keeping a sorted list of the best is quick.
const SMALL_TOP_K: usize = 64;
/// A `min_p` that usually leaves few tokens.
const FEW_MIN_P: f32 = 1e-3;

/// A token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    id: u32,
    /// Logit above the largest one, divided by the temperature: at most 0.
    scaled: f32,
    weight: u32,
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
    /// Sums of weights per run.
    sums: Vec<u64>,
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
        if self.top_k == 0 && self.top_p >= 1.0 && self.min_p < FEW_MIN_P {
            return self.draw_plain(logits, max, random, &mut candidates.sums);
        }
        self.keep(logits, max, candidates);
        let weights = candidates.all.iter().map(|candidate| u64::from(candidate.weight));
        let mut rest = share(random, weights.clone().sum());
        let index = find(weights, &mut rest);
        candidates.all[index.expect("the rest is below the sum of the weights")].id
    }

    /// The draw with `min_p` only: no candidates are collected.
    fn draw_plain(&self, logits: &[f32], max: f32, random: u64, sums: &mut Vec<u64>) -> u32 {
        let weigher = self.weigher(max);
        sums.clear();
        sums.extend(logits.chunks(RUN).map(|run| weigher.sum(run)));
        let mut rest = share(random, sums.iter().sum());
        let run = find(sums.iter().copied(), &mut rest);
        let begin = run.expect("the rest is below the sum of the weights") * RUN;
        let weights = logits[begin..].iter().map(|&logit| weigher.weight(logit));
        let offset = find(weights, &mut rest);
        (begin + offset.expect("the rest is below the run's sum")) as u32
    }

    /// The lowest logit that `min_p` and the fixed point leave.
    fn threshold(&self, max: f32) -> f32 {
        let lowest = if self.min_p > 0.0 { self.min_p.ln().max(NEGLIGIBLE) } else { NEGLIGIBLE };
        max + lowest * self.temperature
    }

    /// Leaves what may be drawn in `candidates.all`, in the order of ids.
    fn keep(&self, logits: &[f32], max: f32, candidates: &mut Candidates) {
        let Candidates { all, work, .. } = candidates;
        let wanted = if self.top_k > 0 {
            self.keep_top_k(logits, max, all, work);
            self.nucleus(sum(all))
        } else if self.min_p >= FEW_MIN_P {
            self.collect(logits, max, self.threshold(max), all);
            self.nucleus(sum(all))
        } else {
            self.collect_for_top_p(logits, max, all)
        };
        if self.top_p < 1.0 {
            work.clone_from(all);
            let last = last_of_nucleus(work, wanted);
            all.retain(|candidate| order(candidate, &last) != Ordering::Greater);
        }
    }

    fn keep_top_k(
        &self,
        logits: &[f32],
        max: f32,
        all: &mut Vec<Candidate>,
        work: &mut Vec<Candidate>,
    ) {
        let wanted = self.top_k as usize;
        let threshold = self.threshold(max);
        if wanted <= SMALL_TOP_K {
            all.clear();
            let best = top_k(logits, wanted).into_iter();
            let best = best.filter(|&(_, logit)| logit >= threshold);
            all.extend(best.map(|(id, logit)| self.candidate(id, logit, max)));
            all.sort_unstable_by_key(|candidate| candidate.id);
            return;
        }
        self.collect(logits, max, threshold, all);
        if wanted < all.len() {
            work.clone_from(all);
            let (_, last, _) = work.select_nth_unstable_by(wanted - 1, order);
            let last = *last;
            all.retain(|candidate| order(candidate, &last) != Ordering::Greater);
        }
    }

    /// Collects all tokens from the best down, but not far below the nucleus; returns its least
    /// sum of weights.
    fn collect_for_top_p(&self, logits: &[f32], max: f32, all: &mut Vec<Candidate>) -> u64 {
        let wanted = self.nucleus(self.total(logits, max));
        let lowest = self.threshold(max);
        for depth in [-3.0, -6.0, -12.0] {
            let threshold = max + depth * self.temperature;
            if threshold <= lowest {
                break;
            }
            self.collect(logits, max, threshold, all);
            if sum(all) >= wanted {
                return wanted;
            }
        }
        self.collect(logits, max, lowest, all);
        wanted
    }

    fn collect(&self, logits: &[f32], max: f32, threshold: f32, all: &mut Vec<Candidate>) {
        all.clear();
        for_each_at_least(
            logits,
            all,
            |_| threshold,
            |all, index, logit| all.push(self.candidate(index as u32, logit, max)),
        );
    }

    fn candidate(&self, id: u32, logit: f32, max: f32) -> Candidate {
        let scaled = (logit - max) * (1.0 / self.temperature);
        Candidate { id, scaled, weight: weight(scaled) }
    }

    /// The weights of all tokens that `min_p` leaves.
    fn total(&self, logits: &[f32], max: f32) -> u64 {
        let weigher = self.weigher(max);
        logits.chunks(RUN).map(|run| weigher.sum(run)).sum()
    }

    fn weigher(&self, max: f32) -> Weigher {
        let threshold = self.threshold(max);
        Weigher { max, inverse_temperature: 1.0 / self.temperature, threshold }
    }

    /// The least sum of weights of a nucleus.
    fn nucleus(&self, total: u64) -> u64 {
        (f64::from(self.top_p) * total as f64).ceil() as u64
    }
}

/// A multiple of `1 / ONE`, at most 1.
#[inline]
fn weight_f32(scaled: f32) -> f32 {
    /// Adding it to less than itself rounds to a multiple of 2^-30; floats above are multiples.
    const ROUND: f32 = 1.0 / 128.0;
    let weight = exp_nonpositive(scaled);
    if weight < ROUND { (weight + ROUND) - ROUND } else { weight }
}

fn weight(scaled: f32) -> u32 {
    (weight_f32(scaled) * ONE) as u32
}

/// Logits to weights, many at a time.
struct Weigher {
    max: f32,
    inverse_temperature: f32,
    threshold: f32,
}

impl Weigher {
    #[inline]
    fn weight_f32(&self, logit: f32) -> f32 {
        let weight = weight_f32((logit - self.max) * self.inverse_temperature);
        if logit >= self.threshold { weight } else { 0.0 }
    }

    fn weight(&self, logit: f32) -> u64 {
        (self.weight_f32(logit) * ONE) as u64
    }

    /// The weights of a run, in a form that compilers vectorise. Doubles hold multiples of 2^-30
    /// up to 2^23 exactly, so this is integer arithmetic in all but name.
    fn sum(&self, run: &[f32]) -> u64 {
        const LANES: usize = 8;
        let mut lanes = [0.0_f64; LANES];
        let (chunks, rest) = run.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, &logit) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(self.weight_f32(logit));
            }
        }
        for (lane, &logit) in lanes.iter_mut().zip(rest) {
            *lane += f64::from(self.weight_f32(logit));
        }
        (lanes.iter().sum::<f64>() * f64::from(ONE)) as u64
    }
}

fn sum(part: &[Candidate]) -> u64 {
    part.iter().map(|candidate| u64::from(candidate.weight)).sum()
}

/// Uniform in `0..total`, to within `total / 2^64`.
fn share(random: u64, total: u64) -> u64 {
    ((u128::from(random) * u128::from(total)) >> 64) as u64
}

/// The index of the weight that covers `rest`, which is lowered by the weights before it.
fn find(mut weights: impl Iterator<Item = u64>, rest: &mut u64) -> Option<usize> {
    weights.position(|weight| {
        let found = *rest < weight;
        *rest -= if found { 0 } else { weight };
        found
    })
}

/// The least likely token of the smallest set of best tokens whose weights sum to at least
/// `wanted`. Halves the undecided part each time, so it takes linear time.
fn last_of_nucleus(mut undecided: &mut [Candidate], mut wanted: u64) -> Candidate {
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
        let scaled = |id: usize| (logits[id] - max) * (1.0 / filter.temperature);
        let mut ids: Vec<usize> = (0..logits.len()).collect();
        ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        ids.retain(|&id| filter.min_p == 0.0 || scaled(id) >= filter.min_p.ln());
        if filter.top_k > 0 {
            ids.truncate(filter.top_k as usize);
        }
        if filter.top_p < 1.0 {
            let total: u64 = ids.iter().map(|&id| u64::from(weight(scaled(id)))).sum();
            let wanted = (f64::from(filter.top_p) * total as f64).ceil() as u64;
            let mut sum = 0;
            let len = ids.iter().take_while(|&&id| {
                let goes_on = sum < wanted;
                sum += u64::from(weight(scaled(id)));
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
        check(Filter { top_k: 99, ..OFF }, &[0, 1, 2, 3]);
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
    fn sums_of_runs_are_sums_of_weights() {
        let filter = Filter { temperature: 1.3, min_p: 1e-6, ..OFF };
        let row: Vec<f32> = (0..RUN).map(|i| ((i * 31) % 499) as f32 * -0.06).collect();
        for len in [1, 7, 8, 9, 100, RUN] {
            let weigher = filter.weigher(0.0);
            let expected: u64 = row[..len].iter().map(|&logit| weigher.weight(logit)).sum();
            assert_eq!(weigher.sum(&row[..len]), expected);
        }
        assert_eq!(weight(0.0), 1 << 30);
        assert_eq!(weight(-20.5), 1);
        assert_eq!(weight(-22.0), 0);
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
            logits in prop::collection::vec((-80..40i32).prop_map(|x| x as f32 * 0.1), 1..1200),
            temperature in 0.5..2.0f32,
            min_p in prop_oneof![Just(0.0f32), 1e-6..1e-3f32, 0.01..1.0f32],
            top_k in 0..150u32,
            random in any::<u64>(),
            top_p in prop_oneof![Just(1.0f32), 0.01..1.0f32],
        ) {
            // Off the edge, where logit >= max + T ln p and (logit - max) / T >= ln p may differ.
            let max = logits.iter().copied().fold(f32::MIN, f32::max);
            let near = |x: f32| ((x - max) / temperature - min_p.ln()).abs() < 1e-4;
            prop_assume!(min_p == 0.0 || !logits.iter().any(|&x| near(x)));
            let filter = Filter { temperature, min_p, top_k, top_p };
            // Tokens that weigh nothing cannot be drawn, kept or not.
            let weighs = |id: &u32| {
                weight((logits[*id as usize] - max) * (1.0 / temperature)) > 0
            };
            let naive = kept_naive(filter, &logits).into_iter().filter(weighs).collect::<Vec<_>>();
            let kept = kept(filter, &logits).into_iter().filter(weighs).collect::<Vec<_>>();
            prop_assert_eq!(&kept, &naive);
            let weights = naive.iter().map(|&id| {
                u64::from(weight((logits[id as usize] - max) * (1.0 / temperature)))
            });
            let mut rest = share(random, weights.clone().sum());
            let expected = naive[find(weights, &mut rest).unwrap()];
            prop_assert_eq!(filter.draw(&logits, max, random, &mut Candidates::default()), expected);
        }
    }
}
