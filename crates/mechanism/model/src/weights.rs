//! The tensors of a checkpoint, bound to their places in the decoder.
//!
//! Binding goes both ways: each place must find its tensor, with the shape that the config implies,
//! and each tensor must have a place or be known to hold nothing of use. Either failure means that
//! config and weights do not belong together.

use std::path::{Path, PathBuf};

use tyndall_kernels::{DType, GroupedMatrix, GroupedType, KernelError, Matrix, Vector, Weight};

use crate::checkpoint::{Checkpoint, CheckpointError, TensorBytes};
use crate::spec::{LayerSpec, ModelSpec, NormKind, Positions};

mod tensors;

pub(crate) use tensors::Tensors;

/// Everything that the decoder multiplies with.
pub(crate) struct Weights {
    pub(crate) embedding: TableWeight,
    pub(crate) positions: Option<TableWeight>,
    pub(crate) project_in: Option<MatrixWeight>,
    pub(crate) project_out: Option<MatrixWeight>,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) final_norm: Option<NormWeights>,
    /// Absent where the embedding serves as head.
    pub(crate) head: Option<MatrixWeight>,
}

pub(crate) struct LayerWeights {
    pub(crate) attention_norm: NormWeights,
    pub(crate) query: LinearWeights,
    pub(crate) key: LinearWeights,
    pub(crate) value: LinearWeights,
    pub(crate) output: LinearWeights,
    /// Of queries and of keys.
    pub(crate) qk_norm: Option<(VectorWeight, VectorWeight)>,
    pub(crate) mlp_norm: NormWeights,
    pub(crate) gate: Option<LinearWeights>,
    pub(crate) up: LinearWeights,
    pub(crate) down: LinearWeights,
}

pub(crate) struct LinearWeights {
    pub(crate) weight: MatrixWeight,
    pub(crate) bias: Option<VectorWeight>,
}

pub(crate) struct NormWeights {
    pub(crate) weight: VectorWeight,
    /// Only layer norms have one.
    pub(crate) bias: Option<VectorWeight>,
}

/// A row-major matrix `[rows, cols]` as the checkpoint has it.
#[derive(Clone)]
pub(crate) struct TableWeight {
    bytes: TensorBytes,
    dtype: DType,
    rows: usize,
    cols: usize,
}

/// The weight of a linear layer.
pub(crate) enum MatrixWeight {
    /// As the checkpoint has it.
    Plain(TableWeight),
    /// Rounded.
    Grouped { bytes: TensorBytes, grouped: GroupedType, rows: usize, cols: usize },
}

pub(crate) struct VectorWeight {
    bytes: TensorBytes,
    dtype: DType,
}

impl MatrixWeight {
    pub(crate) fn view(&self) -> Result<Weight<'_>, KernelError> {
        Ok(match self {
            MatrixWeight::Plain(table) => table.view()?.into(),
            MatrixWeight::Grouped { bytes, grouped, rows, cols } => {
                GroupedMatrix::new(*grouped, bytes.as_slice(), *rows, *cols)?.into()
            }
        })
    }

    /// `[rows, cols]`
    pub(crate) fn shape(&self) -> [usize; 2] {
        match self {
            MatrixWeight::Plain(TableWeight { rows, cols, .. })
            | MatrixWeight::Grouped { rows, cols, .. } => [*rows, *cols],
        }
    }

    /// Puts the rounded form of the matrix in its place.
    pub(crate) fn replace(&mut self, grouped: GroupedType, bytes: TensorBytes) {
        let [rows, cols] = self.shape();
        *self = MatrixWeight::Grouped { bytes, grouped, rows, cols };
    }

    fn bytes(&self) -> &TensorBytes {
        match self {
            MatrixWeight::Plain(TableWeight { bytes, .. })
            | MatrixWeight::Grouped { bytes, .. } => bytes,
        }
    }
}

impl LinearWeights {
    /// Of its matrix.
    pub(crate) fn bytes(&self) -> &TensorBytes {
        self.weight.bytes()
    }
}

impl TableWeight {
    pub(crate) fn bytes(&self) -> &TensorBytes {
        &self.bytes
    }

    pub(crate) fn view(&self) -> Result<Matrix<'_>, KernelError> {
        self.view_from(0)
    }

    /// Without the rows before `first`, which is at most the number of rows.
    pub(crate) fn view_from(&self, first: usize) -> Result<Matrix<'_>, KernelError> {
        let skipped = first * self.cols * self.dtype.size_bytes();
        let bytes = &self.bytes.as_slice()[skipped..];
        Matrix::new(self.dtype, bytes, self.rows - first, self.cols)
    }
}

impl VectorWeight {
    pub(crate) fn view(&self) -> Vector<'_> {
        Vector { dtype: self.dtype, data: self.bytes.as_slice() }
    }

    fn filled(value: f32, len: usize) -> VectorWeight {
        let bytes: Vec<u8> = value.to_le_bytes().repeat(len);
        VectorWeight { bytes: TensorBytes::Owned(bytes.into()), dtype: DType::F32 }
    }
}

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The weight files are absent or damaged.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A tensor that the config asks for is not there.
    #[error("the checkpoint in '{dir}' lacks tensor '{tensor}', which its config.json asks for")]
    MissingTensor {
        /// Its name.
        tensor: String,
        /// The checkpoint.
        dir: PathBuf,
    },
    /// A tensor has another shape than the config says.
    #[error(
        "tensor '{tensor}' in '{path}' has shape {found:?}, but config.json asks for \
         {expected:?}; the two are not from one model"
    )]
    Shape {
        /// Its name.
        tensor: String,
        /// Where it is.
        path: PathBuf,
        /// As stored.
        found: Vec<usize>,
        /// As the config implies.
        expected: Vec<usize>,
    },
    /// A tensor has a type that no kernel reads.
    #[error("tensor '{tensor}' in '{path}' is stored as {found}; supported: F32, F16, BF16")]
    DType {
        /// Its name.
        tensor: String,
        /// Where it is.
        path: PathBuf,
        /// As stored.
        found: String,
    },
    /// Tensors that no part of the decoder uses.
    #[error("{}", describe_unexpected(.tensors, .architecture))]
    Unexpected {
        /// Their names.
        tensors: Vec<String>,
        /// What the config says the model is.
        architecture: &'static str,
    },
    /// The KV cache cannot be reserved.
    #[error(
        "failed to reserve {bytes} bytes for the KV cache; lower --max-model-len or the budget"
    )]
    KvCache {
        /// Its size.
        bytes: u64,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The weight files cannot be told from others.
    #[error("failed to look at the weight files in '{dir}'; are they being replaced?")]
    Sources {
        /// The checkpoint.
        dir: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Weights cannot be rounded.
    #[error("failed to quantize the weights; --quantization none uses them as they are")]
    Quantize {
        /// What the kernel says.
        #[source]
        source: KernelError,
    },
    /// The plan was made for another model.
    #[error("the memory plan does not belong to this model: {reason}")]
    Plan {
        /// What differs.
        reason: String,
    },
}

impl Weights {
    /// Finds a tensor for each place of `spec`.
    pub(crate) fn bind(
        dir: &Path,
        spec: &ModelSpec,
        checkpoint: &Checkpoint,
    ) -> Result<Weights, LoadError> {
        let mut binder = Binder::new(dir, spec, checkpoint);
        let weights = binder.weights()?;
        binder.finish()?;
        Ok(weights)
    }

    /// All matrices in the order in which a step goes through them. Tables of which a step takes
    /// only a few rows come last.
    pub(crate) fn in_order(&self) -> Vec<TensorBytes> {
        let mut matrices: Vec<&MatrixWeight> = self.project_in.iter().collect();
        for layer in &self.layers {
            let attention = [&layer.query, &layer.key, &layer.value, &layer.output];
            let mlp = layer.gate.iter().chain([&layer.up, &layer.down]);
            matrices.extend(attention.into_iter().chain(mlp).map(|linear| &linear.weight));
        }
        matrices.extend(self.project_out.iter().chain(&self.head));
        let mut all: Vec<TensorBytes> =
            matrices.into_iter().map(|weight| weight.bytes().clone()).collect();
        // Beside rounded weights, a table would be most of what is read, for a few of its rows.
        if !matches!(self.head, Some(MatrixWeight::Grouped { .. })) {
            // Where it serves as head it is used as a whole, and now is the time.
            all.push(self.embedding.bytes.clone());
            all.extend(self.positions.iter().map(|table| table.bytes.clone()));
        }
        all
    }

    /// Gives the head a matrix of its own where the embedding serves as one, so that it can be
    /// rounded while the rows that are looked up stay as they are.
    pub(crate) fn separate_head(&mut self) {
        let embedding = &self.embedding;
        self.head.get_or_insert_with(|| MatrixWeight::Plain(embedding.clone()));
    }

    /// The matrices that a step reads as a whole, in its order; the head is the last, if it is
    /// separate.
    pub(crate) fn matrices_mut(&mut self) -> Vec<&mut MatrixWeight> {
        let mut all: Vec<&mut MatrixWeight> = self.project_in.iter_mut().collect();
        for layer in &mut self.layers {
            let LayerWeights { query, key, value, output, gate, up, down, .. } = layer;
            let linears = [query, key, value, output].into_iter().chain(gate).chain([up, down]);
            all.extend(linears.map(|linear| &mut linear.weight));
        }
        all.extend(self.project_out.iter_mut().chain(&mut self.head));
        all
    }
}

struct Binder<'a> {
    spec: &'a ModelSpec,
    tensors: Tensors<'a>,
    prefix: &'static str,
}

impl<'a> Binder<'a> {
    fn new(dir: &'a Path, spec: &'a ModelSpec, checkpoint: &'a Checkpoint) -> Binder<'a> {
        let tensors = Tensors::new(dir, checkpoint);
        let prefix = tensors.prefix_of(spec.names.prefixes, spec.names.embedding);
        Binder { spec, tensors, prefix }
    }

    fn weights(&mut self) -> Result<Weights, LoadError> {
        let (spec, names) = (self.spec, self.spec.names);
        let (hidden, inner) = (spec.hidden_size, spec.embedding_size);
        let embedding = self.tensors.table(self.global(names.embedding), spec.vocab_size, inner)?;
        let positions = match spec.positions {
            Positions::Learned { rows, .. } => {
                Some(self.tensors.table(self.global(names.positions), rows, hidden)?)
            }
            Positions::Rope(_) => None,
        };
        let (project_in, project_out) = if inner == hidden {
            (None, None)
        } else {
            (
                Some(self.tensors.matrix(self.global(names.project_in), hidden, inner)?),
                Some(self.tensors.matrix(self.global(names.project_out), inner, hidden)?),
            )
        };
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (index, layer) in spec.layers.iter().enumerate() {
            layers.push(self.layer(index, layer)?);
        }
        let final_norm = match spec.final_norm {
            true => Some(self.norm(self.global(names.final_norm))?),
            false => None,
        };
        let head = self.tensors.matrix(names.head.to_owned(), spec.vocab_size, inner);
        let head = match (head, spec.tied_head) {
            // A tied head may be stored nevertheless; the embedding counts.
            (Ok(_) | Err(LoadError::MissingTensor { .. }), true) => None,
            (head, _) => Some(head?),
        };
        Ok(Weights { embedding, positions, project_in, project_out, layers, final_norm, head })
    }

    fn layer(&mut self, index: usize, layer: &LayerSpec) -> Result<LayerWeights, LoadError> {
        let (names, hidden) = (self.spec.names, self.spec.hidden_size);
        let (attention, mlp) = (&layer.attention, &layer.mlp);
        let queries = attention.num_heads * attention.head_dim;
        let keys = attention.num_kv_heads * attention.head_dim;
        let width = mlp.intermediate_size;
        let prefix = self.prefix;
        let name = |module: &str| format!("{prefix}layers.{index}.{module}");
        Ok(LayerWeights {
            attention_norm: self.norm(name(names.attention_norm))?,
            query: self.tensors.linear(name(names.query), [queries, hidden], attention.qkv_bias)?,
            key: self.tensors.linear(name(names.key), [keys, hidden], attention.qkv_bias)?,
            value: self.tensors.linear(name(names.value), [keys, hidden], attention.qkv_bias)?,
            output: self.tensors.linear(
                name(names.output),
                [hidden, queries],
                attention.output_bias,
            )?,
            qk_norm: match attention.qk_norm {
                true => Some((
                    self.tensors
                        .vector(format!("{}.weight", name(names.query_norm)), attention.head_dim)?,
                    self.tensors
                        .vector(format!("{}.weight", name(names.key_norm)), attention.head_dim)?,
                )),
                false => None,
            },
            mlp_norm: self.norm(name(names.mlp_norm))?,
            gate: match mlp.gated {
                true => Some(self.tensors.linear(name(names.gate), [width, hidden], mlp.bias)?),
                false => None,
            },
            up: self.tensors.linear(name(names.up), [width, hidden], mlp.bias)?,
            down: self.tensors.linear(name(names.down), [hidden, width], mlp.bias)?,
        })
    }

    /// Each tensor must have been used, or be of no use.
    fn finish(&self) -> Result<(), LoadError> {
        let suffixes = self.spec.names.ignored_suffixes;
        let ignored = |name: &str| suffixes.iter().any(|suffix| name.ends_with(suffix));
        self.tensors.finish(self.spec.architecture, ignored)
    }

    fn global(&self, module: &str) -> String {
        format!("{}{module}", self.prefix)
    }

    fn norm(&mut self, module: String) -> Result<NormWeights, LoadError> {
        let width = self.spec.hidden_size;
        Ok(match self.spec.norm.kind {
            NormKind::Rms => NormWeights {
                weight: self.tensors.vector(format!("{module}.weight"), width)?,
                bias: None,
            },
            NormKind::Layer => NormWeights {
                weight: self.tensors.vector(format!("{module}.weight"), width)?,
                bias: Some(self.tensors.vector(format!("{module}.bias"), width)?),
            },
            NormKind::PlainLayer => NormWeights {
                weight: VectorWeight::filled(1.0, width),
                bias: Some(VectorWeight::filled(0.0, width)),
            },
        })
    }
}

fn describe_unexpected(tensors: &[String], architecture: &str) -> String {
    const SHOWN: usize = 4;
    let shown =
        tensors.iter().take(SHOWN).map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    let rest = match tensors.len().saturating_sub(SHOWN) {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    };
    format!(
        "the checkpoint has tensors that {architecture} as its config.json describes it does \
         not use: {shown}{rest}; the two are not from one model"
    )
}
