//! Wire types of the HTTP surface and their validation.
//!
//! A request body enters as bytes and leaves as a typed request or as one [`ApiError`] that names
//! the field, the value and what is accepted. Proxies validate before any model is woken, replicas
//! again when they work; both call the same functions.
//!
//! - [`parse_generate`]: `POST /generate`, the seeds' own route.
//! - [`parse_completion`], [`parse_chat`]: OpenAI's routes with the common extra sampling fields.
//! - [`parse_messages`], [`parse_count_tokens`]: Anthropic's.
//! - [`parse_responses`]: OpenAI's newer route, and a [`ResponseStore`] for its conversations.
//! - [`parse_embeddings`], [`parse_score`], [`parse_rerank`], [`parse_classify`]: routes of models
//!   that do not generate.
//! - [`parse_tokenize`], [`parse_detokenize`].
//! - [`openapi`]: what all of these take and answer, as an OpenAPI document.
//!
//! Unknown fields are ignored, as OpenAI clients expect. Fields that are known, would change the
//! text, and are not carried out are refused: silence would be a wrong answer.
#![forbid(unsafe_code)]

mod anthropic;
mod chat;
mod completion;
mod error;
mod extensions;
mod fields;
mod generate;
mod ids;
mod message;
mod models;
mod openapi;
mod overrides;
mod pooling;
mod responses;
mod structured;
mod system;
mod task;
mod tokenize;
mod tools;
mod usage;

pub use anthropic::{
    ContentBlock, CountTokensResponse, MessagesHead, MessagesResponse, MessagesUsage,
    MessagesWriter, messages_response, parse_count_tokens, parse_messages,
};
pub use chat::{
    ChatHead, ChatLogprobs, ChatRequest, ChatResponse, ChatWriter, chat_response, parse_chat,
};
pub use completion::{
    CompletionChoice, CompletionHead, CompletionLogprobs, CompletionRequest, CompletionResponse,
    CompletionWriter, Prompt, PromptDetails, completion_response, parse_completion,
};
pub use error::ApiError;
pub use extensions::{Extensions, Truncation, TruncationSide};
pub use generate::{GenerateRequest, GenerateResponse, parse_generate};
pub use ids::CallIds;
pub use message::{Event, EventWriter, Message, MessageEnd, MessagePiece, ToolCall};
pub use models::{ModelCardView, ModelList};
pub use openapi::openapi;
pub use overrides::{Overrides, StreamOptions, fit_max_tokens};
pub use pooling::{
    Classification, ClassifyRequest, ClassifyResponse, Embedding, EmbeddingEncoding,
    EmbeddingInput, EmbeddingView, EmbeddingsRequest, EmbeddingsResponse, PoolingHead,
    PoolingOptions, RerankDocument, RerankRequest, RerankResponse, RerankResult, Score,
    ScoreRequest, ScoreResponse, classify_response, embeddings_response, parse_classify,
    parse_embeddings, parse_rerank, parse_score, rerank_response, score_response,
};
pub use responses::{
    ItemOrder, ResponseShape, ResponseStore, ResponsesHead, ResponsesRequest, ResponsesWriter,
    StoredResponse, expand_input, finished_response, parse_responses, responses_response,
};
pub use system::without_billing_header;
pub use task::Wanted;
pub use tokenize::{
    DetokenizeRequest, DetokenizeResponse, TokenizeInput, TokenizeRequest, TokenizeResponse,
    parse_detokenize, parse_tokenize,
};
pub use tyndall_types::SamplingDefaults;
pub use usage::{
    CompletionTokensDetails, PromptLogprob, PromptTokensDetails, TokenLogprob, TopLogprob, Usage,
    floor_logprob,
};

/// Prompts in one request.
pub const MAX_PROMPTS: usize = 1024;

/// Most likely tokens that can be asked for with each token.
pub const MAX_LOGPROBS: u32 = 20;

/// Stop strings in one request.
pub const MAX_STOP_STRINGS: usize = 4;

/// Completions of one prompt.
pub const MAX_N: u32 = 128;
