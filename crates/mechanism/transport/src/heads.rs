//! Connections whose peer sends no request do not live for ever.
//!
//! The HTTP library can do this too, with a timer that is made and dropped for each request; here a
//! connection has one, which is looked at when it fires.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// What a connection waits for.
#[derive(Debug, Clone)]
pub(crate) struct Heads(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    begin: Instant,
    /// Nanoseconds from `begin` to when it began to wait for a head; [`NOT_WAITING`] if it does not.
    waiting_since: AtomicU64,
    /// The peer has not taken all of an answer.
    is_writing: AtomicBool,
}

const NOT_WAITING: u64 = u64::MAX;

impl Heads {
    /// A connection that begins to wait now.
    pub(crate) fn new() -> Self {
        let (begin, waiting_since) = (Instant::now(), AtomicU64::new(0));
        Self(Arc::new(Inner { begin, waiting_since, is_writing: AtomicBool::new(false) }))
    }

    /// A head has come. Until the value is dropped, with its answer, no other is waited for.
    pub(crate) fn came(&self) -> Answering {
        self.0.waiting_since.store(NOT_WAITING, Ordering::Relaxed);
        Answering(self.clone())
    }

    /// The peer has taken what was written.
    pub(crate) fn written(&self) {
        self.0.is_writing.store(false, Ordering::Relaxed);
    }

    /// The peer lets an answer wait, which is over for whoever gave it. How long it may is not decided
    /// here. Returns whether it did so before.
    pub(crate) fn stalls(&self) -> bool {
        self.0.is_writing.swap(true, Ordering::Relaxed)
    }

    /// Resolves when no head has come for so long.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn are_late(&self, max_wait: Duration) {
        let mut due = self.0.begin + max_wait;
        loop {
            sleep_until(due).await;
            let now = Instant::now();
            let since = self.0.waiting_since.load(Ordering::Relaxed);
            let is_busy = since == NOT_WAITING || self.0.is_writing.load(Ordering::Relaxed);
            let from = if is_busy { now } else { self.0.begin + Duration::from_nanos(since) };
            due = from + max_wait;
            if due <= now {
                return;
            }
        }
    }
}

/// A request that has no whole answer yet.
#[derive(Debug)]
pub(crate) struct Answering(Heads);

impl Drop for Answering {
    fn drop(&mut self) {
        let Inner { begin, waiting_since, .. } = &*self.0.0;
        let since = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(NOT_WAITING);
        waiting_since.store(since, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const MAX_WAIT: Duration = Duration::from_secs(30);
    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_first_head_is_late_after_its_time() {
        let heads = Heads::new();
        let begin = Instant::now();
        heads.are_late(MAX_WAIT).await;
        assert!((begin.elapsed() - MAX_WAIT) < SECOND, "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_an_answer_does_not_count() {
        let heads = Heads::new();
        let begin = Instant::now();
        let answers = async {
            for _ in 0..3 {
                tokio::time::sleep(20 * SECOND).await;
                let answering = heads.came();
                tokio::time::sleep(100 * SECOND).await;
                drop(answering);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = answers => unreachable!("it is pending"),
            () = heads.are_late(MAX_WAIT) => {}
        }
        let late = begin.elapsed().checked_sub(3 * 120 * SECOND + MAX_WAIT).unwrap();
        assert!(late < SECOND, "{late:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_never_ends_is_not_late() {
        let heads = Heads::new();
        let _answering = heads.came();
        advance(SECOND).await;
        let late = tokio::time::timeout(3600 * SECOND, heads.are_late(MAX_WAIT)).await;
        assert!(late.is_err());
    }
}
