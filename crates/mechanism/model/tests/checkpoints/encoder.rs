//! Embeddings and logits equal those of the reference implementation, and depend on nothing else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tyndall_kernels::{Cpu, Isa};
use tyndall_model::{
    CheckpointSpec, Encoder, EncoderInput, EncoderKind, EncoderPlanRequest, EncoderSpec, LoadError,
    LogitActivation, ModelSpec, Pooling, plan_encoder,
};

use crate::common::{cpu, isas, read_rows};

const REQUEST: EncoderPlanRequest = EncoderPlanRequest {
    max_len: None,
    memory_budget_bytes: Some(64 << 20),
    available_bytes: 1 << 30,
    max_num_batched_tokens: 256,
};

#[derive(Deserialize)]
struct Golden {
    inputs: Vec<Text>,
    #[serde(skip)]
    rows: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
struct Text {
    ids: Vec<u32>,
    types: Vec<u32>,
}

impl Golden {
    fn read(name: &str) -> Golden {
        let json = std::fs::read(fixture(name).join("golden.json")).expect("golden.json");
        let golden: Golden = serde_json::from_slice(&json).expect("its fields");
        let file =
            std::fs::read(fixture(name).join("golden.safetensors")).expect("golden.safetensors");
        Golden { rows: read_rows(&file, "rows"), ..golden }
    }

    fn texts(&self) -> Vec<EncoderInput<'_>> {
        self.inputs.iter().map(|text| EncoderInput { ids: &text.ids, types: &text.types }).collect()
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/encoder-fixtures").join(name)
}

fn fixtures() -> Vec<String> {
    let entries = std::fs::read_dir(fixture("")).expect("the fixtures are committed");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string());
    let names: Vec<String> = names.map(|name| name.expect("UTF-8")).collect();
    assert!(names.len() >= 9, "only {names:?}");
    names
}

fn load(dir: &Path, request: &EncoderPlanRequest, cpu: Arc<Cpu>) -> Encoder {
    let spec = EncoderSpec::from_dir(dir).expect("a supported config");
    let plan = plan_encoder(dir, &spec, request).expect("it fits");
    Encoder::load(dir, spec, &plan, cpu).expect("it loads")
}

fn rows(encoder: &mut Encoder, texts: &[EncoderInput<'_>]) -> Vec<Vec<f32>> {
    encoder.read(texts).expect("rows")
}

#[test]
fn rows_are_those_of_the_reference() {
    for name in fixtures() {
        let golden = Golden::read(&name);
        for isa in isas() {
            let mut encoder = load(&fixture(&name), &REQUEST, cpu(2, isa));
            let found = rows(&mut encoder, &golden.texts());
            assert_eq!(found.len(), golden.rows.len(), "{name}");
            // The kernels of bf16 weights round what they multiply with.
            let rounds = name.ends_with("-bf16") && matches!(isa, Isa::AmxBf16 | Isa::Avx512Bf16);
            let bound = if rounds { 0.1 } else { 1e-4 };
            for (row, (found, expected)) in std::iter::zip(&found, &golden.rows).enumerate() {
                assert_eq!(found.len(), expected.len(), "{name}");
                let differences = std::iter::zip(found, expected).map(|(a, b)| (a - b).abs());
                let largest = differences.fold(0.0, f32::max);
                assert!(largest <= bound, "{name} on {isa}: row {row} differs by {largest}");
            }
        }
    }
}

#[test]
fn a_text_has_the_same_bits_alone_and_beside_others() {
    for name in ["bert-mean-f32", "xlmr-reranker-f16"] {
        let golden = Golden::read(name);
        let texts = golden.texts();
        for isa in isas() {
            let mut encoder = load(&fixture(name), &REQUEST, cpu(1, isa));
            let alone: Vec<_> =
                texts.iter().flat_map(|text| rows(&mut encoder, &[*text])).collect();
            // Steps of one text of 66 tokens at most cut the list in several places.
            let small = EncoderPlanRequest { max_num_batched_tokens: 1, ..REQUEST };
            let mut encoder = load(&fixture(name), &small, cpu(3, isa));
            assert!(encoder.step_len(&texts) < texts.len());
            assert!(alone == rows(&mut encoder, &texts), "{name} on {isa}");
        }
    }
}

#[test]
fn logits_mean_what_the_config_says() {
    let classifier = |name: &str| match EncoderSpec::from_dir(&fixture(name)).expect("a spec").kind
    {
        EncoderKind::Classify(classifier) => classifier,
        EncoderKind::Embed(_) => panic!("{name} embeds"),
    };
    let reranker = classifier("xlmr-reranker-f16");
    assert_eq!((reranker.labels.len(), reranker.score), (1, LogitActivation::Sigmoid));
    let classes = classifier("bert-classifier-f32");
    assert_eq!((classes.labels.len(), classes.classes), (3, LogitActivation::Softmax));
}

#[test]
fn bad_texts_are_named() {
    let mut encoder = load(&fixture("bert-mean-f32"), &REQUEST, cpu(1, isas()[0]));
    let mut check = |ids: &[u32], types: &[u32], word: &str| {
        let texts = [EncoderInput { ids: &[5], types: &[] }, EncoderInput { ids, types }];
        let message = encoder.read(&texts).expect_err("a bad text").to_string();
        assert!(message.contains("text 1") && message.contains(word), "{message}");
    };
    check(&[], &[], "0 tokens");
    check(&[7; 71], &[], "71 tokens");
    check(&[120], &[], "token 120");
    check(&[7, 8], &[0], "1 types");
    check(&[7, 8], &[0, 2], "type 2");
    assert!(encoder.read(&[]).expect("no text").is_empty());
}

#[test]
fn a_directory_says_what_it_holds() {
    let of = |dir: &Path| CheckpointSpec::from_dir(dir).expect("a supported config");
    assert!(matches!(of(&fixture("bert-mean-f32")), CheckpointSpec::Encoder(_)));
    assert!(matches!(of(&crate::common::fixture("opt-f32")), CheckpointSpec::Decoder(_)));
    let error = ModelSpec::from_dir(&fixture("bert-mean-f32")).expect_err("no decoder");
    assert!(error.to_string().contains("BertModel"), "{error}");
    let error = EncoderSpec::from_dir(&crate::common::fixture("opt-f32")).expect_err("no encoder");
    assert!(error.to_string().contains("OPTForCausalLM"), "{error}");
}

#[test]
fn the_files_of_sentence_transformers_are_followed() {
    let embedding = |name: &str| match EncoderSpec::from_dir(&fixture(name)).expect("a spec").kind {
        EncoderKind::Embed(embedding) => embedding,
        EncoderKind::Classify(_) => panic!("{name} classifies"),
    };
    let mean = embedding("bert-mean-f32");
    assert_eq!((mean.pooling, mean.normalizes, mean.dimension), (vec![Pooling::Mean], true, 48));
    let bare = embedding("bert-cls-bf16");
    assert_eq!((bare.pooling, bare.normalizes, bare.dimension), (vec![Pooling::Cls], true, 48));
    assert_eq!(embedding("xlmr-all-f32").dimension, 6 * 48);
    let dense = embedding("distilbert-dense-f32");
    assert_eq!((dense.dense.len(), dense.dense[0].tanh, dense.dimension), (1, true, 20));
}

#[test]
fn weights_of_another_model_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let copy = |from: &str, file: &str| {
        std::fs::copy(fixture(from).join(file), dir.path().join(file)).expect("a copy");
    };
    let error = |dir: &Path| {
        let spec = EncoderSpec::from_dir(dir).expect("a spec");
        let plan = plan_encoder(dir, &spec, &REQUEST).expect("it fits");
        Encoder::load(dir, spec, &plan, cpu(1, isas()[0])).err().expect("it does not load")
    };
    copy("bert-mean-f32", "config.json");
    copy("distilbert-classifier-f32", "model.safetensors");
    assert!(matches!(error(dir.path()), LoadError::MissingTensor { .. }));
    copy("xlmr-all-f32", "model.safetensors");
    assert!(matches!(error(dir.path()), LoadError::Shape { .. }));
}
