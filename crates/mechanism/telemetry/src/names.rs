//! Every metric of every process: the only place where their names are written.

use prometheus_client::registry::{Metric as Collected, Registry};

/// How a series behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by bucket.
    Histogram,
}

impl Kind {
    /// As the text format writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

macro_rules! metrics {
    ($($variant:ident = $kind:ident $name:literal $help:literal,)*) => {
        /// A metric of this project.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Metric {
            $(#[doc = $help] $variant,)*
        }

        impl Metric {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name on the metrics page; its last words are the unit.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence.
            #[must_use]
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }

            /// How it behaves.
            #[must_use]
            pub fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }
        }
    };
}

metrics! {
    // Engine, one replica each.
    TimeToFirstToken = Histogram "tyndall_time_to_first_token_seconds"
        "Seconds from a request's arrival at the replica to its first token",
    InterTokenLatency = Histogram "tyndall_inter_token_latency_seconds"
        "Seconds between neighbouring output tokens of one request",
    RequestLatency = Histogram "tyndall_request_latency_seconds"
        "Seconds from a request's arrival at the replica to its last token",
    RequestQueueTime = Histogram "tyndall_request_queue_time_seconds"
        "Seconds that a request waited in the engine before its first step",
    RequestPrefillTime = Histogram "tyndall_request_prefill_time_seconds"
        "Seconds from a request's first step to its first token",
    RequestDecodeTime = Histogram "tyndall_request_decode_time_seconds"
        "Seconds from a request's first to its last token",
    PromptTokens = Counter "tyndall_prompt_tokens_total"
        "Prompt tokens of all requests",
    GenerationTokens = Counter "tyndall_generation_tokens_total"
        "Output tokens of all requests",
    RequestsRunning = Gauge "tyndall_requests_running"
        "Sequences in the engine's batch",
    RequestsWaiting = Gauge "tyndall_requests_waiting"
        "Sequences that wait for a place in the engine's batch",
    KvCacheUsage = Gauge "tyndall_kv_cache_usage_ratio"
        "Share of the KV blocks in use, 0 to 1",
    Preemptions = Counter "tyndall_preemptions_total"
        "Sequences that gave their KV blocks back to be computed again",
    PrefixCacheQueries = Counter "tyndall_prefix_cache_queries_total"
        "Prompt tokens looked up in the prefix cache",
    PrefixCacheHits = Counter "tyndall_prefix_cache_hits_total"
        "Prompt tokens found in the prefix cache",
    DraftTokens = Counter "tyndall_spec_decode_draft_tokens_total"
        "Tokens computed in advance because they followed the same tokens before",
    AcceptedTokens = Counter "tyndall_spec_decode_accepted_tokens_total"
        "Tokens computed in advance that were then sampled",
    EngineSteps = Counter "tyndall_engine_steps_total"
        "Forward passes of the model",
    RequestSuccess = Counter "tyndall_request_success_total"
        "Finished sequences by finish reason",
    // Proxy.
    HttpRequests = Counter "tyndall_http_requests_total"
        "Answered HTTP requests by handler, method and status",
    HttpRequestDuration = Histogram "tyndall_http_request_duration_seconds"
        "Seconds from an HTTP request's head to the last byte of its answer",
    QueuedRequests = Gauge "tyndall_queued_requests"
        "Requests that wait in the proxy for a replica",
    OngoingRequests = Gauge "tyndall_ongoing_requests"
        "Requests that a replica has, up to the last byte of the answer",
    RequestWait = Histogram "tyndall_request_wait_seconds"
        "Seconds that a request waited in the proxy, by phase: queue or wake",
    RequestRetries = Counter "tyndall_request_retries_total"
        "Requests that were given to another replica, by reason",
    RequestsRefused = Counter "tyndall_requests_refused_total"
        "Requests refused by the proxy, by reason",
    StreamsBroken = Counter "tyndall_streams_broken_total"
        "Answers that ended early because their replica was lost",
    // Proxy, by API key.
    ApiKeyRequests = Counter "tyndall_api_key_requests_total"
        "Requests that were taken, by API key",
    ApiKeyPromptTokens = Counter "tyndall_api_key_prompt_tokens_total"
        "Tokens of prompts, by API key",
    ApiKeyCachedTokens = Counter "tyndall_api_key_cached_tokens_total"
        "Tokens of prompts that were found in the prefix cache, by API key",
    ApiKeyCompletionTokens = Counter "tyndall_api_key_completion_tokens_total"
        "Tokens of completions, by API key",
    ApiKeyRefused = Counter "tyndall_api_key_requests_refused_total"
        "Requests that were refused, by API key and reason",
    RequestsUnauthorized = Counter "tyndall_requests_unauthorized_total"
        "Requests without an API key that is known",
    // Controller.
    Replicas = Gauge "tyndall_replicas"
        "Replicas by state",
    Wakes = Counter "tyndall_wakes_total"
        "Times that a deployment went from no replica to one",
    ColdStart = Histogram "tyndall_cold_start_seconds"
        "Seconds of each phase of a replica's start",
    ReplicaFailures = Counter "tyndall_replica_failures_total"
        "Replicas that ended without being asked to",
    WarmStarts = Counter "tyndall_warm_starts_total"
        "Starts of replicas of deployments with warm processes, by outcome: taken or missed",
    // Replica of a program; the names are Ray's, as its own page has them.
    DeploymentRequests = Counter "ray_serve_deployment_request_counter_total"
        "Requests and calls that a replica answered without an error",
    DeploymentErrors = Counter "ray_serve_deployment_error_counter_total"
        "Requests and calls that ended with an error, by its kind",
    DeploymentLatency = Histogram "ray_serve_deployment_processing_latency_ms"
        "Milliseconds from a request's arrival at the replica to the last byte of its answer",
    ProcessingQueries = Gauge "ray_serve_replica_processing_queries"
        "Requests that a replica works on",
    ReservedSlots = Gauge "ray_serve_reserved_slots_active"
        "Places that a replica keeps for calls that have not come",
    BatchWait = Histogram "ray_serve_batch_wait_time_ms"
        "Milliseconds from a batch's first item to its start",
    BatchExecution = Histogram "ray_serve_batch_execution_time_ms"
        "Milliseconds that a batch ran",
    BatchQueueLength = Gauge "ray_serve_batch_queue_length"
        "Items that wait to be batched",
    BatchUtilization = Histogram "ray_serve_batch_utilization_percent"
        "Size of a batch in percent of the largest",
    BatchSize = Histogram "ray_serve_actual_batch_size"
        "Items of a batch",
    BatchesProcessed = Counter "ray_serve_batches_processed_total"
        "Batches that ran",
    MultiplexedModels = Gauge "ray_serve_num_multiplexed_models"
        "Models that a replica has loaded or loads",
    RegisteredModel = Gauge "ray_serve_registered_multiplexed_model_id"
        "1 for each model that a replica has loaded or loads",
    ModelGets = Counter "ray_serve_multiplexed_get_model_requests_counter_total"
        "Times that a model was asked for",
    ModelLoads = Counter "ray_serve_multiplexed_models_load_counter_total"
        "Models that were loaded",
    ModelUnloads = Counter "ray_serve_multiplexed_models_unload_counter_total"
        "Models that were unloaded",
    ModelLoadLatency = Histogram "ray_serve_multiplexed_model_load_latency_ms"
        "Milliseconds that loading a model took",
    ModelUnloadLatency = Histogram "ray_serve_multiplexed_model_unload_latency_ms"
        "Milliseconds that unloading a model took",
}

impl Metric {
    /// Registers a collector under this metric's name. `prometheus-client` appends `_total` to
    /// counters itself.
    pub fn register(self, registry: &mut Registry, metric: impl Collected) {
        let name = self.name();
        registry.register(name.strip_suffix("_total").unwrap_or(name), self.help(), metric);
    }
}

/// Buckets of the latency of whole requests, seconds. Source: vLLM's metrics, so that dashboards
/// carry over.
pub(crate) const REQUEST_SECONDS: [f64; 20] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0,
];

/// Buckets of the time to the first token and of waits, seconds. Source: as above.
pub(crate) const FIRST_TOKEN_SECONDS: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];

/// Buckets of the gap between tokens, seconds. Source: as above, with three finer ones below.
pub(crate) const TOKEN_GAP_SECONDS: [f64; 22] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
    5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];

/// Buckets of requests, batches and models of programs, milliseconds. Source of these three: ray
/// 2.60.0 `serve/_private/constants.py`.
pub(crate) const REQUEST_MS: [f64; 19] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 300.0, 400.0, 500.0, 1e3, 2e3, 5e3, 1e4, 6e4,
    12e4, 3e5, 6e5,
];

/// Buckets of the share of a batch that is used, percent.
pub(crate) const PERCENT: [f64; 13] =
    [5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 99.0, 100.0];

/// Buckets of the size of a batch.
pub(crate) const BATCH_SIZES: [f64; 11] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_follow_the_rules() {
        let mut seen = HashSet::new();
        for metric in Metric::ALL {
            let name = metric.name();
            assert!(seen.insert(name), "{name} twice");
            let is_rays = name.starts_with("ray_serve_");
            assert!(is_rays || name.starts_with("tyndall_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind() == Kind::Counter, "{name}");
            let is_histogram = metric.kind() == Kind::Histogram;
            assert!(is_rays || name.ends_with("_seconds") == is_histogram, "{name}");
            assert!(!metric.help().is_empty() && !metric.help().ends_with('.'), "{name}");
        }
    }

    #[test]
    fn the_docs_have_the_names_of_programs() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/rust.md");
        let docs = std::fs::read_to_string(path).expect("the guide is there");
        let told: Vec<&str> = docs
            .lines()
            .filter_map(|line| line.strip_prefix("| `ray_serve_")?.split_once('`'))
            .map(|(name, _)| name)
            .collect();
        let known: Vec<&str> = Metric::ALL
            .iter()
            .filter_map(|metric| metric.name().strip_prefix("ray_serve_"))
            .collect();
        assert_eq!(told, known, "docs/rust.md has other metrics, or another order");
    }
}
