//! One call of the function, and its results to their callers.

use super::former::Caller;
use crate::error::{Error, Result};
use futures_util::{FutureExt, Stream, StreamExt};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

/// How long a caller of a stream may take nothing.
const MAX_STALL: Duration = Duration::from_secs(60);

impl<R: Send + 'static> Caller for oneshot::Sender<Result<R>> {
    fn is_gone(&self) -> bool {
        self.is_closed()
    }

    fn fail(self, error: Error) {
        drop(self.send(Err(error)));
    }
}

/// Runs a function that gives one result per item.
pub(super) async fn calls<T, R, Fut>(
    function: impl FnOnce(Vec<T>) -> Fut,
    items: Vec<T>,
    callers: Vec<oneshot::Sender<Result<R>>>,
) where
    R: Send + 'static,
    Fut: Future<Output = Result<Vec<R>>>,
{
    let num_items = items.len();
    let work = AssertUnwindSafe(async { function(items).await }).catch_unwind().await;
    let outcome = match work {
        Ok(Ok(results)) if results.len() != num_items => {
            Err(wrong_length(num_items, results.len()))
        }
        Ok(outcome) => outcome,
        Err(panic) => Err(Error::panicked(&*panic)),
    };
    match outcome {
        // Whoever has gone meanwhile misses it.
        Ok(results) => callers.into_iter().zip(results).for_each(|(caller, result)| {
            drop(caller.send(Ok(result)));
        }),
        Err(error) => callers.into_iter().for_each(|caller| caller.fail(error.clone())),
    }
}

fn wrong_length(num_items: usize, num_results: usize) -> Error {
    Error::user(format!(
        "Batched function doesn't preserve batch size. The input list has length {num_items} but \
         the returned list has length {num_results}."
    ))
}

/// What a caller of a stream gets; without an end the stream was given up.
pub(super) enum Step<R> {
    Next(R),
    Failed(Error),
    End,
}

impl<R: Send + 'static> Caller for mpsc::Sender<Step<R>> {
    fn is_gone(&self) -> bool {
        self.is_closed()
    }

    fn fail(self, error: Error) {
        // Where there is no room the stream ends without an end, which is an error too.
        drop(self.try_send(Step::Failed(error)));
    }
}

/// Runs a function that gives a stream with one place per item.
pub(super) async fn streams<T, R, S>(
    function: impl FnOnce(Vec<T>) -> S,
    items: Vec<T>,
    callers: Vec<mpsc::Sender<Step<R>>>,
) where
    R: Send + 'static,
    S: Stream<Item = Result<Vec<Option<R>>>>,
{
    let num_items = items.len();
    let mut callers: Vec<_> = callers.into_iter().map(Some).collect();
    let outcome = AssertUnwindSafe(feed(function, items, &mut callers)).catch_unwind().await;
    let left = callers.into_iter().flatten();
    match outcome.unwrap_or_else(|panic| Err(Error::panicked(&*panic))) {
        Ok(None) => {
            for caller in left {
                send(&caller, Step::End).await;
            }
        }
        Ok(Some(num_results)) => fail_all(left, wrong_length(num_items, num_results)).await,
        Err(error) => fail_all(left, error).await,
    }
}

async fn fail_all<R: Send>(callers: impl Iterator<Item = mpsc::Sender<Step<R>>>, error: Error) {
    for caller in callers {
        send(&caller, Step::Failed(error.clone())).await;
    }
}

/// Hands out results until the stream ends, nobody is left, or a list has a wrong length, which is
/// returned.
async fn feed<T, R, S>(
    function: impl FnOnce(Vec<T>) -> S,
    items: Vec<T>,
    callers: &mut [Option<mpsc::Sender<Step<R>>>],
) -> Result<Option<usize>>
where
    R: Send + 'static,
    S: Stream<Item = Result<Vec<Option<R>>>>,
{
    let stream = std::pin::pin!(function(items));
    let mut stream = stream;
    while callers.iter().flatten().any(|caller| !caller.is_gone()) {
        let Some(results) = stream.next().await else { break };
        let results = results?;
        if results.len() != callers.len() {
            return Ok(Some(results.len()));
        }
        for (slot, result) in callers.iter_mut().zip(results) {
            let Some(caller) = slot else { continue };
            let is_last = result.is_none();
            let is_taken = send(caller, result.map_or(Step::End, Step::Next)).await;
            if is_last || !is_taken {
                *slot = None;
            }
        }
    }
    Ok(None)
}

/// Waits for room, though not for ever; false when the caller is gone or given up.
async fn send<R: Send>(caller: &mpsc::Sender<Step<R>>, step: Step<R>) -> bool {
    match caller.try_send(step) {
        Ok(()) => true,
        Err(TrySendError::Closed(_)) => false,
        Err(TrySendError::Full(step)) => {
            matches!(tokio::time::timeout(MAX_STALL, caller.send(step)).await, Ok(Ok(())))
        }
    }
}
