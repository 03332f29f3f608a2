//! Where the time of a cold start goes: consecutive phases that add up to the whole.

use std::time::{Duration, Instant};
use tyndall_types::protocol::ColdStartPhases;

/// A clock that is read at the end of each phase.
#[derive(Debug, Clone)]
pub(crate) struct PhaseClock {
    last: Instant,
    phases: Vec<(String, f64)>,
}

impl PhaseClock {
    pub(crate) fn since(start: Instant) -> Self {
        Self { last: start, phases: Vec::new() }
    }

    /// Ends a phase: all time since the one before is its.
    pub(crate) fn end(&mut self, phase: &str) {
        let now = Instant::now();
        self.phases.push((phase.to_owned(), (now - self.last).as_secs_f64()));
        self.last = now;
    }

    /// What a request that arrives now sees of the wake.
    pub(crate) fn awaited(&self) -> Awaited {
        Awaited { clock: self.clone(), arrived: Instant::now() }
    }

    pub(crate) fn phases(&self) -> ColdStartPhases {
        ColdStartPhases(self.phases.clone())
    }

    /// The phases and those to the first token.
    pub(crate) fn with_first_token(&self, handover: Duration, step: Duration) -> ColdStartPhases {
        let mut phases = self.phases.clone();
        phases.push((ColdStartPhases::HANDOVER.to_owned(), handover.as_secs_f64()));
        phases.push((ColdStartPhases::FIRST_STEP.to_owned(), step.as_secs_f64()));
        ColdStartPhases(phases)
    }
}

/// A wake as a request sees it that arrives before the first token.
#[derive(Debug, Clone)]
pub(crate) struct Awaited {
    clock: PhaseClock,
    arrived: Instant,
}

impl Awaited {
    /// Entries of `Server-Timing`: as `wake` the time since the request arrived, which nobody else
    /// knows, and as `wake.…` the phases of the wake up to the moment when it was submitted.
    pub(crate) fn entries(&self, submitted: Instant) -> String {
        let ms = |since: Instant| submitted.saturating_duration_since(since).as_secs_f64() * 1e3;
        let phases = self.clock.phases.iter().map(|(name, s)| (name.as_str(), s * 1e3));
        let phases = phases.chain([(ColdStartPhases::HANDOVER, ms(self.clock.last))]);
        let own = format!("wake;dur={:.1}", ms(self.arrived));
        phases.fold(own, |text, (name, ms)| format!("{text}, wake.{name};dur={ms:.1}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_add_up_to_the_whole() {
        let start = Instant::now();
        let mut clock = PhaseClock::since(start);
        clock.end("a");
        clock.end("b");
        let whole = (clock.last - start).as_secs_f64();
        let ColdStartPhases(phases) = clock.phases();
        let names: Vec<&str> = phases.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert!((phases.iter().map(|(_, s)| s).sum::<f64>() - whole).abs() < 1e-6);
        let ms = Duration::from_millis;
        let whole = clock.with_first_token(ms(500), ms(1500));
        assert_eq!(whole.0[..2], clock.phases().0);
        let after_ready: Vec<_> = whole.after_ready().cloned().collect();
        assert_eq!(after_ready, [("handover".to_owned(), 0.5), ("first_step".to_owned(), 1.5)]);
    }

    #[test]
    fn a_request_sees_the_wake_up_to_its_submission() {
        let ready = Instant::now();
        let ms = Duration::from_millis;
        let phases = [("process", 0.002), ("engine", 0.03)];
        let phases = phases.map(|(name, s)| (name.to_owned(), s)).to_vec();
        let clock = PhaseClock { last: ready, phases };
        let awaited = Awaited { clock, arrived: ready + ms(7) };
        assert_eq!(
            awaited.entries(ready + ms(10)),
            "wake;dur=3.0, wake.process;dur=2.0, wake.engine;dur=30.0, wake.handover;dur=10.0"
        );
    }
}
