//! How long a request that comes now would take, by what became of those before it.
//!
//! While a place is free, the time until an answer is what it lately was, and more or less by as
//! much as it grew with the number of requests at work: a line through both, by least squares with
//! weights that fade slowly, since it is a trait of what runs there. A program that only waits for
//! others has a flat line, one that computes a steep one, and an engine with a queue of its own a
//! steep one too. Where no place is free, one comes free every `t / n`, with `n` requests at work
//! that hold their places for a mean time `t` (Little's law). Batches end together, so that means
//! are over about two rounds of all that are at work.

use std::time::Duration;

/// Fewer ends say nothing.
const MIN_SAMPLES: u32 = 8;
/// Ends that the line remembers: it needs some at several loads.
const MEMORY: u32 = 1024;
/// Of the square of a number of requests: differences below are no slope.
const FLAT: f64 = 0.25;

/// What is known of one deployment's requests.
#[derive(Debug, Default)]
pub struct Pace {
    samples: u32,
    /// Mean time that a place is held, in seconds.
    held: f64,
    /// What was lately the case.
    lately: Point,
    line: Line,
}

/// Means: requests at work at a replica, and seconds until an answer.
#[derive(Debug, Clone, Copy, Default)]
struct Point {
    load: f64,
    answer: f64,
}

impl Point {
    fn move_to(&mut self, to: Self, weight: f64) {
        self.load += (to.load - self.load) * weight;
        self.answer += (to.answer - self.answer) * weight;
    }
}

#[derive(Debug, Default)]
struct Line {
    mean: Point,
    /// Of the load, and of the load and the time.
    variance: f64,
    covariance: f64,
}

impl Line {
    fn add(&mut self, point: Point, weight: f64) {
        let by_load = point.load - self.mean.load;
        let by_answer = point.answer - self.mean.answer;
        self.mean.move_to(point, weight);
        self.variance = (1.0 - weight) * (self.variance + weight * by_load * by_load);
        self.covariance = (1.0 - weight) * (self.covariance + weight * by_load * by_answer);
    }

    /// Seconds for each request more; others never make it faster.
    fn slope(&self) -> f64 {
        (self.covariance / (self.variance + FLAT)).max(0.0)
    }
}

/// For how long a request had its place at a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// All of it.
    pub whole: Duration,
    /// Until its answer began, if one did.
    pub until_answer: Option<Duration>,
    /// Requests at work when it came, it among them.
    pub at_work: u32,
}

/// What stands before a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// Requests that wait, where no place is free.
    pub waiting: Option<u32>,
    /// Requests at work.
    pub at_work: u32,
    /// Replicas that do it.
    pub replicas: u32,
}

impl Pace {
    /// A request ended, one of `at_work` at so many replicas.
    pub fn ended(&mut self, held: Held, at_work: u32, replicas: u32) {
        let share = |at_work: u32| f64::from(at_work) / f64::from(replicas.max(1));
        let load = f64::midpoint(share(held.at_work), share(at_work));
        self.samples = self.samples.saturating_add(1);
        let weight = |over: u32| 1.0 / f64::from(self.samples.min(over));
        let new = weight(MIN_SAMPLES.max(at_work.saturating_mul(2)));
        let whole = held.whole.as_secs_f64();
        self.held += (whole - self.held) * new;
        let answer = match held.until_answer {
            Some(answer) => answer.as_secs_f64(),
            // It is known only that it would have taken longer.
            None if whole > self.lately.answer => whole,
            None => return,
        };
        let point = Point { load, answer };
        self.lately.move_to(point, new);
        self.line.add(point, weight(MEMORY));
    }

    /// When the answer of a request would begin, where that is because of the others: nothing where
    /// too little is known, or where it would take most of that time also alone.
    #[must_use]
    pub fn expected(&self, ahead: Ahead) -> Option<Duration> {
        if self.samples < MIN_SAMPLES || ahead.at_work == 0 {
            return None;
        }
        let at_work = f64::from(ahead.at_work);
        let (waits, with_it) = match ahead.waiting {
            Some(waiting) => (self.held / at_work * (f64::from(waiting) + 1.0), at_work),
            None => (0.0, at_work + 1.0),
        };
        let slope = self.line.slope();
        let load = with_it / f64::from(ahead.replicas.max(1));
        let answer = (self.lately.answer + slope * (load - self.lately.load)).max(0.0);
        let of_others = waits + slope * (load - 1.0).max(0.0);
        let whole = waits + answer;
        if of_others * 2.0 < whole {
            return None;
        }
        Duration::try_from_secs_f64(whole).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(s: f64) -> Duration {
        Duration::from_secs_f64(s)
    }

    /// Ends of requests that all hold their places until their answers, which begin after so long.
    fn end(pace: &mut Pace, times: u32, at_work: u32, answer_s: f64) {
        let answer = seconds(answer_s);
        let held = Held { whole: answer, until_answer: Some(answer), at_work };
        (0..times).for_each(|_| pace.ended(held, at_work, 1));
    }

    fn expected(pace: &Pace, waiting: impl Into<Option<u32>>, at_work: u32) -> Option<f64> {
        let ahead = Ahead { waiting: waiting.into(), at_work, replicas: 1 };
        pace.expected(ahead).map(|expected| expected.as_secs_f64())
    }

    #[test]
    fn a_steady_queue_is_foretold() {
        let mut pace = Pace::default();
        let held = Held { whole: seconds(4.0), until_answer: Some(seconds(1.0)), at_work: 2 };
        for ended in 0..40_u32 {
            assert_eq!(expected(&pace, 9, 2).is_some(), ended >= 8, "after {ended}");
            pace.ended(held, 2, 1);
        }
        assert!((expected(&pace, 9, 2).unwrap() - 21.0).abs() < 1e-6, "ten places and an answer");
        let more = Ahead { waiting: Some(9), at_work: 8, replicas: 4 };
        assert!((pace.expected(more).unwrap().as_secs_f64() - 6.0).abs() < 1e-6);
        assert_eq!(expected(&pace, None, 0), None);
    }

    #[test]
    fn what_computes_takes_longer_beside_others() {
        let mut pace = Pace::default();
        for at_work in [1, 8, 4, 16, 2, 32, 8] {
            end(&mut pace, 20, at_work, 0.5 + 0.06 * f64::from(at_work));
        }
        let foretold = |pace: &Pace| expected(pace, None, 99).unwrap();
        assert!((6.0..7.0).contains(&foretold(&pace)), "0.5 + 100 * 0.06: {}", foretold(&pace));
        // A long time of one load, at which the machine is now slower, and now faster.
        for answer_s in [2.0, 3.0, 2.5, 1.8, 2.42].repeat(8) {
            end(&mut pace, 10, 32, answer_s);
        }
        assert!((5.0..8.0).contains(&foretold(&pace)), "{}", foretold(&pace));
    }

    #[test]
    fn what_only_waits_takes_as_long_in_a_crowd() {
        let mut pace = Pace::default();
        for at_work in [1, 8, 4, 16, 2, 32, 8] {
            end(&mut pace, 20, at_work, 25.0);
        }
        assert_eq!(expected(&pace, None, 99), None, "the time is not that of others");
        // In a queue it is.
        assert!((expected(&pace, 99, 50).unwrap() - 75.0).abs() < 1e-3);
    }

    #[test]
    fn a_change_of_speed_is_noticed() {
        let mut pace = Pace::default();
        end(&mut pace, 20, 8, 1.0);
        end(&mut pace, 50, 8, 4.0);
        assert!((8.0..12.1).contains(&expected(&pace, 15, 8).unwrap()), "two rounds and an answer");
        end(&mut pace, 100, 8, 0.1);
        assert!(expected(&pace, 15, 8).unwrap() < 0.5);
    }

    #[test]
    fn who_went_away_early_says_nothing_of_answers() {
        let mut pace = Pace::default();
        end(&mut pace, 20, 1, 2.0);
        let gone = |whole: f64| Held { whole: seconds(whole), until_answer: None, at_work: 1 };
        (0..20).for_each(|_| pace.ended(gone(0.0), 1, 1));
        assert!((pace.lately.answer - 2.0).abs() < 1e-6);
        (0..40).for_each(|_| pace.ended(gone(10.0), 1, 1));
        assert!(pace.lately.answer > 9.0);
    }
}
