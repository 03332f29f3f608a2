//! The body of an answer, which holds the permit.

use crate::deployment::Permit;
use crate::suspicion::suspect;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tyndall_transport::ResponseBody;
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
