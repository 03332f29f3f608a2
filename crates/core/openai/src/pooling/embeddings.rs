//! `POST /v1/embeddings`.

use super::{PoolingHead, PoolingOptions, usage};
use crate::completion::{model, prompts};
use crate::fields::{Fields, Numbers, object};
use crate::{ApiError, ChatRequest, Prompt, Usage};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

/// How vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EmbeddingEncoding {
    /// Lists of numbers.
    #[default]
    Float,
    /// Base64 of little-endian `f32`s; OpenAI's own client asks for it.
    Base64,
}

/// What is embedded.
#[derive(Debug, Clone, PartialEq)]
pub enum EmbeddingInput {
    /// A vector for each, in order.
    Prompts(Vec<Prompt>),
    /// One vector, of what the template makes of it.
    Conversation(Box<ChatRequest>),
}

/// A valid `/v1/embeddings` request.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingsRequest {
    /// The model asked for; none is the served one.
    pub model: Option<String>,
    /// What is embedded.
    pub input: EmbeddingInput,
    /// How vectors are written.
    pub encoding: EmbeddingEncoding,
    /// So many numbers of each vector; only of models that were trained for it.
    pub dimensions: Option<u32>,
    /// What the routes share.
    pub options: PoolingOptions,
}

/// Reads and checks a `/v1/embeddings` body.
///
/// # Errors
/// 400 with the field, its value and what is accepted.
pub fn parse_embeddings(body: &[u8]) -> Result<EmbeddingsRequest, ApiError> {
    let object = object(body)?;
    let fields = Fields::new(&object, Numbers::Strict);
    let input = match (fields.get("input"), fields.get("messages")) {
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid(
                "messages",
                "input and messages exclude each other; send one of them",
            ));
        }
        (None, Some(_)) => {
            EmbeddingInput::Conversation(Box::new(ChatRequest::conversation(&fields, false)?))
        }
        (_, None) => EmbeddingInput::Prompts(prompts(&fields, "input")?),
    };
    let encoding = match one_of(&fields, "encoding_format", &["float", "base64"])? {
        Some("base64") => EmbeddingEncoding::Base64,
        _ => EmbeddingEncoding::Float,
    };
    one_of(&fields, "embed_dtype", &["float32"])?;
    one_of(&fields, "endianness", &["native", "little"])?;
    Ok(EmbeddingsRequest {
        model: model(&fields)?,
        input,
        encoding,
        dimensions: fields.count("dimensions", 1, u32::MAX)?,
        options: PoolingOptions::read(&fields)?,
    })
}

fn one_of<'a>(
    fields: &Fields<'a>,
    name: &str,
    accepted: &[&str],
) -> Result<Option<&'a str>, ApiError> {
    match fields.string(name)? {
        Some(word) if !accepted.contains(&word) => Err(ApiError::invalid(
            name,
            format!("{name} must be {}, got {word:?}", accepted.join(" or ")),
        )),
        word => Ok(word),
    }
}

/// The answer of `/v1/embeddings`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EmbeddingsResponse {
    /// `embd-…`.
    pub id: String,
    /// `list`.
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    /// The public model id.
    pub model: String,
    /// By index.
    pub data: Vec<Embedding>,
    /// Tokens.
    pub usage: Usage,
}

/// One vector.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Embedding {
    /// Of this input.
    pub index: usize,
    /// `embedding`.
    pub object: &'static str,
    /// The vector.
    pub embedding: EmbeddingView,
}

/// A vector as it is written.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum EmbeddingView {
    /// Numbers.
    Float(Vec<f32>),
    /// Base64 of little-endian `f32`s.
    Base64(String),
}

impl EmbeddingView {
    fn new(vector: Vec<f32>, encoding: EmbeddingEncoding) -> Self {
        match encoding {
            EmbeddingEncoding::Float => Self::Float(vector),
            EmbeddingEncoding::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                Self::Base64(BASE64_STANDARD.encode(bytes))
            }
        }
    }
}

/// The answer, of a vector for each input.
#[must_use]
pub fn embeddings_response(
    head: PoolingHead,
    vectors: Vec<Vec<f32>>,
    encoding: EmbeddingEncoding,
    prompt_tokens: u32,
) -> EmbeddingsResponse {
    let embedding = |(index, vector)| Embedding {
        index,
        object: "embedding",
        embedding: EmbeddingView::new(vector, encoding),
    };
    EmbeddingsResponse {
        id: head.id,
        object: "list",
        created: head.created,
        model: head.model,
        data: vectors.into_iter().enumerate().map(embedding).collect(),
        usage: usage(prompt_tokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Truncation, TruncationSide};
    use serde_json::{Value, json};

    fn parse(body: &Value) -> Result<EmbeddingsRequest, ApiError> {
        parse_embeddings(body.to_string().as_bytes())
    }

    #[test]
    fn inputs_take_five_forms() {
        let text = |text: &str| Prompt::Text(text.to_owned());
        let check = |input: Value, expected: Vec<Prompt>| {
            let request = parse(&json!({"input": input})).unwrap();
            assert_eq!(request.input, EmbeddingInput::Prompts(expected));
        };
        check(json!("a"), vec![text("a")]);
        check(json!(["a", "b"]), vec![text("a"), text("b")]);
        check(json!([1, 2]), vec![Prompt::Tokens(vec![1, 2])]);
        check(json!([[1], [2]]), vec![Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2])]);
        let messages = json!([{"role": "user", "content": "a"}]);
        let request = parse(&json!({"messages": messages})).unwrap();
        let EmbeddingInput::Conversation(chat) = request.input else { panic!("{request:?}") };
        assert!(!chat.add_generation_prompt && !chat.add_special_tokens);
    }

    #[test]
    fn fields_have_their_meaning() {
        let request = parse(&json!({
            "input": "a", "model": "m", "encoding_format": "base64", "dimensions": 8, "user": "u",
            "truncate_prompt_tokens": 5, "truncation_side": "right", "use_activation": false,
            "embed_dtype": "float32", "endianness": "little", "add_special_tokens": false,
        }))
        .unwrap();
        assert_eq!((request.encoding, request.dimensions), (EmbeddingEncoding::Base64, Some(8)));
        let truncation = Truncation { max_tokens: Some(5), side: TruncationSide::Right };
        let options = PoolingOptions {
            truncation: Some(truncation),
            add_special_tokens: false,
            use_activation: Some(false),
        };
        assert_eq!(request.options, options);
    }

    #[test]
    fn bad_requests_are_named() {
        let check = |fields: Value, part: &str| {
            let mut body = json!({"input": "a"});
            body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            let error = parse(&body).unwrap_err();
            assert!(error.status == 400 && error.message.contains(part), "{}", error.message);
        };
        check(json!({"input": null}), "input is missing; send a string, a list of strings");
        check(json!({"input": []}), "input must not be empty");
        check(json!({"input": [{}]}), "input[0] must be a string or a list of token ids, got {}");
        check(json!({"messages": []}), "input and messages exclude each other");
        check(json!({"encoding_format": "bytes"}), "must be float or base64, got \"bytes\"");
        check(json!({"embed_dtype": "float16"}), "embed_dtype must be float32");
        check(json!({"endianness": "big"}), "endianness must be native or little");
        check(json!({"dimensions": 0}), "dimensions must be an integer of at least 1, got 0");
        check(json!({"normalize": true}), "send use_activation");
    }

    #[test]
    fn vectors_are_written_in_both_ways() {
        let head = || PoolingHead { id: "embd-1".to_owned(), created: 1, model: "m".to_owned() };
        let vectors = || vec![vec![1.0, -0.5]];
        let floats = embeddings_response(head(), vectors(), EmbeddingEncoding::Float, 3);
        assert_eq!(
            serde_json::to_string(&floats).unwrap(),
            r#"{"id":"embd-1","object":"list","created":1,"model":"m","data":[{"index":0,"object":"embedding","embedding":[1.0,-0.5]}],"usage":{"prompt_tokens":3,"total_tokens":3,"completion_tokens":0}}"#
        );
        let base64 = embeddings_response(head(), vectors(), EmbeddingEncoding::Base64, 3);
        // 1.0 is 00 00 80 3f and -0.5 is 00 00 00 bf.
        let expected = EmbeddingView::Base64("AACAPwAAAL8=".to_owned());
        assert_eq!(base64.data[0].embedding, expected);
    }
}
