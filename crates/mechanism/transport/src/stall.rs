//! Connections whose peer stops reading do not live for ever.

use crate::heads::Heads;
use crate::polling::noted;
use crate::upgrade::ConnectionEnd;
use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A stream on which a write fails when the peer takes nothing for `max_stall`. A body is dropped
/// then, and with it whatever it holds.
pub(crate) struct StallGuard<S> {
    stream: S,
    max_stall: Duration,
    timer: Pin<Box<Sleep>>,
    /// Knows whether a write waits.
    heads: Heads,
    _end: ConnectionEnd,
}

impl<S> StallGuard<S> {
    pub(crate) fn new(stream: S, max_stall: Duration, heads: Heads, end: ConnectionEnd) -> Self {
        let timer = Box::pin(sleep(max_stall));
        Self { stream, max_stall, timer, heads, _end: end }
    }

    /// What a write came to, or an error when none went on for too long.
    fn guard<T>(&mut self, polled: Poll<Result<T>>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        if polled.is_ready() {
            self.heads.written();
            return polled;
        }
        if !self.heads.stalls() {
            self.timer.as_mut().reset(Instant::now() + self.max_stall);
        }
        std::task::ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the peer stopped reading")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        noted(Pin::new(&mut self.stream).poll_read(cx, buffer))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.guard(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.guard(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.guard(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.guard(polled, cx)
    }
}
