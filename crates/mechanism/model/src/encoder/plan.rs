//! How much memory an encoder takes, by arithmetic alone.

use std::fmt;
use std::path::Path;

use super::batch::BLOCK_SIZE;
use super::spec::{EncoderKind, EncoderSpec};
use crate::checkpoint::Checkpoint;
use crate::plan::{BUDGET_PERCENT, Bytes, PlanError};

/// What a deployment asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderPlanRequest {
    /// Tokens of a text at most; absent is all that the model allows.
    pub max_len: Option<u32>,
    /// For weights and activations together; absent is a share of `available_bytes`.
    pub memory_budget_bytes: Option<u64>,
    /// What the machine or the container has to offer.
    pub available_bytes: u64,
    /// Tokens in a step, unless less fits or a single text has more.
    pub max_num_batched_tokens: u32,
}

/// Where an encoder's memory goes. Its `Display` is a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderPlan {
    /// Weight files, mapped; replicas of one machine share them.
    pub weights_bytes: u64,
    /// Scratch of a step, its keys and values among it.
    pub activation_bytes: u64,
    /// Tokens of a text at most.
    pub max_len: u32,
    /// Tokens in a step. Each text counts as a multiple of 16.
    pub max_num_batched_tokens: u32,
    /// What all of it may take.
    pub budget_bytes: u64,
}

/// Divides memory between weights and activations. Reads the headers of the weight files and no
/// weight.
///
/// # Errors
/// [`PlanError`]; a model of which not even one text of `max_len` fits is refused with the numbers.
pub fn plan_encoder(
    dir: &Path,
    spec: &EncoderSpec,
    request: &EncoderPlanRequest,
) -> Result<EncoderPlan, PlanError> {
    let mut weights_bytes = Checkpoint::open(dir)?.file_bytes();
    if let EncoderKind::Embed(embedding) = &spec.kind {
        for dense in &embedding.dense {
            weights_bytes += Checkpoint::open(&dir.join(&dense.path))?.file_bytes();
        }
    }
    divide(spec, request, weights_bytes)
}

fn divide(
    spec: &EncoderSpec,
    request: &EncoderPlanRequest,
    weights_bytes: u64,
) -> Result<EncoderPlan, PlanError> {
    let max_len = request.max_len.unwrap_or(spec.max_len);
    for (name, value) in
        [("max_model_len", max_len), ("max_num_batched_tokens", request.max_num_batched_tokens)]
    {
        if value == 0 {
            return Err(PlanError::Zero { name });
        }
    }
    if max_len > spec.max_len {
        return Err(PlanError::TooLong { asked: max_len, limit: spec.max_len });
    }
    let budget_bytes =
        request.memory_budget_bytes.unwrap_or(request.available_bytes / 100 * BUDGET_PERCENT);
    let per_token = bytes_per_token(spec);
    let left = budget_bytes.saturating_sub(weights_bytes);
    let block = BLOCK_SIZE as u64;
    let whole = |tokens: u32| u64::from(tokens).next_multiple_of(block);
    let affordable = left / per_token / block * block;
    if affordable < whole(max_len) {
        return Err(PlanError::EncoderDoesNotFit {
            weights_bytes,
            activation_bytes: whole(max_len) * per_token,
            max_len,
            fitting_len: affordable as u32,
            budget_bytes,
        });
    }
    let tokens = whole(request.max_num_batched_tokens).max(whole(max_len)).min(affordable);
    Ok(EncoderPlan {
        weights_bytes,
        activation_bytes: tokens * per_token,
        max_len,
        // Both bounds are u32; the next multiple of the greatest is above what memory affords.
        max_num_batched_tokens: u32::try_from(tokens).unwrap_or(u32::MAX - u32::MAX % 16),
        budget_bytes,
    })
}

/// The buffers of a step: the stream and its normalised copy, queries, attended values, keys and
/// values twice, the inner part and the kernels' copy of a linear's input; indices; and, as if each
/// text had 16 tokens, what follows the pooling.
fn bytes_per_token(spec: &EncoderSpec) -> u64 {
    let (hidden, inner) = (spec.hidden_size as u64, spec.intermediate_size as u64);
    let floats = 8 * hidden + inner + inner.max(hidden);
    let indices = 5;
    let widest = match &spec.kind {
        EncoderKind::Embed(embedding) => {
            let dense = embedding.dense.iter().map(|dense| dense.outputs).sum::<usize>();
            embedding.pooling.len() * spec.hidden_size + dense
        }
        EncoderKind::Classify(classifier) => 2 * spec.hidden_size + classifier.labels.len(),
    };
    4 * (floats + indices + (widest as u64).div_ceil(BLOCK_SIZE as u64))
}

impl EncoderPlan {
    /// Weights and activations.
    pub fn total_bytes(&self) -> u64 {
        self.weights_bytes + self.activation_bytes
    }
}

impl fmt::Display for EncoderPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, bytes: u64, note: String| {
            writeln!(f, "{name:<14}{:>11}  {note}", Bytes(bytes).to_string())
        };
        let shared = "mapped from the checkpoint, shared by replicas".to_owned();
        row("weights", self.weights_bytes, shared)?;
        let step = format!("{} tokens per step", self.max_num_batched_tokens);
        row("activations", self.activation_bytes, step)?;
        row("total", self.total_bytes(), format!("of {} budget", Bytes(self.budget_bytes)))?;
        write!(f, "{:<14}up to {} tokens", "texts", self.max_len)
    }
}

#[cfg(test)]
mod tests;
