//! What kind of model a directory holds.

use std::fmt;
use std::path::Path;

use tyndall_types::protocol::ModelTask;

use crate::encoder::{EncoderKind, EncoderPlan, EncoderPlanRequest, EncoderSpec, plan_encoder};
use crate::plan::{MemoryPlan, PlanError, PlanRequest, plan};
use crate::spec::{Declared, Fields, ModelSpec, SpecError, read_json};

/// A model that writes text, or one that reads it.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckpointSpec {
    /// For [`Model`](crate::Model).
    Decoder(ModelSpec),
    /// For [`Encoder`](crate::Encoder).
    Encoder(EncoderSpec),
}

impl CheckpointSpec {
    /// Reads `config.json` of a checkpoint directory and what belongs to it; no weight file.
    ///
    /// # Errors
    /// As [`ModelSpec::from_dir`] and [`EncoderSpec::from_dir`]; of an architecture that is neither,
    /// with all that there are.
    pub fn from_dir(dir: &Path) -> Result<CheckpointSpec, SpecError> {
        let path = dir.join("config.json");
        let Some(json) = read_json(&path)? else {
            return Err(SpecError::NoConfig { dir: dir.into() });
        };
        let declared = Declared::read(&Fields::new(&path, &json)?)?;
        match EncoderSpec::supports(&declared) {
            true => EncoderSpec::from_dir(dir).map(CheckpointSpec::Encoder),
            false => ModelSpec::from_dir(dir).map(CheckpointSpec::Decoder),
        }
    }

    /// The class that transformers would use.
    pub fn architecture(&self) -> &'static str {
        match self {
            Self::Decoder(spec) => spec.architecture,
            Self::Encoder(spec) => spec.architecture,
        }
    }

    /// What the model is for.
    pub fn task(&self) -> ModelTask {
        match self {
            Self::Decoder(_) => ModelTask::Generate,
            Self::Encoder(spec) => spec.task(),
        }
    }

    /// Divides memory as [`plan`] or [`plan_encoder`] do.
    ///
    /// # Errors
    /// [`PlanError`]; weights of an encoder are not rounded.
    pub fn plan(&self, dir: &Path, request: &PlanRequest) -> Result<CheckpointPlan, PlanError> {
        match self {
            Self::Decoder(spec) => plan(dir, spec, request).map(CheckpointPlan::Decoder),
            Self::Encoder(spec) => {
                plan_encoder(dir, spec, &request.try_into()?).map(CheckpointPlan::Encoder)
            }
        }
    }
}

impl EncoderSpec {
    /// What the model is for.
    pub fn task(&self) -> ModelTask {
        match &self.kind {
            EncoderKind::Embed(_) => ModelTask::Embed,
            EncoderKind::Classify(classifier) if classifier.labels.len() == 1 => ModelTask::Score,
            EncoderKind::Classify(_) => ModelTask::Classify,
        }
    }
}

impl TryFrom<&PlanRequest> for EncoderPlanRequest {
    type Error = PlanError;

    /// What of a request is an encoder's.
    fn try_from(request: &PlanRequest) -> Result<Self, PlanError> {
        if request.quantization.is_some() {
            return Err(PlanError::NotQuantized);
        }
        Ok(Self {
            max_len: request.max_model_len,
            memory_budget_bytes: request.memory_budget_bytes,
            available_bytes: request.available_bytes,
            max_num_batched_tokens: request.max_num_batched_tokens,
        })
    }
}

/// Where the memory of a checkpoint's model goes. Its `Display` is a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointPlan {
    /// Of [`CheckpointSpec::Decoder`].
    Decoder(MemoryPlan),
    /// Of [`CheckpointSpec::Encoder`].
    Encoder(EncoderPlan),
}

impl CheckpointPlan {
    /// Tokens of a sequence at most.
    pub fn max_model_len(&self) -> u32 {
        match self {
            Self::Decoder(plan) => plan.max_model_len,
            Self::Encoder(plan) => plan.max_len,
        }
    }

    /// Weight files, or the rounded weights and what is used beside them.
    pub fn weights_bytes(&self) -> u64 {
        match self {
            Self::Decoder(plan) => plan.weights_bytes,
            Self::Encoder(plan) => plan.weights_bytes,
        }
    }

    /// Scratch of a step.
    pub fn activation_bytes(&self) -> u64 {
        match self {
            Self::Decoder(plan) => plan.activation_bytes,
            Self::Encoder(plan) => plan.activation_bytes,
        }
    }

    /// Keys and values that are kept; an encoder keeps none.
    pub fn kv_cache_bytes(&self) -> u64 {
        match self {
            Self::Decoder(plan) => plan.kv_cache_bytes,
            Self::Encoder(_) => 0,
        }
    }

    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.weights_bytes() + self.activation_bytes() + self.kv_cache_bytes()
    }
}

impl fmt::Display for CheckpointPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decoder(plan) => plan.fmt(f),
            Self::Encoder(plan) => plan.fmt(f),
        }
    }
}
