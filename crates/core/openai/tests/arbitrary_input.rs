//! No bytes and no JSON make a parser panic, and what is refused is always the client's fault.

use proptest::prelude::*;
use serde_json::{Map, Value};
use tyndall_openai::{
    ApiError, parse_chat, parse_classify, parse_completion, parse_count_tokens, parse_detokenize,
    parse_embeddings, parse_generate, parse_messages, parse_rerank, parse_responses, parse_score,
    parse_tokenize,
};
use tyndall_types::protocol::GenerateDefaults;

const FIELDS: &[&str] = &[
    "prompt",
    "prompts",
    "messages",
    "generation_kwargs",
    "max_new_tokens",
    "max_tokens",
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "stop_token_ids",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "stream",
    "stream_options",
    "tools",
    "tool_choice",
    "model",
    "role",
    "content",
    "type",
    "text",
    "min_tokens",
    "best_of",
    "response_format",
    "documents",
    "chat_template_kwargs",
    "tool_calls",
    "function",
    "arguments",
    "reasoning_effort",
    "system",
    "tool_use_id",
    "thinking",
    "budget_tokens",
    "input_schema",
    "input",
    "instructions",
    "call_id",
    "output",
    "name",
    "namespace",
    "format",
    "reasoning",
    "include",
    "truncation",
    "queries",
    "documents",
    "query",
    "tokens",
    "truncate_prompt_tokens",
    "encoding_format",
];

const WORDS: &[&str] = &[
    "user",
    "assistant",
    "system",
    "text",
    "none",
    "auto",
    "a",
    "tool_use",
    "tool_result",
    "enabled",
    "message",
    "function",
    "custom",
    "function_call",
    "reasoning",
    "json_schema",
    "allowed_tools",
];

fn json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-3i64..3).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        prop::sample::select(WORDS).prop_map(Value::from),
    ];
    scalar.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            object(inner),
        ]
    })
}

fn object(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        4 => prop::sample::select(FIELDS).prop_map(str::to_owned),
        1 => ".{0,6}",
    ];
    prop::collection::vec((key, value), 0..8)
        .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>()))
}

fn parse_all(body: &[u8]) -> Vec<Option<ApiError>> {
    let defaults = GenerateDefaults { max_new_tokens: 16, temperature: 0.7, top_p: 0.9 };
    vec![
        parse_generate(body, &defaults).err(),
        parse_completion(body).err(),
        parse_chat(body).err(),
        parse_messages(body).err(),
        parse_count_tokens(body).err(),
        parse_responses(body).err(),
        parse_embeddings(body).err(),
        parse_score(body).err(),
        parse_rerank(body).err(),
        parse_classify(body).err(),
        parse_tokenize(body).err(),
        parse_detokenize(body).err(),
    ]
}

fn check(body: &[u8]) {
    for error in parse_all(body).into_iter().flatten() {
        assert_eq!(error.status, 400, "{error:?}");
        assert!(!error.message.is_empty() && error.message.len() < 2000, "{error:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes(body in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&body);
    }

    #[test]
    fn any_object(body in object(json())) {
        check(body.to_string().as_bytes());
    }

    #[test]
    fn any_cut_of_a_valid_body(cut in 0usize..250) {
        let body = br#"{"messages":[{"role":"user","content":"h\u00e9"}],"prompt":"a","stop":["x"],"n":2,"seed":-5,"logit_bias":{"1":2.5},"stream":true,"max_tokens":9}"#;
        check(&body[..cut.min(body.len())]);
        prop_assert_eq!(&parse_all(body)[..5], &vec![None; 5]);
        let body = br#"{"input":[{"type":"reasoning","content":[{"text":"h"}]},{"role":"user","content":[{"type":"input_text","text":"h\u00e9"}]}],"tools":[{"type":"custom","name":"p"}],"text":{"format":{"type":"text"}}}"#;
        check(&body[..cut.min(body.len())]);
        prop_assert_eq!(&parse_all(body)[5], &None);
    }
}
