//! `POST /v1/completions`.

use crate::app::{Asked, Failure, now_s, whole};
use crate::events::{self, Chunks, event};
use crate::job::Whole;
use crate::logprobs;
use crate::ready::Ready;
use crate::text_stream::Piece;
use bytes::Bytes;
use http::Response;
use std::sync::Arc;
use tyndall_openai::{
    CompletionChoice, CompletionChunk, CompletionChunkChoice, CompletionLogprobs,
    CompletionResponse, Prompt, Usage, parse_completion,
};
use tyndall_transport::Body;

const OBJECT: &str = "text_completion";

pub(crate) async fn answer(ready: &Arc<Ready>, asked: Asked) -> Result<Response<Body>, Failure> {
    let request = parse_completion(&asked.body)?;
    let wants_logprobs = request.overrides.logprobs.is_some();
    let params = request.overrides.resolve(&ready.defaults)?;
    let prompts = encode(ready, request.prompts, request.add_special_tokens).await?;
    let mut job = ready.submit(prompts, &params, &asked.id)?;
    let (id, created) = (format!("cmpl-{}", asked.id), now_s());
    if request.stream {
        let chunks = CompletionChunks {
            ready: ready.clone(),
            id,
            created,
            offsets: wants_logprobs.then(|| vec![0; job.num_sequences()]),
        };
        return events::answer(job, chunks, request.stream_options, asked).await;
    }
    let choices = job.collect().await?.into_iter().enumerate();
    let response = CompletionResponse {
        id,
        object: OBJECT,
        created,
        model: ready.model_id.clone(),
        choices: choices.map(|(i, whole)| choice(ready, i, whole, wants_logprobs)).collect(),
        usage: job.usage(),
        system_fingerprint: None,
    };
    Ok(whole(&response, &job, &asked))
}

/// The tokens of every prompt, in order.
async fn encode(
    ready: &Arc<Ready>,
    prompts: Vec<Prompt>,
    add_special_tokens: bool,
) -> Result<Vec<Vec<u32>>, Failure> {
    let texts = prompts.iter().filter_map(|prompt| match prompt {
        Prompt::Text(text) => Some(text.clone()),
        Prompt::Tokens(_) => None,
    });
    let mut encoded = ready.encode(texts.collect(), add_special_tokens).await?.into_iter();
    let tokens = prompts.into_iter().map(|prompt| match prompt {
        Prompt::Text(_) => encoded.next().expect("each text was encoded"),
        Prompt::Tokens(ids) => ids,
    });
    Ok(tokens.collect())
}

fn choice(ready: &Ready, index: usize, whole: Whole, wants_logprobs: bool) -> CompletionChoice {
    let logprobs =
        wants_logprobs.then(|| logprobs::completion(&ready.tokenizer, &whole.tokens, &mut 0));
    CompletionChoice {
        index: index as u32,
        text: whole.text,
        logprobs,
        finish_reason: Some(whole.end.reason.as_str()),
        stop_reason: whole.end.stop,
    }
}

struct CompletionChunks {
    ready: Arc<Ready>,
    id: String,
    created: u64,
    /// Where the next token of each sequence begins in its text.
    offsets: Option<Vec<u32>>,
}

impl CompletionChunks {
    fn chunk(&self, choices: Vec<CompletionChunkChoice>, usage: Option<Usage>) -> Bytes {
        event(&CompletionChunk {
            id: self.id.clone(),
            object: OBJECT,
            created: self.created,
            model: self.ready.model_id.clone(),
            choices,
            usage,
        })
    }
}

impl Chunks for CompletionChunks {
    fn begin(&mut self, _: usize) -> Option<Bytes> {
        None
    }

    fn piece(&mut self, index: usize, piece: Piece, usage: Option<Usage>) -> Vec<Bytes> {
        let tokenizer = &self.ready.tokenizer;
        let logprobs: Option<CompletionLogprobs> = self
            .offsets
            .as_mut()
            .filter(|_| !piece.tokens.is_empty())
            .map(|offsets| logprobs::completion(tokenizer, &piece.tokens, &mut offsets[index]));
        let (finish_reason, stop_reason) = match piece.end {
            None => (None, None),
            Some(end) => (Some(end.reason.as_str()), end.stop),
        };
        let choice = CompletionChunkChoice {
            index: index as u32,
            text: piece.text,
            logprobs,
            finish_reason,
            stop_reason,
        };
        vec![self.chunk(vec![choice], usage)]
    }

    fn usage(&mut self, usage: Usage) -> Bytes {
        self.chunk(Vec::new(), Some(usage))
    }
}
