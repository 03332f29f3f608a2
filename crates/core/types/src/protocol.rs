//! The messages between supervisor, controller, proxy and replica: JSON bodies over HTTP on Unix
//! sockets, so that `curl --unix-socket` can read along.
//!
//! | from → to | request | body → answer |
//! |---|---|---|
//! | controller → supervisor | `POST /-/processes` | [`ProcessSpec`] → [`ProcessInfo`] |
//! | | `POST /-/processes/{id}/stop` | [`StopProcess`] → 202 |
//! | | `GET /-/processes` | → `[ProcessInfo]` |
//! | | `GET /-/events` | → one [`ProcessEvent`] per line, first a snapshot, never ending |
//! | | `POST /-/shutdown` | → 202: as if the supervisor had got SIGTERM |
//! | proxy → controller | `GET /-/proxies/{id}/routes` | → one [`RouteTable`] per line at every change, never ending; the proxy is alive as long as it reads |
//! | | `POST /-/proxies/{id}/demand` | [`DemandReport`] → 204 |
//! | replica → controller | `POST /-/replicas/{id}/report` | [`ReplicaReport`] → 204 |
//! | cli → controller | `PUT /-/deployments/{name}` | [`DeploymentConfig`] → 204 |
//! | controller → replica | `GET /-/status` | → [`ReplicaStatus`] |
//! | proxy → replica | the public routes | as the client sent them |
//!
//! Sockets lie in the node's runtime directory: see [`RuntimeDir`].

use crate::{ApplicationStatus, DeploymentName, DeploymentStatus, ReplicaId, ReplicaState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where the processes of one node find each other's sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeDir(pub PathBuf);

impl RuntimeDir {
    /// The supervisor's socket.
    #[must_use]
    pub fn supervisor_socket(&self) -> PathBuf {
        self.0.join("supervisor.sock")
    }

    /// The controller's socket.
    #[must_use]
    pub fn controller_socket(&self) -> PathBuf {
        self.0.join("controller.sock")
    }

    /// A replica's socket.
    #[must_use]
    pub fn replica_socket(&self, id: &ReplicaId) -> PathBuf {
        self.0.join(format!("{id}.sock"))
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// A process that the supervisor shall run: this same executable in another role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Unique among the supervisor's processes; a replica's is its [`ReplicaId`].
    pub id: String,
    /// Arguments of the executable, starting with the hidden `role` command.
    pub args: Vec<String>,
    /// Added to the inherited environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// Asks the supervisor to end a process: SIGTERM, and SIGKILL when the grace is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StopProcess {
    /// Seconds between SIGTERM and SIGKILL.
    pub grace_s: f64,
}

/// A process that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// As in its [`ProcessSpec`].
    pub id: String,
    /// The operating system's id.
    pub pid: u32,
    /// The arguments it was started with, so that a new controller knows what it is.
    pub args: Vec<String>,
}

/// What happened to a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ProcessEvent {
    /// Sent once, first: all that runs.
    Snapshot {
        /// The replicas' processes; the supervisor's own roles are not listed.
        processes: Vec<ProcessInfo>,
    },
    /// A process runs.
    Started {
        /// Which.
        process: ProcessInfo,
    },
    /// A process is gone, whatever the reason.
    Exited {
        /// Which.
        id: String,
        /// Its exit code, when it exited by itself.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// The node ends: replicas end from now on because they are told to, none is to be started.
    ShuttingDown,
}

/// A deployment as the controller is asked to run it: complete, every default filled in.
///
/// At this stage one deployment is one application of the same name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeploymentConfig {
    /// Its name, and its application's.
    pub name: DeploymentName,
    /// What it serves.
    pub model: ModelConfig,
    /// How many replicas, when.
    pub autoscaling: AutoscalingConfig,
    /// Requests that a replica works on at a time.
    pub max_ongoing_requests: u32,
    /// Requests that may wait in each proxy; more are refused with 503.
    pub max_queued_requests: u32,
    /// A request that has not begun to answer by then is ended with 504; waiting for a wake counts.
    /// An answer that pauses for so long is ended too.
    pub request_timeout_s: f64,
    /// Between SIGTERM and SIGKILL of a replica, for the requests it has.
    pub graceful_shutdown_timeout_s: f64,
    /// A replica that is not ready by then is ended and counts as a failed start.
    pub startup_timeout_s: f64,
}

/// The model of a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// The public id, as in `/v1/models` and in `/generate`'s answer.
    pub id: String,
    /// The directory of the checkpoint.
    pub path: PathBuf,
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
    /// `/generate`'s defaults, from the seed's environment variables.
    pub generate: GenerateDefaults,
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

/// Ray Serve's autoscaling fields that are carried out so far, by Ray's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AutoscalingConfig {
    /// Never fewer; 0 allows scale to zero.
    pub min_replicas: u32,
    /// Never more.
    pub max_replicas: u32,
    /// Ongoing and queued requests per replica that the autoscaler aims at.
    pub target_ongoing_requests: f64,
    /// How long more load must last before replicas are added; the first replica never waits.
    pub upscale_delay_s: f64,
    /// How long less load must last before replicas are removed.
    pub downscale_delay_s: f64,
    /// How long there must be no request before the last replica goes.
    pub downscale_to_zero_delay_s: f64,
}

/// What a proxy knows of the load; counts are exact, pushed at every change.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DemandReport {
    /// Grows by one with each report of one proxy process, so that an overtaken one is dropped.
    pub sequence: u64,
    /// Every deployment with a count above zero; those not named are at zero.
    pub deployments: Vec<Demand>,
}

/// The load of one deployment at one proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Which.
    pub deployment: DeploymentName,
    /// Requests that wait for a replica.
    pub queued: u32,
    /// Requests that a replica has, up to the last byte of the answer.
    pub ongoing: u32,
}

/// Phases of a wake, in order, in seconds. Their sum is the time from the decision to the end.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ColdStartPhases(pub Vec<(String, f64)>);

impl ColdStartPhases {
    /// From ready to the first request in the engine: the news goes to the proxies, the waiting
    /// request comes back and is tokenized. It is part of a wake only if a request waited for it.
    pub const HANDOVER: &str = "handover";
    /// From the first request in the engine to its first token.
    pub const FIRST_STEP: &str = "first_step";

    /// The phases that come after those of [`ReplicaReport::Ready`].
    pub fn after_ready(&self) -> impl Iterator<Item = &(String, f64)> {
        self.0
            .iter()
            .filter(|(name, _)| [Self::HANDOVER, Self::FIRST_STEP].contains(&name.as_str()))
    }
}

/// What a replica tells the controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum ReplicaReport {
    /// It answers requests on its socket.
    Ready {
        /// What it took to get there, since the process began.
        phases: ColdStartPhases,
        /// What it serves.
        card: ModelCard,
    },
    /// Its first request got its first token.
    FirstToken {
        /// The phases up to here: those of `Ready`, then `handover` and `first_step`.
        phases: ColdStartPhases,
    },
    /// It cannot start; its process ends next.
    Failed {
        /// One line of cause and one of cure.
        reason: String,
    },
}

/// What a replica says of itself when asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Its id.
    pub replica_id: ReplicaId,
    /// Starting, running or stopping.
    pub state: ReplicaState,
    /// Requests it has.
    pub ongoing: u32,
    /// Absent until it is running.
    pub card: Option<ModelCard>,
}

/// The facts of a loaded model that clients may see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard {
    /// Largest prompt plus output, in tokens.
    pub max_model_len: u32,
    /// KV blocks of the replica.
    pub num_kv_blocks: u32,
    /// Tokens per KV block.
    pub block_size: u32,
}

/// Everything that a proxy needs to route; replaces the one before as a whole.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RouteTable {
    /// Grows with every change.
    pub version: u64,
    /// In the order they were deployed; the first is the default of `/generate`.
    pub deployments: Vec<DeploymentRoute>,
}

/// One deployment in a [`RouteTable`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeploymentRoute {
    /// Its name.
    pub deployment: DeploymentName,
    /// The public model id.
    pub model_id: String,
    /// Unix seconds of its deployment, for `/v1/models`.
    pub created_s: u64,
    /// As in [`DeploymentConfig`].
    pub max_ongoing_requests: u32,
    /// As in [`DeploymentConfig`].
    pub max_queued_requests: u32,
    /// As in [`DeploymentConfig`].
    pub request_timeout_s: f64,
    /// As in [`ModelConfig`].
    pub generate: GenerateDefaults,
    /// Largest prompt plus output, in tokens: what a replica last said, before that what is
    /// configured.
    pub max_model_len: Option<u32>,
    /// Those that take requests; a replica that drains is not here.
    pub replicas: Vec<ReplicaRoute>,
    /// No replica can be had: waiting requests and new ones fail with this.
    pub unavailable: Option<Unavailable>,
}

/// A replica in a [`RouteTable`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRoute {
    /// Which.
    pub id: ReplicaId,
    /// Where it listens.
    pub socket: PathBuf,
}

/// Why a deployment has no replica and will not have one soon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unavailable {
    /// One line of cause and one of cure.
    pub reason: String,
    /// Seconds until the next try may succeed.
    pub retry_after_s: f64,
}

/// `GET /api/serve/applications/`: the parts of Ray Serve's `ServeInstanceDetails` that we have,
/// and what `tyndall status` prints.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct InstanceDetails {
    /// By name.
    pub applications: BTreeMap<String, ApplicationDetails>,
}

/// One application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApplicationDetails {
    /// Its name.
    pub name: String,
    /// Where it is mounted.
    pub route_prefix: String,
    /// How it is doing.
    pub status: ApplicationStatus,
    /// Why, in words; empty when there is nothing to say.
    pub message: String,
    /// Unix seconds of its last deployment.
    pub last_deployed_time_s: f64,
    /// By name.
    pub deployments: BTreeMap<String, DeploymentDetails>,
}

/// One deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeploymentDetails {
    /// Its name.
    pub name: String,
    /// How it is doing.
    pub status: DeploymentStatus,
    /// Why the status last changed, by Ray's words, such as `AUTOSCALING`.
    pub status_trigger: String,
    /// Why, in words; empty when there is nothing to say.
    pub message: String,
    /// The public model id.
    pub model_id: String,
    /// What the autoscaler wants.
    pub target_num_replicas: u32,
    /// Requests waiting in all proxies.
    pub queued_requests: u32,
    /// Requests that replicas have.
    pub ongoing_requests: u32,
    /// Every replica whose process may still run.
    pub replicas: Vec<ReplicaDetails>,
}

/// One replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaDetails {
    /// Its id.
    pub replica_id: ReplicaId,
    /// Where it is in its life.
    pub state: ReplicaState,
    /// Its process, when it runs.
    pub pid: Option<u32>,
    /// Unix seconds at which it was asked for.
    pub start_time_s: f64,
    /// Seconds that the state has lasted.
    pub since_s: f64,
    /// Why it is in a state that is not final, and what happens next.
    pub message: String,
    /// Seconds until the controller acts on its own, where the state has a deadline.
    pub deadline_s: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_tagged_by_what_happened() {
        let line = serde_json::to_string(&ProcessEvent::Exited {
            id: "r".into(),
            code: None,
            signal: Some(9),
        })
        .unwrap();
        assert_eq!(line, r#"{"event":"exited","id":"r","code":null,"signal":9}"#);
        let report: ReplicaReport =
            serde_json::from_str(r#"{"report":"failed","reason":"no such model"}"#).unwrap();
        assert_eq!(report, ReplicaReport::Failed { reason: "no such model".into() });
    }
}
