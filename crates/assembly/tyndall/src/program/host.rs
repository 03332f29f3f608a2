//! What answers on a replica's socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /-/status` | [`ReplicaStatus`]; 503 with the reason when the deployment's health check fails |
//! | `GET /-/metrics` | the metrics page |
//! | `POST /-/reconfigure` | the new `user_config` → 204; an [`Error`] with its status when it is refused |
//! | `POST /-/call/{method}` | see [`wire`] |
//! | all else | the deployment's router |
//!
//! Calls and public requests are refused with 503 and `x-tyndall-not-started` while the replica
//! starts, while it drains, and when it has `max_ongoing_requests`: another may take them. A call
//! that expects to be told to go on has its place from its head on, up to its end or its
//! disconnect; one that waits for its turn gets the next place that comes free.

use super::ongoing::{MAX_WAITING, Ongoing, Requests};
use crate::caller::Encoding;
use crate::context::{Metadata, RequestContext};
use crate::error::{Error, Result};
use crate::held::HeldModels;
use crate::servant::Servant;
use crate::websocket::Ending;
use crate::{http as public, wire};
use axum::body::Body as AnyBody;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;
use tyndall_telemetry::exposition;
use tyndall_transport::{Body, ConnectionLife, Handler, RequestBody, empty, json, read_body, text};
use tyndall_types::protocol::{ALIVE_PATH, ReplicaStatus};
use tyndall_types::{HEADER_NOT_STARTED, HEADER_REQUEST_ID, ReplicaId, ReplicaState};

/// Where the replica is in its life.
#[derive(Clone)]
enum Phase {
    Starting,
    Running(Arc<dyn Servant>),
    Stopping,
}

/// Answers every request of the replica's socket.
#[derive(Clone)]
pub(super) struct App {
    shared: Arc<Shared>,
}

struct Shared {
    id: ReplicaId,
    phase: watch::Sender<Phase>,
    requests: Arc<Requests>,
    held: Arc<HeldModels>,
    metadata: Arc<Metadata>,
    /// True when the drain time is over.
    is_over: watch::Sender<bool>,
    is_updating: AtomicBool,
    /// One `reconfigure` at a time, in the order in which they came.
    reconfigure: tokio::sync::Mutex<()>,
}

impl Handler for App {
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::GET, "/-/status") => self.status().await,
            (&Method::GET, ALIVE_PATH) => empty(StatusCode::NO_CONTENT),
            (&Method::GET, "/-/metrics") => metrics(self.page().await),
            (&Method::POST, "/-/reconfigure") => match self.reconfigure(request).await {
                Ok(()) => empty(StatusCode::NO_CONTENT),
                Err(error) => refused(&error),
            },
            (&Method::POST, path) if path.starts_with(wire::CALL_PATH) => {
                let method = path[wire::CALL_PATH.len()..].to_owned();
                self.call(&method, request).await
            }
            (_, path) if path.starts_with("/-/") => empty(StatusCode::NOT_FOUND),
            _ => self.public(request).await,
        }
    }
}

impl App {
    pub(super) fn new(
        id: ReplicaId,
        requests: Arc<Requests>,
        held: Arc<HeldModels>,
        metadata: Arc<Metadata>,
    ) -> Self {
        let shared = Shared {
            id,
            phase: watch::Sender::new(Phase::Starting),
            requests,
            held,
            metadata,
            is_over: watch::Sender::new(false),
            is_updating: AtomicBool::new(false),
            reconfigure: tokio::sync::Mutex::new(()),
        };
        Self { shared: Arc::new(shared) }
    }

    /// It takes requests from here on.
    pub(super) fn set_running(&self, servant: Arc<dyn Servant>) {
        self.shared.phase.send_replace(Phase::Running(servant));
    }

    /// It takes no more requests; those that it has go on. Returns the deployment, if it runs.
    pub(super) fn set_stopping(&self) -> Option<Arc<dyn Servant>> {
        match self.shared.phase.send_replace(Phase::Stopping) {
            Phase::Running(servant) => Some(servant),
            Phase::Starting | Phase::Stopping => None,
        }
    }

    /// Resolves when it takes no more requests.
    pub(super) async fn stopping(&self) {
        let mut phases = self.shared.phase.subscribe();
        // The sender lives as long as self.
        drop(phases.wait_for(|phase| matches!(phase, Phase::Stopping)).await);
    }

    /// The drain time is over: what can be told so is told.
    pub(super) fn set_over(&self) {
        self.shared.is_over.send_replace(true);
    }

    fn phase(&self) -> Phase {
        self.shared.phase.borrow().clone()
    }

    async fn status(&self) -> Response<Body> {
        let state = match self.phase() {
            Phase::Starting => ReplicaState::Starting,
            Phase::Stopping => ReplicaState::Stopping,
            Phase::Running(servant) => {
                if let Err(error) = servant.check_health().await {
                    tracing::warn!(
                        "a health check failed, and three in a row end the replica: {error}"
                    );
                    return text(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
                }
                let is_updating = self.shared.is_updating.load(Ordering::Relaxed);
                if is_updating { ReplicaState::Updating } else { ReplicaState::Running }
            }
        };
        let status = ReplicaStatus {
            ongoing: self.shared.requests.ongoing(),
            models: self.shared.held.ids(),
            metadata: self.shared.metadata.get().cloned().unwrap_or_default(),
            ..ReplicaStatus::new(self.shared.id.clone(), state)
        };
        json(StatusCode::OK, &status)
    }

    /// What is counted here, and what the deployment's code counts by itself.
    async fn page(&self) -> String {
        let own = self.shared.requests.page();
        let Phase::Running(servant) = self.phase() else { return own };
        match servant.metrics().await {
            more if more.is_empty() => own,
            more => exposition::merge([own.as_str(), more.as_str()]),
        }
    }

    async fn reconfigure(&self, request: Request<RequestBody>) -> Result<()> {
        let Phase::Running(servant) = self.phase() else {
            let message = "the replica takes no user_config now: it starts or ends".to_owned();
            return Err(Error::ReplicaUnavailable { message });
        };
        let body = self.body(request).await?;
        let user_config = serde_json::from_slice(&body)
            .map_err(|error| Error::invalid_request(format!("user_config is no JSON: {error}")))?;
        let _order = self.shared.reconfigure.lock().await;
        self.shared.is_updating.store(true, Ordering::Relaxed);
        let _updating = Updating(&self.shared.is_updating);
        servant.reconfigure(user_config).await
    }

    async fn body(&self, request: Request<RequestBody>) -> Result<Bytes> {
        let body = read_body(request.into_body(), public::MAX_BODY_BYTES).await;
        body.map_err(|error| Error::invalid_request(error.to_string()))
    }

    /// Who answers now, or why nobody does.
    fn servant(&self) -> Result<Arc<dyn Servant>, &'static str> {
        match self.phase() {
            Phase::Starting => Err("starting"),
            Phase::Stopping => Err("draining"),
            Phase::Running(servant) => Ok(servant),
        }
    }

    /// Takes a request, or says why not.
    fn begin(&self) -> Result<(Arc<dyn Servant>, Ongoing), &'static str> {
        let servant = self.servant()?;
        self.shared.requests.begin().map(|ongoing| (servant, ongoing)).ok_or("full")
    }

    async fn public(&self, mut request: Request<RequestBody>) -> Response<Body> {
        let (servant, ongoing) = match self.begin() {
            Ok(begun) => begun,
            Err(reason) => return not_started(reason),
        };
        let mut context = RequestContext::from_headers(request.headers());
        if request.extensions().get::<ConnectionLife>().is_some() {
            // The time of a request bounds the handshake, which the proxy sees to.
            context.deadline = None;
            request.extensions_mut().insert(Ending(self.shared.is_over.subscribe()));
        }
        let scope = servant.scope(context);
        let request = request.map(AnyBody::new);
        plain(public::serve(servant.router(), request, scope, ongoing).await)
    }

    /// Takes a call, at once or in its turn, or says why not.
    async fn begin_call(
        &self,
        headers: &HeaderMap,
    ) -> Result<(Arc<dyn Servant>, Ongoing), Response<Body>> {
        let (servant, mut ongoing) = if wire::waits(headers) {
            let Some(ongoing) = self.shared.requests.begin_in_turn().await else {
                return Err(refused(&Error::BackPressure {
                    num_queued_requests: MAX_WAITING,
                    max_queued_requests: MAX_WAITING,
                    status_code: 503,
                    retry_after_s: Some(1.0),
                }));
            };
            (self.servant().map_err(not_started)?, ongoing)
        } else {
            self.begin().map_err(not_started)?
        };
        if headers.contains_key(header::EXPECT) {
            ongoing.reserve();
        }
        Ok((servant, ongoing))
    }

    async fn call(&self, method: &str, request: Request<RequestBody>) -> Response<Body> {
        let (servant, mut ongoing) = match self.begin_call(request.headers()).await {
            Ok(begun) => begun,
            Err(refusal) => return refusal,
        };
        let context = wire::context(request.headers());
        let request_id = HeaderValue::from_str(&context.request_id);
        let is_stream = wire::is_stream(request.headers());
        let encoding = wire::encoding(request.headers());
        let body = self.body(request).await;
        if body.is_ok() {
            ongoing.begin();
        }
        let answer = match body {
            Ok(body) if is_stream => {
                streamed(servant.stream(method, body, context), encoding, ongoing).await
            }
            Ok(body) => {
                let answer = servant.call(method, body, context).await;
                ongoing.came(&answer);
                answer.map(|body| whole(body, encoding))
            }
            Err(error) => {
                let answer = Err(error);
                ongoing.came(&answer);
                answer
            }
        };
        let mut response = answer.map_or_else(|error| refused(&error), plain);
        if let Ok(id) = request_id {
            response.headers_mut().insert(HEADER_REQUEST_ID, id);
        }
        response
    }
}

struct Updating<'a>(&'a AtomicBool);

impl Drop for Updating<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A response that is there: its request is over.
fn whole(body: Bytes, encoding: Encoding) -> Response<AnyBody> {
    let mut response = Response::new(AnyBody::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, wire::content_type(encoding));
    response
}

/// A stream of items. An error before its first one is one of the whole answer.
async fn streamed(
    mut items: stream::BoxStream<'static, Result<Bytes>>,
    encoding: Encoding,
    mut ongoing: Ongoing,
) -> Result<Response<AnyBody>> {
    let first = items.next().await.transpose();
    ongoing.came(&first);
    let items = stream::iter(first?.map(Ok)).chain(items);
    let items = items.map(move |item| {
        ongoing.came(&item);
        Ok::<_, Error>(wire::item(encoding, &item))
    });
    let mut response = Response::new(AnyBody::from_stream(items));
    response.headers_mut().insert(header::CONTENT_TYPE, wire::stream_type(encoding));
    Ok(response)
}

fn plain(response: Response<AnyBody>) -> Response<Body> {
    response.map(|body| body.map_err(Into::into).boxed_unsync())
}

/// An error as JSON, with its status. Whoever called logs it.
fn refused(error: &Error) -> Response<Body> {
    let mut response = json(error.status(), error);
    if let Some(seconds) = error.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    response
}

fn not_started(reason: &'static str) -> Response<Body> {
    let message = format!("this replica takes no request now: it is {reason}; try again");
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, message);
    response.headers_mut().insert(HEADER_NOT_STARTED, HeaderValue::from_static(reason));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn metrics(page: String) -> Response<Body> {
    let mut response = text(StatusCode::OK, page);
    let kind = HeaderValue::from_static(exposition::CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
