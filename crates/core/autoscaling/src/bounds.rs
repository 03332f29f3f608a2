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

/// The next number from `n` on that is a whole number of gangs; 0 stays 0.
#[must_use]
pub fn whole_gangs(n: u32, gang_size: u32) -> u32 {
    let gang_size = gang_size.max(1);
    n.checked_next_multiple_of(gang_size).unwrap_or(u32::MAX - u32::MAX % gang_size)
}

/// Between which numbers, both included, a target stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Never fewer; it wins where it is above `upper`.
    pub lower: u32,
    /// Never more.
    pub upper: u32,
    /// Replicas come and go so many at a time.
    pub gang_size: u32,
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
            gang_size: 1,
        }
    }

    /// The same for replicas that come and go in gangs: what is no whole number of them is rounded
    /// up, so that there are never fewer replicas than were asked for.
    #[must_use]
    pub fn of_gangs(self, gang_size: u32) -> Self {
        let gang_size = gang_size.max(1);
        let [lower, upper] = [self.lower, self.upper].map(|n| whole_gangs(n, gang_size));
        Self { lower, upper, gang_size }
    }

    /// The number within that is next to `n`, in whole gangs.
    #[must_use]
    pub fn clamp(self, n: u32) -> u32 {
        whole_gangs(n, self.gang_size).min(self.upper).max(self.lower)
    }
}
