//! A request to a program: what the client sent, as it was sent, and the answer as it comes; after
//! a handshake of WebSockets, all that follows.
//!
//! The body is read first, so that the request can go to another replica while no answer has
//! begun. One whose method is not idempotent goes elsewhere only when no replica can have
//! begun it; when one is lost that may have, the client gets a 500, as from Ray Serve.

use crate::answer::answer;
use crate::app::read;
use crate::body::{AnswerLimit, Served};
use crate::caller::Caller;
use crate::headers::{TE_TRAILERS, TimeLimit, has_any, strip, takes_trailers};
use crate::reply::Failed;
use crate::request_id::REQUEST_ID;
use crate::shared::{Shared, shuts_down};
use crate::tunnel::{self, Tunnelled, wants_websocket};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use std::pin::pin;
use std::sync::Arc;
use tokio::time::Instant;
use tyndall_openai::ApiError;
use tyndall_router::{Call, Flow, HEADER_ROOT_PATH, Mount};
use tyndall_transport::{Body, RequestBody, Upgrade};
use tyndall_types::HEADER_GRPC;

/// Names a multiplexed model; the second one as proxies write it that let no underscore pass.
pub(crate) static MODEL_ID: [HeaderName; 2] = [
    HeaderName::from_static("serve_multiplexed_model_id"),
    HeaderName::from_static("serve-multiplexed-model-id"),
];
/// Marks calls of gRPC on their way to a replica.
pub(crate) static OF_GRPC: HeaderName = HeaderName::from_static(HEADER_GRPC);
/// How the body comes, and what clients may not claim.
static NOT_PASSED_ON: [HeaderName; 3] =
    [header::EXPECT, header::TRAILER, HeaderName::from_static(HEADER_GRPC)];

const ROOT_PATH: HeaderName = HeaderName::from_static(HEADER_ROOT_PATH);

/// Gets a request to a program answered.
///
/// # Cancel safety
/// Dropping the future gives back the place or the permit and closes the connection to the
/// replica, so that its work is cancelled.
pub(crate) async fn forward(
    shared: &Shared,
    mount: &Mount,
    mut request: Request<RequestBody>,
    id: &HeaderValue,
    caller: Caller,
) -> Result<Response<Body>, Failed> {
    let application = mount.ingress.id().application.as_str();
    if !caller.may_use_named(application) {
        return Err(caller.forbidden(application).into());
    }
    let upgrade = wants_websocket(request.method(), request.headers());
    let upgrade = upgrade.then(|| Upgrade::of(&mut request));
    let (parts, body) = request.into_parts();
    let arrived = Instant::now();
    let flow = caller.flow();
    let limit = TimeLimit::of(&parts.headers, mount.ingress.route().request_timeout_s);
    let deadline = limit.until_answer().map(|limit| arrived + limit);
    let is_upgrade = upgrade.is_some();
    let sent = pin!(async {
        let body = read(body).await?;
        let mut call = Call { deadline, flow, ..call(parts, body, &mount.prefix, id) };
        if is_upgrade {
            tunnel::set_hop(&mut call.headers);
        }
        let failed = |error| Failed::unsent_to_program(error, id, &limit);
        mount.ingress.send(&call).await.map_err(failed)
    });
    let sent = tokio::select! {
        sent = sent => sent?,
        () = shared.is_cut() => return Err(shuts_down().into()),
    };
    if sent.response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let tunnelled = upgrade.map(|upgrade| Tunnelled {
            upgrade,
            is_cut: shared.cut_signal(),
            grant: caller.into_grant(),
        });
        let accepted = tunnelled.and_then(|tunnelled| tunnel::accept(sent, tunnelled));
        return accepted.ok_or_else(|| switched_by_itself().into());
    }
    let served = Served {
        label: mount.ingress.label(),
        stream: None,
        metrics: shared.metrics().clone(),
        is_cut: shared.cut_signal(),
        limit: limit
            .duration()
            .map_or(AnswerLimit::None, |limit| AnswerLimit::Whole(arrived + limit)),
        grant: caller.into_grant(),
    };
    Ok(answer(sent, served))
}

fn call(parts: Parts, body: Bytes, prefix: &str, id: &HeaderValue) -> Call {
    let mut headers = parts.headers;
    set_hop(&mut headers);
    headers.insert(REQUEST_ID, id.clone());
    // Frameworks take their own `/` for no prefix at all.
    let root_path = HeaderValue::from_bytes(if prefix == "/" { b"" } else { prefix.as_bytes() });
    headers.insert(ROOT_PATH, root_path.unwrap_or(HeaderValue::from_static("")));
    let first = || MODEL_ID.iter().find_map(|name| headers.get(name)?.to_str().ok());
    let model = if has_any(&headers, &MODEL_ID) { first() } else { None };
    let model = model.filter(|model| !model.is_empty()).map(Arc::from);
    Call {
        runs_once: !parts.method.is_idempotent(),
        method: parts.method,
        uri: parts.uri.path_and_query().cloned().map(Uri::from).unwrap_or_default(),
        headers,
        body,
        deadline: None,
        flow: Flow::default(),
        model,
        has_arguments: false,
        prefix: None,
    }
}

/// Headers of the next hop instead of those of the one before.
fn set_hop(headers: &mut HeaderMap) {
    let takes_trailers = takes_trailers(headers);
    strip(headers);
    // The body was waited for, and is sent whole and without trailers.
    if has_any(headers, &NOT_PASSED_ON) {
        NOT_PASSED_ON.iter().for_each(|name| drop(headers.remove(name)));
    }
    if takes_trailers {
        headers.insert(header::TE, TE_TRAILERS);
    }
}

fn switched_by_itself() -> ApiError {
    ApiError::replica_lost(
        "the replica switched to a protocol that nobody asked for; answer 101 only to an upgrade",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_sent_is_passed_on() {
        let request = Request::patch("http://host.example/p/a%20b?x=1&y")
            .header("host", "host.example")
            .header("content-length", "4")
            .header("x-tyndall-root-path", "/forged")
            .header("x-tyndall-grpc", "1")
            .header("x-request-id", "not\"harmless")
            .header("serve_multiplexed_model_id", "m")
            .header("expect", "100-continue")
            .header("connection", "close")
            .body(())
            .unwrap();
        let id = HeaderValue::from_static("id-1");
        let (parts, ()) = request.into_parts();
        let made = call(parts.clone(), Bytes::from_static(b"body"), "/p", &id);
        assert_eq!((made.uri.to_string().as_str(), made.runs_once), ("/p/a%20b?x=1&y", true));
        assert_eq!(made.model.as_deref(), Some("m"));
        let mut sent: Vec<_> = made
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        sent.sort();
        assert_eq!(
            sent,
            [
                "content-length: 4",
                "host: host.example",
                "serve_multiplexed_model_id: m",
                "x-request-id: id-1",
                "x-tyndall-root-path: /p",
            ]
        );
        assert_eq!(call(parts, Bytes::new(), "/", &id).headers[HEADER_ROOT_PATH], "");
    }
}
