//! What is to run.

use super::{
    AutoscalingConfig, DeploymentActor, GangScheduling, JsonText, PrefixAffinity, PythonPolicy,
    PythonRouter,
};
use crate::{ApplicationName, DeploymentId, SamplingDefaults};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// An application as the controller is asked to run it: built, every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApplicationConfig {
    /// Its name.
    pub name: ApplicationName,
    /// Where it is mounted; absent takes no requests from outside.
    pub route_prefix: Option<String>,
    /// By which way it came.
    pub source: ApplicationSource,
    /// Whether the scale endpoint may set replica counts.
    #[serde(default)]
    pub external_scaler_enabled: bool,
    /// One policy for all of its deployments; absent leaves each to its own.
    #[serde(default)]
    pub autoscaling_policy: Option<ApplicationPolicy>,
    /// What was submitted, only with the fields that were given; null for one that was not.
    #[serde(default)]
    pub submitted: JsonText,
    /// In the order in which they call each other: the first takes requests from outside, and with
    /// it all others that serve models.
    pub deployments: Vec<Arc<DeploymentConfig>>,
}

/// By which way an application came, by Ray's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApplicationSource {
    /// Before there was a difference.
    #[default]
    Unknown,
    /// By a command or a program of its own.
    Imperative,
    /// In a config file; the next file replaces it.
    Declarative,
}

impl ApplicationSource {
    /// Ray's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Imperative => "imperative",
            Self::Declarative => "declarative",
        }
    }
}

/// A policy that sees all deployments of an application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum ApplicationPolicy {
    /// Deployments share a number of replicas, in proportion to what each of them asks for.
    SharedBudget {
        /// Replicas of all deployments together.
        max_total_replicas: u32,
    },
    /// Code of the application decides for all of its deployments, whatever their own policies are.
    Python(PythonPolicy),
}

/// A deployment as the controller is asked to run it: complete, every default filled in.
///
/// Options have Ray Serve's names, defaults and units; times are seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeploymentConfig {
    /// Its application's name and its own.
    #[serde(alias = "name")]
    pub id: DeploymentId,
    /// What a replica of it runs.
    #[serde(flatten)]
    pub workload: Workload,
    /// Names what replicas are made from: they are replaced when it changes. Empty leaves it to
    /// the workload, its environment and its resources.
    #[serde(default)]
    pub code_version: String,
    /// A fixed number of replicas; absent lets `autoscaling` decide.
    #[serde(default)]
    pub num_replicas: Option<u32>,
    /// How many replicas, when.
    pub autoscaling: AutoscalingConfig,
    /// Requests that a replica works on at a time.
    pub max_ongoing_requests: u32,
    /// Requests that may wait in each proxy; more are refused.
    pub max_queued_requests: u32,
    /// How a request is refused when the queue is full.
    #[serde(default)]
    pub backpressure: Backpressure,
    /// A request that has not begun to answer by then is ended with 504; waiting for a wake counts.
    /// An answer that pauses for so long is ended too.
    pub request_timeout_s: f64,
    /// Between SIGTERM and SIGKILL of a replica, for the requests it has.
    pub graceful_shutdown_timeout_s: f64,
    /// A replica that is not ready by then is ended and counts as a failed start.
    pub startup_timeout_s: f64,
    /// How replicas are asked for their health.
    #[serde(default)]
    pub health_check: HealthCheck,
    /// Failed starts in a row after which a version is given up.
    #[serde(default = "twenty")]
    pub max_constructor_retry_count: u32,
    /// How a new version replaces the old one.
    #[serde(default)]
    pub rollout: Rollout,
    /// What a replica takes of the machine.
    #[serde(default)]
    pub resources: Resources,
    /// Who gives way when memory is short.
    #[serde(default)]
    pub residency: Residency,
    /// Added to the environment of its replicas.
    #[serde(default)]
    pub env_vars: BTreeMap<String, String>,
    /// Handed to `reconfigure` of a running replica when it changes.
    #[serde(default)]
    pub user_config: Value,
    /// Interpreters that wait to become its replicas.
    #[serde(default, skip_serializing_if = "WarmPool::is_default")]
    pub warm: WarmPool,
    /// Objects in processes of their own, which its replicas share.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deployment_actors: Vec<DeploymentActor>,
    /// Code that chooses replicas; absent is the rule that is built in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_router: Option<Box<PythonRouter>>,
    /// Its replicas start and end in gangs; absent leaves each to itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gang_scheduling: Option<GangScheduling>,
    /// For a model: its replicas get prompts whose beginning they had before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_affinity: Option<PrefixAffinity>,
}

impl DeploymentConfig {
    /// Replicas of a gang; 1 where each is for itself.
    #[must_use]
    pub fn gang_size(&self) -> u32 {
        self.gang_scheduling.map_or(1, |gang| gang.gang_size.max(1))
    }

    /// Whether a replica that was made for this serves the other as well.
    #[must_use]
    pub fn has_code_of(&self, other: &Self) -> bool {
        if !self.code_version.is_empty() && !other.code_version.is_empty() {
            return self.code_version == other.code_version;
        }
        self.workload == other.workload
            && self.env_vars == other.env_vars
            && self.resources == other.resources
            && self.gang_scheduling == other.gang_scheduling
    }
}

/// What a record from before the field means.
fn twenty() -> u32 {
    20
}

/// Interpreters of Python that wait to become replicas of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WarmPool {
    /// How many wait.
    pub processes: u32,
    /// What they have imported by then.
    pub preload: Vec<String>,
}

impl WarmPool {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a replica runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// A language model on the engine inside.
    Model(ModelConfig),
    /// A deployment of a program.
    Program(ProgramConfig),
}

impl Workload {
    /// The model, where it is one.
    #[must_use]
    pub fn model(&self) -> Option<&ModelConfig> {
        match self {
            Self::Model(model) => Some(model),
            Self::Program(_) => None,
        }
    }
}

/// A deployment that a program of its own carries out.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ProgramConfig {
    /// The program; its replicas are processes of it.
    pub executable: PathBuf,
    /// Its arguments before `role`: an interpreter is told here what to interpret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Where it runs; absent is where the server does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<PathBuf>,
    /// Which of the program's deployments.
    pub deployment: String,
    /// What it is made from: arguments, and which other deployments it calls.
    #[serde(default)]
    pub init: Value,
}

/// How a request is refused when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Backpressure {
    /// 503 or 429.
    pub status_code: u16,
    /// Value of `Retry-After`, rounded up; absent is one second.
    pub retry_after_s: Option<f64>,
}

impl Default for Backpressure {
    fn default() -> Self {
        Self { status_code: 503, retry_after_s: None }
    }
}

/// How replicas are asked for their health.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Between the end of a check and the next.
    pub period_s: f64,
    /// A check without an answer by then has failed; so has one that finds an engine at work that
    /// has not finished a step for so long.
    pub timeout_s: f64,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { period_s: 10.0, timeout_s: 30.0 }
    }
}

/// How a new version replaces the old one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Share of the target that is replaced at a time, above 0 and up to 1.
    pub rolling_update_percentage: f64,
    /// Replicas beyond the target while it lasts, in percent of it. At least one is always allowed:
    /// no old replica goes before a new one is ready.
    pub max_surge_percent: u32,
    /// Whether a version that cannot be rolled out gives way to the one before.
    pub is_automatic_rollback: bool,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { rolling_update_percentage: 0.2, max_surge_percent: 0, is_automatic_rollback: true }
    }
}

/// What a replica takes of the machine. Shares of CPUs and GPUs are promises, not limits.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// CPUs.
    pub num_cpus: f64,
    /// GPUs, also fractions of one.
    pub num_gpus: f64,
    /// Bytes of memory; for a model absent is its plan.
    pub memory_bytes: Option<u64>,
    /// Others, by name.
    #[serde(default)]
    pub custom: BTreeMap<String, f64>,
    /// Replicas of this deployment on one machine.
    #[serde(default)]
    pub max_replicas_per_node: Option<u32>,
}

/// Who gives way when memory is short.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Residency {
    /// It never gives way.
    pub is_pinned: bool,
    /// Larger ones stay longer; among equals the one that was used last stays.
    pub priority: i32,
    /// It stays at least so long after it woke.
    pub min_residency_s: f64,
}

/// The model of a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// The public id, as in `/v1/models` and in `/generate`'s answer.
    pub id: String,
    /// The directory of the checkpoint.
    pub path: PathBuf,
    /// Further names by which clients may ask for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// What it is for.
    #[serde(default)]
    pub task: ModelTask,
    /// Largest prompt plus output, in tokens; absent is what the checkpoint says. `tyndall run` puts
    /// its plan here, so that clients can be told before the first wake.
    pub max_model_len: Option<u32>,
    /// Bytes of memory for weights and KV cache of one replica; absent is planned from the machine.
    pub memory_budget_bytes: Option<u64>,
    /// Sequences in one step.
    pub max_num_seqs: u32,
    /// Tokens in one step.
    pub max_num_batched_tokens: u32,
    /// Worker threads; absent is one per usable core.
    pub num_threads: Option<u32>,
    /// Tokens that followed the same tokens before are computed in advance where that pays.
    #[serde(default = "on")]
    pub speculation: bool,
    /// What weights are rounded to.
    #[serde(default)]
    pub quantization: Quantization,
    /// How conversations are written, where the model's files do not say it.
    #[serde(default, skip_serializing_if = "ChatConfig::is_empty")]
    pub chat: ChatConfig,
    /// Sampling where a request says nothing, over what the checkpoint says.
    #[serde(default, skip_serializing_if = "SamplingDefaults::is_empty")]
    pub sampling: SamplingDefaults,
    /// `/generate`'s defaults, from the seed's environment variables.
    pub generate: GenerateDefaults,
}

/// What a model is for, which is told by its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelTask {
    /// It writes text.
    #[default]
    Generate,
    /// It gives a vector for a text.
    Embed,
    /// It gives the probability of each label of a text.
    Classify,
    /// It gives one number for a pair of texts, or for a text.
    Score,
}

impl fmt::Display for ModelTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Generate => "generate",
            Self::Embed => "embed",
            Self::Classify => "classify",
            Self::Score => "score",
        })
    }
}

/// How conversations are written for a model; what is absent is told from its files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChatConfig {
    /// The form of calls, by the name of vLLM's parser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_parser: Option<String>,
    /// The form of thoughts, by the name of vLLM's parser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_parser: Option<String>,
    /// The source of the template. Before a model is built it may be the path of a file, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}

impl ChatConfig {
    /// Everything is told from the model's files.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a record from before the field means.
fn on() -> bool {
    true
}

/// What the weights of linear layers are rounded to when a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// Nothing: they are used as the checkpoint has them.
    #[default]
    None,
    /// 8 bits and a scale per 32.
    Int8,
    /// 4 bits and a scale per 32.
    Int4,
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        })
    }
}

impl FromStr for Quantization {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::None, Self::Int8, Self::Int4];
        let found = all.into_iter().find(|one| one.to_string() == text);
        found.ok_or_else(|| "none, int8 or int4".to_owned())
    }
}

/// What `/generate` uses where `generation_kwargs` says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GenerateDefaults {
    /// `MAX_NEW_TOKENS`.
    pub max_new_tokens: u32,
    /// `TEMPERATURE`; 0 is greedy.
    pub temperature: f32,
    /// `TOP_P`.
    pub top_p: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_the_release_before_is_read() {
        let old = serde_json::json!({
            "name": "org/m",
            "model": {
                "id": "org/m", "path": "/m", "max_model_len": 512, "memory_budget_bytes": null,
                "max_num_seqs": 64, "max_num_batched_tokens": 512, "num_threads": null,
                "generate": {"max_new_tokens": 80, "temperature": 0.8, "top_p": 0.95},
            },
            "autoscaling": {
                "min_replicas": 0, "max_replicas": 2, "target_ongoing_requests": 2.0,
                "upscale_delay_s": 0.0, "downscale_delay_s": 60.0,
                "downscale_to_zero_delay_s": 60.0,
            },
            "max_ongoing_requests": 8, "max_queued_requests": 256, "request_timeout_s": 600.0,
            "graceful_shutdown_timeout_s": 20.0, "startup_timeout_s": 600.0,
        });
        let config: DeploymentConfig = serde_json::from_value(old).unwrap();
        assert_eq!(config.id.to_string(), "org/m");
        assert_eq!(config.workload.model().unwrap().max_model_len, Some(512));
        assert_eq!(config.backpressure.status_code, 503);
        assert_eq!(config.max_constructor_retry_count, 20);
        assert_eq!(config.autoscaling.upscaling_factor, 1.0);
        let again = serde_json::to_value(&config).unwrap();
        assert_eq!(serde_json::from_value::<DeploymentConfig>(again).unwrap(), config);
    }

    #[test]
    fn a_program_of_the_release_before_is_read_and_written_as_it_was() {
        let old = serde_json::json!({"executable": "/p", "deployment": "D", "init": {"args": {}}});
        let program: ProgramConfig = serde_json::from_value(old.clone()).unwrap();
        assert_eq!((program.args.len(), program.working_dir.as_ref()), (0, None));
        assert_eq!(serde_json::to_value(&program).unwrap(), old);
        let python = ProgramConfig {
            args: vec!["-m".to_owned(), "m".to_owned()],
            working_dir: Some("/w".into()),
            ..program
        };
        let again = serde_json::to_value(&python).unwrap();
        assert_eq!(serde_json::from_value::<ProgramConfig>(again).unwrap(), python);
    }
}
