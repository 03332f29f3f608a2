//! The body of an answer, which holds the permit, and what comes of one that is a 101.

use crate::permit::Permit;
use crate::suspicion::suspect;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::io::Result as IoResult;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tyndall_transport::{ResponseBody, Upgraded};
use tyndall_types::ReplicaId;

/// What a replica answers. The permit ends with the last byte, or when this is dropped, which also
/// closes the connection to the replica and so cancels its work.
#[derive(Debug)]
pub struct AnswerBody {
    inner: ResponseBody,
    replica: ReplicaId,
    permit: Option<Permit>,
}

impl AnswerBody {
    pub(crate) fn new(inner: ResponseBody, permit: Permit) -> Self {
        Self { inner, replica: permit.replica().clone(), permit: Some(permit) }
    }

    /// Whose answer it is.
    #[must_use]
    pub fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    /// The replica's bytes after a 101.
    #[must_use]
    pub fn upgrade(self) -> Option<ReplicaStream> {
        Some(ReplicaStream { inner: self.inner.upgrade()?, permit: self.permit? })
    }
}

/// A connection to a replica that has left HTTP. It holds the permit: a replica has it among its
/// ongoing requests for as long as it is open.
#[derive(Debug)]
pub struct ReplicaStream {
    inner: Upgraded,
    permit: Permit,
}

impl AsyncRead for ReplicaStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<IoResult<()>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buffer));
        if read.is_err() {
            suspect(&self.permit);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for ReplicaStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<IoResult<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let polled = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let (Some(Err(_)), Some(permit)) = (&polled, &self.permit) {
            suspect(permit);
        }
        if !matches!(polled, Some(Ok(_))) {
            // The connection is back in its pool before the next request gets the permit.
            self.permit = None;
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
