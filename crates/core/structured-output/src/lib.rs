//! What text is possible, and so which tokens are possible next.
//!
//! A [`StructuredOutput`](tyndall_types::StructuredOutput) is a client's wish: JSON of a schema, a
//! regular expression, a choice, a grammar, free text with tags. Its life:
//!
//! 1. [`check`] says whether it can be honoured, where no model is loaded yet. What cannot be is
//!    an error that names the keyword or the place, for a 400.
//! 2. [`Compiler::compile`] makes a [`Matcher`] of it for one model's [`Vocabulary`], before the
//!    request is admitted and off the threads that serve I/O.
//! 3. In each step, [`Matcher::mask`] says which tokens are possible, and [`Matcher::accept`]
//!    appends the one that was sampled.
//!
//! The automata are those of `llguidance`. Of what it takes, this crate lets through only what is
//! known to be enforced: the text fits the wish, or the request fails. It is never unconstrained.
//! See [`limits`] for what bounds the work.
#![forbid(unsafe_code)]

mod compiler;
mod error;
mod gbnf;
mod grammar;
mod lark;
pub mod limits;
mod matcher;
mod parser;
mod read;
mod regex;
mod schema;
mod tags;
mod vocabulary;

#[cfg(test)]
mod tests;

pub use compiler::{Compiler, check};
pub use error::{MatchError, Place, StructuredOutputError};
pub use matcher::Matcher;
pub use read::structural_tag;
pub use vocabulary::{Vocabulary, VocabularyError};
