//! The supported families: how each spells its facts in `config.json`.

use tyndall_kernels::{Activation, DType};

use super::names::{LLAMA, NameMap, OPT};
use super::{
    AttentionSpec, Declared, Fields, LayerSpec, MlpSpec, ModelSpec, NormKind, NormSpec, Positions,
    SpecError, rope, scale_length,
};
use crate::encoder::EncoderSpec;

// Far above any model; with them no product of two sizes overflows.
pub(crate) const MAX_VOCAB: usize = 1 << 24;
pub(crate) const MAX_WIDTH: usize = 1 << 20;
pub(crate) const MAX_LAYERS: usize = 1 << 12;
pub(crate) const MAX_HEADS: usize = 1 << 12;
const MAX_HEAD_DIM: usize = 1 << 12;
pub(crate) const MAX_LENGTH: usize = 1 << 28;

/// Where `sliding_window` is absent; `null` is none.
const DEFAULT_WINDOW: u32 = 4096;

/// A family is an entry of [`FAMILIES`].
pub(super) struct Family {
    pub(super) architecture: &'static str,
    /// Stands in where a config has no `architectures`.
    model_type: &'static str,
    names: &'static NameMap,
    kind: Kind,
}

enum Kind {
    Opt,
    Gated(Gated),
}

/// What distinguishes the descendants of Llama.
struct Gated {
    /// Used where `head_dim` is absent; else `hidden_size / num_attention_heads`.
    default_head_dim: Option<usize>,
    /// Used where `num_key_value_heads` is absent (`null` is always: as many as query heads).
    default_kv_heads: Option<usize>,
    bias: AttentionBias,
    mlp_bias: bool,
    qk_norm: bool,
    window: Window,
}

enum AttentionBias {
    Never,
    /// On queries, keys and values, not on the output.
    Qkv,
    /// On all four, where `attention_bias` says so.
    Configured,
}

enum Window {
    Never,
    /// `sliding_window` holds for all layers.
    All,
    /// `use_sliding_window` and `max_window_layers`, or `layer_types`.
    Upper,
}

const LLAMA_LIKE: Gated = Gated {
    default_head_dim: None,
    default_kv_heads: None,
    bias: AttentionBias::Configured,
    mlp_bias: true,
    qk_norm: false,
    window: Window::Never,
};

pub(super) const FAMILIES: &[Family] = &[
    Family { architecture: "OPTForCausalLM", model_type: "opt", names: &OPT, kind: Kind::Opt },
    Family {
        architecture: "LlamaForCausalLM",
        model_type: "llama",
        names: &LLAMA,
        kind: Kind::Gated(LLAMA_LIKE),
    },
    Family {
        architecture: "MistralForCausalLM",
        model_type: "mistral",
        names: &LLAMA,
        kind: Kind::Gated(Gated {
            default_kv_heads: Some(8),
            bias: AttentionBias::Never,
            mlp_bias: false,
            window: Window::All,
            ..LLAMA_LIKE
        }),
    },
    Family {
        architecture: "Qwen2ForCausalLM",
        model_type: "qwen2",
        names: &LLAMA,
        kind: Kind::Gated(Gated {
            default_kv_heads: Some(32),
            bias: AttentionBias::Qkv,
            mlp_bias: false,
            window: Window::Upper,
            ..LLAMA_LIKE
        }),
    },
    Family {
        architecture: "Qwen3ForCausalLM",
        model_type: "qwen3",
        names: &LLAMA,
        kind: Kind::Gated(Gated {
            default_head_dim: Some(128),
            default_kv_heads: Some(32),
            mlp_bias: false,
            qk_norm: true,
            window: Window::Upper,
            ..LLAMA_LIKE
        }),
    },
];

/// Whether a decoder family reads the config.
pub(super) fn supports(declared: &Declared<'_>) -> bool {
    FAMILIES.iter().any(|family| declared.is(family.architecture, family.model_type))
}

/// Chooses the family and lets it read the config.
pub(super) fn read(config: &Fields<'_>) -> Result<ModelSpec, SpecError> {
    let family = find(config)?;
    if let Some(quantization) = config.nested("quantization_config")? {
        let method = quantization.text("quant_method")?.unwrap_or("unnamed");
        return Err(config.unsupported("quantization_config", method, "f32, f16 and bf16 weights"));
    }
    let spec = match &family.kind {
        Kind::Opt => read_opt(config, family)?,
        Kind::Gated(gated) => read_gated(config, family, gated)?,
    };
    Ok(spec)
}

fn find(config: &Fields<'_>) -> Result<&'static Family, SpecError> {
    let declared = Declared::read(config)?;
    let fits = |family: &&Family| declared.is(family.architecture, family.model_type);
    FAMILIES.iter().find(fits).ok_or_else(|| {
        let found = declared.name().to_owned();
        match EncoderSpec::supports(&declared) {
            true => SpecError::OtherKind { found, does: "reads text and writes none" },
            false => SpecError::UnsupportedArchitecture { found },
        }
    })
}

fn read_opt(config: &Fields<'_>, family: &Family) -> Result<ModelSpec, SpecError> {
    let hidden_size = config.required_count("hidden_size", MAX_WIDTH)?;
    let num_heads = config.required_count("num_attention_heads", MAX_HEADS)?;
    let bias = config.flag("enable_bias", true)?;
    let affine = config.flag("layer_norm_elementwise_affine", true)?;
    let pre = config.flag("do_layer_norm_before", true)?;
    let length = config.required_count("max_position_embeddings", MAX_LENGTH)?;
    let offset = 2;
    let layer = LayerSpec {
        attention: AttentionSpec {
            num_heads,
            num_kv_heads: num_heads,
            head_dim: divide_heads(config, hidden_size, num_heads)?,
            qkv_bias: bias,
            output_bias: bias,
            qk_norm: false,
            window: None,
        },
        mlp: MlpSpec {
            intermediate_size: config.required_count("ffn_dim", MAX_WIDTH)?,
            gated: false,
            activation: read_activation(config, "activation_function", "relu")?,
            bias,
        },
    };
    Ok(ModelSpec {
        architecture: family.architecture,
        vocab_size: config.required_count("vocab_size", MAX_VOCAB)?,
        hidden_size,
        embedding_size: config.count("word_embed_proj_dim", MAX_WIDTH)?.unwrap_or(hidden_size),
        declared_dtype: read_dtype(config)?,
        tied_head: config.flag("tie_word_embeddings", true)?,
        positions: Positions::Learned { rows: length + offset, offset },
        norm: NormSpec {
            kind: if affine { NormKind::Layer } else { NormKind::PlainLayer },
            eps: 1e-5,
            post: !pre,
        },
        final_norm: pre && !config.flag("_remove_final_layer_norm", false)?,
        layers: vec![layer; config.required_count("num_hidden_layers", MAX_LAYERS)?],
        max_model_len: length as u32,
        names: family.names,
    })
}

fn read_gated(config: &Fields<'_>, family: &Family, gated: &Gated) -> Result<ModelSpec, SpecError> {
    let hidden_size = config.required_count("hidden_size", MAX_WIDTH)?;
    let (qkv_bias, output_bias) = match gated.bias {
        AttentionBias::Never => (false, false),
        AttentionBias::Qkv => (true, false),
        AttentionBias::Configured => {
            let bias = config.flag("attention_bias", false)?;
            (bias, bias)
        }
    };
    let (num_heads, num_kv_heads, head_dim) = read_heads(config, gated, hidden_size)?;
    let attention = AttentionSpec {
        num_heads,
        num_kv_heads,
        head_dim,
        qkv_bias,
        output_bias,
        qk_norm: gated.qk_norm,
        window: None,
    };
    let mlp = MlpSpec {
        intermediate_size: config.required_count("intermediate_size", MAX_WIDTH)?,
        gated: true,
        activation: read_activation(config, "hidden_act", "silu")?,
        bias: gated.mlp_bias && config.flag("mlp_bias", false)?,
    };
    let num_layers = config.required_count("num_hidden_layers", MAX_LAYERS)?;
    let windows = read_windows(config, &gated.window, num_layers)?;
    let with_window = |window| LayerSpec { attention: AttentionSpec { window, ..attention }, mlp };
    let positions = Positions::Rope(rope::read(config)?);
    Ok(ModelSpec {
        architecture: family.architecture,
        vocab_size: config.required_count("vocab_size", MAX_VOCAB)?,
        hidden_size,
        embedding_size: hidden_size,
        declared_dtype: read_dtype(config)?,
        tied_head: config.flag("tie_word_embeddings", false)?,
        positions,
        norm: NormSpec {
            kind: NormKind::Rms,
            eps: config.positive("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            post: false,
        },
        final_norm: true,
        layers: windows.into_iter().map(with_window).collect(),
        max_model_len: read_length(config, positions)?,
        names: family.names,
    })
}

/// Query heads, key-value heads, head size.
fn read_heads(
    config: &Fields<'_>,
    gated: &Gated,
    hidden_size: usize,
) -> Result<(usize, usize, usize), SpecError> {
    let num_heads = config.required_count("num_attention_heads", MAX_HEADS)?;
    let key = "num_key_value_heads";
    let num_kv_heads = match config.count(key, MAX_HEADS)? {
        Some(heads) => heads,
        None if config.mentions(key) => num_heads,
        None => gated.default_kv_heads.unwrap_or(num_heads),
    };
    if !num_heads.is_multiple_of(num_kv_heads) {
        let expected = format!("a divisor of 'num_attention_heads' ({num_heads})");
        return Err(config.invalid(key, num_kv_heads, &expected));
    }
    let head_dim = match (config.count("head_dim", MAX_HEAD_DIM)?, gated.default_head_dim) {
        (Some(head_dim), _) => head_dim,
        (None, Some(head_dim)) if !config.mentions("head_dim") => head_dim,
        (None, _) => divide_heads(config, hidden_size, num_heads)?,
    };
    if !head_dim.is_multiple_of(2) {
        return Err(config.invalid("head_dim", head_dim, "even, since rope rotates pairs"));
    }
    Ok((num_heads, num_kv_heads, head_dim))
}

pub(crate) fn divide_heads(
    config: &Fields<'_>,
    hidden: usize,
    heads: usize,
) -> Result<usize, SpecError> {
    if !hidden.is_multiple_of(heads) {
        let expected = format!("a multiple of 'num_attention_heads' ({heads})");
        return Err(config.invalid("hidden_size", hidden, &expected));
    }
    let head_dim = hidden / heads;
    if head_dim > MAX_HEAD_DIM {
        let expected = format!("at most {MAX_HEAD_DIM} times 'num_attention_heads' ({heads})");
        return Err(config.invalid("hidden_size", hidden, &expected));
    }
    Ok(head_dim)
}

fn read_windows(
    config: &Fields<'_>,
    rule: &Window,
    num_layers: usize,
) -> Result<Vec<Option<u32>>, SpecError> {
    let key = "sliding_window";
    let size = match config.count(key, MAX_LENGTH)? {
        Some(size) => Some(size as u32),
        None if config.mentions(key) => None,
        None => Some(DEFAULT_WINDOW),
    };
    match rule {
        Window::Never => Ok(vec![None; num_layers]),
        Window::All => Ok(vec![size; num_layers]),
        Window::Upper => {
            // Files mention a size even where the switch is off.
            let size = if config.flag("use_sliding_window", false)? { size } else { None };
            if let Some(types) = config.get("layer_types") {
                return read_layer_types(config, types, size, num_layers);
            }
            let key = "max_window_layers";
            // 0 is a legal value here: every layer has the window.
            let first = match config.number(key)? {
                Some(0.0) => 0,
                _ => config.count(key, MAX_LENGTH)?.unwrap_or(28),
            };
            Ok((0..num_layers).map(|layer| size.filter(|_| layer >= first)).collect())
        }
    }
}

fn read_layer_types(
    config: &Fields<'_>,
    types: &serde_json::Value,
    window: Option<u32>,
    num_layers: usize,
) -> Result<Vec<Option<u32>>, SpecError> {
    let key = "layer_types";
    let list = types.as_array().filter(|list| list.len() == num_layers);
    let list = list.ok_or_else(|| {
        config.invalid(
            key,
            types,
            &format!("a list with one entry for each of the {num_layers} layers"),
        )
    })?;
    let window_of = |kind: &serde_json::Value| match kind.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") if window.is_some() => Ok(window),
        Some("sliding_attention") => Err(config.invalid(
            key,
            "sliding_attention without a window",
            "accompanied by 'use_sliding_window' and 'sliding_window'",
        )),
        _ => Err(config.unsupported(key, kind, "full_attention, sliding_attention")),
    };
    list.iter().map(window_of).collect()
}

/// The longest context by the keys that configs use for it.
fn read_length(config: &Fields<'_>, positions: Positions) -> Result<u32, SpecError> {
    let keys = [
        "max_position_embeddings",
        "n_positions",
        "max_seq_len",
        "seq_length",
        "model_max_length",
        "max_sequence_length",
        "max_seq_length",
        "seq_len",
    ];
    let mut shortest: Option<usize> = None;
    for key in keys {
        if let Some(length) = config.count(key, MAX_LENGTH)? {
            shortest = Some(shortest.map_or(length, |other| other.min(length)));
        }
    }
    Ok(scale_length(shortest.unwrap_or(2048), positions))
}

pub(crate) fn read_activation(
    config: &Fields<'_>,
    key: &str,
    default: &str,
) -> Result<Activation, SpecError> {
    let name = config.text(key)?.unwrap_or(default);
    match name {
        "relu" => Ok(Activation::Relu),
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
        other => Err(config.unsupported(
            key,
            other,
            "relu, silu, swish, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast",
        )),
    }
}

fn read_dtype(config: &Fields<'_>) -> Result<Option<DType>, SpecError> {
    let key = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    match config.text(key)?.map(|name| name.trim_start_matches("torch.")) {
        None => Ok(None),
        Some("float32") => Ok(Some(DType::F32)),
        Some("float16" | "half") => Ok(Some(DType::F16)),
        Some("bfloat16") => Ok(Some(DType::BF16)),
        Some(other) => Err(config.unsupported(key, other, "float32, float16, bfloat16")),
    }
}
