//! Gets a request answered: wait, send, and again elsewhere when nothing came back.

use crate::body::AnswerBody;
use crate::choosing::Choosing;
use crate::deployment::{Deployment, Refusal, Waits};
use crate::permit::{Permit, Waiting};
use crate::suspicion::suspect;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Response, Uri};
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use tyndall_routing::{Failure, Flow, Prefix, Progress, Retry, Wish, retry};
use tyndall_transport::{ClientError, Outgoing, ResponseBody};
use tyndall_types::{HEADER_NOT_STARTED, ReplicaId};

/// Before a replica that failed a request may have it again, when there is no other.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// After so long a request for a model takes any replica that has room. Ray draws it between one and
/// two of these, so that its turns of polling spread.
const MATCHING_TIMEOUT: Duration = Duration::from_secs(1);

const NOT_STARTED: HeaderName = HeaderName::from_static(HEADER_NOT_STARTED);

/// A request to a deployment. It is whole, so that it can be sent again.
#[derive(Debug, Clone)]
pub struct Call {
    /// As it is sent.
    pub method: Method,
    /// Path and query.
    pub uri: Uri,
    /// As they are sent: without those that concern one connection only.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// An answer must have begun by then; without it the call waits as long as it takes.
    pub deadline: Option<Instant>,
    /// It may have an effect beyond its answer: when a replica that may have begun it is lost, no
    /// other gets it.
    pub runs_once: bool,
    /// Whose it is, where several share the queue.
    pub flow: Flow,
    /// The multiplexed model that it asks for: a replica that has it gets it, if it can be.
    pub model: Option<Arc<str>>,
    /// The body is the arguments of a handle's call, which a request router may read.
    pub has_arguments: bool,
    /// The text that a model is asked with, where replicas are chosen by it.
    pub prefix: Option<Prefix>,
}

impl Call {
    fn wish(&self) -> Wish {
        match (&self.model, &self.prefix) {
            (Some(model), _) => Wish::Model(model.clone()),
            (None, Some(prefix)) => Wish::Prefix(prefix.clone()),
            (None, None) => Wish::Any,
        }
    }

    pub(crate) fn outgoing(&self) -> Outgoing<'_> {
        Outgoing::new(&self.method, &self.uri, &self.headers, &self.body)
    }
}

/// What a replica answered, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// Head and body; the body holds the permit.
    pub response: Response<AnswerBody>,
    /// How long the call waited for its replica.
    pub waits: Waits,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct SendError {
    /// What happened.
    pub kind: SendErrorKind,
    /// How long the call waited for a replica; nothing when it was refused at once.
    pub waits: Option<Waits>,
}

/// What ended a call.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SendErrorKind {
    /// It got no replica; nothing was sent.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Its deadline passed.
    #[error("no answer in time: {0}")]
    TooLate(TooLate),
    /// Replicas were lost while they worked on it.
    #[error("{broken_attempts} replicas were lost while they worked on this request")]
    Lost {
        /// How many.
        broken_attempts: u32,
        /// What happened to the last one, in words for whoever sent the request.
        reason: String,
    },
}

/// What a call was doing when its deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooLate {
    /// Nothing was sent.
    #[error("it waited for a replica")]
    Waiting,
    /// Its connection is closed, which cancels the work.
    #[error("the replica was at work")]
    AtWork,
    /// There was no time for another one.
    #[error("the last replica was lost")]
    LostReplica,
}

impl Deployment {
    /// Gets a call answered. Any status is an answer.
    ///
    /// # Errors
    /// [`SendError`]; the deployment is then as it was before.
    ///
    /// # Cancel safety
    /// Dropping the future gives back the place or the permit and closes the connection to the
    /// replica, so that its work is cancelled.
    pub async fn send(self: &Arc<Self>, call: &Call) -> Result<Answer, SendError> {
        let (response, waits) = self.until_taken(call, |permit| attempt(call, permit)).await?;
        Ok(Answer { response, waits })
    }

    /// Tries one replica after the other until one takes it.
    pub(crate) async fn until_taken<T, F: Future<Output = Tried<T>>>(
        self: &Arc<Self>,
        call: &Call,
        attempt: impl Fn(Permit) -> F,
    ) -> Result<(T, Waits), SendError> {
        let mut sending = Sending::new(self, call);
        let patience = call.deadline.map(|end| end.saturating_duration_since(Instant::now()));
        let wish = if self.router().is_some() { Wish::Undecided } else { call.wish() };
        let mut waiting = self
            .enter(call.flow, wish, patience)
            .map_err(|refusal| sending.refused(refusal, None))?;
        loop {
            let permit = sending.permit(&mut waiting).await?;
            let attempt = pin!(attempt(permit));
            match sending.attempt(attempt).await? {
                ControlFlow::Break(taken) => return Ok((taken, sending.waits)),
                ControlFlow::Continue(back) => waiting = back,
            }
        }
    }
}

/// A call on its way.
struct Sending<'a> {
    deployment: &'a Deployment,
    call: &'a Call,
    choosing: Choosing<'a>,
    label: Arc<str>,
    waits: Waits,
    progress: Progress,
    /// Replicas that failed it.
    avoid: Vec<ReplicaId>,
    pause: Duration,
}

impl<'a> Sending<'a> {
    fn new(deployment: &'a Deployment, call: &'a Call) -> Self {
        Self {
            deployment,
            call,
            choosing: Choosing::new(call),
            label: deployment.label(),
            waits: Waits::default(),
            progress: Progress { runs_once: call.runs_once, ..Progress::default() },
            avoid: Vec::new(),
            pause: FIRST_PAUSE,
        }
    }

    async fn permit(&mut self, waiting: &mut Waiting) -> Result<Permit, SendError> {
        let forgive_after = match self.avoid.is_empty() {
            true => self.call.model.as_ref().map(|_| MATCHING_TIMEOUT),
            false => Some(self.pause),
        };
        let permit = {
            let permit = pin!(async {
                if waiting.is_undecided() {
                    let (deployment, avoid) = (self.deployment, &mut self.avoid);
                    // Most requests have no router, and are not to be as large as those that have.
                    let chosen =
                        Box::pin(self.choosing.permit(deployment, waiting, avoid, self.pause));
                    if let Some(done) = chosen.await {
                        return done;
                    }
                    waiting.decide(self.call.wish());
                }
                waiting.permit(forgive_after).await
            });
            within(self.call.deadline, permit).await
        };
        let waited = waiting.waits();
        self.waits.add(waited);
        match permit {
            Ok(Ok(permit)) => {
                let metrics = self.deployment.metrics();
                metrics.waited(&self.label, waited.queue, waited.wake);
                Ok(permit)
            }
            Ok(Err(refusal)) => Err(self.refused(refusal, Some(self.waits))),
            Err(_) => Err(self.failed(SendErrorKind::TooLate(TooLate::Waiting))),
        }
    }

    /// One try: what comes of it, or a place in the queue for the next.
    async fn attempt<T>(
        &mut self,
        attempt: Pin<&mut impl Future<Output = Tried<T>>>,
    ) -> Result<ControlFlow<T, Waiting>, SendError> {
        let Ok(tried) = within(self.call.deadline, attempt).await else {
            return Err(self.failed(SendErrorKind::TooLate(TooLate::AtWork)));
        };
        let (failure, permit, error) = match tried {
            Tried::Taken(taken) => return Ok(ControlFlow::Break(taken)),
            Tried::Failed(failure, permit, error) => (failure, permit, error),
        };
        self.progress.broken_attempts += u32::from(failure == Failure::Broken);
        self.progress.past_deadline = self.call.deadline.is_some_and(|end| Instant::now() >= end);
        let (label, replica) = (&*self.label, permit.replica().clone());
        tracing::debug!(label, %replica, %error, ?failure, "a replica did not take a request");
        if self.progress.past_deadline {
            return Err(self.failed(SendErrorKind::TooLate(TooLate::LostReplica)));
        }
        if retry(failure, self.progress) == Retry::No {
            let broken_attempts = self.progress.broken_attempts;
            tracing::warn!(label, %error, attempts = broken_attempts, "a request is given up");
            let reason = error.reason();
            return Err(self.failed(SendErrorKind::Lost { broken_attempts, reason }));
        }
        self.deployment.metrics().retried(&self.label, word(failure));
        self.avoid.push(replica);
        let waiting = permit.come_back(self.avoid.clone());
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        Ok(ControlFlow::Continue(waiting))
    }

    fn refused(&self, refusal: Refusal, waits: Option<Waits>) -> SendError {
        self.deployment.metrics().refused(&self.label, refusal.word());
        SendError { kind: refusal.into(), waits }
    }

    fn failed(&self, kind: SendErrorKind) -> SendError {
        SendError { kind, waits: Some(self.waits) }
    }
}

/// A future in time. It is pinned where it lies, so that each request holds it once.
pub(crate) async fn within<F: Future>(
    deadline: Option<Instant>,
    future: Pin<&mut F>,
) -> Result<F::Output, Elapsed> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await,
        None => Ok(future.await),
    }
}

/// What came of one try.
#[expect(clippy::large_enum_variant, reason = "it is moved once, and what is taken is as large")]
pub(crate) enum Tried<T> {
    Taken(T),
    Failed(Failure, Permit, AttemptError),
}

/// Why one try failed, as the log has it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttemptError {
    #[error("{0}")]
    NotStarted(String),
    #[error(transparent)]
    Client(ClientError),
}

impl AttemptError {
    /// For whoever sent the request: without the socket, which is the machine's own business.
    pub(crate) fn reason(self) -> String {
        match self {
            Self::NotStarted(reason) => reason,
            Self::Client(ClientError::Connect { .. }) => "it accepts no connection".to_owned(),
            Self::Client(ClientError::Broken { .. }) => {
                "its connection broke before the answer".to_owned()
            }
            Self::Client(ClientError::Status { .. } | ClientError::Json { .. }) => {
                "its answer was not understood".to_owned()
            }
        }
    }
}

async fn attempt(call: &Call, permit: Permit) -> Tried<Response<AnswerBody>> {
    match permit.client().exchange(call.outgoing()).await {
        Ok(response) => answered(response, permit),
        Err(error) => broken(error, permit),
    }
}

/// What a replica's answer means.
pub(crate) fn answered(
    response: Response<ResponseBody>,
    mut permit: Permit,
) -> Tried<Response<AnswerBody>> {
    if let Some(error) = not_started(response.headers()) {
        return Tried::Failed(Failure::NotStarted, permit, error);
    }
    permit.is_answered();
    Tried::Taken(response.map(|body| AnswerBody::new(body, permit)))
}

/// Why the replica has not begun the request, if it says that it has not.
pub(crate) fn not_started(headers: &HeaderMap) -> Option<AttemptError> {
    let reason = headers.get(NOT_STARTED)?;
    Some(AttemptError::NotStarted(String::from_utf8_lossy(reason.as_bytes()).into_owned()))
}

/// What it means that there is none.
pub(crate) fn broken<T>(error: ClientError, permit: Permit) -> Tried<T> {
    let failure = match &error {
        ClientError::Connect { .. } => Failure::Connect,
        ClientError::Broken { .. } | ClientError::Status { .. } | ClientError::Json { .. } => {
            Failure::Broken
        }
    };
    suspect(&permit);
    Tried::Failed(failure, permit, AttemptError::Client(error))
}

fn word(failure: Failure) -> &'static str {
    match failure {
        Failure::Connect => "connect",
        Failure::NotStarted => "not_started",
        Failure::Broken => "broken",
        Failure::Answered(_) => "answered",
    }
}
