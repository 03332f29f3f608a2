//! A token bucket that is exact: no rounding, whenever and however often it is looked at.

use std::time::Duration;

/// Levels are counted in parts of this size, so that the refill of any whole number per minute is
/// a whole number of them in each nanosecond.
const PARTS: i128 = 60_000_000_000;

/// Holds what may still be taken of a limit per minute.
///
/// It begins full and holds one minute's worth. So within any time `t` at most
/// `limit + limit × t / 60 s` is taken by callers that look before they take. Who pays afterwards
/// may take it below zero; it then fills up from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    limit: u64,
    /// In parts, at most a minute's worth.
    level: i128,
    /// When the level was that.
    at: Duration,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn new(limit_per_minute: u64, now: Duration) -> Self {
        Self { limit: limit_per_minute, level: parts(limit_per_minute), at: now }
    }

    /// How much a minute brings.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes so much, below zero if need be.
    pub fn take(&mut self, amount: u64, now: Duration) {
        self.refill(now);
        self.level = self.level.saturating_sub(parts(amount));
    }

    /// Whole units that are left; none is also a debt.
    #[must_use]
    pub fn remaining(&self, now: Duration) -> u64 {
        u64::try_from(self.level_at(now) / PARTS).unwrap_or(0)
    }

    /// How long until so much is there; longer than any debt lasts is [`Duration::MAX`].
    #[must_use]
    pub fn until(&self, amount: u64, now: Duration) -> Duration {
        let missing = parts(amount.min(self.limit)).saturating_sub(self.level_at(now));
        if missing <= 0 {
            return Duration::ZERO;
        }
        let limit = i128::from(self.limit);
        if limit == 0 {
            return Duration::MAX;
        }
        let ns = missing / limit + i128::from(missing % limit != 0);
        u64::try_from(ns).map_or(Duration::MAX, Duration::from_nanos)
    }

    /// How long until it is full, when nothing is taken.
    #[must_use]
    pub fn until_full(&self, now: Duration) -> Duration {
        self.until(self.limit, now)
    }

    /// Another limit from now on. What was taken stays taken.
    pub fn set_limit(&mut self, limit_per_minute: u64, now: Duration) {
        self.refill(now);
        let taken = parts(self.limit).saturating_sub(self.level);
        self.limit = limit_per_minute;
        self.level = parts(limit_per_minute).saturating_sub(taken);
    }

    fn refill(&mut self, now: Duration) {
        self.level = self.level_at(now);
        self.at = self.at.max(now);
    }

    /// Times before the last one bring nothing: several threads may have looked at the clock.
    fn level_at(&self, now: Duration) -> i128 {
        let passed_ns = i128::try_from(now.saturating_sub(self.at).as_nanos()).unwrap_or(i128::MAX);
        let brought = i128::from(self.limit).saturating_mul(passed_ns);
        self.level.saturating_add(brought).min(parts(self.limit))
    }
}

fn parts(amount: u64) -> i128 {
    i128::from(amount) * PARTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn it_fills_up_by_its_limit_in_a_minute() {
        let mut bucket = Bucket::new(60, Duration::ZERO);
        bucket.take(60, Duration::ZERO);
        assert_eq!((bucket.remaining(ms(999)), bucket.remaining(ms(1000))), (0, 1));
        assert_eq!(bucket.until(1, ms(400)), ms(600));
        assert_eq!(bucket.until_full(ms(1000)), MINUTE - ms(1000));
        // What was used after all is a debt.
        bucket.take(90, ms(1000));
        assert_eq!(
            (bucket.remaining(ms(1000)), bucket.until(1, ms(1000))),
            (0, Duration::from_secs(90))
        );
        // A thousandth of a millisecond would be too early by rounding.
        let third = Bucket { level: 0, ..Bucket::new(7, Duration::ZERO) };
        let wait = third.until(1, Duration::ZERO);
        assert_eq!(
            (third.remaining(wait - Duration::from_nanos(1)), third.remaining(wait)),
            (0, 1)
        );
    }

    #[test]
    fn a_new_limit_forgets_nothing() {
        let mut bucket = Bucket::new(10, Duration::ZERO);
        bucket.take(8, Duration::ZERO);
        bucket.set_limit(100, Duration::ZERO);
        assert_eq!(bucket.remaining(Duration::ZERO), 92);
        bucket.set_limit(5, Duration::ZERO);
        assert_eq!(bucket.until(1, Duration::ZERO), Duration::from_secs(48));
    }

    #[test]
    fn no_number_is_too_large() {
        let mut bucket = Bucket::new(u64::MAX, Duration::ZERO);
        (0..9).for_each(|_| bucket.take(u64::MAX, Duration::ZERO));
        assert_eq!(bucket.until_full(Duration::ZERO), MINUTE * 9);
        assert_eq!(bucket.remaining(Duration::MAX), u64::MAX);
        let mut none = Bucket::new(0, Duration::ZERO);
        none.take(u64::MAX, Duration::ZERO);
        assert_eq!(none.until(1, MINUTE), Duration::MAX);
    }

    proptest! {
        #[test]
        fn no_window_has_more_than_its_limit_and_one_burst(
            limit in 1u64..50,
            gaps_ms in prop::collection::vec(0u64..5_000, 1..200),
        ) {
            let mut bucket = Bucket::new(limit, Duration::ZERO);
            let (mut now, mut taken) = (Duration::ZERO, Vec::new());
            for gap in gaps_ms {
                now += ms(gap);
                if bucket.until(1, now).is_zero() {
                    bucket.take(1, now);
                    taken.push(now);
                }
            }
            for (i, begin) in taken.iter().enumerate() {
                for window in [ms(1), Duration::from_secs(1), MINUTE, MINUTE * 3] {
                    let count = taken[i..].iter().filter(|at| **at < *begin + window).count();
                    let most = u128::from(limit) * (MINUTE + window).as_nanos() / MINUTE.as_nanos();
                    prop_assert!(count as u128 <= most + 1, "{count} within {window:?}");
                }
            }
        }

        #[test]
        fn who_comes_back_when_told_is_let_in_and_not_before(
            limit in 1u64..100_000, debt in 0u64..1_000_000, later_ms in 0u64..600_000,
        ) {
            let mut bucket = Bucket::new(limit, Duration::ZERO);
            bucket.take(debt, Duration::ZERO);
            let now = ms(later_ms);
            let wait = bucket.until(1, now);
            prop_assert!(bucket.remaining(now + wait) >= 1);
            if !wait.is_zero() {
                prop_assert_eq!(bucket.remaining(now + wait - Duration::from_nanos(1)), 0);
            }
        }

        #[test]
        fn neither_order_nor_looking_changes_anything(
            limit in 1u64..1_000,
            mut amounts in prop::collection::vec(0u64..500, 0..10),
            looks_ns in prop::collection::vec(0u64..100_000_000_000, 0..10),
        ) {
            let start = Bucket::new(limit, Duration::ZERO);
            let end = Duration::from_secs(100);
            let take = |bucket: &mut Bucket, amounts: &[u64]| {
                amounts.iter().for_each(|amount| bucket.take(*amount, Duration::ZERO));
            };
            let (mut forth, mut back) = (start.clone(), start);
            take(&mut forth, &amounts);
            amounts.reverse();
            take(&mut back, &amounts);
            prop_assert_eq!(&forth, &back);
            // Nothing is taken by these, at times in any order.
            looks_ns.iter().for_each(|at| back.take(0, Duration::from_nanos(*at)));
            forth.take(0, end);
            back.take(0, end);
            prop_assert_eq!(forth, back);
        }
    }
}
