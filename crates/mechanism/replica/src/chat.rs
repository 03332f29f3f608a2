//! `POST /v1/chat/completions`.

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
    ApiError, AssistantMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatResponse, Delta, Usage,
    parse_chat,
};
use tyndall_text::{ChatInput, TemplateError};
use tyndall_transport::Body;

pub(crate) async fn answer(ready: &Arc<Ready>, asked: Asked) -> Result<Response<Body>, Failure> {
    let request = parse_chat(&asked.body)?;
    let wants_logprobs = request.overrides.logprobs.is_some();
    let params = request.overrides.resolve(&ready.defaults)?;
    let input = ChatInput {
        messages: request.messages,
        add_generation_prompt: request.add_generation_prompt,
        continue_final_message: request.continue_final_message,
        tools: request.tools,
        kwargs: request.template_kwargs,
    };
    let prompt = ready.tokenizer.render_chat(&input).map_err(|error| template_error(&error))?;
    let prompts = ready.encode(vec![prompt], request.add_special_tokens).await?;
    let mut job = ready.submit(prompts, &params, &asked.id)?;
    let (id, created) = (format!("chatcmpl-{}", asked.id), now_s());
    if request.stream {
        let chunks = ChatChunks { ready: ready.clone(), id, created, wants_logprobs };
        return events::answer(job, chunks, request.stream_options, asked).await;
    }
    let choices = job.collect().await?.into_iter().enumerate();
    let response = ChatResponse {
        id,
        object: "chat.completion",
        created,
        model: ready.model_id.clone(),
        choices: choices.map(|(i, whole)| choice(ready, i, whole, wants_logprobs)).collect(),
        service_tier: None,
        system_fingerprint: None,
        usage: job.usage(),
    };
    Ok(whole(&response, &job, &asked))
}

fn template_error(error: &TemplateError) -> ApiError {
    if error.is_client_error() {
        ApiError::invalid("messages", error.to_string())
    } else {
        ApiError::internal(error.to_string())
    }
}

fn choice(ready: &Ready, index: usize, whole: Whole, wants_logprobs: bool) -> ChatChoice {
    ChatChoice {
        index: index as u32,
        message: AssistantMessage::text(whole.text),
        logprobs: wants_logprobs.then(|| logprobs::chat(&ready.tokenizer, &whole.tokens)),
        finish_reason: Some(whole.end.reason.as_str()),
        stop_reason: whole.end.stop,
    }
}

struct ChatChunks {
    ready: Arc<Ready>,
    id: String,
    created: u64,
    wants_logprobs: bool,
}

impl ChatChunks {
    fn chunk(&self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>) -> Bytes {
        event(&ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.ready.model_id.clone(),
            choices,
            usage,
        })
    }
}

fn delta(index: usize, delta: Delta) -> ChatChunkChoice {
    ChatChunkChoice {
        index: index as u32,
        delta,
        logprobs: None,
        finish_reason: None,
        stop_reason: None,
    }
}

impl Chunks for ChatChunks {
    fn begin(&mut self, index: usize) -> Option<Bytes> {
        let role = Delta { role: Some("assistant"), content: Some(String::new()) };
        Some(self.chunk(vec![delta(index, role)], None))
    }

    fn piece(&mut self, index: usize, piece: Piece, usage: Option<Usage>) -> Vec<Bytes> {
        let mut chunks = Vec::with_capacity(2);
        if !piece.text.is_empty() || !piece.tokens.is_empty() {
            let mut choice = delta(index, Delta { role: None, content: Some(piece.text) });
            let has_logprobs = self.wants_logprobs && !piece.tokens.is_empty();
            choice.logprobs =
                has_logprobs.then(|| logprobs::chat(&self.ready.tokenizer, &piece.tokens));
            chunks.push(self.chunk(vec![choice], usage));
        }
        if let Some(end) = piece.end {
            let mut choice = delta(index, Delta::default());
            choice.finish_reason = Some(end.reason.as_str());
            choice.stop_reason = end.stop;
            chunks.push(self.chunk(vec![choice], usage));
        }
        chunks
    }

    fn usage(&mut self, usage: Usage) -> Bytes {
        self.chunk(Vec::new(), Some(usage))
    }
}
