//! Bodies of requests: what parses has values in its ranges, what does not is told in each dialect.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tyndall_fuzz::Choices;
use tyndall_openai::{
    ApiError, MAX_LOGPROBS, MAX_N, MAX_PROMPTS, SamplingDefaults, parse_chat, parse_classify,
    parse_completion, parse_count_tokens, parse_detokenize, parse_embeddings, parse_generate,
    parse_messages, parse_rerank, parse_responses, parse_score, parse_tokenize,
};
use tyndall_types::SamplingParams;
use tyndall_types::protocol::GenerateDefaults;

const GENERATE: GenerateDefaults =
    GenerateDefaults { max_new_tokens: 80, temperature: 0.8, top_p: 0.95 };

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let route = choices.below(12);
    let body = choices.bytes();
    let none = SamplingDefaults::default();
    let refused = match route {
        0 => parse_chat(body).and_then(|chat| chat.overrides.resolve(&none)).map(sampled).err(),
        1 => match parse_completion(body) {
            Ok(request) => {
                assert!((1..=MAX_PROMPTS).contains(&request.prompts.len()));
                request.overrides.resolve(&none).map(sampled).err()
            }
            Err(error) => Some(error),
        },
        2 => parse_responses(body)
            .and_then(|request| request.chat.overrides.resolve(&none))
            .map(sampled)
            .err(),
        3 => parse_messages(body).and_then(|chat| chat.overrides.resolve(&none)).map(sampled).err(),
        4 => parse_count_tokens(body).err(),
        5 => parse_embeddings(body).map(|request| assert_ne!(request.dimensions, Some(0))).err(),
        6 => match parse_score(body) {
            Ok(request) => {
                let (queries, documents) = (request.queries.len(), request.documents.len());
                assert!(documents > 0 && (queries == 1 || queries == documents));
                assert_eq!(request.pairs().count(), documents);
                None
            }
            Err(error) => Some(error),
        },
        7 => parse_rerank(body)
            .map(|request| assert!(!request.documents.is_empty() && request.top_n != Some(0)))
            .err(),
        8 => parse_classify(body).map(|request| assert!(!request.prompts.is_empty())).err(),
        9 => parse_tokenize(body).err(),
        10 => parse_detokenize(body).err(),
        _ => parse_generate(body, &GENERATE).err(),
    };
    if let Some(error) = refused {
        told(&error);
    }
});

/// The ranges of the docs.
fn sampled(params: SamplingParams) {
    assert!((0.0..=2.0).contains(&params.temperature));
    assert!(params.top_p > 0.0 && params.top_p <= 1.0);
    assert!((0.0..=1.0).contains(&params.min_p));
    assert!(params.repetition_penalty > 0.0);
    assert!((-2.0..=2.0).contains(&params.presence_penalty));
    assert!((-2.0..=2.0).contains(&params.frequency_penalty));
    assert!((1..=MAX_N).contains(&params.n));
    assert!(params.logprobs.is_none_or(|logprobs| logprobs <= MAX_LOGPROBS));
    assert!(params.logit_bias.iter().all(|(_, bias)| bias.abs() <= 100.0));
}

/// An error is the client's and has the shape of its dialect.
fn told(error: &ApiError) {
    assert!((400..500).contains(&error.status), "{error:?}");
    assert!(!error.message.is_empty());
    assert!(error.message.len() < 16 << 10, "a message of {} bytes", error.message.len());
    let openai = error.openai_body();
    assert_eq!(openai["error"]["code"], error.status);
    assert!(openai["error"]["message"].is_string() && openai["error"]["type"].is_string());
    let anthropic = error.anthropic_body();
    assert_eq!(anthropic["type"], "error");
    assert!(anthropic["error"]["type"].is_string() && anthropic["error"]["message"].is_string());
    assert!(error.generate_body()["error"].is_string());
    let text = openai.to_string();
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), openai);
}
