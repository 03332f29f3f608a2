//! Metric names, registries, the merged metrics page, and logs.
//!
//! - [`Metric`]: every name there is, with kind and help. Nothing else writes a metric name.
//! - [`EngineMetrics`], [`ProgramMetrics`], [`ProxyMetrics`]: what a replica of a model, a replica of
//!   a program and a proxy count.
//! - [`KeyMetrics`]: what a proxy counts of API keys.
//! - [`exposition`]: one valid page out of the pages of several processes.
//! - [`init_logs`]: the log of a process, on standard error.
#![forbid(unsafe_code)]

mod engine;
pub mod exposition;
mod histogram;
mod keys;
mod logs;
mod names;
mod program;
mod proxy;

pub use engine::{EngineCounters, EngineLabels, EngineMetrics};
pub use keys::KeyMetrics;
pub use logs::{LogError, LogFormat, LogOptions, init_logs};
pub use names::{Kind, Metric};
pub use program::{BatchMetrics, ModelMetrics, ProgramLabels, ProgramMetrics};
pub use proxy::ProxyMetrics;
