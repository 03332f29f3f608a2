//! Arguments of vLLM's engine, and of its front end, as `engine_kwargs` may have them.
//!
//! Files that were written for vLLM shall be taken where a model can be served as they say: what
//! only tunes vLLM itself is ignored, what would give other output is refused.
//!
//! Source: vLLM `vllm/engine/arg_utils.py`, `vllm/entrypoints/openai/cli_args.py`.

use crate::file::kind::Kind::{Any, Bool, Bytes, Either, Object as Map, Text, Tokens, Whole, Word};
use crate::file::kind::{
    Fate, Fate::Ignored, Fate::Refused, Fate::Used, Field, Kind, Object, POSITIVE,
};

const NO_GPU: Fate = Ignored("models run on CPUs in this build");
const OWN_STEPS: Fate = Ignored("steps are sized by measurement, and requests run as they came");
const OWN_TYPES: Fate = Ignored("the engine takes the types that are fastest on this machine");
const OWN_CACHE: Fate = Ignored("prefixes are always cached, in blocks of a fixed size");
const NO_REMOTE_CODE: Fate = Ignored("no code of a model is ever run");
const OWN_LOGS: Fate = Ignored("logs and metrics are not vLLM's");
const OWN_PARSERS: Fate = Ignored("tool calls and reasoning are read by the parsers inside");
const ALWAYS_ON: Fate = Ignored("requests with tools are always taken");
const NO_MEDIA: Fate = Ignored("models take texts only");
const BY_REQUEST: Fate = Ignored("requests say it themselves");
const ONE_BACKEND: Fate = Ignored("there is no choice of backends");
const OWN_LOADER: Fate = Ignored("models are read by the engine inside, from Hugging Face's cache");
const NO_WORKERS: Fate = Ignored("a replica is one process");
const NO_ADAPTERS_TO_BOUND: Fate = Ignored("there are no adapters");

const ONE_PROCESS: Fate = Refused("leave it out: a replica is one process on this machine");
const NO_ADAPTERS: Fate = Refused("leave it out: adapters are not there yet");
const OWN_POOLING: Fate = Refused("leave it out: models generate texts only");
const OWN_CONFIG: Fate = Refused("edit config.json in a copy of the model, and serve its path");
const OWN_GENERATION: Fate =
    Refused("edit generation_config.json in a copy of the model, and serve its path");
const OWN_TOKENIZER: Fate = Refused("keep the tokenizer beside the weights, and serve that path");
const NAMED_ELSEWHERE: Fate = Refused("write model_loading_config, with model_id and model_source");
const PULLED: Fate = Refused("download it with `tyndall pull --revision`, and serve its path");
const NO_TRANSFER: Fate = Refused("leave it out: a replica keeps its cache to itself");

/// Rows of fields, in groups of one fate: name, kind, default and what it is.
macro_rules! arguments {
    ($($fate:ident { $($name:ident $kind:expr, $default:literal $about:literal;)* })*) => {
        &[$($(argument(stringify!($name), $kind, $default, $about, $fate),)*)*]
    };
}

const fn argument(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    about: &'static str,
    fate: Fate,
) -> Field {
    // vLLM takes null for most; what it means there is the default.
    Field::new(name, kind, default, about).nullable().with(fate)
}

pub(super) static ENGINE: Object = Object {
    name: "EngineArgs",
    is_open: false,
    fields: arguments! {
        Used {
            max_model_len Either(&[Whole(-1, -1), Word(&["auto"]), Tokens]), "null"
                "largest prompt plus output, in tokens; else what the model and the memory allow";
            max_num_seqs Whole(1, 4096), "64" "sequences in one step";
            max_num_batched_tokens Whole(1, 1_000_000), "512" "tokens in one step; at least max_num_seqs";
            quantization Word(&["none", "int8", "int4"]), "null" "what weights are rounded to when they are loaded";
            speculative_config Map(&SPECULATIVE), "{\"method\": \"ngram\"}"
                "tokens computed in advance where that pays; null: never";
            kv_cache_memory_bytes Bytes, "null" "of the KV cache; else what the weights leave";
            tool_call_parser Text, "null" "form of tool calls, by the name of vLLM's parser; else what the model's files tell";
            reasoning_parser Text, "null" "form of reasoning, by the name of vLLM's parser; else what the model's files tell";
            chat_template Text, "null" "another chat template: a file, or the template itself";
            served_model_name Either(&[Text, Kind::List(&Text)]), "null" "further names by which clients may ask for the model, beside model_id";
            override_generation_config Map(&GENERATION), "{}" "other defaults of sampling";
            load_format Word(&["auto", "safetensors"]), "\"auto\"" "form of the weights";
            task Word(&["auto", "generate", "embed", "embedding", "classify", "score"]), "\"auto\"" "what the model is for; it must be what its files say";
            runner Word(&["auto", "generate", "pooling"]), "\"auto\"" "what the model is for: to write texts or to read them; it must be what its files say";
            convert Word(&["auto", "none", "embed", "classify"]), "\"auto\"" "into another kind of model; it must be one already";
        }
        NAMED_ELSEWHERE {
            model Any, "" "which model";
        }
        PULLED {
            revision Any, "null" "of the model's repository";
        }
        OWN_TOKENIZER {
            tokenizer Any, "null" "another tokenizer";
            tokenizer_revision Any, "null" "of the tokenizer's repository";
        }
        OWN_CONFIG {
            hf_overrides Any, "{}" "changes of the model's configuration";
            hf_config_path Any, "null" "another configuration of the model";
            rope_scaling Any, "null" "change of positions";
            rope_theta Any, "null" "change of positions";
        }
        OWN_GENERATION {
            generation_config Any, "\"auto\"" "where defaults of sampling are";
        }
        ONE_PROCESS {
            tensor_parallel_size Any, "1" "parts of each layer";
            pipeline_parallel_size Any, "1" "groups of layers";
            data_parallel_size Any, "1" "engines of a replica";
            prefill_context_parallel_size Any, "1" "parts of a prompt";
            decode_context_parallel_size Any, "1" "parts of the cache";
            enable_expert_parallel Any, "false" "experts on several devices";
            nnodes Any, "1" "nodes of a replica";
        }
        NO_ADAPTERS {
            enable_lora Any, "false" "adapters";
            enable_prompt_adapter Any, "false" "adapters of prompts";
            lora_modules Any, "null" "adapters that are always there";
            default_mm_loras Any, "null" "adapters of images";
        }
        OWN_POOLING {
            pooler_config Any, "null" "of embeddings";
            override_pooler_config Any, "null" "of embeddings";
        }
        NO_TRANSFER {
            kv_transfer_config Any, "null" "hand over of caches";
            kv_sharing_fast_prefill Any, "false" "sharing of caches between layers";
        }
        NO_GPU {
            gpu_memory_utilization Kind::Number { least: 0.0, most: 1.0, above: false }, "0.92" "share of the GPU's memory";
            enforce_eager Bool, "false" "no CUDA graphs";
            compilation_config Any, "null" "of CUDA graphs and kernels";
            optimization_level Any, "null" "of compilation";
            cudagraph_capture_sizes Any, "null" "of CUDA graphs";
            max_cudagraph_capture_size Any, "null" "of CUDA graphs";
            cuda_graph_sizes Any, "null" "of CUDA graphs";
            max_seq_len_to_capture Any, "8192" "of CUDA graphs";
            attention_backend Any, "null" "kernels of attention";
            attention_config Any, "null" "kernels of attention";
            disable_cascade_attn Bool, "false" "kernels of attention";
            moe_backend Any, "null" "kernels of experts";
            kernel_config Any, "null" "choice of kernels";
            device Any, "\"auto\"" "kind of device";
            swap_space Any, "4" "GiB of swap per GPU";
            cpu_offload_gb Any, "0" "GiB of weights that are kept in the CPU's memory";
            cpu_offload_params Any, "null" "weights that are kept in the CPU's memory";
            offload_config Any, "null" "weights that are kept in the CPU's memory";
            num_gpu_blocks_override Any, "null" "blocks of the cache, for tests";
            kv_offloading_size Any, "null" "GiB of cache in the CPU's memory";
            kv_offloading_backend Any, "null" "of that cache";
            enable_sleep_mode Bool, "false" "release of the GPU's memory";
            override_neuron_config Any, "null" "of another device";
            eplb_config Any, "null" "balance of experts";
            enable_eplb Bool, "false" "balance of experts";
            num_redundant_experts Any, "0" "balance of experts";
            all2all_backend Any, "null" "exchange between experts";
        }
        OWN_STEPS {
            enable_chunked_prefill Bool, "true" "long prompts in parts";
            long_prefill_token_threshold Any, "0" "tokens of a long prompt";
            max_num_partial_prefills Any, "1" "prompts that are worked on at a time";
            max_long_partial_prefills Any, "1" "long ones of them";
            scheduling_policy Any, "\"fcfs\"" "order of requests";
            scheduler_cls Any, "null" "another scheduler";
            async_scheduling Any, "null" "the next step is planned during this one";
            num_scheduler_steps Any, "1" "steps per plan";
            multi_step_stream_outputs Any, "true" "of several steps";
            scheduler_delay_factor Any, "0" "wait before a prompt";
            scheduler_reserve_full_isl Any, "true" "blocks for all of a prompt";
            num_lookahead_slots Any, "0" "places of tokens in advance";
            preemption_mode Any, "null" "how requests give way";
            stream_interval Any, "1" "tokens per event";
            disable_async_output_proc Any, "false" "of outputs";
            disable_chunked_mm_input Any, "false" "of images";
            disable_hybrid_kv_cache_manager Any, "null" "of the cache";
            max_num_queued_reqs Any, "null" "requests that wait; deployment_config has max_queued_requests";
            max_num_queued_tokens Any, "null" "tokens that wait";
        }
        OWN_TYPES {
            dtype Word(&["auto", "bfloat16", "float16", "half", "float32", "float"]), "\"auto\"" "type of weights and activations";
            kv_cache_dtype Any, "\"auto\"" "type of the cache";
            calculate_kv_scales Any, "false" "scales of the cache";
            mamba_cache_dtype Any, "\"auto\"" "type of states";
            mamba_ssm_cache_dtype Any, "\"auto\"" "type of states";
        }
        OWN_CACHE {
            enable_prefix_caching Bool, "true" "prompts that begin alike share their cache";
            prefix_caching_hash_algo Any, "\"sha256\"" "of prefixes";
            block_size Any, "null" "tokens of a block";
            mamba_block_size Any, "null" "of states";
            disable_sliding_window Any, "false" "all of the context is kept";
            use_v2_block_manager Any, "true" "of blocks";
            kv_events_config Any, "null" "news of blocks";
        }
        NO_REMOTE_CODE {
            trust_remote_code Bool, "false" "code in the model's repository";
            code_revision Any, "null" "of that code";
        }
        OWN_LOGS {
            disable_log_stats Bool, "false" "figures in the log";
            disable_log_requests Any, "true" "requests in the log";
            enable_log_requests Any, "false" "requests in the log";
            enable_log_outputs Any, "false" "outputs in the log";
            max_log_len Any, "null" "characters in the log";
            aggregate_engine_logging Any, "false" "of several engines";
            show_hidden_metrics_for_version Any, "null" "old metrics";
            otlp_traces_endpoint Any, "null" "export of spans";
            collect_detailed_traces Any, "null" "export of spans";
            kv_cache_metrics Any, "false" "figures of the cache";
            enable_mfu_metrics Any, "false" "figures of the device";
            profiler_config Any, "null" "of a profiler";
        }
        ALWAYS_ON {
            enable_auto_tool_choice Bool, "false" "tools where the model chooses";
        }
        OWN_PARSERS {
            tool_parser_plugin Any, "null" "code of a parser";
            tool_server Any, "null" "built-in tools";
            exclude_tools_when_tool_choice_none Any, "false" "of the prompt";
            reasoning_parser_plugin Any, "null" "code of a parser";
            reasoning_config Any, "null" "of reasoning";
            enable_reasoning Any, "false" "old name of a reasoning parser";
        }
        NO_MEDIA {
            limit_mm_per_prompt Any, "null" "images, sounds and videos of a prompt";
            mm_processor_kwargs Any, "null" "of images";
            mm_processor_cache_gb Any, "4" "of images";
            mm_processor_cache_type Any, "null" "of images";
            disable_mm_preprocessor_cache Any, "false" "of images";
            mm_encoder_tp_mode Any, "null" "of images";
            skip_mm_profiling Any, "false" "of images";
            media_io_kwargs Any, "null" "of images";
            interleave_mm_strings Any, "false" "of images";
            video_pruning_rate Any, "null" "of videos";
            language_model_only Any, "false" "images are left out";
            allowed_local_media_path Any, "\"\"" "folder of images";
            allowed_media_domains Any, "null" "servers of images";
            enable_prompt_embeds Any, "false" "prompts as vectors";
            enable_mm_embeds Any, "false" "images as vectors";
        }
        BY_REQUEST {
            seed Any, "0" "of sampling";
            max_logprobs Any, "20" "log probabilities per token";
            logprobs_mode Any, "\"raw_logprobs\"" "which log probabilities";
            logits_processors Any, "null" "code that changes logits";
            logits_processor_pattern Any, "null" "code that changes logits";
            response_role Any, "\"assistant\"" "of answers";
            chat_template_content_format Any, "\"auto\"" "of messages";
            default_chat_template_kwargs Any, "null" "of the chat template";
            trust_request_chat_template Any, "false" "templates of requests";
            return_tokens_as_token_ids Any, "false" "of log probabilities";
            enable_prompt_tokens_details Any, "false" "cached tokens in the usage";
            enable_force_include_usage Any, "false" "usage in every stream";
            enable_server_load_tracking Any, "false" "load in the metrics";
        }
        ONE_BACKEND {
            guided_decoding_backend Any, "\"auto\"" "of structured output";
            guided_decoding_disable_fallback Any, "false" "of structured output";
            structured_outputs_config Any, "null" "of structured output";
            model_impl Any, "\"auto\"" "code of the model";
            tokenizer_mode Any, "\"auto\"" "code of the tokenizer";
            skip_tokenizer_init Any, "false" "no tokenizer";
            tokenizer_pool_size Any, "0" "of tokenizers";
            tokenizer_pool_type Any, "null" "of tokenizers";
            tokenizer_pool_extra_config Any, "null" "of tokenizers";
        }
        OWN_LOADER {
            download_dir Any, "null" "folder of models; HF_HOME moves the cache";
            config_format Any, "\"auto\"" "form of the configuration";
            hf_token Any, "null" "of Hugging Face; env_vars has HF_TOKEN";
            model_loader_extra_config Any, "null" "of the loader";
            ignore_patterns Any, "null" "files that are not loaded";
            max_parallel_loading_workers Any, "null" "of the loader";
            safetensors_load_strategy Any, "null" "of the loader";
            use_tqdm_on_load Any, "true" "of the loader";
            pt_load_map_location Any, "\"cpu\"" "of the loader";
            quantization_config Any, "null" "of quantization";
            allow_deprecated_quantization Any, "false" "of quantization";
        }
        NO_WORKERS {
            distributed_executor_backend Any, "null" "what runs workers";
            worker_cls Any, "\"auto\"" "code of workers";
            worker_extension_cls Any, "\"\"" "code of workers";
            ray_workers_use_nsight Any, "false" "profiler of workers";
            disable_custom_all_reduce Bool, "false" "sums between workers";
            data_parallel_backend Any, "\"mp\"" "of several engines";
            data_parallel_size_local Any, "null" "of several engines";
            data_parallel_rank Any, "null" "of several engines";
            data_parallel_address Any, "null" "of several engines";
            data_parallel_rpc_port Any, "null" "of several engines";
            data_parallel_hybrid_lb Any, "false" "of several engines";
            data_parallel_external_lb Any, "false" "of several engines";
            master_addr Any, "null" "of several nodes";
            master_port Any, "null" "of several nodes";
            node_rank Any, "0" "of several nodes";
            api_server_count Any, "1" "listeners";
            additional_config Any, "{}" "of plug-ins";
        }
        NO_ADAPTERS_TO_BOUND {
            max_loras Any, "1" "adapters per step";
            max_lora_rank Any, "16" "size of adapters";
            max_cpu_loras Any, "null" "adapters in memory";
            lora_dtype Any, "\"auto\"" "type of adapters";
            lora_extra_vocab_size Any, "256" "tokens of adapters";
            lora_target_modules Any, "null" "layers of adapters";
            fully_sharded_loras Any, "false" "of adapters";
        }
    },
};

/// Only what needs no second model.
/// The ranges are those of the fields of requests.
static GENERATION: Object = Object {
    name: "GenerationConfig",
    is_open: false,
    fields: &[
        Field::new("temperature", between(0.0, 2.0), "null", "0 is greedy"),
        Field::new("top_p", Kind::Number { least: 0.0, most: 1.0, above: true }, "null", "nucleus"),
        Field::new("top_k", Whole(0, 4_294_967_295), "null", "0 is off"),
        Field::new("min_p", between(0.0, 1.0), "null", "of the most likely token's probability"),
        Field::new("repetition_penalty", POSITIVE, "null", "1 is none"),
        Field::new("presence_penalty", between(-2.0, 2.0), "null", "0 is none"),
        Field::new("frequency_penalty", between(-2.0, 2.0), "null", "0 is none"),
        Field::new(
            "max_new_tokens",
            Whole(1, 4_294_967_295),
            "null",
            "where a request has no max_tokens",
        ),
    ],
};

const fn between(least: f64, most: f64) -> Kind {
    Kind::Number { least, most, above: false }
}

static SPECULATIVE: Object = Object {
    name: "SpeculativeConfig",
    is_open: true,
    fields: &[
        Field::new(
            "method",
            Word(&["ngram"]),
            "",
            "what followed the same tokens before; a model that drafts is not there yet",
        )
        .required(),
        Field::new("num_speculative_tokens", Any, "null", "tokens per step").with(MEASURED),
        Field::new("prompt_lookup_min", Any, "null", "least tokens that agree").with(MEASURED),
        Field::new("prompt_lookup_max", Any, "null", "most tokens that agree").with(MEASURED),
    ],
};
const MEASURED: Fate = Ignored("it is as measurements say");
