//! The sequences of one request together.

use crate::text_stream::{End, Piece, Sequence, Times};
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, SelectAll, select_all, unfold};
use std::time::Instant;
use tyndall_openai::{ApiError, Usage};
use tyndall_types::FinishReason;

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SubmitFailure {
    /// It can run nowhere.
    Refused(ApiError),
    /// It did not begin here and may elsewhere; the word says why.
    NotStarted(&'static str),
}

impl From<ApiError> for SubmitFailure {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

/// All sequences of a request, by index. Dropping it aborts those that run.
pub(crate) struct Job {
    pieces: SelectAll<BoxStream<'static, (usize, Piece)>>,
    num_sequences: usize,
    submitted: Instant,
    usage: Usage,
    /// Of the sequence that took longest.
    times: Times,
}

/// A whole sequence.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Whole {
    pub(crate) text: String,
    pub(crate) tokens: Vec<(u32, tyndall_engine::TokenLogprobs)>,
    pub(crate) end: End,
}

impl Job {
    pub(crate) fn new(sequences: Vec<Sequence>, num_prompt_tokens: u32) -> Self {
        let num_sequences = sequences.len();
        let pieces = sequences.into_iter().enumerate().map(|(index, sequence)| {
            unfold(sequence, move |mut sequence| async move {
                sequence.next().await.map(|piece| ((index, piece), sequence))
            })
            .boxed()
        });
        Self {
            pieces: select_all(pieces),
            num_sequences,
            submitted: Instant::now(),
            usage: Usage::new(num_prompt_tokens, 0, 0),
            times: Times::default(),
        }
    }

    /// The next piece of any sequence, with its index; none when all have ended.
    ///
    /// # Errors
    /// When the engine fails: the request is then over as a whole.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<(usize, Piece)>, ApiError> {
        let Some((index, piece)) = self.pieces.next().await else { return Ok(None) };
        if let Some(end) = &piece.end {
            if end.reason == FinishReason::Error {
                let reason = end.error.as_deref().unwrap_or("the engine failed");
                return Err(ApiError::internal(reason.to_owned()));
            }
            self.count(end);
        }
        Ok(Some((index, piece)))
    }

    /// Every sequence to its end, by index.
    ///
    /// # Errors
    /// When the engine fails.
    pub(crate) async fn collect(&mut self) -> Result<Vec<Whole>, ApiError> {
        let mut parts: Vec<Piece> = vec![Piece::default(); self.num_sequences];
        while let Some((index, piece)) = self.next().await? {
            let part = &mut parts[index];
            part.text.push_str(&piece.text);
            part.tokens.extend(piece.tokens);
            part.end = piece.end;
        }
        let whole = |part: Piece| Whole {
            text: part.text,
            tokens: part.tokens,
            end: part.end.expect("a sequence ends before its stream does"),
        };
        Ok(parts.into_iter().map(whole).collect())
    }

    /// Of the sequences that have ended.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    pub(crate) fn times(&self) -> Times {
        self.times
    }

    /// When all sequences were in the engine.
    pub(crate) fn submitted(&self) -> Instant {
        self.submitted
    }

    pub(crate) fn num_sequences(&self) -> usize {
        self.num_sequences
    }

    fn count(&mut self, end: &End) {
        let cached = self.usage.prompt_tokens_details.map_or(0, |details| details.cached_tokens);
        self.usage = Usage::new(
            self.usage.prompt_tokens,
            self.usage.completion_tokens + end.num_output_tokens,
            // Of several completions of one prompt all but the first find it in the cache.
            (cached + end.num_cached_tokens).min(self.usage.prompt_tokens),
        );
        if end.times.total_s() >= self.times.total_s() {
            self.times = end.times;
        }
    }
}
