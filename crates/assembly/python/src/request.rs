//! Who a request of the loop belongs to, and its end.

use crate::http::lock;
use crate::queue::Queue;
use crate::receiving::Waiters;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyAny;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tyndall::RequestContext;

/// What a request's Rust half and its Python half share.
#[derive(Default)]
pub(crate) struct Shared {
    /// The task that carries it out.
    task: Mutex<Option<Py<PyAny>>>,
    /// Who awaits the client's next message.
    pub(crate) waiters: Waiters,
    is_answered: AtomicBool,
    /// Its code has ended without a complete answer.
    is_broken_off: AtomicBool,
    is_gone: AtomicBool,
}

impl Shared {
    pub(crate) fn set_task(&self, task: Py<PyAny>) {
        if !self.is_answered.load(Ordering::Acquire) {
            *lock(&self.task) = Some(task);
        }
    }

    /// Nobody is to be cancelled from here on.
    pub(crate) fn answered(&self) {
        self.is_answered.store(true, Ordering::Release);
        // What refers to the task is what the task refers to.
        drop(lock(&self.task).take());
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.is_answered.load(Ordering::Acquire)
    }

    /// The code has ended, and the answer will never be complete. That the client loses its connection
    /// then is not its own doing.
    pub(crate) fn broken_off(&self) {
        self.is_broken_off.store(true, Ordering::Release);
        drop(lock(&self.task).take());
    }

    /// The client went away.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Acquire)
    }

    fn cancel(&self, py: Python<'_>, handler: &Bound<'_, PyAny>) -> PyResult<()> {
        self.waiters.wake(py)?;
        if let Some(task) = lock(&self.task).take() {
            handler.call_method1(intern!(py, "cancel"), (task,))?;
        }
        Ok(())
    }
}

/// Sets a future's result, unless it is done.
pub(crate) fn resolve(future: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = future.py();
    if !future.call_method0(intern!(py, "done"))?.is_truthy()? {
        future.call_method1(intern!(py, "set_result"), (value,))?;
    }
    Ok(())
}

/// Cancels a request's task when it is dropped before the answer is complete: its client is gone.
pub(crate) struct CancelOnDrop {
    pub(crate) queue: Arc<Queue>,
    pub(crate) shared: Arc<Shared>,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if self.shared.is_answered() || self.shared.is_broken_off.load(Ordering::Acquire) {
            return;
        }
        self.shared.is_gone.store(true, Ordering::Release);
        let shared = self.shared.clone();
        self.queue.push(move |py, handler| shared.cancel(py, handler));
    }
}

/// When a request came, and what it knows of where it comes from.
pub(crate) struct Arrival {
    begun: Instant,
    pub(crate) context: Arc<RequestContext>,
}

impl Arrival {
    pub(crate) fn now(context: RequestContext) -> Self {
        Self { begun: Instant::now(), context: Arc::new(context) }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(crate) fn elapsed_ms(&self) -> f64 {
        self.elapsed().as_secs_f64() * 1e3
    }

    /// The context, as Python sees it.
    pub(crate) fn shown(&self) -> Context {
        Context { context: self.context.clone() }
    }
}

/// What a request knows of where it comes from; calls that it makes hand it on.
#[pyclass(frozen, module = "tyndall._tyndall")]
pub(crate) struct Context {
    pub(crate) context: Arc<RequestContext>,
}

#[pymethods]
impl Context {
    /// That of a request that begins here.
    #[new]
    #[pyo3(signature = (request_id, multiplexed_model_id="", session_id=""))]
    fn new(request_id: String, multiplexed_model_id: &str, session_id: &str) -> Self {
        let context = RequestContext {
            request_id,
            multiplexed_model_id: multiplexed_model_id.to_owned(),
            session_id: session_id.to_owned(),
            ..RequestContext::default()
        };
        Self { context: Arc::new(context) }
    }

    #[getter]
    fn request_id(&self) -> &str {
        &self.context.request_id
    }

    #[getter]
    fn root_path(&self) -> &str {
        &self.context.root_path
    }

    #[getter]
    fn multiplexed_model_id(&self) -> &str {
        &self.context.multiplexed_model_id
    }

    #[getter]
    fn session_id(&self) -> &str {
        &self.context.session_id
    }

    #[getter]
    fn traceparent(&self) -> &str {
        &self.context.traceparent
    }

    /// Seconds that are left; none is no end.
    #[getter]
    fn time_left(&self) -> Option<f64> {
        let left = self.context.deadline?.saturating_duration_since(Instant::now());
        Some(left.as_secs_f64())
    }
}

/// The context of a call that a request makes, with what the handle says.
pub(crate) fn child(
    parent: &RequestContext,
    multiplexed_model_id: String,
    session_id: &str,
    timeout_s: Option<f64>,
) -> RequestContext {
    let own = timeout_s
        // What is too large to be a time never comes.
        .and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok())
        .and_then(|limit| Instant::now().checked_add(limit));
    let session_id = if session_id.is_empty() { &parent.session_id } else { session_id };
    RequestContext {
        multiplexed_model_id,
        session_id: session_id.to_owned(),
        deadline: own.into_iter().chain(parent.deadline).min(),
        ..parent.clone()
    }
}
