//! What is kept of a run: a bounded number of points per deployment, whatever the run's length.

use crate::histogram::Histogram;
use crate::outcome::{Decision, DeploymentOutcome, Latencies, Point, Totals};
use std::time::Duration;

/// Points of a deployment at most; when there are more, neighbours become one.
const MAX_BUCKETS: usize = 720;
/// Decisions that are kept; a run has more only where something is wrong.
const MAX_DECISIONS: usize = 100_000;

/// The numbers of a deployment as they are now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Now {
    pub(crate) target: u32,
    pub(crate) running: u32,
    pub(crate) starting: u32,
    pub(crate) queued: u32,
    pub(crate) ongoing: u32,
}

#[derive(Debug, Clone, Default)]
struct Bucket {
    last: Now,
    max_queued: u32,
    max_ongoing: u32,
    arrivals: u32,
    latency: Histogram,
}

impl Bucket {
    fn join(&mut self, next: &Self) {
        self.last = next.last;
        self.max_queued = self.max_queued.max(next.max_queued);
        self.max_ongoing = self.max_ongoing.max(next.max_ongoing);
        self.arrivals += next.arrivals;
        self.latency.join(&next.latency);
    }
}

/// What is kept of a deployment.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    pub(crate) now: Now,
    pub(crate) totals: Totals,
    width: Duration,
    buckets: Vec<Bucket>,
    decisions: Vec<Decision>,
    latency: Histogram,
    latency_sum_s: f64,
    latency_max_s: f64,
    replica_seconds: f64,
    max_replicas: u32,
    replicas_since: Duration,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self {
            now: Now::default(),
            totals: Totals::default(),
            width: Duration::from_secs(1),
            buckets: vec![Bucket::default()],
            decisions: Vec::new(),
            latency: Histogram::default(),
            latency_sum_s: 0.0,
            latency_max_s: 0.0,
            replica_seconds: 0.0,
            max_replicas: 0,
            replicas_since: Duration::ZERO,
        }
    }

    pub(crate) fn arrived(&mut self, at: Duration) {
        self.totals.sent += 1;
        self.bucket(at).arrivals += 1;
    }

    pub(crate) fn answered(&mut self, at: Duration, latency: Duration) {
        self.totals.answered += 1;
        self.bucket(at).latency.add(latency);
        self.latency.add(latency);
        self.latency_sum_s += latency.as_secs_f64();
        self.latency_max_s = self.latency_max_s.max(latency.as_secs_f64());
    }

    pub(crate) fn load(&mut self, at: Duration, queued: u32, ongoing: u32) {
        // Points until now have the numbers from before.
        self.bucket(at);
        (self.now.queued, self.now.ongoing) = (queued, ongoing);
        self.take();
    }

    pub(crate) fn replicas(&mut self, at: Duration, starting: u32, running: u32) {
        self.bucket(at);
        let before = f64::from(self.now.starting + self.now.running);
        self.replica_seconds += before * (at - self.replicas_since).as_secs_f64();
        self.replicas_since = at;
        (self.now.starting, self.now.running) = (starting, running);
        self.max_replicas = self.max_replicas.max(starting + running);
        self.take();
    }

    pub(crate) fn target(&mut self, at: Duration, to: u32, why: &'static str) {
        let from = self.now.target;
        if from == to {
            return;
        }
        self.bucket(at);
        self.now.target = to;
        self.take();
        if self.decisions.len() < MAX_DECISIONS {
            let time_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
            self.decisions.push(Decision { time_ms, from, to, why });
        }
    }

    /// Takes the numbers of now into the last bucket.
    fn take(&mut self) {
        let now = self.now;
        if let Some(last) = self.buckets.last_mut() {
            last.last = now;
            last.max_queued = last.max_queued.max(now.queued);
            last.max_ongoing = last.max_ongoing.max(now.ongoing);
        }
    }

    /// The bucket of a time, which is never before the last one's.
    fn bucket(&mut self, at: Duration) -> &mut Bucket {
        loop {
            let place = (at.as_nanos() / self.width.as_nanos()) as usize;
            if place < MAX_BUCKETS {
                self.fill(place + 1);
                let last = self.buckets.len() - 1;
                return &mut self.buckets[last];
            }
            self.fill(MAX_BUCKETS);
            let pairs = std::mem::take(&mut self.buckets);
            for pair in pairs.chunks(2) {
                let mut bucket = pair[0].clone();
                pair.iter().skip(1).for_each(|next| bucket.join(next));
                self.buckets.push(bucket);
            }
            self.width *= 2;
        }
    }

    fn fill(&mut self, len: usize) {
        let Now { queued, ongoing, .. } = self.now;
        while self.buckets.len() < len {
            self.buckets.push(Bucket {
                last: self.now,
                max_queued: queued,
                max_ongoing: ongoing,
                ..Bucket::default()
            });
        }
    }

    pub(crate) fn finish(
        mut self,
        id: String,
        model_id: Option<String>,
        end: Duration,
    ) -> DeploymentOutcome {
        self.replicas(end, self.now.starting, self.now.running);
        let bucket_s = self.width.as_secs_f64();
        let series = self.buckets.iter().enumerate().map(|(i, bucket)| Point {
            time_s: i as f64 * bucket_s,
            target: bucket.last.target,
            running: bucket.last.running,
            starting: bucket.last.starting,
            queued: bucket.max_queued,
            ongoing: bucket.max_ongoing,
            arrivals_per_s: f64::from(bucket.arrivals) / bucket_s,
            latency_p50_s: bucket.latency.at(0.5),
            latency_p99_s: bucket.latency.at(0.99),
        });
        let at = |share| self.latency.at(share).map(|s| s.min(self.latency_max_s));
        let latency = at(0.5).zip(at(0.9)).zip(at(0.99)).map(|((p50_s, p90_s), p99_s)| Latencies {
            mean_s: self.latency_sum_s / self.totals.answered as f64,
            p50_s,
            p90_s,
            p99_s,
            max_s: self.latency_max_s,
        });
        DeploymentOutcome {
            id,
            model_id,
            totals: self.totals,
            latency,
            replica_seconds: self.replica_seconds,
            max_replicas: self.max_replicas,
            bucket_s,
            series: series.collect(),
            decisions: self.decisions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn numbers_hold_until_they_change_and_buckets_stay_few() {
        let mut recorder = Recorder::new();
        recorder.target(s(2), 3, "autoscaling");
        recorder.replicas(s(2), 3, 0);
        recorder.replicas(s(4), 0, 3);
        recorder.arrived(s(4));
        recorder.load(s(4), 7, 1);
        recorder.load(s(4), 0, 2);
        recorder.answered(s(6), s(2));
        let short = recorder.clone().finish("a".into(), None, s(10));
        assert_eq!(short.series.len(), 11);
        assert_eq!((short.series[3].starting, short.series[3].target), (3, 3));
        assert_eq!((short.series[4].queued, short.series[5].queued), (7, 0));
        assert_eq!((short.series[9].running, short.series[9].ongoing), (3, 2));
        assert_eq!(short.replica_seconds, 24.0);
        assert_eq!(short.latency.unwrap().max_s, 2.0);
        let long = recorder.finish("a".into(), None, s(100_000));
        assert!(long.series.len() <= MAX_BUCKETS && long.bucket_s == 256.0, "{}", long.bucket_s);
        assert_eq!((long.series[0].queued, long.series[0].arrivals_per_s), (7, 1.0 / 256.0));
        assert_eq!(long.series[300].running, 3);
    }
}
