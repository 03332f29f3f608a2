//! Calls from a replica to replicas of other processes.
//!
//! Each replica whose deployment has handles is a router of its own: it hears the route table, and
//! tells the controller what waits, so that a deployment without replicas is woken by a call. The
//! links begin with the first handle that is read, and last as long as the replica: calls are made
//! up to its last request.
//!
//! Who ends a call drops its future, or its stream, and with it a place in the queue or the
//! connection to the replica. The time of a call is watched by its handle.

use super::reserved::Reserved;
use crate::caller::{AnswerKind, Call, Caller, Encoding, Part, Reservation};
use crate::context::RequestContext;
use crate::error::{Error, Result};
use crate::{model_call, wire};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use http::Response;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tyndall_router::{
    Answer as Answered, AnswerBody, Call as Sent, Deployment, Flow, Refusal, Router, SendError,
    SendErrorKind,
};
use tyndall_transport::Client;
use tyndall_types::protocol::{HANDLE_PREFIX, RuntimeDir, retry_after_s};
use tyndall_types::{ApplicationName, DeploymentId, DeploymentName, ReplicaId};

/// A deployment that no route table has by then is not there. Tables are a few milliseconds behind
/// the controller, and seconds where it starts again.
const FIND_TIMEOUT: Duration = Duration::from_secs(10);

/// The ways from a replica to the deployments of its application.
pub(crate) struct Routes {
    router: Arc<Router>,
    application: ApplicationName,
    is_needed: Notify,
}

impl Routes {
    pub(super) fn new(
        runtime_dir: &RuntimeDir,
        replica: &ReplicaId,
        application: ApplicationName,
    ) -> Self {
        Self::outside(runtime_dir, replica.as_str(), application)
    }

    /// Of a process that is no replica, by a name of its own.
    pub(crate) fn outside(
        runtime_dir: &RuntimeDir,
        name: &str,
        application: ApplicationName,
    ) -> Self {
        let controller = Client::unix(runtime_dir.controller_socket());
        let router = Arc::new(Router::new(controller, format!("{HANDLE_PREFIX}{name}")));
        Self { router, application, is_needed: Notify::new() }
    }

    /// Keeps the links to the controller, once there is a handle. Never ends by itself.
    ///
    /// # Cancel safety
    /// Dropping the future closes the links; calls go on with what is known.
    pub(crate) async fn run(self: Arc<Self>) {
        self.is_needed.notified().await;
        self.router.run().await;
    }

    /// The deployment of a call, and the call as it is sent.
    fn prepare(
        &self,
        call: &Call,
        answer: AnswerKind,
    ) -> impl Future<Output = Result<(Arc<Deployment>, Sent)>> + Send + use<> {
        let router = self.router.clone();
        let application = call.application.clone().unwrap_or_else(|| self.application.clone());
        let call = call.clone();
        async move {
            let deployment = find(&router, application, &call.deployment).await?;
            let is_model = call.encoding == Encoding::Model;
            let is_stream = answer == AnswerKind::Stream;
            let request = match is_model {
                true => model_call::encode(&call)?,
                false => wire::encode(&call, is_stream)?,
            };
            let (parts, body) = request.into_parts();
            let sent = Sent {
                method: parts.method,
                uri: parts.uri,
                headers: parts.headers,
                body,
                deadline: call.context.deadline,
                // A generation has no effect outside its answer.
                runs_once: !is_model,
                flow: Flow::default(),
                model: Some(&call.context.multiplexed_model_id)
                    .filter(|model| !model.is_empty() && !is_model)
                    .map(|model| model.as_str().into()),
                has_arguments: call.encoding == Encoding::Opaque,
                prefix: None,
            };
            Ok((deployment, sent))
        }
    }

    /// Sends a call to a replica; the answer's body holds the permit.
    fn send(
        &self,
        call: Call,
        answer: AnswerKind,
    ) -> impl Future<Output = Result<Response<AnswerBody>>> + Send + use<> {
        let prepared = self.prepare(&call, answer);
        async move {
            let (deployment, sent) = prepared.await?;
            let begun = Instant::now();
            match deployment.send(&sent).await {
                Ok(answer) => Ok(answer.response),
                Err(error) => Err(unsent(error.kind, &call.deployment, &call.context, begun)),
            }
        }
    }
}

/// The response of an answer.
pub(super) async fn decode(encoding: Encoding, response: Response<AnswerBody>) -> Result<Bytes> {
    match encoding {
        Encoding::Model => model_call::decode(response).await,
        Encoding::Json | Encoding::Opaque => wire::decode(response).await,
    }
}

/// The items of an answer.
pub(super) fn decode_stream(
    encoding: Encoding,
    response: Result<Response<AnswerBody>>,
) -> BoxStream<'static, Result<Bytes>> {
    match (encoding, response) {
        (Encoding::Model, Ok(response)) => model_call::decode_stream(response),
        (Encoding::Json | Encoding::Opaque, Ok(response)) => wire::decode_stream(response),
        (_, Err(error)) => stream::iter([Err(error)]).boxed(),
    }
}

impl Caller for Routes {
    fn connected(&self) {
        self.is_needed.notify_one();
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes>> {
        let encoding = call.encoding;
        let sent = self.send(call, AnswerKind::Response);
        async move { decode(encoding, sent.await?).await }.boxed()
    }

    fn stream(&self, call: Call) -> BoxStream<'static, Result<Bytes>> {
        let encoding = call.encoding;
        let sent = self.send(call, AnswerKind::Stream);
        let calling = async move { decode_stream(encoding, sent.await) };
        stream::once(calling).flatten().boxed()
    }

    fn reserve(
        &self,
        call: Call,
        answer: AnswerKind,
    ) -> BoxFuture<'static, Result<Box<dyn Reservation>>> {
        let prepared = self.prepare(&call, answer);
        async move {
            let (deployment, sent) = prepared.await?;
            let begun = Instant::now();
            match deployment.reserve(&sent).await {
                Ok(reserved) => Ok(Box::new(Reserved::new(reserved, call)) as Box<dyn Reservation>),
                Err(error) => Err(unsent(error.kind, &call.deployment, &call.context, begun)),
            }
        }
        .boxed()
    }

    fn broadcast(&self, call: Call) -> BoxFuture<'static, Result<Vec<Part>>> {
        let prepared = self.prepare(&call, AnswerKind::Response);
        async move {
            let (deployment, mut sent) = prepared.await?;
            wire::set_waits(&mut sent.headers);
            let begun = Instant::now();
            let failed =
                |error: SendError| unsent(error.kind, &call.deployment, &call.context, begun);
            let parts = deployment.broadcast(&sent).map_err(failed)?;
            let call = Arc::new(call);
            Ok(parts.into_iter().map(|sent| part(sent, call.clone(), begun).boxed()).collect())
        }
        .boxed()
    }
}

/// One replica's part of a broadcast.
async fn part(
    sent: impl Future<Output = Option<Result<Answered, SendError>>>,
    call: Arc<Call>,
    begun: Instant,
) -> Option<Result<Bytes>> {
    Some(match sent.await? {
        Ok(answer) => decode(call.encoding, answer.response).await,
        Err(error) => Err(unsent(error.kind, &call.deployment, &call.context, begun)),
    })
}

/// The deployment of the application, which a table may not have yet.
async fn find(
    router: &Router,
    application: ApplicationName,
    deployment: &str,
) -> Result<Arc<Deployment>> {
    let unavailable = |reason: String| Error::DeploymentUnavailable {
        deployment: deployment.to_owned(),
        reason,
        retry_after_s: None,
    };
    let name = DeploymentName::new(deployment)
        .map_err(|error| unavailable(format!("there can be none of this name: {error}")))?;
    let id = DeploymentId { application, deployment: name };
    timeout(FIND_TIMEOUT, router.find(&id)).await.map_err(|_| {
        unavailable(format!(
            "{} has no deployment of this name; deploy the program again if it has changed",
            id.application
        ))
    })
}

/// Why a call has no answer.
pub(super) fn unsent(
    kind: SendErrorKind,
    deployment: &str,
    context: &RequestContext,
    begun: Instant,
) -> Error {
    match kind {
        SendErrorKind::Refused(Refusal::Full { max_queued, backpressure }) => Error::BackPressure {
            num_queued_requests: max_queued,
            max_queued_requests: max_queued,
            status_code: backpressure.status_code,
            retry_after_s: backpressure.retry_after_s,
        },
        SendErrorKind::Refused(Refusal::TooLate { queued, max_queued, backpressure, .. }) => {
            Error::BackPressure {
                num_queued_requests: queued,
                max_queued_requests: max_queued,
                status_code: backpressure.status_code,
                retry_after_s: backpressure.retry_after_s,
            }
        }
        SendErrorKind::Refused(Refusal::Unavailable(unavailable)) => Error::DeploymentUnavailable {
            deployment: deployment.to_owned(),
            reason: unavailable.reason,
            retry_after_s: Some(retry_after_s(unavailable.retry_after_s)),
        },
        SendErrorKind::TooLate(_) => Error::timeout(context, begun),
        SendErrorKind::Lost { reason, .. } => Error::ReplicaUnavailable {
            message: format!(
                "the replica of {deployment} that had the call was lost: {reason}; call again if \
                 it may run twice"
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tyndall_router::TooLate;
    use tyndall_types::protocol::{Backpressure, Unavailable};

    #[test]
    fn failures_have_rays_names() {
        let context = RequestContext { request_id: "r".into(), ..RequestContext::default() };
        let told = |kind: SendErrorKind| unsent(kind, "D", &context, Instant::now()).to_string();
        let backpressure = Backpressure { status_code: 429, retry_after_s: None };
        let full = SendErrorKind::Refused(Refusal::Full { max_queued: 3, backpressure });
        let expected = "Request dropped due to backpressure (num_queued_requests=3, \
                        max_queued_requests=3).";
        assert_eq!(told(full), expected);
        let unavailable = Unavailable { reason: "it failed".into(), retry_after_s: 0.2 };
        let refused = SendErrorKind::Refused(Refusal::Unavailable(unavailable));
        assert_eq!(told(refused.clone()), "D is unavailable because it failed");
        let refused = unsent(refused, "D", &context, Instant::now());
        assert!(matches!(refused, Error::DeploymentUnavailable { retry_after_s: Some(1.0), .. }));
        let late = told(SendErrorKind::TooLate(TooLate::Waiting));
        assert_eq!(late, "Request r timed out after 0s.");
        let lost = told(SendErrorKind::Lost { broken_attempts: 1, reason: "gone".into() });
        assert!(lost.starts_with("the replica of D that had the call was lost: gone;"), "{lost}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deployment_that_never_comes_is_not_there() {
        let directory = RuntimeDir("/nowhere".into());
        let application = ApplicationName::new("app").unwrap();
        let routes = Routes::new(&directory, &ReplicaId::new("r0"), application);
        let call = |deployment: &str| Call {
            application: None,
            encoding: Encoding::Json,
            deployment: deployment.into(),
            method: "call".into(),
            body: "1".into(),
            context: RequestContext::default(),
        };
        let error = routes.call(call("D")).await.unwrap_err().to_string();
        assert!(error.starts_with("D is unavailable because app has no deployment"), "{error}");
        let mut items = routes.stream(call("a#b"));
        let error = items.next().await.unwrap().unwrap_err().to_string();
        assert!(error.contains("there can be none of this name"), "{error}");
        assert!(items.next().await.is_none());
    }
}
