//! The messages of one request while they are made.

use crate::job::Job;
use crate::message::MessageReader;
use tyndall_openai::{
    ApiError, CompletionTokensDetails, Message, MessagePiece, PromptDetails, Usage,
};

/// A job and who reads each of its sequences. Dropping it aborts what runs.
pub(crate) struct Answering {
    pub(crate) job: Job,
    readers: Vec<MessageReader>,
    /// The family tells thoughts from answers, so their tokens are counted.
    reasons: bool,
}

impl Answering {
    /// One reader for each sequence of the job.
    pub(crate) fn new(job: Job, readers: Vec<MessageReader>, reasons: bool) -> Self {
        debug_assert_eq!(job.num_sequences(), readers.len());
        Self { job, readers, reasons }
    }

    /// The next piece of any message, with its index; none when all have ended.
    ///
    /// # Errors
    /// When the engine fails: the request is then over as a whole.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<(usize, MessagePiece)>, ApiError> {
        let Some((index, piece)) = self.job.next().await? else { return Ok(None) };
        Ok(Some((index, self.readers[index].read(piece))))
    }

    /// Every message to its end, by index.
    ///
    /// # Errors
    /// When the engine fails.
    pub(crate) async fn collect(&mut self) -> Result<Vec<Message>, ApiError> {
        let mut pieces: Vec<Vec<MessagePiece>> = vec![Vec::new(); self.readers.len()];
        while let Some((index, piece)) = self.next().await? {
            pieces[index].push(piece);
        }
        Ok(pieces.into_iter().map(Message::of).collect())
    }

    /// Tokens so far.
    pub(crate) fn usage(&self) -> Usage {
        let usage = self.job.usage();
        // What is generated only because the engine cannot generate nothing is not told.
        let is_all_echo = self.readers.iter().all(MessageReader::is_all_echo);
        let usage = match is_all_echo {
            true => Usage::new(usage.prompt_tokens, 0, usage.cached_tokens()),
            false => usage,
        };
        let reasoning_tokens = self.readers.iter().map(MessageReader::num_reasoning_tokens).sum();
        let details = CompletionTokensDetails { reasoning_tokens };
        Usage { completion_tokens_details: self.reasons.then_some(details), ..usage }
    }

    /// What is told of each sequence's prompt.
    pub(crate) fn prompts(&mut self) -> Vec<PromptDetails> {
        self.readers.iter_mut().map(MessageReader::take_prompt).collect()
    }
}
