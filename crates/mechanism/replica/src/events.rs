//! Answers as server-sent events.
//!
//! The head is sent with the first piece, so that what fails before it has a real status. After
//! it an error is one event; either way the stream ends with exactly one `[DONE]`, and with the
//! time of decoding as a trailer.

use crate::app::{Asked, Failure, Ongoing};
use crate::job::Job;
use crate::text_stream::Piece;
use crate::timing;
use bytes::Bytes;
use futures_util::stream::unfold;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Instant;
use tyndall_openai::{StreamOptions, Usage};
use tyndall_transport::{Body, BoxError};

/// How a route writes its events.
pub(crate) trait Chunks: Send + 'static {
    /// Before the first piece of a sequence.
    fn begin(&mut self, index: usize) -> Option<Bytes>;
    /// A piece of a sequence.
    fn piece(&mut self, index: usize, piece: Piece, usage: Option<Usage>) -> Vec<Bytes>;
    /// After all pieces, when asked for.
    fn usage(&mut self, usage: Usage) -> Bytes;
}

/// One event of a JSON value.
pub(crate) fn event<T: Serialize>(value: &T) -> Bytes {
    let json = serde_json::to_string(value).expect("wire types have string keys only");
    format!("data: {json}\n\n").into()
}

struct Events<C> {
    job: Job,
    chunks: C,
    options: StreamOptions,
    usage_so_far: Usage,
    first_token: Instant,
    ready: VecDeque<Frame<Bytes>>,
    is_over: bool,
    _ongoing: Ongoing,
}

/// Answers with a stream of events.
///
/// # Errors
/// When the first thing that comes is a failure.
pub(crate) async fn answer<C: Chunks>(
    mut job: Job,
    chunks: C,
    options: StreamOptions,
    asked: Asked,
) -> Result<Response<Body>, Failure> {
    let first = job.next().await?;
    let waited = job.submitted().elapsed().as_secs_f64();
    let timing = asked.submitted(&job).first_token(waited);
    let usage_so_far = Usage { prompt_tokens_details: None, ..job.usage() };
    let mut events = Events {
        job,
        chunks,
        options,
        usage_so_far,
        first_token: Instant::now(),
        ready: VecDeque::new(),
        is_over: false,
        _ongoing: asked.ongoing,
    };
    for index in 0..events.job.num_sequences() {
        if let Some(begin) = events.chunks.begin(index) {
            events.ready.push_back(Frame::data(begin));
        }
    }
    events.take(first);
    let frames = unfold(events, |mut events| async {
        let frame = events.next().await?;
        Some((Ok::<_, BoxError>(frame), events))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::TRAILER, HeaderValue::from_static("server-timing"));
    headers.insert(timing::SERVER_TIMING, timing);
    Ok(response)
}

impl<C: Chunks> Events<C> {
    async fn next(&mut self) -> Option<Frame<Bytes>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            if self.is_over {
                return None;
            }
            match self.job.next().await {
                Ok(piece) => self.take(piece),
                Err(error) => {
                    tracing::error!(%error, "a stream failed");
                    self.end(Some(event(&error.openai_body())));
                }
            }
        }
    }

    fn take(&mut self, piece: Option<(usize, Piece)>) {
        let Some((index, piece)) = piece else {
            let usage = self.job.usage();
            let usage = self.options.include_usage.then(|| self.chunks.usage(usage));
            self.end(usage);
            return;
        };
        self.usage_so_far.completion_tokens += piece.num_tokens;
        self.usage_so_far.total_tokens += piece.num_tokens;
        let usage = self.options.continuous_usage_stats.then_some(self.usage_so_far);
        let events = self.chunks.piece(index, piece, usage);
        self.ready.extend(events.into_iter().map(Frame::data));
    }

    fn end(&mut self, last: Option<Bytes>) {
        self.is_over = true;
        self.ready.extend(last.map(Frame::data));
        self.ready.push_back(Frame::data(Bytes::from_static(b"data: [DONE]\n\n")));
        let decode_s = self.first_token.elapsed().as_secs_f64();
        self.ready.push_back(Frame::trailers(timing::trailer(decode_s)));
    }
}
