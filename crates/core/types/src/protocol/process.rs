//! What the supervisor is asked, and what it tells.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A process that the supervisor shall run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Unique among the supervisor's processes; a replica's is its [`ReplicaId`].
    pub id: String,
    /// The program; absent is this same executable.
    #[serde(default)]
    pub executable: Option<PathBuf>,
    /// Arguments of the executable; the hidden `role` command is among them.
    pub args: Vec<String>,
    /// Where it runs; absent is where the supervisor does.
    #[serde(default)]
    pub working_dir: Option<PathBuf>,
    /// Added to the inherited environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The GPUs that it may see, by the names that the driver's variable takes; none says nothing of
    /// them.
    #[serde(default)]
    pub gpus: Vec<String>,
    /// It prepares itself, says so by the line [`PREPARED`], and waits for a [`Handover`]. Both go over
    /// a socket, which is its standard input.
    #[serde(default)]
    pub waits: bool,
    /// The process that waits and becomes this one; a new one is started where that one is not there,
    /// not prepared, or does not take it.
    #[serde(default)]
    pub takes: Option<String>,
    /// Replicas need it until they have ended: at the end of the node it is asked to end after them.
    #[serde(default)]
    pub outlasts_replicas: bool,
}

/// What a process that waits says when it is prepared.
pub const PREPARED: &str = "prepared";

/// One line of JSON: what a process that waited is from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// As if it had been started with them.
    pub args: Vec<String>,
    /// Variables that it sets.
    pub env: BTreeMap<String, String>,
}

/// Asks the supervisor to end a process: SIGTERM, and SIGKILL when the grace is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StopProcess {
    /// Seconds between SIGTERM and SIGKILL.
    pub grace_s: f64,
}

/// A process that runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// As in its [`ProcessSpec`].
    pub id: String,
    /// The operating system's id.
    pub pid: u32,
    /// The arguments it was started with, so that a new controller knows what it is.
    pub args: Vec<String>,
    /// The GPUs that it was given.
    #[serde(default)]
    pub gpus: Vec<String>,
    /// It is no replica yet: it waits to become one.
    #[serde(default)]
    pub waits: bool,
    /// It can become one now.
    #[serde(default)]
    pub is_prepared: bool,
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
    /// A process that waits has prepared itself.
    Prepared {
        /// Which.
        id: String,
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
