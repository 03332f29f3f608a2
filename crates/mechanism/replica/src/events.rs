//! Answers as server-sent events.
//!
//! The head is sent with the first piece, so that what fails before it has a real status. After
//! it an error is one event; either way the stream ends with exactly one terminal event of its API,
//! and with the time of decoding and what was used as trailers. Where the proxy wants it, a line
//! before each piece tells what was used so far, so that an answer that nobody reads to its end is
//! accounted for.

use crate::answering::Answering;
use crate::app::{Asked, Failure, Ongoing};
use crate::timing;
use bytes::Bytes;
use futures_util::stream::unfold;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use std::collections::VecDeque;
use std::time::Instant;
use tyndall_openai::{Event, EventWriter, MessagePiece, Usage};
use tyndall_transport::{Body, BoxError};
use tyndall_types::USAGE_NOTE;

struct Events<W> {
    answering: Answering,
    writer: W,
    first_token: Instant,
    ready: VecDeque<Frame<Bytes>>,
    is_over: bool,
    notes_usage: bool,
    _ongoing: Ongoing,
}

/// Answers with a stream of events.
///
/// # Errors
/// When the first thing that comes is a failure.
pub(crate) async fn answer<W: EventWriter + 'static>(
    mut answering: Answering,
    mut writer: W,
    asked: Asked,
) -> Result<Response<Body>, Failure> {
    let first = answering.next().await?;
    let usage = answering.usage();
    let begin = Usage::new(usage.prompt_tokens, 0, usage.cached_tokens());
    let waited = answering.job.submitted().elapsed().as_secs_f64();
    let timing = asked.submitted(&answering.job).first_token(waited);
    let ready = wire(writer.begin(&begin)).collect();
    let mut events = Events {
        answering,
        writer,
        first_token: Instant::now(),
        ready,
        is_over: false,
        notes_usage: asked.notes_usage,
        _ongoing: asked.ongoing,
    };
    let usage = timing::usage(begin);
    events.take(first);
    let frames = unfold(events, |mut events| async {
        let frame = events.next().await?;
        Some((Ok::<_, BoxError>(frame), events))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::TRAILER, HeaderValue::from_static("server-timing, x-tyndall-usage"));
    headers.insert(timing::SERVER_TIMING, timing);
    headers.insert(timing::USAGE, usage);
    Ok(response)
}

fn wire(events: Vec<Event>) -> impl Iterator<Item = Frame<Bytes>> {
    events.into_iter().map(|event| Frame::data(event.to_wire().into()))
}

impl<W: EventWriter> Events<W> {
    async fn next(&mut self) -> Option<Frame<Bytes>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            if self.is_over {
                return None;
            }
            match self.answering.next().await {
                Ok(piece) => self.take(piece),
                Err(error) => {
                    tracing::error!(%error, "a stream failed");
                    let last = self.writer.fail(&error);
                    self.end(last);
                }
            }
        }
    }

    fn take(&mut self, piece: Option<(usize, MessagePiece)>) {
        let usage = self.answering.usage();
        let Some((index, piece)) = piece else {
            let last = self.writer.end(&usage);
            return self.end(last);
        };
        let mut note = match self.notes_usage {
            true => format!("{USAGE_NOTE}{}\n", usage.completion_tokens),
            false => String::new(),
        };
        for event in self.writer.piece(index, piece, &usage) {
            let wire = std::mem::take(&mut note) + &event.to_wire();
            self.ready.push_back(Frame::data(wire.into()));
        }
    }

    fn end(&mut self, last: Vec<Event>) {
        self.is_over = true;
        self.ready.extend(wire(last));
        let decode_s = self.first_token.elapsed().as_secs_f64();
        let mut trailers = timing::trailer(decode_s);
        trailers.insert(timing::USAGE, timing::usage(self.answering.usage()));
        self.ready.push_back(Frame::trailers(trailers));
    }
}
