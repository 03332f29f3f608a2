//! What the families call their tensors.

/// Tensor names of a family. Layer names follow `{prefix}layers.{index}.`; modules get `.weight`
/// and, where the spec says so, `.bias`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NameMap {
    /// Stands before every name but the head's; checkpoints differ, the first that fits counts.
    pub(crate) prefixes: &'static [&'static str],
    pub(crate) embedding: &'static str,
    pub(crate) positions: &'static str,
    pub(crate) project_in: &'static str,
    pub(crate) project_out: &'static str,
    pub(crate) final_norm: &'static str,
    pub(crate) head: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) query: &'static str,
    pub(crate) key: &'static str,
    pub(crate) value: &'static str,
    pub(crate) output: &'static str,
    pub(crate) query_norm: &'static str,
    pub(crate) key_norm: &'static str,
    pub(crate) mlp_norm: &'static str,
    /// Only where the feed-forward part is gated.
    pub(crate) gate: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    /// Names that end so hold nothing the decoder needs.
    pub(crate) ignored_suffixes: &'static [&'static str],
}

/// Llama and everything that was named after it.
pub(super) const LLAMA: NameMap = NameMap {
    prefixes: &["model.", ""],
    embedding: "embed_tokens",
    positions: "",
    project_in: "",
    project_out: "",
    final_norm: "norm",
    head: "lm_head",
    attention_norm: "input_layernorm",
    query: "self_attn.q_proj",
    key: "self_attn.k_proj",
    value: "self_attn.v_proj",
    output: "self_attn.o_proj",
    query_norm: "self_attn.q_norm",
    key_norm: "self_attn.k_norm",
    mlp_norm: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    // Old checkpoints store the rotation's frequencies, which follow from the config.
    ignored_suffixes: &["rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached"],
};

pub(super) const OPT: NameMap = NameMap {
    prefixes: &["model.decoder.", "decoder.", ""],
    embedding: "embed_tokens",
    positions: "embed_positions",
    project_in: "project_in",
    project_out: "project_out",
    final_norm: "final_layer_norm",
    head: "lm_head",
    attention_norm: "self_attn_layer_norm",
    query: "self_attn.q_proj",
    key: "self_attn.k_proj",
    value: "self_attn.v_proj",
    output: "self_attn.out_proj",
    query_norm: "",
    key_norm: "",
    mlp_norm: "final_layer_norm",
    gate: "",
    up: "fc1",
    down: "fc2",
    // Leftovers of the conversion from fairseq.
    ignored_suffixes: &["decoder.version", "embed_positions._float_tensor"],
};
