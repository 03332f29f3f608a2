//! The supervisor: starts, watches and stops the processes of one machine.
//!
//! It has no policy. The controller and the proxy are its own roles, which it starts again when they
//! die; replicas are started and stopped as the controller asks on `supervisor.sock`.
//!
//! How nothing is left behind, whoever is killed:
//!
//! - every child asks the kernel to be killed when its parent dies ([`process::prepare_child`]);
//!   the parent is the supervisor's main thread, which lives as long as the supervisor;
//! - every child leads a process group of its own, which is killed when the child is gone, while
//!   its id is still held, so that no stranger can be hit;
//! - exits are seen through pidfds, so there is no period in which one could be missed.
#![forbid(unsafe_code)]

mod api;
pub mod process;
mod processes;
mod roles;
mod runtime_dir;
mod supervisor;
mod waiting;

pub use processes::SpawnError;
pub use runtime_dir::{NodeDir, RuntimeDirError};
pub use supervisor::{
    ExitSummary, NotReady, ShutdownTrigger, StartError, Supervisor, SupervisorOptions,
};
