//! How many replicas a deployment should have: Ray Serve's rule on exact, pushed counts.
//!
//! [`decide`] is a function of the configuration, what was decided before, the load and the time.
//! It is called whenever one of them changes and at the deadline that it returned; nothing changes
//! between calls, so no period is needed and delays are exact.
//!
//! Differences from Ray, on purpose: counts are not averaged over a window, because they are exact;
//! and the way to zero is one delay counted from the last request, not one delay per step, so that
//! an idle deployment is gone when its owner said.
//!
//! Source: ray 2.60.0 `python/ray/serve/autoscaling_policy.py`.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::time::Duration;
use tyndall_types::protocol::AutoscalingConfig;

#[cfg(test)]
mod tests;

/// A point in time: the duration since an epoch of the caller's choice.
pub type Instant = Duration;

/// The load of one deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Requests queued and ongoing, over all proxies.
    pub num_requests: u64,
    /// Replicas that take requests.
    pub num_running: u32,
}

/// Which way the number of replicas should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// More.
    Up,
    /// Fewer.
    Down,
}

/// What was decided before; handed back to the next [`decide`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaling {
    /// Replicas that the deployment should have.
    pub target: u32,
    /// The way that the load has asked for, and since when without a break.
    pub pending: Option<(Direction, Instant)>,
    /// Since when there is no request.
    pub idle_since: Option<Instant>,
}

impl Scaling {
    /// The start: `target` replicas, no history.
    #[must_use]
    pub fn new(target: u32) -> Self {
        Self { target, pending: None, idle_since: None }
    }
}

/// What [`decide`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The new target, and what the next call must know.
    pub scaling: Scaling,
    /// When to decide again if the load stays as it is; always later than `now`.
    pub deadline: Option<Instant>,
}

/// Decides how many replicas there should be.
///
/// `target = ceil(requests / target_ongoing_requests)`, between `min_replicas` and `max_replicas`;
/// more only after the load asked for more during all of `upscale_delay_s`, fewer only after
/// `downscale_delay_s`. The first replica comes with the first request, without delay; the last
/// ones go when there was no request for `downscale_to_zero_delay_s`.
#[must_use]
pub fn decide(config: &AutoscalingConfig, previous: Scaling, load: Load, now: Instant) -> Decision {
    let bound = |target: u32| target.min(config.max_replicas).max(config.min_replicas);
    let current = bound(previous.target);
    let idle_since = (load.num_requests == 0).then(|| previous.idle_since.unwrap_or(now));

    // From zero, and until the first replica is there, only that one is sure to be needed.
    if load.num_requests > 0 && (current == 0 || load.num_running == 0) {
        let scaling = Scaling { target: bound(current.max(1)), pending: None, idle_since };
        return Decision { scaling, deadline: None };
    }
    let zero_at = idle_since
        .filter(|_| config.min_replicas == 0 && current > 0)
        .map(|since| since.saturating_add(seconds(config.downscale_to_zero_delay_s)));
    if zero_at.is_some_and(|at| at <= now) {
        return Decision {
            scaling: Scaling { target: 0, pending: None, idle_since },
            deadline: None,
        };
    }
    // Zero is left to the rule above.
    let desired = bound(wanted(load.num_requests, config.target_ongoing_requests));
    let desired = if current > 0 { desired.max(1) } else { desired };
    let (direction, delay_s) = match desired.cmp(&current) {
        std::cmp::Ordering::Equal => {
            let scaling = Scaling { target: current, pending: None, idle_since };
            return Decision { scaling, deadline: zero_at };
        }
        std::cmp::Ordering::Greater => (Direction::Up, config.upscale_delay_s),
        std::cmp::Ordering::Less => (Direction::Down, config.downscale_delay_s),
    };
    let since = match previous.pending {
        Some((before, since)) if before == direction => since,
        Some(_) | None => now,
    };
    let due = since.saturating_add(seconds(delay_s));
    if due <= now {
        let scaling = Scaling { target: desired, pending: None, idle_since };
        return Decision { scaling, deadline: zero_at };
    }
    let scaling = Scaling { target: current, pending: Some((direction, since)), idle_since };
    Decision { scaling, deadline: Some(zero_at.map_or(due, |at| at.min(due))) }
}

/// Seconds as a [`Duration`]: below zero and not-a-number are zero, too large is the largest.
#[must_use]
pub fn seconds(s: f64) -> Duration {
    if s > 0.0 { Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX) } else { Duration::ZERO }
}

/// `ceil(requests / per_replica)`, forgiving the rounding of the division.
fn wanted(num_requests: u64, per_replica: f64) -> u32 {
    // Saturates: casts from float to integer never wrap.
    (num_requests as f64 / per_replica - 1e-9).ceil().max(0.0) as u32
}
