//! Time since the Unix epoch that never goes back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// The wall clock at the start, and a monotonic clock from there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
    unix_at_start: Duration,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let unix_at_start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), unix_at_start }
    }

    pub(crate) fn now(&self) -> Duration {
        self.unix_at_start + self.start.elapsed()
    }

    /// Sleeps until that time; for ever when there is none.
    pub(crate) async fn sleep_until(&self, at: Option<Duration>) {
        let at = at.and_then(|at| self.start.checked_add(at.saturating_sub(self.unix_at_start)));
        match at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}
