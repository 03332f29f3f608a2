//! HTTP at the ingress: the default mapping of bodies to calls, answers that stream, and the prefix
//! at which an application is mounted.
//!
//! The prefix, which the proxy names in `x-tyndall-root-path`, is taken off the path before a
//! router sees it, so that routes are written without it; [`axum::extract::OriginalUri`] has the
//! whole, and [`RequestContext::root_path`] the prefix, for links and redirects.

use crate::context::{RequestContext, Scope};
use crate::deployment::Deployment;
use crate::error::{Error, Failed, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{OriginalUri, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use serde::{Serialize, de::DeserializeOwned};
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_service::Service;
use tyndall_transport::{BodyError, ConnectionLife, read_body};
use tyndall_types::HEADER_REQUEST_ID;

/// Largest request body of the default mapping, 32 MiB; the proxy's bound is the same.
pub const MAX_BODY_BYTES: usize = 32 << 20;

/// Content type of [`lines`].
const LINES: &str = "application/x-ndjson";

/// Content type of [`events`].
const EVENTS: &str = "text/event-stream";

/// Answers any path by [`Deployment::call`].
///
/// The request is read from the body: JSON by default; with a content type `text/…` the text is a
/// JSON string; where the request type is [`Bytes`] or `Vec<u8>`, the body as it is; no body is
/// `null`. The answer follows Ray Serve: nothing is an empty text, bytes go as they are, a string
/// is `text/plain`, all else compact JSON. A client that accepts `application/x-ndjson` or
/// `text/event-stream` is answered by [`Deployment::stream`].
pub fn default_router<D: Deployment>(this: Arc<D>) -> Router {
    Router::new().fallback(move |request: Request| {
        let this = this.clone();
        async move { answer(this, request).await.unwrap_or_else(IntoResponse::into_response) }
    })
}

async fn answer<D: Deployment>(this: Arc<D>, request: Request) -> Result<Response> {
    let (head, body) = request.into_parts();
    let body = match read_body(body, MAX_BODY_BYTES).await {
        Ok(body) => body,
        Err(error @ BodyError::TooLarge { .. }) => {
            return Ok((StatusCode::PAYLOAD_TOO_LARGE, error.to_string()).into_response());
        }
        Err(error) => return Err(Error::invalid_request(error.to_string())),
    };
    let request = read_request::<D::Request>(&head.headers, body)?;
    let accepts = |kind| text_of(&head.headers, &header::ACCEPT).contains(kind);
    if accepts(LINES) {
        return lines(this.stream(request)).await;
    }
    if accepts(EVENTS) {
        return events(this.stream(request)).await;
    }
    write_response(this.call(request).await?)
}

fn text_of<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// A value as another type, if it is of that type.
fn cast<A: 'static, B: 'static>(value: A) -> Result<B, A> {
    let mut slot = Some(value);
    match (&mut slot as &mut dyn Any).downcast_mut::<Option<B>>().and_then(Option::take) {
        Some(cast) => Ok(cast),
        None => Err(slot.expect("a value that was not cast is still there")),
    }
}

fn read_request<Q: DeserializeOwned + 'static>(headers: &HeaderMap, body: Bytes) -> Result<Q> {
    let body = match cast::<Bytes, Q>(body) {
        Ok(request) => return Ok(request),
        Err(body) => body,
    };
    if std::any::TypeId::of::<Q>() == std::any::TypeId::of::<Vec<u8>>()
        && let Ok(request) = cast::<Vec<u8>, Q>(body.to_vec())
    {
        return Ok(request);
    }
    let parsed = if text_of(headers, &header::CONTENT_TYPE).starts_with("text/") {
        let text = String::from_utf8_lossy(&body).into_owned();
        serde_json::from_value(serde_json::Value::String(text))
    } else if body.is_empty() {
        serde_json::from_value(serde_json::Value::Null)
    } else {
        serde_json::from_slice(&body)
    };
    parsed.map_err(|error| {
        Error::invalid_request(format!(
            "the body is not a request of this deployment: {error}; send JSON, or text with \
             content-type text/plain"
        ))
    })
}

fn write_response<R: Serialize + 'static>(response: R) -> Result<Response> {
    let response = match cast::<R, Bytes>(response) {
        Ok(bytes) => return Ok(typed("text/plain", bytes)),
        Err(response) => response,
    };
    let response = match cast::<R, Vec<u8>>(response) {
        Ok(bytes) => return Ok(typed("text/plain", bytes)),
        Err(response) => response,
    };
    let json = crate::methods::write(&response)?;
    match json.first() {
        Some(b'"') => {
            let text: String = serde_json::from_slice(&json).map_err(Error::user)?;
            Ok(typed("text/plain; charset=utf-8", text))
        }
        Some(b'n') => Ok(typed("text/plain", Bytes::new())),
        _ => Ok(typed("application/json", json)),
    }
}

fn typed(kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// An answer of one JSON value per line, each sent when it is there.
///
/// # Errors
/// The first item's: until then the answer has not begun. A later one breaks the answer off, so
/// that no client takes it for complete.
///
/// # Cancel safety
/// Dropping the future or the answer drops the stream.
pub async fn lines<R: Serialize + Send + 'static>(
    items: impl Stream<Item = Result<R>> + Send + 'static,
) -> Result<Response> {
    streamed(items, LINES, |json| [&json[..], b"\n"].concat()).await
}

/// An answer of one server-sent event per item, its data as JSON.
///
/// # Errors
/// As [`lines`].
///
/// # Cancel safety
/// As [`lines`].
pub async fn events<R: Serialize + Send + 'static>(
    items: impl Stream<Item = Result<R>> + Send + 'static,
) -> Result<Response> {
    streamed(items, EVENTS, |json| [b"data: ", &json[..], b"\n\n"].concat()).await
}

async fn streamed<R: Serialize + Send + 'static>(
    items: impl Stream<Item = Result<R>> + Send + 'static,
    kind: &'static str,
    frame: fn(Bytes) -> Vec<u8>,
) -> Result<Response> {
    let mut items = items.map(move |item| Ok(frame(crate::methods::write(&item?)?))).boxed();
    let first = items.next().await.transpose()?;
    let rest = items.inspect(|item: &Result<Vec<u8>>| {
        if let Err(error) = item {
            tracing::error!(%error, "a stream broke off");
        }
    });
    let whole = stream::iter(first.map(Ok)).chain(rest);
    Ok(typed(kind, Body::from_stream(whole)))
}

/// What is held from a request's begin to the last byte of its answer.
pub(crate) trait Held: Send + Unpin + 'static {
    /// The answer begins; an error of this kind is what it says, if any.
    fn answers(&mut self, _failed: Option<&'static str>) {}

    /// The answer broke off.
    fn broke(&mut self) {}
}

/// Answers a request by a router, in `scope`; `held` is dropped with the last byte of the answer, or
/// of what follows a 101.
///
/// # Cancel safety
/// Dropping the future or the answer drops whatever works for it.
pub(crate) async fn serve<T: Held>(
    mut router: Router,
    mut request: Request,
    scope: Scope,
    mut held: T,
) -> Response {
    let request_id = HeaderValue::from_str(&scope.request.request_id);
    take_prefix_off(&mut request, &scope.request);
    let life = request.extensions().get::<ConnectionLife>().cloned();
    let work = scope.clone().run(router.call(request));
    let mut response = match AssertUnwindSafe(work).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(panic) => Error::panicked(&*panic).into_response(),
    };
    if let Ok(id) = request_id {
        response.headers_mut().entry(HEADER_REQUEST_ID).or_insert(id);
    }
    held.answers(response.extensions().get().map(|Failed(kind)| *kind));
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(life)) = (response.status(), life) {
        life.keep(held);
        return response;
    }
    response.map(|body| Body::new(HeldBody { body, scope, held: Some(held) }))
}

/// `/search/a?b` under `/search` is `/a?b` to a router.
fn take_prefix_off(request: &mut Request, context: &RequestContext) {
    let whole = request.uri().clone();
    request.extensions_mut().insert(OriginalUri(whole.clone()));
    if context.root_path.is_empty() {
        return;
    }
    let Some(rest) = whole.path().strip_prefix(&context.root_path) else { return };
    let query = whole.query().map(|query| format!("?{query}")).unwrap_or_default();
    let shortened = match rest.chars().next() {
        None => format!("/{query}"),
        Some('/') => format!("{rest}{query}"),
        // `/searching` is not under `/search`.
        Some(_) => return,
    };
    if let Ok(uri) = shortened.parse::<Uri>() {
        *request.uri_mut() = uri;
    }
}

/// A body that is polled in its request's scope, and holds something up to its end.
struct HeldBody<T> {
    body: Body,
    scope: Scope,
    held: Option<T>,
}

impl<T: Held> HttpBody for HeldBody<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Self { body, scope, held } = &mut *self;
        let polled = scope.enter(|| Pin::new(body).poll_frame(cx));
        if let Poll::Ready(None | Some(Err(_))) = &polled
            && let Some(mut held) = held.take()
            && let Poll::Ready(Some(_)) = &polled
        {
            held.broke();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(root_path: &str, uri: &str) -> Request {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = uri.parse().unwrap();
        let context = RequestContext { root_path: root_path.into(), ..RequestContext::default() };
        take_prefix_off(&mut request, &context);
        request
    }

    #[test]
    fn routers_do_not_see_the_prefix() {
        let table = [
            ("", "/a?b=1", "/a?b=1"),
            ("/search", "/search", "/"),
            ("/search", "/search?b=1", "/?b=1"),
            ("/search", "/search/", "/"),
            ("/search", "/search/a/b?c", "/a/b?c"),
            ("/search", "/searching", "/searching"),
        ];
        for (root_path, uri, seen) in table {
            let request = request(root_path, uri);
            assert_eq!(request.uri().to_string(), seen, "{root_path} {uri}");
            let whole = request.extensions().get::<OriginalUri>().unwrap();
            assert_eq!(whole.0.to_string(), uri);
        }
    }

    #[test]
    fn bodies_are_read_by_their_type() {
        let mut text = HeaderMap::new();
        text.insert(header::CONTENT_TYPE, "text/plain; charset=utf-8".parse().unwrap());
        let json = HeaderMap::new();
        assert_eq!(read_request::<String>(&text, "hi".into()).unwrap(), "hi");
        assert_eq!(read_request::<String>(&json, "\"hi\"".into()).unwrap(), "hi");
        assert_eq!(read_request::<Bytes>(&json, "{".into()).unwrap(), "{");
        assert_eq!(read_request::<Vec<u8>>(&text, "{".into()).unwrap(), b"{");
        assert_eq!(read_request::<Option<u8>>(&json, Bytes::new()).unwrap(), None);
        let error = read_request::<u8>(&json, "x".into()).unwrap_err();
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
    }

    #[tokio::test]
    async fn answers_have_rays_content_types() {
        async fn check<R: Serialize + 'static>(value: R, kind: &str, body: &str) {
            let response = write_response(value).unwrap();
            assert_eq!(text_of(response.headers(), &header::CONTENT_TYPE), kind);
            let read = read_body(response.into_body(), 1 << 20).await.unwrap();
            assert_eq!(read, body);
        }
        check((), "text/plain", "").await;
        check(None::<u8>, "text/plain", "").await;
        check(Bytes::from("b"), "text/plain", "b").await;
        check(b"v".to_vec(), "text/plain", "v").await;
        check("a\"b", "text/plain; charset=utf-8", "a\"b").await;
        check(serde_json::json!({"a": [1, 2]}), "application/json", r#"{"a":[1,2]}"#).await;
        check(vec![1_u32, 2], "application/json", "[1,2]").await;
    }
}
