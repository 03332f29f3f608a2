//! One model of a file.

use super::LoggingOptions;
use super::deployment::{DeploymentOptions, DeploymentOverride, RouterOption};
use super::read;
use super::resolve::Base;
use crate::file::models::ModelNode;
use crate::file::node::{Node, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tyndall_types::protocol::{
    ChatConfig, DeploymentConfig, GenerateDefaults, ModelConfig, ModelTask, Quantization, Workload,
};
use tyndall_types::{ApplicationName, DeploymentId, DeploymentName, SamplingDefaults};

/// More threads than any machine has cores.
const MAX_THREADS: f64 = 4096.0;

/// A model as a file describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// What clients call it.
    pub model_id: String,
    /// What is served, as `tyndall run` takes it: a Hugging Face id or a path.
    pub source: String,
    /// Of its deployment: `LLMServer:` and its id, with `--` for `/` and `_` for `.`, where the file
    /// gives it no other.
    pub name: DeploymentName,
    /// Options of its deployment, those under `deployments` of the application laid over.
    pub options: DeploymentOptions,
    /// How it runs.
    pub engine: EngineOptions,
    /// Whether the file says that it is to write texts, or that it is to read them only; absent is as
    /// its files tell.
    pub generates: Option<bool>,
    /// How conversations are written.
    pub chat: ChatConfig,
    /// Further names by which clients may ask for it.
    pub aliases: Vec<String>,
    /// Sampling where a request says nothing.
    pub sampling: SamplingDefaults,
    /// Variables of its replicas: those of `logging_config`, then the application's, those of
    /// `ray_actor_options` and those of its own `runtime_env`, the later ones winning.
    pub env_vars: BTreeMap<String, String>,
}

/// What of `engine_kwargs` is carried out, with its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Largest prompt plus output, in tokens; absent is as the model and the memory allow.
    pub max_model_len: Option<u32>,
    /// Sequences in one step.
    pub max_num_seqs: u32,
    /// Tokens in one step; at least `max_num_seqs`.
    pub max_num_batched_tokens: u32,
    /// What weights are rounded to.
    pub quantization: Quantization,
    /// Tokens are computed in advance where that pays.
    pub speculation: bool,
    /// Bytes of the KV cache; absent is what the weights leave.
    pub kv_cache_memory_bytes: Option<u64>,
}

impl ModelSpec {
    pub(in crate::file) fn read(
        model: &ModelNode,
        app_env_vars: &BTreeMap<String, String>,
        app_logging: Option<&LoggingOptions>,
        overrides: &[DeploymentOverride],
    ) -> Self {
        let name = model.deployment_name().unwrap_or_default();
        let options = model.config.get("deployment_config");
        let mut options = options.map(DeploymentOptions::read).unwrap_or_default();
        options.bundles = model.config.get("placement_group_config").map(bundles);
        let over = overrides.iter().find(|one| one.name.as_str() == name);
        if let Some(over) = over {
            options = over.options.over(&options);
        }
        let actor_env_vars = options.actor.iter().flat_map(|actor| actor.env_vars.clone());
        let logging = options.logging.as_ref().or(app_logging);
        let mut env_vars: BTreeMap<String, String> =
            logging.iter().flat_map(|logging| logging.env_vars()).collect();
        env_vars.extend(app_env_vars.clone());
        env_vars.extend(actor_env_vars);
        env_vars.extend(read::env_vars(&model.config));
        Self {
            model_id: model.id().unwrap_or_default().to_owned(),
            source: model.source().and_then(Node::text).unwrap_or_default().to_owned(),
            name: DeploymentName::new(name).expect("names are checked"),
            options,
            engine: EngineOptions::read(model.config.get("engine_kwargs")),
            generates: generates(model.config.get("engine_kwargs")),
            chat: chat(model.config.get("engine_kwargs")),
            aliases: aliases(model.config.get("engine_kwargs")),
            sampling: sampling(model.config.get("engine_kwargs")),
            env_vars,
        }
    }

    /// Its deployment in an application.
    #[must_use]
    pub fn id(&self, application: &ApplicationName) -> DeploymentId {
        DeploymentId { application: application.clone(), deployment: self.name.clone() }
    }

    /// Bytes that the file gives a replica for weights and KV cache, where it does.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        self.options.resources_of_model().memory_bytes
    }

    /// What the controller is asked to run. The caller knows where the checkpoint is, what it is for,
    /// and what was planned for it: `memory_budget_bytes`, else what the file says; `max_model_len`,
    /// else what the file says.
    #[must_use]
    pub fn to_deployment(
        &self,
        application: &ApplicationName,
        (path, task): (PathBuf, ModelTask),
        memory_budget_bytes: Option<u64>,
        max_model_len: Option<u32>,
        http_request_timeout_s: Option<f64>,
    ) -> DeploymentConfig {
        let resources = self.options.resources_of_model();
        let threads = resources.num_cpus.ceil().min(MAX_THREADS) as u32;
        let engine = self.engine;
        let model = ModelConfig {
            id: self.model_id.clone(),
            path,
            aliases: self.aliases.clone(),
            task,
            max_model_len: max_model_len.or(engine.max_model_len),
            memory_budget_bytes: memory_budget_bytes.or(resources.memory_bytes),
            max_num_seqs: engine.max_num_seqs,
            max_num_batched_tokens: engine.max_num_batched_tokens,
            num_threads: (threads > 0).then_some(threads),
            speculation: engine.speculation,
            quantization: engine.quantization,
            chat: self.chat.clone(),
            sampling: self.sampling,
            generate: generate(),
        };
        let max_ongoing_requests = read::default_of("max_ongoing_requests");
        let at_a_time = self.options.max_ongoing_requests.unwrap_or(max_ongoing_requests);
        let base = Base {
            max_ongoing_requests,
            target_ongoing_requests: engine.target_ongoing_requests(at_a_time),
            resources,
            env_vars: &self.env_vars,
            logging: None,
            http_request_timeout_s,
        };
        // What was planned differs with the memory that is free just now: it is no other model.
        let written = ModelConfig {
            max_model_len: engine.max_model_len,
            memory_budget_bytes: base.resources.memory_bytes,
            ..model.clone()
        };
        let code = serde_json::json!([written, base.resources, self.env_vars]);
        let mut config = self.options.resolve(self.id(application), Workload::Model(model), base);
        config.code_version = code_version(&code);
        // These have been joined in their own order.
        config.env_vars.clone_from(&self.env_vars);
        config.user_config = serde_json::Value::Null;
        if let Some(RouterOption::PrefixCache(affinity)) = &self.options.request_router {
            config.prefix_affinity = Some(*affinity);
        }
        config
    }
}

/// A short name of what something is made from: equal for equal values. 64-bit FNV-1a.
#[must_use]
pub fn code_version(of: &serde_json::Value) -> String {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let bytes = of.to_string().into_bytes();
    let hash = bytes.iter().fold(BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME));
    format!("{hash:016x}")
}

impl EngineOptions {
    fn read(node: Option<&Node>) -> Self {
        let whole = |name| node.and_then(|node| read::whole(node, name));
        let (seqs, tokens) = (whole("max_num_seqs"), whole("max_num_batched_tokens"));
        let default_seqs: u32 = read::default_of("max_num_seqs");
        let default_tokens: u32 = read::default_of("max_num_batched_tokens");
        // A default gives way to what is written of the other.
        let max_num_seqs = seqs.unwrap_or(default_seqs.min(tokens.unwrap_or(u32::MAX)));
        let quantization = node.and_then(|node| read::text(node, "quantization"));
        Self {
            max_model_len: node.and_then(|node| node.get("max_model_len")?.tokens()),
            max_num_seqs,
            max_num_batched_tokens: tokens.unwrap_or(default_tokens.max(max_num_seqs)),
            quantization: quantization
                .and_then(|text| text.to_ascii_lowercase().parse().ok())
                .unwrap_or_default(),
            speculation: node.is_none_or(|node| {
                // Null is off, as in vLLM; what is not written is left to measurements.
                !node.has("speculative_config") || node.get("speculative_config").is_some()
            }),
            kv_cache_memory_bytes: node.and_then(|node| node.get("kv_cache_memory_bytes")?.bytes()),
        }
    }

    /// Half of what a replica works on at a time. Ray Serve's own default for models, 10⁹, never
    /// adds a replica.
    fn target_ongoing_requests(self, max_ongoing_requests: u32) -> f64 {
        (f64::from(self.max_num_seqs.min(max_ongoing_requests)) / 2.0).max(1.0)
    }
}

/// By vLLM's old word for it, or its newer two.
fn generates(node: Option<&Node>) -> Option<bool> {
    let word = |name| read::text(node?, name);
    match (word("task"), word("runner"), word("convert")) {
        (Some("generate"), _, _) | (_, Some("generate"), _) => Some(true),
        (Some("embed" | "embedding" | "classify" | "score"), _, _)
        | (_, Some("pooling"), _)
        | (_, _, Some("embed" | "classify")) => Some(false),
        _ => None,
    }
}

fn chat(node: Option<&Node>) -> ChatConfig {
    let text = |name| read::text(node?, name).map(str::to_owned);
    ChatConfig {
        tool_call_parser: text("tool_call_parser"),
        reasoning_parser: text("reasoning_parser"),
        template: text("chat_template"),
    }
}

fn aliases(node: Option<&Node>) -> Vec<String> {
    let Some(names) = node.and_then(|node| node.get("served_model_name")) else {
        return Vec::new();
    };
    let names = names.text().into_iter().chain(names.items().iter().filter_map(Node::text));
    names.map(str::to_owned).collect()
}

fn sampling(node: Option<&Node>) -> SamplingDefaults {
    let Some(said) = node.and_then(|node| node.get("override_generation_config")) else {
        return SamplingDefaults::default();
    };
    let number = |name| read::number(said, name).map(|value| value as f32);
    SamplingDefaults {
        temperature: number("temperature"),
        top_p: number("top_p"),
        top_k: read::whole(said, "top_k"),
        min_p: number("min_p"),
        repetition_penalty: number("repetition_penalty"),
        presence_penalty: number("presence_penalty"),
        frequency_penalty: number("frequency_penalty"),
        max_new_tokens: read::whole(said, "max_new_tokens"),
    }
}

/// `/generate`'s, as `tyndall run` has them.
fn generate() -> GenerateDefaults {
    GenerateDefaults {
        max_new_tokens: read::default_of("max_new_tokens"),
        temperature: read::default_of("temperature"),
        top_p: read::default_of("top_p"),
    }
}

fn bundles(placement: &Node) -> Vec<BTreeMap<String, f64>> {
    let list = placement.get("bundles").map_or(&[][..], Node::items).iter();
    let one = placement.get("bundle_per_worker");
    list.chain(one).filter(|it| it.value != Value::Null).map(read::amounts).collect()
}
