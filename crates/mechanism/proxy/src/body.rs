//! The bodies of answers: what holds the permit, and what counts.

use crate::deployment::Permit;
use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::Sleep;
use tyndall_openai::ApiError;
use tyndall_telemetry::ProxyMetrics;
use tyndall_transport::{Body, BoxError, ResponseBody};

/// The last event of every stream.
const DONE: &str = "data: [DONE]\n\n";

/// A replica's answer on its way to the client.
///
/// The permit ends with the last byte, or when the client goes away and the body is dropped, which
/// also closes the connection to the replica and so cancels its work.
///
/// When the replica is lost midway or silent for too long, or the drain time is over, an event stream ends with an error event
/// and `[DONE]`, since its status is spent; any other body is cut, so that the client cannot take
/// it for whole. Events are passed on whole only: a torn one would spoil the error event after it.
pub(crate) struct ReplicaBody {
    inner: ResponseBody,
    permit: Option<Permit>,
    events: Option<BytesMut>,
    ready: VecDeque<Frame<Bytes>>,
    /// The stream's last event was passed on.
    is_done: bool,
    is_over: bool,
    silence: Silence,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    model: String,
    metrics: Arc<ProxyMetrics>,
}

/// Whose answer a body is.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) permit: Permit,
    pub(crate) model: String,
    pub(crate) metrics: Arc<ProxyMetrics>,
}

/// A deadline that each byte from the replica moves on. It only runs while the replica is waited
/// for, not while the client is.
struct Silence {
    max: Duration,
    timer: Pin<Box<Sleep>>,
    is_running: bool,
}

impl Silence {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_running {
            self.is_running = true;
            self.timer.as_mut().reset(tokio::time::Instant::now() + self.max);
        }
        self.timer.as_mut().poll(cx)
    }
}

/// Why a replica's answer is not whole.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the replica was lost in the middle of the answer")]
    Broken,
    #[error("the replica said nothing for {0:?} in the middle of the answer")]
    Silent(Duration),
    #[error("the server shut down in the middle of the answer")]
    Cut,
}

impl ReplicaBody {
    pub(crate) fn new(
        inner: ResponseBody,
        served: Served,
        is_event_stream: bool,
        max_silence: Duration,
    ) -> Self {
        let timer = Box::pin(tokio::time::sleep(max_silence));
        Self {
            inner,
            cut: Box::pin(served.permit.cut()),
            permit: Some(served.permit),
            events: is_event_stream.then(BytesMut::new),
            ready: VecDeque::new(),
            is_done: false,
            is_over: false,
            silence: Silence { max: max_silence, timer, is_running: false },
            model: served.model,
            metrics: served.metrics,
        }
    }

    fn frame(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => self.data(data),
            Err(trailers) => {
                self.flush();
                self.ready.push_back(trailers);
            }
        }
    }

    fn data(&mut self, data: Bytes) {
        let Some(tail) = &mut self.events else {
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
        self.is_done |= whole.ends_with(DONE.as_bytes());
        self.ready.push_back(Frame::data(whole));
    }

    /// The replica's answer is over, well or not.
    fn end(&mut self) {
        self.is_over = true;
        self.permit = None;
    }

    fn flush(&mut self) {
        if let Some(tail) = self.events.as_mut().filter(|tail| !tail.is_empty()) {
            let rest = tail.split();
            self.ready.push_back(Frame::data(rest.freeze()));
        }
    }

    /// No more comes; the error is for a body that cannot say so itself.
    fn lost(&mut self, why: Lost) -> Option<Lost> {
        let replica = self.permit.as_ref().map(|permit| permit.replica().to_string());
        self.end();
        if self.is_done {
            return None;
        }
        tracing::warn!(model = self.model, replica, "{why}");
        self.metrics.stream_broken(&self.model);
        if self.events.is_none() {
            return Some(why);
        }
        let error = ApiError::replica_lost(why.to_string());
        let events = format!("data: {}\n\n{DONE}", error.openai_body());
        self.ready.push_back(Frame::data(events.into()));
        None
    }
}

impl HttpBody for ReplicaBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            let why = match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Pending if self.cut.as_mut().poll(cx).is_ready() => Lost::Cut,
                Poll::Pending => {
                    std::task::ready!(self.silence.poll(cx));
                    Lost::Silent(self.silence.max)
                }
                Poll::Ready(Some(Ok(frame))) => {
                    self.silence.is_running = false;
                    self.frame(frame);
                    continue;
                }
                Poll::Ready(None) => {
                    self.flush();
                    self.end();
                    continue;
                }
                Poll::Ready(Some(Err(_))) => Lost::Broken,
            };
            if let Some(error) = self.lost(why) {
                return Poll::Ready(Some(Err(error.into())));
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        if self.events.is_some() { SizeHint::default() } else { self.inner.size_hint() }
    }
}

/// Counts a request when its answer is over: at the last byte, or when the client is gone.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) metrics: Arc<ProxyMetrics>,
    pub(crate) handler: &'static str,
    pub(crate) method: String,
    pub(crate) started: Instant,
    /// 499, as nginx says it, until there is an answer.
    pub(crate) status: u16,
}

impl Drop for Observer {
    fn drop(&mut self) {
        let after = self.started.elapsed();
        self.metrics.answered(self.handler, &self.method, self.status, after);
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
        let polled = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
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
