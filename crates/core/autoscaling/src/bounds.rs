//! Between which numbers of replicas a target stays, and what `target_capacity` makes of them.

use serde::{Deserialize, Serialize};
use tyndall_types::protocol::AutoscalingConfig;

/// Which way `target_capacity` went last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CapacityDirection {
    /// It rose.
    Up,
    /// It fell, or was set for the first time.
    Down,
}

/// `n` replicas at a capacity in percent; absent is full.
///
/// 0 stays 0, and at capacity 0 everything is 0; else at least 1, and half a replica is one. A
/// capacity that is not a number counts as absent.
#[must_use]
pub fn adjusted(n: u32, target_capacity: Option<f64>) -> u32 {
    let Some(percent) = target_capacity.filter(|percent| !percent.is_nan()) else { return n };
    if n == 0 || percent <= 0.0 {
        return 0;
    }
    // Saturates: casts from float to integer never wrap.
    ((f64::from(n) * percent / 100.0 + 0.5).floor() as u32).max(1)
}

/// Between which numbers, both included, a target stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Never fewer; it wins where it is above `upper`.
    pub lower: u32,
    /// Never more.
    pub upper: u32,
}

impl Bounds {
    /// Those of a deployment. While the capacity rises, `initial_replicas` is the least: replicas
    /// are there before the traffic is.
    #[must_use]
    pub fn new(
        config: &AutoscalingConfig,
        target_capacity: Option<f64>,
        direction: Option<CapacityDirection>,
    ) -> Self {
        let least = match direction {
            Some(CapacityDirection::Up) => config.initial_replicas.unwrap_or(config.min_replicas),
            Some(CapacityDirection::Down) | None => config.min_replicas,
        };
        Self {
            lower: adjusted(least, target_capacity),
            upper: adjusted(config.max_replicas, target_capacity),
        }
    }

    /// The number within that is next to `n`.
    #[must_use]
    pub fn clamp(self, n: u32) -> u32 {
        n.min(self.upper).max(self.lower)
    }
}
