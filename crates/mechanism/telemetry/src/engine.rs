//! What a replica's engine counts.

use crate::Metric;
use crate::exposition;
use crate::names::{FIRST_TOKEN_SECONDS, REQUEST_SECONDS, TOKEN_GAP_SECONDS};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tyndall_types::FinishReason;

/// On every series of a replica.
#[derive(Debug, Clone)]
pub struct EngineLabels {
    /// The public model id.
    pub model: String,
    /// The replica's id.
    pub replica: String,
}

/// The engine's own totals at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct EngineCounters {
    /// Sequences in the batch.
    pub running: u64,
    /// Sequences that wait for the batch.
    pub waiting: u64,
    /// 0..=1.
    pub kv_usage: f64,
    /// Since the start.
    pub preemptions: u64,
    /// Since the start, in tokens.
    pub prompt_tokens: u64,
    /// Since the start, in tokens.
    pub generation_tokens: u64,
    /// Since the start, in tokens.
    pub prefix_cache_queries: u64,
    /// Since the start, in tokens.
    pub prefix_cache_hits: u64,
    /// Computed in advance, since the start, in tokens.
    pub draft_tokens: u64,
    /// Those of them that were sampled then.
    pub accepted_tokens: u64,
    /// Since the start.
    pub steps: u64,
}

/// A counter and where its value is read.
type Total = (Counter, fn(&EngineCounters) -> u64);

/// A replica's metrics. The totals are the engine's and are read when the page is rendered;
/// latencies are observed as they happen.
#[derive(Debug)]
pub struct EngineMetrics {
    registry: Registry,
    first_token: Histogram,
    token_gap: Histogram,
    latency: Histogram,
    queue_time: Histogram,
    prefill_time: Histogram,
    decode_time: Histogram,
    finished: Family<Vec<(&'static str, &'static str)>, Counter>,
    running: Gauge,
    waiting: Gauge,
    kv_usage: Gauge<f64, AtomicU64>,
    totals: Vec<Total>,
}

impl EngineMetrics {
    /// All series at zero.
    #[must_use]
    pub fn new(labels: EngineLabels) -> Self {
        let mut root = Registry::default();
        let registry = root.sub_registry_with_labels(
            [
                (Cow::Borrowed("model"), Cow::Owned(labels.model)),
                (Cow::Borrowed("replica"), Cow::Owned(labels.replica)),
            ]
            .into_iter(),
        );
        let mut histogram = |metric: Metric, buckets: &[f64]| {
            let histogram = Histogram::new(buckets.iter().copied());
            metric.register(registry, histogram.clone());
            histogram
        };
        let first_token = histogram(Metric::TimeToFirstToken, &FIRST_TOKEN_SECONDS);
        let token_gap = histogram(Metric::InterTokenLatency, &TOKEN_GAP_SECONDS);
        let latency = histogram(Metric::RequestLatency, &REQUEST_SECONDS);
        let queue_time = histogram(Metric::RequestQueueTime, &FIRST_TOKEN_SECONDS);
        let prefill_time = histogram(Metric::RequestPrefillTime, &FIRST_TOKEN_SECONDS);
        let decode_time = histogram(Metric::RequestDecodeTime, &REQUEST_SECONDS);
        let finished = Family::default();
        Metric::RequestSuccess.register(registry, finished.clone());
        let (running, waiting, kv_usage) = (Gauge::default(), Gauge::default(), Gauge::default());
        Metric::RequestsRunning.register(registry, running.clone());
        Metric::RequestsWaiting.register(registry, waiting.clone());
        Metric::KvCacheUsage.register(registry, kv_usage.clone());
        let mut total = |metric: Metric, read: fn(&EngineCounters) -> u64| {
            let counter: Counter = Counter::default();
            metric.register(registry, counter.clone());
            (counter, read)
        };
        let totals = vec![
            total(Metric::PromptTokens, |c| c.prompt_tokens),
            total(Metric::GenerationTokens, |c| c.generation_tokens),
            total(Metric::Preemptions, |c| c.preemptions),
            total(Metric::PrefixCacheQueries, |c| c.prefix_cache_queries),
            total(Metric::PrefixCacheHits, |c| c.prefix_cache_hits),
            total(Metric::DraftTokens, |c| c.draft_tokens),
            total(Metric::AcceptedTokens, |c| c.accepted_tokens),
            total(Metric::EngineSteps, |c| c.steps),
        ];
        Self {
            registry: root,
            first_token,
            token_gap,
            latency,
            queue_time,
            prefill_time,
            decode_time,
            finished,
            running,
            waiting,
            kv_usage,
            totals,
        }
    }

    /// A request's first token came so long after its arrival.
    pub fn first_token(&self, after: Duration) {
        self.first_token.observe(after.as_secs_f64());
    }

    /// A token came so long after the one before.
    pub fn next_token(&self, after: Duration) {
        self.token_gap.observe(after.as_secs_f64());
    }

    /// A sequence ended.
    pub fn finished(&self, reason: FinishReason) {
        self.finished.get_or_create(&vec![("finished_reason", reason.as_str())]).inc();
    }

    /// A request ended well: its time as a whole and in the engine's phases.
    pub fn request(&self, latency: Duration, queue_s: f64, prefill_s: f64, decode_s: f64) {
        self.latency.observe(latency.as_secs_f64());
        self.queue_time.observe(queue_s);
        self.prefill_time.observe(prefill_s);
        self.decode_time.observe(decode_s);
    }

    /// The metrics page.
    #[must_use]
    pub fn render(&self, counters: &EngineCounters) -> String {
        self.running.set(counters.running.cast_signed());
        self.waiting.set(counters.waiting.cast_signed());
        self.kv_usage.set(counters.kv_usage);
        for (counter, read) in &self.totals {
            counter.inner().store(read(counters), Ordering::Relaxed);
        }
        exposition::render(&self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_series_with_model_and_replica() {
        let labels = EngineLabels { model: "org/m".into(), replica: "r1".into() };
        let metrics = EngineMetrics::new(labels);
        metrics.first_token(Duration::from_millis(30));
        metrics.next_token(Duration::from_millis(3));
        metrics.finished(FinishReason::Length);
        metrics.request(Duration::from_secs(1), 0.0, 0.1, 0.9);
        let counters =
            EngineCounters { running: 2, kv_usage: 0.5, prompt_tokens: 9, ..Default::default() };
        let page = metrics.render(&counters);
        for line in [
            "# TYPE tyndall_time_to_first_token_seconds histogram",
            "# TYPE tyndall_prompt_tokens_total counter",
            "tyndall_prompt_tokens_total{model=\"org/m\",replica=\"r1\"} 9",
            "tyndall_requests_running{model=\"org/m\",replica=\"r1\"} 2",
            "tyndall_kv_cache_usage_ratio{model=\"org/m\",replica=\"r1\"} 0.5",
            "tyndall_time_to_first_token_seconds_count{model=\"org/m\",replica=\"r1\"} 1",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
        assert!(page.contains("finished_reason=\"length\""), "{page}");
    }
}
