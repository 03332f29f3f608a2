//! A request that a replica works on, and what is counted of it.

use crate::error::{CANCELLED, Error};
use crate::http::Held;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tyndall_telemetry::ProgramMetrics;

/// Requests that wait here for their turn, at most. They are broadcasts, of which few are meant to be.
pub(super) const MAX_WAITING: u32 = 1024;

/// What all requests of a replica share.
#[derive(Debug)]
pub(super) struct Requests {
    max: u32,
    places: Arc<Semaphore>,
    waiting: AtomicU32,
    /// Of those that have a place, the ones whose body has not come.
    reserved: AtomicU32,
    metrics: Arc<ProgramMetrics>,
    has_answered: AtomicBool,
    first_answer: Notify,
}

impl Requests {
    /// None yet, and never more than `max`.
    pub(super) fn new(max: u32, metrics: Arc<ProgramMetrics>) -> Arc<Self> {
        // A semaphore has fewer places than a u32 on a small machine, and none has so many requests.
        let max = max.min(1 << 28);
        Arc::new(Self {
            max,
            places: Arc::new(Semaphore::new(max as usize)),
            waiting: AtomicU32::new(0),
            reserved: AtomicU32::new(0),
            metrics,
            has_answered: AtomicBool::new(false),
            first_answer: Notify::new(),
        })
    }

    /// Takes one more, if there is room.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Ongoing> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        Some(self.ongoing_in(place))
    }

    /// Takes one more as soon as there is room, before others that come meanwhile; none when too many
    /// wait.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn begin_in_turn(self: &Arc<Self>) -> Option<Ongoing> {
        let _waiting = Waiting::begin(&self.waiting)?;
        let place = self.places.clone().acquire_owned().await;
        Some(self.ongoing_in(place.expect("the semaphore is never closed")))
    }

    fn ongoing_in(self: &Arc<Self>, place: OwnedSemaphorePermit) -> Ongoing {
        let begun = Some(Instant::now());
        Ongoing { requests: self.clone(), _place: place, begun, failed: Some(CANCELLED) }
    }

    pub(super) fn ongoing(&self) -> u32 {
        let free = u32::try_from(self.places.available_permits()).unwrap_or(self.max);
        self.max.saturating_sub(free)
    }

    /// Resolves when a request was answered.
    pub(super) async fn first_answer(&self) {
        self.first_answer.notified().await;
    }

    fn answered(&self) {
        let was_first = !self.has_answered.load(Ordering::Relaxed)
            && !self.has_answered.swap(true, Ordering::Relaxed);
        if was_first {
            self.first_answer.notify_one();
        }
    }

    /// The metrics page.
    pub(super) fn page(&self) -> String {
        let reserved = self.reserved.load(Ordering::Relaxed);
        self.metrics.reserved(reserved);
        self.metrics.render(self.ongoing().saturating_sub(reserved))
    }
}

/// One that waits for its turn.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicU32) -> Option<Self> {
        let one_more = |waiting: u32| (waiting < MAX_WAITING).then_some(waiting + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request, from its arrival to its last byte. One that is dropped before its answer begins was
/// cancelled.
#[derive(Debug)]
pub(super) struct Ongoing {
    requests: Arc<Requests>,
    _place: OwnedSemaphorePermit,
    /// None while its place is kept for a body that may never come.
    begun: Option<Instant>,
    failed: Option<&'static str>,
}

impl Ongoing {
    /// Only its head has come. If it ends before the rest comes, there was no request.
    pub(super) fn reserve(&mut self) {
        if self.begun.take().is_some() {
            self.requests.reserved.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All of it has come.
    pub(super) fn begin(&mut self) {
        if self.begun.is_none() {
            self.requests.reserved.fetch_sub(1, Ordering::Relaxed);
            self.begun = Some(Instant::now());
        }
    }

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
        let Self { requests, begun, failed, .. } = self;
        let Some(begun) = begun else {
            requests.reserved.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        match failed {
            None => {
                requests.answered();
                requests.metrics.answered(begun.elapsed());
            }
            Some(kind) => requests.metrics.failed(kind, begun.elapsed()),
        }
    }
}
