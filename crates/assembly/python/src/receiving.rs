//! What ASGI awaits of `receive` and `send`, for requests and WebSockets.
//!
//! A message stays with its source until the code that awaits it runs again, and is taken by then
//! only. So code that gives up receiving, with a timeout or a cancelled task, loses nothing, however
//! late it gives up.

use crate::http::{HttpRequest, lock};
use crate::queue::Queue;
use crate::request::resolve;
use crate::websocket::WebSocket;
use pyo3::exceptions::PyStopIteration;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyAny, PyDict};
use std::sync::{Arc, Mutex};
use tokio::runtime::Handle;

/// The futures of those who await a message. They only say that it is worth looking again: the first who
/// does has the message, and the others wait for the next. A response that streams listens for the end of
/// its client while the code that makes it asks for the same.
#[derive(Default)]
pub(crate) struct Waiters(Mutex<Vec<Py<PyAny>>>);

impl Waiters {
    /// A future for one who waits.
    fn wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let mut waiting = std::mem::take(&mut *lock(&self.0));
        // Those that were given up wait no longer, and nobody asks for a message so often as who gives up.
        waiting.retain(|future| !is_done(py, future));
        let future = new_future(py)?;
        waiting.push(future.clone_ref(py));
        lock(&self.0).append(&mut waiting);
        Ok(future)
    }

    /// Who waits looks again.
    pub(crate) fn wake(&self, py: Python<'_>) -> PyResult<()> {
        let waiting = std::mem::take(&mut *lock(&self.0));
        let mut woken = waiting.iter().map(|one| resolve(one.bind(py), py.None().bind(py)));
        woken.try_for_each(|woken| woken)
    }
}

/// Whether a future has its outcome, or was cancelled.
fn is_done(py: Python<'_>, future: &Py<PyAny>) -> bool {
    let done = future.call_method0(py, intern!(py, "done"));
    done.is_ok_and(|done| done.is_truthy(py).unwrap_or(true))
}

/// Where messages come from, one at a time.
pub(crate) trait Inbox {
    /// Who waits for the next one.
    fn waiters(&self) -> &Waiters;

    /// The next message, if it is there.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>>;

    /// Reads on, if nobody does yet, and wakes those who wait then.
    fn read_on(&self);
}

/// What is awaited.
pub(crate) enum Awaited {
    /// Nothing: it is there.
    Value(Py<PyAny>),
    Http(Py<HttpRequest>),
    WebSocket(Py<WebSocket>),
}

/// What `await` does with [`Awaited`]; a coroutine to asyncio, so that it can be a task of its own.
#[pyclass(frozen, module = "tyndall._tyndall")]
pub(crate) struct Awaitable(Awaited);

/// An awaitable.
pub(crate) fn awaitable(py: Python<'_>, awaited: Awaited) -> PyResult<Py<PyAny>> {
    Ok(Py::new(py, Awaitable(awaited))?.into_any())
}

/// An awaitable that never waits.
pub(crate) fn ready(py: Python<'_>, value: Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    awaitable(py, Awaited::Value(value.unbind()))
}

/// Ends with the message, or returns the future that tells when to look again.
fn next(inbox: &impl Inbox, py: Python<'_>) -> PyResult<Py<PyAny>> {
    if let Some(message) = inbox.take(py)? {
        return Err(PyStopIteration::new_err((message.unbind(),)));
    }
    let future = inbox.waiters().wait(py)?;
    inbox.read_on();
    // As `await` does it: the future is marked as one that is waited for.
    let steps = future.call_method0(py, intern!(py, "__await__"))?;
    steps.call_method0(py, intern!(py, "__next__"))
}

#[pymethods]
impl Awaitable {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match &self.0 {
            Awaited::Value(value) => Err(PyStopIteration::new_err((value.clone_ref(py),))),
            Awaited::Http(request) => next(request.get(), py),
            Awaited::WebSocket(socket) => next(socket.get(), py),
        }
    }

    /// With `throw` and `close`, what makes it a coroutine to asyncio.
    fn send(&self, py: Python<'_>, _value: Py<PyAny>) -> PyResult<Py<PyAny>> {
        self.__next__(py)
    }

    #[pyo3(signature = (error, _value=None, _traceback=None))]
    fn throw(
        &self,
        error: Bound<'_, PyAny>,
        _value: Option<Py<PyAny>>,
        _traceback: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        Err(PyErr::from_value(error))
    }

    fn close(&self) {}
}

/// A future that the loop waits for until something outside of it is done.
pub(crate) fn when_done(
    py: Python<'_>,
    (runtime, queue): (&Handle, &Arc<Queue>),
    work: impl Future<Output = ()> + Send + 'static,
) -> PyResult<Py<PyAny>> {
    let future = new_future(py)?;
    let (queue, waiting) = (queue.clone(), future.clone_ref(py));
    runtime.spawn(async move {
        work.await;
        queue.push(move |py, _| resolve(waiting.bind(py), py.None().bind(py)));
    });
    Ok(future)
}

/// A future of the loop that runs.
fn new_future(py: Python<'_>) -> PyResult<Py<PyAny>> {
    static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let running = RUNNING.import(py, "asyncio", "get_running_loop")?;
    Ok(running.call0()?.call_method0(intern!(py, "create_future"))?.unbind())
}
