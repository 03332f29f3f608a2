//! A place at a replica of another process, for a call that its caller has not made yet.

use super::routes::{decode, decode_stream, unsent};
use crate::caller::{Call, Reservation};
use crate::error::{Error, Result};
use crate::kept::Kept;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use http::Response;
use serde_json::Value;
use tokio::time::Instant;
use tyndall_router::{AnswerBody, Reservation as Place, SendErrorKind};
use tyndall_types::ReplicaId;
use tyndall_types::protocol::JsonText;

pub(super) struct Reserved {
    replica: ReplicaId,
    metadata: JsonText,
    kept: Kept<Place>,
    call: Call,
    begun: Instant,
}

impl Reserved {
    pub(super) fn new(place: Place, call: Call) -> Self {
        let (replica, metadata) = (place.replica().clone(), place.metadata().clone());
        let kept = Kept::until(call.context.deadline, place);
        Self { replica, metadata, kept, call, begun: Instant::now() }
    }

    /// Sends the call; the answer's body holds the place.
    async fn send(&self, body: Bytes) -> Result<Response<AnswerBody>> {
        let (call, replica) = (&self.call, &self.replica);
        let Some(place) = self.kept.take() else {
            return Err(Error::timeout(&call.context, self.begun));
        };
        match place.send(&body).await {
            Ok(answer) => Ok(answer.response),
            Err(error) => Err(match error.kind {
                SendErrorKind::Lost { reason, .. } => Error::ReplicaUnavailable {
                    message: format!(
                        "replica {replica} of {}, which was chosen, is no longer available: \
                         {reason}; choose again if the call may run twice",
                        call.deployment
                    ),
                },
                other => unsent(other, &call.deployment, &call.context, self.begun),
            }),
        }
    }
}

impl Reservation for Reserved {
    fn replica(&self) -> &str {
        self.replica.as_str()
    }

    fn metadata(&self) -> Value {
        self.metadata.value()
    }

    fn call(self: Box<Self>, body: Bytes) -> BoxFuture<'static, Result<Bytes>> {
        async move { decode(self.call.encoding, self.send(body).await?).await }.boxed()
    }

    fn stream(self: Box<Self>, body: Bytes) -> BoxStream<'static, Result<Bytes>> {
        let calling = async move { decode_stream(self.call.encoding, self.send(body).await) };
        stream::once(calling).flatten().boxed()
    }
}
