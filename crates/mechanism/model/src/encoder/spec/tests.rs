use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::encoder::sentence::{Matryoshka, Similarity};
use crate::encoder::{EncoderKind, Pooling};

/// A model directory: `config.json` of a small BERT with some keys replaced (`null` removes one),
/// and other files.
fn read(changes: Value, files: &[(&str, Value)]) -> Result<EncoderSpec, SpecError> {
    let mut config = json!({
        "architectures": ["BertModel"], "hidden_size": 48, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100,
        "max_position_embeddings": 64, "dim": 48, "hidden_dim": 96, "n_layers": 2, "n_heads": 4,
    });
    for (key, value) in changes.as_object().expect("an object") {
        config[key] = value.clone();
    }
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("config.json"), config.to_string()).expect("a file");
    for (name, json) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, json.to_string()).expect("a file");
    }
    EncoderSpec::from_dir(dir.path())
}

fn check_refused(changes: Value, files: &[(&str, Value)], words: &[&str]) {
    let message = match read(changes.clone(), files) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{changes} {files:?} is accepted"),
    };
    for word in words {
        assert!(message.contains(word), "{changes} {files:?}: '{message}' lacks '{word}'");
    }
}

fn embedding(changes: Value, files: &[(&str, Value)]) -> EmbeddingSpec {
    match read(changes, files).expect("a supported config").kind {
        EncoderKind::Embed(embedding) => embedding,
        EncoderKind::Classify(_) => panic!("it classifies"),
    }
}

fn classifier(changes: Value, files: &[(&str, Value)]) -> ClassifierSpec {
    let mut all = json!({"architectures": ["BertForSequenceClassification"]});
    for (key, value) in changes.as_object().expect("an object") {
        all[key] = value.clone();
    }
    match read(all, files).expect("a supported config").kind {
        EncoderKind::Classify(classifier) => classifier,
        EncoderKind::Embed(_) => panic!("it embeds"),
    }
}

/// `modules.json` of these classes, each in a directory of its own but the first.
fn modules(classes: &[&str]) -> Value {
    let module = |(index, class): (usize, &&str)| {
        let path = if index == 0 { String::new() } else { format!("{index}_{class}") };
        json!({"path": path, "type": format!("sentence_transformers.models.{class}")})
    };
    classes.iter().enumerate().map(module).collect()
}

const POOLED: &str = "1_Pooling/config.json";

#[test]
fn the_longest_text_is_the_least_of_the_limits() {
    let length = |changes, files: &[(&str, Value)]| {
        read(changes, files).expect("a supported config").max_len
    };
    assert_eq!(length(json!({}), &[]), 64);
    let of_sentences = ("sentence_bert_config.json", json!({"max_seq_length": 20}));
    let of_tokenizer = ("tokenizer_config.json", json!({"model_max_length": 30}));
    assert_eq!(length(json!({}), std::slice::from_ref(&of_tokenizer)), 30);
    assert_eq!(length(json!({}), &[of_sentences, of_tokenizer]), 20);
    let far = ("sentence_bert_config.json", json!({"max_seq_length": 512}));
    assert_eq!(length(json!({"architectures": ["DistilBertModel"]}), &[far]), 64);
    let roberta = json!({"architectures": ["XLMRobertaModel"], "pad_token_id": 1});
    assert_eq!(length(roberta, &[]), 62);
}

#[test]
fn families_are_told_apart() {
    let distil = read(json!({"architectures": ["DistilBertModel"]}), &[]).expect("supported");
    assert_eq!((distil.type_vocab_size, distil.positions.padding_id), (0, None));
    let roberta = json!({"architectures": null, "model_type": "roberta", "type_vocab_size": 1});
    let roberta = read(roberta, &[]).expect("supported");
    assert_eq!((roberta.type_vocab_size, roberta.positions.padding_id), (1, Some(1)));
    assert_eq!(roberta.architecture, "RobertaModel");
    let all =
        ["MPNetModel", "BertModel", "XLMRobertaForSequenceClassification", "LlamaForCausalLM"];
    check_refused(json!({"architectures": ["MPNetModel"]}), &[], &all);
    check_refused(json!({"architectures": ["Qwen2ForCausalLM"]}), &[], &["Qwen2", "writes text"]);
    check_refused(json!({"position_embedding_type": "relative_key"}), &[], &["relative_key"]);
    check_refused(json!({"num_attention_heads": 5}), &[], &["hidden_size", "multiple"]);
    check_refused(json!({"hidden_act": "tanh"}), &[], &["hidden_act"]);
    let last = json!({"architectures": ["RobertaModel"], "pad_token_id": 63});
    check_refused(last, &[], &["max_position_embeddings", "pad_token_id"]);
}

#[test]
fn without_modules_the_first_token_counts() {
    let spec = embedding(json!({}), &[]);
    assert_eq!((spec.pooling, spec.normalizes, spec.dimension), (vec![Pooling::Cls], true, 48));
}

#[test]
fn modules_are_read_in_their_order() {
    let dense =
        |inputs: usize, outputs: usize| json!({"in_features": inputs, "out_features": outputs});
    let files = |classes: &[&str]| {
        vec![
            ("modules.json", modules(classes)),
            (POOLED, json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true})),
            ("2_Dense/config.json", dense(96, 32)),
            ("3_Dense/config.json", dense(32, 8)),
        ]
    };
    let all = ["Transformer", "Pooling", "Dense", "Dense", "Normalize"];
    let spec = embedding(json!({}), &files(&all));
    assert_eq!(spec.pooling, [Pooling::Cls, Pooling::Mean]);
    assert_eq!((spec.dense.len(), spec.dimension, spec.normalizes), (2, 8, true));
    assert_eq!(spec.dense[1].path, "3_Dense");
    let spec = embedding(json!({}), &files(&all[..2]));
    assert_eq!((spec.dimension, spec.normalizes), (96, false));
    let refused =
        |classes: &[&str], words: &[&str]| check_refused(json!({}), &files(classes), words);
    refused(&["Transformer"], &["modules.json", "without Pooling"]);
    refused(&["Transformer", "Pooling", "Normalize", "Dense"], &["'Dense' where"]);
    refused(&["Transformer", "Dense"], &["'Dense' where"]);
    refused(&["Transformer", "Pooling", "LSTM"], &["LSTM"]);
    refused(&["Transformer", "Pooling", "Dropout", "Dense"], &["in_features", "96"]);
}

#[test]
fn modules_stay_inside_the_directory() {
    for path in ["../1_Pooling", "/etc", "a/../../b"] {
        let list = json!([{"path": path, "type": "x.Pooling"}]);
        check_refused(json!({}), &[("modules.json", list)], &["Pooling", path]);
    }
}

#[test]
fn both_spellings_of_pooling_are_read() {
    let pooling = |config: Value| {
        let files = [("modules.json", modules(&["Transformer", "Pooling"])), (POOLED, config)];
        embedding(json!({}), &files).pooling
    };
    assert_eq!(pooling(json!({})), [Pooling::Mean]);
    assert_eq!(pooling(json!({"pooling_mode": "lasttoken"})), [Pooling::LastToken]);
    let both = json!({"pooling_mode": ["max", "cls"], "pooling_mode_mean_tokens": true});
    assert_eq!(pooling(both), [Pooling::Max, Pooling::Cls]);
    assert_eq!(pooling(json!({"pooling_mode_weightedmean_tokens": true})), [Pooling::WeightedMean]);
    let files =
        |config: Value| [("modules.json", modules(&["Transformer", "Pooling"])), (POOLED, config)];
    check_refused(json!({}), &files(json!({"pooling_mode": "median"})), &["median", "lasttoken"]);
    check_refused(json!({}), &files(json!({"embedding_dimension": 64})), &["64", "48"]);
}

#[test]
fn what_is_said_about_the_use_is_recorded() {
    let settings = json!({
        "similarity_fn_name": "dot", "prompts": {"query": "query: "}, "default_prompt_name": "query",
    });
    let matryoshka = json!({"matryoshka_dimensions": [16, 32]});
    let spec = embedding(matryoshka, &[("config_sentence_transformers.json", settings)]);
    assert_eq!(spec.similarity, Some(Similarity::Dot));
    assert_eq!(spec.prompts.get("query").map(String::as_str), Some("query: "));
    assert_eq!(spec.default_prompt_name.as_deref(), Some("query"));
    assert_eq!(spec.matryoshka, Matryoshka::Lengths(vec![16, 32]));
    assert_eq!(embedding(json!({"is_matryoshka": true}), &[]).matryoshka, Matryoshka::Any);
    assert_eq!(embedding(json!({}), &[]).matryoshka, Matryoshka::No);
    check_refused(json!({"matryoshka_dimensions": 16}), &[], &["matryoshka_dimensions"]);
}

#[test]
fn labels_and_their_activation_follow_the_config() {
    let spec = classifier(json!({}), &[]);
    assert_eq!(spec.labels, ["LABEL_0", "LABEL_1"]);
    assert_eq!(spec.classes, LogitActivation::Softmax);
    let spec = classifier(json!({"id2label": {"0": "yes", "1": "no", "2": 7}}), &[]);
    assert_eq!(spec.labels, ["yes", "no", "7"]);
    let spec = classifier(json!({"num_labels": 1}), &[]);
    assert_eq!((spec.classes, spec.score), (LogitActivation::Sigmoid, LogitActivation::Sigmoid));
    for (problem, expected) in [
        ("regression", LogitActivation::Identity),
        ("multi_label_classification", LogitActivation::Sigmoid),
        ("single_label_classification", LogitActivation::Softmax),
    ] {
        assert_eq!(classifier(json!({"problem_type": problem}), &[]).classes, expected);
    }
    let identity = "torch.nn.modules.linear.Identity";
    for (config, file) in [
        (json!({"sentence_transformers": {"activation_fn": identity}}), json!({})),
        (json!({"sbert_ce_default_activation_function": identity}), json!({})),
        (json!({}), json!({"activation_fn": identity})),
    ] {
        let files = [("config_sentence_transformers.json", file)];
        assert_eq!(classifier(config, &files).score, LogitActivation::Identity);
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u64..200).prop_map(Value::from),
        "[a-z]{0,6}".prop_map(Value::from),
        prop::collection::vec(0u64..9, 0..3).prop_map(Value::from),
        prop::collection::btree_map("[0-9]", "[a-z]", 0..3).prop_map(|map| json!(map)),
    ]
}

proptest! {
    /// What is accepted is consistent enough to compute with.
    #[test]
    fn no_config_makes_the_reader_panic(
        family in prop::sample::select(EncoderSpec::supported()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..4),
        modules in any_value(),
    ) {
        let keys = [
            "hidden_size", "num_attention_heads", "max_position_embeddings", "pad_token_id", "dim",
            "n_heads", "type_vocab_size", "id2label", "num_labels", "matryoshka_dimensions",
            "layer_norm_eps", "sentence_transformers", "problem_type", "vocab_size",
        ];
        let mut config = json!({"architectures": [family]});
        for (key, value) in changes {
            config[*key.get(&keys)] = value;
        }
        let files = match modules {
            Value::Null => vec![],
            modules => vec![("modules.json", modules)],
        };
        if let Ok(spec) = read(config, &files) {
            prop_assert!(spec.outputs() > 0 && spec.max_len > 0);
            prop_assert_eq!(spec.head_dim() * spec.num_heads, spec.hidden_size);
        }
    }
}
