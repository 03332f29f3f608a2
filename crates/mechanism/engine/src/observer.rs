//! A place to hang metrics on.

use crate::Finished;

/// One computed step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Tokens computed.
    pub num_tokens: u32,
    /// Requests that hold KV blocks.
    pub running: u32,
    /// Requests that wait, preempted ones included.
    pub waiting: u32,
    /// Share of the KV blocks in use, 0 to 1.
    pub kv_usage: f64,
    /// Seconds that the runner took.
    pub duration_s: f64,
}

/// Called by the engine's thread as things happen. Every call delays the next step, so it counts
/// and returns.
pub trait EngineObserver: Send {
    /// A step was computed.
    fn on_step(&mut self, report: &StepReport) {
        _ = report;
    }

    /// Nothing runs or waits any more, and the counters say so; the thread sleeps next.
    fn on_idle(&mut self) {}

    /// A request's first token, so many seconds after `submit`.
    fn on_first_token(&mut self, ttft_s: f64) {
        _ = ttft_s;
    }

    /// A further token, so many seconds after the request's previous one.
    fn on_next_token(&mut self, gap_s: f64) {
        _ = gap_s;
    }

    /// A request ended, for whatever reason.
    fn on_finished(&mut self, finished: &Finished) {
        _ = finished;
    }
}

/// Observes nothing.
#[derive(Debug)]
pub(crate) struct NoObserver;

impl EngineObserver for NoObserver {}
