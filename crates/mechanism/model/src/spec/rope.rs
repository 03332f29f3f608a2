//! Rotary position embeddings as configs describe them.

use super::{Fields, SpecError};

/// Frequencies of the rotation. Dimension `i` is paired with `i + head_dim / 2`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeSpec {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// How the frequencies differ from the plain series.
    pub scaling: RopeScaling,
}

/// How the frequencies differ from the plain series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All are divided.
    Linear {
        /// By this.
        factor: f64,
    },
    /// Long wavelengths are divided, short ones kept, those between blended.
    Llama3 {
        /// What long wavelengths are divided by.
        factor: f64,
        /// Wavelengths above `original_length / low_frequency_factor` are long.
        low_frequency_factor: f64,
        /// Wavelengths below `original_length / high_frequency_factor` are short.
        high_frequency_factor: f64,
        /// Context of the first training, in tokens.
        original_length: f64,
    },
}

const SUPPORTED: &str = "default, linear, llama3";

/// Reads `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (before).
pub(super) fn read(config: &Fields<'_>) -> Result<RopeSpec, SpecError> {
    let (key, parameters) = match config.nested("rope_scaling")? {
        Some(parameters) => ("rope_scaling", Some(parameters)),
        None => ("rope_parameters", config.nested("rope_parameters")?),
    };
    let own = |name: &str| match &parameters {
        Some(parameters) => parameters.positive(name),
        None => Ok(None),
    };
    let theta = match own("rope_theta")? {
        Some(theta) => theta,
        None => config.positive("rope_theta")?.unwrap_or(10_000.0),
    };
    let partial = match own("partial_rotary_factor")? {
        Some(partial) => Some(partial),
        None => config.positive("partial_rotary_factor")?,
    };
    if let Some(partial) = partial.filter(|&partial| partial != 1.0) {
        return Err(config.unsupported("partial_rotary_factor", partial, "1.0"));
    }
    let scaling = match &parameters {
        Some(parameters) => read_scaling(config, key, parameters)?,
        None => RopeScaling::None,
    };
    Ok(RopeSpec { theta, scaling })
}

fn read_scaling(
    config: &Fields<'_>,
    key: &str,
    parameters: &Fields<'_>,
) -> Result<RopeScaling, SpecError> {
    let required = |name: &str| {
        parameters.positive(name)?.ok_or_else(|| parameters.missing(&format!("{key}.{name}")))
    };
    if parameters.mentions("full_attention") || parameters.mentions("sliding_attention") {
        return Err(config.unsupported(key, "given per layer type", "one set for all layers"));
    }
    let kind = match parameters.text("rope_type")? {
        Some(kind) => kind,
        None => parameters.text("type")?.unwrap_or("default"),
    };
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: required("factor")? }),
        "llama3" => {
            let original = match config.positive("original_max_position_embeddings")? {
                Some(length) => Some(length),
                None => parameters.positive("original_max_position_embeddings")?,
            };
            let original = match original {
                Some(length) => length,
                None => required_length(config)?,
            };
            let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
            if low >= high {
                let expected = format!("below 'high_freq_factor' ({high})");
                return Err(parameters.invalid("low_freq_factor", low, &expected));
            }
            Ok(RopeScaling::Llama3 {
                factor: required("factor")?,
                low_frequency_factor: low,
                high_frequency_factor: high,
                original_length: original,
            })
        }
        other => Err(config.unsupported(&format!("{key}.rope_type"), other, SUPPORTED)),
    }
}

fn required_length(config: &Fields<'_>) -> Result<f64, SpecError> {
    let key = "max_position_embeddings";
    config.positive(key)?.ok_or_else(|| config.missing(key))
}
