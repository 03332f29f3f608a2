//! A histogram that is observed without a lock: what measures a request shall not make others wait.

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The sum is kept in whole thousandths.
const PER_UNIT: f64 = 1e3;

/// Counts by bucket. Clones are the same histogram. A page that is rendered while something is
/// observed may have it in the count and not yet in the sum.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Upper bounds, ascending; what is above the last has a bucket too.
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { inner: Arc::new(Inner { bounds, counts, sum: AtomicU64::new(0) }) }
    }

    /// Counts a value that is not below zero.
    pub(crate) fn observe(&self, value: f64) {
        let Inner { bounds, counts, sum } = &*self.inner;
        let bucket = bounds.partition_point(|bound| *bound < value);
        counts[bucket].fetch_add(1, Ordering::Relaxed);
        sum.fetch_add((value * PER_UNIT).round() as u64, Ordering::Relaxed);
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), std::fmt::Error> {
        let Inner { bounds, counts, sum } = &*self.inner;
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        let counts = counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = sum.load(Ordering::Relaxed) as f64 / PER_UNIT;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition;
    use prometheus_client::registry::Registry;

    #[test]
    fn values_are_counted_up_to_their_bound() {
        let histogram = Histogram::new(&[1.0, 2.0, 5.0]);
        [0.0, 1.0, 1.001, 5.0, 7.5].into_iter().for_each(|value| histogram.observe(value));
        let mut registry = Registry::default();
        registry.register("h", "H", histogram);
        let page = exposition::render(&registry);
        for line in [
            "h_sum 14.501",
            "h_count 5",
            "h_bucket{le=\"1.0\"} 2",
            "h_bucket{le=\"2.0\"} 3",
            "h_bucket{le=\"5.0\"} 4",
            "h_bucket{le=\"+Inf\"} 5",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
    }
}
