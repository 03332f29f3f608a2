//! What a proxy counts of API keys.

use crate::Metric;
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use tyndall_types::TokenUsage;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct OfKey {
    name: Arc<str>,
    reason: Option<&'static str>,
}

impl EncodeLabelSet for OfKey {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        ("api_key", self.name.as_ref()).encode(encoder.encode_label())?;
        let reason = self.reason.map(|reason| ("reason", reason));
        reason.map_or(Ok(()), |label| label.encode(encoder.encode_label()))
    }
}

/// Metrics of API keys. Labels are bounded: the names of keys are those of the operator, reasons
/// are static.
#[derive(Debug, Default)]
pub struct KeyMetrics {
    requests: Family<OfKey, Counter>,
    prompt: Family<OfKey, Counter>,
    cached: Family<OfKey, Counter>,
    completion: Family<OfKey, Counter>,
    refused: Family<OfKey, Counter>,
    unauthorized: Counter,
}

impl KeyMetrics {
    /// No series of keys yet: they appear with their first event.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        Metric::ApiKeyRequests.register(registry, metrics.requests.clone());
        Metric::ApiKeyPromptTokens.register(registry, metrics.prompt.clone());
        Metric::ApiKeyCachedTokens.register(registry, metrics.cached.clone());
        Metric::ApiKeyCompletionTokens.register(registry, metrics.completion.clone());
        Metric::ApiKeyRefused.register(registry, metrics.refused.clone());
        Metric::RequestsUnauthorized.register(registry, metrics.unauthorized.clone());
        metrics
    }

    /// A request was taken.
    pub fn taken(&self, name: &Arc<str>) {
        self.requests.get_or_create(&of(name, None)).inc();
    }

    /// A request used more tokens.
    pub fn used(&self, name: &Arc<str>, more: TokenUsage) {
        let labels = of(name, None);
        self.prompt.get_or_create(&labels).inc_by(more.prompt);
        self.cached.get_or_create(&labels).inc_by(more.cached);
        self.completion.get_or_create(&labels).inc_by(more.completion);
    }

    /// A request was refused.
    pub fn refused(&self, name: &Arc<str>, reason: &'static str) {
        self.refused.get_or_create(&of(name, Some(reason))).inc();
    }

    /// A request had no key that is known.
    pub fn unauthorized(&self) {
        self.unauthorized.inc();
    }
}

fn of(name: &Arc<str>, reason: Option<&'static str>) -> OfKey {
    OfKey { name: name.clone(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition;

    #[test]
    fn keys_are_counted_by_their_names() {
        let mut registry = Registry::default();
        let metrics = KeyMetrics::new(&mut registry);
        let name = Arc::from("team");
        metrics.taken(&name);
        metrics.used(&name, TokenUsage { prompt: 12, cached: 3, completion: 45 });
        metrics.used(&name, TokenUsage { completion: 1, ..TokenUsage::default() });
        metrics.refused(&name, "rate");
        metrics.unauthorized();
        let page = exposition::render(&registry);
        for line in [
            "tyndall_api_key_requests_total{api_key=\"team\"} 1",
            "tyndall_api_key_prompt_tokens_total{api_key=\"team\"} 12",
            "tyndall_api_key_cached_tokens_total{api_key=\"team\"} 3",
            "tyndall_api_key_completion_tokens_total{api_key=\"team\"} 46",
            "tyndall_api_key_requests_refused_total{api_key=\"team\",reason=\"rate\"} 1",
            "tyndall_requests_unauthorized_total 1",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
    }
}
