//! `bench engine`: prefill and decode of the engine alone, in this process, without HTTP and text.
//!
//! For each batch size: (1) prompts with one token of output each, all at once; the time to the
//! last of those tokens is the prefill's. (2) The same number of sequences that go on; steps that
//! hold exactly one token of each are decode, and the time between the first and the last of them
//! is the decode's. Sequences get some tokens more than asked for, so that the early ones go on
//! until the last prompt is in.

use crate::error::BenchError;
use crate::loading::{self, Found};
use crate::progress::Progress;
use crate::random::Random;
use crate::report::{Chart, Report, Series};
use crate::stats::median;
use crate::work::Work;
use crate::{Context, roofline};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tyndall_engine::{
    Engine, EngineConfig, EngineObserver, EngineRequest, Finished, Speculation, StepReport,
    TokenStream,
};
use tyndall_kernels::{Ceilings, Isa, Peak};
use tyndall_model::{MemoryPlan, PlanRequest, grouped_type};
use tyndall_types::protocol::Quantization;
use tyndall_types::{FinishReason, RequestId, SamplingParams};

/// No sequence takes longer.
const DEADLINE: Duration = Duration::from_secs(3600);
/// Bytes of memory that are left to others.
const RESERVE: u64 = 1 << 30;

/// What `bench engine` is asked for.
#[derive(Debug, clap::Args)]
pub struct EngineArgs {
    /// What to run: demo, a directory, or a Hugging Face id
    #[arg(default_value = "demo")]
    pub model: String,
    /// Sequences at a time; several sizes are measured in turn
    #[arg(long, short = 'b', value_delimiter = ',', default_value = "1,8,32",
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: Vec<u32>,
    /// Tokens of each prompt
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt_len: u32,
    /// Tokens that each sequence decodes
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..))]
    pub output_len: u32,
    /// How often each batch size is measured; the median counts
    #[arg(long, short = 'r', default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// Tokens of a step
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_num_batched_tokens: u32,
    /// What the weights are rounded to, once per model
    #[arg(long, value_name = "TYPE", default_value = "none")]
    pub quantization: Quantization,
    /// Threads that compute [default: every core this process may use]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Instruction set [default: the best of this processor]
    #[arg(long)]
    pub isa: Option<Isa>,
}

/// What the engine's thread tells.
enum Told {
    Step { at: Instant, num_tokens: u32, running: u32 },
    Finished { at: Instant, finished: Finished },
}

struct Observer {
    told: Sender<Told>,
    gate: Gate,
}

/// Is held while a batch is handed in, and waited for after each step: a thread that hands in
/// slowly must not find its first sequences at their end.
type Gate = Arc<Mutex<()>>;

fn pass(gate: &Gate) -> MutexGuard<'_, ()> {
    gate.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EngineObserver for Observer {
    fn on_step(&mut self, report: &StepReport) {
        let StepReport { num_tokens, running, .. } = *report;
        // Nobody listens after a failure.
        drop(self.told.send(Told::Step { at: Instant::now(), num_tokens, running }));
        drop(pass(&self.gate));
    }

    fn on_finished(&mut self, finished: &Finished) {
        drop(self.told.send(Told::Finished { at: Instant::now(), finished: finished.clone() }));
    }
}

/// When it was computed, its tokens, its sequences.
type Step = (Instant, u32, u32);

/// A loaded model and its engine.
struct Loaded {
    engine: Engine,
    told: Receiver<Told>,
    gate: Gate,
    vocab_size: usize,
    max_batched: u32,
    work: Work,
    isa: Isa,
    random: Random,
}

/// Tokens per second of one batch size.
struct Figures {
    batch: u32,
    prefill: f64,
    decode: f64,
}

/// Measures every batch size and reports.
pub(crate) fn run(args: &EngineArgs, context: &Context) -> Result<Report, BenchError> {
    let mut report = Report::new("engine", &context.command);
    let found = Found::target(&args.model, context)?;
    let threads = args.threads.map(|threads| threads as usize);
    let cpu = roofline::cpu(threads)?;
    let ceilings = roofline::measure(&cpu, &roofline::quick())?;
    drop(cpu);
    report.ceilings = roofline::metrics(&ceilings);
    let mut loaded = load(args, &found, context.available_memory_bytes)?;
    let progress = Progress::of("batches", u64::from(args.runs) * args.batch.len() as u64);
    let mut all = Vec::new();
    loaded.measure(1, args)?;
    for &batch in &args.batch {
        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        for _ in 0..args.runs {
            let figures = loaded.measure(batch, args)?;
            prefill.push(figures.prefill);
            decode.push(figures.decode);
            progress.advance();
        }
        let (prefill, decode) = (median(&mut prefill), median(&mut decode));
        all.push(Figures { batch, prefill, decode });
    }
    drop(progress);
    describe(args, &found.id, &loaded, &mut report);
    fill(&mut report, &all, args, &loaded.work, &ceilings);
    Ok(report)
}

fn load(args: &EngineArgs, found: &Found, available_bytes: u64) -> Result<Loaded, BenchError> {
    let largest = args.batch.iter().copied().max().unwrap_or(1);
    let length = args.longest(largest)?;
    let request = PlanRequest {
        max_model_len: Some(length),
        memory_budget_bytes: None,
        available_bytes: available_bytes.saturating_sub(RESERVE),
        max_num_seqs: largest,
        max_num_batched_tokens: args.max_num_batched_tokens,
        quantization: grouped_type(args.quantization),
    };
    let memory = found.plan(&request).map_err(|error| {
        error.with_cure("use a shorter --prompt-len or --output-len, or fewer in --batch")
    })?;
    let needed = u64::from(largest) * u64::from(length.div_ceil(memory.block_size));
    if needed > u64::from(memory.num_kv_blocks) {
        let room = memory.num_kv_blocks / length.div_ceil(memory.block_size);
        return Err(BenchError::new(format!(
            "{largest} sequences of {length} tokens do not fit in memory"
        ))
        .with_cure(format!("use --batch up to {room}, or shorter lengths")));
    }
    let cpu = loading::cpu(args.threads, args.isa)?;
    let isa = cpu.isa();
    let (work, vocab_size) = (Work::of(&found.spec, &memory), found.spec.vocab_size);
    let model = found.load(&memory, cpu)?;
    let (send, told) = channel();
    let gate = Gate::default();
    let observer = Box::new(Observer { told: send, gate: Arc::clone(&gate) });
    let config = config(&memory, length, largest);
    let engine = Engine::start_observed(Box::new(model), config, observer);
    let max_batched = memory.max_num_batched_tokens;
    let random = Random::new(0, 0);
    Ok(Loaded { engine, told, gate, vocab_size, max_batched, work, isa, random })
}

fn config(memory: &MemoryPlan, length: u32, largest: u32) -> EngineConfig {
    EngineConfig {
        block_size: memory.block_size,
        num_blocks: memory.num_kv_blocks,
        max_model_len: length,
        max_num_seqs: largest,
        max_num_batched_tokens: memory.max_num_batched_tokens,
        max_waiting: largest,
        eos_token_ids: Vec::new(),
        // A prompt that was computed before would cost nothing.
        enable_prefix_cache: false,
        max_prefill_percent: None,
        // Random prompts; tokens per step are what is measured.
        speculation: Speculation::Off,
    }
}

impl EngineArgs {
    /// Tokens beyond those asked for: a step each, until the prompts of a batch are in.
    fn slack(&self, batch: u32) -> u64 {
        let prompts = u64::from(batch) * u64::from(self.prompt_len);
        // Each step spends a token on every sequence that decodes already.
        let room = self.max_num_batched_tokens.saturating_sub(batch).max(1);
        prompts.div_ceil(u64::from(room)) + 2
    }

    /// The longest sequence of a batch.
    fn longest(&self, batch: u32) -> Result<u32, BenchError> {
        let tokens = u64::from(self.prompt_len) + u64::from(self.output_len) + self.slack(batch);
        u32::try_from(tokens).map_err(|_| {
            BenchError::new(format!("{tokens} tokens are more than any model takes"))
                .with_cure("use a smaller --prompt-len or --output-len")
        })
    }
}

impl Loaded {
    fn measure(&mut self, batch: u32, args: &EngineArgs) -> Result<Figures, BenchError> {
        let tokens = f64::from(batch) * f64::from(args.prompt_len);
        let begin = Instant::now();
        let (_, last) = self.batch(batch, args.prompt_len, 1)?;
        let prefill = tokens / (last - begin).as_secs_f64().max(1e-9);

        let output = u64::from(args.output_len) + args.slack(batch);
        let (steps, _) = self.batch(batch, args.prompt_len, output as u32)?;
        // The report of a batch's last step may come after its end, into the next batch: what is
        // before the last prompt is none of this decode.
        let prompts = steps.iter().rposition(|(_, num_tokens, _)| *num_tokens > batch);
        let decode: Vec<Instant> = steps[prompts.map_or(0, |last| last + 1)..]
            .iter()
            .filter(|(_, num_tokens, running)| (*num_tokens, *running) == (batch, batch))
            .map(|step| step.0)
            .collect();
        let (Some(first), Some(last)) = (decode.first(), decode.last()) else {
            return Err(BenchError::new("no step was decode alone")
                .with_cure("use a greater --output-len or --max-num-batched-tokens"));
        };
        let made = f64::from(batch) * (decode.len() - 1) as f64;
        let decode = made / (*last - *first).as_secs_f64().max(1e-9);
        Ok(Figures { batch, prefill, decode })
    }

    /// Runs a batch to its end; returns its steps and when its last sequence ended.
    fn batch(
        &mut self,
        batch: u32,
        prompt_len: u32,
        output_len: u32,
    ) -> Result<(Vec<Step>, Instant), BenchError> {
        let failed = |reason: &str| BenchError::new(format!("the engine failed: {reason}"));
        let mut streams: Vec<TokenStream> = Vec::new();
        let requests: Vec<EngineRequest> =
            (0..batch).map(|index| self.request(index, prompt_len, output_len)).collect();
        let held = pass(&self.gate);
        for request in requests {
            let stream = self.engine.submit(request);
            streams.push(stream.map_err(|error| failed(&error.to_string()))?);
        }
        drop(held);
        let (mut steps, mut num_finished, mut last) = (Vec::new(), 0, Instant::now());
        while num_finished < batch {
            match self.told.recv_timeout(DEADLINE) {
                Ok(Told::Step { at, num_tokens, running }) => {
                    steps.push((at, num_tokens, running));
                }
                Ok(Told::Finished { at, finished }) if finished.reason == FinishReason::Length => {
                    num_finished += 1;
                    last = at;
                }
                Ok(Told::Finished { finished, .. }) => {
                    let reason = finished.error.unwrap_or_else(|| "it ended early".to_owned());
                    return Err(failed(&reason));
                }
                Err(error) => return Err(failed(&error.to_string())),
            }
        }
        Ok((steps, last))
    }

    fn request(&mut self, index: u32, prompt_len: u32, output_len: u32) -> EngineRequest {
        let vocab_size = self.vocab_size;
        let prompt = (0..prompt_len).map(|_| self.random.below(vocab_size) as u32).collect();
        let params = SamplingParams {
            temperature: 0.0,
            max_tokens: Some(output_len),
            ignore_eos: true,
            ..SamplingParams::default()
        };
        EngineRequest::new(RequestId::new(format!("bench-{index}")), prompt, params, 0)
    }
}

fn describe(args: &EngineArgs, model: &str, loaded: &Loaded, report: &mut Report) {
    report.set("model", model);
    report.set("batch", args.batch.iter().map(u32::to_string).collect::<Vec<_>>().join(","));
    report.set("prompt-len", args.prompt_len);
    report.set("output-len", args.output_len);
    report.set("max-num-batched-tokens", loaded.max_batched);
    report.set("runs", args.runs);
    report.set("quantization", args.quantization.to_string());
    report.set("isa", loaded.isa);
    report.fact("weights", "Weights that a step reads", loaded.work.weights_bytes / 1e9, "GB");
}

/// Of the instructions that do most of the work.
fn peak(ceilings: &Ceilings, quantization: Quantization) -> Peak {
    let best = match quantization {
        Quantization::None => ceilings.bf16,
        Quantization::Int8 | Quantization::Int4 => ceilings.int8,
    };
    best.unwrap_or(ceilings.f32)
}

fn fill(report: &mut Report, all: &[Figures], args: &EngineArgs, work: &Work, ceilings: &Ceilings) {
    let peak = peak(ceilings, args.quantization);
    let prompt = f64::from(args.prompt_len);
    // In the middle of the decode.
    let context = prompt + f64::from(args.output_len) / 2.0;
    let mut lines: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for &Figures { batch, prefill, decode } in all {
        let sequences = f64::from(batch);
        let name = |what: &str| format!("{what}_b{batch}");
        let label = |what: &str| format!("batch {batch}: {what}");
        let prefill_ops = prefill / prompt * work.prefill_ops(prompt);
        let bytes = decode / sequences * work.decode_bytes(sequences, context);
        let decode_ops = decode * work.decode_ops(context);
        report.rate(&name("prefill"), &label("prefill"), prefill, "tok/s");
        report.rate(
            &name("prefill_flops"),
            &label("prefill computes"),
            prefill_ops / 1e9,
            "GFLOP/s",
        );
        let share = 100.0 * prefill_ops / peak.ops_per_s;
        let of_peak = label(&format!("of the {} peak", peak.instructions));
        report.rate(&name("prefill_of_peak"), &of_peak, share, "%");
        report.rate(&name("decode"), &label("decode"), decode, "tok/s");
        report.rate(&name("decode_read"), &label("decode reads"), bytes / 1e9, "GB/s");
        let share = 100.0 * bytes / ceilings.read_bytes_per_s;
        report.rate(&name("decode_of_read"), &label("of the memory read"), share, "%");
        report.rate(&name("decode_flops"), &label("decode computes"), decode_ops / 1e9, "GFLOP/s");
        lines.entry("prefill").or_default().push((sequences, prefill));
        lines.entry("decode").or_default().push((sequences, decode));
    }
    for (what, points) in lines {
        let one_step = |batch: f64| match what {
            "decode" => {
                let read_s = work.decode_bytes(batch, context) / ceilings.read_bytes_per_s;
                let compute_s = batch * work.decode_ops(context) / peak.ops_per_s;
                batch / read_s.max(compute_s)
            }
            _ => prompt / (work.prefill_ops(prompt) / peak.ops_per_s),
        };
        let roof = points.iter().map(|(batch, _)| (*batch, one_step(*batch))).collect();
        report.charts.push(Chart::Plot {
            title: format!("{}{} by batch size", what[..1].to_uppercase(), &what[1..]),
            x: "sequences".to_owned(),
            y: "tokens per second".to_owned(),
            joined: true,
            series: vec![
                Series { name: "measured".to_owned(), points },
                Series { name: "roofline of this machine".to_owned(), points: roof },
            ],
            limits: Vec::new(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_batch_is_measured_from_its_first_prompt_to_its_last_token() {
        let args = EngineArgs {
            model: "demo".to_owned(),
            batch: vec![1, 3],
            prompt_len: 12,
            output_len: 6,
            runs: 1,
            // Less than a batch's prompts, so that prefill takes several steps beside decode.
            max_num_batched_tokens: 16,
            quantization: Quantization::None,
            threads: Some(1),
            isa: None,
        };
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let dir = dir.join("../../mechanism/hub/demo");
        let demo = Found::checkpoint("demo".to_owned(), dir, None).unwrap();
        let mut loaded = load(&args, &demo, 4 << 30).unwrap();
        for batch in [1, 3, 3] {
            let begin = Instant::now();
            let (_, last) = loaded.batch(batch, 12, 1).unwrap();
            assert!(last > begin);
            let figures = loaded.measure(batch, &args).unwrap();
            assert_eq!(figures.batch, batch);
            assert!(figures.prefill.is_finite() && figures.prefill > 0.0);
            assert!(figures.decode.is_finite() && figures.decode > 0.0);
        }
        let long = EngineArgs { prompt_len: u32::MAX, ..args };
        assert!(long.longest(1).unwrap_err().cure().is_some());
    }
}
