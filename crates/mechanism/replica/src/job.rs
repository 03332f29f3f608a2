//! The sequences of one request together.

use crate::text_stream::{Piece, Sequence, Times};
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, SelectAll, select_all, unfold};
use std::time::Instant;
use tyndall_openai::{ApiError, PromptTokensDetails, Usage};
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
        if let Some(prompt) = &piece.prompt {
            // Of several completions of one prompt all but the first find it in the cache.
            let cached = self.usage.cached_tokens() + prompt.num_cached_tokens;
            let cached_tokens = cached.min(self.usage.prompt_tokens);
            self.usage.prompt_tokens_details = Some(PromptTokensDetails { cached_tokens });
        }
        self.usage.completion_tokens += piece.num_tokens;
        self.usage.total_tokens += piece.num_tokens;
        if let Some(end) = &piece.end {
            if end.reason == FinishReason::Error {
                let reason = end.error.as_deref().unwrap_or("the engine failed");
                return Err(match end.is_impossible {
                    true => ApiError::impossible(reason),
                    false => ApiError::internal(reason),
                });
            }
            if end.times.total_s() >= self.times.total_s() {
                self.times = end.times;
            }
        }
        Ok(Some((index, piece)))
    }

    /// So far; tokens of the prompt that were cached are known when it is computed.
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
}
