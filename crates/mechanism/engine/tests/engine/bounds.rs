//! Requests at the edges of what parameters and the context allow.

use crate::fake::{Then, VOCAB, config, gated, ids, logits_after, params, read, request, start};
use tyndall_engine::{AddError, Engine, EngineConfig, EngineRequest, Finished, GeneratedToken};
use tyndall_types::{FinishReason, SamplingParams};

const PROMPT: [u32; 3] = [1, 2, 3];

fn greedy(max_tokens: u32) -> SamplingParams {
    SamplingParams { temperature: 0.0, ..params(max_tokens) }
}

async fn run(
    engine: &Engine,
    prompt: &[u32],
    params: SamplingParams,
) -> (Vec<GeneratedToken>, Finished) {
    read(engine.submit(request(prompt, params)).unwrap()).await
}

/// The tokens that greedy sampling gives after [`PROMPT`] when nothing ends it.
async fn usual(num_tokens: u32) -> Vec<u32> {
    ids(&run(&start(&config()), &PROMPT, greedy(num_tokens)).await.0)
}

#[tokio::test]
async fn no_token_costs_no_step_and_one_costs_one() {
    let engine = start(&config());
    let (tokens, finished) = run(&engine, &PROMPT, params(0)).await;
    assert_eq!((tokens.len(), finished.reason), (0, FinishReason::Length));
    assert_eq!((finished.num_prompt_tokens, finished.num_output_tokens), (3, 0));
    let stats = engine.stats();
    assert_eq!((stats.steps, stats.waiting, stats.running), (0, 0, 0));
    let (tokens, finished) = run(&engine, &PROMPT, params(1)).await;
    assert!(tokens[0].is_last && !tokens[0].is_stop);
    assert_eq!((tokens.len(), finished.reason), (1, FinishReason::Length));
    assert_eq!((finished.num_prompt_tokens, finished.num_output_tokens), (3, 1));
    assert_eq!(engine.stats().steps, 1);
}

#[tokio::test]
async fn a_prompt_may_fill_all_of_the_context_but_one_token() {
    let engine = start(&config());
    let max_model_len = engine.max_model_len();
    for max_tokens in [None, Some(1), Some(u32::MAX)] {
        let prompt = vec![7; max_model_len as usize - 1];
        let params = SamplingParams { max_tokens, temperature: 0.0, ..params(1) };
        let (tokens, finished) = run(&engine, &prompt, params).await;
        let best = logits_after(&prompt).iter().copied().fold(f32::MIN, f32::max);
        assert_eq!(logits_after(&prompt)[tokens[0].id as usize], best, "{max_tokens:?}");
        assert_eq!((tokens.len(), finished.reason), (1, FinishReason::Length), "{max_tokens:?}");
    }
    let prompt = max_model_len as usize;
    let refused = engine.submit(request(&vec![7; prompt], params(0))).unwrap_err();
    assert_eq!(refused, AddError::PromptTooLong { prompt, max_model_len }.into());
    assert_eq!(engine.stats().waiting, 0);
}

#[tokio::test]
async fn the_first_token_may_be_the_stop() {
    let first = usual(1).await[0];
    let check = async |eos_token_ids: Vec<u32>, params: SamplingParams, stop_token| {
        let engine = start(&EngineConfig { eos_token_ids, ..config() });
        let (tokens, finished) = run(&engine, &PROMPT, params).await;
        assert_eq!(ids(&tokens), [first]);
        assert!(tokens[0].is_stop && tokens[0].is_last);
        assert_eq!((finished.reason, finished.stop_token), (FinishReason::Stop, stop_token));
        assert_eq!(finished.num_output_tokens, 1);
    };
    let stopping = SamplingParams { stop_token_ids: vec![first], ..greedy(9) };
    check(Vec::new(), stopping.clone(), Some(first)).await;
    check(vec![first], greedy(9), None).await;
    check(vec![first], stopping.clone(), None).await;
    check(vec![first], SamplingParams { ignore_eos: true, ..stopping }, Some(first)).await;
}

#[tokio::test]
async fn min_tokens_holds_off_every_kind_of_end() {
    let usual = usual(4).await;
    let engine = start(&EngineConfig { eos_token_ids: vec![usual[0]], ..config() });
    let ends = [usual[0], usual[1]];
    let base = SamplingParams { stop_token_ids: vec![usual[1]], ..greedy(30) };
    for min_tokens in [1, 5, 30, u32::MAX] {
        let params = SamplingParams { min_tokens, ..base.clone() };
        let (tokens, finished) = run(&engine, &PROMPT, params).await;
        let held_off = (min_tokens as usize).min(30);
        assert!(tokens.len() >= held_off, "{min_tokens}");
        assert!(tokens[..held_off].iter().all(|token| !ends.contains(&token.id)), "{min_tokens}");
        assert!(finished.reason == FinishReason::Stop || tokens.len() == 30);
    }
    // An end token that is ignored is a token like any other.
    let params = SamplingParams { ignore_eos: true, min_tokens: 4, ..greedy(4) };
    assert_eq!(ids(&run(&engine, &PROMPT, params).await.0), usual);
    // Where nothing but ends is left, the request fails and the engine goes on.
    let all =
        SamplingParams { stop_token_ids: (0..VOCAB as u32).collect(), min_tokens: 1, ..greedy(4) };
    let (tokens, finished) = run(&engine, &PROMPT, all).await;
    assert_eq!((tokens.len(), finished.reason), (0, FinishReason::Error));
    assert!(finished.is_impossible && finished.error.unwrap().contains("no token is possible"));
    assert_eq!(run(&engine, &PROMPT, greedy(4)).await.0.len(), 1);
}

#[tokio::test]
async fn ids_outside_the_vocabulary_change_nothing() {
    let usual = usual(8).await;
    let engine = start(&EngineConfig { eos_token_ids: vec![u32::MAX], ..config() });
    let outside = [VOCAB as u32, VOCAB as u32 + 1, u32::MAX];
    let params = SamplingParams {
        logit_bias: outside.map(|id| (id, 100.0)).to_vec(),
        stop_token_ids: outside.to_vec(),
        min_tokens: 3,
        logprobs: Some(VOCAB as u32 + 9),
        ..greedy(8)
    };
    let (tokens, finished) = run(&engine, &PROMPT, params).await;
    assert_eq!((ids(&tokens), finished.reason), (usual, FinishReason::Length));
    assert!(tokens.iter().all(|token| token.logprob.as_ref().unwrap().top.len() == VOCAB));
}

#[tokio::test]
async fn a_prompt_whose_logits_are_unusable_is_not_shared() {
    let (runner, gate) = gated(&config());
    let engine = Engine::start(Box::new(runner), config());
    let prompt: Vec<u32> = (0..12).collect();
    let broken = engine.submit(request(&prompt, params(3))).unwrap();
    gate.wait();
    gate.go(Then::Nan { row: 0 });
    gate.open();
    let (tokens, finished) = read(broken).await;
    assert_eq!((tokens.len(), finished.reason), (0, FinishReason::Error));
    let (tokens, finished) = run(&engine, &prompt, params(3)).await;
    assert_eq!((tokens.len(), finished.num_cached_tokens), (3, 0));
}

#[tokio::test]
async fn the_company_of_a_request_does_not_change_it() {
    let subject = SamplingParams { logprobs: Some(3), top_p: 0.9, ..params(40) };
    let alone = run(&start(&config()), &PROMPT, subject.clone()).await.0;
    let mates = [
        params(60),
        greedy(5),
        SamplingParams { top_k: 1, ..params(0) },
        SamplingParams { repetition_penalty: 1.5, min_p: 0.1, ..params(90) },
        SamplingParams { logit_bias: vec![(3, 50.0)], ..params(20) },
    ];
    for num_mates in 1..=mates.len() {
        let engine = start(&EngineConfig { max_num_batched_tokens: 5, ..config() });
        let mut streams = Vec::new();
        for (at, mate) in mates[..num_mates].iter().enumerate() {
            // The same seed, and for some the same prompt.
            let prompt = &[1, 2, 3, 4, 5][..3 + at % 3];
            streams.push(engine.submit(request(prompt, mate.clone())).unwrap());
        }
        let other_seed = EngineRequest { seed: 12, ..request(&PROMPT, subject.clone()) };
        streams.push(engine.submit(other_seed).unwrap());
        let (tokens, _) = run(&engine, &PROMPT, subject.clone()).await;
        assert_eq!(tokens, alone, "{num_mates} mates");
        let mut others = Vec::new();
        for stream in streams {
            others.push(read(stream).await.0);
        }
        assert_ne!(others.last(), Some(&alone));
    }
}
