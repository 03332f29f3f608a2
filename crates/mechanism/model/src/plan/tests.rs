use proptest::prelude::*;

use super::*;
use crate::spec::ModelSpec;

const MIB: u64 = 1 << 20;

/// Qwen2-0.5B's shape: 24 layers of 2 key-value heads of 64.
fn spec() -> ModelSpec {
    let dir = tempfile::tempdir().expect("a directory");
    let config = r#"{"architectures": ["Qwen2ForCausalLM"], "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "vocab_size": 151936, "max_position_embeddings": 32768}"#;
    std::fs::write(dir.path().join("config.json"), config).expect("a file");
    ModelSpec::from_dir(dir.path()).expect("a supported config")
}

const REQUEST: PlanRequest = PlanRequest {
    max_model_len: Some(4096),
    memory_budget_bytes: Some(4096 * MIB),
    available_bytes: 16384 * MIB,
    max_num_seqs: 16,
    max_num_batched_tokens: 512,
    quantization: None,
};
const WEIGHTS: u64 = 988 * MIB;

fn divide_weights(request: PlanRequest) -> Result<MemoryPlan, PlanError> {
    divide(&spec(), &request, WEIGHTS, DType::BF16)
}

#[test]
fn keys_and_values_are_counted_exactly() {
    let plan = divide_weights(REQUEST).expect("it fits");
    assert_eq!(plan.kv_bytes_per_token, 2 * 24 * 2 * 64 * 2);
    assert_eq!(plan.kv_cache_bytes, u64::from(plan.num_kv_blocks) * 32 * plan.kv_bytes_per_token);
    // All 16 sequences of 4096 tokens fit, and more cannot be used.
    assert_eq!(plan.num_kv_blocks, 16 * 4096 / 32);
    assert!(plan.total_bytes() <= plan.budget_bytes);
    assert_eq!((plan.max_sequences(4096), plan.max_sequences(1)), (16, 16));
}

#[test]
fn a_small_budget_gives_fewer_blocks() {
    let request = PlanRequest { memory_budget_bytes: Some(WEIGHTS + 200 * MIB), ..REQUEST };
    let plan = divide_weights(request).expect("it fits");
    assert!(plan.total_bytes() <= plan.budget_bytes);
    assert!(plan.total_bytes() + 32 * plan.kv_bytes_per_token > plan.budget_bytes);
    assert_eq!(plan.max_sequences(4096), plan.num_kv_blocks / 128);
}

#[test]
fn without_a_budget_the_cache_takes_at_most_half() {
    let request = PlanRequest {
        memory_budget_bytes: None,
        available_bytes: 2560 * MIB,
        max_num_seqs: 256,
        ..REQUEST
    };
    let plan = divide_weights(request).expect("it fits");
    assert_eq!(plan.budget_bytes, 2560 * MIB / 100 * 80);
    assert!(plan.kv_cache_bytes <= plan.budget_bytes / 2);
    assert!(plan.total_bytes() <= plan.budget_bytes);
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_what_would() {
    let message = |budget: u64| {
        let request = PlanRequest { memory_budget_bytes: Some(budget), ..REQUEST };
        divide_weights(request).expect_err("too small").to_string()
    };
    let text = message(WEIGHTS + 60 * MIB);
    for word in ["weights 988.0 MiB", "of 4096 tokens 48.0 MiB", "1.0 GiB", "--max-model-len "] {
        assert!(text.contains(word), "'{text}' lacks '{word}'");
    }
    // What the message proposes does fit.
    let fitting = text.split("--max-model-len ").nth(1).and_then(|rest| rest.split(' ').next());
    let fitting = fitting.and_then(|number| number.parse().ok()).expect("a number");
    let request = PlanRequest {
        memory_budget_bytes: Some(WEIGHTS + 60 * MIB),
        max_model_len: Some(fitting),
        ..REQUEST
    };
    assert_eq!(divide_weights(request).expect("as proposed").max_model_len, fitting);
    assert!(message(WEIGHTS).contains("larger budget"));
}

#[test]
fn limits_are_checked() {
    let message = |request: PlanRequest| divide_weights(request).expect_err("refused").to_string();
    let text = message(PlanRequest { max_model_len: Some(40_000), ..REQUEST });
    assert!(text.contains("40000") && text.contains("32768"), "{text}");
    assert!(message(PlanRequest { max_num_seqs: 0, ..REQUEST }).contains("max_num_seqs is 0"));
    let whole = PlanRequest { max_model_len: None, ..REQUEST };
    assert_eq!(divide_weights(whole).expect("it fits").max_model_len, 32768);
}

#[test]
fn the_table_shows_every_number() {
    let plan = MemoryPlan {
        weights_bytes: 988 * MIB,
        quantization: None,
        activation_bytes: 40 * MIB,
        kv_dtype: DType::BF16,
        kv_bytes_per_token: 12288,
        block_size: 32,
        num_kv_blocks: 2048,
        kv_cache_bytes: 768 * MIB,
        max_model_len: 4096,
        max_num_seqs: 64,
        max_num_batched_tokens: 512,
        budget_bytes: 2048 * MIB,
    };
    let expected = "\
weights         988.0 MiB  mapped from the checkpoint, shared by replicas
activations      40.0 MiB  512 tokens per step
KV cache        768.0 MiB  2048 blocks of 32 tokens, 12.0 KiB per token (bf16)
total             1.8 GiB  of 2.0 GiB budget
sequences     16 of 4096 tokens, or 64 of 1024 tokens, or 64 of 256 tokens";
    assert_eq!(plan.to_string(), expected);
}

proptest! {
    /// Whatever is asked, a plan keeps its promises and a refusal proposes something that works.
    #[test]
    fn plans_keep_their_promises(
        length in 1u32..40_000,
        budget in prop::option::of(0u64..8192 * MIB),
        available in 0u64..1 << 44,
        num_seqs in 1u32..1000,
        num_tokens in prop_oneof![1u32..10_000, Just(u32::MAX)],
    ) {
        let request = PlanRequest {
            max_model_len: Some(length),
            memory_budget_bytes: budget,
            available_bytes: available,
            max_num_seqs: num_seqs,
            max_num_batched_tokens: num_tokens,
            quantization: None,
        };
        match divide_weights(request) {
            Ok(plan) => {
                prop_assert!(plan.total_bytes() <= plan.budget_bytes);
                prop_assert!(plan.max_sequences(length) >= 1);
                prop_assert!(plan.num_kv_blocks <= num_seqs * length.div_ceil(BLOCK_SIZE));
            }
            Err(PlanError::DoesNotFit(misfit)) => {
                let fitting = misfit.fitting_len;
                prop_assert!(fitting < length);
                if fitting > 0 {
                    let request = PlanRequest { max_model_len: Some(fitting), ..request };
                    prop_assert!(divide_weights(request).is_ok());
                }
            }
            Err(other) => prop_assert!(length > 32768, "{other}"),
        }
    }
}
