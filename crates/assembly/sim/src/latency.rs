//! How long pretended things take.

use crate::random::{Random, Stream};
use std::time::Duration;
use tyndall_control::seconds;

/// A time that is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Time {
    /// Always the same, in seconds.
    Constant(f64),
    /// Lognormal.
    LogNormal {
        /// The mean of the time, in seconds.
        mean_s: f64,
        /// The deviation of its logarithm: 0.5 is a mild spread, 1 a wide one.
        sigma: f64,
    },
}

impl Time {
    pub(crate) fn draw_s(self, random: Random, stream: Stream, n: u64) -> f64 {
        let s = match self {
            Self::Constant(s) => s,
            Self::LogNormal { mean_s, sigma } => {
                mean_s * (sigma * random.normal(stream, n) - sigma * sigma / 2.0).exp()
            }
        };
        s.max(0.0)
    }
}

/// How replicas of a deployment start and serve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatencyModel {
    /// From the start of a request at a replica that has no other to the end of its answer.
    pub service: Time,
    /// What each further request in work adds, as a share of the service: it takes
    /// `service * (1 + slope * (ongoing - 1))`, with the number in work when it starts. 0 is a
    /// replica whose requests do not slow each other down.
    pub concurrency_slope: f64,
    /// Share of the service, from 0 to 1, after which the answer begins. What is lost before goes
    /// to another replica; what is lost after cannot.
    pub begins_after: f64,
    /// From the decision to start a replica to its readiness.
    pub start: Time,
    /// Tokens of a request, for policies that count them.
    pub tokens: u32,
}

impl Default for LatencyModel {
    /// One second of service with the answer at its end, two seconds of start.
    fn default() -> Self {
        Self {
            service: Time::Constant(1.0),
            concurrency_slope: 0.0,
            begins_after: 1.0,
            start: Time::Constant(2.0),
            tokens: 512,
        }
    }
}

impl LatencyModel {
    /// Time to the begin and to the end of an answer. `ongoing` counts the request itself, `alone_s`
    /// is its service where it is alone.
    pub(crate) fn times(&self, alone_s: f64, ongoing: usize, node: f64) -> (Duration, Duration) {
        let others = ongoing.saturating_sub(1) as f64;
        let service_s = alone_s * (1.0 + self.concurrency_slope.max(0.0) * others) * node;
        (seconds(service_s * self.begins_after.clamp(0.0, 1.0)), seconds(service_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lognormal_time_has_its_mean() {
        let time = Time::LogNormal { mean_s: 2.0, sigma: 0.8 };
        let random = Random::new(3);
        let n = 50_000;
        let sum: f64 = (0..n).map(|i| time.draw_s(random, Stream::Service, i)).sum();
        assert!((sum / n as f64 - 2.0).abs() < 0.05, "{}", sum / n as f64);
    }

    #[test]
    fn requests_slow_each_other_down() {
        let model =
            LatencyModel { concurrency_slope: 0.5, begins_after: 0.25, ..LatencyModel::default() };
        let s = Duration::from_secs_f64;
        assert_eq!(model.times(1.0, 1, 1.0), (s(0.25), s(1.0)));
        assert_eq!(model.times(1.0, 3, 1.0), (s(0.5), s(2.0)));
        assert_eq!(model.times(1.0, 3, 3.0), (s(1.5), s(6.0)));
    }
}
