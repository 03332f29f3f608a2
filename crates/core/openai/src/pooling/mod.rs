//! Routes of models that give numbers for text: `/v1/embeddings`, `/score`, `/rerank`, `/classify`.

mod classify;
mod embeddings;
mod rerank;
mod score;

pub use classify::{
    Classification, ClassifyRequest, ClassifyResponse, classify_response, parse_classify,
};
pub use embeddings::{
    Embedding, EmbeddingEncoding, EmbeddingInput, EmbeddingView, EmbeddingsRequest,
    EmbeddingsResponse, embeddings_response, parse_embeddings,
};
pub use rerank::{
    RerankDocument, RerankRequest, RerankResponse, RerankResult, parse_rerank, rerank_response,
};
pub(crate) use score::PAIRS;
pub use score::{Score, ScoreRequest, ScoreResponse, parse_score, score_response};

use crate::fields::{Fields, wrong};
use crate::{ApiError, MAX_PROMPTS, Truncation, TruncationSide, Usage, extensions};
use serde_json::Value;

/// What all parts of one answer have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolingHead {
    /// `embd-…`, `score-…`, `rerank-…` or `classify-…`.
    pub id: String,
    /// Unix seconds.
    pub created: u64,
    /// The public model id.
    pub model: String,
}

/// The fields that these routes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolingOptions {
    /// How a text that is too long is cut; its end goes where the request does not say.
    pub truncation: Option<Truncation>,
    /// The tokenizer adds its special tokens to texts.
    pub add_special_tokens: bool,
    /// The model's last function, which makes vectors of length 1 and scores between 0 and 1;
    /// absent is as the model wants it.
    pub use_activation: Option<bool>,
}

impl PoolingOptions {
    fn read(fields: &Fields<'_>) -> Result<Self, ApiError> {
        if fields.get("normalize").is_some() {
            return Err(ApiError::invalid(
                "normalize",
                "normalize is not accepted any more; send use_activation",
            ));
        }
        Ok(Self {
            truncation: extensions::truncation(fields, TruncationSide::Right)?,
            add_special_tokens: fields.bool("add_special_tokens")?.unwrap_or(true),
            use_activation: fields.bool("use_activation")?,
        })
    }
}

/// Tokens of requests that generate nothing.
fn usage(prompt_tokens: u32) -> Usage {
    Usage::new(prompt_tokens, 0, 0).so_far()
}

/// One text or several, each a string or an object with one.
fn texts(path: &str, value: &Value) -> Result<Vec<String>, ApiError> {
    let text = |path: &str, item: &Value| match item {
        Value::String(text) => Ok(text.clone()),
        Value::Object(object) => match object.get("text") {
            Some(Value::String(text)) => Ok(text.clone()),
            _ => Err(wrong(path, "a string or {\"text\": …}", Some(item))),
        },
        other => Err(wrong(path, "a string or {\"text\": …}", Some(other))),
    };
    let texts = match value {
        Value::Array(items) => {
            let text = |(i, item)| text(&format!("{path}[{i}]"), item);
            items.iter().enumerate().map(text).collect::<Result<Vec<_>, _>>()?
        }
        one => vec![text(path, one)?],
    };
    match texts.len() {
        0 => Err(ApiError::invalid(path, format!("{path} must not be empty"))),
        len if len > MAX_PROMPTS => Err(ApiError::invalid(
            path,
            format!("{path} takes at most {MAX_PROMPTS} texts, got {len}"),
        )),
        _ => Ok(texts),
    }
}
