//! One file per command, and what several of them need.

mod admin;
pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod delete;
pub(crate) mod deploy;
mod files;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod keys;
mod node;
pub(crate) mod plan;
pub(crate) mod pull;
pub(crate) mod python;
pub(crate) mod run;
pub(crate) mod runtime_env;
pub(crate) mod shutdown;
pub(crate) mod simulate;
pub(crate) mod start;
pub(crate) mod status;
mod template;
mod yaml;

pub(crate) use admin::token;
