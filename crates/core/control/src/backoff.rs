//! How long a deployment waits after replicas that failed.

use crate::Instant;
use std::time::Duration;

/// Crashes, or killed starts, in a row before waiting requests are failed instead of kept.
const CRASH_LIMIT: u32 = 5;
/// A replica that ran so long did not die of its start, and one that was killed after so long may
/// be killed each time, as where memory no longer holds what it loads.
const STABLE: Duration = Duration::from_secs(30);
const START_FIRST: Duration = Duration::from_secs(1);
const CRASH_FIRST: Duration = Duration::from_millis(250);
const CAP: Duration = Duration::from_secs(60);

/// Counts failures of one deployment and says when the next replica may be started.
///
/// Failed starts wait 1 s, 2 s, 4 s and so on up to 60 s; after a first one that was killed by a
/// signal the next is tried at once, because the signal may have come from outside. A replica that
/// dies while it runs is replaced at once, and the second one too; from the third in a row the
/// replacement waits 250 ms, doubled each time up to 60 s. One that answered a request starts the
/// row anew: its death costs the requests it had a retry, not the others their answer. Starts that
/// are killed soon wait as deaths do once there was a replica that started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backoff {
    /// Failed starts since the last replica that became ready.
    pub failed_starts: u32,
    /// Starts that were killed by a signal since then, and count less.
    pub killed_starts: u32,
    /// Replicas that died in a row soon after they were ready.
    pub crashes: u32,
    /// No start before this.
    pub retry_at: Option<Instant>,
    /// Why the last one failed.
    pub reason: String,
    /// A replica became ready once, of this code or of other.
    has_started: bool,
}

impl Backoff {
    /// A start failed, perhaps because the process was killed, after that long: the wait until the
    /// next one.
    pub(crate) fn start_failed(
        &mut self,
        reason: &str,
        killed_after: Option<Duration>,
        now: Instant,
    ) -> Duration {
        let wait = if self.has_started && killed_after.is_some_and(|ran| ran < STABLE) {
            self.killed_starts = self.killed_starts.saturating_add(1);
            after_crashes(self.killed_starts)
        } else {
            self.failed_starts = self.failed_starts.saturating_add(1);
            match self.failed_starts {
                1 if killed_after.is_some() => Duration::ZERO,
                times => doubled(START_FIRST, times - 1),
            }
        };
        self.wait(wait, reason, now)
    }

    /// Starts since the last replica that became ready, none of which came so far.
    pub(crate) fn starts_in_vain(&self) -> u32 {
        self.failed_starts.saturating_add(self.killed_starts)
    }

    /// A replica died after it had run for `ran`: the wait until its replacement.
    pub(crate) fn crashed(&mut self, reason: &str, ran: Duration, now: Instant) -> Duration {
        self.crashes = if ran >= STABLE { 1 } else { self.crashes.saturating_add(1) };
        self.wait(after_crashes(self.crashes), reason, now)
    }

    /// A replica answered a request.
    pub(crate) fn served(&mut self) {
        self.crashes = 0;
    }

    /// A replica became ready.
    pub(crate) fn became_ready(&mut self) {
        (self.failed_starts, self.killed_starts) = (0, 0);
        self.retry_at = None;
        self.has_started = true;
    }

    /// What failed before counts no longer.
    pub(crate) fn forgive(&mut self) {
        *self = Self { has_started: self.has_started, ..Self::default() };
    }

    /// True when requests that wait for a replica should be told the reason instead.
    pub(crate) fn is_hopeless(&self, now: Instant) -> bool {
        let many = self.failed_starts > 0 || self.crashes.max(self.killed_starts) > CRASH_LIMIT;
        many && self.retry_at.is_some_and(|at| at > now)
    }

    /// True when the time for another start has come.
    pub(crate) fn allows_start(&self, now: Instant) -> bool {
        self.retry_at.is_none_or(|at| at <= now)
    }

    fn wait(&mut self, wait: Duration, reason: &str, now: Instant) -> Duration {
        reason.clone_into(&mut self.reason);
        self.retry_at = Some(now.saturating_add(wait)).filter(|_| !wait.is_zero());
        wait
    }
}

fn after_crashes(times: u32) -> Duration {
    match times {
        0..=2 => Duration::ZERO,
        more => doubled(CRASH_FIRST, more - 3),
    }
}

fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(CAP)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn waits_double_up_to_the_cap_and_success_resets() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> =
            (0..9).map(|_| backoff.start_failed("x", None, s(0)).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(backoff.is_hopeless(s(59)) && !backoff.is_hopeless(s(60)));
        assert!(!backoff.allows_start(s(59)) && backoff.allows_start(s(60)));
        backoff.became_ready();
        assert!(backoff.allows_start(s(0)));
        let mut unproven = Backoff::default();
        assert_eq!(unproven.start_failed("x", Some(s(1)), s(0)), s(0));
        assert!(!unproven.is_hopeless(s(0)) && unproven.allows_start(s(0)));
        assert_eq!(unproven.start_failed("x", Some(s(1)), s(0)), s(2));
        assert!(unproven.is_hopeless(s(0)));
    }

    #[test]
    fn a_killed_start_waits_as_a_death_does_where_others_have_started() {
        let mut backoff = Backoff::default();
        backoff.became_ready();
        backoff.forgive();
        let mut killed =
            |ran| (backoff.start_failed("x", Some(ran), s(0)), backoff.is_hopeless(s(0)));
        for ms in [0, 0, 250, 500, 1000] {
            assert_eq!(killed(s(29)), (Duration::from_millis(ms), false));
        }
        assert_eq!(killed(s(29)), (s(2), true));
        backoff.became_ready();
        // It has loaded for long: the next may be killed as well.
        backoff.start_failed("x", Some(s(30)), s(0));
        assert_eq!(backoff.start_failed("x", Some(s(30)), s(0)), s(2));
        assert!(backoff.is_hopeless(s(0)));
        assert_eq!(backoff.starts_in_vain(), 2);
    }

    #[test]
    fn the_first_crashes_cost_no_wait() {
        let mut backoff = Backoff::default();
        let mut crash = |ran| backoff.crashed("x", ran, s(0)).as_millis();
        assert_eq!([crash(s(1)), crash(s(1)), crash(s(1)), crash(s(1))], [0, 0, 250, 500]);
        assert_eq!(crash(s(31)), 0);
        assert_eq!(backoff.crashes, 1);
        backoff.crashed("x", s(1), s(0));
        backoff.served();
        assert_eq!(backoff.crashed("x", s(1), s(0)), s(0));
    }
}
