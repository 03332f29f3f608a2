//! A request of HTTP as ASGI sees it, and its answer.
//!
//! Source of the messages: the ASGI specification, HTTP & WebSocket 2.3.

use crate::queue::Queue;
use crate::receiving::{Awaited, Inbox, Waiters, awaitable, ready, when_done};
use crate::request::{Arrival, CancelOnDrop, Context, Shared};
use crate::scope::{Head, Kind};
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyAny, PyBytes, PyDict, PyMemoryView, PyString};
use std::pin::Pin;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tyndall::RequestContext;
use tyndall_types::HEADER_GRPC;

/// Bodies up to this length are there when the request begins.
const MAX_WHOLE_BYTES: u64 = 1 << 20;

/// Parts of an answer that wait for the client, before the code that makes more waits too.
const MAX_PARTS: usize = 64;

/// What is known of the client's body.
enum Incoming {
    Whole(Bytes),
    Parts(Body),
    /// A part is being read.
    Reading,
    /// A part waits for the code, and the rest of the body behind it, if there is more.
    Heard(Part, Option<Body>),
    /// All of it was handed on.
    Read,
}

/// A part of the body, and whether more comes; none where the client broke off.
type Part = Option<(Bytes, bool)>;

/// How far the answer is.
enum Answer {
    Waiting(oneshot::Sender<AnswerHead>),
    /// The head is known, and is sent with the first part of the body.
    Begun(oneshot::Sender<AnswerHead>, StatusCode, HeaderMap),
    Parts(mpsc::Sender<Bytes>),
    Done,
}

/// The head of an answer, and its body.
struct AnswerHead {
    status: StatusCode,
    headers: HeaderMap,
    body: Outgoing,
}

enum Outgoing {
    Whole(Bytes),
    Parts(mpsc::Receiver<Bytes>),
}

/// Hands a request to the loop, and waits for the head of its answer.
///
/// # Cancel safety
/// Dropping the future, or the answer before its end, cancels the task of the request.
pub(crate) async fn answer(
    queue: Arc<Queue>,
    request: Request,
    context: RequestContext,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = match begin(&parts.headers, body).await {
        Ok(body) => body,
        Err(error) => return plain(StatusCode::BAD_REQUEST, error),
    };
    let shared = Arc::new(Shared::default());
    let guard = CancelOnDrop { queue: queue.clone(), shared: shared.clone() };
    let (reply, replied) = oneshot::channel();
    let own = queue.clone();
    let (runtime, arrival) = (Handle::current(), Arrival::now(context));
    let is_grpc = parts.headers.contains_key(HEADER_GRPC);
    queue.push(move |py, handler| {
        let request = HttpRequest {
            head: Head::new(parts, arrival),
            queue: own,
            runtime,
            shared,
            incoming: Arc::new(Mutex::new(body)),
            answer: Mutex::new(Answer::Waiting(reply)),
            status: AtomicU16::new(0),
        };
        let method = if is_grpc { intern!(py, "grpc") } else { intern!(py, "http") };
        handler.call_method1(method, (Py::new(py, request)?,)).map(drop)
    });
    let Ok(AnswerHead { status, headers, body }) = replied.await else {
        // It was dropped without an answer; the log has the reason.
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error".to_owned());
    };
    let body = match body {
        Outgoing::Whole(bytes) => Body::from(bytes),
        Outgoing::Parts(parts) => Body::new(Parts { parts, guard }),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A short body is read whole before Python hears of the request.
async fn begin(headers: &HeaderMap, body: Body) -> Result<Incoming, String> {
    let length = match headers.get(header::CONTENT_LENGTH) {
        Some(length) => length.to_str().ok().and_then(|length| length.parse::<u64>().ok()),
        None if headers.contains_key(header::TRANSFER_ENCODING) => None,
        None => Some(0),
    };
    if length.is_some_and(|length| length <= MAX_WHOLE_BYTES) {
        let whole = body.collect().await.map_err(|error| error.to_string())?;
        return Ok(Incoming::Whole(whole.to_bytes()));
    }
    Ok(Incoming::Parts(body))
}

pub(crate) fn plain(status: StatusCode, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The body of an answer that comes in parts.
struct Parts {
    parts: mpsc::Receiver<Bytes>,
    guard: CancelOnDrop,
}

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        self.parts.poll_recv(cx).map(|part| match part {
            Some(bytes) => Some(Ok(Frame::data(bytes))),
            None if self.guard.shared.is_answered() => None,
            None => Some(Err("the code that makes the answer has failed".into())),
        })
    }
}

/// A request, as the loop sees it.
#[pyclass(frozen, module = "tyndall._tyndall")]
pub(crate) struct HttpRequest {
    head: Head,
    queue: Arc<Queue>,
    runtime: Handle,
    shared: Arc<Shared>,
    incoming: Arc<Mutex<Incoming>>,
    answer: Mutex<Answer>,
    status: AtomicU16,
}

#[pymethods]
impl HttpRequest {
    #[getter]
    fn context(&self) -> Context {
        self.head.arrival.shown()
    }

    #[getter]
    pub(crate) fn method(&self) -> &str {
        self.head.method.as_str()
    }

    /// Milliseconds since it arrived.
    #[getter]
    fn elapsed_ms(&self) -> f64 {
        self.head.arrival.elapsed_ms()
    }

    /// The path as it was sent.
    #[getter]
    pub(crate) fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// Whether the answer is complete.
    #[getter]
    fn is_answered(&self) -> bool {
        self.shared.is_answered()
    }

    /// Whether the client went away before it.
    #[getter]
    fn is_gone(&self) -> bool {
        self.shared.is_gone()
    }

    /// Whether the answer has begun.
    #[getter]
    fn is_begun(&self) -> bool {
        !matches!(*lock(&self.answer), Answer::Waiting(_) | Answer::Begun(..))
    }

    /// The status that the client has read, 499 if it did not stay, or 500 without a whole answer.
    #[getter]
    pub(crate) fn status(&self) -> u16 {
        match self.status.load(Ordering::Relaxed) {
            _ if self.is_gone() => 499,
            0 => 500,
            status => status,
        }
    }

    /// The task to cancel when the client goes away.
    fn set_task(&self, task: Py<PyAny>) {
        self.shared.set_task(task);
    }

    /// The scope of ASGI.
    fn scope<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.head.scope(py, Kind::Http)
    }

    /// The next message of the client: what ASGI awaits of `receive`.
    fn receive(slf: Py<Self>, py: Python<'_>) -> PyResult<Py<PyAny>> {
        awaitable(py, Awaited::Http(slf))
    }

    /// Takes a message of ASGI.
    fn send(&self, py: Python<'_>, message: &Bound<'_, PyDict>) -> PyResult<Py<PyAny>> {
        let kind = field(message, intern!(py, "type"))?;
        let kind = kind.ok_or_else(|| PyValueError::new_err("a message has no type"))?;
        match kind.extract::<PyBackedStr>()?.as_ref() {
            "http.response.start" => self.send_head(py, message),
            "http.response.body" => {
                let bytes = match field(message, intern!(py, "body"))? {
                    Some(body) => to_bytes(&body)?,
                    None => Bytes::new(),
                };
                let more = field(message, intern!(py, "more_body"))?;
                let more = more.map_or(Ok(false), |more| more.is_truthy())?;
                self.send_part(py, bytes, more)
            }
            other => Err(PyValueError::new_err(format!(
                "{other:?} is not a message of an answer; send http.response.start, then \
                 http.response.body"
            ))),
        }
    }

    /// A whole answer at once.
    fn reply(&self, status: u16, content_type: &str, body: &Bound<'_, PyAny>) -> PyResult<()> {
        let body = to_bytes(body)?;
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(header::CONTENT_TYPE, value(content_type.as_bytes())?);
        self.reply_whole(status_of(status)?, headers, body);
        Ok(())
    }

    /// As `reply`, with headers.
    fn reply_with(
        &self,
        status: u16,
        headers: Vec<(String, String)>,
        body: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let body = to_bytes(body)?;
        let mut map = HeaderMap::with_capacity(headers.len());
        for (name, text) in headers {
            map.append(name_of(name.as_bytes())?, value(text.as_bytes())?);
        }
        self.reply_whole(status_of(status)?, map, body);
        Ok(())
    }

    /// The task is over. What is not complete by now never will be: an answer that has not begun
    /// is a 500, one that has is broken off.
    fn close(&self) {
        let answer = std::mem::replace(&mut *lock(&self.answer), Answer::Done);
        if !matches!(answer, Answer::Done) && !self.is_gone() {
            // Before the answer is dropped, at which the connection ends.
            self.shared.broken_off();
            self.status.store(500, Ordering::Relaxed);
        }
    }
}

impl HttpRequest {
    pub(crate) fn arrival(&self) -> &Arrival {
        &self.head.arrival
    }

    fn reply_whole(&self, status: StatusCode, headers: HeaderMap, body: Bytes) {
        let answer = std::mem::replace(&mut *lock(&self.answer), Answer::Done);
        self.shared.answered();
        if let Answer::Waiting(reply) | Answer::Begun(reply, ..) = answer {
            self.status.store(status.as_u16(), Ordering::Relaxed);
            // Nobody waits for it when the client is gone.
            drop(reply.send(AnswerHead { status, headers, body: Outgoing::Whole(body) }));
        }
    }

    fn send_head(&self, py: Python<'_>, message: &Bound<'_, PyDict>) -> PyResult<Py<PyAny>> {
        let status = field(message, intern!(py, "status"))?;
        let status = status.ok_or_else(|| PyValueError::new_err("an answer has no status"))?;
        let status = status_of(status.extract()?)?;
        let headers = headers_of(message)?;
        let mut answer = lock(&self.answer);
        *answer = match std::mem::replace(&mut *answer, Answer::Done) {
            Answer::Waiting(reply) => Answer::Begun(reply, status, headers),
            Answer::Done if self.shared.is_gone() => Answer::Done,
            other => {
                *answer = other;
                return Err(PyRuntimeError::new_err("the answer has begun already"));
            }
        };
        drop(answer);
        self.status.store(status.as_u16(), Ordering::Relaxed);
        ready(py, py.None().into_bound(py))
    }

    fn send_part(&self, py: Python<'_>, bytes: Bytes, more: bool) -> PyResult<Py<PyAny>> {
        let mut answer = lock(&self.answer);
        let parts = match std::mem::replace(&mut *answer, Answer::Done) {
            Answer::Begun(reply, status, headers) if !more => {
                self.shared.answered();
                drop(reply.send(AnswerHead { status, headers, body: Outgoing::Whole(bytes) }));
                return ready(py, py.None().into_bound(py));
            }
            Answer::Begun(reply, status, headers) => {
                let (parts, body) = mpsc::channel(MAX_PARTS);
                drop(reply.send(AnswerHead { status, headers, body: Outgoing::Parts(body) }));
                parts
            }
            Answer::Parts(parts) => parts,
            Answer::Waiting(reply) => {
                *answer = Answer::Waiting(reply);
                return Err(PyRuntimeError::new_err(
                    "http.response.body comes after http.response.start",
                ));
            }
            Answer::Done if self.shared.is_gone() => {
                return ready(py, py.None().into_bound(py));
            }
            Answer::Done => {
                return Err(PyRuntimeError::new_err("the answer is complete already"));
            }
        };
        if more {
            *answer = Answer::Parts(parts.clone());
        } else {
            self.shared.answered();
        }
        drop(answer);
        if bytes.is_empty() {
            return ready(py, py.None().into_bound(py));
        }
        match parts.try_send(bytes) {
            Err(mpsc::error::TrySendError::Full(bytes)) => {
                when_done(py, (&self.runtime, &self.queue), async move {
                    // It fails when the client is gone, which the task is told by itself.
                    drop(parts.send(bytes).await);
                })
            }
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {
                ready(py, py.None().into_bound(py))
            }
        }
    }
}

impl Inbox for HttpRequest {
    fn waiters(&self) -> &Waiters {
        &self.shared.waiters
    }

    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let mut incoming = lock(&self.incoming);
        let part = match std::mem::replace(&mut *incoming, Incoming::Read) {
            Incoming::Whole(bytes) => Some((bytes, false)),
            Incoming::Heard(part, rest) => {
                *incoming = rest.map_or(Incoming::Read, Incoming::Parts);
                part
            }
            Incoming::Read if self.shared.is_gone() => None,
            not_yet => {
                *incoming = not_yet;
                return Ok(None);
            }
        };
        drop(incoming);
        message_of(py, part).map(Some)
    }

    fn read_on(&self) {
        let mut incoming = lock(&self.incoming);
        let mut body = match std::mem::replace(&mut *incoming, Incoming::Reading) {
            Incoming::Parts(body) => body,
            other => {
                *incoming = other;
                return;
            }
        };
        drop(incoming);
        let (queue, incoming) = (self.queue.clone(), self.incoming.clone());
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            let part = next_part(&mut body).await;
            let has_more = matches!(part, Some((_, true)));
            *lock(&incoming) = Incoming::Heard(part, has_more.then_some(body));
            queue.push(move |py, _| shared.waiters.wake(py));
        });
    }
}

async fn next_part(body: &mut Body) -> Part {
    loop {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    return Some((bytes, true));
                }
            }
            Some(Err(_)) => return None,
            None => return Some((Bytes::new(), false)),
        }
    }
}

fn message_of(py: Python<'_>, part: Part) -> PyResult<Bound<'_, PyDict>> {
    let message = PyDict::new(py);
    match part {
        Some((bytes, more)) => {
            message.set_item(intern!(py, "type"), intern!(py, "http.request"))?;
            message.set_item(intern!(py, "body"), PyBytes::new(py, &bytes))?;
            message.set_item(intern!(py, "more_body"), more)?;
        }
        None => message.set_item(intern!(py, "type"), intern!(py, "http.disconnect"))?,
    }
    Ok(message)
}

/// What a message has under a name; None is as good as nothing.
pub(crate) fn field<'py>(
    message: &Bound<'py, PyDict>,
    name: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    Ok(message.get_item(name)?.filter(|value| !value.is_none()))
}

/// A field that is a text; None is as good as nothing.
pub(crate) fn text_field(
    message: &Bound<'_, PyDict>,
    name: &Bound<'_, PyString>,
) -> PyResult<Option<PyBackedStr>> {
    field(message, name)?.map(|text| text.extract()).transpose()
}

/// The headers of a message.
pub(crate) fn headers_of(message: &Bound<'_, PyDict>) -> PyResult<HeaderMap> {
    let mut headers = HeaderMap::new();
    let Some(given) = field(message, intern!(message.py(), "headers"))? else {
        return Ok(headers);
    };
    for pair in given.try_iter()? {
        let (name, text): (PyBackedBytes, PyBackedBytes) = pair?.extract()?;
        let name = name_of(&name)?;
        // How the answer is framed is the server's business.
        if name != header::TRANSFER_ENCODING && name != header::CONNECTION {
            headers.append(name, value(&text)?);
        }
    }
    Ok(headers)
}

/// Bytes of a `bytes`, or of what lies in memory like one.
pub(crate) fn to_bytes(value: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    /// What is shorter is cheaper copied.
    const MAX_COPIED: usize = 16 << 10;
    if let Ok(bytes) = value.extract::<PyBackedBytes>() {
        let is_short = bytes.len() <= MAX_COPIED;
        return Ok(if is_short {
            Bytes::copy_from_slice(&bytes)
        } else {
            Bytes::from_owner(bytes)
        });
    }
    // Python makes as many zeros of a number.
    let view = PyMemoryView::from(value).map_err(|_| not_bytes(value))?;
    let made = value.py().get_type::<PyBytes>().call1((view,))?;
    Ok(Bytes::copy_from_slice(&made.extract::<PyBackedBytes>()?))
}

fn not_bytes(value: &Bound<'_, PyAny>) -> PyErr {
    let kind = value.get_type();
    let kind = kind.name().map_or_else(|_| "body".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!("bytes are wanted, not {kind}\nsend bytes, such as text.encode()"))
}

pub(crate) fn status_of(status: u16) -> PyResult<StatusCode> {
    StatusCode::from_u16(status).map_err(|_| {
        PyValueError::new_err(format!("{status} is not a status of HTTP; use 100 to 999"))
    })
}

fn name_of(name: &[u8]) -> PyResult<HeaderName> {
    HeaderName::from_bytes(name).map_err(|_| {
        let name = String::from_utf8_lossy(name);
        PyValueError::new_err(format!("{name:?} cannot be the name of a header"))
    })
}

pub(crate) fn value(text: &[u8]) -> PyResult<HeaderValue> {
    HeaderValue::from_bytes(text).map_err(|_| {
        let text = String::from_utf8_lossy(text);
        PyValueError::new_err(format!("{text:?} cannot be the value of a header"))
    })
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
