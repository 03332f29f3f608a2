//! `POST /tokenize` and `POST /detokenize`.

use crate::app::{Asked, Failure};
use crate::chat;
use crate::ready::Ready;
use http::{Response, StatusCode};
use std::sync::Arc;
use tyndall_openai::{
    ApiError, DetokenizeRequest, DetokenizeResponse, TokenizeInput, TokenizeResponse,
    parse_detokenize, parse_tokenize,
};
use tyndall_text::Tokenizer;
use tyndall_transport::{Body, json as json_response};

/// The vocabulary of a model, for those who ask what its tokens are.
pub(crate) struct Lexicon<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    /// Tokens that the model knows, which may be more than its tokenizer has.
    pub(crate) vocab_size: usize,
    pub(crate) max_model_len: u32,
}

impl Lexicon<'_> {
    /// The tokens of a text.
    pub(crate) fn encode(
        &self,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>, ApiError> {
        let encoded = self.tokenizer.encode(text, add_special_tokens);
        encoded.map_err(|error| ApiError::invalid("prompt", error.to_string()))
    }

    /// Tokens as `/tokenize` lists them.
    pub(crate) fn listed(&self, tokens: Vec<u32>, with_strings: bool) -> TokenizeResponse {
        let text = |id: &u32| self.tokenizer.token_text(*id);
        let texts = with_strings.then(|| tokens.iter().map(text).collect());
        TokenizeResponse::new(tokens, texts, self.max_model_len)
    }

    /// The text of tokens.
    pub(crate) fn text(&self, request: &DetokenizeRequest) -> Result<DetokenizeResponse, ApiError> {
        let size = self.vocab_size;
        if let Some(id) = request.tokens.iter().find(|id| **id as usize >= size) {
            let message = format!("tokens must hold token ids below {size}, got {id}");
            return Err(ApiError::invalid("tokens", message));
        }
        Ok(DetokenizeResponse { prompt: self.tokenizer.decode(&request.tokens, false) })
    }
}

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
        Ok(ready.lexicon().listed(tokens, request.return_token_strs))
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
        ready.lexicon().text(&parse_detokenize(&body)?)
    };
    let response = ready.beside(asked.body.len(), work).await??;
    Ok(json_response(StatusCode::OK, &response))
}
