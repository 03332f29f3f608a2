//! One file per command.

mod admin;
pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod delete;
pub(crate) mod plan;
pub(crate) mod pull;
pub(crate) mod run;
pub(crate) mod shutdown;
pub(crate) mod status;
