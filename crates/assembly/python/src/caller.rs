//! Calls that Python's handles make.
//!
//! An outcome reaches Python as a call of `done`: in the loop of the replica for calls that were
//! made there, else on a thread of Rust's. A call that is cancelled has no outcome.

use crate::http::to_bytes;
use crate::queue::Queue;
use crate::request::{Context, child};
use crate::reservation::Reservation;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyAny, PyBytes, PyList};
use serde_json::Value;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tyndall::foreign::{ModelsOfPart, ReplicaStart, Scoped};
use tyndall::{AnswerKind, Call, Encoding, Error, RequestContext, Result};
use tyndall_types::ApplicationName;

/// Items that Python gets at a time, at most.
const MAX_ITEMS: usize = 256;

/// The way to deployments.
#[pyclass(frozen, module = "tyndall._tyndall")]
pub(crate) struct Caller {
    caller: Arc<dyn tyndall::Caller>,
    pub(crate) runtime: Handle,
    pub(crate) scoped: Scoped,
    /// Absent outside of a replica.
    queue: Option<Arc<Queue>>,
    /// As the queue.
    models: Option<ModelsOfPart>,
}

impl Caller {
    pub(crate) fn of_replica(start: &ReplicaStart, queue: Arc<Queue>) -> Self {
        Self {
            caller: start.caller.clone(),
            runtime: Handle::current(),
            scoped: Scoped::of_replica(start.context.clone()),
            queue: Some(queue),
            models: Some(start.context.models_of_part()),
        }
    }

    fn prepare(&self, target: Target, body: Bytes) -> PyResult<Call> {
        self.caller.connected();
        let application = target.application.map(ApplicationName::new).transpose();
        let application = application.map_err(|error| PyValueError::new_err(error.to_string()))?;
        let parent = target.context.get();
        let context = child(
            &parent.context,
            target.multiplexed_model_id,
            &target.session_id,
            target.timeout_s,
        );
        Ok(Call {
            application,
            deployment: target.deployment,
            method: target.method,
            body,
            encoding: if target.is_model { Encoding::Model } else { Encoding::Opaque },
            context,
        })
    }
}

/// What is called, and how: an object with these attributes.
#[derive(FromPyObject)]
struct Target {
    application: Option<String>,
    deployment: String,
    method: String,
    context: Py<Context>,
    multiplexed_model_id: String,
    session_id: String,
    timeout_s: Option<f64>,
    /// A model takes requests of OpenAI's API; the method is a path of it.
    is_model: bool,
}

#[pymethods]
impl Caller {
    /// Calls a method; `done(response, error)` gets one of both, the error as JSON.
    fn call(
        &self,
        target: Target,
        body: &Bound<'_, PyAny>,
        in_loop: bool,
        done: Py<PyAny>,
    ) -> PyResult<Calling> {
        let call = self.prepare(target, to_bytes(body)?)?;
        let context = call.context.clone();
        let calling = self.caller.call(call);
        Ok(run(&self.runtime, self.queue_for(in_loop), context, calling, done))
    }

    /// Has a replica keep a place for a call: `done(reservation, error)` gets one of both. The body says
    /// what it is chosen for.
    fn reserve(
        &self,
        target: Target,
        body: &Bound<'_, PyAny>,
        is_stream: bool,
        in_loop: bool,
        done: Py<PyAny>,
    ) -> PyResult<Calling> {
        let call = self.prepare(target, to_bytes(body)?)?;
        let context = call.context.clone();
        let answer = if is_stream { AnswerKind::Stream } else { AnswerKind::Response };
        let reserving = self.caller.reserve(call, answer);
        let (queue, own) = (self.queue_for(in_loop), self.queue.clone());
        let runtime = self.runtime.clone();
        let task = self.runtime.spawn(async move {
            let outcome = within(&context, reserving).await.and_then(|outcome| outcome);
            deliver(queue, move |py| match outcome {
                Ok(place) => {
                    let reservation = Reservation::new(place, context, runtime, own);
                    done.call1(py, (Py::new(py, reservation)?, py.None()))
                }
                Err(error) => done.call1(py, (py.None(), to_json(&error))),
            });
        });
        Ok(Calling { task: task.abort_handle() })
    }

    /// Calls a method of all replicas: `begun(count, error)` gets one of both, and for each of so many
    /// `done(number, response, error)` does; of a replica that ends and has not begun it, neither.
    fn broadcast(
        &self,
        target: Target,
        body: &Bound<'_, PyAny>,
        in_loop: bool,
        begun: Py<PyAny>,
        done: Py<PyAny>,
    ) -> PyResult<Calling> {
        let call = self.prepare(target, to_bytes(body)?)?;
        let context = call.context.clone();
        let (queue, calling) = (self.queue_for(in_loop), self.caller.broadcast(call));
        let task = self.runtime.spawn(async move {
            let parts = match within(&context, calling).await.and_then(|outcome| outcome) {
                Ok(parts) => parts,
                Err(error) => {
                    let told = to_json(&error);
                    return deliver(queue, move |py| begun.call1(py, (py.None(), told)));
                }
            };
            let count = parts.len();
            deliver(queue.clone(), move |py| begun.call1(py, (count, py.None())));
            let (done, context) = (Arc::new(done), &context);
            let part = |(number, part)| async move { (number, within(context, part).await) };
            let mut answers: FuturesUnordered<_> =
                parts.into_iter().enumerate().map(part).collect();
            while let Some((number, answer)) = answers.next().await {
                let done = done.clone();
                let answer = answer.unwrap_or_else(|late| Some(Err(late)));
                deliver(queue.clone(), move |py| match answer {
                    Some(Ok(body)) => done.call1(py, (number, PyBytes::new(py, &body), py.None())),
                    Some(Err(error)) => done.call1(py, (number, py.None(), to_json(&error))),
                    None => done.call1(py, (number, py.None(), py.None())),
                });
            }
        });
        Ok(Calling { task: task.abort_handle() })
    }

    /// The replica has the models of these ids now, the ones that were used last at the end.
    fn holds(&self, ids: Vec<String>) {
        if let Some(models) = &self.models {
            models.set(ids.iter().map(String::as_str));
        }
    }

    /// What the replica is, as JSON; told once, before the start is done.
    fn says(&self, metadata: &str) -> PyResult<()> {
        let metadata: Value = serde_json::from_str(metadata)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        if let Some(replica) = self.scoped.replica() {
            replica.set_metadata(&metadata);
        }
        Ok(())
    }

    /// Somebody asked for a model.
    fn model_asked(&self) {
        if let Some(models) = &self.models {
            models.asked();
        }
    }

    /// A model was loaded, which took so many seconds.
    fn model_loaded(&self, seconds: f64) {
        if let Some(models) = &self.models {
            models.loaded(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        }
    }

    /// A model was unloaded, which took so many seconds.
    fn model_unloaded(&self, seconds: f64) {
        if let Some(models) = &self.models {
            models.unloaded(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        }
    }

    /// Calls a generator.
    fn stream(&self, target: Target, body: &Bound<'_, PyAny>, in_loop: bool) -> PyResult<Items> {
        let call = self.prepare(target, to_bytes(body)?)?;
        let context = call.context.clone();
        // The call begins with the first item that is asked for, as a generator does.
        let _runtime = self.runtime.enter();
        let items = self.caller.stream(call);
        Ok(Items::new(items, context, &self.runtime, self.queue_for(in_loop)))
    }
}

impl Caller {
    fn queue_for(&self, in_loop: bool) -> Option<Arc<Queue>> {
        self.queue.clone().filter(|_| in_loop)
    }
}

/// A call that begins now; `done(response, error)` gets one of both.
pub(crate) fn run(
    runtime: &Handle,
    queue: Option<Arc<Queue>>,
    context: RequestContext,
    calling: BoxFuture<'static, Result<Bytes>>,
    done: Py<PyAny>,
) -> Calling {
    let task = runtime.spawn(async move {
        let outcome = within(&context, calling).await.and_then(|outcome| outcome);
        deliver(queue, move |py| match outcome {
            Ok(body) => done.call1(py, (PyBytes::new(py, &body), py.None())),
            Err(error) => done.call1(py, (py.None(), to_json(&error))),
        });
    });
    Calling { task: task.abort_handle() }
}

/// Calls `done` where the caller wants to hear of it.
fn deliver(
    queue: Option<Arc<Queue>>,
    done: impl FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send + 'static,
) {
    match queue {
        Some(queue) => queue.push(move |py, _| done(py).map(drop)),
        None => {
            // None while Python ends: nobody waits any more.
            Python::try_attach(|py| {
                if let Err(error) = done(py) {
                    error.write_unraisable(py, None);
                }
            });
        }
    }
}

async fn within<F: Future>(context: &RequestContext, work: F) -> Result<F::Output> {
    let Some(deadline) = context.deadline else { return Ok(work.await) };
    let begun = Instant::now();
    timeout_at(deadline, work).await.map_err(|_| Error::Timeout {
        request_id: context.request_id.clone(),
        timeout_s: deadline.saturating_duration_since(begun).as_secs_f64(),
    })
}

fn to_json(error: &Error) -> String {
    serde_json::to_string(error).expect("errors have string keys only")
}

/// A call that is on its way.
#[pyclass(frozen, module = "tyndall._tyndall")]
pub(crate) struct Calling {
    task: AbortHandle,
}

impl Calling {
    pub(crate) fn of(task: AbortHandle) -> Self {
        Self { task }
    }
}

#[pymethods]
impl Calling {
    /// Ends it, wherever it is; `done` is not called any more.
    fn cancel(&self) {
        self.task.abort();
    }
}

/// The items of a generator.
#[pyclass(frozen, module = "tyndall._tyndall")]
pub(crate) struct Items {
    state: Arc<tokio::sync::Mutex<Option<BoxStream<'static, Result<Bytes>>>>>,
    context: RequestContext,
    runtime: Handle,
    queue: Option<Arc<Queue>>,
    task: Mutex<Option<AbortHandle>>,
}

impl Items {
    pub(crate) fn new(
        items: BoxStream<'static, Result<Bytes>>,
        context: RequestContext,
        runtime: &Handle,
        queue: Option<Arc<Queue>>,
    ) -> Self {
        Self {
            state: Arc::new(tokio::sync::Mutex::new(Some(items))),
            context,
            runtime: runtime.clone(),
            queue,
            task: Mutex::new(None),
        }
    }
}

#[pymethods]
impl Items {
    /// Asks for what comes next: `done(items, error, is_over)`, once one is there.
    fn next(&self, done: Py<PyAny>) {
        let (state, queue, context) =
            (self.state.clone(), self.queue.clone(), self.context.clone());
        let task = self.runtime.spawn(async move {
            let mut state = state.lock().await;
            let (found, end) = match state.as_mut() {
                Some(items) => take(items, &context).await,
                None => (Vec::new(), Some(None)),
            };
            if end.is_some() {
                *state = None;
            }
            drop(state);
            deliver(queue, move |py| {
                let list = PyList::new(py, found.iter().map(|item| PyBytes::new(py, item)))?;
                let is_over = end.is_some();
                let error = end.flatten().map(|error| to_json(&error));
                done.call1(py, (list, error, is_over))
            });
        });
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
    }

    /// Ends the call; `done` is not called any more.
    fn cancel(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
        }
        let state = self.state.clone();
        self.runtime.spawn(async move { *state.lock().await = None });
    }
}

impl Drop for Items {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// What is there, at least one item; and whether that is the end, with or without an error.
async fn take(
    items: &mut BoxStream<'static, Result<Bytes>>,
    context: &RequestContext,
) -> (Vec<Bytes>, Option<Option<Error>>) {
    let mut found = Vec::new();
    let mut next = within(context, items.next()).await.unwrap_or_else(|late| Some(Err(late)));
    loop {
        match next {
            Some(Ok(item)) => found.push(item),
            Some(Err(error)) => return (found, Some(Some(error))),
            None => return (found, Some(None)),
        }
        if found.len() == MAX_ITEMS {
            return (found, None);
        }
        match items.next().now_or_never() {
            Some(more) => next = more,
            None => return (found, None),
        }
    }
}

/// The way from a process that is no replica to the deployments of a server of the same user.
#[pyfunction]
pub(crate) fn connect(runtime_dir: PathBuf, name: &str, application: &str) -> PyResult<Caller> {
    let application = ApplicationName::new(application)
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
    let runtime = background()?;
    let _entered = runtime.enter();
    let caller = tyndall::foreign::connect(runtime_dir, name, application);
    Ok(Caller {
        caller,
        runtime: runtime.clone(),
        scoped: Scoped::default(),
        queue: None,
        models: None,
    })
}

/// A runtime for what no replica has one for.
pub(crate) fn background() -> PyResult<Handle> {
    static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    match &*runtime {
        Some(runtime) => Ok(runtime.handle().clone()),
        None => {
            let made = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .map_err(|error| PyOSError::new_err(error.to_string()))?;
            Ok(runtime.insert(made).handle().clone())
        }
    }
}
