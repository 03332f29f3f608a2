//! Figures of the engine alone, without server and tokenizer.
//!
//! `streams DIR decode`: tokens per second of 1, 8 and 32 streams, greedy and sampled, without and with speculation,
//!    in turn. A random checkpoint's greedy output is loops, its sampled output is noise: the one
//!    where speculation should gain most, and the one where it must not lose.
//! `streams DIR gaps [PROMPT_TOKENS]`: gaps between the tokens of four streams, alone and beside a long prompt, with and without
//!    the bound on what a step adds for it.

#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tyndall_engine::{
    DEFAULT_MAX_PREFILL_PERCENT, Engine, EngineConfig, EngineRequest, Speculation,
};
use tyndall_engine::{TokenEvent, TokenStream};
use tyndall_kernels::{Cpu, CpuOptions};
use tyndall_model::{Model, ModelSpec, PlanRequest, plan};
use tyndall_types::{RequestId, SamplingParams};

type Failure = Box<dyn Error + Send + Sync>;

/// Tokens of each stream.
const TOKENS: u32 = 96;
const BESIDE: usize = 4;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("pass a checkpoint's directory")?);
    match arguments.next().as_deref() {
        Some("decode") => decode(&dir).await,
        Some("gaps") => {
            let prompt_len = arguments.next().map_or(Ok(8000), |text| text.parse())?;
            gaps(&dir, prompt_len).await
        }
        _ => Err("say decode or gaps".into()),
    }
}

async fn decode(dir: &Path) -> Result<(), Failure> {
    for (streams, temperature) in [(1, 0.0), (1, 1.0), (8, 0.0), (8, 1.0), (32, 0.0), (32, 1.0)] {
        for speculation in [Speculation::Off, Speculation::Auto] {
            let engine = start(dir, speculation, Some(DEFAULT_MAX_PREFILL_PERCENT), 512)?;
            let rate = decode_rate(&engine, streams, temperature).await?;
            let stats = engine.stats();
            println!(
                "{streams:>2} streams, temperature {temperature}, speculation {speculation:?}: \
                 {rate:.1} tok/s, {} of {} drafts accepted",
                stats.accepted_tokens, stats.draft_tokens
            );
        }
    }
    Ok(())
}

async fn gaps(dir: &Path, prompt_len: u32) -> Result<(), Failure> {
    for percent in [None, Some(DEFAULT_MAX_PREFILL_PERCENT)] {
        let engine = start(dir, Speculation::Off, percent, prompt_len + 4096)?;
        let (alone, beside, took) = gaps_of(&engine, prompt_len).await?;
        println!("{BESIDE} streams, bound {percent:?}: alone {}", percentiles(alone));
        println!("  beside {prompt_len} tokens, done in {took:.1?}: {}", percentiles(beside));
    }
    Ok(())
}

fn start(
    dir: &Path,
    speculation: Speculation,
    max_prefill_percent: Option<u32>,
    max_model_len: u32,
) -> Result<Engine, Failure> {
    let spec = ModelSpec::from_dir(dir)?;
    let request = PlanRequest {
        max_model_len: Some(max_model_len),
        memory_budget_bytes: Some(4 << 30),
        available_bytes: 4 << 30,
        max_num_seqs: 64,
        max_num_batched_tokens: 512,
        quantization: None,
    };
    let plan = plan(dir, &spec, &request)?;
    let cpu = Arc::new(Cpu::new(CpuOptions::default())?);
    let model = Model::load(dir, spec, &plan, cpu)?;
    let config = EngineConfig {
        block_size: plan.block_size,
        num_blocks: plan.num_kv_blocks,
        max_model_len: plan.max_model_len,
        max_num_seqs: plan.max_num_seqs,
        max_num_batched_tokens: plan.max_num_batched_tokens,
        max_waiting: 64,
        eos_token_ids: Vec::new(),
        enable_prefix_cache: false,
        max_prefill_percent,
        speculation,
    };
    Ok(Engine::start(Box::new(model), config))
}

fn submit(
    engine: &Engine,
    len: u32,
    seed: u64,
    params: SamplingParams,
) -> Result<TokenStream, Failure> {
    let prompt = (0..u64::from(len)).map(|i| ((i * 7919 + seed * 104_729) % 30_000) as u32);
    let (prompt, id) = (prompt.collect(), RequestId::new("r"));
    Ok(engine.submit(EngineRequest::new(id, prompt, params, seed))?)
}

fn params(temperature: f32, max_tokens: u32) -> SamplingParams {
    SamplingParams { temperature, max_tokens: Some(max_tokens), ..SamplingParams::default() }
}

/// When each token came.
async fn times(mut stream: TokenStream) -> Vec<Instant> {
    let mut times = Vec::new();
    loop {
        match stream.next().await {
            Some(TokenEvent::Prompt(_)) => {}
            Some(TokenEvent::Token(_)) => times.push(Instant::now()),
            Some(TokenEvent::Finished(_)) | None => return times,
        }
    }
}

/// Tokens after each stream's first one, over the time from the last first token to the last.
async fn decode_rate(engine: &Engine, streams: u32, temperature: f32) -> Result<f64, Failure> {
    let mut tasks = JoinSet::new();
    for seed in 0..streams {
        tasks.spawn(times(submit(engine, 32, seed.into(), params(temperature, TOKENS))?));
    }
    let all = tasks.join_all().await;
    let begin = all.iter().filter_map(|times| times.first()).max().ok_or("no token")?;
    let end = all.iter().filter_map(|times| times.last()).max().ok_or("no token")?;
    let counted = all.iter().flatten().filter(|time| *time > begin).count();
    Ok(counted as f64 / (*end - *begin).as_secs_f64())
}

/// The gaps of four streams before a long prompt comes and until it has its first token.
async fn gaps_of(
    engine: &Engine,
    prompt_len: u32,
) -> Result<(Vec<Duration>, Vec<Duration>, Duration), Failure> {
    let (done_sender, done) = watch::channel(false);
    let mut streams = JoinSet::new();
    for seed in 0..BESIDE {
        let mut stream = submit(engine, 32, seed as u64, params(1.0, 4000))?;
        let mut done = done.clone();
        streams.spawn(async move {
            let mut times = Vec::new();
            loop {
                tokio::select! {
                    event = stream.next() => match event {
                        Some(TokenEvent::Prompt(_)) => {}
                        Some(TokenEvent::Token(_)) => times.push(Instant::now()),
                        Some(TokenEvent::Finished(_)) | None => return times,
                    },
                    _ = done.changed() => return times,
                }
            }
        });
    }
    while engine.stats().generation_tokens < BESIDE as u64 * u64::from(TOKENS) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let submitted = Instant::now();
    let mut long = submit(engine, prompt_len, 99, params(0.0, 1))?;
    long.next().await;
    let done = Instant::now();
    done_sender.send_replace(true);
    let mut alone = Vec::new();
    let mut beside = Vec::new();
    for times in streams.join_all().await {
        for pair in times.windows(2) {
            let gap = pair[1] - pair[0];
            // The first gaps are beside the streams' own prompts.
            if pair[1] <= submitted && pair[0] > times[7] {
                alone.push(gap);
            } else if pair[0] >= submitted && pair[1] <= done {
                beside.push(gap);
            }
        }
    }
    Ok((alone, beside, done - submitted))
}

fn percentiles(mut gaps: Vec<Duration>) -> String {
    gaps.sort_unstable();
    let at =
        |percent: usize| gaps.get((gaps.len() * percent / 100).min(gaps.len().saturating_sub(1)));
    format!("p50 {:.1?} p99 {:.1?} of {} gaps", at(50), at(99), gaps.len())
}
