//! Where the time of a cold start goes: consecutive phases that add up to the whole.

use std::time::Instant;
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

    /// The phases and one more that was measured elsewhere.
    pub(crate) fn with(&self, phase: &str, seconds: f64) -> ColdStartPhases {
        let mut phases = self.phases.clone();
        phases.push((phase.to_owned(), seconds));
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
        assert_eq!(clock.with("c", 1.5).0[2], ("c".to_owned(), 1.5));
    }
}
