//! Logits in, token out.
//!
//! A [`Sampler`] belongs to one sequence; [`Scratch`] buffers are shared by all of a thread. A
//! token is made in vLLM's order:
//!
//! 1. log-probabilities from the raw logits, if asked for;
//! 2. end tokens are impossible before `min_tokens`;
//! 3. `logit_bias`;
//! 4. repetition, frequency, presence penalty;
//! 5. temperature below 1e-5: the most likely token. Otherwise
//! 6. temperature → `min_p` → `top_k` → `top_p` → draw.
//!
//! Equal logits are ordered by token id, the lowest first, everywhere.
//!
//! The same logits, parameters, history, seed and position give the same token, on every machine
//! and in every batch: the random numbers are a function of seed and position, the exponential is
//! our own, and probabilities are summed as integers, so the order of the sum does not matter.
//!
//! Nothing sorts the vocabulary: the filters collect the few tokens that matter and select among
//! them in linear time, and a plain draw goes by sums over runs of the vocabulary.
#![forbid(unsafe_code)]

mod constraint;
mod filter;
mod history;
mod logprobs;
mod math;
mod philox;
mod sampler;
mod scan;

pub use constraint::{Constraint, ConstraintError};
pub use logprobs::TokenLogprobs;
pub use philox::{philox4x32_10, random_u64};
pub use sampler::{SampleError, Sampled, Sampler, SamplerOptions, Scratch};
