//! The body of an answer.

use super::Idle;
use super::connection::{Connection, Upgraded};
use super::links::UnderWay;
use crate::link::LinkedBody;
use crate::wire::{Chunk, Framing, chunk_end, chunk_size, trailers};
use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::io::{ErrorKind, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Pieces up to so many bytes are copied, so that the buffer that they came in is used again.
const MAX_COPIED: usize = 1 << 10;

/// The body of an answer. Dropping it before its end closes the connection, or tells the server by
/// the link.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    /// Where it counts as under way.
    _under_way: Option<UnderWay>,
}

#[derive(Debug)]
enum Source {
    Own(OwnBody),
    Linked(LinkedBody),
}

impl ResponseBody {
    pub(super) fn new(connection: Connection, framing: Framing, back: Option<Idle>) -> Self {
        let source = Source::Own(OwnBody::new(connection, framing, back));
        Self { source, _under_way: None }
    }

    pub(super) fn linked(body: LinkedBody, under_way: UnderWay) -> Self {
        Self { source: Source::Linked(body), _under_way: Some(under_way) }
    }

    pub(super) fn under_way(self, under_way: UnderWay) -> Self {
        Self { _under_way: Some(under_way), ..self }
    }

    /// The connection, after a 101: its bytes belong to the protocol that was asked for.
    #[must_use]
    pub fn upgrade(self) -> Option<Upgraded> {
        match self.source {
            Source::Own(body) => body.upgrade(),
            Source::Linked(_) => None,
        }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        match &mut self.source {
            Source::Own(body) => {
                let polled = body.poll(cx);
                if matches!(polled, Poll::Ready(Some(Err(_)))) {
                    body.connection = None;
                }
                polled
            }
            Source::Linked(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(body) => body.connection.is_none() || body.framing == Framing::Upgrade,
            Source::Linked(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(body) => body.size_hint(),
            Source::Linked(body) => body.size_hint(),
        }
    }
}

/// A body that comes by a connection of its own.
#[derive(Debug)]
struct OwnBody {
    /// Gone when the body is over or broken.
    connection: Option<Connection>,
    framing: Framing,
    /// Where the connection goes, if it can be used again.
    back: Option<Idle>,
}

impl OwnBody {
    fn new(connection: Connection, framing: Framing, back: Option<Idle>) -> Self {
        let mut body = Self { connection: Some(connection), framing, back };
        if framing == Framing::Length(0) {
            body.end();
        }
        body
    }

    fn upgrade(self) -> Option<Upgraded> {
        let connection = self.connection.filter(|_| self.framing == Framing::Upgrade)?;
        connection.upgrade()
    }

    /// No more comes: the connection goes back before anybody learns that the body is over.
    fn end(&mut self) {
        self.framing = Framing::Length(0);
        if let (Some(connection), Some(idle)) = (self.connection.take(), self.back.take()) {
            idle.put(connection);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        loop {
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            let expected = match &mut self.framing {
                Framing::Length(left) => {
                    if let Some(data) = take(connection, left) {
                        if *left == 0 {
                            self.end();
                        }
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    *left
                }
                Framing::Upgrade => return Poll::Ready(None),
                Framing::Close => {
                    let mut endless = u64::MAX;
                    if let Some(data) = take(connection, &mut endless) {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    0
                }
                Framing::Chunked(chunk) => match step(connection, chunk)? {
                    Step::Read(expected) => expected,
                    Step::Frame(frame) => return Poll::Ready(Some(Ok(frame))),
                    Step::End(trailers) => {
                        self.end();
                        return Poll::Ready(trailers.map(Ok));
                    }
                },
            };
            match ready!(connection.poll_fill(cx, expected)) {
                Ok(()) => {}
                Err(error)
                    if self.framing == Framing::Close
                        && error.kind() == ErrorKind::UnexpectedEof =>
                {
                    self.end();
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::Length(left) => SizeHint::with_exact(left),
            Framing::Upgrade => SizeHint::with_exact(0),
            Framing::Chunked(_) | Framing::Close => SizeHint::default(),
        }
    }
}

/// What comes next of a chunked body.
enum Step {
    /// More must be read, about so much.
    Read(u64),
    Frame(Frame<Bytes>),
    /// It is over, perhaps with trailers.
    End(Option<Frame<Bytes>>),
}

fn step(connection: &mut Connection, chunk: &mut Chunk) -> Result<Step> {
    loop {
        match chunk {
            Chunk::Size => match chunk_size(&mut connection.read)? {
                Some(0) => *chunk = Chunk::Trailers,
                Some(size) => *chunk = Chunk::Data(size),
                None => return Ok(Step::Read(0)),
            },
            Chunk::Data(left) => {
                let Some(data) = take(connection, left) else { return Ok(Step::Read(*left)) };
                if *left == 0 {
                    *chunk = Chunk::End;
                }
                return Ok(Step::Frame(Frame::data(data)));
            }
            Chunk::End => match chunk_end(&mut connection.read)? {
                true => *chunk = Chunk::Size,
                false => return Ok(Step::Read(0)),
            },
            Chunk::Trailers => {
                return Ok(match trailers(&mut connection.read)? {
                    Some(map) => Step::End((!map.is_empty()).then(|| Frame::trailers(map))),
                    None => Step::Read(0),
                });
            }
        }
    }
}

/// What has come, at most `left`, which it lessens.
fn take(connection: &mut Connection, left: &mut u64) -> Option<Bytes> {
    let length = connection.read.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    if length == 0 {
        return None;
    }
    *left -= length as u64;
    Some(if length <= MAX_COPIED {
        let data = Bytes::copy_from_slice(&connection.read[..length]);
        connection.read.advance(length);
        data
    } else {
        connection.read.split_to(length).freeze()
    })
}
