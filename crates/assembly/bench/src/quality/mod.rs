//! `bench quality`: how far a quantized model's next tokens are from those of the model as it is.
//!
//! (1) The model as it is writes texts of its own, at temperature 1, from the token that begins a
//! text. (2) Both models read those texts, and at each position their distributions of the next
//! token are compared. Own texts need no data set and are what the model is asked for; how well it
//! writes at all plays no part.

mod divergence;

use crate::Context;
use crate::error::BenchError;
use crate::loading::{self, Found};
use crate::progress::Progress;
use crate::random::Random;
use crate::report::{Chart, Report, Series};
use crate::stats::Summary;
use divergence::{Position, compare, draw};
use std::sync::Arc;
use tyndall_kernels::{Cpu, Isa};
use tyndall_model::{
    GenerationDefaults, MAX_DRAFT_ROWS, Model, PlanRequest, Runner, SeqChunk, StepBatch,
    grouped_type,
};
use tyndall_types::protocol::Quantization;

/// Tokens of a step that all want logits: as many rows as a plan has room for.
const CHUNK: usize = MAX_DRAFT_ROWS as usize;

/// What `bench quality` is asked for.
#[derive(Debug, clap::Args)]
pub struct QualityArgs {
    /// What to run: demo, a directory, or a Hugging Face id
    #[arg(default_value = "demo")]
    pub model: String,
    /// What the weights are rounded to; none compares the model with itself
    #[arg(long, value_name = "TYPE")]
    pub quantization: Quantization,
    /// Texts that the model as it is writes
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub sequences: u32,
    /// Tokens of each
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub tokens: u32,
    /// Decides the texts
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Threads that compute [default: every core this process may use]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Instruction set [default: the best of this processor]
    #[arg(long)]
    pub isa: Option<Isa>,
}

/// Writes the texts, reads them twice, and reports.
pub(crate) fn run(args: &QualityArgs, context: &Context) -> Result<Report, BenchError> {
    let mut report = Report::new("quality", &context.command);
    let found = Found::target(&args.model, context)?;
    let first = first_token(&found)?;
    let cpu = loading::cpu(args.threads, args.isa)?;
    // Each model may have a half.
    let available = context.available_memory_bytes / 2;
    let load = |quantization: Quantization, sequences: u32, cpu: &Arc<Cpu>| {
        let request = PlanRequest {
            max_model_len: Some(args.tokens),
            memory_budget_bytes: None,
            available_bytes: available,
            max_num_seqs: sequences,
            max_num_batched_tokens: sequences.max(CHUNK as u32),
            quantization: grouped_type(quantization),
        };
        Reader::load(&found, &request, Arc::clone(cpu))
    };
    let mut base = load(Quantization::None, args.sequences, &cpu)?;
    let mut other = load(args.quantization, 1, &cpu)?;
    let texts = write(&mut base, args, first)?;
    let mut positions = Vec::new();
    let progress = Progress::of("texts read", texts.len() as u64);
    for text in &texts {
        positions.extend(read(&mut base, &mut other, text)?);
        progress.advance();
    }
    drop(progress);
    report.set("model", &found.id);
    report.set("quantization", args.quantization.to_string());
    report.set("sequences", args.sequences);
    report.set("tokens", args.tokens);
    report.set("seed", args.seed);
    report.set("isa", cpu.isa());
    fill(&mut report, &positions, &args.quantization.to_string());
    Ok(report)
}

/// The token that begins a text; where a model has none, one that ends the text before.
fn first_token(found: &Found) -> Result<u32, BenchError> {
    let defaults = GenerationDefaults::from_dir(&found.dir);
    let defaults = defaults.map_err(|error| loading::unusable(&error))?;
    let mut known = defaults.bos_token_id.into_iter().chain(defaults.eos_token_ids);
    Ok(known.find(|&token| (token as usize) < found.spec.vocab_size).unwrap_or(0))
}

/// A model, and blocks of its cache for each sequence.
struct Reader {
    model: Model,
    /// `[sequence][block]`
    tables: Vec<Vec<u32>>,
    /// `[L, V]` of the last step.
    logits: Vec<f32>,
}

impl Reader {
    fn load(found: &Found, request: &PlanRequest, cpu: Arc<Cpu>) -> Result<Self, BenchError> {
        let cure = "use fewer --tokens or --sequences";
        let memory = found.plan(request).map_err(|error| error.with_cure(cure))?;
        let each = memory.max_model_len.div_ceil(memory.block_size);
        let sequences = memory.max_num_seqs;
        if u64::from(each) * u64::from(sequences) > u64::from(memory.num_kv_blocks) {
            let tokens = memory.max_model_len;
            let cause = format!("{sequences} sequences of {tokens} tokens do not fit in memory");
            return Err(BenchError::new(cause).with_cure(cure));
        }
        let tables = (0..sequences).map(|index| (index * each..(index + 1) * each).collect());
        let model = found.load(&memory, cpu)?;
        Ok(Self { model, tables: tables.collect(), logits: Vec::new() })
    }

    /// Computes `per_sequence` tokens of each of the first sequences, after `before` earlier ones,
    /// and returns the logits of each token.
    fn step(
        &mut self,
        tokens: &[u32],
        per_sequence: usize,
        before: usize,
    ) -> Result<std::slice::ChunksExact<'_, f32>, BenchError> {
        let tables = self.tables.iter().take(tokens.len() / per_sequence);
        let seqs: Vec<SeqChunk<'_>> = tables
            .map(|table| SeqChunk {
                num_tokens: per_sequence as u32,
                context_len: (before + per_sequence) as u32,
                block_table: table,
                num_logits: per_sequence as u32,
            })
            .collect();
        let batch = StepBatch { tokens, seqs: &seqs };
        let step = self.model.step(&batch, &mut self.logits);
        step.map_err(|error| BenchError::of("the model failed", &error))?;
        Ok(self.logits.chunks_exact(self.model.vocab_size()))
    }
}

/// Texts of `1 + tokens` tokens, side by side; the last token of each was drawn and never read.
fn write(base: &mut Reader, args: &QualityArgs, first: u32) -> Result<Vec<Vec<u32>>, BenchError> {
    let mut texts = vec![vec![first]; args.sequences as usize];
    let mut randoms: Vec<Random> =
        (0..args.sequences).map(|index| Random::new(args.seed, index.into())).collect();
    let progress = Progress::of("tokens written", args.tokens.into());
    for at in 0..args.tokens as usize {
        let last: Vec<u32> = texts.iter().map(|text| text[at]).collect();
        let rows = base.step(&last, 1, at)?;
        for ((text, random), row) in texts.iter_mut().zip(&mut randoms).zip(rows) {
            text.push(draw(row, random.unit()).ok_or_else(not_finite)?);
        }
        progress.advance();
    }
    Ok(texts)
}

/// Every position of a text but its last, under both models.
fn read(base: &mut Reader, other: &mut Reader, text: &[u32]) -> Result<Vec<Position>, BenchError> {
    let mut positions = Vec::with_capacity(text.len());
    let known = &text[..text.len().saturating_sub(1)];
    for (index, chunk) in known.chunks(CHUNK).enumerate() {
        let before = index * CHUNK;
        let rows = base.step(chunk, chunk.len(), before)?;
        let others = other.step(chunk, chunk.len(), before)?;
        for ((row, other), &next) in rows.zip(others).zip(&text[before + 1..]) {
            positions.push(compare(row, other, next).ok_or_else(not_finite)?);
        }
    }
    Ok(positions)
}

fn not_finite() -> BenchError {
    BenchError::new("the model's logits are not finite")
        .with_cure("check the checkpoint, or try --isa portable")
}

fn fill(report: &mut Report, positions: &[Position], quantized: &str) {
    let Some(kl) = Summary::of(positions.iter().map(|position| position.kl)) else { return };
    let count = positions.len() as f64;
    let mean = |of: &dyn Fn(&Position) -> f64| positions.iter().map(of).sum::<f64>() / count;
    let agreement = 100.0 * mean(&|position| f64::from(u8::from(position.agrees)));
    let perplexity = |model: usize| mean(&|position| position.surprise[model]).exp();
    let divergence = |which: &str| format!("KL divergence per token, {which}");
    report.cost("kl_mean", &divergence("mean"), kl.mean, "nats");
    report.cost("kl_p99", &divergence("p99"), kl.at(99.0), "nats");
    report.cost("kl_max", &divergence("max"), kl.max(), "nats");
    report.rate("top1_agreement", "Same most probable token", agreement, "%");
    report.fact("perplexity_base", "Perplexity, unquantized", perplexity(0), "");
    let label = format!("Perplexity, {quantized}");
    report.cost("perplexity_quantized", &label, perplexity(1), "");
    report.fact("positions", "Positions", count, "");
    let last = kl.quantiles.len().saturating_sub(1).max(1) as f64;
    let points = kl.quantiles.iter().enumerate().map(|(i, &nats)| (nats, 100.0 * i as f64 / last));
    report.charts.push(Chart::Plot {
        title: "KL divergence of the next token".to_owned(),
        x: "nats".to_owned(),
        y: "% of positions within".to_owned(),
        joined: true,
        // The largest would press all others to the left.
        series: vec![Series {
            name: quantized.to_owned(),
            points: points.filter(|(_, percent)| *percent <= 99.5).collect(),
        }],
        limits: Vec::new(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_become_figures() {
        let position = |kl, agrees, surprise| Position { kl, agrees, surprise };
        let positions = [
            position(0.0, true, [0.0, 1.0]),
            position(0.5, false, [2.0, 1.0]),
            position(0.1, true, [1.0, 4.0]),
            position(0.2, true, [1.0, 2.0]),
        ];
        let mut report = Report::new("quality", &[]);
        fill(&mut report, &positions, "int4");
        let value = |name: &str| report.metrics.iter().find(|m| m.name == name).unwrap().value;
        for (name, expected) in [
            ("kl_mean", 0.2),
            ("kl_p99", 0.491),
            ("kl_max", 0.5),
            ("top1_agreement", 75.0),
            ("perplexity_base", 1f64.exp()),
            ("perplexity_quantized", 2f64.exp()),
            ("positions", 4.0),
        ] {
            assert!((value(name) - expected).abs() < 1e-9, "{name}: {}", value(name));
        }
        assert_eq!(report.charts.len(), 1);
    }

    #[test]
    fn a_model_is_no_different_from_itself() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let dir = dir.join("../../mechanism/hub/demo");
        let found = Found::checkpoint("demo".to_owned(), dir, None).unwrap();
        let args = QualityArgs {
            model: "demo".to_owned(),
            quantization: Quantization::None,
            sequences: 3,
            // More than a chunk, and not a multiple of it.
            tokens: 40,
            seed: 1,
            threads: Some(1),
            isa: None,
        };
        let request = PlanRequest {
            max_model_len: Some(args.tokens),
            memory_budget_bytes: None,
            available_bytes: 1 << 30,
            max_num_seqs: args.sequences,
            max_num_batched_tokens: CHUNK as u32,
            quantization: None,
        };
        let load = || Reader::load(&found, &request, loading::cpu(Some(1), None).unwrap()).unwrap();
        let (mut base, mut other) = (load(), load());
        let texts = write(&mut base, &args, first_token(&found).unwrap()).unwrap();
        assert_eq!(texts, write(&mut other, &args, first_token(&found).unwrap()).unwrap());
        assert!(texts[0] != texts[1] && texts.iter().all(|text| text.len() == 41));
        for text in &texts {
            let positions = read(&mut base, &mut other, text).unwrap();
            assert_eq!(positions.len(), 40);
            assert!(positions.iter().all(|p| p.kl == 0.0 && p.agrees && p.surprise[0] >= 0.0));
        }
        let request = PlanRequest { max_model_len: Some(1 << 30), ..request };
        let long = Reader::load(&found, &request, loading::cpu(Some(1), None).unwrap());
        assert!(long.err().unwrap().cure().is_some());
    }
}
