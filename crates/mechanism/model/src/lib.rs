//! Hugging Face checkpoints: config to spec, files to weights, tokens to logits.
#![forbid(unsafe_code)]

mod batch;

pub use batch::{Runner, SeqChunk, StepBatch, StepError};
