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
    // Controller.
    Replicas = Gauge "tyndall_replicas"
        "Replicas by state",
    Wakes = Counter "tyndall_wakes_total"
        "Times that a deployment went from no replica to one",
    ColdStart = Histogram "tyndall_cold_start_seconds"
        "Seconds of each phase of a replica's start",
    ReplicaFailures = Counter "tyndall_replica_failures_total"
        "Replicas that ended without being asked to",
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
            assert!(name.starts_with("tyndall_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind() == Kind::Counter, "{name}");
            assert_eq!(name.ends_with("_seconds"), metric.kind() == Kind::Histogram, "{name}");
            assert!(!metric.help().is_empty() && !metric.help().ends_with('.'), "{name}");
        }
    }
}
