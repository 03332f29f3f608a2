//! What the supervisor is asked, and what it tells.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A process that the supervisor shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
