//! `config.json` to a description of a decoder.
//!
//! A model is data: [`ModelSpec`] lists what a generic decoder needs to know, and a family
//! contributes only its tensor names and the way its config spells these facts. Nothing here opens
//! a weight file, so an unsupported model is refused at once.

mod declared;
mod families;
mod fields;
mod names;
mod rope;

use std::path::{Path, PathBuf};

pub(crate) use declared::Declared;
pub(crate) use families::{
    MAX_HEADS, MAX_LAYERS, MAX_LENGTH, MAX_VOCAB, MAX_WIDTH, divide_heads, read_activation,
};
pub(crate) use fields::{Fields, read_json};
pub(crate) use names::NameMap;
pub use rope::{RopeScaling, RopeSpec};
use tyndall_kernels::{Activation, DType};

use crate::encoder::EncoderSpec;

/// Everything about a decoder but its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The class that transformers would use, such as `LlamaForCausalLM`.
    pub architecture: &'static str,
    /// Rows of the embedding table and length of a row of logits.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the embedding table; where it is not `hidden_size`, projections lead in and out.
    pub embedding_size: usize,
    /// The type that the config declares; the stored tensors decide.
    pub declared_dtype: Option<DType>,
    /// The head reuses the embedding table.
    pub tied_head: bool,
    /// How a token learns its position.
    pub positions: Positions,
    /// What normalises, and where.
    pub norm: NormSpec,
    /// A norm follows the last layer.
    pub final_norm: bool,
    /// The decoder layers, in order.
    pub layers: Vec<LayerSpec>,
    /// The longest context the checkpoint allows, in tokens.
    pub max_model_len: u32,
    pub(crate) names: &'static NameMap,
}

/// How a token learns its position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Positions {
    /// A table row per position is added to the embedding.
    Learned {
        /// Rows of the table.
        rows: usize,
        /// Row of position 0.
        offset: usize,
    },
    /// Queries and keys are rotated.
    Rope(RopeSpec),
}

/// What normalises, and where.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormSpec {
    /// The formula.
    pub kind: NormKind,
    /// Added to the variance.
    pub eps: f32,
    /// After the residual addition instead of before the sublayer.
    pub post: bool,
}

/// A norm's formula.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square with a weight.
    Rms,
    /// Mean and variance, with a weight and a bias.
    Layer,
    /// Mean and variance alone: the checkpoint has no tensor for it.
    PlainLayer,
}

/// One decoder layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSpec {
    /// Self-attention.
    pub attention: AttentionSpec,
    /// The feed-forward part.
    pub mlp: MlpSpec,
}

/// Grouped-query attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionSpec {
    /// Query heads; a multiple of `num_kv_heads`.
    pub num_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// The query, key and value projections have biases.
    pub qkv_bias: bool,
    /// The output projection has a bias.
    pub output_bias: bool,
    /// Queries and keys are normalised per head before they are rotated.
    pub qk_norm: bool,
    /// A token sees itself and the `window - 1` tokens before it; absent is all.
    pub window: Option<u32>,
}

/// The feed-forward part of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MlpSpec {
    /// Width between the projections.
    pub intermediate_size: usize,
    /// `act(gate) * up` instead of `act(up)`.
    pub gated: bool,
    /// The activation.
    pub activation: Activation,
    /// The projections have biases.
    pub bias: bool,
}

impl ModelSpec {
    /// Reads `config.json` of a checkpoint directory, and the context limit of its
    /// `tokenizer_config.json` where there is one.
    ///
    /// # Errors
    /// [`SpecError`] names the file, the key and what would be right.
    pub fn from_dir(dir: &Path) -> Result<ModelSpec, SpecError> {
        let path = dir.join("config.json");
        let Some(config) = read_json(&path)? else {
            return Err(SpecError::NoConfig { dir: dir.into() });
        };
        let mut spec = families::read(&Fields::new(&path, &config)?)?;
        if let Some(limit) = tokenizer_limit(dir)? {
            spec.max_model_len = spec.max_model_len.min(scale_length(limit, spec.positions));
        }
        Ok(spec)
    }

    /// The architectures that can be served.
    pub fn supported() -> Vec<&'static str> {
        families::FAMILIES.iter().map(|family| family.architecture).collect()
    }

    /// Whether a config is of one of them.
    pub(crate) fn supports(declared: &Declared<'_>) -> bool {
        families::supports(declared)
    }

    /// Keys and values of one token over all layers, in elements.
    pub fn kv_elements_per_token(&self) -> usize {
        let of = |layer: &LayerSpec| 2 * layer.attention.num_kv_heads * layer.attention.head_dim;
        self.layers.iter().map(of).sum()
    }
}

/// Why a checkpoint's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The directory is no checkpoint.
    #[error(
        "no config.json in '{dir}'; a directory as Hugging Face transformers saves it is needed"
    )]
    NoConfig {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// A file cannot be read.
    #[error("failed to read '{path}'")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not JSON.
    #[error("'{path}' is not valid JSON; download or save the checkpoint again")]
    Json {
        /// Which.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A file is JSON, but no object.
    #[error("'{path}' holds no JSON object; download or save the checkpoint again")]
    NotAnObject {
        /// Which.
        path: PathBuf,
    },
    /// A key that nothing can stand in for.
    #[error("'{path}' lacks '{key}'; save the checkpoint again with a current transformers")]
    MissingKey {
        /// Of which file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A value that cannot be right.
    #[error("'{path}': '{key}' is {found}, but must be {expected}")]
    Invalid {
        /// In which file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A value that is right but not implemented.
    #[error("'{path}': '{key}' is {found}, which is not supported; supported: {supported}")]
    Unsupported {
        /// In which file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What is implemented.
        supported: String,
    },
    /// An unknown model.
    #[error(
        "architecture '{found}' is not supported; supported: {}; for embeddings and scores: {}",
        ModelSpec::supported().join(", "),
        EncoderSpec::supported().join(", ")
    )]
    UnsupportedArchitecture {
        /// As the config names it.
        found: String,
    },
    /// A model that does something else than what it is asked for.
    #[error("architecture '{found}' {does}; it cannot serve this kind of request")]
    OtherKind {
        /// As the config names it.
        found: String,
        /// What it does.
        does: &'static str,
    },
}

/// `model_max_length`, unless it is the huge number that stands for "unknown".
pub(crate) fn tokenizer_limit(dir: &Path) -> Result<Option<usize>, SpecError> {
    let path = dir.join("tokenizer_config.json");
    let Some(config) = read_json(&path)? else {
        return Ok(None);
    };
    let limit = Fields::new(&path, &config)?.number("model_max_length")?;
    Ok(limit.filter(|limit| (1.0..1e9).contains(limit)).map(|limit| limit as usize))
}

/// Linear rope scaling stretches the lengths that the files state; the other kinds state them
/// stretched.
pub(crate) fn scale_length(length: usize, positions: Positions) -> u32 {
    let factor = match positions {
        Positions::Rope(RopeSpec { scaling: RopeScaling::Linear { factor }, .. }) => factor,
        _ => 1.0,
    };
    // The cast saturates; lengths are far below 2^32 for any model that exists.
    (length as f64 * factor) as u32
}

#[cfg(test)]
mod tests;
