//! Tokenizers, chat templates, incremental detokenizing and stop strings.
//!
//! [`Tokenizer::load`] reads a model directory the way transformers does and hides which library
//! and which file format stand behind it. [`ChatTemplate`] renders messages to the model's prompt,
//! byte for byte like transformers' `apply_chat_template`. On the way out a [`Detokenizer`] turns
//! generated ids into text as they come, and a [`StopMatcher`] cuts that text at a stop string.
//! Models that read a text or a pair as a whole get [`TypedTokens`].
//!
//! Everything here is synchronous, keeps no global state, and may be shared between threads. What
//! a model directory holds is not trusted: broken files and templates give errors, templates run
//! on a fuel limit.
#![forbid(unsafe_code)]

mod cache;
mod config;
mod detokenizer;
mod error;
mod fast;
mod load;
mod pieces;
mod stop;
mod template;
mod tokenizer;
mod typed;
mod vocabulary;
mod word_piece;

pub use cache::TokenizerCache;
pub use detokenizer::Detokenizer;
pub use error::{TemplateError, TokenizerError};
pub use stop::{StopMatcher, StopOutput};
pub use template::{ChatInput, ChatTemplate, ContentFormat};
pub use tokenizer::Tokenizer;
pub use typed::{TypedOptions, TypedTokens};
