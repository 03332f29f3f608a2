//! Models that read a whole text: its embedding, or its classes.
//!
//! 1. [`CheckpointSpec::from_dir`](crate::CheckpointSpec) tells them from models that write.
//! 2. [`plan_encoder`] divides memory by arithmetic; a model that does not fit ends here.
//! 3. [`Encoder::load`] maps the weights and checks them against the spec.
//! 4. [`Encoder::read`] takes texts as token ids.
//!
//! A step flattens the tokens of several texts without padding; each token attends to all tokens of
//! its own text. A text's numbers depend on its own tokens alone, whatever else is in the step.

mod batch;
mod forward;
mod heads;
mod names;
mod plan;
mod pooling;
mod sentence;
mod spec;
mod vectors;
mod weights;

pub use batch::EncoderInput;
pub use forward::Encoder;
pub use plan::{EncoderPlan, EncoderPlanRequest, plan_encoder};
pub use pooling::Pooling;
pub use sentence::{DenseSpec, EmbeddingSpec, Matryoshka, Similarity};
pub use spec::{ClassifierSpec, EncoderKind, EncoderSpec, LogitActivation, PositionTable};
pub use vectors::normalize;
