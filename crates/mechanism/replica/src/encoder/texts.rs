//! From texts to tokens, and `POST /tokenize` and `POST /detokenize` of an encoder.

use super::EncoderReady;
use crate::app::{Asked, Failure};
use crate::chat;
use crate::ready::beside;
use crate::tokenize::Lexicon;
use http::{Response, StatusCode};
use std::sync::Arc;
use tyndall_engine::EncoderText;
use tyndall_model::{EncoderInput, EncoderKind};
use tyndall_openai::{
    ApiError, PoolingOptions, Prompt, TokenizeInput, TruncationSide, parse_detokenize,
    parse_tokenize,
};
use tyndall_text::TypedOptions;
use tyndall_transport::{Body, json as json_response};

impl EncoderReady {
    /// The tokens of a prompt of the field `path`.
    pub(super) fn prompt(
        &self,
        path: &str,
        prompt: &Prompt,
        options: PoolingOptions,
    ) -> Result<EncoderText, ApiError> {
        match prompt {
            Prompt::Text(text) => self.text(path, (text, None), options),
            Prompt::Tokens(ids) => {
                let mut ids = ids.clone();
                let max = self.truncate_to(options).unwrap_or(usize::MAX);
                if ids.len() > max {
                    match options.truncation.map(|truncation| truncation.side) {
                        Some(TruncationSide::Left) => drop(ids.drain(..ids.len() - max)),
                        _ => ids.truncate(max),
                    }
                }
                self.checked(path, ids.len(), EncoderText { ids, types: Vec::new() })
            }
        }
    }

    /// The tokens of a text or a pair of the field `path`.
    pub(super) fn text(
        &self,
        path: &str,
        (first, second): (&str, Option<&str>),
        options: PoolingOptions,
    ) -> Result<EncoderText, ApiError> {
        let lower = |text: &str| {
            if self.spec.lower_case { text.to_lowercase() } else { text.to_owned() }
        };
        let typed = TypedOptions {
            add_special_tokens: options.add_special_tokens,
            truncate_to: self.truncate_to(options),
            truncate_left: options
                .truncation
                .is_some_and(|truncation| truncation.side == TruncationSide::Left),
        };
        let tokens = self
            .tokenizer
            .encode_with_types(&lower(first), second.map(lower).as_deref(), typed)
            .map_err(|error| ApiError::invalid(path, error.to_string()))?;
        let len = match typed.truncate_to {
            Some(_) => tokens.ids.len(),
            None => tokens.untruncated_len,
        };
        self.checked(path, len, EncoderText { ids: tokens.ids, types: tokens.types })
    }

    /// What is put before each text that is embedded, as the model's files say.
    pub(super) fn default_prompt(&self) -> &str {
        let EncoderKind::Embed(embedding) = &self.spec.kind else { return "" };
        let name = embedding.default_prompt_name.as_ref();
        name.and_then(|name| embedding.prompts.get(name)).map_or("", String::as_str)
    }

    /// Tokens that stay of a text that is to be cut.
    fn truncate_to(&self, options: PoolingOptions) -> Option<usize> {
        let max = self.card.max_model_len;
        let asked = |asked: Option<u32>| asked.unwrap_or(max).min(max) as usize;
        options.truncation.map(|truncation| asked(truncation.max_tokens))
    }

    fn checked(&self, path: &str, len: usize, text: EncoderText) -> Result<EncoderText, ApiError> {
        let max = self.card.max_model_len;
        if len > max as usize {
            return Err(ApiError::invalid(
                path,
                format!(
                    "the model takes texts of at most {max} tokens and {path} has {len}; send a \
                     shorter text, or truncate_prompt_tokens: -1 to have it cut"
                ),
            ));
        }
        let input = EncoderInput { ids: &text.ids, types: &text.types };
        match self.spec.check(input, max) {
            Ok(()) => Ok(text),
            Err(why) => Err(ApiError::invalid(path, format!("{path} cannot be read: {why}"))),
        }
    }

    fn lexicon(&self) -> Lexicon<'_> {
        let (vocab_size, max_model_len) = (self.spec.vocab_size, self.card.max_model_len);
        Lexicon { tokenizer: &self.tokenizer, vocab_size, max_model_len }
    }
}

pub(crate) async fn tokenize(
    ready: &Arc<EncoderReady>,
    asked: Asked,
) -> Result<Response<Body>, Failure> {
    let body = asked.body.clone();
    let work = move |ready: &EncoderReady| -> Result<_, ApiError> {
        let request = parse_tokenize(&body)?;
        let (text, add_special_tokens) = match request.input {
            TokenizeInput::Text { text, add_special_tokens } => (text, add_special_tokens),
            TokenizeInput::Conversation(mut chat) => {
                let add_special_tokens = chat.add_special_tokens;
                (chat::rendered(&ready.tokenizer, &mut chat)?, add_special_tokens)
            }
        };
        let lexicon = ready.lexicon();
        let tokens = lexicon.encode(&text, add_special_tokens)?;
        Ok(lexicon.listed(tokens, request.return_token_strs))
    };
    let response = beside(ready, asked.body.len(), work).await??;
    Ok(json_response(StatusCode::OK, &response))
}

pub(crate) async fn detokenize(
    ready: &Arc<EncoderReady>,
    asked: Asked,
) -> Result<Response<Body>, Failure> {
    let body = asked.body.clone();
    let work = move |ready: &EncoderReady| -> Result<_, ApiError> {
        ready.lexicon().text(&parse_detokenize(&body)?)
    };
    let response = beside(ready, asked.body.len(), work).await??;
    Ok(json_response(StatusCode::OK, &response))
}
