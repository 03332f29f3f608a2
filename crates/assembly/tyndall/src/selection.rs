//! Calls for which the replica is settled first: one that was chosen, or all that run.

use crate::caller::{AnswerKind, Part, Reservation};
use crate::context::RequestContext;
use crate::error::{Error, Result};
use crate::handle::{CallOptions, End, Response, Target, read, spawn};
use crate::methods::write;
use futures_util::future::join_all;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::marker::PhantomData;

/// A replica that keeps a place for one call, among its `max_ongoing_requests`.
///
/// Dropping it gives the place back, and so does the end of the call's time. The replica may end
/// before the call is made: then the call ends with [`Error::ReplicaUnavailable`] and goes to no other.
#[must_use = "dropping a selection gives its place back"]
pub struct ReplicaSelection<Q, R> {
    place: Box<dyn Reservation>,
    context: RequestContext,
    kinds: PhantomData<fn(Q) -> R>,
}

impl<Q, R> fmt::Debug for ReplicaSelection<Q, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReplicaSelection").field(&self.replica_id()).finish()
    }
}

impl<Q, R> ReplicaSelection<Q, R> {
    /// The id of the replica.
    #[must_use]
    pub fn replica_id(&self) -> &str {
        self.place.replica()
    }
}

impl<Q: Serialize, R: DeserializeOwned + Send + 'static> ReplicaSelection<Q, R> {
    /// Makes the call. It begins at once; dropping the response cancels it.
    pub fn dispatch(self, request: Q) -> Response<R> {
        let Self { place, context, .. } = self;
        match write(&request) {
            Ok(body) => spawn(&context, || place.call(body)),
            Err(error) => Response::failed(error),
        }
    }
}

pub(crate) async fn choose<Q, R>(
    target: &Target,
    options: &CallOptions,
    method: &str,
) -> Result<ReplicaSelection<Q, R>> {
    let (caller, call) = target.prepare(options, method, &())?;
    let context = call.context.clone();
    let place = End::of(&context).or(caller.reserve(call, AnswerKind::Response)).await??;
    Ok(ReplicaSelection { place, context, kinds: PhantomData })
}

pub(crate) async fn broadcast<Q: Serialize, R: DeserializeOwned>(
    target: &Target,
    options: &CallOptions,
    method: &str,
    request: &Q,
) -> Result<Vec<Result<R>>> {
    let (caller, call) = target.prepare(options, method, request)?;
    let (end, deployment) = (End::of(&call.context), call.deployment.clone());
    let parts = end.or(caller.broadcast(call)).await??;
    let answer = async |part: Part| match end.or(part).await {
        Ok(answer) => answer.map(|answer| read(&answer?)),
        Err(late) => Some(Err(late)),
    };
    let answers = join_all(parts.into_iter().map(answer)).await;
    let answers: Vec<_> = answers.into_iter().flatten().collect();
    if answers.is_empty() {
        let reason = "its replicas end; call again when others have come".to_owned();
        return Err(Error::DeploymentUnavailable { deployment, reason, retry_after_s: None });
    }
    Ok(answers)
}
