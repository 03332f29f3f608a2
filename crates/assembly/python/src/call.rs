//! A call of a method by a handle, and its answer.

use crate::http::to_bytes;
use crate::queue::Queue;
use crate::receiving::when_done;
use crate::request::{Arrival, CancelOnDrop, Context, Shared};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyAny, PyBytes};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tyndall::{Error, RequestContext, Result};

/// Items that wait for the caller, before the code that makes more waits too.
const MAX_ITEMS: usize = 64;

enum Answer {
    One(oneshot::Sender<Result<Bytes>>),
    Items(mpsc::Sender<Result<Bytes>>),
    Done,
}

/// Hands a call to the loop, and waits for its response.
///
/// # Cancel safety
/// Dropping the future cancels the task of the call.
pub(crate) async fn call(
    queue: Arc<Queue>,
    method: String,
    body: Bytes,
    context: RequestContext,
) -> Result<Bytes> {
    let (answer, answered) = oneshot::channel();
    let _guard = begin(&queue, method, body, context, Answer::One(answer));
    answered.await.unwrap_or_else(|_| Err(lost()))
}

/// Hands a call of a generator to the loop; dropping the stream cancels its task.
pub(crate) fn items(
    queue: Arc<Queue>,
    method: String,
    body: Bytes,
    context: RequestContext,
) -> impl Stream<Item = Result<Bytes>> + Send {
    let begun = async move {
        let (answer, items) = mpsc::channel(MAX_ITEMS);
        let guard = begin(&queue, method, body, context, Answer::Items(answer));
        stream::unfold((items, guard, false), |(mut items, guard, is_over)| async move {
            match items.recv().await {
                Some(item) => {
                    let is_over = item.is_err();
                    Some((item, (items, guard, is_over)))
                }
                None if is_over || guard.shared.is_answered() => None,
                None => Some((Err(lost()), (items, guard, true))),
            }
        })
    };
    futures_util::StreamExt::flatten(stream::once(begun))
}

fn lost() -> Error {
    Error::user("the method ended without an answer; see the log of the replica")
}

fn begin(
    queue: &Arc<Queue>,
    method: String,
    body: Bytes,
    context: RequestContext,
    answer: Answer,
) -> CancelOnDrop {
    let shared = Arc::new(Shared::default());
    let guard = CancelOnDrop { queue: queue.clone(), shared: shared.clone() };
    let is_stream = matches!(answer, Answer::Items(_));
    let (own, runtime, arrival) = (queue.clone(), Handle::current(), Arrival::now(context));
    queue.push(move |py, handler| {
        let answer = Mutex::new(answer);
        let call =
            CallRequest { arrival, method, body, is_stream, queue: own, runtime, shared, answer };
        handler.call_method1(intern!(py, "call"), (Py::new(py, call)?,)).map(drop)
    });
    guard
}

/// A call, as the loop sees it.
#[pyclass(frozen, module = "tyndall._tyndall")]
pub(crate) struct CallRequest {
    arrival: Arrival,
    method: String,
    body: Bytes,
    is_stream: bool,
    queue: Arc<Queue>,
    runtime: Handle,
    shared: Arc<Shared>,
    answer: Mutex<Answer>,
}

#[pymethods]
impl CallRequest {
    #[getter]
    fn context(&self) -> Context {
        self.arrival.shown()
    }

    #[getter]
    pub(crate) fn method(&self) -> &str {
        &self.method
    }

    /// Milliseconds since it arrived.
    #[getter]
    fn elapsed_ms(&self) -> f64 {
        self.arrival.elapsed_ms()
    }

    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.body)
    }

    /// Whether the caller wants a stream.
    #[getter]
    fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// The task to cancel when the caller goes away.
    fn set_task(&self, task: Py<PyAny>) {
        self.shared.set_task(task);
    }

    /// The response.
    fn reply(&self, body: &Bound<'_, PyAny>) -> PyResult<()> {
        let body = to_bytes(body)?;
        self.end(Ok(body));
        Ok(())
    }

    /// The error, as JSON of `tyndall::Error`: in place of the response, or after the items.
    fn fail(&self, error: &str) -> PyResult<()> {
        let error: Error = serde_json::from_str(error)
            .map_err(|error| PyValueError::new_err(format!("not an error: {error}")))?;
        self.end(Err(error));
        Ok(())
    }

    /// One item. A future when the caller is slow, which is to be awaited before the next.
    fn item(&self, py: Python<'_>, body: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
        let body = to_bytes(body)?;
        let items = match &*self.answer.lock().unwrap_or_else(PoisonError::into_inner) {
            Answer::Items(items) => items.clone(),
            Answer::One(_) | Answer::Done => return Ok(None),
        };
        match items.try_send(Ok(body)) {
            Err(mpsc::error::TrySendError::Full(item)) => {
                let sent = when_done(py, (&self.runtime, &self.queue), async move {
                    // It fails when the caller is gone, which the task is told by itself.
                    drop(items.send(item).await);
                });
                sent.map(Some)
            }
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(None),
        }
    }

    /// There are no more items.
    fn close(&self) {
        self.shared.answered();
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Answer::Done;
    }
}

impl CallRequest {
    pub(crate) fn arrival(&self) -> &Arrival {
        &self.arrival
    }

    fn end(&self, outcome: Result<Bytes>) {
        self.shared.answered();
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *answer, Answer::Done) {
            // Nobody waits for it when the caller is gone.
            Answer::One(reply) => drop(reply.send(outcome)),
            Answer::Items(items) => {
                self.runtime.spawn(async move { drop(items.send(outcome).await) });
            }
            Answer::Done => {}
        }
    }
}
