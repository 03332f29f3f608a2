//! Tasks of a link's server, which are used again.

use super::server::{One, Shared};
use crate::server::Handler;
use bytes::Bytes;
use std::future::poll_fn;
use std::mem::{replace, take};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::task::{AbortHandle, consume_budget};

/// A task that gives one answer after the other: a new one for each would be allocated and freed,
/// and it is large. Dropped, it ends after the answer that it gives.
#[derive(Debug)]
pub(super) struct Worker {
    desk: Arc<Desk>,
    task: AbortHandle,
}

impl Worker {
    pub(super) fn start<H: Handler>(shared: &Arc<Shared>, handler: &H) -> Self {
        let desk = Arc::<Desk>::default();
        let task = tokio::spawn(work(handler.clone(), shared.clone(), desk.clone()));
        Self { desk, task: task.abort_handle() }
    }

    pub(super) fn desk(&self) -> Arc<Desk> {
        self.desk.clone()
    }

    pub(super) fn abort(&self) {
        self.task.abort();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.desk.set(Next::Closed);
    }
}

async fn work<H: Handler>(handler: H, shared: Arc<Shared>, desk: Arc<Desk>) {
    while let Some((one, payload)) = poll_fn(|cx| desk.poll(cx)).await {
        match one.answer(handler.clone(), payload).await {
            Some(worker) => shared.rest(worker),
            // The client has left, and the task is about to be ended.
            None => return,
        }
        // The next request may be there: others have their turn at times.
        consume_budget().await;
    }
}

/// Where a worker finds its next request.
#[derive(Debug, Default)]
pub(super) struct Desk(Mutex<Next>);

#[derive(Debug)]
enum Next {
    /// And who waits for it.
    Nothing(Option<Waker>),
    Request(One, Bytes),
    Closed,
}

impl Default for Next {
    fn default() -> Self {
        Self::Nothing(None)
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Next> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, one: One, payload: Bytes) {
        self.set(Next::Request(one, payload));
    }

    fn set(&self, next: Next) {
        let before = replace(&mut *self.lock(), next);
        if let Next::Nothing(Some(waker)) = before {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<(One, Bytes)>> {
        let mut next = self.lock();
        match take(&mut *next) {
            Next::Request(one, payload) => Poll::Ready(Some((one, payload))),
            Next::Closed => Poll::Ready(None),
            Next::Nothing(_) => {
                *next = Next::Nothing(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}
