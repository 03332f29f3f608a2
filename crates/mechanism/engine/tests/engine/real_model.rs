//! The same rules with a real forward pass: tokens and log-probabilities are equal bit by bit,
//! alone and in a batch, whole and in chunks, from the prefix cache, after preemption, and with
//! one thread or two.

use crate::fake::{eventually, params, read, request};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tyndall_engine::{Engine, EngineConfig, EngineRequest, GeneratedToken, Speculation};
use tyndall_kernels::{Cpu, CpuOptions};
use tyndall_model::{Model, ModelSpec, PlanRequest, plan};
use tyndall_types::SamplingParams;

const NUM_TOKENS: u32 = 24;
const BLOCK_SIZE: u32 = 8;
const MAX_MODEL_LEN: u32 = 96;

/// How the same requests are run.
#[derive(Debug, Clone, Copy)]
struct Way {
    threads: usize,
    num_blocks: u32,
    max_num_seqs: u32,
    max_num_batched_tokens: u32,
    enable_prefix_cache: bool,
    speculation: Speculation,
}

const ALONE: Way = Way {
    threads: 1,
    num_blocks: 200,
    max_num_seqs: 1,
    max_num_batched_tokens: 512,
    enable_prefix_cache: false,
    speculation: Speculation::Off,
};
const BATCHED: Way = Way { max_num_seqs: 16, ..ALONE };

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures").join(name)
}

fn start(dir: &Path, way: Way) -> Engine {
    let spec = ModelSpec::from_dir(dir).unwrap();
    let asked = PlanRequest {
        max_model_len: Some(MAX_MODEL_LEN),
        memory_budget_bytes: Some(1 << 28),
        available_bytes: 1 << 28,
        max_num_seqs: way.max_num_seqs,
        max_num_batched_tokens: way.max_num_batched_tokens,
        quantization: None,
    };
    let mut plan = plan(dir, &spec, &asked).unwrap();
    // Small blocks and few of them, so that short sequences cross and exhaust them.
    plan.block_size = BLOCK_SIZE;
    plan.num_kv_blocks = way.num_blocks;
    plan.kv_cache_bytes = plan.kv_bytes_per_token * u64::from(BLOCK_SIZE * way.num_blocks);
    let cpu = Cpu::new(CpuOptions { threads: Some(way.threads), isa: None }).unwrap();
    let model = Model::load(dir, spec, &plan, Arc::new(cpu)).unwrap();
    let config = EngineConfig {
        block_size: BLOCK_SIZE,
        num_blocks: way.num_blocks,
        max_model_len: MAX_MODEL_LEN,
        max_num_seqs: way.max_num_seqs,
        max_num_batched_tokens: way.max_num_batched_tokens,
        max_waiting: 64,
        eos_token_ids: Vec::new(),
        enable_prefix_cache: way.enable_prefix_cache,
        max_prefill_percent: Some(60),
        speculation: way.speculation,
    };
    Engine::start(Box::new(model), config)
}

/// Prompts of many lengths, half of them with a common beginning; greedy and sampled.
fn requests() -> Vec<EngineRequest> {
    let lengths = [1, 7, 8, 9, 17, 31, 40, 60];
    let request = |(index, &len): (usize, &u32)| {
        let own = if index % 2 == 0 { 0 } else { index as u32 * 31 };
        let prompt: Vec<u32> = (0..len).map(|i| (i * 13 + own) % 300 + 3).collect();
        let params = SamplingParams {
            temperature: if index % 3 == 0 { 0.0 } else { 0.9 },
            logprobs: Some(3),
            ..params(NUM_TOKENS)
        };
        EngineRequest { seed: index as u64, ..request(&prompt, params) }
    };
    lengths.iter().enumerate().map(request).collect()
}

/// Everything about a token that the model decides, as bits.
fn bits(token: &GeneratedToken) -> Vec<u32> {
    let logprobs = token.logprob.as_ref().unwrap();
    let top = logprobs.top.iter().flat_map(|&(id, logprob)| [id, logprob.to_bits()]);
    [token.id, logprobs.logprob.to_bits(), logprobs.rank].into_iter().chain(top).collect()
}

async fn answers(engine: &Engine) -> Vec<Vec<Vec<u32>>> {
    let streams: Vec<_> =
        requests().into_iter().map(|request| engine.submit(request).unwrap()).collect();
    let mut answers = Vec::new();
    for stream in streams {
        let (tokens, finished) = read(stream).await;
        assert_eq!(tokens.len(), NUM_TOKENS as usize, "{finished:?}");
        answers.push(tokens.iter().map(bits).collect());
    }
    eventually("all blocks come back", || engine.stats().kv_usage == 0.0).await;
    answers
}

async fn check(name: &str) {
    let dir = fixture(name);
    let expected = answers(&start(&dir, ALONE)).await;
    let same = async |way: Way| {
        let engine = start(&dir, way);
        assert!(answers(&engine).await == expected, "{name}: {way:?}");
        engine
    };
    same(BATCHED).await;
    same(Way { threads: 2, ..BATCHED }).await;
    same(Way { max_num_batched_tokens: 5, ..BATCHED }).await;
    same(Way { max_num_batched_tokens: 37, threads: 2, ..BATCHED }).await;

    for threads in [1, 2] {
        let speculating = Way { speculation: Speculation::Always, threads, ..BATCHED };
        let engine = same(speculating).await;
        assert!(engine.stats().accepted_tokens > 0, "{name}: {:?}", engine.stats());
        same(Way { max_num_seqs: 1, ..speculating }).await;
        same(Way { num_blocks: 16, ..speculating }).await;
    }

    let preempting = same(Way { num_blocks: 16, ..BATCHED }).await;
    assert!(preempting.stats().num_preemptions > 0);

    let caching = Way { enable_prefix_cache: true, num_blocks: 40, ..BATCHED };
    let cached = same(caching).await;
    let before = cached.stats().prefix_cache_hits;
    assert!(answers(&cached).await == expected, "{name}: with a warm prefix cache");
    assert!(cached.stats().prefix_cache_hits > before);
}

#[tokio::test]
async fn llama3_bf16() {
    check("llama3-bf16").await;
}

#[tokio::test]
async fn mistral_with_a_window_bf16() {
    check("mistral-window-bf16").await;
}

#[tokio::test]
async fn qwen3_f32() {
    check("qwen3-f32").await;
}

#[tokio::test]
async fn opt_f16() {
    check("opt-f16").await;
}
