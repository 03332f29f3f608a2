//! What the encoder families call their tensors.

/// Tensor names of a family. Those of a layer follow `{prefix}{layers}.{index}.`; modules get
/// `.weight` and `.bias`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EncoderNames {
    /// Stands before every name but the classifier's; checkpoints differ, the first that fits counts.
    pub(super) prefixes: &'static [&'static str],
    pub(super) words: &'static str,
    pub(super) positions: &'static str,
    /// Only where tokens have types.
    pub(super) types: &'static str,
    pub(super) embedding_norm: &'static str,
    pub(super) layers: &'static str,
    pub(super) query: &'static str,
    pub(super) key: &'static str,
    pub(super) value: &'static str,
    pub(super) output: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    pub(super) mlp_norm: &'static str,
    /// The layer before the classifier: whether the prefix stands before it, and its name.
    pub(super) pre_classifier: (bool, &'static str),
    pub(super) classifier: &'static str,
}

/// BERT and RoBERTa name all but their heads alike.
const LIKE_BERT: EncoderNames = EncoderNames {
    prefixes: &[""],
    words: "embeddings.word_embeddings",
    positions: "embeddings.position_embeddings",
    types: "embeddings.token_type_embeddings",
    embedding_norm: "embeddings.LayerNorm",
    layers: "encoder.layer",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    mlp_norm: "output.LayerNorm",
    pre_classifier: (true, "pooler.dense"),
    classifier: "classifier",
};

pub(super) const BERT: EncoderNames = EncoderNames { prefixes: &["", "bert."], ..LIKE_BERT };

pub(super) const ROBERTA: EncoderNames = EncoderNames {
    prefixes: &["", "roberta."],
    pre_classifier: (false, "classifier.dense"),
    classifier: "classifier.out_proj",
    ..LIKE_BERT
};

pub(super) const DISTILBERT: EncoderNames = EncoderNames {
    prefixes: &["", "distilbert."],
    types: "",
    layers: "transformer.layer",
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    mlp_norm: "output_layer_norm",
    pre_classifier: (false, "pre_classifier"),
    ..LIKE_BERT
};

/// Heads for other tasks, and buffers that follow from the config.
const UNUSED: [&str; 10] = [
    "pooler.",
    "cls.",
    "lm_head.",
    "classifier.",
    "pre_classifier.",
    "qa_outputs.",
    "vocab_transform.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "embeddings.position_ids",
];

/// Whether a tensor may be left over: what is not a part of the encoder, and its classifier has its
/// place already where it is used.
pub(super) fn is_unused(prefix: &str, name: &str) -> bool {
    let name = name.strip_prefix(prefix).unwrap_or(name);
    UNUSED.iter().any(|unused| name.starts_with(unused))
}
