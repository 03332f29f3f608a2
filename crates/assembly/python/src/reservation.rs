//! A place that a replica keeps for a call.

use crate::caller::{Calling, Items, run};
use crate::http::to_bytes;
use crate::queue::Queue;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyAny;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tyndall::RequestContext;

type Place = Box<dyn tyndall::Reservation>;

/// The place, for one call. It is given back when this is dropped.
#[pyclass(frozen, module = "tyndall._tyndall")]
pub(crate) struct Reservation {
    replica: String,
    metadata: String,
    place: Mutex<Option<Place>>,
    context: RequestContext,
    runtime: Handle,
    queue: Option<Arc<Queue>>,
}

impl Reservation {
    pub(crate) fn new(
        place: Place,
        context: RequestContext,
        runtime: Handle,
        queue: Option<Arc<Queue>>,
    ) -> Self {
        let (replica, metadata) = (place.replica().to_owned(), place.metadata().to_string());
        Self { replica, metadata, place: Mutex::new(Some(place)), context, runtime, queue }
    }

    fn take(&self) -> Option<Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn taken(&self) -> PyResult<Place> {
        let over = || {
            let cause =
                format!("the place at replica {} has been used or given back", self.replica);
            PyRuntimeError::new_err(format!("{cause}\nchoose again"))
        };
        self.take().ok_or_else(over)
    }

    fn queue_for(&self, in_loop: bool) -> Option<Arc<Queue>> {
        self.queue.clone().filter(|_| in_loop)
    }
}

#[pymethods]
impl Reservation {
    #[getter]
    fn replica(&self) -> &str {
        &self.replica
    }

    /// What the replica said of itself when it started, as JSON.
    #[getter]
    fn metadata(&self) -> &str {
        &self.metadata
    }

    /// Makes the call, which was reserved for one response: `done(response, error)` gets one of both.
    fn call(&self, body: &Bound<'_, PyAny>, in_loop: bool, done: Py<PyAny>) -> PyResult<Calling> {
        let body = to_bytes(body)?;
        let calling = self.taken()?.call(body);
        Ok(run(&self.runtime, self.queue_for(in_loop), self.context.clone(), calling, done))
    }

    /// Makes the call, which was reserved for a stream.
    fn stream(&self, body: &Bound<'_, PyAny>, in_loop: bool) -> PyResult<Items> {
        let body = to_bytes(body)?;
        let items = self.taken()?.stream(body);
        Ok(Items::new(items, self.context.clone(), &self.runtime, self.queue_for(in_loop)))
    }

    /// The place is not wanted any more; afterwards it does nothing.
    fn give_back(&self) {
        drop(self.take());
    }
}
