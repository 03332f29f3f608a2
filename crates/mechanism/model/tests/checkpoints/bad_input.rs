//! Checkpoints that are broken or contradict themselves are refused with their names.

use std::path::Path;

use crate::common::{REQUEST, cpu, fixture, isas, load, plan_of};
use serde_json::{Value, json};
use tempfile::TempDir;
use tyndall_model::{LoadError, Model, ModelSpec, Runner, SeqChunk, StepBatch, plan};

/// A copy of a fixture to break.
fn copy(name: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(fixture(name)).expect("a fixture") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        std::fs::copy(&path, dir.path().join(name)).expect("a copy");
    }
    dir
}

fn change_config(dir: &Path, key: &str, value: Value) {
    let path = dir.join("config.json");
    let text = std::fs::read(&path).expect("a config");
    let mut config: Value = serde_json::from_slice(&text).expect("JSON");
    config[key] = value;
    std::fs::write(path, config.to_string()).expect("a config");
}

/// The message of whatever step fails on the way to a model.
fn message(dir: &Path) -> String {
    let spec = match ModelSpec::from_dir(dir) {
        Ok(spec) => spec,
        Err(error) => return error.to_string(),
    };
    let plan = match plan(dir, &spec, &REQUEST) {
        Ok(plan) => plan,
        Err(error) => return error.to_string(),
    };
    match Model::load(dir, spec, &plan, cpu(1, isas()[0])) {
        Ok(_) => panic!("it loads"),
        Err(error) => error.to_string(),
    }
}

fn check(dir: &TempDir, words: &[&str]) {
    let message = message(dir.path());
    for word in words {
        assert!(message.contains(word), "'{message}' lacks '{word}'");
    }
}

#[test]
fn a_missing_or_truncated_file_is_named() {
    let dir = copy("llama2-f32");
    let weights = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).expect("weights");
    for length in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&weights, &bytes[..length]).expect("weights");
        check(&dir, &["model.safetensors"]);
    }
    std::fs::remove_file(&weights).expect("weights");
    check(&dir, &["no weights in", "model.safetensors", "pytorch_model.bin"]);
    std::fs::remove_file(dir.path().join("config.json")).expect("a config");
    check(&dir, &["no config.json in"]);
}

#[test]
fn missing_shards_are_named() {
    for (name, shard) in [
        ("llama3-sharded-bf16", "model-00002-of-00002.safetensors"),
        ("opt-pytorch-sharded-f16", "pytorch_model-00002-of-00002.bin"),
    ] {
        let dir = copy(name);
        std::fs::remove_file(dir.path().join(shard)).expect("a shard");
        check(&dir, &["names files that are missing", shard]);
    }
}

#[test]
fn a_config_that_lies_about_shapes_is_found_out() {
    let lies = [
        ("vocab_size", json!(400), "model.embed_tokens.weight", "[304, 48]", "[400, 48]"),
        ("hidden_size", json!(96), "model.embed_tokens.weight", "[304, 48]", "[304, 96]"),
        ("intermediate_size", json!(80), "mlp.gate_proj.weight", "[72, 48]", "[80, 48]"),
        ("num_key_value_heads", json!(1), "self_attn.k_proj.weight", "[24, 48]", "[12, 48]"),
        ("head_dim", json!(24), "self_attn.q_proj.weight", "[48, 48]", "[96, 48]"),
    ];
    for (key, value, tensor, found, expected) in lies {
        let dir = copy("qwen2-f32");
        change_config(dir.path(), key, value);
        check(&dir, &[tensor, found, expected, "model.safetensors"]);
    }
}

#[test]
fn too_few_and_too_many_tensors_are_named() {
    let dir = copy("qwen2-f32");
    change_config(dir.path(), "num_hidden_layers", json!(3));
    change_config(dir.path(), "layer_types", Value::Null);
    check(&dir, &["lacks tensor 'model.layers.2.input_layernorm.weight'"]);
    change_config(dir.path(), "num_hidden_layers", json!(1));
    check(&dir, &["does not use", "model.layers.1.", "more"]);
    let dir = copy("llama3-f32");
    change_config(dir.path(), "tie_word_embeddings", json!(false));
    check(&dir, &["lacks tensor 'lm_head.weight'"]);
    let dir = copy("qwen2-f32");
    change_config(dir.path(), "architectures", json!(["LlamaForCausalLM"]));
    check(&dir, &["LlamaForCausalLM", "does not use", "self_attn.k_proj.bias"]);
}

#[test]
fn an_unsupported_architecture_is_refused_before_any_weight() {
    let dir = copy("llama2-f32");
    std::fs::remove_file(dir.path().join("model.safetensors")).expect("weights");
    change_config(dir.path(), "architectures", json!(["FalconForCausalLM"]));
    check(&dir, &["FalconForCausalLM", "OPTForCausalLM", "Qwen3ForCausalLM"]);
}

#[test]
fn a_plan_of_another_model_is_refused() {
    let (_, plan) = plan_of(&fixture("llama2-f32"));
    let dir = fixture("mistral-window-bf16");
    let (spec, _) = plan_of(&dir);
    let error = Model::load(&dir, spec, &plan, cpu(1, isas()[0])).err().expect("refused");
    assert!(matches!(error, LoadError::Plan { .. }), "{error}");
}

#[test]
fn a_bad_batch_does_not_break_the_model() {
    let mut model = load("llama2-f32", cpu(1, isas()[0]));
    let mut logits = Vec::new();
    let seqs = [SeqChunk { num_tokens: 1, context_len: 1, block_table: &[0], num_logits: 1 }];
    let good = StepBatch { tokens: &[5], seqs: &seqs };
    model.step(&good, &mut logits).expect("a good batch");
    let expected = logits.clone();
    let bad = [
        StepBatch { tokens: &[304], seqs: &seqs },
        StepBatch { tokens: &[5, 5], seqs: &seqs },
        StepBatch { tokens: &[5], seqs: &[] },
    ];
    for batch in bad {
        model.step(&batch, &mut logits).expect_err("a bad batch");
        assert!(logits.is_empty());
    }
    model.step(&StepBatch { tokens: &[], seqs: &[] }, &mut logits).expect("an empty batch");
    assert!(logits.is_empty());
    model.step(&good, &mut logits).expect("a good batch");
    assert_eq!(logits, expected);
}

#[test]
fn prefaulting_reaches_every_weight_of_the_layers() {
    let model = load("llama3-sharded-bf16", cpu(1, isas()[0]));
    let bytes = model.prefault().expect("a thread").wait();
    // Embedding and two layers of seven matrices, in bf16; the norms come along with their pages.
    assert_eq!(bytes, 2 * (304 * 48 + 2 * (2 * 48 * 48 + 2 * 24 * 48 + 3 * 72 * 48)));
    drop(model.prefault().expect("a thread"));
}
