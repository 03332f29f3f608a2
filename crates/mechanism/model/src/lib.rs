//! Hugging Face checkpoints: config to spec, files to weights, tokens to logits.
//!
//! 1. [`ModelSpec::from_dir`] reads `config.json`; an unsupported model ends here.
//! 2. [`plan`] divides memory by arithmetic; a model that does not fit ends here.
//! 3. [`Model::load`] maps the weights, checks them against the spec and reserves the KV cache.
//! 4. [`Runner::step`] turns a ragged batch of tokens into logits.
//!
//! A model that reads text and writes none goes the same way: [`EncoderSpec`], [`plan_encoder`],
//! [`Encoder`]. [`CheckpointSpec::from_dir`] says which of the two a directory holds.
//!
//! The weights are used where they lie in the file: loading copies nothing, and replicas of one
//! machine share the page cache. Rounded weights are made once, kept in a file and used likewise.
#![forbid(unsafe_code)]

mod batch;
mod checkpoint;
mod checkpoint_spec;
mod encoder;
mod generation;
mod kv_cache;
mod model;
mod plan;
mod prefault;
mod prepare;
mod quantized;
mod rope;
mod spec;
mod weights;

pub use batch::{Job, Runner, SeqChunk, StepBatch, StepError};
pub use checkpoint::CheckpointError;
pub use checkpoint_spec::{CheckpointPlan, CheckpointSpec};
pub use encoder::{
    ClassifierSpec, DenseSpec, EmbeddingSpec, Encoder, EncoderInput, EncoderKind, EncoderPlan,
    EncoderPlanRequest, EncoderSpec, LogitActivation, Matryoshka, Pooling, PositionTable,
    Similarity, normalize, plan_encoder,
};
pub use generation::GenerationDefaults;
pub use model::Model;
pub use plan::{BLOCK_SIZE, MAX_DRAFT_ROWS, MemoryPlan, Misfit, PlanError, PlanRequest, plan};
pub use prefault::Prefault;
pub use quantized::{QuantizeEvent, QuantizeOptions, grouped_type};
pub use spec::{
    AttentionSpec, LayerSpec, MlpSpec, ModelSpec, NormKind, NormSpec, Positions, RopeScaling,
    RopeSpec, SpecError,
};
pub use weights::LoadError;
