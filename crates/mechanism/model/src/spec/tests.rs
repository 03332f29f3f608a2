use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A small config with some keys replaced; `null` removes a key.
fn config(changes: Value) -> Value {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 320,
        "max_position_embeddings": 128,
    });
    let object = config.as_object_mut().expect("an object");
    for (key, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => object.remove(key),
            value => object.insert(key.clone(), value.clone()),
        };
    }
    config
}

fn read(config: &Value) -> Result<ModelSpec, SpecError> {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("config.json"), config.to_string()).expect("a file");
    ModelSpec::from_dir(dir.path())
}

fn spec(changes: Value) -> ModelSpec {
    read(&config(changes)).expect("a supported config")
}

/// The error's text holds all words.
fn check_refused(changes: Value, words: &[&str]) {
    let message = match read(&config(changes.clone())) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{changes} is accepted"),
    };
    for word in words {
        assert!(message.contains(word), "{changes}: '{message}' lacks '{word}'");
    }
}

fn rope(changes: Value) -> RopeSpec {
    match spec(changes).positions {
        Positions::Rope(rope) => rope,
        Positions::Learned { .. } => panic!("no rope"),
    }
}

fn windows(changes: Value) -> Vec<Option<u32>> {
    spec(changes).layers.iter().map(|layer| layer.attention.window).collect()
}

#[test]
fn both_spellings_of_rope_are_read() {
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_length: 8192.0,
    };
    let old = rope(json!({"rope_theta": 500000.0, "rope_scaling": llama3}));
    assert_eq!(old, RopeSpec { theta: 500000.0, scaling });
    let mut parameters = llama3.clone();
    parameters["rope_theta"] = json!(500000);
    assert_eq!(rope(json!({"rope_parameters": parameters})), old);

    let linear = RopeScaling::Linear { factor: 4.0 };
    assert_eq!(rope(json!({"rope_scaling": {"type": "linear", "factor": 4}})).scaling, linear);
    let plain = RopeSpec { theta: 10_000.0, scaling: RopeScaling::None };
    assert_eq!(rope(json!({})), plain);
    assert_eq!(rope(json!({"rope_scaling": {"rope_type": "default"}})), plain);
}

#[test]
fn other_rope_kinds_are_named() {
    check_refused(
        json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
        &["yarn", "llama3"],
    );
    check_refused(json!({"rope_scaling": {"type": "dynamic", "factor": 4.0}}), &["dynamic"]);
    check_refused(json!({"rope_parameters": {"full_attention": {}}}), &["per layer type"]);
    check_refused(json!({"partial_rotary_factor": 0.5}), &["partial_rotary_factor", "0.5"]);
    check_refused(json!({"rope_scaling": {"type": "linear"}}), &["rope_scaling.factor"]);
    check_refused(json!({"rope_theta": -1.0}), &["rope_theta", "above 0"]);
    check_refused(
        json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0,
                                "high_freq_factor": 4.0}}),
        &["low_freq_factor", "high_freq_factor"],
    );
}

#[test]
fn an_unsupported_architecture_is_refused_with_the_supported_ones() {
    let all = ModelSpec::supported();
    check_refused(json!({"architectures": ["GPT2LMHeadModel"]}), &["GPT2LMHeadModel"]);
    check_refused(json!({"architectures": ["MixtralForCausalLM"]}), &all);
    check_refused(json!({"architectures": null, "model_type": "gpt2"}), &["gpt2"]);
    check_refused(json!({"architectures": null, "model_type": null}), &["architectures"]);
    assert_eq!(spec(json!({"architectures": null})).architecture, "LlamaForCausalLM");
    check_refused(json!({"quantization_config": {"quant_method": "gptq"}}), &["gptq"]);
}

#[test]
fn absurd_values_are_refused_with_their_key() {
    for key in [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
    ] {
        check_refused(json!({key: null}), &[key, "lacks"]);
        check_refused(json!({key: 0}), &[key, "from 1 to"]);
        check_refused(json!({key: -4}), &[key, "from 1 to"]);
        check_refused(json!({key: "many"}), &[key, "many"]);
        check_refused(json!({key: 1e18}), &[key, "from 1 to"]);
        check_refused(json!({key: 2.5}), &[key, "2.5"]);
    }
    check_refused(
        json!({"num_attention_heads": 5, "num_key_value_heads": 5}),
        &["multiple of 'num_attention_heads' (5)", "hidden_size"],
    );
    check_refused(json!({"num_key_value_heads": 3}), &["num_key_value_heads", "divisor"]);
    check_refused(json!({"head_dim": 15}), &["head_dim", "even"]);
    check_refused(json!({"hidden_act": "tanh"}), &["hidden_act", "tanh", "silu"]);
    check_refused(json!({"torch_dtype": "int8"}), &["torch_dtype", "int8"]);
    check_refused(json!({"attention_bias": "yes"}), &["attention_bias", "true or false"]);
    check_refused(json!({"rms_norm_eps": 0}), &["rms_norm_eps"]);
}

#[test]
fn files_that_are_no_config_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let message = |dir: &Path| ModelSpec::from_dir(dir).expect_err("no config").to_string();
    assert!(message(dir.path()).contains("no config.json"));
    for (text, word) in [("{", "not valid JSON"), ("[]", "no JSON object"), ("", "not valid JSON")]
    {
        std::fs::write(dir.path().join("config.json"), text).expect("a file");
        assert!(message(dir.path()).contains(word), "{text}: {}", message(dir.path()));
    }
}

#[test]
fn attention_follows_the_family() {
    let attention = |changes: Value| spec(changes).layers[0].attention;
    let llama = attention(json!({}));
    assert_eq!((llama.num_heads, llama.num_kv_heads, llama.head_dim), (4, 2, 16));
    assert!(!llama.qkv_bias && !llama.output_bias && !llama.qk_norm);
    let biased = attention(json!({"attention_bias": true}));
    assert!(biased.qkv_bias && biased.output_bias);
    assert_eq!(attention(json!({"num_key_value_heads": null})).num_kv_heads, 4);
    let qwen2 = attention(json!({"architectures": ["Qwen2ForCausalLM"]}));
    assert!(qwen2.qkv_bias && !qwen2.output_bias);
    let qwen3 = attention(json!({"architectures": ["Qwen3ForCausalLM"]}));
    assert!(qwen3.qk_norm && qwen3.head_dim == 128);
    let mistral = attention(json!({"architectures": ["MistralForCausalLM"], "head_dim": 32}));
    assert!(!mistral.qkv_bias && mistral.head_dim == 32);
}

#[test]
fn windows_follow_the_family() {
    assert_eq!(windows(json!({"sliding_window": 8})), [None, None]);
    let mistral = |extra: Value| {
        let mut changes = json!({"architectures": ["MistralForCausalLM"]});
        changes
            .as_object_mut()
            .expect("an object")
            .extend(extra.as_object().expect("an object").clone());
        windows(changes)
    };
    assert_eq!(mistral(json!({})), [Some(4096); 2]);
    assert_eq!(mistral(json!({"sliding_window": 8})), [Some(8); 2]);
    let qwen = |extra: Value| {
        let mut changes = json!({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 8});
        changes
            .as_object_mut()
            .expect("an object")
            .extend(extra.as_object().expect("an object").clone());
        changes
    };
    assert_eq!(windows(qwen(json!({"max_window_layers": 0}))), [None, None]);
    let on = |extra: Value| {
        let mut changes = qwen(json!({"use_sliding_window": true}));
        changes
            .as_object_mut()
            .expect("an object")
            .extend(extra.as_object().expect("an object").clone());
        changes
    };
    assert_eq!(windows(on(json!({}))), [None, None]);
    assert_eq!(windows(on(json!({"max_window_layers": 0}))), [Some(8); 2]);
    assert_eq!(
        windows(on(json!({"max_window_layers": 0, "sliding_window": null}))),
        [Some(4096); 2]
    );
    assert_eq!(windows(on(json!({"max_window_layers": 1}))), [None, Some(8)]);
    let types = json!({"layer_types": ["sliding_attention", "full_attention"]});
    assert_eq!(windows(on(types.clone())), [Some(8), None]);
    check_refused(qwen(types), &["layer_types", "without a window"]);
    check_refused(on(json!({"layer_types": ["full_attention"]})), &["layer_types", "2 layers"]);
    check_refused(
        on(json!({"layer_types": ["linear_attention", "full_attention"]})),
        &["linear_attention"],
    );
}

#[test]
fn a_null_window_is_none() {
    let mut mistral = config(json!({"architectures": ["MistralForCausalLM"]}));
    mistral["sliding_window"] = Value::Null;
    let spec = read(&mistral).expect("a supported config");
    assert!(spec.layers.iter().all(|layer| layer.attention.window.is_none()));
}

#[test]
fn opt_has_its_own_keys() {
    let opt = |extra: Value| {
        let mut changes = json!({"architectures": ["OPTForCausalLM"], "ffn_dim": 96});
        changes
            .as_object_mut()
            .expect("an object")
            .extend(extra.as_object().expect("an object").clone());
        spec(changes)
    };
    let plain = opt(json!({}));
    assert_eq!(plain.positions, Positions::Learned { rows: 130, offset: 2 });
    assert_eq!(plain.norm, NormSpec { kind: NormKind::Layer, eps: 1e-5, post: false });
    assert_eq!(plain.layers[0].mlp.activation, Activation::Relu);
    assert!(plain.tied_head && plain.final_norm && plain.layers[0].attention.output_bias);
    assert_eq!((plain.embedding_size, plain.max_model_len), (64, 128));
    let post = opt(json!({"do_layer_norm_before": false, "word_embed_proj_dim": 32}));
    assert!(post.norm.post && !post.final_norm && post.embedding_size == 32);
    assert!(!opt(json!({"_remove_final_layer_norm": true})).final_norm);
    let bare = opt(json!({"enable_bias": false, "layer_norm_elementwise_affine": false}));
    assert!(!bare.layers[0].mlp.bias && bare.norm.kind == NormKind::PlainLayer);
    check_refused(json!({"architectures": ["OPTForCausalLM"]}), &["ffn_dim"]);
}

#[test]
fn types_and_tying_are_read_in_both_spellings() {
    assert_eq!(spec(json!({"torch_dtype": "float16"})).declared_dtype, Some(DType::F16));
    assert_eq!(spec(json!({"dtype": "bfloat16"})).declared_dtype, Some(DType::BF16));
    assert_eq!(spec(json!({})).declared_dtype, None);
    assert!(!spec(json!({})).tied_head);
    assert!(spec(json!({"tie_word_embeddings": true})).tied_head);
}

#[test]
fn the_context_is_the_shortest_limit_times_linear_scaling() {
    let length = |changes: Value| spec(changes).max_model_len;
    assert_eq!(length(json!({})), 128);
    assert_eq!(length(json!({"max_position_embeddings": null})), 2048);
    assert_eq!(length(json!({"seq_length": 100})), 100);
    assert_eq!(length(json!({"rope_scaling": {"type": "linear", "factor": 2.5}})), 320);
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                        "high_freq_factor": 4.0, "original_max_position_embeddings": 16});
    assert_eq!(length(json!({"rope_scaling": llama3})), 128);
}

#[test]
fn the_tokenizer_may_shorten_the_context() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("config.json"), config(json!({})).to_string()).expect("a file");
    for (limit, expected) in
        [("64", 64), ("1e30", 128), ("1000000000000000019884624838656", 128), ("512", 128)]
    {
        let text = format!("{{\"model_max_length\": {limit}}}");
        std::fs::write(dir.path().join("tokenizer_config.json"), text).expect("a file");
        let spec = ModelSpec::from_dir(dir.path()).expect("a supported config");
        assert_eq!(spec.max_model_len, expected, "{limit}");
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u64..600).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z]{0,6}".prop_map(Value::from),
        prop::collection::vec("[a-z_]{0,6}", 0..3).prop_map(Value::from),
        (0.0..9.0).prop_map(|factor| json!({"rope_type": "linear", "factor": factor})),
    ]
}

proptest! {
    /// What is accepted is consistent enough to compute with.
    #[test]
    fn no_config_makes_the_reader_panic(
        family in prop::sample::select(ModelSpec::supported()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..4),
    ) {
        let keys = [
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "vocab_size", "max_position_embeddings", "head_dim", "rope_scaling",
            "rope_parameters", "rope_theta", "sliding_window", "use_sliding_window", "layer_types",
            "max_window_layers", "ffn_dim", "word_embed_proj_dim", "hidden_act", "dtype",
            "tie_word_embeddings", "attention_bias", "rms_norm_eps", "quantization_config",
        ];
        let mut config = config(json!({"architectures": [family], "ffn_dim": 96}));
        for (key, value) in changes {
            config[*key.get(&keys)] = value;
        }
        if let Ok(spec) = read(&config) {
            prop_assert!(spec.kv_elements_per_token() > 0);
            for layer in spec.layers {
                prop_assert_eq!(layer.attention.num_heads % layer.attention.num_kv_heads, 0);
            }
        }
    }
}
