//! One connection to a server, driven by whoever waits for its answer: no task stands in between,
//! so that an exchange costs its caller no switch to another.
//!
//! A request is written while the answer is read, as a server may answer before it has all of it.

use crate::polling::noted;
use crate::wire::{self, Head, Outgoing, Said};
use bytes::{Buf, Bytes, BytesMut};
use http::Method;
use std::future::{Future, poll_fn};
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Bodies of up to so many bytes are copied behind the head, and leave with it in one piece.
const MAX_COPIED: usize = 4 << 10;
const MIN_READ: usize = 1 << 10;
const READ: usize = 8 << 10;
/// A body that is known to be long is read in larger pieces.
const MAX_READ: usize = 64 << 10;

#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<Result<usize>> {
        // The future does not outlive the poll, and keeps nothing from one to the next.
        noted(match self {
            Self::Unix(stream) => pin!(stream.read_buf(buffer)).poll(cx),
            Self::Tcp(stream) => pin!(stream.read_buf(buffer)).poll(cx),
        })
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        head: &[u8],
        body: &[u8],
    ) -> Poll<Result<usize>> {
        if body.is_empty() {
            return match self {
                Self::Unix(stream) => Pin::new(stream).poll_write(cx, head),
                Self::Tcp(stream) => Pin::new(stream).poll_write(cx, head),
            };
        }
        let slices = [IoSlice::new(head), IoSlice::new(body)];
        match self {
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, &slices),
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, &slices),
        }
    }

    /// Whether nothing came and the peer is there, as far as the system has told.
    fn is_quiet(&self) -> bool {
        let read = match self {
            Self::Unix(stream) => stream.try_read(&mut [0]),
            Self::Tcp(stream) => stream.try_read(&mut [0]),
        };
        matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

/// Why an exchange has no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// The peer was gone before any of the request left.
    Unsent(Error),
    /// The peer may have it.
    Broken(Error),
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    /// What is left to write: the head, with a small body.
    head: BytesMut,
    /// And a large one.
    body: Bytes,
    /// Something of the current request has left.
    has_begun: bool,
    /// The peer takes nothing any more; what it has said can still be read.
    is_deaf: bool,
    pub(super) read: BytesMut,
}

impl Connection {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            head: BytesMut::new(),
            body: Bytes::new(),
            has_begun: false,
            is_deaf: false,
            read: BytesMut::new(),
        }
    }

    /// Sends a request and waits for what is said to it first.
    ///
    /// # Cancel safety
    /// Not cancel safe: the connection is of no further use.
    pub(super) async fn exchange(
        &mut self,
        request: &Outgoing<'_>,
    ) -> std::result::Result<Said, Unanswered> {
        self.has_begun = false;
        request.encode(&mut self.head);
        if request.body.len() <= MAX_COPIED {
            self.head.extend_from_slice(request.body);
        } else {
            self.body = request.body.clone();
        }
        let said = poll_fn(|cx| self.poll_said(cx, request.method)).await;
        said.map_err(|error| match self.has_begun {
            true => Unanswered::Broken(error),
            false => Unanswered::Unsent(error),
        })
    }

    /// Sends the body of an open request, which the server takes, and waits for the head of its answer.
    ///
    /// # Cancel safety
    /// As [`Connection::exchange`].
    pub(super) async fn finish(&mut self, method: &Method, body: &[u8]) -> Result<Head> {
        self.body = wire::chunk(body);
        self.answered(method, Said::GoOn).await
    }

    /// Waits for the head of the answer after what is said before it.
    ///
    /// # Cancel safety
    /// As [`Connection::exchange`].
    pub(super) async fn answered(&mut self, method: &Method, mut said: Said) -> Result<Head> {
        loop {
            match said {
                Said::Answer(head) => return Ok(head),
                Said::GoOn => said = poll_fn(|cx| self.poll_said(cx, method)).await?,
            }
        }
    }

    fn poll_said(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<Result<Said>> {
        loop {
            if let Some(said) = wire::said(&mut self.read, method)? {
                return Poll::Ready(Ok(said));
            }
            ready!(self.poll_fill(cx, 0))?;
        }
    }

    /// Reads more of what the peer says, and writes what it has not got yet. `expected` is how much
    /// is known to come.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, expected: u64) -> Poll<Result<()>> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            self.head.clear();
            self.body = Bytes::new();
            self.is_deaf = true;
            if !self.has_begun {
                return Poll::Ready(Err(error));
            }
        }
        if self.read.capacity() - self.read.len() < MIN_READ {
            let expected = usize::try_from(expected).unwrap_or(MAX_READ);
            self.read.reserve(expected.clamp(READ, MAX_READ));
        }
        match ready!(self.stream.poll_read(cx, &mut self.read))? {
            0 => Poll::Ready(Err(ended())),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while self.is_sending() {
            let written = ready!(self.stream.poll_write(cx, &self.head, &self.body))?;
            if written == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.has_begun = true;
            let of_head = written.min(self.head.len());
            self.head.advance(of_head);
            self.body.advance(written - of_head);
        }
        // The next head starts where this one did.
        self.head.clear();
        Poll::Ready(Ok(()))
    }

    fn is_sending(&self) -> bool {
        !(self.head.is_empty() && self.body.is_empty())
    }

    /// Whether an exchange that is over left it as it found it.
    pub(super) fn is_clean(&self) -> bool {
        !self.is_sending() && !self.is_deaf && self.read.is_empty()
    }

    /// It leaves HTTP, unless the peer does not have all of the request.
    pub(super) fn upgrade(self) -> Option<Upgraded> {
        let is_whole = !self.is_sending() && !self.is_deaf;
        is_whole.then_some(Upgraded { stream: self.stream, read: self.read })
    }

    /// Whether it can be used again after some time.
    pub(super) fn is_alive(&self) -> bool {
        self.stream.is_quiet()
    }
}

/// A connection after an answer of 101: bytes of another protocol, both ways.
#[derive(Debug)]
pub struct Upgraded {
    stream: Stream,
    /// What came with the answer.
    read: BytesMut,
}

impl AsyncRead for Upgraded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        if self.read.is_empty() {
            return noted(match &mut self.stream {
                Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
                Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            });
        }
        let length = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        self.stream.poll_write(cx, bytes, &[])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The peer ended the connection too early.
fn ended() -> Error {
    Error::new(ErrorKind::UnexpectedEof, "the peer ended the connection")
}
