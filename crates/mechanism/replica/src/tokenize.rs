//! `POST /tokenize` and `POST /detokenize`.

use crate::app::{Asked, Failure};
use crate::chat;
use crate::ready::Ready;
use http::{Response, StatusCode};
use std::sync::Arc;
use tyndall_openai::{
    ApiError, DetokenizeResponse, TokenizeInput, TokenizeResponse, parse_detokenize, parse_tokenize,
};
use tyndall_transport::{Body, json as json_response};

pub(crate) async fn tokenize(ready: &Arc<Ready>, asked: Asked) -> Result<Response<Body>, Failure> {
    let body = asked.body.clone();
    let work = move |ready: &Ready| -> Result<_, ApiError> {
        let request = parse_tokenize(&body)?;
        let tokens = match request.input {
            TokenizeInput::Text { text, add_special_tokens } => {
                ready.encode(&text, add_special_tokens)?
            }
            TokenizeInput::Conversation(mut chat) => chat::prompt(ready, &mut chat)?.0,
        };
        let text = |id: &u32| ready.tokenizer.token_text(*id);
        let texts = request.return_token_strs.then(|| tokens.iter().map(text).collect());
        Ok(TokenizeResponse::new(tokens, texts, ready.card.max_model_len))
    };
    let response = ready.beside(asked.body.len(), work).await??;
    Ok(json_response(StatusCode::OK, &response))
}

pub(crate) async fn detokenize(
    ready: &Arc<Ready>,
    asked: Asked,
) -> Result<Response<Body>, Failure> {
    let body = asked.body.clone();
    let work = move |ready: &Ready| -> Result<_, ApiError> {
        let request = parse_detokenize(&body)?;
        let size = ready.vocab_size;
        if let Some(id) = request.tokens.iter().find(|id| **id as usize >= size) {
            let message = format!("tokens must hold token ids below {size}, got {id}");
            return Err(ApiError::invalid("tokens", message));
        }
        Ok(DetokenizeResponse { prompt: ready.tokenizer.decode(&request.tokens, false) })
    };
    let response = ready.beside(asked.body.len(), work).await??;
    Ok(json_response(StatusCode::OK, &response))
}
