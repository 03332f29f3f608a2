//! The control plane in virtual time: what `tyndall simulate` runs, and what its promises are tested
//! with.
//!
//! Real are the decisions: `control::State` decides, and a `routing::Dispatcher` per proxy and
//! deployment queues requests and chooses replicas. Pretended is what they act on: processes that
//! start and serve by a [`LatencyModel`], links with a delay, and [`Faults`]. Nothing here reads a
//! clock: time jumps from one event to the next, and the same seed, configuration and trace give
//! the same outcome, whatever the machine.
//!
//! 1. [`simulate`] makes a [`SimConfig`] of a config file, or the caller does.
//! 2. [`Simulation::run`] takes arrivals in the order of time ([`Trace`]) and gives an [`Outcome`].
//! 3. The outcome is text, JSON or a page: [`Outcome::to_text`], [`Outcome::to_json`],
//!    [`Outcome::to_html`].
//!
//! What is not modelled: bodies and tokens (a request is a time of service), the time that deciding
//! takes, and where in a cluster a replica best goes (the controller knows one sum of resources;
//! nodes only share the fate of their replicas).
#![forbid(unsafe_code)]

mod agenda;
mod args;
mod error;
mod faults;
mod file;
mod generate;
mod histogram;
mod latency;
mod outcome;
mod random;
mod record;
mod report;
mod run;
mod simulation;
mod trace;

#[cfg(test)]
mod tests;

pub use args::{SimulateArgs, run};
pub use error::SimError;
pub use faults::{Fault, Faults};
pub use file::{Options, ReadModel, Scenario, TraceSource, applications, simulate};
pub use latency::{LatencyModel, Time};
pub use outcome::{Decision, DeploymentOutcome, Latencies, Outcome, Point, Totals};
pub use simulation::{SimConfig, Simulation};
pub use trace::{Arrival, Trace};
pub use tyndall_control::Capacity;
