//! What a proxy counts.

use crate::Metric;
use crate::exposition;
use crate::names::{FIRST_TOKEN_SECONDS, REQUEST_SECONDS};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

/// What a request waits for in the proxy.
const PHASES: [&str; 2] = ["queue", "wake"];

type Labels = Vec<(&'static str, String)>;

/// A proxy's metrics. Label values are bounded: handlers and reasons are static, models are those
/// of the route table, methods are known words.
#[derive(Debug)]
pub struct ProxyMetrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    duration: Family<Labels, Histogram, fn() -> Histogram>,
    queued: Family<Labels, Gauge>,
    ongoing: Family<Labels, Gauge>,
    wait: Family<Labels, Histogram, fn() -> Histogram>,
    retries: Family<Labels, Counter>,
    refused: Family<Labels, Counter>,
    broken: Family<Labels, Counter>,
    /// Every reason of a retry or a refusal so far: with the models they are the label sets that
    /// exist, which a family does not list. As many as the words of the proxy.
    reasons: RwLock<Vec<&'static str>>,
}

impl Default for ProxyMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl ProxyMetrics {
    /// No series yet: they appear with their first event.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        Metric::HttpRequests.register(&mut registry, requests.clone());
        let seconds: fn() -> Histogram = || Histogram::new(REQUEST_SECONDS);
        let duration = Family::new_with_constructor(seconds);
        Metric::HttpRequestDuration.register(&mut registry, duration.clone());
        let waits: fn() -> Histogram = || Histogram::new(FIRST_TOKEN_SECONDS);
        let wait = Family::new_with_constructor(waits);
        Metric::RequestWait.register(&mut registry, wait.clone());
        let (queued, ongoing) = (Family::default(), Family::default());
        Metric::QueuedRequests.register(&mut registry, queued.clone());
        Metric::OngoingRequests.register(&mut registry, ongoing.clone());
        let (retries, refused, broken) = Default::default();
        Metric::RequestRetries.register(&mut registry, Family::clone(&retries));
        Metric::RequestsRefused.register(&mut registry, Family::clone(&refused));
        Metric::StreamsBroken.register(&mut registry, Family::clone(&broken));
        let reasons = RwLock::default();
        Self {
            registry,
            requests,
            duration,
            queued,
            ongoing,
            wait,
            retries,
            refused,
            broken,
            reasons,
        }
    }

    /// An answer went out to its last byte, or its client left. Methods that are no usual word
    /// are counted as one, so that clients cannot make up series.
    pub fn answered(&self, handler: &'static str, method: &str, status: u16, after: Duration) {
        let method = match method {
            "GET" | "POST" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "PATCH" => method,
            _ => "other",
        };
        self.requests
            .get_or_create(&vec![
                ("handler", handler.to_owned()),
                ("method", method.to_owned()),
                ("status", status.to_string()),
            ])
            .inc();
        self.duration
            .get_or_create(&vec![("handler", handler.to_owned())])
            .observe(after.as_secs_f64());
    }

    /// The exact counts of a deployment now.
    pub fn load(&self, model: &str, queued: u32, ongoing: u32) {
        let labels = labels(model);
        self.queued.get_or_create(&labels).set(i64::from(queued));
        self.ongoing.get_or_create(&labels).set(i64::from(ongoing));
    }

    /// A request got its replica after so long.
    pub fn waited(&self, model: &str, queue: Duration, wake: Duration) {
        for (phase, time) in PHASES.into_iter().zip([queue, wake]) {
            self.wait.get_or_create(&phased(model, phase)).observe(time.as_secs_f64());
        }
    }

    /// A request goes to another replica.
    pub fn retried(&self, model: &str, reason: &'static str) {
        self.note_reason(reason);
        self.retries.get_or_create(&reasoned(model, reason)).inc();
    }

    /// A request was refused.
    pub fn refused(&self, model: &str, reason: &'static str) {
        self.note_reason(reason);
        self.refused.get_or_create(&reasoned(model, reason)).inc();
    }

    /// An answer ended early.
    pub fn stream_broken(&self, model: &str) {
        self.broken.get_or_create(&labels(model)).inc();
    }

    /// Removes every series of a model, which is not served any more. An event that comes later
    /// makes its series anew, from zero.
    pub fn forget(&self, model: &str) {
        let labels = labels(model);
        self.queued.remove(&labels);
        self.ongoing.remove(&labels);
        self.broken.remove(&labels);
        for phase in PHASES {
            self.wait.remove(&phased(model, phase));
        }
        for reason in &*self.reasons.read().unwrap_or_else(PoisonError::into_inner) {
            let labels = reasoned(model, reason);
            self.retries.remove(&labels);
            self.refused.remove(&labels);
        }
    }

    fn note_reason(&self, reason: &'static str) {
        let is_known = |reasons: &[&str]| reasons.contains(&reason);
        if is_known(&self.reasons.read().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let mut reasons = self.reasons.write().unwrap_or_else(PoisonError::into_inner);
        if !is_known(&reasons) {
            reasons.push(reason);
        }
    }

    /// The metrics page of this process alone.
    #[must_use]
    pub fn render(&self) -> String {
        exposition::render(&self.registry)
    }
}

fn labels(model: &str) -> Labels {
    vec![("model", model.to_owned())]
}

fn phased(model: &str, phase: &str) -> Labels {
    vec![("model", model.to_owned()), ("phase", phase.to_owned())]
}

fn reasoned(model: &str, reason: &str) -> Labels {
    vec![("model", model.to_owned()), ("reason", reason.to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_appear_by_their_labels() {
        let metrics = ProxyMetrics::new();
        metrics.answered("generate", "POST", 200, Duration::from_millis(1));
        metrics.answered("generate", "BREW", 405, Duration::from_millis(1));
        metrics.load("m\"1", 3, 2);
        metrics.waited("m", Duration::ZERO, Duration::from_secs(1));
        metrics.retried("m", "broken");
        metrics.refused("m", "full");
        metrics.stream_broken("m");
        let page = metrics.render();
        for line in [
            "tyndall_http_requests_total{handler=\"generate\",method=\"POST\",status=\"200\"} 1",
            "tyndall_http_requests_total{handler=\"generate\",method=\"other\",status=\"405\"} 1",
            "tyndall_queued_requests{model=\"m\\\"1\"} 3",
            "tyndall_request_retries_total{model=\"m\",reason=\"broken\"} 1",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn a_model_is_forgotten_with_all_its_series() {
        let metrics = ProxyMetrics::new();
        metrics.answered("generate", "POST", 200, Duration::from_millis(1));
        let count = |model: &str| {
            metrics.load(model, 3, 2);
            metrics.waited(model, Duration::ZERO, Duration::from_secs(1));
            metrics.retried(model, "broken");
            metrics.refused(model, "full");
            metrics.refused(model, "timeout");
            metrics.stream_broken(model);
        };
        count("stays");
        let before = metrics.render();
        count("goes");
        assert_eq!(
            metrics.render().matches("model=\"goes\"").count(),
            before.matches("stays").count()
        );
        metrics.forget("goes");
        metrics.forget("never was");
        let sorted = |page: &str| {
            let mut lines: Vec<String> = page.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&metrics.render()), sorted(&before));
        metrics.refused("goes", "full");
        let line = "tyndall_requests_refused_total{model=\"goes\",reason=\"full\"} 1";
        assert!(metrics.render().lines().any(|l| l == line));
    }
}
