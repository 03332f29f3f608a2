//! Wire types of the HTTP surface and their validation.
//!
//! A request body enters as bytes and leaves as a typed request or as one [`ApiError`] that names
//! the field, the value and what is accepted. Proxies validate before any model is woken, replicas
//! again when they work; both call the same functions.
//!
//! - [`parse_generate`]: `POST /generate`, the seeds' own route.
//! - [`parse_completion`], [`parse_chat`]: OpenAI's routes with the common extra sampling fields.
//!
//! Unknown fields are ignored, as OpenAI clients expect. Fields that are known, would change the
//! text, and are not carried out are refused: silence would be a wrong answer.
#![forbid(unsafe_code)]

mod chat;
mod completion;
mod error;
mod fields;
mod generate;
mod overrides;
mod response;

pub use chat::{ChatRequest, parse_chat};
pub use completion::{CompletionRequest, Prompt, parse_completion};
pub use error::ApiError;
pub use generate::{GenerateRequest, parse_generate};
pub use overrides::{Overrides, SamplingDefaults, StreamOptions, fit_max_tokens};
pub use response::{
    AssistantMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatLogprobs, ChatResponse,
    ChatTokenLogprob, ChatTopLogprob, CompletionChoice, CompletionChunk, CompletionChunkChoice,
    CompletionLogprobs, CompletionResponse, Delta, GenerateResponse, ModelCardView, ModelList,
    Null, PromptTokensDetails, Usage, floor_logprob,
};

/// Prompts in one request.
pub const MAX_PROMPTS: usize = 1024;

/// Most likely tokens that can be asked for with each token.
pub const MAX_LOGPROBS: u32 = 20;

/// Stop strings in one request.
pub const MAX_STOP_STRINGS: usize = 4;

/// Completions of one prompt.
pub const MAX_N: u32 = 128;
