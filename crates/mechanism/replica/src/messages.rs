//! Anthropic's Messages: `POST /v1/messages` and `POST /v1/messages/count_tokens`.

use crate::app::{Asked, Failure, whole};
use crate::chat;
use crate::events;
use crate::ready::Ready;
use http::{Response, StatusCode};
use std::sync::Arc;
use tyndall_openai::{
    CountTokensResponse, Message, MessagesHead, MessagesWriter, messages_response,
    parse_count_tokens, parse_messages,
};
use tyndall_transport::{Body, json as json_response};

pub(crate) async fn answer(ready: &Arc<Ready>, asked: Asked) -> Result<Response<Body>, Failure> {
    let body = asked.body.clone();
    let request = ready.beside(body.len(), move |_| parse_messages(&body)).await??;
    let head = MessagesHead {
        id: format!("msg_{}", asked.id),
        model: ready.model_id.clone(),
        reasoning: request.include_reasoning,
        call_ids: ready.family.call_ids(),
    };
    let streams = request.stream;
    let mut answering = chat::begin(ready, request, &asked).await?;
    if streams {
        return events::answer(answering, MessagesWriter::new(head), asked).await;
    }
    let message = first(answering.collect().await?);
    let response = messages_response(&head, message, &answering.usage());
    Ok(whole(&response, &answering.job, &asked))
}

pub(crate) async fn count(ready: &Arc<Ready>, asked: Asked) -> Result<Response<Body>, Failure> {
    let body = asked.body.clone();
    let count = move |ready: &Ready| {
        let (ids, _) = chat::prompt(ready, &mut parse_count_tokens(&body)?)?;
        Ok::<_, Failure>(u32::try_from(ids.len()).unwrap_or(u32::MAX))
    };
    let input_tokens = ready.beside(asked.body.len(), count).await??;
    Ok(json_response(StatusCode::OK, &CountTokensResponse { input_tokens }))
}

/// The message of an API that answers with one.
pub(crate) fn first(messages: Vec<Message>) -> Message {
    messages.into_iter().next().unwrap_or_else(|| Message::of([]))
}
