//! Which failures may go to another replica.
//!
//! A request of which the client has seen nothing may go elsewhere when no replica began it. One
//! that a replica may have begun runs again only when it has no effect outside its answer, as a
//! generation has none. It may not run again forever: a request that breaks every replica it meets
//! is given back after a few.

/// A request that broke so many replicas is not tried on another.
pub const MAX_BROKEN_ATTEMPTS: u32 = 3;

/// What went wrong between proxy and replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listened: nothing was sent.
    Connect,
    /// The replica said that it did not start the request: it drains or is full.
    NotStarted,
    /// The connection broke after the request may have been sent.
    Broken,
    /// The replica answered with this status, whatever it is.
    Answered(u16),
}

/// How far a request got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Connections that broke under it so far, this one included.
    pub broken_attempts: u32,
    /// It may have an effect outside its answer, so it must not run twice.
    pub runs_once: bool,
    /// The client has seen part of an answer.
    pub client_saw_bytes: bool,
    /// Its time is over.
    pub past_deadline: bool,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Another replica may take it.
    Elsewhere,
    /// The client gets an error, or what the replica answered.
    No,
}

/// Decides whether a failed request may go to another replica.
#[must_use]
pub fn retry(failure: Failure, progress: Progress) -> Retry {
    if progress.client_saw_bytes || progress.past_deadline {
        return Retry::No;
    }
    match failure {
        Failure::Connect | Failure::NotStarted => Retry::Elsewhere,
        Failure::Broken
            if !progress.runs_once && progress.broken_attempts < MAX_BROKEN_ATTEMPTS =>
        {
            Retry::Elsewhere
        }
        Failure::Broken | Failure::Answered(_) => Retry::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        let fresh = Progress { broken_attempts: 1, ..Progress::default() };
        let worn = Progress { broken_attempts: MAX_BROKEN_ATTEMPTS, ..fresh };
        let once = Progress { runs_once: true, ..fresh };
        for (failure, progress, expected) in [
            (Failure::Connect, once, Retry::Elsewhere),
            (Failure::NotStarted, once, Retry::Elsewhere),
            (Failure::Broken, once, Retry::No),
            (Failure::Connect, fresh, Retry::Elsewhere),
            (Failure::Connect, worn, Retry::Elsewhere),
            (Failure::NotStarted, fresh, Retry::Elsewhere),
            (Failure::Broken, fresh, Retry::Elsewhere),
            (Failure::Broken, worn, Retry::No),
            (Failure::Answered(400), fresh, Retry::No),
            (Failure::Answered(503), fresh, Retry::No),
        ] {
            assert_eq!(retry(failure, progress), expected, "{failure:?}");
            for spent in [
                Progress { client_saw_bytes: true, ..progress },
                Progress { past_deadline: true, ..progress },
            ] {
                assert_eq!(retry(failure, spent), Retry::No);
            }
        }
    }
}
