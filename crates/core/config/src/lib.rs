//! Environment and flags in, resolved configuration out.
//!
//! Every setting is one row of [`SETTINGS`]: its flag, its variables, its default and its help. A
//! value is taken from the flag, else from the `TYNDALL_` variable, else from the variable that the
//! Ray Serve examples use, else from the row's default, and goes through one parser whatever its
//! origin. [`resolve`] checks all of it before anything starts; a bad value is one error that names
//! where it came from and what is accepted. Nothing here reads the process's environment: it is
//! handed in.
#![forbid(unsafe_code)]

mod cors;
mod error;
pub mod file;
mod grpc;
mod node;
mod origin;
mod parse;
mod resolve;
mod role;
mod settings;

pub use error::ConfigError;
pub use grpc::GrpcSettings;
pub use node::NodeResources;
pub use origin::{Effective, Environment, Origin, RawSettings, Sourced};
pub use parse::{human_bytes, parse_bytes, parse_seconds};
pub use resolve::{
    ApiKeys, Limits, LogFormat, ModelSettings, Network, RunConfig, Scaling, resolve,
};
pub use role::{Isa, RoleConfig};
pub use settings::{Group, SETTINGS, Setting, setting};
