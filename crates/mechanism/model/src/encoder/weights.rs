//! The tensors of a checkpoint, bound to their places in the encoder.

use std::path::Path;

use super::names::{EncoderNames, is_unused};
use super::sentence::DenseSpec;
use super::spec::{EncoderKind, EncoderSpec};
use crate::checkpoint::{Checkpoint, TensorBytes};
use crate::weights::{LinearWeights, LoadError, NormWeights, TableWeight, Tensors};

/// Everything that the encoder multiplies with.
pub(super) struct EncoderWeights {
    pub(super) words: TableWeight,
    pub(super) positions: TableWeight,
    pub(super) types: Option<TableWeight>,
    pub(super) embedding_norm: NormWeights,
    pub(super) layers: Vec<EncoderLayer>,
    pub(super) head: HeadWeights,
}

pub(super) struct EncoderLayer {
    pub(super) query: LinearWeights,
    pub(super) key: LinearWeights,
    pub(super) value: LinearWeights,
    pub(super) output: LinearWeights,
    pub(super) attention_norm: NormWeights,
    pub(super) up: LinearWeights,
    pub(super) down: LinearWeights,
    pub(super) mlp_norm: NormWeights,
}

/// What follows the last layer.
pub(super) enum HeadWeights {
    /// The dense layers behind the pooling, which may be none.
    Embed(Vec<LinearWeights>),
    Classify {
        pre_classifier: LinearWeights,
        classifier: LinearWeights,
    },
}

impl EncoderWeights {
    /// Finds a tensor for each place of `spec`.
    pub(super) fn bind(dir: &Path, spec: &EncoderSpec) -> Result<EncoderWeights, LoadError> {
        let checkpoint = Checkpoint::open(dir)?;
        let tensors = Tensors::new(dir, &checkpoint);
        let prefix = tensors.prefix_of(spec.names.prefixes, spec.names.words);
        let mut binder = Binder { spec, tensors, prefix };
        let weights = binder.weights(dir)?;
        binder.tensors.finish(spec.architecture, |name| is_unused(prefix, name))?;
        Ok(weights)
    }

    /// All matrices and tables in the order in which a step needs them.
    pub(super) fn in_order(&self) -> Vec<TensorBytes> {
        let tables = [&self.words, &self.positions].into_iter().chain(&self.types);
        let mut all: Vec<TensorBytes> = tables.map(|table| table.bytes().clone()).collect();
        for layer in &self.layers {
            let EncoderLayer { query, key, value, output, up, down, .. } = layer;
            all.extend([query, key, value, output, up, down].map(|linear| linear.bytes().clone()));
        }
        match &self.head {
            HeadWeights::Embed(dense) => all.extend(dense.iter().map(|d| d.bytes().clone())),
            HeadWeights::Classify { pre_classifier, classifier } => {
                all.extend([pre_classifier, classifier].map(|linear| linear.bytes().clone()));
            }
        }
        all
    }
}

struct Binder<'a> {
    spec: &'a EncoderSpec,
    tensors: Tensors<'a>,
    prefix: &'static str,
}

impl Binder<'_> {
    fn weights(&mut self, dir: &Path) -> Result<EncoderWeights, LoadError> {
        let (spec, names) = (self.spec, self.spec.names);
        let hidden = spec.hidden_size;
        let words = self.table(names.words, spec.vocab_size)?;
        let positions = self.table(names.positions, spec.positions.rows)?;
        let types = match spec.type_vocab_size {
            0 => None,
            rows => Some(self.table(names.types, rows)?),
        };
        let embedding_norm = self.norm(&self.global(names.embedding_norm))?;
        let mut layers = Vec::with_capacity(spec.num_layers);
        for index in 0..spec.num_layers {
            layers.push(self.layer(index, names)?);
        }
        let head = match &spec.kind {
            EncoderKind::Embed(embedding) => {
                let dense = embedding.dense.iter().map(|dense| bind_dense(dir, dense, spec));
                HeadWeights::Embed(dense.collect::<Result<_, _>>()?)
            }
            EncoderKind::Classify(classifier) => {
                let (is_prefixed, name) = names.pre_classifier;
                let name = if is_prefixed { self.global(name) } else { name.to_owned() };
                let labels = classifier.labels.len();
                HeadWeights::Classify {
                    pre_classifier: self.tensors.linear(name, [hidden, hidden], true)?,
                    classifier: self.tensors.linear(
                        names.classifier.to_owned(),
                        [labels, hidden],
                        true,
                    )?,
                }
            }
        };
        Ok(EncoderWeights { words, positions, types, embedding_norm, layers, head })
    }

    fn layer(&mut self, index: usize, names: &EncoderNames) -> Result<EncoderLayer, LoadError> {
        let (hidden, width) = (self.spec.hidden_size, self.spec.intermediate_size);
        let prefix = self.prefix;
        let name = |module: &str| format!("{prefix}{}.{index}.{module}", names.layers);
        let square = [hidden, hidden];
        let tensors = &mut self.tensors;
        let (query, key) = (
            tensors.linear(name(names.query), square, true)?,
            tensors.linear(name(names.key), square, true)?,
        );
        let (value, output) = (
            tensors.linear(name(names.value), square, true)?,
            tensors.linear(name(names.output), square, true)?,
        );
        let (up, down) = (
            tensors.linear(name(names.up), [width, hidden], true)?,
            tensors.linear(name(names.down), [hidden, width], true)?,
        );
        let attention_norm = self.norm(&name(names.attention_norm))?;
        let mlp_norm = self.norm(&name(names.mlp_norm))?;
        Ok(EncoderLayer { query, key, value, output, attention_norm, up, down, mlp_norm })
    }

    fn table(&mut self, module: &str, rows: usize) -> Result<TableWeight, LoadError> {
        self.tensors.table(self.global(module), rows, self.spec.hidden_size)
    }

    /// Checkpoints that began in TensorFlow call weight and bias `gamma` and `beta`.
    fn norm(&mut self, module: &str) -> Result<NormWeights, LoadError> {
        let width = self.spec.hidden_size;
        let gamma = format!("{module}.gamma");
        let (weight, bias) = match self.tensors.has(&gamma) {
            true => (gamma, format!("{module}.beta")),
            false => (format!("{module}.weight"), format!("{module}.bias")),
        };
        let weight = self.tensors.vector(weight, width)?;
        Ok(NormWeights { weight, bias: Some(self.tensors.vector(bias, width)?) })
    }

    fn global(&self, module: &str) -> String {
        format!("{}{module}", self.prefix)
    }
}

/// A dense layer has a file of its own.
fn bind_dense(
    dir: &Path,
    dense: &DenseSpec,
    spec: &EncoderSpec,
) -> Result<LinearWeights, LoadError> {
    let dir = dir.join(&dense.path);
    let checkpoint = Checkpoint::open(&dir)?;
    let mut tensors = Tensors::new(&dir, &checkpoint);
    let linear = tensors.linear("linear".into(), [dense.outputs, dense.inputs], dense.bias)?;
    tensors.finish(spec.architecture, |_| false)?;
    Ok(linear)
}
