//! The bodies of answers: what holds the permit, and what counts.

use crate::grant::Grant;
use crate::stream::EventStream;
use crate::usage;
use bytes::{Bytes, BytesMut};
use http::Method;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tyndall_openai::ApiError;
use tyndall_router::AnswerBody;
use tyndall_telemetry::ProxyMetrics;
use tyndall_transport::{Body, BoxError};
use tyndall_types::TokenUsage;

/// A replica's answer on its way to the client.
///
/// The permit ends with the last byte, or when the client goes away and the body is dropped, which
/// also closes the connection to the replica and so cancels its work.
///
/// When the replica is lost midway or silent for too long, or the drain time is over, a model's
/// event stream ends as its API ends failed ones, since its status is spent; any other body is cut,
/// so that the client cannot take it for whole. Events are passed on whole only: a torn one would
/// spoil the error event after it.
pub(crate) struct ReplicaBody {
    /// Gone when it is over, and with it the permit.
    inner: Option<AnswerBody>,
    events: Option<Events>,
    ready: VecDeque<Frame<Bytes>>,
    /// The stream's last event was passed on.
    is_done: bool,
    clock: Clock,
    /// There since the first pause.
    cut: Option<Cut>,
    served: Served,
}

/// Events on their way.
struct Events {
    stream: EventStream,
    /// The beginning of an event.
    tail: BytesMut,
}

/// Whose answer a body is, and what may end it.
pub(crate) struct Served {
    /// What metrics call the deployment.
    pub(crate) label: Arc<str>,
    /// How its event streams end; none passes them on as they are.
    pub(crate) stream: Option<EventStream>,
    pub(crate) metrics: Arc<ProxyMetrics>,
    /// True when everything ends.
    pub(crate) is_cut: watch::Receiver<bool>,
    pub(crate) limit: AnswerLimit,
    /// Whose key it was asked with, where keys are wanted.
    pub(crate) grant: Option<Grant>,
}

impl Served {
    /// What a replica tells of usage. A program's word is not taken for it.
    pub(crate) fn learn(&mut self, usage: Option<TokenUsage>) {
        if let (Some(grant), Some(usage)) =
            (&mut self.grant, usage.filter(|_| self.stream.is_some()))
        {
            grant.learn(usage);
        }
    }

    fn take_notes(&mut self, events: Bytes) -> Bytes {
        let Some(grant) = &mut self.grant else { return events };
        let (events, completion) = usage::take_notes(events);
        completion.into_iter().for_each(|completion| grant.learn_completion(completion));
        events
    }
}

/// How long an answer may take once it has begun.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AnswerLimit {
    /// As long as it comes.
    None,
    /// A longer pause of the replica ends it. The time that the client takes does not count.
    Silence(Duration),
    /// It is over by then.
    Whole(Instant),
}

/// Tells when an answer's time is over. Most answers come whole and never wait: the timer is made
/// with the first pause.
struct Clock {
    limit: AnswerLimit,
    timer: Option<Pin<Box<Sleep>>>,
    is_running: bool,
}

impl Clock {
    fn new(limit: AnswerLimit) -> Self {
        Self { limit, timer: None, is_running: false }
    }

    /// Asked before the replica is asked for more: a fast one never lets the client wait.
    fn is_late(&self) -> bool {
        matches!(self.limit, AnswerLimit::Whole(until) if Instant::now() >= until)
    }

    /// While the replica says nothing.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Lost> {
        let (until, lost) = match self.limit {
            AnswerLimit::None => return Poll::Pending,
            AnswerLimit::Whole(until) => (until, Lost::Late),
            AnswerLimit::Silence(max) => (Instant::now() + max, Lost::Silent(max)),
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if !self.is_running {
            self.is_running = true;
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx).map(|()| lost)
    }

    /// The replica said something.
    fn restart(&mut self) {
        self.is_running = matches!(self.limit, AnswerLimit::Whole(_));
    }
}

/// Resolves when everything ends.
pub(crate) type Cut = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) fn cut(mut is_cut: watch::Receiver<bool>) -> Cut {
    Box::pin(async move { drop(is_cut.wait_for(|is_cut| *is_cut).await) })
}

/// Why a replica's answer is not whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    #[error("the replica broke off in the middle of the answer; its lines in the log say why")]
    Broken,
    #[error("the replica said nothing for {0:?} in the middle of the answer")]
    Silent(Duration),
    #[error("the time of the request was over in the middle of the answer")]
    Late,
    #[error("the server shut down in the middle of the answer")]
    Cut,
}

impl ReplicaBody {
    pub(crate) fn new(inner: AnswerBody, served: Served, is_event_stream: bool) -> Self {
        Self {
            inner: Some(inner),
            events: served
                .stream
                .filter(|_| is_event_stream)
                .map(|stream| Events { stream, tail: BytesMut::new() }),
            ready: VecDeque::new(),
            is_done: false,
            clock: Clock::new(served.limit),
            cut: None,
            served,
        }
    }

    fn frame(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => self.data(data),
            Err(trailers) => {
                // Whoever sends them has come to its end.
                self.is_done = true;
                self.flush();
                if let Ok(mut trailers) = trailers.into_trailers() {
                    self.served.learn(usage::take(&mut trailers));
                    self.ready.push_back(Frame::trailers(trailers));
                }
            }
        }
    }

    fn data(&mut self, data: Bytes) {
        let Some(Events { stream, tail }) = &mut self.events else {
            self.ready.push_back(Frame::data(data));
            return;
        };
        let whole = if tail.is_empty() && data.ends_with(b"\n\n") {
            data
        } else {
            tail.extend_from_slice(&data);
            let end = tail.windows(2).rposition(|pair| pair == b"\n\n");
            let Some(end) = end else { return };
            tail.split_to(end + 2).freeze()
        };
        let whole = self.served.take_notes(whole);
        self.is_done |= stream.pass(&whole);
        self.ready.push_back(Frame::data(whole));
    }

    fn flush(&mut self) {
        if let Some(events) = self.events.as_mut().filter(|events| !events.tail.is_empty()) {
            let rest = events.tail.split();
            self.ready.push_back(Frame::data(rest.freeze()));
        }
    }

    /// What ends it while the replica says nothing.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Lost> {
        let is_cut = &self.served.is_cut;
        let ends = self.cut.get_or_insert_with(|| cut(is_cut.clone()));
        match ends.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Lost::Cut),
            Poll::Pending => self.clock.poll(cx),
        }
    }

    /// No more comes; the error is for a body that cannot say so itself.
    fn lost(&mut self, why: Lost) -> Option<Lost> {
        let replica = self.inner.take().map(|inner| inner.replica().to_string());
        if self.is_done {
            return None;
        }
        tracing::warn!(deployment = &*self.served.label, replica, "{why}");
        self.served.metrics.stream_broken(&self.served.label);
        let Some(Events { stream, .. }) = &self.events else { return Some(why) };
        let error = ApiError::replica_lost(why.to_string());
        self.ready.push_back(Frame::data(stream.failed(&error).into()));
        None
    }
}

impl HttpBody for ReplicaBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            if let Some(frame) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
            let why = if this.clock.is_late() {
                Lost::Late
            } else {
                match Pin::new(inner).poll_frame(cx) {
                    Poll::Pending => ready!(this.poll_end(cx)),
                    Poll::Ready(Some(Ok(frame))) => {
                        this.clock.restart();
                        this.frame(frame);
                        continue;
                    }
                    Poll::Ready(None) if this.events.is_some() && !this.is_done => Lost::Broken,
                    Poll::Ready(None) => {
                        this.inner = None;
                        this.flush();
                        continue;
                    }
                    Poll::Ready(Some(Err(_))) => Lost::Broken,
                }
            };
            if let Some(error) = this.lost(why) {
                return Poll::Ready(Some(Err(error.into())));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_over = |inner: &AnswerBody| self.events.is_none() && inner.is_end_stream();
        self.ready.is_empty() && self.inner.as_ref().is_none_or(is_over)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) if self.events.is_none() => inner.size_hint(),
            Some(_) | None => SizeHint::default(),
        }
    }
}

/// Counts a request when its answer is over: at the last byte, or when the client is gone.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) metrics: Arc<ProxyMetrics>,
    pub(crate) handler: &'static str,
    pub(crate) method: Method,
    pub(crate) started: std::time::Instant,
    /// 499, as nginx says it, until there is an answer.
    pub(crate) status: u16,
}

impl Drop for Observer {
    fn drop(&mut self) {
        let after = self.started.elapsed();
        self.metrics.answered(self.handler, self.method.as_str(), self.status, after);
    }
}

/// A body that is observed.
pub(crate) struct ObservedBody {
    pub(crate) inner: Body,
    pub(crate) observer: Option<Observer>,
}

impl HttpBody for ObservedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if polled.is_none() {
            self.observer = None;
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
