//! `POST /tokenize` and `POST /detokenize`.

use crate::completion::model;
use crate::fields::{Fields, Numbers, object};
use crate::{ApiError, ChatRequest};
use serde::Serialize;

/// What is made tokens of.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenizeInput {
    /// Text as it is.
    Text {
        /// The text.
        text: String,
        /// The tokenizer adds its special tokens.
        add_special_tokens: bool,
    },
    /// What the template makes of it.
    Conversation(Box<ChatRequest>),
}

/// A valid `/tokenize` request.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizeRequest {
    /// The model asked for; none is the served one.
    pub model: Option<String>,
    /// What is made tokens of.
    pub input: TokenizeInput,
    /// The answer has the tokens as text too.
    pub return_token_strs: bool,
}

/// Reads and checks a `/tokenize` body.
///
/// # Errors
/// 400 with the field, its value and what is accepted.
pub fn parse_tokenize(body: &[u8]) -> Result<TokenizeRequest, ApiError> {
    let object = object(body)?;
    let fields = Fields::new(&object, Numbers::Strict);
    let input = match (fields.string("prompt")?, fields.get("messages")) {
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid(
                "messages",
                "prompt and messages exclude each other; send one of them",
            ));
        }
        (None, None) => {
            return Err(ApiError::malformed(
                "prompt",
                "prompt is missing; send a string, or messages",
            ));
        }
        (Some(text), None) => TokenizeInput::Text {
            text: text.to_owned(),
            add_special_tokens: fields.bool("add_special_tokens")?.unwrap_or(true),
        },
        (None, Some(_)) => {
            TokenizeInput::Conversation(Box::new(ChatRequest::conversation(&fields, true)?))
        }
    };
    let return_token_strs = fields.bool("return_token_strs")?.unwrap_or_default();
    Ok(TokenizeRequest { model: model(&fields)?, input, return_token_strs })
}

/// The answer of `/tokenize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenizeResponse {
    /// How many there are.
    pub count: usize,
    /// The most that the model takes.
    pub max_model_len: u32,
    /// Their ids.
    pub tokens: Vec<u32>,
    /// As text, when asked for.
    pub token_strs: Option<Vec<String>>,
}

impl TokenizeResponse {
    /// The answer, of these tokens.
    #[must_use]
    pub fn new(tokens: Vec<u32>, token_strs: Option<Vec<String>>, max_model_len: u32) -> Self {
        Self { count: tokens.len(), max_model_len, tokens, token_strs }
    }
}

/// A valid `/detokenize` request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetokenizeRequest {
    /// The model asked for; none is the served one.
    pub model: Option<String>,
    /// Whether the model knows them is not checked yet.
    pub tokens: Vec<u32>,
}

/// Reads and checks a `/detokenize` body.
///
/// # Errors
/// 400 with the field, its value and what is accepted.
pub fn parse_detokenize(body: &[u8]) -> Result<DetokenizeRequest, ApiError> {
    let object = object(body)?;
    let fields = Fields::new(&object, Numbers::Strict);
    if fields.get("tokens").is_none() {
        return Err(ApiError::malformed("tokens", "tokens is missing; send a list of token ids"));
    }
    Ok(DetokenizeRequest { model: model(&fields)?, tokens: fields.token_ids("tokens")? })
}

/// The answer of `/detokenize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DetokenizeResponse {
    /// The text.
    pub prompt: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(body: Value) -> Result<TokenizeRequest, ApiError> {
        parse_tokenize(body.to_string().as_bytes())
    }

    #[test]
    fn text_and_conversations() {
        let request = parse(json!({"prompt": "a", "return_token_strs": true})).unwrap();
        let text = TokenizeInput::Text { text: "a".to_owned(), add_special_tokens: true };
        assert_eq!((request.input, request.return_token_strs), (text, true));
        let request = parse(json!({
            "messages": [{"role": "user", "content": "a"}], "model": "m",
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "chat_template_kwargs": {"enable_thinking": false},
        }))
        .unwrap();
        let TokenizeInput::Conversation(chat) = request.input else { panic!("no conversation") };
        assert!(chat.add_generation_prompt && !chat.add_special_tokens && chat.tools.len() == 1);
        assert_eq!(chat.template_kwargs["enable_thinking"], false);
        let continued = parse(json!({
            "messages": [{"role": "assistant", "content": "a"}], "continue_final_message": true,
        }))
        .unwrap();
        let TokenizeInput::Conversation(chat) = continued.input else { panic!("no conversation") };
        assert!(chat.continue_final_message && !chat.add_generation_prompt);
    }

    #[test]
    fn bad_requests_are_named() {
        let check = |error: ApiError, part: &str| {
            assert!(error.status == 400 && error.message.contains(part), "{}", error.message);
        };
        check(parse(json!({})).unwrap_err(), "prompt is missing; send a string, or messages");
        check(parse(json!({"prompt": 3})).unwrap_err(), "prompt must be a string, got 3");
        check(parse(json!({"prompt": "a", "messages": []})).unwrap_err(), "exclude each other");
        check(parse_detokenize(b"{}").unwrap_err(), "tokens is missing");
        check(
            parse_detokenize(br#"{"tokens": [1, -1]}"#).unwrap_err(),
            "tokens must be a list of token ids, got -1",
        );
        assert_eq!(parse_detokenize(br#"{"tokens": [1, 2]}"#).unwrap().tokens, [1, 2]);
    }

    #[test]
    fn answers() {
        assert_eq!(
            serde_json::to_string(&TokenizeResponse::new(vec![5, 6], None, 8)).unwrap(),
            r#"{"count":2,"max_model_len":8,"tokens":[5,6],"token_strs":null}"#
        );
    }
}
