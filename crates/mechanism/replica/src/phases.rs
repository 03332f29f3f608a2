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
}
