//! One copy of one model behind a socket: admission, streaming, drain.
//!
//! Life of the process: 1. bind the socket, so that `/-/status` says STARTING at once; 2. load the
//! tokenizer beside the model; 3. tell the controller that it is ready, or why it never will be;
//! 4. serve; 5. on SIGTERM refuse what is new, finish what was begun, stop the engine. An engine
//! that dies ends the process with an error, so that the controller replaces it. One that hangs shows
//! in the age of its last step, which `/-/status` tells without asking the engine's thread.
//!
//! A request is text in and text out: [`text_stream`] turns tokens to text, detects stop strings
//! and reports the end, one sequence each; [`job`] joins the sequences of a request; the routes
//! write them as JSON or as server-sent events. A model that only reads texts has an engine and
//! routes of its own ([`encoder`]). Dropping a response anywhere drops its sequences,
//! which the engine forgets before its next step.
#![forbid(unsafe_code)]

mod answering;
mod app;
mod chat;
mod completion;
mod encoder;
mod engine_load;
mod error;
mod events;
mod family;
mod generate;
mod infill;
mod job;
mod life;
mod load;
mod logprobs;
mod message;
mod messages;
mod phases;
mod ready;
mod report;
mod responses;
mod served;
mod structure;
mod text_stream;
mod timing;
mod tokenize;

#[cfg(test)]
mod tests;

pub use error::ReplicaError;
pub use life::{run, run_until};

use std::time::Instant;
use tyndall_types::ReplicaId;
use tyndall_types::protocol::{DeploymentConfig, RuntimeDir};

/// What a replica is started with.
#[derive(Debug, Clone)]
pub struct ReplicaOptions {
    /// Where the controller's and this replica's sockets are.
    pub runtime_dir: RuntimeDir,
    /// Names this replica.
    pub id: ReplicaId,
    /// What it serves: a model. A program brings its own replicas.
    pub config: DeploymentConfig,
    /// When the process began; cold-start phases count from here.
    pub started_at: Instant,
    /// What the machine has for models, when the deployment names no budget.
    pub available_memory_bytes: u64,
    /// Instruction set of the kernels; none takes the best.
    pub isa: Option<tyndall_kernels::Isa>,
    /// For what would be kept beside the model, where that cannot be written; absent keeps nothing
    /// then.
    pub cache_dir: Option<std::path::PathBuf>,
}
