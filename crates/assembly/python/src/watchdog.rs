//! Tells of code that keeps the loop from everything else.
//!
//! Asyncio runs one piece of code at a time: one that waits or computes without `await` holds up all
//! requests of the replica. Whether the loop comes back is seen from outside, on Rust's threads, by
//! an empty piece of work that it is given once per `limit` while there is something to do. A replica
//! that nobody asks anything rests, and so does its watchdog.

use crate::queue::Queue;
use pyo3::intern;
use pyo3::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Warns, once each time, when the loop has not come back for `limit`.
pub(crate) async fn watch(queue: Arc<Queue>, limit: Duration) {
    loop {
        let (state, sent) = (Arc::new(State::default()), Instant::now());
        send(&queue, state.clone());
        let before = queue.num_pushed();
        let mut is_told = false;
        loop {
            tokio::time::sleep(limit).await;
            if state.is_back.load(Ordering::Acquire) {
                break;
            }
            if !is_told {
                is_told = true;
                tell("blocked", sent.elapsed()).await;
            }
        }
        if !state.is_busy.load(Ordering::Acquire) {
            // Until there is something to do besides the probe.
            queue.rest(before).await;
        }
    }
}

/// Says what a constructor is at that takes longer than `limit`, once.
pub(crate) async fn watch_start(limit: Duration) {
    tokio::time::sleep(limit).await;
    tell("starts_slowly", limit).await;
    std::future::pending::<()>().await;
}

#[derive(Default)]
struct State {
    is_back: AtomicBool,
    is_busy: AtomicBool,
}

/// The empty piece of work. It comes back one turn of the loop after what came before it, which has
/// begun by then.
#[pyclass(frozen, module = "tyndall._tyndall")]
pub(crate) struct Probe {
    state: Arc<State>,
}

#[pymethods]
impl Probe {
    /// The loop has come back, and has something to do or has not.
    fn back(&self, is_busy: bool) {
        self.state.is_busy.store(is_busy, Ordering::Release);
        self.state.is_back.store(true, Ordering::Release);
    }
}

fn send(queue: &Queue, state: Arc<State>) {
    queue.push(move |py, handler| {
        handler.call_method1(intern!(py, "probe"), (Py::new(py, Probe { state })?,)).map(drop)
    });
}

/// Has Python say it, on a thread that may wait for Python's lock.
async fn tell(what: &'static str, time: Duration) {
    let saying = tokio::task::spawn_blocking(move || {
        Python::try_attach(|py| {
            let told = py.import("tyndall.serve._watchdog").and_then(|watchdog| {
                watchdog.getattr(what)?.call1((time.as_secs_f64(),)).map(drop)
            });
            if let Err(error) = told {
                error.write_unraisable(py, None);
            }
        });
    });
    // It ends early only with the process.
    drop(saying.await);
}
