//! What kind of model a directory holds.

use std::path::Path;

use crate::encoder::EncoderSpec;
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
}
