//! What became of the requests of one phase.

use std::collections::BTreeMap;
use std::time::Duration;

/// What a client saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Came {
    /// 200, by the deadline.
    Answered,
    /// 429 or 503 with the time to come again.
    Refused,
    /// Anything else, in words.
    Lost(String),
}

/// Counts of a phase.
#[derive(Debug)]
pub(super) struct Tally {
    /// How long requests are sent, and the begin of it that does not count as goodput.
    seconds: f64,
    warmup_s: f64,
    took_s: f64,
    num_sent: u64,
    num_refused: u64,
    /// Answers that count as goodput.
    num_good: u64,
    latencies_ms: Vec<f64>,
    lost: BTreeMap<String, usize>,
}

impl Tally {
    pub(super) fn new(seconds: f64, warmup_s: f64) -> Self {
        Self {
            seconds,
            warmup_s,
            took_s: seconds,
            num_sent: 0,
            num_refused: 0,
            num_good: 0,
            latencies_ms: Vec::new(),
            lost: BTreeMap::new(),
        }
    }

    pub(super) fn sent(&mut self) {
        self.num_sent += 1;
    }

    /// A request ended so long after the begin of the phase.
    pub(super) fn ended(&mut self, at_s: f64, latency: Duration, came: Came) {
        match came {
            Came::Answered => {
                self.latencies_ms.push(latency.as_secs_f64() * 1e3);
                if (self.warmup_s..self.seconds).contains(&at_s) {
                    self.num_good += 1;
                }
            }
            Came::Refused => self.num_refused += 1,
            Came::Lost(reason) => *self.lost.entry(reason).or_default() += 1,
        }
    }

    /// All requests have ended.
    pub(super) fn close(&mut self, took_s: f64) {
        self.took_s = took_s;
    }

    /// Answers per second while requests were sent.
    pub(super) fn goodput(&self) -> f64 {
        self.num_good as f64 / (self.seconds - self.warmup_s)
    }

    pub(super) fn seconds(&self) -> f64 {
        self.seconds
    }

    pub(super) fn took_s(&self) -> f64 {
        self.took_s
    }

    pub(super) fn num_sent(&self) -> u64 {
        self.num_sent
    }

    pub(super) fn num_refused(&self) -> u64 {
        self.num_refused
    }

    pub(super) fn num_lost(&self) -> usize {
        self.lost.values().sum()
    }

    /// Why requests were lost, and how many.
    pub(super) fn lost(&self) -> impl Iterator<Item = (&str, usize)> {
        self.lost.iter().map(|(reason, count)| (reason.as_str(), *count))
    }

    pub(super) fn latencies_ms(&self) -> impl Iterator<Item = f64> {
        self.latencies_ms.iter().copied()
    }
}
