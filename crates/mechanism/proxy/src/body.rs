//! The bodies of answers: what holds the permit, and what counts.

use crate::deployment::Permit;
use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tyndall_openai::ApiError;
use tyndall_telemetry::ProxyMetrics;
use tyndall_transport::{Body, BoxError, ResponseBody};

/// A replica's answer on its way to the client.
///
/// The permit ends with the last byte, or when the client goes away and the body is dropped, which
/// also closes the connection to the replica and so cancels its work.
///
/// When the replica is lost midway, an event stream ends with an error event and `[DONE]`, since
/// its status is spent; any other body is cut, so that the client cannot take it for whole.
/// Events are passed on whole only: a torn one would spoil the error event after it.
pub(crate) struct ReplicaBody {
    inner: ResponseBody,
    permit: Option<Permit>,
    events: Option<BytesMut>,
    ready: VecDeque<Frame<Bytes>>,
    is_over: bool,
    model: String,
    metrics: Arc<ProxyMetrics>,
}

impl ReplicaBody {
    pub(crate) fn new(
        inner: ResponseBody,
        permit: Permit,
        is_event_stream: bool,
        model: String,
        metrics: Arc<ProxyMetrics>,
    ) -> Self {
        Self {
            inner,
            permit: Some(permit),
            events: is_event_stream.then(BytesMut::new),
            ready: VecDeque::new(),
            is_over: false,
            model,
            metrics,
        }
    }

    fn data(&mut self, data: Bytes) {
        let Some(tail) = &mut self.events else {
            self.ready.push_back(Frame::data(data));
            return;
        };
        if tail.is_empty() && data.ends_with(b"\n\n") {
            self.ready.push_back(Frame::data(data));
            return;
        }
        tail.extend_from_slice(&data);
        if let Some(end) = tail.windows(2).rposition(|pair| pair == b"\n\n") {
            let whole = tail.split_to(end + 2);
            self.ready.push_back(Frame::data(whole.freeze()));
        }
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

    fn lost(&mut self) {
        let replica = self.permit.as_ref().map(|permit| permit.replica().to_string());
        tracing::warn!(
            model = self.model,
            replica,
            "a replica was lost in the middle of an answer"
        );
        self.metrics.stream_broken(&self.model);
        let error = ApiError::internal("the replica was lost in the middle of the answer");
        let events = format!("data: {}\n\ndata: [DONE]\n\n", error.openai_body());
        self.ready.push_back(Frame::data(events.into()));
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
            match std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.data(data),
                    Err(trailers) => {
                        self.flush();
                        self.ready.push_back(trailers);
                    }
                },
                None => {
                    self.flush();
                    self.end();
                }
                Some(Err(_)) if self.events.is_some() => {
                    self.lost();
                    self.end();
                }
                Some(Err(error)) => {
                    self.metrics.stream_broken(&self.model);
                    self.end();
                    return Poll::Ready(Some(Err(error.into())));
                }
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
