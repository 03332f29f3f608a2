//! From a replica's answer to the client's.

use crate::body::{ReplicaBody, Served};
use crate::headers::strip;
use crate::timing::{SERVER_TIMING, server_timing};
use crate::usage;
use http::{HeaderMap, Response, header};
use http_body_util::BodyExt;
use tyndall_router::Answer;
use tyndall_transport::Body;

/// The client's answer. The permit stays in its body.
pub(crate) fn answer(sent: Answer, mut served: Served) -> Response<Body> {
    let (mut parts, body) = sent.response.into_parts();
    strip(&mut parts.headers);
    served.learn(usage::take_from_head(&mut parts.headers));
    let timing = server_timing(sent.waits, parts.headers.get(SERVER_TIMING));
    parts.headers.insert(SERVER_TIMING, timing);
    let is_event_stream = is_event_stream(&parts.headers);
    parts.extensions.clear();
    let body = ReplicaBody::new(body, served, is_event_stream);
    Response::from_parts(parts, body.boxed_unsync())
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    content_type.is_some_and(|value| value.starts_with(b"text/event-stream"))
}
