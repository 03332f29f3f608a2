//! What a proxy counts.

use crate::KeyMetrics;
use crate::Metric;
use crate::exposition;
use crate::names::{FIRST_TOKEN_SECONDS, REQUEST_SECONDS};
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Methods that are told apart; `WS` is a handshake of WebSockets.
const METHODS: [&str; 8] = ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "WS"];

/// What a request waits for in the proxy.
const PHASES: [&str; 2] = ["queue", "wake"];

type Label = (&'static str, &'static str);

/// Labels of an answer. These two make no text of their own: they are made for every request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Answered {
    handler: &'static str,
    method: &'static str,
    status: u16,
}

impl EncodeLabelSet for Answered {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        ("handler", self.handler).encode(encoder.encode_label())?;
        ("method", self.method).encode(encoder.encode_label())?;
        ("status", self.status).encode(encoder.encode_label())
    }
}

/// Labels of what concerns a model, with another one where there is one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct OfModel {
    model: Arc<str>,
    of: Option<Label>,
}

impl EncodeLabelSet for OfModel {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        ("model", self.model.as_ref()).encode(encoder.encode_label())?;
        self.of.map_or(Ok(()), |label| label.encode(encoder.encode_label()))
    }
}

/// A proxy's metrics. Label values are bounded: handlers and reasons are static, models are those
/// of the route table, methods are known words.
#[derive(Debug)]
pub struct ProxyMetrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    duration: Family<[Label; 1], Histogram, fn() -> Histogram>,
    queued: Family<OfModel, Gauge>,
    ongoing: Family<OfModel, Gauge>,
    wait: Family<OfModel, Histogram, fn() -> Histogram>,
    retries: Family<OfModel, Counter>,
    refused: Family<OfModel, Counter>,
    broken: Family<OfModel, Counter>,
    keys: KeyMetrics,
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
        let keys = KeyMetrics::new(&mut registry);
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
            keys,
            reasons,
        }
    }

    /// An answer went out to its last byte, or its client left. Methods that are no usual word
    /// are counted as one, so that clients cannot make up series.
    pub fn answered(&self, handler: &'static str, method: &str, status: u16, after: Duration) {
        let known = METHODS.into_iter().find(|known| *known == method);
        let method = known.unwrap_or("other");
        self.requests.get_or_create(&Answered { handler, method, status }).inc();
        self.duration.get_or_create(&[("handler", handler)]).observe(after.as_secs_f64());
    }

    /// The exact counts of a deployment now.
    pub fn load(&self, model: &Arc<str>, queued: u32, ongoing: u32) {
        let labels = labels(model);
        self.queued.get_or_create(&labels).set(i64::from(queued));
        self.ongoing.get_or_create(&labels).set(i64::from(ongoing));
    }

    /// A request got its replica after so long.
    pub fn waited(&self, model: &Arc<str>, queue: Duration, wake: Duration) {
        for (phase, time) in PHASES.into_iter().zip([queue, wake]) {
            self.wait.get_or_create(&phased(model, phase)).observe(time.as_secs_f64());
        }
    }

    /// A request goes to another replica.
    pub fn retried(&self, model: &Arc<str>, reason: &'static str) {
        self.note_reason(reason);
        self.retries.get_or_create(&reasoned(model, reason)).inc();
    }

    /// A request was refused.
    pub fn refused(&self, model: &Arc<str>, reason: &'static str) {
        self.note_reason(reason);
        self.refused.get_or_create(&reasoned(model, reason)).inc();
    }

    /// An answer ended early.
    pub fn stream_broken(&self, model: &Arc<str>) {
        self.broken.get_or_create(&labels(model)).inc();
    }

    /// Those of API keys.
    #[must_use]
    pub fn keys(&self) -> &KeyMetrics {
        &self.keys
    }

    /// Removes every series of a model, which is not served any more. An event that comes later
    /// makes its series anew, from zero.
    pub fn forget(&self, model: &Arc<str>) {
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

fn labels(model: &Arc<str>) -> OfModel {
    OfModel { model: model.clone(), of: None }
}

fn phased(model: &Arc<str>, phase: &'static str) -> OfModel {
    OfModel { of: Some(("phase", phase)), ..labels(model) }
}

fn reasoned(model: &Arc<str>, reason: &'static str) -> OfModel {
    OfModel { of: Some(("reason", reason)), ..labels(model) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_appear_by_their_labels() {
        let metrics = ProxyMetrics::new();
        metrics.answered("generate", "POST", 200, Duration::from_millis(1));
        metrics.answered("generate", "BREW", 405, Duration::from_millis(1));
        metrics.load(&"m\"1".into(), 3, 2);
        metrics.waited(&"m".into(), Duration::ZERO, Duration::from_secs(1));
        metrics.retried(&"m".into(), "broken");
        metrics.refused(&"m".into(), "full");
        metrics.stream_broken(&"m".into());
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
            let model = &Arc::from(model);
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
        metrics.forget(&"goes".into());
        metrics.forget(&"never was".into());
        let sorted = |page: &str| {
            let mut lines: Vec<String> = page.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&metrics.render()), sorted(&before));
        metrics.refused(&"goes".into(), "full");
        let line = "tyndall_requests_refused_total{model=\"goes\",reason=\"full\"} 1";
        assert!(metrics.render().lines().any(|l| l == line));
    }
}
