//! The server's end of a link.

use super::WINDOW;
use super::driver::{Driver, Outbox, Side};
use super::frame::{Frame, Kind, broken};
use super::head;
use super::worker::Worker;
use crate::body::{Body, BoxError, RequestBody, text};
use crate::server::Handler;
use crate::wire::{MAX_HEAD_BYTES, has_body, header_bytes};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, StatusCode, header, response};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io::Result;
use std::mem::take;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// A body in one piece up to this goes with its head.
const MAX_WHOLE: usize = 32 << 10;
/// What is told of a failure, in bytes.
const MAX_REASON: usize = 4 << 10;
/// Tasks that are kept for requests to come.
const MAX_IDLE: usize = 32;
/// Longer pieces are cut, so that other answers come in between.
const MAX_PIECE: usize = 16 << 10;

/// Answers the requests of a link until the client ends it. Once `stopped` is true the client is told
/// to, and what still comes is refused.
///
/// # Errors
/// When the connection breaks.
///
/// # Cancel safety
/// Dropping the future ends every answer.
pub(crate) async fn serve<H: Handler>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin,
    handler: H,
    mut stopped: watch::Receiver<bool>,
) -> Result<()> {
    let end = End { shared: Arc::default(), handler };
    let mut driver = Driver::new(stream);
    let run = driver.run(&end.shared.outbox, &end);
    let leave = async {
        drop(stopped.wait_for(|stop| *stop).await);
        end.shared.lock().is_leaving = true;
        end.shared.outbox.put(Kind::Leave, 0, |_| {});
        std::future::pending().await
    };
    tokio::select! {
        ran = run => ran,
        () = leave => Ok(()),
    }
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    outbox: Outbox,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    answering: HashMap<u64, Answering>,
    /// Those that wait for a request.
    idle: Vec<Worker>,
    is_leaving: bool,
    /// Nobody asks any more.
    is_over: bool,
}

/// An answer that is not over.
#[derive(Debug)]
struct Answering {
    worker: Worker,
    /// So many bytes may be sent.
    credit: usize,
    writer: Option<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends an answer with a frame, unless the client has left it. Returns who gave it.
    fn end(&self, id: u64, kind: Kind, fill: impl FnOnce(&mut BytesMut)) -> Option<Worker> {
        let answering = self.lock().answering.remove(&id)?;
        self.outbox.put(kind, id, fill);
        Some(answering.worker)
    }

    /// Keeps who has given an answer for the next request.
    pub(super) fn rest(&self, worker: Worker) {
        let mut state = self.lock();
        if state.idle.len() < MAX_IDLE && !state.is_over {
            state.idle.push(worker);
        }
    }

    /// Takes at most `wanted` of what may be sent, at least one byte.
    async fn credit(&self, id: u64, wanted: usize) -> usize {
        poll_fn(|cx| {
            let mut state = self.lock();
            // The client has left: the task is about to be ended.
            let Some(answering) = state.answering.get_mut(&id) else { return Poll::Pending };
            let credit = answering.credit.min(wanted);
            if credit == 0 {
                answering.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            answering.credit -= credit;
            Poll::Ready(credit)
        })
        .await
    }
}

struct End<H> {
    shared: Arc<Shared>,
    handler: H,
}

impl<H> Drop for End<H> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_over = true;
        let (answering, idle) = (take(&mut state.answering), take(&mut state.idle));
        drop(state);
        answering.into_values().for_each(|one| one.worker.abort());
        drop(idle);
    }
}

impl<H: Handler> Side for End<H> {
    fn take(&self, frames: &mut Vec<Frame>) -> Result<()> {
        for frame in frames.drain(..) {
            match frame.kind {
                Kind::Request => self.begin(frame),
                Kind::Cancel => self.cancel(frame.id),
                Kind::Credit if frame.payload.len() == 4 => {
                    self.grant(frame.id, frame.payload.clone().get_u32() as usize);
                }
                _ => return Err(broken("a client does not answer")),
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        // It is for the client to end the connection.
        false
    }
}

impl<H: Handler> End<H> {
    fn begin(&self, frame: Frame) {
        let id = frame.id;
        let mut state = self.shared.lock();
        if state.is_leaving {
            drop(state);
            self.shared.outbox.put(Kind::Refused, id, |_| {});
            return;
        }
        let worker = match state.idle.pop() {
            Some(worker) => worker,
            None => {
                drop(state);
                let worker = Worker::start(&self.shared, &self.handler);
                state = self.shared.lock();
                worker
            }
        };
        let desk = worker.desk();
        state.answering.insert(id, Answering { worker, credit: WINDOW, writer: None });
        drop(state);
        desk.put(One { shared: self.shared.clone(), id, has_ended: false }, frame.payload);
    }

    fn cancel(&self, id: u64) {
        let answering = self.shared.lock().answering.remove(&id);
        answering.into_iter().for_each(|one| one.worker.abort());
    }

    fn grant(&self, id: u64, bytes: usize) {
        let mut state = self.shared.lock();
        let Some(answering) = state.answering.get_mut(&id) else { return };
        answering.credit = answering.credit.saturating_add(bytes);
        let writer = answering.writer.take();
        drop(state);
        writer.into_iter().for_each(Waker::wake);
    }
}

/// One request. Dropped before its end, as when its handler panics, it tells the client.
#[derive(Debug)]
pub(super) struct One {
    shared: Arc<Shared>,
    id: u64,
    has_ended: bool,
}

impl Drop for One {
    fn drop(&mut self) {
        if !self.has_ended {
            drop(self.fail("the server gave the request up"));
        }
    }
}

impl One {
    /// The last frame. Returns who answered, unless the client has left.
    fn end(&mut self, kind: Kind, fill: impl FnOnce(&mut BytesMut)) -> Option<Worker> {
        self.has_ended = true;
        self.shared.end(self.id, kind, fill)
    }

    fn fail(&mut self, why: &str) -> Option<Worker> {
        let why = &why[..why.floor_char_boundary(MAX_REASON)];
        self.end(Kind::Fail, |out| out.put_slice(why.as_bytes()))
    }

    fn trailers(&mut self, trailers: &HeaderMap) -> Option<Worker> {
        if header_bytes(trailers) > MAX_HEAD_BYTES {
            return self.fail("the trailers are too long");
        }
        self.end(Kind::End, |out| head::put_trailers(out, trailers))
    }

    /// Answers, and returns who did if the client has not left.
    pub(super) async fn answer<H: Handler>(self, handler: H, payload: Bytes) -> Option<Worker> {
        let (method, response) = match head::request(&payload) {
            Ok((request, body)) => {
                drop(payload);
                let method = request.method().clone();
                let request: Request<RequestBody> = request.map(|()| RequestBody::whole(body));
                (method, handler.handle(request).await)
            }
            Err(error) => (Method::GET, text(StatusCode::BAD_REQUEST, error.to_string())),
        };
        self.send(&method, response).await
    }

    async fn send(mut self, method: &Method, response: Response<Body>) -> Option<Worker> {
        let (parts, mut body) = response.into_parts();
        if header_bytes(&parts.headers) > MAX_HEAD_BYTES {
            return self.fail("the head of the answer is too long");
        }
        let has_body = has_body(method, parts.status);
        let length = body.size_hint().exact().filter(|length| has_body || *length > 0);
        let length = length.filter(|_| allows_length(parts.status));
        let first = match has_body {
            true => poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await,
            false => Poll::Ready(None),
        };
        // Who looks at the end of a body sees it before the client does.
        match &first {
            Poll::Ready(None) if !has_body || tells(&parts, &[]) => {
                drop(body);
                return self.whole(&parts, length, &[]);
            }
            Poll::Ready(Some(Ok(frame)))
                if let Some(data) = frame.data_ref()
                    && data.len() <= MAX_WHOLE
                    && body.is_end_stream()
                    && tells(&parts, data) =>
            {
                drop(body);
                return self.whole(&parts, length, data);
            }
            _ => {}
        }
        self.shared.outbox.put(Kind::Head, self.id, |out| head::put_answer(out, &parts, length));
        let first = match first {
            Poll::Ready(frame) => frame,
            Poll::Pending => body.frame().await,
        };
        self.pieces(first, body).await
    }

    fn whole(
        &mut self,
        parts: &response::Parts,
        length: Option<u64>,
        body: &[u8],
    ) -> Option<Worker> {
        self.end(Kind::Whole, |out| {
            head::put_answer(out, parts, length);
            out.put_slice(body);
        })
    }

    async fn data(&self, mut data: Bytes) {
        while !data.is_empty() {
            let length = self.shared.credit(self.id, data.len().min(MAX_PIECE)).await;
            let piece = data.split_to(length);
            self.shared.outbox.put(Kind::Data, self.id, |out| out.put_slice(&piece));
        }
    }

    /// All frames of a body, of which one has been taken.
    async fn pieces(
        &mut self,
        mut next: Option<std::result::Result<http_body::Frame<Bytes>, BoxError>>,
        mut body: Body,
    ) -> Option<Worker> {
        while let Some(frame) = next {
            match frame.map(http_body::Frame::into_data) {
                Ok(Ok(data)) => self.data(data).await,
                Ok(Err(frame)) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        drop(body);
                        return self.trailers(&trailers);
                    }
                }
                Err(error) => return self.fail(&error.to_string()),
            }
            next = body.frame().await;
        }
        drop(body);
        self.end(Kind::End, |_| {})
    }
}

/// Whether the answer is as long as its own head says, if that says so.
fn tells(parts: &response::Parts, body: &[u8]) -> bool {
    let told = parts.headers.get(header::CONTENT_LENGTH);
    told.is_none_or(|told| told.as_bytes() == body.len().to_string().as_bytes())
}

/// Whether an answer of this status may tell a length.
fn allows_length(status: StatusCode) -> bool {
    !status.is_informational() && status != StatusCode::NO_CONTENT
}
