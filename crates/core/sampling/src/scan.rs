//! One pass over a row of logits.

/// Values per run of the scan: enough for vectors, few enough to look through again.
const RUN: usize = 512;

/// What cannot be sampled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadRow {
    /// A NaN or a positive infinity.
    NotFinite,
    /// No token is possible.
    Empty,
}

/// The lowest index of the largest value, and the value.
pub(crate) fn argmax(row: &[f32]) -> Result<(usize, f32), BadRow> {
    let mut best = f32::NEG_INFINITY;
    let mut best_run = 0;
    let mut any_nan = false;
    for (index, run) in row.chunks(RUN).enumerate() {
        let (max, nan) = run_max(run);
        any_nan |= nan;
        if max > best {
            (best, best_run) = (max, index);
        }
    }
    if any_nan || best == f32::INFINITY {
        return Err(BadRow::NotFinite);
    }
    if best == f32::NEG_INFINITY {
        return Err(BadRow::Empty);
    }
    let begin = best_run * RUN;
    let offset = row[begin..].iter().position(|&x| x == best);
    Ok((begin + offset.expect("the run's maximum is in the run"), best))
}

/// The largest value, and whether a NaN is among the values.
fn run_max(run: &[f32]) -> (f32, bool) {
    const LANES: usize = 16;
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut nan = [0_u32; LANES];
    let (chunks, rest) = run.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let x = chunk[lane];
            max[lane] = if x > max[lane] { x } else { max[lane] };
            nan[lane] |= u32::from(x.is_nan());
        }
    }
    for (lane, &x) in rest.iter().enumerate() {
        max[lane] = if x > max[lane] { x } else { max[lane] };
        nan[lane] |= u32::from(x.is_nan());
    }
    let best = max.iter().fold(f32::NEG_INFINITY, |best, &x| if x > best { x } else { best });
    (best, nan.iter().any(|&n| n != 0))
}

/// Calls `found` with the index and value of everything that is at least `threshold()`, in order.
/// The threshold may rise on the way.
pub(crate) fn for_each_at_least<T>(
    row: &[f32],
    state: &mut T,
    threshold: impl Fn(&T) -> f32,
    mut found: impl FnMut(&mut T, usize, f32),
) {
    const LANES: usize = 32;
    for (index, chunk) in row.chunks(LANES).enumerate() {
        let at_least = threshold(state);
        // Most chunks have nothing: the test of a whole chunk is a few vector instructions.
        if chunk.iter().fold(0_u32, |any, &x| any | u32::from(x >= at_least)) == 0 {
            continue;
        }
        for (offset, &x) in chunk.iter().enumerate() {
            if x >= threshold(state) {
                found(state, index * LANES + offset, x);
            }
        }
    }
}

/// The `k` largest values, best first, equal ones by index.
pub(crate) fn top_k(logits: &[f32], k: usize) -> Vec<(u32, f32)> {
    let k = k.min(logits.len());
    if k > 64 {
        return top_many(logits, k);
    }
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(k + 1);
    if k == 0 {
        return best;
    }
    let threshold = |best: &Vec<(u32, f32)>| match best.last() {
        Some(&(_, last)) if best.len() == k => last.next_up(),
        _ => f32::NEG_INFINITY,
    };
    for_each_at_least(logits, &mut best, threshold, |best, index, x| {
        let place = best.partition_point(|&(_, other)| other >= x);
        best.insert(place, (index as u32, x));
        best.truncate(k);
    });
    best
}

/// [`top_k`] for a large `k`.
fn top_many(logits: &[f32], k: usize) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = logits.iter().enumerate().map(|(i, &x)| (i as u32, x)).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if k < all.len() {
        all.select_nth_unstable_by(k, order);
        all.truncate(k);
    }
    all.sort_unstable_by(order);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ties_go_to_the_lowest_index() {
        let check = |len: usize, tops: &[usize], expected: usize| {
            let mut row = vec![-1.0; len];
            tops.iter().for_each(|&top| row[top] = 3.5);
            assert_eq!(argmax(&row), Ok((expected, 3.5)), "{len} {tops:?}");
        };
        check(1, &[0], 0);
        check(40, &[39, 17, 33], 17);
        check(1500, &[1499, 1030], 1030);
        check(1500, &[600, 500], 500);
    }

    #[test]
    fn unusable_rows_are_told_apart() {
        let with = |index: usize, value: f32| {
            let mut row = vec![0.0; 1000];
            row[index] = value;
            argmax(&row)
        };
        for index in [0, 511, 512, 999] {
            assert_eq!(with(index, f32::NAN), Err(BadRow::NotFinite));
            assert_eq!(with(index, f32::INFINITY), Err(BadRow::NotFinite));
            assert!(with(index, f32::NEG_INFINITY).is_ok());
        }
        assert_eq!(argmax(&[f32::NEG_INFINITY; 9]), Err(BadRow::Empty));
        assert_eq!(argmax(&[]), Err(BadRow::Empty));
    }

    proptest! {
        #[test]
        fn scans_equal_naive_ones(row in prop::collection::vec(-4..4i32, 1..200)) {
            let row: Vec<f32> = row.iter().map(|&x| x as f32).collect();
            let max = row.iter().copied().fold(f32::MIN, f32::max);
            let first = row.iter().position(|&x| x == max).unwrap();
            prop_assert_eq!(argmax(&row), Ok((first, max)));
            let mut found = Vec::new();
            for_each_at_least(&row, &mut found, |_| 1.0, |found, i, x| found.push((i, x)));
            let expected: Vec<_> =
                row.iter().copied().enumerate().filter(|(_, x)| *x >= 1.0).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
