//! A replica whose deployment is a Python object.

use crate::caller::Caller;
use crate::queue::{Bridge, Queue};
use crate::{call, http, watchdog, websocket};
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyAny, PyDict};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tyndall::foreign::{Foreign, ReplicaStart, replica};
use tyndall::websocket::Handshake;
use tyndall::{Error, RequestContext, Result};

/// How long a page of metrics waits for code that holds Python's lock.
const PAGE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a replica that is told to end while it starts waits for its loop.
const START_GRACE: Duration = Duration::from_secs(1);

/// Is a replica, on threads beside the loop; at its end the handler's `ended(message)` is called in
/// the loop, with nothing after an orderly end.
///
/// `words` are those after the program's name, from `role` on; `limits` say after how many seconds
/// code that blocks the loop, and a constructor that is not done, are told of; 0 is never.
#[pyfunction]
pub(crate) fn run_replica(
    words: Vec<String>,
    bridge: &Bound<'_, Bridge>,
    limits: (f64, f64),
) -> PyResult<()> {
    let limits = Limits { blocked: seconds(limits.0), start: seconds(limits.1) };
    let queue = bridge.get().queue.clone();
    let living = move || {
        let own = queue.clone();
        let is_starting = Arc::new(AtomicBool::new(true));
        let starting = is_starting.clone();
        let outcome = replica(words.into_iter(), move |start| {
            let begun = begin(own, start, limits);
            begun.inspect(move |_| starting.store(false, Ordering::Release)).boxed()
        });
        let is_told_to_end = outcome.is_ok() && is_starting.load(Ordering::Acquire);
        let (heard, is_heard) = mpsc::channel();
        queue.push(move |py, handler| {
            // Nobody waits for it but while it starts.
            let _sent = heard.send(());
            let message = outcome.err().map(Option::unwrap_or_default);
            handler.call_method1(intern!(py, "ended"), (message,)).map(drop)
        });
        // A constructor that blocks the loop would go on for nobody.
        if is_told_to_end && is_heard.recv_timeout(START_GRACE).is_err() {
            std::process::exit(0);
        }
    };
    let spawned = std::thread::Builder::new().name("tyndall-replica".to_owned()).spawn(living);
    spawned.map(drop).map_err(|error| PyOSError::new_err(error.to_string()))
}

/// After how long something is told of.
#[derive(Clone, Copy)]
struct Limits {
    blocked: Option<Duration>,
    start: Option<Duration>,
}

fn seconds(given: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(given).ok().filter(|limit| !limit.is_zero())
}

async fn begin(queue: Arc<Queue>, start: ReplicaStart, limits: Limits) -> Result<Arc<dyn Foreign>> {
    let caller = Caller::of_replica(&start, queue.clone());
    let config = serde_json::to_string(&start.config).expect("wire types have string keys only");
    let args = start.init.args.to_string();
    let gang = start.context.gang().map(serde_json::to_string);
    let gang = gang.transpose().expect("wire types have string keys only");
    let told = job(&queue, "start", move |py| {
        let told = PyDict::new(py);
        told.set_item("application", start.context.application().as_str())?;
        told.set_item("deployment", start.deployment)?;
        told.set_item("replica_id", start.context.replica_id().as_str())?;
        told.set_item("rank", start.context.rank())?;
        told.set_item("gang", gang)?;
        told.set_item("args", args)?;
        told.set_item("config", config)?;
        told.set_item("caller", Py::new(py, caller)?)?;
        Ok(told.into_any())
    });
    match limits.start {
        Some(limit) => tokio::select! {
            started = told => started?,
            () = watchdog::watch_start(limit) => {}
        },
        None => told.await?,
    }
    // Constructors may block the loop: nobody else is there yet.
    let watching = limits.blocked.map(|limit| {
        let watching = tokio::spawn(watchdog::watch(queue.clone(), limit));
        watching.abort_handle()
    });
    Ok(Arc::new(PythonReplica { queue, watching }))
}

struct PythonReplica {
    queue: Arc<Queue>,
    watching: Option<AbortHandle>,
}

impl Drop for PythonReplica {
    fn drop(&mut self) {
        if let Some(watching) = &self.watching {
            watching.abort();
        }
    }
}

impl Foreign for PythonReplica {
    fn call(
        &self,
        method: &str,
        body: Bytes,
        request: RequestContext,
    ) -> BoxFuture<'static, Result<Bytes>> {
        call::call(self.queue.clone(), method.to_owned(), body, request).boxed()
    }

    fn stream(
        &self,
        method: &str,
        body: Bytes,
        request: RequestContext,
    ) -> BoxStream<'static, Result<Bytes>> {
        call::items(self.queue.clone(), method.to_owned(), body, request).boxed()
    }

    fn http(&self, request: Request, context: RequestContext) -> BoxFuture<'static, Response> {
        http::answer(self.queue.clone(), request, context).boxed()
    }

    fn websocket(
        &self,
        request: Request,
        handshake: Handshake,
        context: RequestContext,
    ) -> BoxFuture<'static, Response> {
        websocket::answer(self.queue.clone(), request, handshake, context).boxed()
    }

    fn reconfigure(&self, user_config: Value) -> BoxFuture<'_, Result<()>> {
        let json = user_config.to_string();
        job(&self.queue, "reconfigure", move |py| Ok(json.into_pyobject(py)?.into_any())).boxed()
    }

    fn check_health(&self) -> BoxFuture<'_, Result<()>> {
        job(&self.queue, "check_health", |py| Ok(py.None().into_bound(py))).boxed()
    }

    fn metrics(&self) -> BoxFuture<'_, String> {
        async {
            // On a thread that may wait for Python's lock, and not in the loop: a page is wanted most
            // of all when something is stuck.
            let page = tokio::task::spawn_blocking(|| Python::try_attach(page).unwrap_or_default());
            match tokio::time::timeout(PAGE_TIMEOUT, page).await {
                Ok(page) => page.unwrap_or_default(),
                Err(_) => String::new(),
            }
        }
        .boxed()
    }

    fn leave(&self) {
        // It is begun, and nobody waits for it.
        drop(job(&self.queue, "leave", |py| Ok(py.None().into_bound(py))));
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        job(&self.queue, "stop", |py| Ok(py.None().into_bound(py))).map(drop).boxed()
    }
}

/// The metrics of `serve.metrics`.
fn page(py: Python<'_>) -> String {
    let rendered = py
        .import("tyndall.serve.metrics")
        .and_then(|metrics| metrics.call_method0("render")?.extract::<String>());
    rendered.unwrap_or_else(|error| {
        error.write_unraisable(py, None);
        String::new()
    })
}

/// Has the loop do something, and waits until it is done.
pub(crate) fn job<A>(
    queue: &Arc<Queue>,
    method: &'static str,
    argument: A,
) -> impl Future<Output = Result<()>> + Send + use<A>
where
    A: for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send + 'static,
{
    let (done, is_done) = oneshot::channel();
    queue.push(move |py, handler| {
        let job = Py::new(py, Job { done: Mutex::new(Some(done)) })?;
        handler.call_method1(method, (job, argument(py)?)).map(drop)
    });
    async move {
        let outcome = is_done.await.unwrap_or_else(|_| Err(format!("{method} had no end")));
        // As it is: a traceback has lines.
        outcome.map_err(|message| Error::UserError { message, exception: None })
    }
}

/// Something that the loop does for the replica.
#[pyclass(frozen, module = "tyndall._tyndall")]
pub(crate) struct Job {
    done: Mutex<Option<oneshot::Sender<std::result::Result<(), String>>>>,
}

#[pymethods]
impl Job {
    /// It is done, or why it is not.
    #[pyo3(signature = (error=None))]
    fn done(&self, error: Option<String>) {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(done) = done {
            // Nobody waits for it when the replica ends.
            drop(done.send(error.map_or(Ok(()), Err)));
        }
    }
}
