//! Calls for which the replica is settled before they are sent: one that was chosen, or all.

use crate::body::AnswerBody;
use crate::deployment::{Deployment, Refusal, Waits};
use crate::permit::Permit;
use crate::send::{
    Answer, Call, SendError, SendErrorKind, TooLate, Tried, answered, broken, not_started, within,
};
use bytes::Bytes;
use http::Response;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use tokio::time::Instant;
use tyndall_routing::Failure;
use tyndall_transport::{ClientError, Opening, ResponseBody};
use tyndall_types::ReplicaId;
use tyndall_types::protocol::JsonText;

/// A place at a replica for a call whose body is still to come. The replica has the call among its
/// ongoing requests: it has its head. Dropping this gives the place back, there and here.
#[derive(Debug)]
pub struct Reservation {
    opening: Opening,
    permit: Permit,
    metadata: JsonText,
    deadline: Option<Instant>,
    waits: Waits,
}

impl Deployment {
    /// Has a replica take a call. The body says what it is chosen for, and is not sent.
    ///
    /// # Errors
    /// As [`Deployment::send`].
    ///
    /// # Cancel safety
    /// As [`Deployment::send`].
    pub async fn reserve(self: &Arc<Self>, call: &Call) -> Result<Reservation, SendError> {
        // Nothing is begun by a head alone, so that another replica may get it in any case.
        let head = Call { runs_once: false, ..call.clone() };
        let ((opening, permit), waits) =
            self.until_taken(&head, |permit| open(&head, permit)).await?;
        let route = self.route();
        let listed = route.replicas.iter().find(|replica| replica.id == *permit.replica());
        let metadata = listed.map(|replica| replica.metadata.clone()).unwrap_or_default();
        Ok(Reservation { opening, permit, metadata, deadline: call.deadline, waits })
    }

    /// Calls every replica that takes requests, however many each has. What a future gives is the
    /// answer, or none of a replica that ends and has begun nothing: it is one of those that run no
    /// longer. Dropping it cancels the work.
    ///
    /// # Errors
    /// There is no replica.
    pub fn broadcast(
        self: &Arc<Self>,
        call: &Call,
    ) -> Result<
        Vec<impl Future<Output = Option<Result<Answer, SendError>>> + Send + use<>>,
        SendError,
    > {
        let permits = self.enter_all().map_err(|refusal: Refusal| {
            self.metrics().refused(&self.label(), refusal.word());
            SendError { kind: refusal.into(), waits: None }
        })?;
        let call = Arc::new(call.clone());
        Ok(permits.into_iter().map(|permit| part(call.clone(), permit)).collect())
    }
}

async fn open(call: &Call, mut permit: Permit) -> Tried<(Opening, Permit)> {
    permit.reserve();
    let opening = match permit.client().open(&call.method, &call.uri, &call.headers).await {
        Ok(opening) => opening,
        Err(error) => return broken(error, permit),
    };
    if let Opening::Answered(response) = &opening
        && let Some(error) = not_started(response.headers())
    {
        return Tried::Failed(Failure::NotStarted, permit, error);
    }
    Tried::Taken((opening, permit))
}

impl Reservation {
    /// At which replica.
    #[must_use]
    pub fn replica(&self) -> &ReplicaId {
        self.permit.replica()
    }

    /// What the replica said of itself when it started.
    #[must_use]
    pub fn metadata(&self) -> &JsonText {
        &self.metadata
    }

    /// Sends the call. Any status is an answer.
    ///
    /// # Errors
    /// [`SendErrorKind::Lost`] when the replica is gone, [`SendErrorKind::TooLate`]; the deployment is
    /// then as it was before.
    ///
    /// # Cancel safety
    /// As [`Deployment::send`].
    pub async fn send(self, body: &Bytes) -> Result<Answer, SendError> {
        let Self { opening, mut permit, deadline, waits, .. } = self;
        permit.begin();
        let sent = pin!(async {
            match opening {
                Opening::Taken(open) => open.send(body).await,
                Opening::Answered(response) => Ok(response),
            }
        });
        let failed = |kind| SendError { kind, waits: Some(waits) };
        let sent = within(deadline, sent)
            .await
            .map_err(|_| failed(SendErrorKind::TooLate(TooLate::AtWork)))?;
        match outcome(sent, permit) {
            Tried::Taken(response) => Ok(Answer { response, waits }),
            Tried::Failed(_, _, error) => {
                Err(failed(SendErrorKind::Lost { broken_attempts: 1, reason: error.reason() }))
            }
        }
    }
}

fn outcome(
    sent: Result<Response<ResponseBody>, ClientError>,
    permit: Permit,
) -> Tried<Response<AnswerBody>> {
    match sent {
        Ok(response) => answered(response, permit),
        Err(error) => broken(error, permit),
    }
}

/// One replica's part of a broadcast.
async fn part(call: Arc<Call>, permit: Permit) -> Option<Result<Answer, SendError>> {
    let waits = Waits::default();
    let failed = |kind| Some(Err(SendError { kind, waits: Some(waits) }));
    let sent = {
        let sent = pin!(permit.client().exchange(call.outgoing()));
        within(call.deadline, sent).await
    };
    let Ok(sent) = sent else {
        return failed(SendErrorKind::TooLate(TooLate::AtWork));
    };
    match outcome(sent, permit) {
        Tried::Taken(response) => Some(Ok(Answer { response, waits })),
        Tried::Failed(Failure::Connect | Failure::NotStarted, permit, error) => {
            tracing::debug!(replica = %permit.replica(), %error, "a broadcast leaves a replica out");
            None
        }
        Tried::Failed(Failure::Broken | Failure::Answered(_), _, error) => {
            failed(SendErrorKind::Lost { broken_attempts: 1, reason: error.reason() })
        }
    }
}
