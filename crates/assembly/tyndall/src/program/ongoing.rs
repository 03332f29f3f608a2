//! A request that a replica works on, and what is counted of it.

use crate::error::{CANCELLED, Error};
use crate::http::Held;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;
use tyndall_telemetry::ProgramMetrics;

/// What all requests of a replica share.
#[derive(Debug)]
pub(super) struct Requests {
    max: u32,
    ongoing: AtomicU32,
    metrics: Arc<ProgramMetrics>,
}

impl Requests {
    /// None yet, and never more than `max`.
    pub(super) fn new(max: u32, metrics: Arc<ProgramMetrics>) -> Arc<Self> {
        Arc::new(Self { max, ongoing: AtomicU32::new(0), metrics })
    }

    /// Takes one more, if there is room.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Ongoing> {
        let one_more = |ongoing: u32| (ongoing < self.max).then_some(ongoing + 1);
        self.ongoing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Ongoing { requests: self.clone(), begun: Instant::now(), failed: Some(CANCELLED) })
    }

    pub(super) fn ongoing(&self) -> u32 {
        self.ongoing.load(Ordering::Relaxed)
    }

    /// The metrics page.
    pub(super) fn page(&self) -> String {
        self.metrics.render(self.ongoing())
    }
}

/// A request, from its arrival to its last byte. One that is dropped before its answer begins was
/// cancelled.
#[derive(Debug)]
pub(super) struct Ongoing {
    requests: Arc<Requests>,
    begun: Instant,
    failed: Option<&'static str>,
}

impl Ongoing {
    /// Its outcome, or that of the latest part of it.
    pub(super) fn came<T>(&mut self, outcome: &Result<T, Error>) {
        self.failed = outcome.as_ref().err().map(Error::kind);
    }
}

impl Held for Ongoing {
    fn answers(&mut self, failed: Option<&'static str>) {
        self.failed = failed;
    }

    fn broke(&mut self) {
        // The cause is in the log; the body does not tell its kind.
        self.failed = Some("UserError");
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        let Self { requests, begun, failed } = self;
        requests.ongoing.fetch_sub(1, Ordering::Relaxed);
        match failed {
            None => requests.metrics.answered(begun.elapsed()),
            Some(kind) => requests.metrics.failed(kind, begun.elapsed()),
        }
    }
}
