//! HTTP/1.1 as bytes: heads and framing, as a client writes and reads them.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, Version, header,
};
use httparse::{ParserConfig, Status};
use std::io::{Error, ErrorKind, Result};
use std::mem::MaybeUninit;

pub(crate) const MAX_HEADERS: usize = 100;
pub(crate) const MAX_HEAD_BYTES: usize = 400 << 10;
/// So many headers whoever passes a head on may add.
const MAX_ADDED: usize = 4;
/// The line before a chunk, with what servers may add to the size.
const MAX_CHUNK_LINE_BYTES: usize = 16 << 10;

/// A request as it is sent.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// The method.
    pub method: &'a Method,
    /// Its path and query are sent.
    pub uri: &'a Uri,
    /// As they are sent, with a length of the body's; a `host` is added where missing.
    pub headers: &'a HeaderMap,
    /// The whole body.
    pub body: &'a Bytes,
    /// Sent where `headers` have none.
    pub(crate) authorization: Option<&'a HeaderValue>,
    /// The body follows when the server has said that it takes the request.
    pub(crate) is_open: bool,
}

impl<'a> Outgoing<'a> {
    /// These parts.
    #[must_use]
    pub fn new(method: &'a Method, uri: &'a Uri, headers: &'a HeaderMap, body: &'a Bytes) -> Self {
        Self { method, uri, headers, body, authorization: None, is_open: false }
    }

    /// Writes the head behind what is in `out`.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let target = self.uri.path_and_query().map_or("/", |target| target.as_str());
        out.reserve(target.len() + header_bytes(self.headers) + 256);
        for part in [self.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
            out.put_slice(part.as_bytes());
        }
        let (mut has_host, mut has_authorization, mut has_length) = (false, false, false);
        for (name, value) in self.headers {
            match *name {
                header::TRANSFER_ENCODING => continue,
                header::CONTENT_LENGTH => {
                    has_length = true;
                    continue;
                }
                header::HOST => has_host = true,
                header::AUTHORIZATION => has_authorization = true,
                _ => {}
            }
            line(out, name.as_str(), value.as_bytes());
        }
        if !has_host {
            line(out, "host", b"localhost");
        }
        if let (Some(value), false) = (self.authorization, has_authorization) {
            line(out, "authorization", value.as_bytes());
        }
        if self.is_open {
            // Nobody knows yet how long it will be.
            line(out, "transfer-encoding", b"chunked");
            line(out, "expect", b"100-continue");
            out.put_slice(b"\r\n");
            return;
        }
        let is_bodiless = [Method::GET, Method::HEAD, Method::CONNECT].contains(self.method);
        if has_length || !self.body.is_empty() || !is_bodiless {
            out.put_slice(b"content-length: ");
            digits(out, self.body.len());
            out.put_slice(b"\r\n");
        }
        out.put_slice(b"\r\n");
    }
}

/// A body as one chunk, which is the last.
pub(crate) fn chunk(body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(body.len() + 32);
    if !body.is_empty() {
        out.put_slice(format!("{:x}\r\n", body.len()).as_bytes());
        out.put_slice(body);
        out.put_slice(b"\r\n");
    }
    out.put_slice(b"0\r\n\r\n");
    out.freeze()
}

/// As many bytes as headers are as lines.
pub(crate) fn header_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

pub(crate) fn line(out: &mut BytesMut, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.put_slice(part);
    }
}

fn digits(out: &mut BytesMut, mut number: usize) {
    let (mut buffer, mut at) = ([0; 20], 20);
    loop {
        at -= 1;
        buffer[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.put_slice(&buffer[at..]);
}

/// How an answer's end is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// By an empty chunk.
    Chunked(Chunk),
    /// By the end of the connection.
    Close,
    /// There is no body, and what follows is no HTTP.
    Upgrade,
}

/// Where a chunked body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// Before the line with a size.
    Size,
    /// So many bytes of a chunk are left.
    Data(u64),
    /// Before the end of a chunk's line.
    End,
    /// After the last chunk.
    Trailers,
}

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) response: Response<()>,
    pub(crate) framing: Framing,
    /// The server takes another request on the connection.
    pub(crate) keeps: bool,
}

/// What a server says to the head of a request.
#[derive(Debug)]
pub(crate) enum Said {
    /// It takes the request, of which the body may come.
    GoOn,
    /// The head of its answer.
    Answer(Head),
}

/// Takes what is said to a `method` off the buffer, once all of it is there.
pub(crate) fn said(buffer: &mut BytesMut, method: &Method) -> Result<Option<Said>> {
    while !buffer.is_empty() {
        let Some((response, length)) = parse(buffer)? else { return Ok(None) };
        buffer.advance(length);
        if response.status() == StatusCode::CONTINUE {
            return Ok(Some(Said::GoOn));
        }
        // What else is said in between is nobody's: the answer follows.
        if response.status().is_informational()
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
        {
            continue;
        }
        let framing = framing(&response, method)?;
        let keeps = response.version() == Version::HTTP_11
            && framing != Framing::Close
            && !response.status().is_informational()
            && !has_token(response.headers(), &header::CONNECTION, "close");
        return Ok(Some(Said::Answer(Head { response, framing, keeps })));
    }
    Ok(None)
}

/// Reads the head of an answer; how long it is.
fn parse(buffer: &[u8]) -> Result<Option<(Response<()>, usize)>> {
    // One copy that all values share, so that the buffer stays free for what comes.
    parse_head(buffer, |length| Bytes::copy_from_slice(&buffer[..length]))
}

/// The same, where `share` has the first bytes of the buffer for the values.
pub(crate) fn parse_head(
    buffer: &[u8],
    share: impl FnOnce(usize) -> Bytes,
) -> Result<Option<(Response<()>, usize)>> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = ParserConfig::default().parse_response_with_uninit_headers(
        &mut parsed,
        buffer,
        &mut headers,
    );
    let length = match status.map_err(invalid)? {
        Status::Complete(length) => length,
        Status::Partial if buffer.len() > MAX_HEAD_BYTES => {
            return Err(invalid("the head of the answer is too long"));
        }
        Status::Partial => return Ok(None),
    };
    let mut response = Response::new(());
    *response.status_mut() =
        StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(invalid)?;
    *response.version_mut() =
        if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    *response.headers_mut() = header_map(parsed.headers, buffer, &share(length))?;
    Ok(Some((response, length)))
}

/// Headers that were found in `buffer`, whose bytes are `shared`.
pub(crate) fn header_map(
    found: &[httparse::Header<'_>],
    buffer: &[u8],
    shared: &Bytes,
) -> Result<HeaderMap> {
    // With room for what is added on the way, so that it need not grow.
    let mut map = HeaderMap::with_capacity(found.len() + MAX_ADDED);
    for found in found {
        let name = HeaderName::from_bytes(found.name.as_bytes()).map_err(invalid)?;
        let at = found.value.as_ptr() as usize - buffer.as_ptr() as usize;
        // An empty value may be said to be anywhere.
        let value = if found.value.is_empty() {
            HeaderValue::from_static("")
        } else {
            let value = shared.slice(at..at + found.value.len());
            HeaderValue::from_maybe_shared(value).map_err(invalid)?
        };
        map.append(name, value);
    }
    Ok(map)
}

/// Whether an answer to `method` has a body.
pub(crate) fn has_body(method: &Method, status: StatusCode) -> bool {
    let is_bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    !is_bodiless && !status.is_informational() && *method != Method::HEAD
}

pub(crate) fn framing(response: &Response<()>, method: &Method) -> Result<Framing> {
    let (status, headers) = (response.status(), response.headers());
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Framing::Upgrade);
    }
    if !has_body(method, status) {
        return Ok(Framing::Length(0));
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        let is_chunked = has_token(headers, &header::TRANSFER_ENCODING, "chunked");
        return Ok(if is_chunked { Framing::Chunked(Chunk::Size) } else { Framing::Close });
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(Framing::Close) };
    if lengths.any(|other| other != first) {
        return Err(invalid("the answer has two lengths"));
    }
    let is_number = !first.is_empty() && first.as_bytes().iter().all(u8::is_ascii_digit);
    let length = first.to_str().ok().filter(|_| is_number).and_then(|text| text.parse().ok());
    length.map(Framing::Length).ok_or_else(|| invalid("the answer's length is no number"))
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(token))
}

/// Takes the line before a chunk off the buffer: the size of the chunk.
pub(crate) fn chunk_size(buffer: &mut BytesMut) -> Result<Option<u64>> {
    match httparse::parse_chunk_size(buffer) {
        Ok(Status::Complete((length, size))) => {
            buffer.advance(length);
            Ok(Some(size))
        }
        Ok(Status::Partial) if buffer.len() < MAX_CHUNK_LINE_BYTES => Ok(None),
        Ok(Status::Partial) | Err(_) => Err(invalid("the size of a chunk is no number")),
    }
}

/// Takes the end of a chunk's line off the buffer.
pub(crate) fn chunk_end(buffer: &mut BytesMut) -> Result<bool> {
    match &buffer[..] {
        [b'\r', b'\n', ..] => {
            buffer.advance(2);
            Ok(true)
        }
        [] | [b'\r'] => Ok(false),
        _ => Err(invalid("a chunk is longer than its size")),
    }
}

/// Takes the trailers off the buffer, which end a chunked body; there may be none.
pub(crate) fn trailers(buffer: &mut BytesMut) -> Result<Option<HeaderMap>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let (length, map) = match httparse::parse_headers(buffer, &mut headers).map_err(invalid)? {
        Status::Complete((length, found)) => {
            (length, header_map(found, buffer, &Bytes::copy_from_slice(&buffer[..length]))?)
        }
        Status::Partial if buffer.len() > MAX_HEAD_BYTES => {
            return Err(invalid("the trailers are too long"));
        }
        Status::Partial => return Ok(None),
    };
    buffer.advance(length);
    Ok(Some(map))
}

pub(crate) fn invalid(why: impl Into<crate::BoxError>) -> Error {
    Error::new(ErrorKind::InvalidData, why)
}
