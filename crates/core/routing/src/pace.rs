//! How fast a queue moves, by what it did: when a request that comes now would have its answer.
//!
//! Two means: of the time between two ends while others wait, and of the time that a replica takes
//! until an answer begins. Batches end together, so each mean is over about two rounds of all that
//! run. Times count from any one moment.

use std::time::Duration;

/// Fewer say nothing.
const MIN_SAMPLES: u32 = 16;

/// What is known of one deployment's queue.
#[derive(Debug, Default)]
pub struct Pace {
    between_ends: Mean,
    until_answer: Mean,
    /// The last end, if somebody has waited ever since.
    last_end: Option<Duration>,
}

#[derive(Debug, Default)]
struct Mean {
    seconds: f64,
    samples: u32,
}

impl Mean {
    fn add(&mut self, sample: Duration, rounds_of: u32) {
        self.samples = self.samples.saturating_add(1);
        let over = self.samples.min(MIN_SAMPLES.saturating_add(rounds_of.saturating_mul(2)));
        self.seconds += (sample.as_secs_f64() - self.seconds) / f64::from(over);
    }
}

impl Pace {
    /// A request ended while `ongoing` were at work, it among them. `answered` is what its replica
    /// took until the answer began; `waits` says whether anybody waits now.
    pub fn ended(&mut self, now: Duration, ongoing: u32, answered: Option<Duration>, waits: bool) {
        if let Some(last) = self.last_end {
            self.between_ends.add(now.saturating_sub(last), ongoing);
        }
        if let Some(answered) = answered {
            self.until_answer.add(answered, ongoing);
        }
        self.last_end = waits.then_some(now);
    }

    /// Nobody waits, or other replicas work now: the time until the next end says nothing of this
    /// queue.
    pub fn interrupted(&mut self) {
        self.last_end = None;
    }

    /// When a request behind `ahead` others would have its answer; nothing while too little is
    /// known.
    #[must_use]
    pub fn expected(&self, ahead: u32, ongoing: u32) -> Option<Duration> {
        if self.between_ends.samples < MIN_SAMPLES.max(ongoing) {
            return None;
        }
        let waits = self.between_ends.seconds * (f64::from(ahead) + 1.0);
        Duration::try_from_secs_f64(waits + self.until_answer.seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(s: f64) -> Duration {
        Duration::from_secs_f64(s)
    }

    #[test]
    fn a_steady_queue_is_foretold() {
        let mut pace = Pace::default();
        for end in 0..40_u32 {
            assert_eq!(pace.expected(9, 2).is_some(), end > 16, "after {end}");
            pace.ended(seconds(0.5) * end, 2, Some(seconds(1.0)), true);
        }
        let expected = pace.expected(9, 2).unwrap().as_secs_f64();
        assert!((expected - 6.0).abs() < 1e-6, "ten ends and an answer: {expected}");
    }

    #[test]
    fn bursts_are_one_rate() {
        let mut pace = Pace::default();
        for round in 0..20_u32 {
            for _ in 0..8 {
                pace.ended(seconds(4.0) * round, 8, Some(seconds(4.0)), true);
            }
        }
        let expected = pace.expected(15, 8).unwrap().as_secs_f64();
        assert!((8.0..16.0).contains(&expected), "two rounds and an answer: {expected}");
    }

    #[test]
    fn a_change_of_speed_is_noticed_and_a_pause_is_not() {
        let (mut pace, mut now) = (Pace::default(), Duration::ZERO);
        let mut end = |pace: &mut Pace, after: f64, waits: bool| {
            now += seconds(after);
            pace.ended(now, 1, None, waits);
        };
        for _ in 0..20 {
            end(&mut pace, 1.0, true);
        }
        end(&mut pace, 1.0, false);
        end(&mut pace, 1000.0, true);
        pace.interrupted();
        end(&mut pace, 1000.0, true);
        assert_eq!(pace.expected(0, 1), Some(seconds(1.0)));
        for _ in 0..100 {
            end(&mut pace, 0.1, true);
        }
        assert!(pace.expected(9, 1).unwrap() < seconds(1.2));
    }
}
