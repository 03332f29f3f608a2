use super::*;

const MIB: u64 = 1 << 20;

/// MiniLM-L6's shape.
fn spec() -> EncoderSpec {
    let dir = tempfile::tempdir().expect("a directory");
    let config = r#"{"architectures": ["BertModel"], "hidden_size": 384, "intermediate_size": 1536,
        "num_hidden_layers": 6, "num_attention_heads": 12, "vocab_size": 30522,
        "max_position_embeddings": 512}"#;
    std::fs::write(dir.path().join("config.json"), config).expect("a file");
    EncoderSpec::from_dir(dir.path()).expect("a supported config")
}

const REQUEST: EncoderPlanRequest = EncoderPlanRequest {
    max_len: None,
    memory_budget_bytes: Some(1024 * MIB),
    available_bytes: 16384 * MIB,
    max_num_batched_tokens: 2000,
};
const WEIGHTS: u64 = 87 * MIB;

fn divide_weights(request: EncoderPlanRequest) -> Result<EncoderPlan, PlanError> {
    divide(&spec(), &request, WEIGHTS)
}

#[test]
fn a_step_has_the_tokens_asked_for_or_as_many_as_fit() {
    let plan = divide_weights(REQUEST).expect("it fits");
    assert_eq!((plan.max_len, plan.max_num_batched_tokens), (512, 2000));
    let few = EncoderPlanRequest { max_num_batched_tokens: 1, ..REQUEST };
    assert_eq!(divide_weights(few).expect("it fits").max_num_batched_tokens, 512);
    let short = EncoderPlanRequest { max_len: Some(100), ..few };
    assert_eq!(divide_weights(short).expect("it fits").max_num_batched_tokens, 112);
    let small = EncoderPlanRequest { memory_budget_bytes: Some(WEIGHTS + 24 * MIB), ..REQUEST };
    let plan = divide_weights(small).expect("it fits");
    assert!((512..2000).contains(&plan.max_num_batched_tokens), "{plan}");
    assert!(plan.total_bytes() <= plan.budget_bytes);
    let most = EncoderPlanRequest {
        max_num_batched_tokens: u32::MAX,
        memory_budget_bytes: Some(u64::MAX),
        ..REQUEST
    };
    assert_eq!(divide_weights(most).expect("it fits").max_num_batched_tokens, u32::MAX - 15);
}

#[test]
fn what_does_not_fit_says_what_would() {
    let check = |request: EncoderPlanRequest, words: &[&str]| {
        let message = divide_weights(request).expect_err("it does not fit").to_string();
        for word in words {
            assert!(message.contains(word), "'{message}' lacks '{word}'");
        }
    };
    let budget = |bytes| EncoderPlanRequest { memory_budget_bytes: Some(bytes), ..REQUEST };
    check(budget(WEIGHTS + 8 * MIB), &["87.0 MiB", "512 tokens", "95.0 MiB", "would fit"]);
    check(budget(MIB), &["smaller model", "1.0 MiB"]);
    check(EncoderPlanRequest { max_len: Some(513), ..REQUEST }, &["513", "512"]);
    check(EncoderPlanRequest { max_len: Some(0), ..REQUEST }, &["max_model_len is 0"]);
    let none = EncoderPlanRequest { max_num_batched_tokens: 0, ..REQUEST };
    check(none, &["max_num_batched_tokens is 0"]);
}

#[test]
fn the_table_names_every_part() {
    let table = divide_weights(REQUEST).expect("it fits").to_string();
    for word in ["weights", "87.0 MiB", "activations", "2000 tokens per step", "512 tokens"] {
        assert!(table.contains(word), "{table}");
    }
}
