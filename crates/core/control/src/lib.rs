//! Desired and observed state in, actions out: the state machines of deployments and replicas.
//!
//! [`State::apply`] takes one [`Event`] and the time and returns the [`Action`]s to carry out, in
//! this order; [`State::next_deadline`] says when to come back with [`Event::DeadlinePassed`] if
//! nothing happens before. There is no period: between events and deadlines nothing is due.
//!
//! Life of a replica (`ReplicaState`, by Ray's names):
//!
//! 1. STARTING: its process was asked for. Deadline: `startup_timeout_s`.
//! 2. RUNNING: it reported ready; only now is it in the route table.
//! 3. STOPPING: it has left the route table, then its process was asked to end. Deadline: the grace
//!    time and a little more; then it is killed.
//! 4. STOPPED: its process is gone. It is forgotten at once; ids are never used again.
//!
//! RECOVERING stands before 2 for a process that a new controller found: it is asked for its status
//! until it answers.
//!
//! Replicas of a deployment with gangs start, stop and fail in whole ones: see `gangs.rs`.
//!
//! Failures never loop: each failed start makes the next one wait longer (see [`Backoff`]), and
//! while it waits the route table carries the reason, so that proxies answer instead of waiting.
#![forbid(unsafe_code)]

mod actors;
mod application;
mod applications;
mod backoff;
mod deadlines;
mod demand;
mod deployment;
mod event;
mod gangs;
mod ids;
mod ledger;
mod policies;
mod reconcile;
mod replica;
mod room;
mod routers;
mod sidecar;
mod state;
mod status;
mod view;
mod warm;

pub use application::Fallback;
pub use backoff::Backoff;
pub use event::{Action, Event, Exit, FoundActor, FoundReplica, Notice, PolicyOutcome};
pub use ledger::Capacity;
pub use sidecar::SidecarConfig;
pub use state::State;
pub use tyndall_autoscaling::{CapacityDirection, Instant, seconds};

#[cfg(test)]
mod proptests;
#[cfg(test)]
mod tests;
