//! Heads of requests and answers in frames.

use crate::wire::{self, MAX_HEADERS};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, Uri, header, response};
use httparse::{ParserConfig, Status};
use std::io::Result;
use std::mem::MaybeUninit;

/// A request and its body.
pub(super) fn request(payload: &Bytes) -> Result<(Request<()>, Bytes)> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    let status = ParserConfig::default().parse_request_with_uninit_headers(
        &mut parsed,
        payload,
        &mut headers,
    );
    let Status::Complete(length) = status.map_err(wire::invalid)? else {
        return Err(wire::invalid("a head that does not end"));
    };
    let mut request = Request::new(());
    *request.method_mut() =
        Method::from_bytes(parsed.method.unwrap_or_default().as_bytes()).map_err(wire::invalid)?;
    *request.uri_mut() = Uri::try_from(parsed.path.unwrap_or_default()).map_err(wire::invalid)?;
    *request.headers_mut() = wire::header_map(parsed.headers, payload, payload)?;
    Ok((request, payload.slice(length..)))
}

/// An answer's head, and what follows it.
pub(super) fn answer(payload: &Bytes) -> Result<(Response<()>, Bytes)> {
    match wire::parse_head(payload, |_| payload.clone())? {
        Some((response, length)) => Ok((response, payload.slice(length..))),
        None => Err(wire::invalid("a head that does not end")),
    }
}

/// Writes an answer's head. A `length` is told where the headers do not.
pub(super) fn put_answer(out: &mut BytesMut, parts: &response::Parts, length: Option<u64>) {
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(parts.status.as_str().as_bytes());
    out.put_slice(b" \r\n");
    for (name, value) in &parts.headers {
        // A link has its own ways for both.
        if name != header::TRANSFER_ENCODING && name != header::CONNECTION {
            wire::line(out, name.as_str(), value.as_bytes());
        }
    }
    if let Some(length) = length
        && !parts.headers.contains_key(header::CONTENT_LENGTH)
    {
        wire::line(out, header::CONTENT_LENGTH.as_str(), length.to_string().as_bytes());
    }
    out.put_slice(b"\r\n");
}

/// Trailers as the payload of an `End`.
pub(super) fn put_trailers(out: &mut BytesMut, trailers: &HeaderMap) {
    for (name, value) in trailers {
        wire::line(out, name.as_str(), value.as_bytes());
    }
    out.put_slice(b"\r\n");
}

/// What an `End` has; nothing where there are none.
pub(super) fn trailers(payload: &[u8]) -> Result<HeaderMap> {
    let mut buffer = BytesMut::from(payload);
    if buffer.is_empty() {
        return Ok(HeaderMap::new());
    }
    let ended = wire::trailers(&mut buffer)?;
    ended.ok_or_else(|| wire::invalid("trailers that do not end"))
}
