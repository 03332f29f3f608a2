//! A WebSocket as ASGI sees it.
//!
//! Source of the messages: the ASGI specification, HTTP & WebSocket 2.4, and its extension
//! `websocket.http.response`.
//!
//! One message at a time is read for the loop, and it waits there for whoever asks next.

use crate::http::{field, headers_of, lock, plain, status_of, text_field, to_bytes, value};
use crate::queue::Queue;
use crate::receiving::{Awaited, Inbox, Waiters, awaitable, ready, when_done};
use crate::request::{Arrival, CancelOnDrop, Context, Shared};
use crate::scope::{Head, Kind};
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use pyo3::exceptions::{PyConnectionError, PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyAny, PyBytes, PyDict, PyString};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tyndall::RequestContext;
use tyndall::websocket::{Close, Handshake, Message, Outgoing, Receiver, Sender};
use tyndall_types::HEADER_GRPC;

const GONE: &str = "the client of the WebSocket is gone; end when websocket.disconnect comes";

/// How far the answer to the handshake is.
enum Answer {
    Waiting(Handshake, oneshot::Sender<Response>),
    /// The head of a refusal is known, and its body is being collected.
    Refusing(oneshot::Sender<Response>, StatusCode, HeaderMap, BytesMut),
    Open(Sender),
    Done,
}

/// What the client says, on its way to the loop.
#[derive(Default)]
struct Hearing {
    is_told: bool,
    /// Absent before the handshake is accepted, and while a message is awaited.
    receiver: Option<Receiver>,
    /// What came, and was not taken yet.
    heard: VecDeque<Result<Message, Close>>,
}

/// Hands a handshake to the loop, and waits for its answer.
///
/// # Cancel safety
/// Dropping the future cancels the task of the WebSocket. After its answer nothing does.
pub(crate) async fn answer(
    queue: Arc<Queue>,
    request: Request,
    handshake: Handshake,
    context: RequestContext,
) -> Response {
    let (parts, _) = request.into_parts();
    let shared = Arc::new(Shared::default());
    let _guard = CancelOnDrop { queue: queue.clone(), shared: shared.clone() };
    let (reply, replied) = oneshot::channel();
    let (own, runtime, arrival) = (queue.clone(), Handle::current(), Arrival::now(context));
    let is_grpc = parts.headers.contains_key(HEADER_GRPC);
    queue.push(move |py, handler| {
        let socket = WebSocket {
            head: Head::new(parts, arrival),
            protocols: handshake.protocols().to_vec(),
            queue: own,
            runtime,
            shared,
            answer: Mutex::new(Answer::Waiting(handshake, reply)),
            hearing: Arc::default(),
        };
        let method = if is_grpc { intern!(py, "grpc_stream") } else { intern!(py, "websocket") };
        handler.call_method1(method, (Py::new(py, socket)?,)).map(drop)
    });
    replied.await.unwrap_or_else(|_| {
        // It was dropped without an answer; the log has the reason.
        plain(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error".to_owned())
    })
}

/// A WebSocket, as the loop sees it.
#[pyclass(frozen, module = "tyndall._tyndall")]
pub(crate) struct WebSocket {
    head: Head,
    protocols: Vec<String>,
    queue: Arc<Queue>,
    runtime: Handle,
    shared: Arc<Shared>,
    answer: Mutex<Answer>,
    hearing: Arc<Mutex<Hearing>>,
}

#[pymethods]
impl WebSocket {
    #[getter]
    fn context(&self) -> Context {
        self.head.arrival.shown()
    }

    /// The path as it was sent.
    #[getter]
    pub(crate) fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// Whether the handshake is accepted or refused.
    #[getter]
    fn is_answered(&self) -> bool {
        self.shared.is_answered()
    }

    /// The task to cancel when the client goes away before the handshake is answered.
    fn set_task(&self, task: Py<PyAny>) {
        self.shared.set_task(task);
    }

    /// The scope of ASGI.
    fn scope<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let scope = self.head.scope(py, Kind::WebSocket)?;
        scope.set_item(intern!(py, "subprotocols"), &self.protocols)?;
        let extensions = PyDict::new(py);
        extensions.set_item(intern!(py, "websocket.http.response"), PyDict::new(py))?;
        scope.set_item(intern!(py, "extensions"), extensions)?;
        Ok(scope)
    }

    /// The next message of the client: what ASGI awaits of `receive`.
    fn receive(slf: Py<Self>, py: Python<'_>) -> PyResult<Py<PyAny>> {
        awaitable(py, Awaited::WebSocket(slf))
    }

    /// Takes a message of ASGI.
    fn send(&self, py: Python<'_>, message: &Bound<'_, PyDict>) -> PyResult<Py<PyAny>> {
        let kind = text_field(message, intern!(py, "type"))?;
        let kind = kind.ok_or_else(|| PyValueError::new_err("a message has no type"))?;
        match &*kind {
            "websocket.accept" => self.accept(py, message),
            "websocket.send" => self.say(py, message),
            "websocket.close" => self.end(py, message),
            "websocket.http.response.start" => self.refuse(py, message),
            "websocket.http.response.body" => self.refuse_further(py, message),
            other => Err(PyValueError::new_err(format!(
                "{other:?} is not a message of a WebSocket; send websocket.accept, \
                 websocket.send or websocket.close"
            ))),
        }
    }

    /// The task is over: what is open is closed, as a failure or in an orderly way; a handshake
    /// that is not answered is a 500.
    fn close(&self, py: Python<'_>, has_failed: bool) -> PyResult<()> {
        let answer = std::mem::replace(&mut *lock(&self.answer), Answer::Done);
        self.shared.answered();
        if let Answer::Open(sender) = answer {
            let close = Close::new(if has_failed { 1011 } else { 1000 }, "");
            self.runtime.spawn(async move { sender.send(Outgoing::Close(close)).await });
        }
        lock(&self.hearing).heard.push_back(gone());
        self.shared.waiters.wake(py)
    }
}

impl WebSocket {
    pub(crate) fn arrival(&self) -> &Arrival {
        &self.head.arrival
    }

    fn accept(&self, py: Python<'_>, message: &Bound<'_, PyDict>) -> PyResult<Py<PyAny>> {
        let protocol = text_field(message, intern!(py, "subprotocol"))?;
        let protocol = protocol.map(|name| value(name.as_bytes())).transpose()?;
        let headers = headers_of(message)?;
        let mut answer = lock(&self.answer);
        let (handshake, reply) = match std::mem::replace(&mut *answer, Answer::Done) {
            Answer::Waiting(handshake, reply) => (handshake, reply),
            other => {
                *answer = other;
                return Err(self.out_of_turn("the handshake is answered already"));
            }
        };
        let _entered = self.runtime.enter();
        let (response, sender, receiver) = handshake.accept(protocol, headers);
        *answer = Answer::Open(sender);
        drop(answer);
        lock(&self.hearing).receiver = Some(receiver);
        // Who waits already reads from now on.
        self.shared.waiters.wake(py)?;
        self.reply(reply, response);
        ready(py, py.None().into_bound(py))
    }

    fn say(&self, py: Python<'_>, message: &Bound<'_, PyDict>) -> PyResult<Py<PyAny>> {
        let text = text_field(message, intern!(py, "text"))?;
        let said = match (text, field(message, intern!(py, "bytes"))?) {
            (Some(text), _) => Message::Text(text.to_string().into()),
            (None, Some(bytes)) => Message::Binary(to_bytes(&bytes)?),
            (None, None) => {
                return Err(PyValueError::new_err("websocket.send has neither text nor bytes"));
            }
        };
        let sender = match &*lock(&self.answer) {
            Answer::Open(sender) => sender.clone(),
            Answer::Waiting(..) | Answer::Refusing(..) => {
                return Err(self.out_of_turn("websocket.send comes after websocket.accept"));
            }
            Answer::Done => return Err(self.out_of_turn("the WebSocket is closed already")),
        };
        self.pass(py, sender, Outgoing::Message(said))
    }

    fn end(&self, py: Python<'_>, message: &Bound<'_, PyDict>) -> PyResult<Py<PyAny>> {
        let code = field(message, intern!(py, "code"))?;
        let code = code.map_or(Ok(1000), |code| code.extract())?;
        let reason = text_field(message, intern!(py, "reason"))?;
        let close = Close::new(code, reason.as_deref().unwrap_or_default());
        if !close.can_be_sent() {
            return Err(PyValueError::new_err(format!(
                "{code} is not a code to close with; use 1000, or one of 3000 to 4999"
            )));
        }
        let mut answer = lock(&self.answer);
        let reply = match std::mem::replace(&mut *answer, Answer::Done) {
            Answer::Open(sender) => {
                drop(answer);
                return self.pass(py, sender, Outgoing::Close(close));
            }
            Answer::Waiting(_, reply) => reply,
            other @ Answer::Refusing(..) => {
                *answer = other;
                return Err(self.out_of_turn("the handshake is being refused already"));
            }
            Answer::Done => return Err(self.out_of_turn("the WebSocket is closed already")),
        };
        drop(answer);
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::FORBIDDEN;
        self.refused(py, reply, response)
    }

    fn refuse(&self, py: Python<'_>, message: &Bound<'_, PyDict>) -> PyResult<Py<PyAny>> {
        let status = field(message, intern!(py, "status"))?;
        let status = status.ok_or_else(|| PyValueError::new_err("an answer has no status"))?;
        let status = status_of(status.extract()?)?;
        if status.is_informational() {
            return Err(PyValueError::new_err(format!("{status} refuses nothing; use 403")));
        }
        let headers = headers_of(message)?;
        let mut answer = lock(&self.answer);
        *answer = match std::mem::replace(&mut *answer, Answer::Done) {
            Answer::Waiting(_, reply) => Answer::Refusing(reply, status, headers, BytesMut::new()),
            other => {
                *answer = other;
                return Err(self.out_of_turn("the handshake is answered already"));
            }
        };
        ready(py, py.None().into_bound(py))
    }

    fn refuse_further(&self, py: Python<'_>, message: &Bound<'_, PyDict>) -> PyResult<Py<PyAny>> {
        let part = field(message, intern!(py, "body"))?;
        let part = part.map(|body| to_bytes(&body)).transpose()?.unwrap_or_default();
        let more = field(message, intern!(py, "more_body"))?;
        let more = more.map_or(Ok(false), |more| more.is_truthy())?;
        let mut answer = lock(&self.answer);
        match std::mem::replace(&mut *answer, Answer::Done) {
            Answer::Refusing(reply, status, headers, mut body) => {
                body.extend_from_slice(&part);
                if more {
                    *answer = Answer::Refusing(reply, status, headers, body);
                    return ready(py, py.None().into_bound(py));
                }
                drop(answer);
                let mut response = Response::new(Body::from(body.freeze()));
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                self.refused(py, reply, response)
            }
            other => {
                *answer = other;
                Err(self.out_of_turn(
                    "websocket.http.response.body comes after websocket.http.response.start",
                ))
            }
        }
    }

    fn refused(
        &self,
        py: Python<'_>,
        reply: oneshot::Sender<Response>,
        response: Response,
    ) -> PyResult<Py<PyAny>> {
        lock(&self.hearing).heard.push_back(gone());
        self.shared.waiters.wake(py)?;
        self.reply(reply, response);
        ready(py, py.None().into_bound(py))
    }

    fn reply(&self, reply: oneshot::Sender<Response>, response: Response) {
        self.shared.answered();
        // Nobody waits for it when the client is gone, which the receiver then says.
        drop(reply.send(response));
    }

    /// A future when the client is slow, which is to be awaited before the next message.
    fn pass(&self, py: Python<'_>, sender: Sender, what: Outgoing) -> PyResult<Py<PyAny>> {
        if sender.is_closed() {
            return Err(PyConnectionError::new_err(GONE));
        }
        let Err(what) = sender.try_send(what) else {
            return ready(py, py.None().into_bound(py));
        };
        when_done(py, (&self.runtime, &self.queue), async move {
            // It fails when the client is gone, which the receiver says.
            sender.send(what).await;
        })
    }

    fn out_of_turn(&self, why: &'static str) -> PyErr {
        if self.shared.is_gone() {
            return PyConnectionError::new_err(GONE);
        }
        PyRuntimeError::new_err(why)
    }
}

impl Inbox for WebSocket {
    fn waiters(&self) -> &Waiters {
        &self.shared.waiters
    }

    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let mut hearing = lock(&self.hearing);
        if !std::mem::replace(&mut hearing.is_told, true) {
            drop(hearing);
            return connect(py).map(Some);
        }
        let next = match hearing.heard.pop_front() {
            Some(next) => Some(next),
            None => hearing.receiver.as_mut().and_then(Receiver::try_next),
        };
        drop(hearing);
        next.map(|next| message_of(py, &next)).transpose()
    }

    fn read_on(&self) {
        let Some(mut receiver) = lock(&self.hearing).receiver.take() else { return };
        let (queue, hearing) = (self.queue.clone(), self.hearing.clone());
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            let next = receiver.next().await;
            let mut hearing = lock(&hearing);
            hearing.heard.push_back(next);
            hearing.receiver = Some(receiver);
            drop(hearing);
            queue.push(move |py, _| shared.waiters.wake(py));
        });
    }
}

fn gone() -> Result<Message, Close> {
    Err(Close::new(1006, ""))
}

fn connect(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let message = PyDict::new(py);
    message.set_item(intern!(py, "type"), intern!(py, "websocket.connect"))?;
    Ok(message)
}

fn message_of<'py>(
    py: Python<'py>,
    heard: &Result<Message, Close>,
) -> PyResult<Bound<'py, PyDict>> {
    let message = PyDict::new(py);
    let kind = if heard.is_ok() {
        intern!(py, "websocket.receive")
    } else {
        intern!(py, "websocket.disconnect")
    };
    message.set_item(intern!(py, "type"), kind)?;
    match heard {
        Ok(Message::Text(text)) => {
            message.set_item(intern!(py, "text"), PyString::new(py, text))?;
        }
        Ok(Message::Binary(bytes)) => {
            message.set_item(intern!(py, "bytes"), PyBytes::new(py, bytes))?;
        }
        Err(Close { code, reason }) => {
            message.set_item(intern!(py, "code"), code)?;
            message.set_item(intern!(py, "reason"), reason)?;
        }
    }
    Ok(message)
}
