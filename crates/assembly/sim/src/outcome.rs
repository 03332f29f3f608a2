//! What a run gives.

use serde::Serialize;

/// Everything that was seen of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// As given.
    pub seed: u64,
    /// Virtual seconds from the begin to the end.
    pub duration_s: f64,
    /// Things that happened, requests and messages and all.
    pub num_events: u64,
    /// Times that the controller was asked to decide.
    pub num_decided: u64,
    /// Of all deployments.
    pub totals: Totals,
    /// By their order in the configuration.
    pub deployments: Vec<DeploymentOutcome>,
    /// What must never happen and did; empty in a run that is right.
    pub anomalies: Vec<String>,
}

/// One deployment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeploymentOutcome {
    /// Its id, as `application#deployment`.
    pub id: String,
    /// The model's public id, where it serves one.
    pub model_id: Option<String>,
    /// Its numbers.
    pub totals: Totals,
    /// From a request's arrival to the end of its answer; absent where none was answered.
    pub latency: Option<Latencies>,
    /// Replicas whose process ran, over time, in replica seconds: what it cost.
    pub replica_seconds: f64,
    /// The most of them at a time.
    pub max_replicas: u32,
    /// Seconds that a point stands for.
    pub bucket_s: f64,
    /// Its course.
    pub series: Vec<Point>,
    /// Every change of its target, in order.
    pub decisions: Vec<Decision>,
}

/// Counts of requests and of what happened to replicas.
///
/// Every request that was sent is in exactly one of `answered`, `refused_full`, `refused_late`,
/// `refused_unavailable`, `late`, `given_up`, `interrupted`, `cut` and `lost`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Totals {
    /// Requests that arrived.
    pub sent: u64,
    /// To the last byte.
    pub answered: u64,
    /// The queue was full.
    pub refused_full: u64,
    /// The queue was too slow for the request's time.
    pub refused_late: u64,
    /// No replica could be had.
    pub refused_unavailable: u64,
    /// The answer had not begun when the request's time was over.
    pub late: u64,
    /// Broke as many replicas as a request may.
    pub given_up: u64,
    /// The replica was lost after the answer had begun.
    pub interrupted: u64,
    /// Its proxy died.
    pub cut: u64,
    /// Ended in no way at all: must be 0.
    pub lost: u64,
    /// Times that a request went to another replica.
    pub retried: u64,
    /// Starts from zero for a request.
    pub woken: u64,
    /// Replicas that were started.
    pub started: u64,
    /// Starts that failed.
    pub start_failures: u64,
    /// Replicas that ran and were lost.
    pub died: u64,
    /// Times that all replicas went for another deployment's.
    pub evicted: u64,
}

impl Totals {
    /// Requests of which it is known how they ended.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.answered
            + self.refused_full
            + self.refused_late
            + self.refused_unavailable
            + self.late
            + self.given_up
            + self.interrupted
            + self.cut
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, part) in [
            (&mut self.sent, other.sent),
            (&mut self.answered, other.answered),
            (&mut self.refused_full, other.refused_full),
            (&mut self.refused_late, other.refused_late),
            (&mut self.refused_unavailable, other.refused_unavailable),
            (&mut self.late, other.late),
            (&mut self.given_up, other.given_up),
            (&mut self.interrupted, other.interrupted),
            (&mut self.cut, other.cut),
            (&mut self.lost, other.lost),
            (&mut self.retried, other.retried),
            (&mut self.woken, other.woken),
            (&mut self.started, other.started),
            (&mut self.start_failures, other.start_failures),
            (&mut self.died, other.died),
            (&mut self.evicted, other.evicted),
        ] {
            *sum += part;
        }
    }
}

/// Times in seconds; percentiles to 1 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latencies {
    /// Mean.
    pub mean_s: f64,
    /// Half are faster.
    pub p50_s: f64,
    /// 90 % are.
    pub p90_s: f64,
    /// 99 % are.
    pub p99_s: f64,
    /// The slowest.
    pub max_s: f64,
}

/// A deployment over one bucket of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Where the bucket begins, in seconds.
    pub time_s: f64,
    /// Replicas that are wanted, at its end.
    pub target: u32,
    /// Replicas that take requests, at its end.
    pub running: u32,
    /// Replicas on their way there, at its end.
    pub starting: u32,
    /// Requests that wait, the most in it.
    pub queued: u32,
    /// Requests that replicas have, the most in it.
    pub ongoing: u32,
    /// Requests that arrive per second.
    pub arrivals_per_s: f64,
    /// Of the requests answered in it; absent where there are none.
    pub latency_p50_s: Option<f64>,
    /// Of the requests answered in it; absent where there are none.
    pub latency_p99_s: Option<f64>,
}

/// A change of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// When, in milliseconds.
    pub time_ms: u64,
    /// Replicas before.
    pub from: u32,
    /// Replicas now.
    pub to: u32,
    /// Why.
    pub why: &'static str,
}
