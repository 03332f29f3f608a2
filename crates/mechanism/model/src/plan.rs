//! How much memory a model takes and how much context it gets, by arithmetic alone.

use std::fmt;
use std::path::Path;

use tyndall_kernels::{DType, GroupedType};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::quantized::type_of;
use crate::spec::{ModelSpec, Positions};

/// Tokens per KV block. The CPU kernels prefer multiples of 32.
pub const BLOCK_SIZE: u32 = 32;

/// Without a stated budget: of the available memory, this share; a machine has other tenants.
pub(crate) const BUDGET_PERCENT: u64 = 80;
/// Without a stated budget: the KV cache gets at most this share of it, unless one sequence needs
/// more. Untouched blocks cost nothing, but touched ones are not given back.
const KV_PERCENT: u64 = 50;

/// Rows of logits in a step besides one per sequence: those of tokens tried in advance.
pub const MAX_DRAFT_ROWS: u32 = 32;

/// What a deployment asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanRequest {
    /// Context in tokens; absent is all that the model allows.
    pub max_model_len: Option<u32>,
    /// For weights, activations and KV cache together; absent is a share of `available_bytes`.
    pub memory_budget_bytes: Option<u64>,
    /// What the machine or the container has to offer.
    pub available_bytes: u64,
    /// Sequences in a step.
    pub max_num_seqs: u32,
    /// Tokens in a step.
    pub max_num_batched_tokens: u32,
    /// Weights are rounded to this type, or used as they are.
    pub quantization: Option<GroupedType>,
}

/// Where a model's memory goes. Its `Display` is a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weight files, mapped; replicas of one machine share them. Of quantized weights, the rounded
    /// ones and what is used beside them.
    pub weights_bytes: u64,
    /// What the weights are rounded to.
    pub quantization: Option<GroupedType>,
    /// Scratch of a step.
    pub activation_bytes: u64,
    /// Element type of keys and values.
    pub kv_dtype: DType,
    /// Keys and values of one token over all layers.
    pub kv_bytes_per_token: u64,
    /// Tokens per block.
    pub block_size: u32,
    /// Blocks of the KV cache.
    pub num_kv_blocks: u32,
    /// All blocks.
    pub kv_cache_bytes: u64,
    /// Context, in tokens.
    pub max_model_len: u32,
    /// Sequences in a step.
    pub max_num_seqs: u32,
    /// Tokens in a step.
    pub max_num_batched_tokens: u32,
    /// What all of it may take.
    pub budget_bytes: u64,
}

/// Why a model cannot be served in this memory.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The weight files are absent or damaged.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// More context than the model was made for.
    #[error("--max-model-len {asked} is too long: the model allows at most {limit} tokens")]
    TooLong {
        /// As asked.
        asked: u32,
        /// The model's own.
        limit: u32,
    },
    /// A limit of zero serves nothing.
    #[error("{name} is 0; it must be at least 1")]
    Zero {
        /// Which.
        name: &'static str,
    },
    /// Only models that write text are rounded.
    #[error("weights of models that write no text are used as they are: leave --quantization out")]
    NotQuantized,
    /// Not even one sequence fits.
    #[error("{0}")]
    DoesNotFit(Misfit),
    /// Not even one text of an encoder fits.
    #[error(
        "the model does not fit: weights {} + activations for one text of {max_len} tokens {}, but \
         the budget is {}; {}",
        Bytes(*.weights_bytes), Bytes(*.activation_bytes), Bytes(*.budget_bytes),
        describe_fitting(*.fitting_len)
    )]
    EncoderDoesNotFit {
        /// Weight files.
        weights_bytes: u64,
        /// Scratch of a step of one text.
        activation_bytes: u64,
        /// Tokens of a text.
        max_len: u32,
        /// The longest text that would fit, in tokens; 0 if none.
        fitting_len: u32,
        /// What all of it may take.
        budget_bytes: u64,
    },
}

/// The numbers of a model that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Misfit {
    /// Weight files.
    pub weights_bytes: u64,
    /// Scratch of a step.
    pub activation_bytes: u64,
    /// Keys and values of one sequence of `max_model_len`.
    pub kv_bytes: u64,
    /// Context asked for, in tokens.
    pub max_model_len: u32,
    /// The longest context that would fit, in tokens; 0 if none.
    pub fitting_len: u32,
    /// What all of it may take.
    pub budget_bytes: u64,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fixed = self.weights_bytes.saturating_add(self.activation_bytes);
        let required = fixed.saturating_add(self.kv_bytes);
        write!(
            f,
            "the model does not fit: weights {} + activations {} + KV cache for one \
             sequence of {} tokens {} = {}, but the budget is {}; ",
            Bytes(self.weights_bytes),
            Bytes(self.activation_bytes),
            self.max_model_len,
            Bytes(self.kv_bytes),
            Bytes(required),
            Bytes(self.budget_bytes)
        )?;
        let more = Bytes(required.saturating_sub(self.budget_bytes));
        match self.fitting_len {
            0 => write!(f, "it needs {more} more: choose a smaller model or a larger budget"),
            length => write!(f, "--max-model-len {length} would fit, or {more} more memory"),
        }
    }
}

/// Divides memory between weights, activations and KV cache. Reads the headers of the weight files
/// and no weight.
///
/// The KV cache gets what is left, but no more than `max_num_seqs` sequences of `max_model_len` can
/// use, and without a stated budget no more than half of it.
///
/// # Errors
/// [`PlanError`]; a model that does not fit is refused with the numbers and what would fit.
pub fn plan(dir: &Path, spec: &ModelSpec, request: &PlanRequest) -> Result<MemoryPlan, PlanError> {
    let checkpoint = Checkpoint::open(dir)?;
    let kv_dtype = checkpoint.main_dtype().unwrap_or(DType::F32);
    let weights_bytes = match request.quantization {
        None => checkpoint.file_bytes(),
        Some(grouped) => quantized_bytes(spec, &checkpoint, grouped, kv_dtype),
    };
    divide(spec, request, weights_bytes, kv_dtype)
}

/// The rounded matrices; the tables of which rows are looked up, in their own type; the vectors.
fn quantized_bytes(
    spec: &ModelSpec,
    checkpoint: &Checkpoint,
    asked: GroupedType,
    main_dtype: DType,
) -> u64 {
    let matrix = |rows, cols, is_head| {
        // Beyond the address space, nothing fits anyway.
        type_of(asked, is_head).matrix_bytes(rows, cols).map_or(u64::MAX, |bytes| bytes as u64)
    };
    let (hidden, inner) = (spec.hidden_size, spec.embedding_size);
    let mut bytes = vec![matrix(spec.vocab_size, inner, true)];
    if inner != hidden {
        bytes.extend([matrix(hidden, inner, false), matrix(inner, hidden, false)]);
    }
    for layer in &spec.layers {
        let attention = &layer.attention;
        let queries = attention.num_heads * attention.head_dim;
        let keys = attention.num_kv_heads * attention.head_dim;
        let width = layer.mlp.intermediate_size;
        let ups = 1 + usize::from(layer.mlp.gated);
        bytes.extend([matrix(queries, hidden, false), matrix(hidden, queries, false)]);
        bytes.extend([matrix(keys, hidden, false); 2]);
        bytes.extend(std::iter::repeat_n(matrix(width, hidden, false), ups));
        bytes.push(matrix(hidden, width, false));
    }
    let positions = match spec.positions {
        Positions::Learned { rows, .. } => rows * hidden,
        Positions::Rope(_) => 0,
    };
    bytes.push(((spec.vocab_size * inner + positions) * main_dtype.size_bytes()) as u64);
    bytes.push(checkpoint.vector_bytes());
    bytes.into_iter().fold(0, u64::saturating_add)
}

fn divide(
    spec: &ModelSpec,
    request: &PlanRequest,
    weights_bytes: u64,
    kv_dtype: DType,
) -> Result<MemoryPlan, PlanError> {
    let max_model_len = request.max_model_len.unwrap_or(spec.max_model_len);
    for (name, value) in [
        ("max_model_len", max_model_len),
        ("max_num_seqs", request.max_num_seqs),
        ("max_num_batched_tokens", request.max_num_batched_tokens),
    ] {
        if value == 0 {
            return Err(PlanError::Zero { name });
        }
    }
    if max_model_len > spec.max_model_len {
        return Err(PlanError::TooLong { asked: max_model_len, limit: spec.max_model_len });
    }
    let budget_bytes =
        request.memory_budget_bytes.unwrap_or(request.available_bytes / 100 * BUDGET_PERCENT);
    let activation_bytes = activation_bytes(spec, request);
    let kv_bytes_per_token = (spec.kv_elements_per_token() * kv_dtype.size_bytes()) as u64;
    let block_bytes = kv_bytes_per_token * u64::from(BLOCK_SIZE);
    let left = budget_bytes.saturating_sub(weights_bytes.saturating_add(activation_bytes));
    let affordable = left / block_bytes;
    let one = u64::from(max_model_len.div_ceil(BLOCK_SIZE));
    if affordable < one {
        return Err(PlanError::DoesNotFit(Misfit {
            weights_bytes,
            activation_bytes,
            kv_bytes: one.saturating_mul(block_bytes),
            max_model_len,
            fitting_len: (affordable * u64::from(BLOCK_SIZE)) as u32,
            budget_bytes,
        }));
    }
    let share = match request.memory_budget_bytes {
        Some(_) => affordable,
        None => (budget_bytes / 100 * KV_PERCENT / block_bytes).max(one),
    };
    let usable = one * u64::from(request.max_num_seqs);
    // Slots, which number all cached tokens, are u32.
    let addressable = u64::from(u32::MAX / BLOCK_SIZE);
    let num_kv_blocks = affordable.min(share).min(usable).min(addressable);
    Ok(MemoryPlan {
        weights_bytes,
        quantization: request.quantization,
        activation_bytes,
        kv_dtype,
        kv_bytes_per_token,
        block_size: BLOCK_SIZE,
        num_kv_blocks: num_kv_blocks as u32,
        kv_cache_bytes: num_kv_blocks * block_bytes,
        max_model_len,
        max_num_seqs: request.max_num_seqs,
        max_num_batched_tokens: request.max_num_batched_tokens,
        budget_bytes,
    })
}

/// The buffers of `Scratch`, the kernels' copy of a linear's input, and the logits.
fn activation_bytes(spec: &ModelSpec, request: &PlanRequest) -> u64 {
    let widest = |width: fn(&crate::spec::LayerSpec) -> usize| spec.layers.iter().map(width).max();
    let queries = widest(|layer| layer.attention.num_heads * layer.attention.head_dim).unwrap_or(0);
    let keys = widest(|layer| layer.attention.num_kv_heads * layer.attention.head_dim).unwrap_or(0);
    let inner = widest(|layer| layer.mlp.intermediate_size).unwrap_or(0);
    let input = inner.max(queries).max(spec.hidden_size);
    let per_token =
        2 * spec.hidden_size + 2 * queries + 2 * keys + inner + input + spec.embedding_size;
    let per_row = spec.hidden_size + spec.embedding_size + spec.vocab_size;
    let tokens = u64::from(request.max_num_batched_tokens) * per_token as u64;
    let sequences = request.max_num_seqs.min(request.max_num_batched_tokens);
    let rows = u64::from(sequences.saturating_add(MAX_DRAFT_ROWS)) * per_row as u64;
    (tokens + rows) * size_of::<f32>() as u64
}

impl MemoryPlan {
    /// Weights, activations and KV cache.
    pub fn total_bytes(&self) -> u64 {
        self.weights_bytes + self.activation_bytes + self.kv_cache_bytes
    }

    /// How many sequences of `length` tokens can run at once.
    pub fn max_sequences(&self, length: u32) -> u32 {
        let blocks = length.div_ceil(self.block_size).max(1);
        (self.num_kv_blocks / blocks).min(self.max_num_seqs)
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, bytes: u64, note: String| {
            writeln!(f, "{name:<14}{:>11}  {note}", Bytes(bytes).to_string())
        };
        row(
            "weights",
            self.weights_bytes,
            match self.quantization {
                None => "mapped from the checkpoint, shared by replicas".into(),
                Some(grouped) => format!(
                    "{} in groups of 32, kept beside the checkpoint, shared by replicas",
                    grouped_name(grouped)
                ),
            },
        )?;
        row(
            "activations",
            self.activation_bytes,
            format!("{} tokens per step", self.max_num_batched_tokens),
        )?;
        let note = format!(
            "{} blocks of {} tokens, {} per token ({})",
            self.num_kv_blocks,
            self.block_size,
            Bytes(self.kv_bytes_per_token),
            dtype_name(self.kv_dtype)
        );
        row("KV cache", self.kv_cache_bytes, note)?;
        row("total", self.total_bytes(), format!("of {} budget", Bytes(self.budget_bytes)))?;
        let mut lengths = vec![self.max_model_len];
        while lengths.len() < 3 && lengths[lengths.len() - 1] >= 4 * self.block_size {
            lengths.push(lengths[lengths.len() - 1] / 4);
        }
        let fits = |&length: &u32| format!("{} of {length} tokens", self.max_sequences(length));
        let fits: Vec<String> = lengths.iter().map(fits).collect();
        write!(f, "{:<14}{}", "sequences", fits.join(", or "))
    }
}

fn describe_fitting(length: u32) -> String {
    match length {
        0 => "choose a smaller model or a larger budget".to_owned(),
        length => format!("--max-model-len {length} would fit"),
    }
}

fn grouped_name(grouped: GroupedType) -> &'static str {
    match grouped {
        GroupedType::Int8 => "int8",
        GroupedType::Int4 => "int4, the head int8,",
    }
}

fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::F16 => "f16",
        DType::BF16 => "bf16",
    }
}

/// A size with a binary unit and one decimal.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["KiB", "MiB", "GiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < units.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", units[unit])
    }
}

#[cfg(test)]
mod tests;
