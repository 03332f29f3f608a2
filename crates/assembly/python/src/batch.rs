//! The queue of `serve.batch`: Rust forms the batches, Python runs the function on the loop.
//!
//! An item is an object of Python's with whatever its caller waits for; it gets its result from
//! Python, and only the forming is done here.

use crate::caller::{Caller, Calling, background};
use crate::queue::{Bridge, Queue};
use crate::replica::job;
use crate::request::Context;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyAny, PyList, PyTuple};
use std::sync::Arc;
use tokio::runtime::Handle;
use tyndall::foreign::Scoped;
use tyndall::{BatchOptions, Error, RequestContext, context};

type Entry = Py<PyAny>;

/// Forms batches of what is submitted; its bridge's handler has the methods
/// `batch(job, (items, model))`, which runs one and says when it is done, and
/// `refused(item, error)`.
#[pyclass(frozen, module = "tyndall._tyndall")]
pub(crate) struct Batcher {
    batcher: Arc<tyndall::Batcher<Entry, ()>>,
    queue: Arc<Queue>,
    runtime: Handle,
    scoped: Scoped,
}

#[pymethods]
impl Batcher {
    /// `caller` is that of the replica, where there is one; `size_fn` gets a list of items.
    #[new]
    #[pyo3(signature = (bridge, caller, max_batch_size, batch_wait_timeout_s, max_concurrent_batches, size_fn))]
    fn new(
        bridge: &Bound<'_, Bridge>,
        caller: Option<&Bound<'_, Caller>>,
        max_batch_size: usize,
        batch_wait_timeout_s: f64,
        max_concurrent_batches: usize,
        size_fn: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let queue = bridge.get().queue.clone();
        let (runtime, scoped) = match caller {
            Some(caller) => (caller.get().runtime.clone(), caller.get().scoped.clone()),
            None => (background()?, Scoped::default()),
        };
        let options = BatchOptions {
            max_batch_size,
            batch_wait_timeout_s,
            max_concurrent_batches,
            ..BatchOptions::default()
        };
        let own = queue.clone();
        let run = move |items: Vec<Entry>| {
            let model = context::multiplexed_model_id();
            let num_items = items.len();
            let done = job(&own, "batch", move |py| {
                Ok(PyTuple::new(
                    py,
                    [PyList::new(py, items)?.into_any(), model.into_pyobject(py)?.into_any()],
                )?
                .into_any())
            });
            async move { done.await.map(|()| vec![(); num_items]) }
        };
        let batcher = scoped.enter(|| tyndall::Batcher::new(options, run)).map_err(invalid)?;
        let batcher = match size_fn {
            Some(function) => batcher.with_batch_size_fn(move |items| measured(&function, items)),
            None => batcher,
        };
        Ok(Self { batcher: Arc::new(batcher), queue, runtime, scoped })
    }

    /// Puts an item into the queue; cancelling what this gives takes it out again.
    fn submit(&self, item: Entry, context: Option<&Bound<'_, Context>>) -> Calling {
        let context = context.map(|context| context.get().context.clone());
        let (batcher, queue) = (self.batcher.clone(), self.queue.clone());
        let kept = Python::attach(|py| item.clone_ref(py));
        let context = context.unwrap_or_else(|| Arc::new(RequestContext::default()));
        let waiting = self.scoped.run(context, async move {
            // What the function says has reached the item by now.
            if let Err(error @ Error::BackPressure { .. }) = batcher.call(item).await {
                refuse(&queue, kept, error.to_string());
            }
        });
        Calling::of(self.runtime.spawn(waiting).abort_handle())
    }

    fn set_max_batch_size(&self, max_batch_size: usize) -> PyResult<()> {
        self.batcher.set_max_batch_size(max_batch_size).map_err(invalid)
    }

    fn set_batch_wait_timeout_s(&self, seconds: f64) -> PyResult<()> {
        self.batcher.set_batch_wait_timeout_s(seconds).map_err(invalid)
    }
}

fn invalid(error: Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn refuse(queue: &Queue, item: Entry, message: String) {
    queue.push(move |py, handler| {
        handler.call_method1(intern!(py, "refused"), (item, message)).map(drop)
    });
}

/// What the function counts; it has reported itself what it raises, and no batch is large enough
/// for such items.
fn measured(function: &Py<PyAny>, items: &[Entry]) -> usize {
    let size = Python::try_attach(|py| {
        let list = PyList::new(py, items.iter().map(|item| item.bind(py))).ok()?;
        function.call1(py, (list,)).ok()?.extract::<usize>(py).ok()
    });
    size.flatten().unwrap_or(usize::MAX)
}
