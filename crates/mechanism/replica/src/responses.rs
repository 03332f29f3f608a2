//! OpenAI's Responses: `POST /v1/responses`. Earlier answers are the proxy's to keep: what comes
//! here has them in its input.

use crate::app::{Asked, Failure, now_s, whole};
use crate::chat;
use crate::events;
use crate::messages::first;
use crate::ready::{Ready, random_seed};
use http::Response;
use std::sync::Arc;
use tyndall_openai::{ResponsesHead, ResponsesWriter, parse_responses, responses_response};
use tyndall_transport::Body;

pub(crate) async fn answer(ready: &Arc<Ready>, asked: Asked) -> Result<Response<Body>, Failure> {
    let body = asked.body.clone();
    let request = ready.beside(body.len(), move |_| parse_responses(&body)).await??;
    let head = ResponsesHead {
        // Not the request's id, which clients choose: what is kept must not be overwritten.
        id: format!("resp_{:016x}{:016x}", random_seed(), random_seed()),
        created: now_s(),
        model: ready.model_id.clone(),
        call_ids: ready.family.call_ids(),
        shape: request.shape,
    };
    let streams = request.chat.stream;
    let mut answering = chat::begin(ready, request.chat, &asked).await?;
    if streams {
        return events::answer(answering, ResponsesWriter::new(head), asked).await;
    }
    let message = first(answering.collect().await?);
    let response = responses_response(&head, message, &answering.usage());
    Ok(whole(&response, &answering.job, &asked))
}
