//! How fast a queue moves: when a request that comes now would have its answer.
//!
//! By Little's law: with `n` requests at work that hold their places for a mean time `t`, one place
//! comes free every `t / n`. Means are over about two rounds of all that are at work, because
//! batches end together.

use std::time::Duration;

/// Fewer ends say nothing.
const MIN_SAMPLES: u32 = 8;

/// What is known of one deployment's requests.
#[derive(Debug, Default)]
pub struct Pace {
    /// For how long a request has its place.
    held: Mean,
    /// What a replica takes until an answer begins.
    until_answer: Mean,
}

#[derive(Debug, Default)]
struct Mean {
    seconds: f64,
    samples: u32,
}

impl Mean {
    fn add(&mut self, sample: Duration, at_work: u32) {
        self.samples = self.samples.saturating_add(1);
        let over = self.samples.min(at_work.saturating_mul(2).max(MIN_SAMPLES));
        self.seconds += (sample.as_secs_f64() - self.seconds) / f64::from(over);
    }
}

impl Pace {
    /// One of `at_work` requests ended, which had its place for so long; its answer began after
    /// `answered`.
    pub fn ended(&mut self, at_work: u32, held: Duration, answered: Option<Duration>) {
        self.held.add(held, at_work);
        // Of one that ended without an answer it is known only that it would have taken longer.
        let is_longer = held.as_secs_f64() > self.until_answer.seconds;
        if let Some(sample) = answered.or_else(|| is_longer.then_some(held)) {
            self.until_answer.add(sample, at_work);
        }
    }

    /// When a request behind `ahead` others would have its answer, with `at_work` requests at work;
    /// nothing while too little is known.
    #[must_use]
    pub fn expected(&self, ahead: u32, at_work: u32) -> Option<Duration> {
        if self.held.samples < MIN_SAMPLES || at_work == 0 {
            return None;
        }
        let waits = self.held.seconds / f64::from(at_work) * (f64::from(ahead) + 1.0);
        Duration::try_from_secs_f64(waits + self.until_answer.seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(s: f64) -> Duration {
        Duration::from_secs_f64(s)
    }

    fn expected(pace: &Pace, ahead: u32, at_work: u32) -> f64 {
        pace.expected(ahead, at_work).unwrap().as_secs_f64()
    }

    #[test]
    fn a_steady_queue_is_foretold() {
        let mut pace = Pace::default();
        for end in 0..40_u32 {
            assert_eq!(pace.expected(9, 2).is_some(), end >= 8, "after {end}");
            pace.ended(2, seconds(4.0), Some(seconds(1.0)));
        }
        assert!((expected(&pace, 9, 2) - 21.0).abs() < 1e-6, "ten places and an answer");
        assert!((expected(&pace, 9, 8) - 6.0).abs() < 1e-6, "with four times the replicas");
        assert_eq!(pace.expected(9, 0), None);
    }

    #[test]
    fn a_change_of_speed_is_noticed() {
        let mut pace = Pace::default();
        (0..20).for_each(|_| pace.ended(8, seconds(1.0), Some(seconds(1.0))));
        (0..50).for_each(|_| pace.ended(8, seconds(4.0), Some(seconds(4.0))));
        assert!((8.0..16.1).contains(&expected(&pace, 15, 8)), "two rounds of 4 s and an answer");
        (0..100).for_each(|_| pace.ended(8, seconds(0.1), Some(seconds(0.1))));
        assert!(expected(&pace, 15, 8) < 0.5);
    }

    #[test]
    fn who_went_away_early_says_nothing_of_answers() {
        let mut pace = Pace::default();
        (0..20).for_each(|_| pace.ended(1, seconds(2.0), Some(seconds(2.0))));
        (0..20).for_each(|_| pace.ended(1, seconds(0.0), None));
        assert!((expected(&pace, 0, 1) - 2.0).abs() < 0.2);
        (0..40).for_each(|_| pace.ended(1, seconds(10.0), None));
        assert!(expected(&pace, 0, 1) > 19.0);
    }
}
