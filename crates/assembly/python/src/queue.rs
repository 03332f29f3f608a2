//! Work for the loop.

use pyo3::prelude::*;
use pyo3::types::PyAny;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsRawFd, OwnedFd};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// One piece of work: it gets the object that carries out what arrives.
type Work = Box<dyn FnOnce(Python<'_>, &Bound<'_, PyAny>) -> PyResult<()> + Send>;

/// Work for the loop, in the order in which it came.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    /// Told of the first work after [`Queue::rest`].
    work_came: Notify,
    /// Readable while something waits.
    wake: OwnedFd,
}

#[derive(Default)]
struct Waiting {
    works: VecDeque<Work>,
    num_pushed: u64,
    is_resting: bool,
}

impl Queue {
    fn new() -> std::io::Result<Arc<Self>> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { waiting: Mutex::default(), work_came: Notify::new(), wake }))
    }

    /// Adds work, from any thread.
    pub(crate) fn push(
        &self,
        work: impl FnOnce(Python<'_>, &Bound<'_, PyAny>) -> PyResult<()> + Send + 'static,
    ) {
        let mut waiting = self.lock();
        let is_first = waiting.works.is_empty();
        waiting.works.push_back(Box::new(work));
        waiting.num_pushed += 1;
        let was_resting = std::mem::take(&mut waiting.is_resting);
        drop(waiting);
        if was_resting {
            self.work_came.notify_one();
        }
        if is_first {
            // It fails only when the counter is full, and then it is readable anyway.
            let _written = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }

    fn take(&self) -> VecDeque<Work> {
        let mut count = [0; 8];
        // Nothing to read: somebody else has drained it.
        let _read = rustix::io::read(&self.wake, &mut count);
        std::mem::take(&mut self.lock().works)
    }

    /// How much has come so far.
    pub(crate) fn num_pushed(&self) -> u64 {
        self.lock().num_pushed
    }

    /// Waits until more has come than so much.
    pub(crate) async fn rest(&self, num_pushed: u64) {
        while self.has_none_after(num_pushed) {
            self.work_came.notified().await;
        }
    }

    fn has_none_after(&self, num_pushed: u64) -> bool {
        let mut waiting = self.lock();
        waiting.is_resting = waiting.num_pushed <= num_pushed;
        waiting.is_resting
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brings what Rust's threads have to a loop: `loop.add_reader(bridge.fileno(), bridge.drain)`.
#[pyclass(frozen, module = "tyndall._tyndall")]
pub(crate) struct Bridge {
    pub(crate) queue: Arc<Queue>,
    handler: Py<PyAny>,
}

#[pymethods]
impl Bridge {
    /// `handler` has the methods `start`, `http`, `websocket`, `call`, `cancel`, `reconfigure`,
    /// `check_health` and `stop`.
    #[new]
    fn new(handler: Py<PyAny>) -> PyResult<Self> {
        Ok(Self { queue: Queue::new()?, handler })
    }

    /// Readable while something waits.
    fn fileno(&self) -> i32 {
        self.queue.wake.as_raw_fd()
    }

    /// Does all that waits. What raises is reported as Python reports what nobody can catch.
    fn drain(&self, py: Python<'_>) {
        let handler = self.handler.bind(py);
        for work in self.queue.take() {
            if let Err(error) = work(py, handler) {
                error.write_unraisable(py, Some(handler));
            }
        }
    }
}
