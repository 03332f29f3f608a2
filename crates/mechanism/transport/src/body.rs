//! Bodies: the one type that servers answer with, and how request bodies are read.

use crate::heads::Answering;
use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use serde::Serialize;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What servers answer with.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The body of a request that a server got.
#[derive(Debug)]
pub struct RequestBody(Received);

#[derive(Debug)]
enum Received {
    /// It comes by a connection of its own.
    Incoming(Incoming),
    /// It came whole.
    Whole(Full<Bytes>),
}

impl RequestBody {
    pub(crate) fn incoming(incoming: Incoming) -> Self {
        Self(Received::Incoming(incoming))
    }

    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self(Received::Whole(Full::new(bytes)))
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Received::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Received::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Received::Incoming(body) => body.is_end_stream(),
            Received::Whole(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Received::Incoming(body) => body.size_hint(),
            Received::Whole(body) => body.size_hint(),
        }
    }
}

/// Why a request body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// More bytes than allowed.
    #[error("the body is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The bound.
        limit_bytes: usize,
    },
    /// The peer went away or broke the framing.
    #[error("the body ended early")]
    Broken(#[source] BoxError),
}

/// Reads a whole body, at most `limit_bytes` of it.
///
/// # Errors
/// [`BodyError`]; after an error the rest of the body is not read.
///
/// # Cancel safety
/// Not cancel safe: what was read is lost.
pub async fn read_body<B>(mut body: B, limit_bytes: usize) -> Result<Bytes, BodyError>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    // Refused before it is sent, when its length is known and the client asked whether to send it.
    if body.size_hint().lower() > limit_bytes as u64 {
        return Err(BodyError::TooLarge { limit_bytes });
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| BodyError::Broken(e.into()))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limit_bytes {
            return Err(BodyError::TooLarge { limit_bytes });
        }
        // Small ones come in one piece, which needs no copy.
        if whole.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer without a body.
#[must_use]
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// A plain-text answer.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// A JSON answer.
///
/// # Panics
/// When the value cannot be JSON: maps with keys that are no strings.
pub fn json<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("wire types have string keys only");
    let mut response = Response::new(full(bytes));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// A body whose failure comes after all that was before it: hyper gives up a connection at the
/// error of a body, with what it has not written yet.
pub(crate) fn flushed(inner: Body, answering: Answering) -> Flushed {
    Flushed { inner, error: None, _answering: answering }
}

pub(crate) struct Flushed {
    inner: Body,
    /// Told at the next poll, before which hyper writes what it has.
    error: Option<BoxError>,
    _answering: Answering,
}

impl HttpBody for Flushed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Err(error))) => {
                self.error = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.error.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
