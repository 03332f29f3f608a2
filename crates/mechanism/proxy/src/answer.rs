//! From a replica's answer to the client's.

use crate::body::{ReplicaBody, Served};
use crate::deployment::Waits;
use crate::timing::{SERVER_TIMING, server_timing};
use http::{HeaderMap, HeaderName, Response, header};
use http_body_util::BodyExt;
use std::time::Duration;
use tyndall_transport::{Body, ResponseBody};

/// Headers that concern one connection only.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TE,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
];

/// The client's answer. The permit moves into its body, which may pause for `max_silence` at most.
pub(crate) fn answer(
    response: Response<ResponseBody>,
    served: Served,
    waits: Waits,
    max_silence: Duration,
) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    for name in &HOP_BY_HOP {
        parts.headers.remove(name);
    }
    parts.headers.remove("keep-alive");
    let timing = server_timing(waits, parts.headers.get(SERVER_TIMING));
    parts.headers.insert(SERVER_TIMING, timing);
    let is_event_stream = is_event_stream(&parts.headers);
    parts.extensions.clear();
    let body = ReplicaBody::new(body, served, is_event_stream, max_silence);
    Response::from_parts(parts, body.boxed_unsync())
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    content_type.is_some_and(|value| value.starts_with(b"text/event-stream"))
}
