//! Never-ending answers of one JSON value per line, and the lines of any.

use crate::body::{Body, BoxError};
use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use serde::{Serialize, de::DeserializeOwned};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Why no further line came, other than the peer's orderly end.
#[derive(Debug, thiserror::Error)]
pub enum LinesError {
    /// The connection broke.
    #[error("the stream of lines broke")]
    Broken(#[source] BoxError),
    /// A line is not what it should be.
    #[error("a line is not the expected JSON")]
    Json(#[source] serde_json::Error),
}

/// Cuts what comes piece by piece into lines.
#[derive(Debug, Default)]
pub struct LineSplitter {
    buffer: BytesMut,
    /// So much of the buffer has no end of a line: a long one is not searched again and again.
    searched: usize,
}

impl LineSplitter {
    /// What has come and is no whole line yet. More is added at its end.
    pub fn pending(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next whole line, without its end.
    pub fn next_line(&mut self) -> Option<Bytes> {
        let new = &self.buffer[self.searched..];
        let Some(end) = new.iter().position(|&byte| byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = self.buffer.split_to(self.searched + end).freeze();
        self.buffer.advance(1);
        self.searched = 0;
        Some(line)
    }
}

/// Reads one JSON value per line from a body.
pub struct JsonLines<T, B> {
    body: B,
    lines: LineSplitter,
    value: PhantomData<fn() -> T>,
}

impl<T, B> JsonLines<T, B>
where
    T: DeserializeOwned,
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Reads from `body`.
    pub fn new(body: B) -> Self {
        Self { body, lines: LineSplitter::default(), value: PhantomData }
    }

    /// The next value; none at the orderly end of the stream.
    ///
    /// # Errors
    /// [`LinesError`]; the stream is of no further use after one.
    ///
    /// # Cancel safety
    /// Cancel safe: what was read of an unfinished line stays in the buffer.
    pub async fn next(&mut self) -> Result<Option<T>, LinesError> {
        loop {
            if let Some(line) = self.lines.next_line() {
                return serde_json::from_slice(&line).map(Some).map_err(LinesError::Json);
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(LinesError::Broken(error.into())),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.lines.pending().extend_from_slice(data);
                    }
                }
            }
        }
    }
}

/// The sending side of a body of lines.
#[derive(Debug, Clone)]
pub struct LineSender(mpsc::Sender<Bytes>);

impl LineSender {
    /// Sends one value as a line; false when the reader is gone.
    ///
    /// # Cancel safety
    /// Cancel safe: a line is sent whole or not at all.
    pub async fn send<T: Serialize>(&self, value: &T) -> bool {
        let mut line = serde_json::to_vec(value).expect("wire types have string keys only");
        line.push(b'\n');
        self.0.send(line.into()).await.is_ok()
    }

    /// Sends bytes as they are; false when the reader is gone.
    ///
    /// # Cancel safety
    /// As [`LineSender::send`].
    pub async fn send_bytes(&self, bytes: impl Into<Bytes>) -> bool {
        self.0.send(bytes.into()).await.is_ok()
    }

    /// Resolves when the reader is gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// A body that is written line by line; it ends when every sender is dropped.
///
/// At most `bound` lines wait for a slow reader; further sends wait.
#[must_use]
pub fn line_channel(bound: usize) -> (LineSender, Body) {
    let (sender, receiver) = mpsc::channel(bound);
    (LineSender(sender), ChannelBody(receiver).boxed_unsync())
}

struct ChannelBody(mpsc::Receiver<Bytes>);

impl HttpBody for ChannelBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_arrive_as_sent_however_they_are_cut() {
        let (sender, body) = line_channel(4);
        for value in [1, 22, 333] {
            assert!(sender.send(&value).await);
        }
        drop(sender);
        let mut lines = JsonLines::<u32, _>::new(body);
        let mut seen = Vec::new();
        while let Some(value) = lines.next().await.unwrap() {
            seen.push(value);
        }
        assert_eq!(seen, [1, 22, 333]);

        let cut = http_body_util::StreamBody::new(futures_util::stream::iter(
            ["{\"a\"", ":1}\n{\"a\":", "2}\n"]
                .map(|part| Ok::<_, BoxError>(Frame::data(Bytes::from(part)))),
        ));
        let mut lines = JsonLines::<serde_json::Value, _>::new(cut);
        assert_eq!(lines.next().await.unwrap().unwrap()["a"], 1);
        assert_eq!(lines.next().await.unwrap().unwrap()["a"], 2);
        assert!(lines.next().await.unwrap().is_none());
    }
}
