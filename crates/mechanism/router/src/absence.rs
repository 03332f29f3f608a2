//! How long requests had no replica to go to.

use std::time::Duration;
use tokio::time::Instant;

/// How long there was no running replica.
#[derive(Debug)]
pub(crate) struct Absence {
    before: Duration,
    since: Option<Instant>,
}

impl Absence {
    /// There is none since then.
    pub(crate) fn since(now: Instant) -> Self {
        Self { before: Duration::ZERO, since: Some(now) }
    }

    pub(crate) fn set(&mut self, absent: bool, now: Instant) {
        match (absent, self.since) {
            (true, None) => self.since = Some(now),
            (false, Some(since)) => {
                self.before += now - since;
                self.since = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    pub(crate) fn total(&self, now: Instant) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| now - since)
    }
}
