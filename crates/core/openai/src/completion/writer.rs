//! Completions in OpenAI's words.

use super::response::{
    CompletionChoice, CompletionChunk, CompletionChunkChoice, CompletionLogprobs,
    CompletionResponse, OBJECT,
};
use crate::message::{Event, EventWriter, Message, MessagePiece};
use crate::usage::PromptLogprob;
use crate::{ApiError, StreamOptions, Usage};
use tyndall_types::MessageDelta;

/// What all parts of one answer have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletionHead {
    /// `cmpl-…`.
    pub id: String,
    /// Unix seconds.
    pub created: u64,
    /// The public model id.
    pub model: String,
    /// Log-probabilities were asked for.
    pub logprobs: bool,
    /// Token ids were asked for.
    pub token_ids: bool,
}

/// What is told of a prompt, when asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PromptDetails {
    /// Of each of its tokens.
    pub logprobs: Option<Vec<PromptLogprob>>,
    /// Its tokens.
    pub token_ids: Option<Vec<u32>>,
}

/// The whole answer; each completion with what is told of its prompt.
#[must_use]
pub fn completion_response(
    head: CompletionHead,
    completions: Vec<(Message, PromptDetails)>,
    usage: Usage,
) -> CompletionResponse {
    let choice = |(index, (message, prompt)): (usize, (Message, PromptDetails))| CompletionChoice {
        index: index as u32,
        text: message.content.unwrap_or_default(),
        logprobs: head.logprobs.then(|| CompletionLogprobs::new(&message.logprobs, &mut 0)),
        finish_reason: Some(message.end.reason.as_str()),
        stop_reason: message.end.stop,
        token_ids: head.token_ids.then_some(message.token_ids),
        prompt_logprobs: prompt.logprobs,
        prompt_token_ids: prompt.token_ids,
    };
    let choices = completions.into_iter().enumerate().map(choice).collect();
    CompletionResponse {
        id: head.id,
        object: OBJECT,
        created: head.created,
        model: head.model,
        choices,
        usage,
        system_fingerprint: None,
    }
}

/// A stream of completions.
#[derive(Debug)]
pub struct CompletionWriter {
    head: CompletionHead,
    options: StreamOptions,
    /// Where the next token of each completion begins in its text.
    offsets: Vec<u32>,
}

impl CompletionWriter {
    /// Of so many completions.
    #[must_use]
    pub fn new(head: CompletionHead, options: StreamOptions, num_completions: usize) -> Self {
        Self { head, options, offsets: vec![0; num_completions] }
    }

    fn chunk(&self, choices: Vec<CompletionChunkChoice>, usage: Option<Usage>) -> Event {
        let CompletionHead { id, model, created, .. } = &self.head;
        Event::of(&CompletionChunk { id, object: OBJECT, created: *created, model, choices, usage })
    }
}

impl EventWriter for CompletionWriter {
    fn begin(&mut self, _: &Usage) -> Vec<Event> {
        Vec::new()
    }

    fn piece(&mut self, index: usize, piece: MessagePiece, usage: &Usage) -> Vec<Event> {
        let offset = &mut self.offsets[index];
        let has_logprobs = self.head.logprobs && !piece.logprobs.is_empty();
        let logprobs = has_logprobs.then(|| CompletionLogprobs::new(&piece.logprobs, offset));
        let (finish_reason, stop_reason) = match piece.end {
            None => (None, None),
            Some(end) => (Some(end.reason.as_str()), end.stop),
        };
        let text = |delta| match delta {
            MessageDelta::Content(text) | MessageDelta::Reasoning(text) => text,
            MessageDelta::ToolCall { .. } | MessageDelta::Arguments { .. } => String::new(),
        };
        let choice = CompletionChunkChoice {
            index: index as u32,
            text: piece.deltas.into_iter().map(text).collect(),
            logprobs,
            finish_reason,
            stop_reason,
            token_ids: if self.head.token_ids { piece.token_ids } else { Vec::new() },
        };
        let usage = self.options.continuous_usage_stats.then_some(usage.so_far());
        vec![self.chunk(vec![choice], usage)]
    }

    fn end(&mut self, usage: &Usage) -> Vec<Event> {
        let last = self.options.include_usage.then(|| self.chunk(Vec::new(), Some(*usage)));
        last.into_iter().chain([Event::done()]).collect()
    }

    fn fail(&mut self, error: &ApiError) -> Vec<Event> {
        vec![Event::of(&error.openai_body()), Event::done()]
    }
}
