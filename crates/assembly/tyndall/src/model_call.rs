//! How a handle's call reaches a replica of a model: as a request of OpenAI's API.
//!
//! | request | body → answer |
//! |---|---|
//! | `POST {method}`, where the method is a path such as `/v1/chat/completions` | a request as JSON → an answer as JSON |
//! | the same, called as a stream | a request as JSON → the `data` of each event before `[DONE]`; an answer that is no stream is one item |
//!
//! An answer that is not 2xx becomes an error with its status and message; with
//! `x-tyndall-not-started` the call may go to another replica.

use crate::caller::Call;
use crate::error::{Error, Result};
use crate::wire::{MAX_RESPONSE_BYTES, more, whole};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as HttpBody;
use serde_json::Value;
use tyndall_transport::{BoxError, LineSplitter};
use tyndall_types::HEADER_NOT_STARTED;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: &str = "text/event-stream";
const DONE: &[u8] = b"[DONE]";

/// The request of a call.
///
/// # Errors
/// [`Error::InvalidRequest`] for a method that is no path.
pub(crate) fn encode(call: &Call) -> Result<Request<Bytes>> {
    let path = call.method.parse().ok().filter(|_| call.method.starts_with('/'));
    let no_path = || Error::invalid_request(format!("{:?} is no path of a model", call.method));
    let mut request = Request::new(call.body.clone());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = path.ok_or_else(no_path)?;
    call.context.write_headers(request.headers_mut());
    request.headers_mut().insert(header::CONTENT_TYPE, JSON);
    Ok(request)
}

/// The answer to a call.
///
/// # Errors
/// [`Error::InvalidRequest`] for one that the model refuses; [`Error::ReplicaUnavailable`] when the
/// model fails, the answer broke off, or the call was not started.
///
/// # Cancel safety
/// Dropping the future drops the body, which closes its connection and so ends the generation.
pub(crate) async fn decode<B>(response: Response<B>) -> Result<Bytes>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let (status, headers) = (response.status(), response.headers().clone());
    let body = whole(response.into_body()).await?;
    if status.is_success() { Ok(body) } else { Err(refusal(status, &headers, &body)) }
}

fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
    if let Some(reason) = headers.get(HEADER_NOT_STARTED) {
        let reason = reason.to_str().unwrap_or("unknown");
        return Error::ReplicaUnavailable { message: format!("the model's replica is {reason}") };
    }
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let said = said["error"]["message"].as_str().map(str::to_owned);
    let said = said.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    let message = format!("the model answered {}: {said}", status.as_u16());
    match status.is_client_error() {
        true => Error::InvalidRequest { message },
        false => Error::ReplicaUnavailable { message },
    }
}

/// The items of a call that streams; an error is the last one. Dropping it closes the connection
/// and so ends the generation.
pub(crate) fn decode_stream<B>(response: Response<B>) -> BoxStream<'static, Result<Bytes>>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_events = kind.is_some_and(|kind| kind.as_bytes().starts_with(EVENTS.as_bytes()));
    if !(is_events && response.status().is_success()) {
        return stream::once(decode(response)).boxed();
    }
    let events = Events { body: response.into_body(), lines: LineSplitter::default() };
    stream::unfold(Some(events), |events| async move {
        let mut events = events?;
        match events.next().await {
            Ok(Some(data)) => Some((Ok(data), Some(events))),
            Ok(None) => None,
            Err(message) => Some((Err(Error::ReplicaUnavailable { message }), None)),
        }
    })
    .boxed()
}

/// What has come of a stream of events.
struct Events<B> {
    body: B,
    lines: LineSplitter,
}

impl<B> Events<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// The data of the next event; none at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            while let Some(line) = self.lines.next_line() {
                match line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) {
                    Some(DONE) => return Ok(None),
                    Some(data) => return Ok(Some(line.slice_ref(data))),
                    // Comments keep connections open; an empty line ends an event.
                    None => {}
                }
            }
            if self.lines.pending().len() > MAX_RESPONSE_BYTES {
                return Err(format!("an event has more than {MAX_RESPONSE_BYTES} bytes"));
            }
            let broken = |cause| format!("the answer of the model broke off: {cause}");
            if !more(&mut self.body, self.lines.pending()).await.map_err(broken)? {
                return Err("the answer of the model broke off".to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::Encoding;
    use crate::context::RequestContext;
    use tyndall_transport::full;

    fn answer(
        status: u16,
        kind: &'static str,
        body: &'static str,
    ) -> Response<tyndall_transport::Body> {
        let mut response = Response::new(full(body));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }

    #[test]
    fn calls_become_requests_of_openais_api() {
        let call = |method: &str| Call {
            application: None,
            encoding: Encoding::Model,
            deployment: "LLMServer:m".into(),
            method: method.into(),
            body: "{}".into(),
            context: RequestContext { request_id: "r".into(), ..RequestContext::default() },
        };
        let request = encode(&call("/v1/score")).unwrap();
        assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/v1/score"));
        assert_eq!(request.headers()["x-request-id"], "r");
        assert_eq!(request.headers()[header::CONTENT_TYPE], "application/json");
        for method in ["chat", "/a b", ""] {
            assert!(encode(&call(method)).is_err(), "{method:?}");
        }
    }

    #[tokio::test]
    async fn answers_and_refusals_are_told_apart() {
        assert_eq!(decode(answer(200, "application/json", "{}")).await.unwrap(), "{}");
        let body = r#"{"error": {"message": "no messages"}}"#;
        let refused = decode(answer(400, "application/json", body)).await.unwrap_err();
        let message = "the model answered 400: no messages".to_owned();
        assert_eq!(refused, Error::InvalidRequest { message });
        let failed = decode_stream(answer(500, EVENTS, "oops")).next().await.unwrap().unwrap_err();
        let message = "the model answered 500: oops".to_owned();
        assert_eq!(failed, Error::ReplicaUnavailable { message });
        let mut draining = answer(503, "application/json", "");
        draining.headers_mut().insert(HEADER_NOT_STARTED, HeaderValue::from_static("draining"));
        let told = decode(draining).await.unwrap_err().to_string();
        assert_eq!(told, "the model's replica is draining");
    }

    #[tokio::test]
    async fn streams_end_with_done_or_are_broken() {
        let read = |kind, body| decode_stream(answer(200, kind, body)).collect::<Vec<_>>();
        let events =
            read(EVENTS, "data: {\"a\":1}\r\n\r\n: still here\n\ndata: 2\n\ndata: [DONE]\n\n");
        let ok = |text: &'static str| Ok(Bytes::from(text));
        assert_eq!(events.await, [ok("{\"a\":1}"), ok("2")]);
        assert_eq!(read("application/json", "{}").await, [ok("{}")]);
        let cut = read("text/event-stream; charset=utf-8", "data: 1\n\ndata: 2").await;
        assert_eq!(cut[0], ok("1"));
        assert!(matches!(cut[1..], [Err(Error::ReplicaUnavailable { .. })]), "{cut:?}");
    }
}
