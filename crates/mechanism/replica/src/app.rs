//! Paths to handlers, and what a replica says while it cannot answer.

use crate::job::Job;
use crate::phases::{Awaited, PhaseClock};
use crate::served::Served;
use crate::timing::{SERVER_TIMING, Submitted};
use crate::{chat, completion, encoder, generate, messages, responses, timing, tokenize};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::watch;
use tyndall_openai::{ApiError, Wanted};
use tyndall_telemetry::exposition;
use tyndall_transport::{
    Body, BodyError, Handler, RequestBody, empty, json as json_response, read_body, text,
};
use tyndall_types::protocol::{ALIVE_PATH, ModelTask, ReplicaStatus};
use tyndall_types::{HEADER_NOT_STARTED, HEADER_REQUEST_ID, ReplicaId, ReplicaState, RequestId};

/// Largest request body; the proxy's bound is the same.
const MAX_BODY_BYTES: usize = 32 << 20;

/// What a model is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Text(TextRoute),
    Pooling(PoolingRoute),
    Tokenize,
    Detokenize,
}

/// What a model that writes text is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextRoute {
    Generate,
    Completions,
    Chat,
    Responses,
    Messages,
    CountTokens,
}

/// What a model that reads text is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PoolingRoute {
    Embeddings,
    Score,
    Rerank,
    Classify,
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/generate" => Self::Text(TextRoute::Generate),
            "/v1/completions" => Self::Text(TextRoute::Completions),
            "/v1/chat/completions" => Self::Text(TextRoute::Chat),
            "/v1/responses" => Self::Text(TextRoute::Responses),
            "/v1/messages" => Self::Text(TextRoute::Messages),
            "/v1/messages/count_tokens" => Self::Text(TextRoute::CountTokens),
            "/v1/embeddings" => Self::Pooling(PoolingRoute::Embeddings),
            "/v1/score" => Self::Pooling(PoolingRoute::Score),
            "/v1/rerank" => Self::Pooling(PoolingRoute::Rerank),
            "/classify" => Self::Pooling(PoolingRoute::Classify),
            "/tokenize" => Self::Tokenize,
            "/detokenize" => Self::Detokenize,
            _ => return None,
        })
    }
}

impl PoolingRoute {
    fn wanted(self) -> Wanted {
        match self {
            Self::Embeddings => Wanted::Embed,
            Self::Score | Self::Rerank => Wanted::Score,
            Self::Classify => Wanted::Classify,
        }
    }
}

/// Where the replica is in its life.
#[derive(Clone)]
pub(crate) enum Phase {
    Starting,
    /// With what it took to get there.
    Running(Served, Arc<PhaseClock>),
    Stopping(Option<Served>),
}

/// Answers every request of the replica's socket.
#[derive(Clone)]
pub(crate) struct App {
    id: ReplicaId,
    phase: Arc<watch::Sender<Phase>>,
    ongoing: Arc<AtomicU32>,
}

/// A request for text, from its arrival to its last byte.
pub(crate) struct Ongoing(Arc<AtomicU32>);

impl Ongoing {
    fn begin(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request for text that was read.
pub(crate) struct Asked {
    pub(crate) id: RequestId,
    pub(crate) body: bytes::Bytes,
    pub(crate) ongoing: Ongoing,
    /// The wake, if it arrived before the first token.
    pub(crate) awaited: Option<Awaited>,
    /// A stream tells what was used with each event.
    pub(crate) notes_usage: bool,
}

impl Asked {
    pub(crate) fn submitted(&self, job: &Job) -> Submitted<'_> {
        Submitted { at: job.submitted(), awaited: self.awaited.as_ref() }
    }
}

/// Why a request has no text.
#[derive(Debug)]
pub(crate) enum Failure {
    Api(ApiError),
    /// The proxy may give it to another replica.
    NotStarted(&'static str),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<crate::job::SubmitFailure> for Failure {
    fn from(failure: crate::job::SubmitFailure) -> Self {
        match failure {
            crate::job::SubmitFailure::Refused(error) => Self::Api(error),
            crate::job::SubmitFailure::NotStarted(reason) => Self::NotStarted(reason),
        }
    }
}

impl Handler for App {
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::GET, "/-/status") => json_response(StatusCode::OK, &self.status()),
            (&Method::GET, ALIVE_PATH) => empty(StatusCode::NO_CONTENT),
            (&Method::GET, "/-/metrics") => self.metrics(),
            (&Method::POST, "/-/reconfigure") => reconfigured(request).await,
            (&Method::POST, path) => match Route::of(path) {
                Some(route) => {
                    let answered = self.answer(route, request).await;
                    answered.unwrap_or_else(|failure| refused(route, failure))
                }
                None => empty(StatusCode::NOT_FOUND),
            },
            _ => empty(StatusCode::NOT_FOUND),
        }
    }
}

impl App {
    pub(crate) fn new(id: ReplicaId) -> Self {
        let phase = Arc::new(watch::Sender::new(Phase::Starting));
        Self { id, phase, ongoing: Arc::default() }
    }

    /// It takes requests from here on.
    pub(crate) fn set_running(&self, ready: Served, clock: PhaseClock) {
        self.phase.send_replace(Phase::Running(ready, Arc::new(clock)));
    }

    /// It takes no more requests. Returns the model, which those it has go on using.
    pub(crate) fn set_stopping(&self) -> Option<Served> {
        let ready = self.ready();
        self.phase.send_replace(Phase::Stopping(ready.clone()));
        ready
    }

    fn ready(&self) -> Option<Served> {
        match &*self.phase.borrow() {
            Phase::Starting => None,
            Phase::Running(ready, _) => Some(ready.clone()),
            Phase::Stopping(ready) => ready.clone(),
        }
    }

    /// Reads counters only and takes no lock that the engine's thread takes: a replica whose engine
    /// hangs says so.
    fn status(&self) -> ReplicaStatus {
        let (state, ready) = match &*self.phase.borrow() {
            Phase::Starting => (ReplicaState::Starting, None),
            Phase::Running(ready, _) => (ReplicaState::Running, Some(ready.clone())),
            Phase::Stopping(ready) => (ReplicaState::Stopping, ready.clone()),
        };
        let step_age = ready.as_ref().and_then(|ready| ready.stats().step_age);
        ReplicaStatus {
            ongoing: self.ongoing.load(Ordering::Relaxed),
            card: ready.map(|ready| ready.card().clone()),
            step_age_s: step_age.map(|age| age.as_secs_f64()),
            ..ReplicaStatus::new(self.id.clone(), state)
        }
    }

    fn metrics(&self) -> Response<Body> {
        let page = self.ready().map(|ready| ready.metrics_page()).unwrap_or_default();
        let mut response = text(StatusCode::OK, page);
        let kind = HeaderValue::from_static(exposition::CONTENT_TYPE);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }

    async fn answer(
        &self,
        route: Route,
        request: Request<RequestBody>,
    ) -> Result<Response<Body>, Failure> {
        let running = match &*self.phase.borrow() {
            Phase::Running(ready, clock) => Ok((ready.clone(), clock.clone())),
            Phase::Starting => Err(Failure::NotStarted("starting")),
            Phase::Stopping(_) => Err(Failure::NotStarted("draining")),
        };
        let (ready, clock) = running?;
        let awaited = ready.first_token().borrow().is_none().then(|| clock.awaited());
        let ongoing = Ongoing::begin(&self.ongoing);
        let id = request_id(&request);
        let notes_usage = request.headers().contains_key(timing::USAGE);
        let body = read_body(request.into_body(), MAX_BODY_BYTES).await.map_err(|e| match e {
            BodyError::TooLarge { .. } => ApiError::too_large(e.to_string()),
            BodyError::Broken(_) => ApiError::malformed("", e.to_string()),
        })?;
        let asked = Asked { id, body, ongoing, awaited, notes_usage };
        match (ready, route) {
            (Served::Generator(ready), Route::Text(route)) => match route {
                TextRoute::Generate => generate::answer(&ready, asked).await,
                TextRoute::Completions => completion::answer(&ready, asked).await,
                TextRoute::Chat => chat::answer(&ready, asked).await,
                TextRoute::Responses => responses::answer(&ready, asked).await,
                TextRoute::Messages => messages::answer(&ready, asked).await,
                TextRoute::CountTokens => messages::count(&ready, asked).await,
            },
            (Served::Generator(ready), Route::Tokenize) => tokenize::tokenize(&ready, asked).await,
            (Served::Generator(ready), Route::Detokenize) => {
                tokenize::detokenize(&ready, asked).await
            }
            (Served::Generator(ready), Route::Pooling(route)) => {
                Err(route.wanted().refusal(&ready.model_id, ModelTask::Generate).into())
            }
            (Served::Encoder(ready), Route::Pooling(route)) => {
                route.wanted().check(&ready.model_id, ready.task)?;
                match route {
                    PoolingRoute::Embeddings => encoder::embeddings(&ready, asked).await,
                    PoolingRoute::Score => encoder::score(&ready, asked).await,
                    PoolingRoute::Rerank => encoder::rerank(&ready, asked).await,
                    PoolingRoute::Classify => encoder::classify(&ready, asked).await,
                }
            }
            (Served::Encoder(ready), Route::Tokenize) => encoder::tokenize(&ready, asked).await,
            (Served::Encoder(ready), Route::Detokenize) => encoder::detokenize(&ready, asked).await,
            (Served::Encoder(ready), Route::Text(_)) => {
                Err(Wanted::Generate.refusal(&ready.model_id, ready.task).into())
            }
        }
    }
}

/// A model has no user config, so a new one is in force as soon as it is there.
async fn reconfigured(request: Request<RequestBody>) -> Response<Body> {
    match read_body(request.into_body(), MAX_BODY_BYTES).await {
        Ok(_) => empty(StatusCode::NO_CONTENT),
        Err(BodyError::TooLarge { .. }) => empty(StatusCode::PAYLOAD_TOO_LARGE),
        Err(BodyError::Broken(_)) => empty(StatusCode::BAD_REQUEST),
    }
}

fn request_id(request: &Request<RequestBody>) -> RequestId {
    let sent = request.headers().get(HEADER_REQUEST_ID).and_then(|id| id.to_str().ok());
    RequestId::new(sent.unwrap_or("unnamed"))
}

fn refused(route: Route, failure: Failure) -> Response<Body> {
    let (error, not_started) = match failure {
        Failure::Api(error) => (error, None),
        Failure::NotStarted(reason) => {
            let message = format!("this replica takes no request now: it is {reason}; try again");
            (ApiError::unavailable(message), Some(reason))
        }
    };
    if error.status >= 500 && not_started.is_none() {
        tracing::error!(?route, %error, "a request failed");
    }
    let status = StatusCode::from_u16(error.status).expect("api errors have statuses");
    let body = match route {
        Route::Text(TextRoute::Generate) => error.generate_body(),
        Route::Text(TextRoute::Messages | TextRoute::CountTokens) => error.anthropic_body(),
        _ => error.openai_body(),
    };
    let mut response = json_response(status, &body);
    if let Some(reason) = not_started {
        response.headers_mut().insert(HEADER_NOT_STARTED, HeaderValue::from_static(reason));
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Unix seconds, for `created`.
pub(crate) fn now_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// A whole answer with its phases.
pub(crate) fn whole<T: serde::Serialize>(value: &T, job: &Job, asked: &Asked) -> Response<Body> {
    let mut response = json_response(StatusCode::OK, value);
    let phases = asked.submitted(job).whole(job.times());
    response.headers_mut().insert(SERVER_TIMING, phases);
    response.headers_mut().insert(timing::USAGE, timing::usage(job.usage()));
    response
}
