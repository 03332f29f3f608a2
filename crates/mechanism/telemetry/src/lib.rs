//! Metric names, registries, the merged metrics page, and logs.
//!
//! - [`Metric`]: every name there is, with kind and help. Nothing else writes a metric name.
//! - [`EngineMetrics`], [`ProxyMetrics`]: what a replica and a proxy count.
//! - [`exposition`]: one valid page out of the pages of several processes.
//! - [`init_logs`]: the log of a process, on standard error.
#![forbid(unsafe_code)]

mod engine;
pub mod exposition;
mod logs;
mod names;
mod proxy;

pub use engine::{EngineCounters, EngineLabels, EngineMetrics};
pub use logs::{LogError, LogFormat, LogOptions, init_logs};
pub use names::{Kind, Metric};
pub use proxy::ProxyMetrics;
