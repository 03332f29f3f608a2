//! How a handle's call reaches a replica of another process.
//!
//! | request | body → answer |
//! |---|---|
//! | `POST /-/call/{method}` | the request as JSON → the response as JSON |
//! | the same, with `accept: application/x-ndjson` | the request as JSON → one line `{"item": response}` for each item; one `{"error": …}` ends the stream early |
//! | `POST /-/call/{method}`, with `content-type: application/octet-stream` | bytes → bytes, which only the two deployments understand |
//! | the same, with `accept: application/x-tyndall-frames` | bytes → frames: one byte, `I` for an item or `E` for the error that ends the stream, four of the length, most significant first, and the item's bytes, or the error as JSON |
//!
//! With `expect: 100-continue` the replica keeps a place for the call from its head on, and asks for
//! the body when it has one; ending the connection gives it back. With `x-tyndall-waits: 1` a replica
//! that is full does not refuse the call, which then waits for its turn.
//!
//! The headers are those of [`RequestContext::write_headers`]. An answer that is not 2xx has an
//! [`Error`] as JSON; with `x-tyndall-not-started` the call may go to another replica. A stream that
//! fails before its first item has such an answer too. A body that breaks off was cut: what came
//! may not be all.

use crate::caller::{Call, Encoding};
use crate::context::RequestContext;
use crate::error::{Error, Result};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use tyndall_transport::{BoxError, JsonLines, read_body};
use tyndall_types::HEADER_NOT_STARTED;

/// What comes before the method in the path of a call.
pub const CALL_PATH: &str = "/-/call/";

/// What a caller accepts that wants a stream.
const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// What a caller accepts that wants a stream of bytes.
const FRAMES: HeaderValue = HeaderValue::from_static("application/x-tyndall-frames");

/// Bytes that nobody on the way understands.
const OPAQUE: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A call for this very replica, which does not go elsewhere where it is full.
const WAITS: HeaderName = HeaderName::from_static("x-tyndall-waits");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Largest response of a call, and item of a stream.
pub(crate) const MAX_RESPONSE_BYTES: usize = 64 << 20;

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
    let (kind, streamed) = kinds(call.encoding);
    headers.insert(header::CONTENT_TYPE, kind);
    if is_stream {
        headers.insert(header::ACCEPT, streamed);
    }
    Ok(request)
}

/// Content types of a request or response, and of a stream.
fn kinds(encoding: Encoding) -> (HeaderValue, HeaderValue) {
    match encoding {
        Encoding::Json => (JSON, LINES),
        Encoding::Opaque => (OPAQUE, FRAMES),
        // Models have a wire of their own.
        Encoding::Model => (JSON, LINES),
    }
}

/// Whether a call wants a stream.
pub(crate) fn is_stream(headers: &HeaderMap) -> bool {
    matches!(headers.get(header::ACCEPT), Some(kind) if *kind == LINES || *kind == FRAMES)
}

/// Makes a call one that waits for its turn.
pub(crate) fn set_waits(headers: &mut HeaderMap) {
    headers.insert(WAITS, HeaderValue::from_static("1"));
}

/// Whether a call waits for its turn.
pub(crate) fn waits(headers: &HeaderMap) -> bool {
    headers.contains_key(WAITS)
}

/// How a call is written.
pub(crate) fn encoding(headers: &HeaderMap) -> Encoding {
    match headers.get(header::CONTENT_TYPE) {
        Some(kind) if *kind == OPAQUE => Encoding::Opaque,
        _ => Encoding::Json,
    }
}

/// Content type of a response.
pub(crate) fn content_type(encoding: Encoding) -> HeaderValue {
    kinds(encoding).0
}

/// Content type of a stream of [`item`]s.
pub(crate) fn stream_type(encoding: Encoding) -> HeaderValue {
    kinds(encoding).1
}

/// An item as a part of a stream.
pub(crate) fn item(encoding: Encoding, item: &Result<Bytes>) -> Vec<u8> {
    match encoding {
        Encoding::Json | Encoding::Model => line(item),
        Encoding::Opaque => frame(item),
    }
}

/// The context of a call.
pub(crate) fn context(headers: &HeaderMap) -> RequestContext {
    RequestContext::from_headers(headers)
}

/// An item as a line of a stream.
fn line(item: &Result<Bytes>) -> Vec<u8> {
    match item {
        Ok(json) => [b"{\"item\":", &json[..], b"}\n"].concat(),
        Err(error) => {
            let json = serde_json::to_vec(error).expect("errors have string keys only");
            [b"{\"error\":", &json[..], b"}\n"].concat()
        }
    }
}

fn frame(item: &Result<Bytes>) -> Vec<u8> {
    let too_long = |_| Error::user("an item of the stream has more than 4 GiB; send smaller ones");
    let framed = item.as_ref().map_err(Clone::clone).and_then(|bytes| {
        u32::try_from(bytes.len()).map(|length| (length, bytes)).map_err(too_long)
    });
    match framed {
        Ok((length, bytes)) => [b"I", &length.to_be_bytes()[..], bytes].concat(),
        Err(error) => {
            let json = serde_json::to_vec(&error).expect("errors have string keys only");
            let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
            [b"E", &length.to_be_bytes()[..], &json].concat()
        }
    }
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
    let body = whole(response.into_body()).await?;
    if status.is_success() { Ok(body) } else { Err(refusal(status, not_started, &body)) }
}

/// The whole body of an answer.
pub(crate) async fn whole<B>(body: B) -> Result<Bytes>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    read_body(body, MAX_RESPONSE_BYTES).await.map_err(|error| Error::ReplicaUnavailable {
        message: tyndall_types::with_causes(error.to_string(), &error),
    })
}

/// Adds the next part of a body to what is pending; false at its end.
pub(crate) async fn more<B>(body: &mut B, pending: &mut BytesMut) -> Result<bool, String>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let Some(frame) = body.frame().await else { return Ok(false) };
    let frame = frame.map_err(|error| {
        let error: BoxError = error.into();
        tyndall_types::with_causes(error.to_string(), error.as_ref())
    })?;
    if let Ok(data) = frame.into_data() {
        pending.extend_from_slice(&data);
    }
    Ok(true)
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
    if response.headers().get(header::CONTENT_TYPE) == Some(&FRAMES) {
        return frames(response.into_body()).boxed();
    }
    items(JsonLines::new(response.into_body())).boxed()
}

/// What has come of a stream of frames.
struct Frames<B> {
    body: B,
    pending: BytesMut,
}

impl<B> Frames<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// The next whole frame; none at the end.
    async fn next(&mut self) -> Result<Option<Result<Bytes>>, String> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            if !more(&mut self.body, &mut self.pending).await? {
                return match self.pending.is_empty() {
                    true => Ok(None),
                    false => Err("the answer ends within an item".to_owned()),
                };
            }
        }
    }

    fn take(&mut self) -> Result<Option<Result<Bytes>>, String> {
        const HEAD: usize = 5;
        let Some(head) = self.pending.first_chunk::<HEAD>() else { return Ok(None) };
        let [kind, length @ ..] = *head;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_RESPONSE_BYTES {
            return Err(format!("an item has {length} bytes, more than {MAX_RESPONSE_BYTES}"));
        }
        if self.pending.len() < HEAD + length {
            return Ok(None);
        }
        let bytes = self.pending.split_to(HEAD + length).freeze().slice(HEAD..);
        match kind {
            b'I' => Ok(Some(Ok(bytes))),
            b'E' => serde_json::from_slice(&bytes)
                .map(|error| Some(Err(error)))
                .map_err(|error| format!("an error is none: {error}")),
            _ => Err("a frame is neither an item nor an error".to_owned()),
        }
    }
}

fn frames<B>(body: B) -> impl Stream<Item = Result<Bytes>>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let frames = Frames { body, pending: BytesMut::new() };
    stream::unfold(Some(frames), |frames| async move {
        let mut frames = frames?;
        match frames.next().await {
            Ok(None) => None,
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(frames))),
            Ok(Some(Err(error))) => Some((Err(error), None)),
            Err(message) => Some((Err(Error::ReplicaUnavailable { message }), None)),
        }
    })
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
            application: None,
            encoding: Encoding::Json,
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
    async fn frames_carry_any_bytes_and_end_like_lines() {
        let error = Error::user("no");
        let sent = [Ok(Bytes::from_static(b"\0\n")), Ok(Bytes::new()), Err(error.clone())];
        let body: Vec<u8> = sent.iter().flat_map(|one| item(Encoding::Opaque, one)).collect();
        let answer = |body: Vec<u8>| {
            let mut response = Response::new(full(body));
            response.headers_mut().insert(header::CONTENT_TYPE, stream_type(Encoding::Opaque));
            decode_stream(response).collect::<Vec<_>>()
        };
        assert_eq!(answer(body.clone()).await, sent);
        let cut = answer(body[..6].to_vec()).await;
        assert!(matches!(cut[..], [Err(Error::ReplicaUnavailable { .. })]), "{cut:?}");
        let long = answer(b"I\xff\xff\xff\xff".to_vec()).await;
        assert!(long[0].as_ref().unwrap_err().to_string().contains("more than"), "{long:?}");
        let strange = answer(b"X\0\0\0\0".to_vec()).await;
        assert!(strange[0].as_ref().unwrap_err().to_string().contains("neither"), "{strange:?}");
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
