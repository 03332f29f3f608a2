//! Sends the planned requests: when there is room, or when they are due.

use super::client::{Asking, Outcome};
use super::workload::Planned;
use crate::error::BenchError;
use crate::progress::Progress;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// The next one when one ends.
    Closed {
        /// Requests at a time.
        concurrency: usize,
    },
    /// Each at its own time, whatever the others do.
    Open {
        /// Most at a time; those that are due wait, and their clocks start when they are sent.
        most: Option<usize>,
    },
}

/// Sends all requests and waits for their ends; outcomes are in the order of sending.
pub(crate) async fn run(
    what: &str,
    asking: &Asking,
    planned: Vec<Planned>,
    pace: Pace,
) -> Vec<Outcome> {
    let progress = Progress::of(what, planned.len() as u64);
    let (room, is_open) = match pace {
        Pace::Closed { concurrency } => (concurrency, false),
        Pace::Open { most } => (most.unwrap_or(Semaphore::MAX_PERMITS), true),
    };
    let room = Arc::new(Semaphore::new(room));
    let start = Instant::now();
    let mut running = JoinSet::new();
    let mut outcomes = Vec::with_capacity(planned.len());
    for request in planned {
        if is_open {
            tokio::time::sleep_until((start + request.at).into()).await;
        }
        let permit = Arc::clone(&room).acquire_owned().await.expect("nobody closes it");
        while let Some(ended) = running.try_join_next() {
            outcomes.extend(ended);
        }
        let (asking, progress) = (asking.clone(), progress.clone());
        running.spawn(async move {
            let outcome = asking.ask(&request, start).await;
            progress.advance();
            drop(permit);
            outcome
        });
    }
    while let Some(ended) = running.join_next().await {
        outcomes.extend(ended);
    }
    outcomes.sort_by(|a: &Outcome, b| a.sent_at_s.total_cmp(&b.sent_at_s));
    outcomes
}

/// The first failure as the benchmark's own.
pub(crate) fn first_failure(outcomes: &[Outcome]) -> Result<(), BenchError> {
    let failure = outcomes.iter().find_map(|outcome| outcome.result.as_ref().err());
    failure.map_or(Ok(()), |reason| {
        Err(BenchError::new(format!("the server does not answer as expected: {reason}"))
            .with_cure("check --url, --api and --model, and that the lengths fit the model"))
    })
}
