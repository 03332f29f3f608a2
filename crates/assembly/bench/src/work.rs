//! How much a step reads and computes, from the model's shapes: what the roofline is divided by.

use tyndall_model::{MemoryPlan, ModelSpec};

/// Bytes and operations of a model's parts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Work {
    /// Bytes of weights that every step reads, whatever its batch.
    pub(crate) weights_bytes: f64,
    /// Bytes of keys and values per token of context.
    kv_bytes: f64,
    /// Operations of the layers' matrices per token.
    layers_ops: f64,
    /// Operations of the head per row that samples.
    head_ops: f64,
    /// Operations of attention per token and token of its context.
    attention_ops: f64,
}

impl Work {
    /// Of a model as it is planned. The rows of an embedding that is not the head too are looked
    /// up, not read.
    pub(crate) fn of(spec: &ModelSpec, plan: &MemoryPlan) -> Self {
        let hidden = spec.hidden_size as f64;
        let table = (spec.vocab_size * spec.embedding_size) as f64;
        let (mut layers, mut attention) = (0.0, 0.0);
        for layer in &spec.layers {
            let of = &layer.attention;
            let (heads, dim) = (of.num_heads as f64, of.head_dim as f64);
            layers += hidden * dim * (2.0 * heads + 2.0 * of.num_kv_heads as f64);
            let matrices = if layer.mlp.gated { 3.0 } else { 2.0 };
            layers += matrices * hidden * layer.mlp.intermediate_size as f64;
            // Scores and their sum: one multiply-add each per head and dimension.
            attention += 4.0 * heads * dim;
        }
        let parameters = layers + table * if spec.tied_head { 1.0 } else { 2.0 };
        let weights = plan.weights_bytes as f64;
        let looked_up = match plan.quantization {
            // Rows keep their own type beside the rounded head.
            Some(_) => table * plan.kv_dtype.size_bytes() as f64,
            None if spec.tied_head => 0.0,
            None => weights * table / parameters,
        };
        Self {
            weights_bytes: weights - looked_up,
            kv_bytes: plan.kv_bytes_per_token as f64,
            layers_ops: 2.0 * layers,
            head_ops: 2.0 * table,
            attention_ops: attention,
        }
    }

    /// Operations of a prompt of `tokens`; the head runs for its last token alone.
    pub(crate) fn prefill_ops(&self, tokens: f64) -> f64 {
        let pairs = tokens * (tokens + 1.0) / 2.0;
        self.layers_ops * tokens + self.head_ops + self.attention_ops * pairs
    }

    /// Operations of a decoded token with so much context.
    pub(crate) fn decode_ops(&self, context: f64) -> f64 {
        self.layers_ops + self.head_ops + self.attention_ops * context
    }

    /// Bytes that a step of decoding reads for `batch` sequences with so much context each.
    pub(crate) fn decode_bytes(&self, batch: f64, context: f64) -> f64 {
        self.weights_bytes + batch * context * self.kv_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_reads_the_weights_once_and_computes_per_token() {
        let work = Work {
            weights_bytes: 100.0,
            kv_bytes: 2.0,
            layers_ops: 10.0,
            head_ops: 5.0,
            attention_ops: 1.0,
        };
        assert!((work.prefill_ops(3.0) - (30.0 + 5.0 + 6.0)).abs() < 1e-9);
        assert!((work.decode_ops(7.0) - 22.0).abs() < 1e-9);
        assert!((work.decode_bytes(4.0, 10.0) - 180.0).abs() < 1e-9);
    }
}
