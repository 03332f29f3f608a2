//! From the hidden states of a step to one row of numbers for each text.

use tyndall_kernels::{Cpu, KernelError, Write};

use super::spec::{EncoderKind, EncoderSpec, HeadActivation, LogitActivation};
use super::weights::HeadWeights;
use crate::model::job;
use crate::weights::LinearWeights;

/// Pools the hidden states (`[T, E]`) of the texts that begin at `starts` (`[R + 1]`), sends them
/// through what follows and appends a row for each text.
pub(super) fn finish(
    cpu: &Cpu,
    spec: &EncoderSpec,
    weights: &HeadWeights,
    (starts, states): (&[u32], &[f32]),
    out: &mut Vec<Vec<f32>>,
) -> Result<(), KernelError> {
    let texts = starts.len() - 1;
    let pooled = pool(spec, starts, states);
    let rows = match weights {
        HeadWeights::Embed(dense) => {
            let tanh = match &spec.kind {
                EncoderKind::Embed(embedding) => &embedding.dense[..],
                EncoderKind::Classify(_) => &[],
            };
            let mut rows = pooled;
            for (linear, dense) in std::iter::zip(dense, tanh) {
                rows = apply(cpu, linear, &rows, texts)?;
                if dense.tanh {
                    rows.iter_mut().for_each(|value| *value = value.tanh());
                }
            }
            rows
        }
        HeadWeights::Classify { pre_classifier, classifier } => {
            let mut rows = apply(cpu, pre_classifier, &pooled, texts)?;
            let activate: fn(f32) -> f32 = match spec.head_activation {
                HeadActivation::Tanh => f32::tanh,
                HeadActivation::Relu => |value| value.max(0.0),
            };
            rows.iter_mut().for_each(|value| *value = activate(*value));
            apply(cpu, classifier, &rows, texts)?
        }
    };
    out.extend(rows.chunks_exact(spec.outputs()).map(<[f32]>::to_vec));
    Ok(())
}

/// One row for each text: the vectors of all poolings, or its first token for a classifier.
fn pool(spec: &EncoderSpec, starts: &[u32], states: &[f32]) -> Vec<f32> {
    use super::pooling::Pooling;
    let poolings = match &spec.kind {
        EncoderKind::Embed(embedding) => &embedding.pooling[..],
        EncoderKind::Classify(_) => &[Pooling::Cls],
    };
    let width = spec.hidden_size;
    let mut rows = vec![0.0; (starts.len() - 1) * poolings.len() * width];
    let places = rows.chunks_exact_mut(poolings.len() * width);
    for (bounds, row) in std::iter::zip(starts.windows(2), places) {
        let states = &states[bounds[0] as usize * width..bounds[1] as usize * width];
        for (pooling, out) in std::iter::zip(poolings, row.chunks_exact_mut(width)) {
            pooling.pool(states, out);
        }
    }
    rows
}

fn apply(
    cpu: &Cpu,
    linear: &LinearWeights,
    input: &[f32],
    rows: usize,
) -> Result<Vec<f32>, KernelError> {
    let mut out = vec![0.0; rows * linear.weight.shape()[0]];
    cpu.linear(input, rows, &mut [job(linear, &mut out, Write::Store)?])?;
    Ok(out)
}

impl LogitActivation {
    /// From the logits of one text to numbers for users.
    pub fn apply(self, logits: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::Sigmoid => {
                logits.iter_mut().for_each(|value| *value = 1.0 / (1.0 + (-*value).exp()));
            }
            Self::Softmax => {
                let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                logits.iter_mut().for_each(|value| *value = (*value - largest).exp());
                let sum: f32 = logits.iter().sum();
                logits.iter_mut().for_each(|value| *value /= sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_become_probabilities() {
        let check = |activation: LogitActivation, logits: &[f32], expected: &[f32]| {
            let mut found = logits.to_vec();
            activation.apply(&mut found);
            let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
            assert!(std::iter::zip(&found, expected).all(close), "{activation:?}: {found:?}");
        };
        check(LogitActivation::Identity, &[-3.5, 12.0], &[-3.5, 12.0]);
        check(LogitActivation::Sigmoid, &[0.0, 200.0, -200.0], &[0.5, 1.0, 0.0]);
        check(LogitActivation::Softmax, &[1000.0, 1000.0, -1000.0], &[0.5, 0.5, 0.0]);
    }
}
