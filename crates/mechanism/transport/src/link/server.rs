//! The server's end of a link.

use super::WINDOW;
use super::driver::{Driver, Outbox, Side};
use super::frame::{Frame, Kind, broken};
use super::head;
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
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// A body in one piece up to this goes with its head.
const MAX_WHOLE: usize = 32 << 10;
/// What is told of a failure, in bytes.
const MAX_REASON: usize = 4 << 10;
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
struct Shared {
    outbox: Outbox,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    answering: HashMap<u64, Answering>,
    is_leaving: bool,
}

/// An answer that is not over.
#[derive(Debug)]
struct Answering {
    /// Of the task, once it is known.
    abort: Option<AbortHandle>,
    /// So many bytes may be sent.
    credit: usize,
    writer: Option<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends an answer with a frame, unless the client has left it.
    fn end(&self, id: u64, kind: Kind, fill: impl FnOnce(&mut BytesMut)) {
        if self.lock().answering.remove(&id).is_some() {
            self.outbox.put(kind, id, fill);
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
        let answering = std::mem::take(&mut self.shared.lock().answering);
        answering.into_values().filter_map(|one| one.abort).for_each(|task| task.abort());
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
        let answering = Answering { abort: None, credit: WINDOW, writer: None };
        state.answering.insert(id, answering);
        drop(state);
        let one = One { shared: self.shared.clone(), id };
        let task = tokio::spawn(one.answer(self.handler.clone(), frame.payload));
        if let Some(answering) = self.shared.lock().answering.get_mut(&id) {
            answering.abort = Some(task.abort_handle());
        }
    }

    fn cancel(&self, id: u64) {
        let answering = self.shared.lock().answering.remove(&id);
        answering.and_then(|one| one.abort).into_iter().for_each(|task| task.abort());
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
struct One {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for One {
    fn drop(&mut self) {
        self.fail("the server gave the request up");
    }
}

impl One {
    fn fail(&self, why: &str) {
        let why = &why[..why.floor_char_boundary(MAX_REASON)];
        self.shared.end(self.id, Kind::Fail, |out| out.put_slice(why.as_bytes()));
    }

    fn trailers(&self, trailers: &HeaderMap) {
        if header_bytes(trailers) > MAX_HEAD_BYTES {
            return self.fail("the trailers are too long");
        }
        self.shared.end(self.id, Kind::End, |out| head::put_trailers(out, trailers));
    }

    async fn answer<H: Handler>(self, handler: H, payload: Bytes) {
        let (method, response) = match head::request(&payload) {
            Ok((request, body)) => {
                drop(payload);
                let method = request.method().clone();
                let request: Request<RequestBody> = request.map(|()| RequestBody::whole(body));
                (method, handler.handle(request).await)
            }
            Err(error) => (Method::GET, text(StatusCode::BAD_REQUEST, error.to_string())),
        };
        self.send(&method, response).await;
    }

    async fn send(self, method: &Method, response: Response<Body>) {
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
        self.pieces(first, body).await;
    }

    fn whole(&self, parts: &response::Parts, length: Option<u64>, body: &[u8]) {
        self.shared.end(self.id, Kind::Whole, |out| {
            head::put_answer(out, parts, length);
            out.put_slice(body);
        });
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
        &self,
        mut next: Option<std::result::Result<http_body::Frame<Bytes>, BoxError>>,
        mut body: Body,
    ) {
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
        self.shared.end(self.id, Kind::End, |_| {});
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
