//! How many replicas a deployment should have: Ray Serve's rule on exact, pushed counts.
//!
//! [`Autoscaler::decide`] is called whenever the configuration or the load changes and at the
//! deadline that it returned; nothing changes between calls, so no period is needed and delays are
//! exact.
//!
//! 1. The policy turns the load into a number of replicas; `OngoingRequests` takes it over the
//!    window of `look_back_period_s`.
//! 2. Factors scale the way from the running replicas to that number.
//! 3. It becomes the target once it was on the same side of the target for the delay of its
//!    direction, and at once where requests wait and no replica runs.
//! 4. Bounds hold last, and at once. Where replicas come and go in gangs, all numbers are rounded up
//!    to whole ones, and the last gang is what the last replica is elsewhere.
//!
//! A policy outside of this crate answers to questions of somebody else, who hands in what it
//! [asks for](Autoscaler::decide_asked) each time; from 2 on it is the same.
//!
//! A policy for a whole application stands between 2 and 3: ask each deployment what it
//! [wants](Autoscaler::wanted), [`share()`], and [decide for](Autoscaler::decide_for) the result.
//!
//! Differences from Ray, on purpose:
//!
//! - The window is over the exact course of the load, not over samples of it, and begins with the
//!   first request after a window without one.
//! - The way to zero is one delay counted from the last request, not one delay per step, so that an
//!   idle deployment is gone when its owner said. Nothing else leads to zero.
//! - The first replica comes for a request that is there now; what is left of earlier ones in the
//!   window wakes nobody.
//! - Bounds apply to what is asked for before it is compared with the target: a deployment at its
//!   bound waits for nothing.
//!
//! Source: ray 2.60.0 `python/ray/serve/autoscaling_policy.py`.
#![forbid(unsafe_code)]

mod autoscaler;
mod bounds;
mod policy;
mod share;
#[cfg(test)]
mod tests;
mod window;

pub use autoscaler::Autoscaler;
pub use bounds::{Bounds, CapacityDirection, adjusted, whole_gangs};
pub use share::share;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use tyndall_types::protocol::EngineLoad;

/// A point in time: the duration since an epoch of the caller's choice.
pub type Instant = Duration;

/// The load of one deployment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Load {
    /// Requests that wait for a replica, over all proxies and handles.
    pub num_queued: u32,
    /// Requests that replicas have.
    pub num_ongoing: u32,
    /// Replicas that take requests.
    pub num_running: u32,
    /// What engines say: tokens are sums over replicas, `kv_use` is their mean, and `ttft_s` the
    /// newest one, absent where none is known. Absent where no engine said anything.
    pub engine: Option<EngineLoad>,
}

impl Load {
    /// Requests, queued and ongoing.
    #[must_use]
    pub fn num_requests(&self) -> u64 {
        u64::from(self.num_queued) + u64::from(self.num_ongoing)
    }
}

/// Which way the number of replicas should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// More.
    Up,
    /// Fewer.
    Down,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Replicas that the deployment should have.
    pub target: u32,
    /// When to decide again if nothing changes; always later than `now`.
    pub deadline: Option<Instant>,
    /// Why.
    pub reason: Reason,
}

/// Why a target is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The load asks for what is there.
    Steady,
    /// Requests wait and no replica runs.
    FirstRequest,
    /// There was more load for as long as `upscale_delay_s`.
    MoreLoad,
    /// There was less load for as long as `downscale_delay_s`.
    LessLoad,
    /// There was no request for as long as `downscale_to_zero_delay_s`.
    Idle,
    /// The load asks for another number; its delay has not passed.
    Waiting {
        /// Whether for more or for fewer.
        direction: Direction,
        /// The number, within bounds.
        wanted: u32,
    },
    /// A bound moved the target, or more is wanted than a bound allows.
    Bounds,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steady => f.write_str("load is as planned"),
            Self::FirstRequest => f.write_str("requests wait for the first replica"),
            Self::MoreLoad => f.write_str("more load"),
            Self::LessLoad => f.write_str("less load"),
            Self::Idle => f.write_str("no requests"),
            Self::Waiting { direction: Direction::Up, wanted } => {
                write!(f, "more load: {wanted} replicas after upscale_delay_s")
            }
            Self::Waiting { direction: Direction::Down, wanted } => {
                write!(f, "less load: {wanted} replicas after downscale_delay_s")
            }
            Self::Bounds => f.write_str("held by the bounds of replicas"),
        }
    }
}

/// Seconds as a [`Duration`]: below zero and not-a-number are zero, too large is the largest.
#[must_use]
pub fn seconds(s: f64) -> Duration {
    if s > 0.0 { Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX) } else { Duration::ZERO }
}
