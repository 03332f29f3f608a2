//! A request's answer does not depend on what else happens: batches, chunks, prefix hits,
//! preemptions and aborts of others change neither a token nor a bit of its log-probability.

use crate::fake::{FakeRunner, Logits, VOCAB, config, eventually, habitual_logits_after, ids};
use crate::fake::{logits_after, params, read, read_scored, request, start};
use proptest::prelude::*;
use tyndall_engine::{Engine, EngineConfig, EngineRequest, GeneratedToken};
use tyndall_engine::{RequestExtras, Speculation, TokenLogprobs};
use tyndall_sampling::{Sampler, SamplerOptions, Scratch};
use tyndall_types::{FinishReason, SamplingParams};

/// A token and its log-probabilities, to be compared bit by bit.
type Answer = Vec<(u32, Option<(u32, u32)>)>;

fn bits(logprobs: Option<&TokenLogprobs>) -> Option<(u32, u32)> {
    logprobs.map(|logprobs| (logprobs.logprob.to_bits(), logprobs.rank))
}

fn answer(tokens: &[GeneratedToken]) -> Answer {
    tokens.iter().map(|token| (token.id, bits(token.logprob.as_ref()))).collect()
}

/// By definition: no engine, no blocks, the whole sequence each time.
fn expected(request: &EngineRequest, config: &EngineConfig, logits_after: Logits) -> Answer {
    let eos = if request.params.ignore_eos { &[] } else { &config.eos_token_ids[..] };
    let ends: Vec<u32> = eos.iter().chain(&request.params.stop_token_ids).copied().collect();
    let options = SamplerOptions {
        seed: request.seed,
        end_tokens: ends.clone(),
        ..SamplerOptions::default()
    };
    let mut sampler = Sampler::new(&request.params, options, &request.prompt);
    let mut tokens = request.prompt.clone();
    let mut answer = Vec::new();
    let max_model_len = config.max_model_len.min(config.num_blocks * config.block_size) as usize;
    let max_tokens = request.params.max_tokens.unwrap_or(u32::MAX) as usize;
    while tokens.len() < max_model_len && answer.len() < max_tokens {
        let logits = logits_after(&tokens);
        let sampled = sampler.sample(&logits, tokens.len() as u64, &mut Scratch::default());
        let sampled = sampled.unwrap();
        tokens.push(sampled.token);
        answer.push((sampled.token, bits(sampled.logprobs.as_ref())));
        if ends.contains(&sampled.token) {
            break;
        }
    }
    answer
}

/// How likely each token of the prompt is after those before it.
fn expected_prompt(request: &EngineRequest, logits_after: Logits) -> Option<Vec<TokenLogprobs>> {
    let num_top = request.extras.prompt_logprobs? as usize;
    let score = |i: usize| {
        let logits = logits_after(&request.prompt[..i]);
        TokenLogprobs::of_prompt(&logits, request.prompt[i], num_top).unwrap()
    };
    Some((1..request.prompt.len()).map(score).collect())
}

fn copy(request: &EngineRequest) -> EngineRequest {
    let EngineRequest { id, prompt, params, seed, extras } = request;
    EngineRequest {
        extras: scored(extras.prompt_logprobs),
        ..EngineRequest::new(id.clone(), prompt.clone(), params.clone(), *seed)
    }
}

fn scored(prompt_logprobs: Option<u32>) -> RequestExtras {
    RequestExtras { prompt_logprobs, ..RequestExtras::default() }
}

fn any_params() -> impl Strategy<Value = SamplingParams> {
    (
        prop_oneof![Just(0.0f32), 0.3..2.0f32],
        prop_oneof![Just(1.0f32), 0.3..1.0f32],
        0..9u32,
        prop_oneof![Just(0.0f32), -2.0..2.0f32],
        0..4u32,
        prop::option::of(1..40u32),
        any::<bool>(),
        prop::option::of(0..3u32),
    )
        .prop_map(
            |(temperature, top_p, top_k, penalty, min_tokens, max_tokens, eos, logprobs)| {
                SamplingParams {
                    temperature,
                    top_p,
                    top_k,
                    frequency_penalty: penalty,
                    repetition_penalty: 1.0 + penalty.abs(),
                    stop_token_ids: vec![9, 30],
                    min_tokens,
                    max_tokens,
                    ignore_eos: eos,
                    logprobs,
                    ..SamplingParams::default()
                }
            },
        )
}

fn any_request() -> impl Strategy<Value = EngineRequest> {
    // A few long common beginnings, so that prefixes are shared.
    let beginning = (0..3u32, 0..30usize)
        .prop_map(|(which, len)| (0..len as u32).map(|i| (i * 7 + which) % 50).collect::<Vec<_>>());
    let end = prop::collection::vec(0..VOCAB as u32, 1..6);
    let scores = prop::option::weighted(0.2, 0..3u32);
    (beginning, end, any_params(), any::<u64>(), scores).prop_map(
        |(mut prompt, end, params, seed, scores)| {
            prompt.extend(end);
            EngineRequest { seed, extras: scored(scores), ..request(&prompt, params) }
        },
    )
}

fn any_config() -> impl Strategy<Value = EngineConfig> {
    let sizes = (1..8u32, 40..120u32, 1..9u32, 1..50u32);
    let ways = [Speculation::Off, Speculation::Auto, Speculation::Always];
    let ways = (any::<bool>(), prop::option::of(1..200u32), prop::sample::select(ways.to_vec()));
    (sizes, ways).prop_map(|((block_size, tokens, max_num_seqs, max_num_batched_tokens), ways)| {
        let (enable_prefix_cache, max_prefill_percent, speculation) = ways;
        EngineConfig {
            block_size,
            num_blocks: tokens.div_ceil(block_size),
            max_model_len: 90,
            max_num_seqs,
            max_num_batched_tokens,
            eos_token_ids: vec![5, 6],
            enable_prefix_cache,
            max_prefill_percent,
            speculation,
            ..config()
        }
    })
}

async fn run_all(engine: &Engine, requests: &[(EngineRequest, bool)], config: &EngineConfig) {
    run_all_of(engine, requests, config, logits_after).await;
}

async fn run_all_of(
    engine: &Engine,
    requests: &[(EngineRequest, bool)],
    config: &EngineConfig,
    logits_after: Logits,
) {
    let mut streams = Vec::new();
    for (request, leaves) in requests {
        let mut stream = engine.submit(copy(request)).unwrap();
        if *leaves {
            stream.next().await.unwrap();
            drop(stream);
        } else {
            streams.push((request, stream));
        }
    }
    for (request, stream) in streams {
        let (prompt, tokens, finished) = read_scored(stream).await;
        assert_eq!(answer(&tokens), expected(request, config, logits_after), "{finished:?}");
        assert_eq!(prompt, expected_prompt(request, logits_after));
        assert_eq!(finished.num_output_tokens as usize, tokens.len());
        assert_eq!(finished.num_prompt_tokens as usize, request.prompt.len());
        assert!(finished.num_cached_tokens < finished.num_prompt_tokens);
    }
    eventually("all blocks come back", || engine.stats().kv_usage == 0.0).await;
    let stats = engine.stats();
    assert_eq!((stats.running, stats.waiting), (0, 0));
}

fn block_on(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn answers_are_those_of_the_definition(
        config in any_config(),
        requests in prop::collection::vec((any_request(), prop::bool::weighted(0.15)), 1..24),
    ) {
        block_on(async {
            let engine = start(&config);
            run_all(&engine, &requests, &config).await;
            // Once more, with everything cached that fits.
            run_all(&engine, &requests, &config).await;
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn answers_of_a_model_with_habits_are_those_of_the_definition(
        config in any_config(),
        requests in prop::collection::vec((any_request(), prop::bool::weighted(0.15)), 1..16),
    ) {
        block_on(async {
            let engine = Engine::start(Box::new(FakeRunner::habitual(&config)), config.clone());
            for _ in 0..2 {
                run_all_of(&engine, &requests, &config, habitual_logits_after).await;
            }
        });
    }
}

/// Runs the sixteen requests, greedy and sampled, with and without speculation.
async fn speculated(config: EngineConfig) -> (tyndall_engine::EngineStats, u64) {
    let mut requests = sixteen_requests();
    for (index, (request, _)) in requests.iter_mut().enumerate() {
        request.params.temperature = if index % 2 == 0 { 0.0 } else { 0.3 };
    }
    let mut stats = Vec::new();
    for speculation in [Speculation::Off, Speculation::Always] {
        let config = EngineConfig { speculation, ..config.clone() };
        let engine = Engine::start(Box::new(FakeRunner::habitual(&config)), config.clone());
        run_all_of(&engine, &requests, &config, habitual_logits_after).await;
        stats.push(engine.stats());
    }
    let without = stats.remove(0);
    assert_eq!((without.draft_tokens, without.accepted_tokens), (0, 0));
    (stats.remove(0), without.steps)
}

#[tokio::test]
async fn speculation_saves_steps_and_changes_nothing_else() {
    let (with, steps_without) = speculated(config()).await;
    assert!(with.accepted_tokens > 0 && with.accepted_tokens <= with.draft_tokens);
    assert!(with.steps < steps_without, "{} {steps_without}", with.steps);
    assert_eq!(with.generation_tokens, 16 * 30);
}

#[tokio::test]
async fn speculation_and_preemption_go_together() {
    let few = EngineConfig { num_blocks: 16, max_model_len: 64, ..config() };
    for enable_prefix_cache in [false, true] {
        let (with, _) = speculated(EngineConfig { enable_prefix_cache, ..few.clone() }).await;
        assert!(with.num_preemptions > 0 && with.accepted_tokens > 0);
    }
}

fn sixteen_requests() -> Vec<(EngineRequest, bool)> {
    let params = SamplingParams { logprobs: Some(2), ..params(30) };
    (0..16u32)
        .map(|i| {
            let prompt: Vec<u32> = (0..20).map(|j| (j * 3 + i % 4) % VOCAB as u32).collect();
            (EngineRequest { seed: u64::from(i), ..request(&prompt, params.clone()) }, false)
        })
        .collect()
}

#[tokio::test]
async fn forced_preemptions_change_nothing() {
    let config =
        EngineConfig { num_blocks: 16, max_model_len: 64, enable_prefix_cache: false, ..config() };
    let engine = start(&config);
    run_all(&engine, &sixteen_requests(), &config).await;
    assert!(engine.stats().num_preemptions > 0);
}

#[tokio::test]
async fn prefix_hits_change_nothing_and_are_counted() {
    let config = config();
    let engine = start(&config);
    run_all(&engine, &sixteen_requests(), &config).await;
    let before = engine.stats();
    run_all(&engine, &sixteen_requests(), &config).await;
    let stats = engine.stats();
    assert_eq!(stats.prefix_cache_queries - before.prefix_cache_queries, 16 * 20);
    // Five blocks each, the last of which is always computed.
    assert_eq!(stats.prefix_cache_hits - before.prefix_cache_hits, 16 * 16);
    assert_eq!(stats.prompt_tokens, 2 * 16 * 20);
    assert_eq!(stats.generation_tokens, 2 * 16 * 30);
}

#[tokio::test]
async fn a_continued_sequence_draws_the_same_tokens() {
    let config = config();
    let engine = start(&config);
    let (whole, _) = read(engine.submit(request(&[1, 2, 3], params(20))).unwrap()).await;
    let mut prompt = vec![1, 2, 3];
    prompt.extend(&ids(&whole)[..8]);
    let (rest, finished) = read(engine.submit(request(&prompt, params(12))).unwrap()).await;
    assert_eq!(ids(&rest), ids(&whole)[8..]);
    assert_eq!((finished.reason, finished.num_cached_tokens), (FinishReason::Length, 8));
}
