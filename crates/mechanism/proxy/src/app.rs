//! Paths to handlers.

use crate::body::{ObservedBody, Observer};
use crate::forward::{Call, forward};
use crate::pages;
use crate::reply::{Dialect, Failed, method_not_allowed, not_found, unread};
use crate::request_id::request_id;
use crate::shared::Shared;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tyndall_openai::{ApiError, parse_chat, parse_completion, parse_generate};
use tyndall_transport::{Body, BoxError, Client, Handler, read_body};
use tyndall_types::HEADER_REQUEST_ID;

/// Largest request body.
pub(crate) const MAX_BODY_BYTES: usize = 32 << 20;

/// A client must have sent its body by then.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Where a path leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route<'a> {
    Generate,
    Completions,
    Chat,
    Models,
    Model(&'a str),
    Healthz,
    Livez,
    Readyz,
    Health,
    Version,
    Metrics,
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Option<Self> {
        Some(match path {
            "/generate" => Self::Generate,
            "/v1/completions" => Self::Completions,
            "/v1/chat/completions" => Self::Chat,
            "/v1/models" => Self::Models,
            "/healthz" => Self::Healthz,
            "/livez" => Self::Livez,
            "/readyz" => Self::Readyz,
            "/health" => Self::Health,
            "/version" => Self::Version,
            "/metrics" => Self::Metrics,
            _ => match path.strip_prefix("/v1/models/") {
                Some(id) if !id.is_empty() => Self::Model(id),
                _ => return None,
            },
        })
    }

    fn method(self) -> Method {
        match self {
            Self::Generate | Self::Completions | Self::Chat => Method::POST,
            Self::Models
            | Self::Model(_)
            | Self::Healthz
            | Self::Livez
            | Self::Readyz
            | Self::Health
            | Self::Version
            | Self::Metrics => Method::GET,
        }
    }

    /// The name that metrics use; none for what monitors ask all the time.
    fn observed(self) -> Option<&'static str> {
        match self {
            Self::Generate => Some("generate"),
            Self::Completions => Some("completions"),
            Self::Chat => Some("chat_completions"),
            Self::Models | Self::Model(_) => Some("models"),
            Self::Healthz
            | Self::Livez
            | Self::Readyz
            | Self::Health
            | Self::Version
            | Self::Metrics => None,
        }
    }
}

/// Answers every request of the public listener.
#[derive(Debug, Clone)]
pub(crate) struct App {
    shared: Arc<Shared>,
    controller: Client,
}

impl Handler for App {
    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        let id = request_id(request.headers());
        let path = request.uri().path().to_owned();
        let route = Route::of(&path);
        let mut observer = route.map_or(Some("unknown"), Route::observed).map(|handler| Observer {
            metrics: self.shared.metrics().clone(),
            handler,
            method: request.method().to_string(),
            started: std::time::Instant::now(),
            status: 499,
        });
        let mut response = match route {
            None => not_found(),
            Some(route) if !allows(&route.method(), request.method()) => {
                method_not_allowed(&route.method())
            }
            Some(route) => self.answer(route, request, &id).await,
        };
        response.headers_mut().insert(HEADER_REQUEST_ID, id);
        if let Some(observer) = &mut observer {
            observer.status = response.status().as_u16();
        }
        response.map(|inner| ObservedBody { inner, observer }.boxed_unsync())
    }
}

impl App {
    pub(crate) fn new(shared: Arc<Shared>, controller: Client) -> Self {
        Self { shared, controller }
    }

    async fn answer(
        &self,
        route: Route<'_>,
        request: Request<Incoming>,
        id: &HeaderValue,
    ) -> Response<Body> {
        match route {
            Route::Generate => self.call(Dialect::Generate, route, request, id).await,
            Route::Completions | Route::Chat => {
                self.call(Dialect::OpenAi, route, request, id).await
            }
            Route::Models => pages::models(&self.shared).await,
            Route::Model(model) => pages::model(&self.shared, model).await,
            Route::Healthz => pages::healthz(&self.shared),
            Route::Livez => pages::livez(),
            Route::Readyz => pages::readyz(&self.shared),
            Route::Health => pages::health(&self.shared),
            Route::Version => pages::version(),
            Route::Metrics => pages::metrics(&self.shared, &self.controller).await,
        }
    }

    /// A request for text.
    async fn call(
        &self,
        dialect: Dialect,
        route: Route<'_>,
        request: Request<Incoming>,
        id: &HeaderValue,
    ) -> Response<Body> {
        let arrived = Instant::now();
        let answered = async {
            let (parts, body) = request.into_parts();
            let body = read(body, BODY_TIMEOUT).await?;
            let table = self.shared.first_table().await?;
            // Checked here, before anything wakes; the replica reads it again.
            let deployment = match route {
                Route::Generate => {
                    let first = table.deployments.first().ok_or_else(pages::no_model)?;
                    parse_generate(&body, &first.route().generate)?;
                    first
                }
                Route::Completions => table.find(parse_completion(&body)?.model.as_deref())?,
                _ => table.find(parse_chat(&body)?.model.as_deref())?,
            };
            let path = Uri::try_from(parts.uri.path()).expect("it was a path before");
            let request_id = id.clone();
            let call = Call { path, headers: parts.headers, request_id, body, arrived };
            forward(deployment, &call, self.shared.metrics()).await
        };
        let cut = async {
            self.shared.is_cut().await;
            Err(ApiError::unavailable("the server shuts down before it could answer").into())
        };
        let answer: Result<_, Failed> = tokio::select! {
            answer = answered => answer,
            cut = cut => cut,
        };
        answer.unwrap_or_else(|failed| failed.into_response(dialect))
    }
}

fn allows(allowed: &Method, method: &Method) -> bool {
    // HEAD is GET without the body, which the server leaves out.
    method == allowed || (allowed == Method::GET && method == Method::HEAD)
}

async fn read<B>(body: B, limit: Duration) -> Result<Bytes, ApiError>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    match tokio::time::timeout(limit, read_body(body, MAX_BODY_BYTES)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(unread(&error)),
        Err(_) => Err(ApiError::request_timeout(format!(
            "the body did not arrive within {} s",
            limit.as_secs()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_never_ends_has_a_deadline() {
        let (sender, body) = tyndall_transport::line_channel(1);
        assert!(sender.send(&"half of it").await);
        let error = read(body, Duration::from_millis(10)).await.unwrap_err();
        assert_eq!((error.status, error.kind), (408, "RequestTimeoutError"));
    }

    #[test]
    fn internal_paths_lead_nowhere() {
        for path in ["/", "/-/status", "/-/metrics", "/v1/models/", "/generate/", "/v1"] {
            assert_eq!(Route::of(path), None, "{path}");
        }
        assert_eq!(Route::of("/v1/models/org/name"), Some(Route::Model("org/name")));
    }
}
