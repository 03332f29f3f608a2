//! What both ends of a link do: read frames, and write what is to be said.

use super::frame::{self, Frame, Kind};
use bytes::{Buf, BytesMut};
use std::future::{Future, poll_fn};
use std::io::{ErrorKind, Result};
use std::pin::{Pin, pin};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::yield_now;

const MIN_READ: usize = 4 << 10;
const READ: usize = 32 << 10;
/// After so many reads in a row others have their turn.
const MAX_READS: usize = 8;
/// So many frames are handed over at once: the first of many are answered while the last wait, and
/// what is said to these leaves in one piece. Of 4, 8 and all of them, 8 answered the most requests.
const MAX_FRAMES: usize = 8;
/// A buffer that had to grow beyond this is not kept.
const MAX_KEPT: usize = 256 << 10;

/// Frames on their way out.
#[derive(Debug, Default)]
pub(super) struct Outbox(Mutex<Outgoing>);

#[derive(Debug, Default)]
struct Outgoing {
    bytes: BytesMut,
    /// All that was ever put, in bytes.
    queued: u64,
    /// Who writes, if it waits for something to write.
    driver: Option<Waker>,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a frame whose payload `fill` appends. Returns where it begins among all bytes.
    pub(super) fn put(&self, kind: Kind, id: u64, fill: impl FnOnce(&mut BytesMut)) -> u64 {
        let mut outgoing = self.lock();
        let (start, before) = (outgoing.queued, outgoing.bytes.len());
        frame::put(&mut outgoing.bytes, kind, id, fill);
        outgoing.queued += (outgoing.bytes.len() - before) as u64;
        let driver = outgoing.driver.take();
        drop(outgoing);
        driver.into_iter().for_each(Waker::wake);
        start
    }

    /// Lets the driver look whether it is over.
    pub(super) fn wake(&self) {
        let driver = self.lock().driver.take();
        driver.into_iter().for_each(Waker::wake);
    }

    fn poll_some(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut outgoing = self.lock();
        if !outgoing.bytes.is_empty() {
            return Poll::Ready(());
        }
        outgoing.driver = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Everything that is there, for an empty buffer.
    fn take(&self, buffer: &mut BytesMut) {
        if buffer.capacity() > MAX_KEPT {
            *buffer = BytesMut::new();
        }
        std::mem::swap(buffer, &mut self.lock().bytes);
    }
}

/// Who gets what comes.
pub(super) trait Side {
    /// Frames came, in this order; they are taken out.
    ///
    /// # Errors
    /// When the peer does not keep to the protocol: the link is broken.
    fn take(&self, frames: &mut Vec<Frame>) -> Result<()>;

    /// Nothing comes or goes any more.
    fn is_over(&self) -> bool;
}

/// Owns the connection.
#[derive(Debug)]
pub(super) struct Driver<S> {
    stream: S,
    read: BytesMut,
    frames: Vec<Frame>,
    writing: BytesMut,
    /// All that has left, in bytes.
    pub(super) written: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Work {
    Write,
    End,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(super) fn new(stream: S) -> Self {
        let (read, writing) = (BytesMut::new(), BytesMut::new());
        Self { stream, read, frames: Vec::new(), writing, written: 0 }
    }

    /// Until it is over, or the peer has ended the connection.
    ///
    /// # Errors
    /// When the connection breaks.
    ///
    /// # Cancel safety
    /// Not cancel safe: the link is broken afterwards.
    pub(super) async fn run(&mut self, outbox: &Outbox, side: &impl Side) -> Result<()> {
        // With one thread whoever is woken runs after all that were; with several it may be the next.
        let is_next = Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread;
        while poll_fn(|cx| self.poll_work(cx, outbox, side)).await? == Work::Write {
            // Others that run now add theirs, and all of it leaves in one piece.
            if is_next {
                yield_now().await;
            }
            if self.writing.is_empty() {
                outbox.take(&mut self.writing);
            }
            poll_fn(|cx| match self.poll_write(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                // The rest is written when there is room; what comes is read meanwhile.
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
            })
            .await?;
        }
        Ok(())
    }

    /// Reads all there is, goes on with what is half written, and tells what there is to do.
    fn poll_work(
        &mut self,
        cx: &mut Context<'_>,
        outbox: &Outbox,
        side: &impl Side,
    ) -> Poll<Result<Work>> {
        let is_writing = self.poll_write(cx)?.is_pending();
        let mut has_more = self.hand_over(side)?;
        let mut reads = 0;
        while !has_more && let Poll::Ready(length) = self.poll_read(cx)? {
            if length == 0 {
                return Poll::Ready(Ok(Work::End));
            }
            reads += 1;
            has_more = self.hand_over(side)? || reads == MAX_READS;
        }
        if has_more {
            cx.waker().wake_by_ref();
        }
        if side.is_over() {
            return Poll::Ready(Ok(Work::End));
        }
        if is_writing {
            return Poll::Pending;
        }
        ready!(outbox.poll_some(cx));
        Poll::Ready(Ok(Work::Write))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize>> {
        if self.read.capacity() - self.read.len() < MIN_READ {
            self.read.reserve(READ);
        }
        // The future does not outlive the poll, and keeps nothing from one to the next.
        pin!(self.stream.read_buf(&mut self.read)).poll(cx)
    }

    /// Hands over the next few frames that have come; whether there may be more.
    fn hand_over(&mut self, side: &impl Side) -> Result<bool> {
        while self.frames.len() < MAX_FRAMES
            && let Some(frame) = frame::take(&mut self.read)?
        {
            self.frames.push(frame);
        }
        let is_full = self.frames.len() == MAX_FRAMES;
        if !self.frames.is_empty() {
            side.take(&mut self.frames)?;
        }
        Ok(is_full)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while !self.writing.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.writing))?;
            if written == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.written += written as u64;
            self.writing.advance(written);
        }
        self.writing.clear();
        Poll::Ready(Ok(()))
    }
}
