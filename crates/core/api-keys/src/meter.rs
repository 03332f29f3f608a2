//! What is left of a key's limits.

use crate::{Bucket, Limits};
use std::time::Duration;

/// Counts one key's requests and tokens against its [`Limits`].
///
/// A request pays for itself when it comes. Its tokens are known only afterwards and are paid then:
/// the bucket of tokens may go below zero, and later requests wait until it is above again.
#[derive(Debug, Clone)]
pub struct Meter {
    limits: Limits,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    ongoing: u32,
}

/// Why a request is not taken now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// So many were taken in the last minute.
    Requests {
        /// Of a minute.
        limit: u64,
        /// When the next one is taken.
        retry_after: Duration,
    },
    /// So many tokens were used in the last minute.
    Tokens {
        /// Of a minute.
        limit: u64,
        /// When the next one is taken.
        retry_after: Duration,
    },
    /// So many have no whole answer yet.
    Concurrent {
        /// At a time.
        limit: u32,
    },
}

/// What clients are told of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Of a minute.
    pub limit: u64,
    /// Of it, what may be used now.
    pub remaining: u64,
    /// When all of it may be used again.
    pub reset: Duration,
}

/// What clients are told of a key's limits; those that are not there are absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Windows {
    /// Requests of a minute.
    pub requests: Option<Window>,
    /// Tokens of a minute.
    pub tokens: Option<Window>,
}

impl Meter {
    /// Nothing was used yet.
    #[must_use]
    pub fn new(limits: Limits, now: Duration) -> Self {
        let bucket = |limit: Option<u64>| limit.map(|limit| Bucket::new(limit, now));
        Self {
            requests: bucket(limits.requests_per_minute),
            tokens: bucket(limits.tokens_per_minute),
            limits,
            ongoing: 0,
        }
    }

    /// Other limits from now on. What was used stays used.
    pub fn set_limits(&mut self, limits: Limits, now: Duration) {
        set(&mut self.requests, limits.requests_per_minute, now);
        set(&mut self.tokens, limits.tokens_per_minute, now);
        self.limits = limits;
    }

    /// Takes a request, which is ongoing until [`Meter::leave`].
    ///
    /// # Errors
    /// [`Refusal`]: it counts for nothing then.
    pub fn enter(&mut self, now: Duration) -> Result<(), Refusal> {
        if let Some(limit) = self.limits.max_concurrent.filter(|max| self.ongoing >= *max) {
            return Err(Refusal::Concurrent { limit });
        }
        if let Some((limit, retry_after)) = wait(self.requests.as_ref(), now) {
            return Err(Refusal::Requests { limit, retry_after });
        }
        if let Some((limit, retry_after)) = wait(self.tokens.as_ref(), now) {
            return Err(Refusal::Tokens { limit, retry_after });
        }
        if let Some(requests) = &mut self.requests {
            requests.take(1, now);
        }
        self.ongoing += 1;
        Ok(())
    }

    /// Tokens were used.
    pub fn charge(&mut self, num_tokens: u64, now: Duration) {
        if let Some(tokens) = &mut self.tokens {
            tokens.take(num_tokens, now);
        }
    }

    /// A request that was taken is over.
    pub fn leave(&mut self) {
        self.ongoing = self.ongoing.saturating_sub(1);
    }

    /// What is left.
    #[must_use]
    pub fn windows(&self, now: Duration) -> Windows {
        let window = |bucket: &Bucket| Window {
            limit: bucket.limit(),
            remaining: bucket.remaining(now),
            reset: bucket.until_full(now),
        };
        Windows {
            requests: self.requests.as_ref().map(window),
            tokens: self.tokens.as_ref().map(window),
        }
    }
}

/// The limit, and how long it makes the next request wait, when it does.
fn wait(bucket: Option<&Bucket>, now: Duration) -> Option<(u64, Duration)> {
    let bucket = bucket?;
    let wait = bucket.until(1, now);
    (!wait.is_zero()).then(|| (bucket.limit(), wait))
}

fn set(bucket: &mut Option<Bucket>, limit: Option<u64>, now: Duration) {
    match (bucket.as_mut(), limit) {
        (Some(bucket), Some(limit)) => bucket.set_limit(limit, now),
        (None, Some(limit)) => *bucket = Some(Bucket::new(limit, now)),
        (_, None) => *bucket = None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn limits(requests: Option<u64>, tokens: Option<u64>, concurrent: Option<u32>) -> Limits {
        Limits {
            requests_per_minute: requests,
            tokens_per_minute: tokens,
            max_concurrent: concurrent,
        }
    }

    #[test]
    fn each_limit_refuses_with_the_time_to_come_back() {
        let mut meter = Meter::new(limits(Some(2), Some(60), Some(3)), S);
        assert_eq!((meter.enter(S), meter.enter(S)), (Ok(()), Ok(())));
        let refused = Refusal::Requests { limit: 2, retry_after: S * 30 };
        assert_eq!(meter.enter(S), Err(refused));
        assert_eq!(meter.enter(S * 31), Ok(()));
        assert_eq!(meter.enter(S * 61), Err(Refusal::Concurrent { limit: 3 }));
        meter.leave();
        // 90 of 60: 30 too many, and one for the next request.
        meter.charge(90, S * 61);
        assert_eq!(meter.enter(S * 61), Err(Refusal::Tokens { limit: 60, retry_after: S * 31 }));
        assert_eq!(meter.enter(S * 92), Ok(()));
    }

    #[test]
    fn windows_tell_what_is_left() {
        let mut meter = Meter::new(limits(Some(60), None, None), S);
        meter.enter(S).unwrap();
        let window = Window { limit: 60, remaining: 59, reset: S };
        assert_eq!(meter.windows(S), Windows { requests: Some(window), tokens: None });
        assert_eq!(Meter::new(Limits::default(), S).windows(S), Windows::default());
    }

    #[test]
    fn other_limits_keep_what_was_used() {
        let mut meter = Meter::new(limits(Some(1), None, Some(1)), S);
        meter.enter(S).unwrap();
        meter.set_limits(limits(Some(3), Some(5), Some(2)), S);
        meter.enter(S).unwrap();
        assert_eq!(meter.windows(S).requests.unwrap().remaining, 1);
        assert_eq!(meter.enter(S), Err(Refusal::Concurrent { limit: 2 }));
        meter.set_limits(Limits::default(), S);
        meter.charge(1_000_000, S);
        (0..100).for_each(|_| meter.enter(S).unwrap());
    }
}
