//! How a handle's call reaches a replica of another process.
//!
//! | request | body → answer |
//! |---|---|
//! | `POST /-/call/{method}` | the request as JSON → the response as JSON |
//! | the same, with `accept: application/x-ndjson` | the request as JSON → one line `{"item": response}` for each item; one `{"error": …}` ends the stream early |
//!
//! The headers are those of [`RequestContext::write_headers`]. An answer that is not 2xx has an
//! [`Error`] as JSON; with `x-tyndall-not-started` the call may go to another replica. A stream that
//! fails before its first item has such an answer too. A body that breaks off was cut: what came
//! may not be all.

use crate::caller::Call;
use crate::context::RequestContext;
use crate::error::{Error, Result};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as HttpBody;
use serde::Deserialize;
use serde_json::value::RawValue;
use tyndall_transport::{BoxError, JsonLines, read_body};
use tyndall_types::HEADER_NOT_STARTED;

/// What comes before the method in the path of a call.
pub const CALL_PATH: &str = "/-/call/";

/// What a caller accepts that wants a stream.
const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// Largest response of a call.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// The request of a call, for a method that streams or for one that does not.
///
/// # Errors
/// [`Error::InvalidRequest`] for a method whose name cannot stand in a path.
pub fn encode(call: &Call, is_stream: bool) -> Result<Request<Bytes>> {
    let uri = format!("{CALL_PATH}{}", call.method).parse().map_err(|_| {
        Error::invalid_request(format!("{:?} cannot be the name of a method", call.method))
    })?;
    let mut request = Request::new(call.body.clone());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    call.context.write_headers(headers);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if is_stream {
        headers.insert(header::ACCEPT, LINES);
    }
    Ok(request)
}

/// Whether a call wants a stream.
pub(crate) fn is_stream(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT) == Some(&LINES)
}

/// The context of a call.
pub(crate) fn context(headers: &HeaderMap) -> RequestContext {
    RequestContext::from_headers(headers)
}

/// An item as a line of a stream.
pub(crate) fn line(item: &Result<Bytes>) -> Vec<u8> {
    match item {
        Ok(json) => [b"{\"item\":", &json[..], b"}\n"].concat(),
        Err(error) => {
            let json = serde_json::to_vec(error).expect("errors have string keys only");
            [b"{\"error\":", &json[..], b"}\n"].concat()
        }
    }
}

/// The content type of [`line`]s.
pub(crate) fn line_type() -> HeaderValue {
    LINES
}

/// The response of a call.
///
/// # Errors
/// The deployment's error; [`Error::ReplicaUnavailable`] when the answer broke off, is none of
/// ours, or says that the call was not started.
///
/// # Cancel safety
/// Dropping the future drops the body, which closes its connection and so cancels the call.
pub async fn decode<B>(response: Response<B>) -> Result<Bytes>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let status = response.status();
    let not_started = response.headers().get(HEADER_NOT_STARTED).cloned();
    let body = read_body(response.into_body(), MAX_RESPONSE_BYTES).await.map_err(|error| {
        Error::ReplicaUnavailable { message: tyndall_types::with_causes(error.to_string(), &error) }
    })?;
    if status.is_success() { Ok(body) } else { Err(refusal(status, not_started, &body)) }
}

fn refusal(status: StatusCode, not_started: Option<HeaderValue>, body: &[u8]) -> Error {
    if let Some(reason) = not_started {
        let reason = reason.to_str().unwrap_or("unknown");
        return Error::ReplicaUnavailable { message: format!("the replica is {reason}") };
    }
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let body = String::from_utf8_lossy(body);
        Error::ReplicaUnavailable { message: format!("the replica answered {status}: {body}") }
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Item(Box<RawValue>),
    Error(Error),
}

/// The responses of a call that streams; an error is the last item. Dropping it closes the
/// connection and so cancels the call.
pub fn decode_stream<B>(response: Response<B>) -> BoxStream<'static, Result<Bytes>>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    if !response.status().is_success() {
        let refused = async move { Err(decode(response).await.err().unwrap_or_else(broken)) };
        return stream::once(refused).boxed();
    }
    items(JsonLines::new(response.into_body())).boxed()
}

fn items<B>(lines: JsonLines<Line, B>) -> impl Stream<Item = Result<Bytes>>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    stream::unfold(Some(lines), |lines| async move {
        let mut lines = lines?;
        match lines.next().await {
            Ok(None) => None,
            Ok(Some(Line::Item(json))) => {
                Some((Ok(Bytes::from(String::from(Box::<str>::from(json)))), Some(lines)))
            }
            Ok(Some(Line::Error(error))) => Some((Err(error), None)),
            Err(error) => {
                let message = tyndall_types::with_causes(error.to_string(), &error);
                Some((Err(Error::ReplicaUnavailable { message }), None))
            }
        }
    })
}

fn broken() -> Error {
    Error::ReplicaUnavailable { message: "the answer broke off".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tyndall_transport::full;

    fn call(method: &str) -> Call {
        Call {
            deployment: "D".into(),
            method: method.into(),
            body: "1".into(),
            context: RequestContext { request_id: "r".into(), ..RequestContext::default() },
        }
    }

    #[test]
    fn calls_become_requests() {
        let request = encode(&call("rerank"), false).unwrap();
        assert_eq!(request.uri().path(), "/-/call/rerank");
        assert_eq!(context(request.headers()).request_id, "r");
        assert!(!is_stream(request.headers()));
        assert!(is_stream(encode(&call("s"), true).unwrap().headers()));
        assert!(encode(&call("a b"), false).is_err());
    }

    #[tokio::test]
    async fn streams_end_by_themselves_by_an_error_or_broken() {
        let error = Error::user("no");
        let sent = [Ok(Bytes::from("null")), Ok(Bytes::from("[1]")), Err(error.clone())];
        let body: Vec<u8> = sent.iter().flat_map(line).collect();
        let read: Vec<_> = decode_stream(Response::new(full(body))).collect().await;
        assert_eq!(read, sent);
        let cut = decode_stream(Response::new(full("{\"item\":1}\n{\"it"))).collect::<Vec<_>>();
        assert_eq!(cut.await, [Ok(Bytes::from("1"))], "the framing says that the rest is missing");
        let garbled: Vec<_> = decode_stream(Response::new(full("x\n"))).collect().await;
        assert!(matches!(garbled[..], [Err(Error::ReplicaUnavailable { .. })]));
    }

    #[tokio::test]
    async fn errors_of_any_origin_are_errors() {
        let mut response = Response::new(full(serde_json::to_vec(&Error::user("no")).unwrap()));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        assert_eq!(decode(response).await, Err(Error::user("no")));
        let mut response = Response::new(full("oops"));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        let error = decode_stream(response).next().await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "the replica answered 502 Bad Gateway: oops");
        let mut response = Response::new(full(""));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.headers_mut().insert(HEADER_NOT_STARTED, "draining".parse().unwrap());
        let error = decode(response).await.unwrap_err();
        assert_eq!(error.to_string(), "the replica is draining");
    }
}
