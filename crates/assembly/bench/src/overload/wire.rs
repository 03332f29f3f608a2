//! HTTP/1.1 as far as it is needed to send one request again and again: what sends shall cost little
//! beside what is measured.

use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer that is longer is none of those that are asked for.
const MAX_ANSWER: usize = 1 << 20;
/// Room that is added when an answer needs more.
const ROOM: usize = 4096;

/// What is looked at of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) has_retry_after: bool,
    /// The connection may be used again.
    pub(super) is_kept: bool,
}

/// A connection that is kept open.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(to: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(to).await.map_err(|error| format!("connect: {error}"))?;
        // A request is one packet: it is not to wait for another.
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Self { stream, buffer: Vec::with_capacity(ROOM) })
    }

    /// Sends a request and reads its answer to the end.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the connection of no use: drop it too.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> Result<Reply, String> {
        let broke = |error: std::io::Error| format!("the connection broke: {error}");
        self.buffer.clear();
        self.stream.write_all(request).await.map_err(broke)?;
        loop {
            self.buffer.reserve(ROOM);
            if self.stream.read_buf(&mut self.buffer).await.map_err(broke)? == 0 {
                return Err("the connection was closed before the whole answer".to_owned());
            }
            if let Some(reply) = parse(&self.buffer)? {
                return Ok(reply);
            }
            if self.buffer.len() > MAX_ANSWER {
                return Err("the answer is too long".to_owned());
            }
        }
    }
}

/// An answer, when all of it is there.
fn parse(bytes: &[u8]) -> Result<Option<Reply>, String> {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let strange = || "the answer is no HTTP/1.1".to_owned();
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| strange())?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let status = status.and_then(|line| line.get(..3)?.parse().ok()).ok_or_else(strange)?;
    let mut reply = Reply { status, has_retry_after: false, is_kept: true };
    let (mut length, mut is_chunked) = (None, false);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return Err(strange()) };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.parse::<usize>().map_err(|_| strange())?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            is_chunked = value.eq_ignore_ascii_case("chunked");
        } else if name.eq_ignore_ascii_case("retry-after") {
            reply.has_retry_after = true;
        } else if name.eq_ignore_ascii_case("connection") {
            reply.is_kept = !value.eq_ignore_ascii_case("close");
        }
    }
    let body = &bytes[end + 4..];
    let is_whole = match (length, is_chunked) {
        (_, true) => body == b"0\r\n\r\n" || body.ends_with(b"\r\n0\r\n\r\n"),
        (Some(length), false) => body.len() >= length,
        (None, false) => return Err("the answer has no length".to_owned()),
    };
    Ok(is_whole.then_some(reply))
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_to_their_end() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx: y\r\n\r\nok";
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), Ok(None), "{cut}");
        }
        let reply = Reply { status: 200, has_retry_after: false, is_kept: true };
        assert_eq!(parse(whole), Ok(Some(reply)));
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        assert_eq!(parse(&chunked[..chunked.len() - 1]), Ok(None));
        assert_eq!(parse(chunked), Ok(Some(reply)));
        let refused =
            b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
            content-length: 0\r\n\r\n";
        let reply = Reply { status: 503, has_retry_after: true, is_kept: false };
        assert_eq!(parse(refused), Ok(Some(reply)));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for text in ["SSH-2.0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 x\r\n\r\n"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
