//! What a replica of a program counts, by Ray Serve's names, so that its dashboards carry over.
//!
//! Source of names, tags and buckets: ray 2.60.0 `serve/_private/replica.py`, `serve/batching.py`,
//! `serve/multiplex.py`. The tag `route` is left out: a replica is of one application.

use crate::exposition;
use crate::histogram::Histogram;
use crate::names::{BATCH_SIZES, Metric, PERCENT, REQUEST_MS};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::borrow::Cow;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

type Labels = Vec<(&'static str, String)>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// Says how many there are now.
type Count = Box<dyn Fn() -> u32 + Send + Sync>;

/// Says which models are loaded now.
type Ids = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// On every series of a replica.
#[derive(Debug, Clone)]
pub struct ProgramLabels {
    /// The application's name.
    pub application: String,
    /// The deployment's name in it.
    pub deployment: String,
    /// The replica's id.
    pub replica: String,
}

/// A replica's metrics. A request costs two or three additions to atomics; gauges are read when the
/// page is rendered.
#[derive(Debug)]
pub struct ProgramMetrics {
    registry: Registry,
    requests: Counter,
    errors: Family<Labels, Counter>,
    latency: Histogram,
    processing: Gauge,
    reserved: Gauge,
    batch: BatchFamilies,
    models: ModelMetrics,
    queue_length: Family<Labels, Gauge>,
    num_models: Gauge,
    registered: Family<Labels, Gauge>,
    sources: Mutex<Sources>,
}

/// What gauges are read from.
#[derive(Default)]
struct Sources {
    queues: Vec<(Labels, Count)>,
    models: Vec<Ids>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct BatchFamilies {
    wait: Histograms,
    execution: Histograms,
    utilization: Histograms,
    size: Histograms,
    processed: Family<Labels, Counter>,
}

/// What one batcher counts.
#[derive(Debug)]
pub struct BatchMetrics {
    wait: Histogram,
    execution: Histogram,
    utilization: Histogram,
    size: Histogram,
    processed: Counter,
}

/// What holders of many models count.
#[derive(Debug, Clone)]
pub struct ModelMetrics {
    gets: Counter,
    loads: Counter,
    unloads: Counter,
    load_latency: Histogram,
    unload_latency: Histogram,
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl ProgramMetrics {
    /// All series of requests at zero.
    #[must_use]
    pub fn new(labels: ProgramLabels) -> Self {
        let mut root = Registry::default();
        let labels = [
            (Cow::Borrowed("application"), Cow::Owned(labels.application)),
            (Cow::Borrowed("deployment"), Cow::Owned(labels.deployment)),
            (Cow::Borrowed("replica"), Cow::Owned(labels.replica)),
        ];
        let registry = root.sub_registry_with_labels(labels.into_iter());
        let requests = Counter::default();
        Metric::DeploymentRequests.register(registry, requests.clone());
        let errors = Family::default();
        Metric::DeploymentErrors.register(registry, Family::clone(&errors));
        let latency = Histogram::new(&REQUEST_MS);
        Metric::DeploymentLatency.register(registry, latency.clone());
        let processing = Gauge::default();
        Metric::ProcessingQueries.register(registry, processing.clone());
        let reserved = Gauge::default();
        Metric::ReservedSlots.register(registry, reserved.clone());
        let batch = BatchFamilies::new(registry);
        let queue_length = Family::default();
        Metric::BatchQueueLength.register(registry, Family::clone(&queue_length));
        let (num_models, registered) = (Gauge::default(), Family::default());
        Metric::MultiplexedModels.register(registry, num_models.clone());
        Metric::RegisteredModel.register(registry, Family::clone(&registered));
        let models = ModelMetrics::new(registry);
        Self {
            registry: root,
            requests,
            errors,
            latency,
            processing,
            reserved,
            batch,
            models,
            queue_length,
            num_models,
            registered,
            sources: Mutex::default(),
        }
    }

    /// A request was answered without an error, up to its last byte.
    pub fn answered(&self, after: Duration) {
        self.requests.inc();
        self.latency.observe(milliseconds(after));
    }

    /// A request ended with an error of this kind.
    pub fn failed(&self, kind: &'static str, after: Duration) {
        self.errors.get_or_create(&vec![("exception_type", kind.to_owned())]).inc();
        self.latency.observe(milliseconds(after));
    }

    /// So many places are kept for calls that have not come.
    pub fn reserved(&self, places: u32) {
        self.reserved.set(i64::from(places));
    }

    /// A batcher of this name begins; `waiting` says how many items wait for it.
    pub fn batcher(
        &self,
        function_name: &str,
        waiting: impl Fn() -> u32 + Send + Sync + 'static,
    ) -> BatchMetrics {
        let labels = vec![("function_name", function_name.to_owned())];
        let batch = self.batch.of(&labels);
        self.sources().queues.push((labels, Box::new(waiting)));
        batch
    }

    /// A holder of many models begins; `ids` says which it has.
    pub fn models(&self, ids: impl Fn() -> Vec<String> + Send + Sync + 'static) -> ModelMetrics {
        self.sources().models.push(Box::new(ids));
        self.models.clone()
    }

    /// The metrics page, with so many requests being worked on.
    #[must_use]
    pub fn render(&self, processing: u32) -> String {
        let sources = self.sources();
        self.processing.set(i64::from(processing));
        self.queue_length.clear();
        for (labels, count) in &sources.queues {
            self.queue_length.get_or_create(labels).inc_by(i64::from(count()));
        }
        let ids: Vec<String> = sources.models.iter().flat_map(|ids| ids()).collect();
        self.num_models.set(i64::try_from(ids.len()).unwrap_or(i64::MAX));
        // A series for each model that ever was would have no bound.
        self.registered.clear();
        for id in ids {
            self.registered.get_or_create(&vec![("model_id", id)]).set(1);
        }
        exposition::render(&self.registry)
    }

    fn sources(&self) -> std::sync::MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BatchFamilies {
    fn new(registry: &mut Registry) -> Self {
        let times: fn() -> Histogram = || Histogram::new(&REQUEST_MS);
        let mut histograms = |metric: Metric, make: fn() -> Histogram| {
            let family = Family::new_with_constructor(make);
            metric.register(registry, Family::clone(&family));
            family
        };
        let wait = histograms(Metric::BatchWait, times);
        let execution = histograms(Metric::BatchExecution, times);
        let utilization = histograms(Metric::BatchUtilization, || Histogram::new(&PERCENT));
        let size = histograms(Metric::BatchSize, || Histogram::new(&BATCH_SIZES));
        let processed = Family::default();
        Metric::BatchesProcessed.register(registry, Family::clone(&processed));
        Self { wait, execution, utilization, size, processed }
    }

    fn of(&self, labels: &Labels) -> BatchMetrics {
        BatchMetrics {
            wait: self.wait.get_or_create(labels).clone(),
            execution: self.execution.get_or_create(labels).clone(),
            utilization: self.utilization.get_or_create(labels).clone(),
            size: self.size.get_or_create(labels).clone(),
            processed: self.processed.get_or_create(labels).clone(),
        }
    }
}

impl BatchMetrics {
    /// A batch of `items` is over: how long it formed and waited, how long it ran, and which share
    /// of the largest size it had, 0 to 1.
    pub fn processed(&self, items: usize, share: f64, waited: Duration, ran: Duration) {
        self.wait.observe(milliseconds(waited));
        self.execution.observe(milliseconds(ran));
        self.utilization.observe(100.0 * share);
        self.size.observe(items as f64);
        self.processed.inc();
    }
}

impl ModelMetrics {
    fn new(registry: &mut Registry) -> Self {
        let mut counter = |metric: Metric| {
            let counter = Counter::default();
            metric.register(registry, counter.clone());
            counter
        };
        let gets = counter(Metric::ModelGets);
        let loads = counter(Metric::ModelLoads);
        let unloads = counter(Metric::ModelUnloads);
        let (load_latency, unload_latency) =
            (Histogram::new(&REQUEST_MS), Histogram::new(&REQUEST_MS));
        Metric::ModelLoadLatency.register(registry, load_latency.clone());
        Metric::ModelUnloadLatency.register(registry, unload_latency.clone());
        Self { gets, loads, unloads, load_latency, unload_latency }
    }

    /// Somebody asked for a model.
    pub fn asked(&self) {
        self.gets.inc();
    }

    /// A model was loaded.
    pub fn loaded(&self, took: Duration) {
        self.loads.inc();
        self.load_latency.observe(milliseconds(took));
    }

    /// A model was unloaded.
    pub fn unloaded(&self, took: Duration) {
        self.unloads.inc();
        self.unload_latency.observe(milliseconds(took));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    fn metrics() -> ProgramMetrics {
        ProgramMetrics::new(ProgramLabels {
            application: "app".into(),
            deployment: "D".into(),
            replica: "r1".into(),
        })
    }

    /// Lines of the page, their common labels shortened.
    fn page(metrics: &ProgramMetrics, processing: u32) -> String {
        let labels = "application=\"app\",deployment=\"D\",replica=\"r1\"";
        metrics.render(processing).replace(labels, "R")
    }

    fn check(page: &str, lines: &[&str]) {
        for line in lines {
            assert!(page.lines().any(|l| l == *line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn requests_are_counted_by_how_they_end() {
        let metrics = metrics();
        metrics.answered(Duration::from_millis(3));
        metrics.answered(Duration::from_millis(30));
        metrics.failed("UserError", Duration::from_millis(1));
        metrics.reserved(2);
        check(
            &page(&metrics, 4),
            &[
                "# TYPE ray_serve_deployment_request_counter_total counter",
                "ray_serve_deployment_request_counter_total{R} 2",
                "ray_serve_deployment_error_counter_total{R,exception_type=\"UserError\"} 1",
                "ray_serve_deployment_processing_latency_ms_count{R} 3",
                "ray_serve_deployment_processing_latency_ms_sum{R} 34.0",
                "ray_serve_deployment_processing_latency_ms_bucket{R,le=\"5.0\"} 2",
                "ray_serve_replica_processing_queries{R} 4",
                "ray_serve_reserved_slots_active{R} 2",
                "ray_serve_num_multiplexed_models{R} 0",
            ],
        );
    }

    #[test]
    fn batches_have_their_function() {
        let metrics = metrics();
        let waiting = Arc::new(AtomicU32::new(3));
        let count = waiting.clone();
        let batch = metrics.batcher("f", move || count.load(Ordering::Relaxed));
        let ms = Duration::from_millis;
        batch.processed(8, 0.5, ms(10), ms(20));
        batch.processed(16, 1.0, ms(0), ms(20));
        check(
            &page(&metrics, 0),
            &[
                "ray_serve_batches_processed_total{R,function_name=\"f\"} 2",
                "ray_serve_batch_queue_length{R,function_name=\"f\"} 3",
                "ray_serve_actual_batch_size_sum{R,function_name=\"f\"} 24.0",
                "ray_serve_batch_utilization_percent_sum{R,function_name=\"f\"} 150.0",
                "ray_serve_batch_wait_time_ms_sum{R,function_name=\"f\"} 10.0",
                "ray_serve_batch_execution_time_ms_bucket{R,le=\"20.0\",function_name=\"f\"} 2",
            ],
        );
        waiting.store(0, Ordering::Relaxed);
        check(&page(&metrics, 0), &["ray_serve_batch_queue_length{R,function_name=\"f\"} 0"]);
    }

    #[test]
    fn models_come_and_go() {
        let metrics = metrics();
        let is_loaded = Arc::new(AtomicBool::new(true));
        let loaded = is_loaded.clone();
        let models = metrics.models(move || {
            let has_a = loaded.load(Ordering::Relaxed);
            has_a.then(|| "a".to_owned()).into_iter().chain(["b".to_owned()]).collect()
        });
        models.asked();
        models.loaded(Duration::from_millis(7));
        models.unloaded(Duration::from_millis(1));
        check(
            &page(&metrics, 0),
            &[
                "ray_serve_num_multiplexed_models{R} 2",
                "ray_serve_registered_multiplexed_model_id{R,model_id=\"a\"} 1",
                "ray_serve_multiplexed_get_model_requests_counter_total{R} 1",
                "ray_serve_multiplexed_models_load_counter_total{R} 1",
                "ray_serve_multiplexed_models_unload_counter_total{R} 1",
                "ray_serve_multiplexed_model_load_latency_ms_sum{R} 7.0",
                "ray_serve_multiplexed_model_unload_latency_ms_count{R} 1",
            ],
        );
        is_loaded.store(false, Ordering::Relaxed);
        let page = page(&metrics, 0);
        check(&page, &["ray_serve_num_multiplexed_models{R} 1"]);
        assert!(page.contains("model_id=\"b\"") && !page.contains("model_id=\"a\""), "{page}");
    }
}
