//! The client's end of a link.

use super::WINDOW;
use super::driver::{Driver, Outbox, Side};
use super::frame::{Frame, Kind, broken};
use super::head;
use crate::wire::{self, Framing, Outgoing};
use bytes::{BufMut, Bytes};
use http::{Method, Response};
use http_body::SizeHint;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite};

/// Why a link has no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The server has not begun the request, and does not.
    Unsent,
    /// It may have.
    Broken(Error),
}

/// A link to a server. Dropped, it takes no more requests, and ends when those that it has are over.
#[derive(Debug)]
pub(crate) struct Link {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    outbox: Outbox,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<u64, Waiting>,
    next: u64,
    phase: Phase,
}

/// What has come for a request.
#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<Frame>,
    reader: Option<Waker>,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Open,
    /// No more requests.
    Leaving,
    Broken {
        /// Bytes that have left.
        written: u64,
        kind: ErrorKind,
        why: Arc<str>,
    },
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Open) {
            state.phase = Phase::Leaving;
        }
        drop(state);
        self.outbox.wake();
    }

    /// Nothing more is wanted of a request.
    fn forget(&self, id: u64) {
        let mut state = self.lock();
        let forgotten = state.waiting.remove(&id);
        let is_over = state.waiting.is_empty() && !matches!(state.phase, Phase::Open);
        drop(state);
        if is_over {
            self.outbox.wake();
        }
        drop(forgotten);
    }

    /// The next frame of a request; an error when the link is broken and nothing is left.
    fn poll_frame(&self, id: u64, cx: &mut Context<'_>) -> Poll<Result<Frame>> {
        let mut state = self.lock();
        let State { waiting, phase, .. } = &mut *state;
        let Some(waiting) = waiting.get_mut(&id) else {
            return Poll::Ready(Err(broken("the request is over")));
        };
        if let Some(frame) = waiting.frames.pop_front() {
            return Poll::Ready(Ok(frame));
        }
        if let Phase::Broken { kind, why, .. } = phase {
            return Poll::Ready(Err(Error::new(*kind, why.to_string())));
        }
        if !waiting.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            waiting.reader = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Nothing comes or goes any more, because of this.
    fn broke(&self, written: u64, error: &Error) {
        let why = error.to_string().into();
        let mut state = self.lock();
        state.phase = Phase::Broken { written, kind: error.kind(), why };
        let readers = state.waiting.values_mut().filter_map(|waiting| waiting.reader.take());
        let readers: Vec<Waker> = readers.collect();
        drop(state);
        readers.into_iter().for_each(Waker::wake);
    }

    /// Whether nothing of what begins there has left.
    fn is_unsent(&self, start: u64) -> bool {
        matches!(self.lock().phase, Phase::Broken { written, .. } if written <= start)
    }
}

impl Side for Shared {
    fn take(&self, frames: &mut Vec<Frame>) -> Result<()> {
        let mut readers = Vec::new();
        let mut state = self.lock();
        for frame in frames.drain(..) {
            match frame.kind {
                Kind::Request | Kind::Cancel | Kind::Credit => {
                    return Err(broken("a server does not ask"));
                }
                Kind::Leave => {
                    if matches!(state.phase, Phase::Open) {
                        state.phase = Phase::Leaving;
                    }
                }
                Kind::Whole | Kind::Head | Kind::Data | Kind::End | Kind::Fail | Kind::Refused => {
                    // Of one that nobody waits for any more, something may still come.
                    let Some(waiting) = state.waiting.get_mut(&frame.id) else { continue };
                    waiting.frames.push_back(frame);
                    readers.extend(waiting.reader.take());
                }
            }
        }
        drop(state);
        readers.into_iter().for_each(Waker::wake);
        Ok(())
    }

    fn is_over(&self) -> bool {
        let state = self.lock();
        state.waiting.is_empty() && !matches!(state.phase, Phase::Open)
    }
}

/// Tells those who wait when the driver is dropped, as when its runtime ends.
struct Driving {
    shared: Arc<Shared>,
    written: u64,
    end: Option<Error>,
}

impl Drop for Driving {
    fn drop(&mut self) {
        let end = self.end.take();
        let end = end.unwrap_or_else(|| Error::new(ErrorKind::Interrupted, "its task was ended"));
        self.shared.broke(self.written, &end);
    }
}

async fn drive(
    mut driver: Driver<impl AsyncRead + AsyncWrite + Send + Unpin>,
    mut driving: Driving,
) {
    let ran = driver.run(&driving.shared.outbox, &*driving.shared).await;
    driving.written = driver.written;
    driving.end =
        Some(ran.err().unwrap_or_else(|| {
            Error::new(ErrorKind::UnexpectedEof, "the peer ended the connection")
        }));
}

impl Link {
    /// A link by a connection that has left HTTP, and what drives it until it is over.
    pub(crate) fn new(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let shared = Arc::<Shared>::default();
        let driver = Driver::new(stream);
        // Until it has run, nobody knows that nothing has left.
        let driving = Driving { shared: shared.clone(), written: u64::MAX, end: None };
        let drive = drive(driver, driving);
        (Self { shared }, drive)
    }

    /// Whether it takes requests.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.shared.lock().phase, Phase::Open)
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Cancel safety
    /// Dropping the future tells the server that nobody waits for the answer.
    pub(crate) async fn exchange(
        &self,
        request: &Outgoing<'_>,
    ) -> std::result::Result<(Response<()>, LinkedBody), Unanswered> {
        let mut body = self.begin().ok_or(Unanswered::Unsent)?;
        let start = self.shared.outbox.put(Kind::Request, body.id, |out| {
            request.encode(out);
            out.put_slice(request.body);
        });
        let shared = &self.shared;
        match poll_fn(|cx| shared.poll_frame(body.id, cx)).await {
            Ok(frame) => body.begun(frame, request.method),
            Err(error) => {
                body.end();
                let is_unsent = shared.is_unsent(start);
                Err(if is_unsent { Unanswered::Unsent } else { Unanswered::Broken(error) })
            }
        }
    }

    /// A place for a request, unless it takes no more.
    fn begin(&self) -> Option<LinkedBody> {
        let mut state = self.shared.lock();
        if !matches!(state.phase, Phase::Open) {
            return None;
        }
        let id = state.next;
        state.next += 1;
        state.waiting.insert(id, Waiting::default());
        drop(state);
        Some(LinkedBody { shared: self.shared.clone(), id, rest: Rest::Open(None), unread: 0 })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.leave();
    }
}

/// The body of an answer by a link. Dropped before its end, it tells the server.
#[derive(Debug)]
pub(crate) struct LinkedBody {
    shared: Arc<Shared>,
    id: u64,
    rest: Rest,
    /// Bytes that were taken since the server was last told.
    unread: usize,
}

/// What is left of an answer's body.
#[derive(Debug)]
enum Rest {
    /// This, and the request is over.
    Whole(Bytes),
    /// What comes, so many bytes of it if the answer told.
    Open(Option<u64>),
    Nothing,
}

impl LinkedBody {
    /// The head of the answer, which is the first frame.
    fn begun(
        mut self,
        frame: Frame,
        method: &Method,
    ) -> std::result::Result<(Response<()>, Self), Unanswered> {
        match frame.kind {
            Kind::Refused => {
                self.end();
                Err(Unanswered::Unsent)
            }
            Kind::Whole => {
                self.end();
                let (response, body) = head::answer(&frame.payload).map_err(Unanswered::Broken)?;
                if !body.is_empty() {
                    self.rest = Rest::Whole(body);
                }
                Ok((response, self))
            }
            Kind::Head => {
                let (response, _) = head::answer(&frame.payload).map_err(Unanswered::Broken)?;
                match wire::framing(&response, method).map_err(Unanswered::Broken)? {
                    Framing::Length(0) => self.end(),
                    Framing::Length(left) => self.rest = Rest::Open(Some(left)),
                    Framing::Chunked(_) | Framing::Close | Framing::Upgrade => {}
                }
                Ok((response, self))
            }
            _ => {
                self.end();
                Err(Unanswered::Broken(failed(&frame)))
            }
        }
    }

    /// No more comes, and nobody needs to be told.
    fn end(&mut self) {
        if matches!(self.rest, Rest::Open(_)) {
            self.rest = Rest::Nothing;
            self.shared.forget(self.id);
        }
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>>>> {
        if let Rest::Whole(_) = self.rest
            && let Rest::Whole(body) = std::mem::replace(&mut self.rest, Rest::Nothing)
        {
            return Poll::Ready(Some(Ok(http_body::Frame::data(body))));
        }
        if let Rest::Nothing = self.rest {
            return Poll::Ready(None);
        }
        let frame = match ready!(self.shared.poll_frame(self.id, cx)) {
            Ok(frame) => frame,
            Err(error) => {
                self.end();
                return Poll::Ready(Some(Err(error)));
            }
        };
        let read = self.read(frame);
        if !matches!(read, Ok(Some(_))) {
            self.end();
        }
        Poll::Ready(read.transpose())
    }

    /// What a frame is of the body; nothing where it is its end.
    fn read(&mut self, frame: Frame) -> Result<Option<http_body::Frame<Bytes>>> {
        let Rest::Open(left) = &mut self.rest else { return Ok(None) };
        match frame.kind {
            Kind::Data => {
                let data = frame.payload;
                if let Some(left) = left {
                    *left = left
                        .checked_sub(data.len() as u64)
                        .ok_or_else(|| broken("the answer is longer than it said"))?;
                    if *left == 0 {
                        self.end();
                    }
                }
                self.took(data.len());
                Ok(Some(http_body::Frame::data(data)))
            }
            Kind::End if left.is_some() => {
                Err(Error::new(ErrorKind::UnexpectedEof, "the answer is shorter than it said"))
            }
            Kind::End => {
                let trailers = head::trailers(&frame.payload)?;
                self.end();
                Ok((!trailers.is_empty()).then(|| http_body::Frame::trailers(trailers)))
            }
            _ => Err(failed(&frame)),
        }
    }

    /// So much has room again.
    fn took(&mut self, bytes: usize) {
        self.unread += bytes;
        if self.unread >= WINDOW / 2 && matches!(self.rest, Rest::Open(_)) {
            let unread = u32::try_from(self.unread).unwrap_or(u32::MAX);
            self.unread = 0;
            self.shared.outbox.put(Kind::Credit, self.id, |out| out.put_u32(unread));
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        matches!(self.rest, Rest::Nothing)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match &self.rest {
            Rest::Whole(body) => SizeHint::with_exact(body.len() as u64),
            Rest::Open(Some(left)) => SizeHint::with_exact(*left),
            Rest::Open(None) => SizeHint::default(),
            Rest::Nothing => SizeHint::with_exact(0),
        }
    }
}

impl Drop for LinkedBody {
    fn drop(&mut self) {
        if matches!(self.rest, Rest::Open(_)) {
            self.shared.outbox.put(Kind::Cancel, self.id, |_| {});
            self.end();
        }
    }
}

/// What the server says of an answer that it cannot give.
fn failed(frame: &Frame) -> Error {
    match frame.kind {
        Kind::Fail => Error::other(String::from_utf8_lossy(&frame.payload).into_owned()),
        _ => broken("frames of an answer in the wrong order"),
    }
}
