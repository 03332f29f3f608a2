//! A loaded model: the forward pass.
//!
//! One generic decoder runs every family. The residual stream is f32, keys and values go through
//! the paged cache also within a step, and every row is computed in the same order of operations
//! whatever else is in the batch; so a sequence's bits depend on nothing but its own tokens.
//!
//! Shapes: `T` tokens of the step, `E` width of the stream, `H` query heads, `D` head size.

use std::path::Path;
use std::sync::Arc;

use tyndall_kernels::{
    AttentionArgs, Cpu, Floats, KernelError, LinearJob, Sight, Vector, Weight, Write,
};

use crate::batch::{Job, Runner, StepBatch, StepError};
use crate::checkpoint::Checkpoint;
use crate::kv_cache::KvCache;
use crate::plan::MemoryPlan;
use crate::prefault::Prefault;
use crate::prepare::{Limits, Prepared};
use crate::quantized::{self, QuantizeOptions};
use crate::rope::RopeTable;
use crate::spec::{LayerSpec, ModelSpec, NormKind, NormSpec, Positions};
use crate::weights::{LayerWeights, LinearWeights, LoadError, NormWeights, Weights};

/// A model that is ready to run: mapped weights, KV cache, scratch.
pub struct Model {
    spec: ModelSpec,
    weights: Weights,
    cpu: Arc<Cpu>,
    kv: KvCache,
    rope: Option<RopeTable>,
    limits: Limits,
    prepared: Prepared,
    /// Holds no tables between steps, only the room for them.
    block_tables: Vec<&'static [u32]>,
    scratch: Scratch,
}

/// Buffers of a step, reused from step to step.
#[derive(Default)]
struct Scratch {
    /// The residual stream `[T, E]`.
    x: Floats,
    /// Its normalised copy, also the rows for the head.
    normed: Floats,
    /// Embeddings before projection, or after the projection out.
    inner: Floats,
    /// `[T, H, D]`
    q: Floats,
    k: Floats,
    v: Floats,
    attended: Floats,
    /// `[T, intermediate_size]`
    mlp: Floats,
    /// Only where gated projections have biases.
    up: Floats,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Model {
    /// Maps the weights of a checkpoint and reserves the KV cache. No weight is read yet, unless the
    /// plan wants them quantized and nobody has done that before.
    ///
    /// # Errors
    /// [`LoadError`] names the file and the tensor.
    pub fn load(
        dir: &Path,
        spec: ModelSpec,
        plan: &MemoryPlan,
        cpu: Arc<Cpu>,
    ) -> Result<Model, LoadError> {
        let quantize = QuantizeOptions { fallback_dir: None, on_event: &mut |_| {} };
        Model::load_with(dir, spec, plan, cpu, quantize)
    }

    /// [`Model::load`] with a say in where quantized weights are kept.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_with(
        dir: &Path,
        spec: ModelSpec,
        plan: &MemoryPlan,
        cpu: Arc<Cpu>,
        mut quantize: QuantizeOptions<'_>,
    ) -> Result<Model, LoadError> {
        let per_token = (spec.kv_elements_per_token() * plan.kv_dtype.size_bytes()) as u64;
        if per_token != plan.kv_bytes_per_token || plan.max_model_len > spec.max_model_len {
            let reason = format!(
                "it has {} bytes per token for {} tokens, the model {per_token} for {}",
                plan.kv_bytes_per_token, plan.max_model_len, spec.max_model_len
            );
            return Err(LoadError::Plan { reason });
        }
        let checkpoint = Checkpoint::open(dir)?;
        let mut weights = Weights::bind(dir, &spec, &checkpoint)?;
        if let Some(grouped) = plan.quantization {
            let how = (grouped, &*cpu);
            quantized::quantize(dir, &checkpoint, &mut weights, how, &mut quantize)?;
        }
        let kv = KvCache::reserve(&spec, plan)?;
        let rope = match (&spec.positions, spec.layers.first()) {
            (Positions::Rope(rope), Some(layer)) => {
                Some(RopeTable::new(rope, layer.attention.head_dim, plan.max_model_len as usize))
            }
            _ => None,
        };
        let limits = Limits {
            vocab_size: spec.vocab_size,
            max_model_len: plan.max_model_len,
            num_blocks: kv.num_blocks(),
            block_size: kv.block_size(),
        };
        Ok(Model {
            spec,
            weights,
            cpu,
            kv,
            rope,
            limits,
            prepared: Prepared::default(),
            block_tables: Vec::new(),
            scratch: Scratch::default(),
        })
    }

    /// What was loaded.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Starts to touch the weights in the order in which a step uses them, while the caller goes on
    /// with its start-up.
    ///
    /// # Errors
    /// The thread cannot be started; the model works nevertheless.
    pub fn prefault(&self) -> std::io::Result<Prefault> {
        Prefault::start(self.weights.in_order())
    }

    /// Embeddings and positions into the residual stream.
    fn embed(&mut self, tokens: &[u32]) -> Result<(), KernelError> {
        let Model { spec, weights, cpu, prepared, scratch, .. } = self;
        let rows = tokens.len();
        let x = scratch.x.sized(rows * spec.hidden_size);
        match &weights.project_in {
            None => cpu.embed(weights.embedding.view()?, tokens, x)?,
            Some(projection) => {
                let inner = scratch.inner.sized(rows * spec.embedding_size);
                cpu.embed(weights.embedding.view()?, tokens, inner)?;
                let job = LinearJob {
                    weight: projection.view()?,
                    bias: None,
                    out: x,
                    mode: Write::Store,
                };
                cpu.linear(inner, rows, &mut [job])?;
            }
        }
        if let (Some(table), Positions::Learned { offset, .. }) =
            (&weights.positions, spec.positions)
        {
            let added = scratch.normed.sized(rows * spec.hidden_size);
            cpu.embed(table.view_from(offset)?, &prepared.positions, added)?;
            cpu.add(&mut scratch.x, added)?;
        }
        if let Some(rope) = &mut self.rope {
            rope.gather(&prepared.positions, &mut scratch.cos, &mut scratch.sin);
        }
        Ok(())
    }

    fn layer(&mut self, index: usize, block_tables: &[&[u32]]) -> Result<(), KernelError> {
        let Model { spec, weights, cpu, kv, prepared, scratch, rope, .. } = self;
        let mut pass = LayerPass {
            cpu,
            norm: &spec.norm,
            spec: &spec.layers[index],
            weights: &weights.layers[index],
            rows: prepared.positions.len(),
            rotates: rope.is_some(),
        };
        let arguments = AttentionArgs {
            num_heads: pass.spec.attention.num_heads,
            scale: 1.0 / (pass.spec.attention.head_dim as f32).sqrt(),
            sight: pass.spec.attention.window.map_or(Sight::Past, Sight::Window),
            q_starts: &prepared.q_starts,
            context_lens: &prepared.context_lens,
            block_tables,
        };
        pass.project(scratch)?;
        let mut kv = kv.layer(index);
        cpu.store_kv(&mut kv, &scratch.k, &scratch.v, &prepared.slots)?;
        let attended = scratch.attended.sized(scratch.q.len());
        cpu.attention(&arguments, &scratch.q, &kv, attended)?;
        pass.finish_attention(scratch)?;
        pass.feed_forward(scratch)
    }

    /// The wanted rows through final norm, projection and head.
    fn head(&mut self, logits: &mut Vec<f32>) -> Result<(), KernelError> {
        let Model { spec, weights, cpu, prepared, scratch, .. } = self;
        let rows = prepared.logits_rows.len();
        logits.resize(rows * spec.vocab_size, 0.0);
        if rows == 0 {
            return Ok(());
        }
        let width = spec.hidden_size;
        // The stream is not needed any more, so the wanted rows move to its front; they ascend.
        for (to, &from) in prepared.logits_rows.iter().enumerate() {
            let from = from as usize * width;
            scratch.x.copy_within(from..from + width, to * width);
        }
        let Scratch { x, normed, inner, .. } = scratch;
        let mut hidden: &[f32] = &x[..rows * width];
        if let Some(final_norm) = &weights.final_norm {
            normalise(cpu, &spec.norm, final_norm, hidden, normed.sized(rows * width))?;
            hidden = normed;
        }
        if let Some(projection) = &weights.project_out {
            let out = inner.sized(rows * spec.embedding_size);
            let job = LinearJob { weight: projection.view()?, bias: None, out, mode: Write::Store };
            cpu.linear(hidden, rows, &mut [job])?;
            hidden = inner;
        }
        let weight: Weight<'_> = match &weights.head {
            Some(head) => head.view()?,
            None => weights.embedding.view()?.into(),
        };
        let job = LinearJob { weight, bias: None, out: logits, mode: Write::Store };
        cpu.linear(hidden, rows, &mut [job])
    }
}

impl Runner for Model {
    fn vocab_size(&self) -> usize {
        self.spec.vocab_size
    }

    fn step(&mut self, batch: &StepBatch<'_>, logits: &mut Vec<f32>) -> Result<(), StepError> {
        logits.clear();
        self.prepared.fill(batch, &self.limits)?;
        if batch.tokens.is_empty() {
            return Ok(());
        }
        let mut block_tables: Vec<&[u32]> = std::mem::take(&mut self.block_tables);
        block_tables.extend(batch.seqs.iter().map(|seq| seq.block_table));
        let failed = |layer| move |source| StepError::Kernel { layer, source: Box::new(source) };
        let num_layers = self.spec.layers.len();
        self.embed(batch.tokens).map_err(failed(0))?;
        for index in 0..num_layers {
            self.layer(index, &block_tables).map_err(failed(index))?;
        }
        self.block_tables = emptied(block_tables);
        self.head(logits).map_err(failed(num_layers))
    }

    fn num_threads(&self) -> usize {
        self.cpu.threads()
    }

    fn run_jobs(&self, jobs: &mut [Job<'_>]) {
        self.cpu.for_each_mut(jobs, &|job| job());
    }
}

/// One layer of one step.
struct LayerPass<'a> {
    cpu: &'a Cpu,
    norm: &'a NormSpec,
    spec: &'a LayerSpec,
    weights: &'a LayerWeights,
    rows: usize,
    rotates: bool,
}

impl LayerPass<'_> {
    /// Queries, keys and values of the step's tokens.
    fn project(&mut self, scratch: &mut Scratch) -> Result<(), KernelError> {
        let Scratch { x, normed, q, k, v, cos, sin, .. } = scratch;
        let (weights, attention) = (self.weights, &self.spec.attention);
        let input: &[f32] = if self.norm.post {
            x
        } else {
            normalise(self.cpu, self.norm, &weights.attention_norm, x, normed.sized(x.len()))?;
            normed
        };
        let (num_heads, num_kv_heads) = (attention.num_heads, attention.num_kv_heads);
        let q = q.sized(self.rows * num_heads * attention.head_dim);
        let k = k.sized(self.rows * num_kv_heads * attention.head_dim);
        let v = v.sized(self.rows * num_kv_heads * attention.head_dim);
        let mut jobs = [
            job(&weights.query, q, Write::Store)?,
            job(&weights.key, k, Write::Store)?,
            job(&weights.value, v, Write::Store)?,
        ];
        self.cpu.linear(input, self.rows, &mut jobs)?;
        if let Some((query_norm, key_norm)) = &weights.qk_norm {
            self.cpu.rms_norm_in_place(q, query_norm.view(), self.norm.eps)?;
            self.cpu.rms_norm_in_place(k, key_norm.view(), self.norm.eps)?;
        }
        if self.rotates {
            self.cpu.rope(q, num_heads, attention.head_dim, cos, sin)?;
            self.cpu.rope(k, num_kv_heads, attention.head_dim, cos, sin)?;
        }
        Ok(())
    }

    /// The attended values, projected and added to the stream.
    fn finish_attention(&mut self, scratch: &mut Scratch) -> Result<(), KernelError> {
        let Scratch { x, attended, .. } = scratch;
        let job = job(&self.weights.output, x, Write::Add)?;
        self.cpu.linear(attended, self.rows, &mut [job])?;
        self.normalise_after(&self.weights.attention_norm, scratch)
    }

    fn feed_forward(&mut self, scratch: &mut Scratch) -> Result<(), KernelError> {
        let Scratch { x, normed, mlp, up, .. } = scratch;
        let (weights, spec) = (self.weights, &self.spec.mlp);
        let input: &[f32] = if self.norm.post {
            x
        } else {
            normalise(self.cpu, self.norm, &weights.mlp_norm, x, normed.sized(x.len()))?;
            normed
        };
        let len = self.rows * spec.intermediate_size;
        match &weights.gate {
            // What is normalised afterwards is input and output at once.
            Some(gate) if gate.bias.is_none() && !self.norm.post => {
                let gated = (gate.weight.view()?, weights.up.weight.view()?, spec.activation);
                let down = job(&weights.down, x, Write::Add)?;
                return self.cpu.feed_forward((normed, self.rows), gated, mlp, down);
            }
            None => {
                let inner = mlp.sized(len);
                self.cpu.linear(input, self.rows, &mut [job(&weights.up, inner, Write::Store)?])?;
                self.cpu.activation(spec.activation, inner);
            }
            Some(gate) if gate.bias.is_none() => {
                let (gate, up) = (gate.weight.view()?, weights.up.weight.view()?);
                let inner = mlp.sized(len);
                self.cpu.gated_linear(input, self.rows, gate, up, spec.activation, inner)?;
            }
            Some(biased) => {
                let (inner, up) = (mlp.sized(len), up.sized(len));
                let mut jobs =
                    [job(biased, inner, Write::Store)?, job(&weights.up, up, Write::Store)?];
                self.cpu.linear(input, self.rows, &mut jobs)?;
                self.cpu.gate(spec.activation, inner, up)?;
            }
        }
        self.cpu.linear(mlp, self.rows, &mut [job(&weights.down, x, Write::Add)?])?;
        self.normalise_after(&weights.mlp_norm, scratch)
    }

    /// In models that normalise after the addition.
    fn normalise_after(
        &self,
        weights: &NormWeights,
        scratch: &mut Scratch,
    ) -> Result<(), KernelError> {
        if self.norm.post {
            let Scratch { x, normed, .. } = scratch;
            normalise(self.cpu, self.norm, weights, x, normed.sized(x.len()))?;
            std::mem::swap(x, normed);
        }
        Ok(())
    }
}

pub(crate) fn job<'a>(
    linear: &'a LinearWeights,
    out: &'a mut [f32],
    mode: Write,
) -> Result<LinearJob<'a>, KernelError> {
    let bias: Option<Vector<'a>> = linear.bias.as_ref().map(|bias| bias.view());
    Ok(LinearJob { weight: linear.weight.view()?, bias, out, mode })
}

fn normalise(
    cpu: &Cpu,
    norm: &NormSpec,
    weights: &NormWeights,
    x: &[f32],
    out: &mut [f32],
) -> Result<(), KernelError> {
    match (norm.kind, &weights.bias) {
        (NormKind::Rms, _) | (_, None) => cpu.rms_norm(x, weights.weight.view(), norm.eps, out),
        (NormKind::Layer | NormKind::PlainLayer, Some(bias)) => {
            cpu.layer_norm(x, weights.weight.view(), bias.view(), norm.eps, out)
        }
    }
}

/// An empty vector with the room of this one, free of its borrows: collecting in place keeps the
/// allocation.
fn emptied(mut tables: Vec<&[u32]>) -> Vec<&'static [u32]> {
    tables.clear();
    tables.into_iter().map(|_| -> &'static [u32] { &[] }).collect()
}

#[cfg(test)]
mod tests;
