//! The controller against a supervisor, replicas, proxies and a builder that only pretend.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod code;
mod files;
mod history;
mod lifecycle;
mod restart;
mod scale;
mod shapes;
mod support;
