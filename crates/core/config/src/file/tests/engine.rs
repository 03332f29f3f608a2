//! `engine_kwargs`.

use super::*;
use tyndall_types::protocol::Quantization;

#[track_caller]
fn engine(kwargs: &str) -> EngineOptions {
    let text = format!("applications: [{{model: m, engine_kwargs: {{{kwargs}}}}}]");
    match application(&text).kind {
        ApplicationKind::Models(models) => models[0].engine,
        other => panic!("{other:?}"),
    }
}

/// They have only this problem.
#[track_caller]
fn assert_kwargs(kwargs: &str, token: &str, expected: &str) {
    let text = format!("applications:\n- {{model: m, engine_kwargs: {{{kwargs}}}}}");
    assert_one(&text, token, &format!("applications[0].engine_kwargs{expected}"));
}

#[test]
fn arguments_that_are_carried_out_are_typed() {
    let default = engine("");
    assert_eq!(
        default,
        EngineOptions {
            max_model_len: None,
            max_num_seqs: 64,
            max_num_batched_tokens: 512,
            quantization: Quantization::None,
            speculation: true,
            kv_cache_memory_bytes: None,
        }
    );
    for (kwargs, expected) in [
        ("max_model_len: 4096", EngineOptions { max_model_len: Some(4096), ..default }),
        ("max_model_len: 4K", EngineOptions { max_model_len: Some(4096), ..default }),
        ("max_model_len: -1", default),
        ("max_model_len: auto", default),
        ("max_model_len: null", default),
        ("max_num_seqs: 8", EngineOptions { max_num_seqs: 8, ..default }),
        (
            "max_num_seqs: 1024",
            EngineOptions { max_num_seqs: 1024, max_num_batched_tokens: 1024, ..default },
        ),
        (
            "max_num_batched_tokens: 16",
            EngineOptions { max_num_seqs: 16, max_num_batched_tokens: 16, ..default },
        ),
        ("quantization: int4", EngineOptions { quantization: Quantization::Int4, ..default }),
        ("quantization: none", default),
        ("speculative_config: null", EngineOptions { speculation: false, ..default }),
        ("speculative_config: {method: ngram}", default),
        (
            "kv_cache_memory_bytes: 8GiB",
            EngineOptions { kv_cache_memory_bytes: Some(8 << 30), ..default },
        ),
        (
            "kv_cache_memory_bytes: 1000",
            EngineOptions { kv_cache_memory_bytes: Some(1000), ..default },
        ),
        ("tensor_parallel_size: 1, enable_lora: false, enable_prefix_caching: true", default),
    ] {
        assert_eq!(engine(kwargs), expected, "{kwargs}");
    }
}

#[test]
fn arguments_that_only_tune_vllm_are_ignored() {
    for (kwargs, token, expected) in [
        (
            "enforce_eager: true",
            "enf",
            ".enforce_eager: enforce_eager has no effect: models run on",
        ),
        (
            "trust_remote_code: true",
            "trust_",
            ".trust_remote_code: trust_remote_code has no effect: no code",
        ),
        (
            "enable_auto_tool_choice: true",
            "ena",
            ".enable_auto_tool_choice: enable_auto_tool_choice has no effect: requests with",
        ),
        (
            "enable_prefix_caching: false",
            "ena",
            ".enable_prefix_caching: enable_prefix_caching has no",
        ),
        (
            "gpu_memory_utilization: 0.9",
            "gpu",
            ".gpu_memory_utilization: gpu_memory_utilization has no",
        ),
        ("dtype: float16", "dty", ".dtype: dtype has no effect: the engine takes the types"),
    ] {
        assert_kwargs(kwargs, token, expected);
    }
}

#[test]
fn other_arguments_are_refused_or_unknown() {
    for (kwargs, token, expected) in [
        ("dtype: int7", "int7", ".dtype: \"int7\" is not \"auto\", \"bfloat16\""),
        (
            "tensor_parallel_size: 8",
            "ten",
            ".tensor_parallel_size: tensor_parallel_size cannot be carried out\n  help: leave it out",
        ),
        (
            "enable_lora: true",
            "ena",
            ".enable_lora: enable_lora cannot be carried out\n  help: leave",
        ),
        (
            "model: org/m",
            "model",
            ".model: model cannot be carried out\n  help: write model_loading",
        ),
        (
            "override_generation_config: {temperature: 3}",
            "3",
            ".override_generation_config.temperature: ",
        ),
        (
            "hf_overrides: {a: 1}",
            "hf",
            ".hf_overrides: hf_overrides cannot be carried out\n  help: edit",
        ),
        (
            "max_modl_len: 1",
            "max",
            ".max_modl_len: \"max_modl_len\" is no field of EngineArgs\n  \
          help: did you mean max_model_len?",
        ),
        (
            "nonsense: 1",
            "non",
            ".nonsense: \"nonsense\" is no field of EngineArgs\n  help: `tyndall config",
        ),
        (
            "quantization: awq",
            "awq",
            ".quantization: \"awq\" is not \"none\", \"int8\" or \"int4\"",
        ),
        (
            "speculative_config: {method: eagle}",
            "eagle",
            ".speculative_config.method: \"eagle\" is not",
        ),
        ("speculative_config: {}", "{}}", ".speculative_config: `method` is missing"),
        (
            "load_format: dummy",
            "dummy",
            ".load_format: \"dummy\" is not \"auto\" or \"safetensors\"",
        ),
        ("task: reward", "reward", ".task: \"reward\" is not \"auto\", \"generate\", \"embed\""),
        (
            "max_num_seqs: 9, max_num_batched_tokens: 8",
            "8}",
            ".max_num_batched_tokens: it is 8, less than max_num_seqs with 9: a step could not \
             serve every sequence\n  help: raise it",
        ),
    ] {
        assert_kwargs(kwargs, token, expected);
    }
}

#[test]
fn files_of_rays_tutorials_have_no_errors_but_what_one_machine_cannot_do() {
    let text = "applications:\n- import_path: ray.serve.llm:build_openai_app\n  args:\n    \
                llm_configs:\n    - model_loading_config: {model_id: my-qwen, model_source: qwen/Q}\n      \
                accelerator_type: L40S\n      deployment_config: {autoscaling_config: \
                {min_replicas: 1, max_replicas: 2}}\n      runtime_env: {env_vars: {HF_TOKEN: x}}\n      \
                engine_kwargs: {max_model_len: 8192, limit_mm_per_prompt: {image: 3}, \
                enable_auto_tool_choice: true, tool_call_parser: hermes, disable_log_stats: false}\n";
    let file = ConfigFile::parse(text).unwrap();
    assert!(file.is_valid(), "{:#?}", file.problems());
    assert!(file.typed().is_ok());
}

#[test]
fn arguments_are_shown_where_they_hold() {
    let file = |app: &str| ConfigFile::parse(&format!("applications: [{{{app}}}]")).unwrap();
    let shown = |app: &str, field: &str| {
        let path = format!("applications[0].engine_kwargs.{field}");
        file(app).effective().into_iter().find(|it| it.path == path).map(|it| it.value)
    };
    assert_eq!(shown("program: p", "max_num_seqs"), None);
    let app = "model: m, engine_kwargs: {dtype: half}";
    assert_eq!(shown(app, "max_num_seqs").as_deref(), Some("64"));
    assert_eq!(shown(app, "dtype").as_deref(), Some("\"half\""));
    assert_eq!(shown(app, "enforce_eager"), None, "it has no effect");
}
