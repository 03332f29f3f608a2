//! A loaded encoder: the forward pass.
//!
//! Every norm follows a residual addition. Keys and values of a step go through the paged layout
//! that attention reads, one layer at a time; nothing is kept from step to step.
//!
//! Shapes: `T` tokens of the step, `R` texts, `E` width of the hidden states.

use std::path::Path;
use std::sync::Arc;

use tyndall_kernels::{AttentionArgs, Cpu, DType, Floats, KernelError, KvLayer, Sight, Write};

use super::batch::{BLOCK_SIZE, EncoderInput, EncoderStep};
use super::heads;
use super::plan::EncoderPlan;
use super::spec::EncoderSpec;
use super::weights::{EncoderLayer, EncoderWeights};
use crate::batch::StepError;
use crate::model::job;
use crate::prefault::Prefault;
use crate::weights::{LoadError, NormWeights};

/// An encoder that is ready to run: mapped weights and scratch.
pub struct Encoder {
    spec: EncoderSpec,
    weights: EncoderWeights,
    cpu: Arc<Cpu>,
    max_len: u32,
    max_step_slots: usize,
    step: EncoderStep,
    scratch: Scratch,
}

/// Buffers of a step, reused from step to step.
#[derive(Default)]
struct Scratch {
    /// Hidden states `[T, E]`.
    x: Floats,
    /// What is added to them, or their normalised copy.
    other: Floats,
    q: Floats,
    k: Floats,
    v: Floats,
    attended: Floats,
    /// `[T, intermediate_size]`
    inner: Floats,
    /// Keys, then values, of the current layer: see [`KvLayer`].
    kv: Vec<u8>,
}

impl Encoder {
    /// Maps the weights of a checkpoint. No weight is read yet.
    ///
    /// # Errors
    /// [`LoadError`] names the file and the tensor.
    pub fn load(
        dir: &Path,
        spec: EncoderSpec,
        plan: &EncoderPlan,
        cpu: Arc<Cpu>,
    ) -> Result<Encoder, LoadError> {
        let slots = plan.max_num_batched_tokens as usize;
        if plan.max_len > spec.max_len || slots < plan.max_len as usize {
            let reason = format!(
                "it has {} tokens per text and {slots} per step, the model {} per text",
                plan.max_len, spec.max_len
            );
            return Err(LoadError::Plan { reason });
        }
        let weights = EncoderWeights::bind(dir, &spec)?;
        Ok(Encoder {
            spec,
            weights,
            cpu,
            max_len: plan.max_len,
            max_step_slots: slots,
            step: EncoderStep::default(),
            scratch: Scratch::default(),
        })
    }

    /// What was loaded.
    pub fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    /// Tokens of a text at most.
    pub fn max_len(&self) -> u32 {
        self.max_len
    }

    /// Starts to touch the weights in the order in which a step uses them, while the caller goes on
    /// with its start-up.
    ///
    /// # Errors
    /// The thread cannot be started; the encoder works nevertheless.
    pub fn prefault(&self) -> std::io::Result<Prefault> {
        Prefault::start(self.weights.in_order())
    }

    /// How many of the first texts one step computes; at least one, where there is one.
    ///
    /// A caller that wants to look up between steps gives each its own call.
    pub fn step_len(&self, texts: &[EncoderInput<'_>]) -> usize {
        let mut slots = 0;
        let fits = |text: &&EncoderInput<'_>| {
            slots += text.slots();
            slots <= self.max_step_slots
        };
        texts.iter().take_while(fits).count().max(usize::from(!texts.is_empty()))
    }

    /// One row of [`EncoderSpec::outputs`] numbers for each text, `[R]`: its embedding, pooled and
    /// through the dense layers but not normalised, or its logits, to which
    /// [`LogitActivation::apply`](super::LogitActivation::apply) gives a meaning. As many steps as
    /// [`Encoder::step_len`] says.
    ///
    /// # Errors
    /// [`StepError`]: a text does not fit the model, or a kernel refuses.
    pub fn read(&mut self, texts: &[EncoderInput<'_>]) -> Result<Vec<Vec<f32>>, StepError> {
        for (index, text) in texts.iter().enumerate() {
            let refused = |what| StepError::Batch { reason: format!("text {index}: {what}") };
            self.spec.check(*text, self.max_len).map_err(refused)?;
        }
        let mut out = Vec::with_capacity(texts.len());
        let mut rest = texts;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.step_len(rest));
            self.step(now, &mut out)?;
            rest = later;
        }
        Ok(out)
    }

    fn step(
        &mut self,
        texts: &[EncoderInput<'_>],
        out: &mut Vec<Vec<f32>>,
    ) -> Result<(), StepError> {
        self.step.fill(texts, &self.spec);
        let failed = |layer| move |source| StepError::Kernel { layer, source: Box::new(source) };
        self.embed_tokens().map_err(failed(0))?;
        let Encoder { spec, weights, cpu, step, scratch, .. } = self;
        for (index, weights) in weights.layers.iter().enumerate() {
            let pass = LayerPass { cpu, spec, weights, step };
            pass.attend(scratch).map_err(failed(index))?;
            pass.feed_forward(scratch).map_err(failed(index))?;
        }
        heads::finish(cpu, spec, &weights.head, (&step.starts, &scratch.x), out)
            .map_err(failed(spec.num_layers))
    }

    /// Tokens, positions and types, added and normalised, into the hidden states.
    fn embed_tokens(&mut self) -> Result<(), KernelError> {
        let Encoder { spec, weights, cpu, step, scratch, .. } = self;
        let values = step.ids.len() * spec.hidden_size;
        let (x, other) = (scratch.x.sized(values), scratch.other.sized(values));
        cpu.embed(weights.words.view()?, &step.ids, x)?;
        cpu.embed(weights.positions.view()?, &step.positions, other)?;
        cpu.add(x, other)?;
        if let Some(types) = &weights.types {
            cpu.embed(types.view()?, &step.types, other)?;
            cpu.add(x, other)?;
        }
        normalise(cpu, &weights.embedding_norm, spec.norm_eps, scratch)
    }
}

/// One layer of one step.
struct LayerPass<'a> {
    cpu: &'a Cpu,
    spec: &'a EncoderSpec,
    weights: &'a EncoderLayer,
    step: &'a EncoderStep,
}

impl LayerPass<'_> {
    fn attend(&self, scratch: &mut Scratch) -> Result<(), KernelError> {
        let LayerPass { cpu, spec, weights, step } = self;
        let (rows, heads, head_dim) = (step.ids.len(), spec.num_heads, spec.head_dim());
        let values = rows * spec.hidden_size;
        let Scratch { x, q, k, v, attended, kv, .. } = &mut *scratch;
        let (q, k, v) = (q.sized(values), k.sized(values), v.sized(values));
        let mut jobs = [
            job(&weights.query, q, Write::Store)?,
            job(&weights.key, k, Write::Store)?,
            job(&weights.value, v, Write::Store)?,
        ];
        cpu.linear(x, rows, &mut jobs)?;
        let half = step.num_blocks() * BLOCK_SIZE * spec.hidden_size * DType::F32.size_bytes();
        kv.resize(2 * half, 0);
        let (keys, values) = kv.split_at_mut(half);
        let mut kv = KvLayer {
            dtype: DType::F32,
            k: keys,
            v: values,
            num_blocks: step.num_blocks(),
            num_kv_heads: heads,
            block_size: BLOCK_SIZE,
            head_dim,
        };
        cpu.store_kv(&mut kv, k, v, &step.slots)?;
        let arguments = AttentionArgs {
            num_heads: heads,
            scale: 1.0 / (head_dim as f32).sqrt(),
            sight: Sight::All,
            q_starts: &step.starts,
            context_lens: &step.lens,
            block_tables: &step.block_tables(),
        };
        let attended = attended.sized(q.len());
        cpu.attention(&arguments, q, &kv, attended)?;
        cpu.linear(attended, rows, &mut [job(&weights.output, x, Write::Add)?])?;
        normalise(cpu, &weights.attention_norm, spec.norm_eps, scratch)
    }

    fn feed_forward(&self, scratch: &mut Scratch) -> Result<(), KernelError> {
        let LayerPass { cpu, spec, weights, step } = self;
        let rows = step.ids.len();
        let Scratch { x, inner, .. } = &mut *scratch;
        let inner = inner.sized(rows * spec.intermediate_size);
        cpu.linear(x, rows, &mut [job(&weights.up, inner, Write::Store)?])?;
        cpu.activation(spec.activation, inner);
        cpu.linear(inner, rows, &mut [job(&weights.down, x, Write::Add)?])?;
        normalise(cpu, &weights.mlp_norm, spec.norm_eps, scratch)
    }
}

/// Normalises the hidden states.
fn normalise(
    cpu: &Cpu,
    norm: &NormWeights,
    eps: f32,
    scratch: &mut Scratch,
) -> Result<(), KernelError> {
    let Scratch { x, other, .. } = scratch;
    let other = other.sized(x.len());
    match &norm.bias {
        Some(bias) => cpu.layer_norm(x, norm.weight.view(), bias.view(), eps, other)?,
        None => cpu.rms_norm(x, norm.weight.view(), eps, other)?,
    }
    std::mem::swap(&mut scratch.x, &mut scratch.other);
    Ok(())
}
