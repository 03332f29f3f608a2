//! How the controller itself is, in the shape of Ray's `ControllerHealthMetrics`.
//!
//! Ray's loop sleeps and polls; here each message or deadline is one turn of the loop. What Ray
//! measures of polling and of decoding samples is not told: nothing of it exists.
//!
//! Source: ray 2.60.0 `python/ray/serve/schema.py`.

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::Duration;

/// So many of the newest durations count, as in Ray.
const WINDOW: usize = 100;

/// What a turn was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A report of load, of a proxy or a handle.
    HandleReport,
    /// A report of load, of a replica.
    ReplicaReport,
    /// Anything else.
    Other,
}

#[derive(Debug)]
pub(crate) struct Health {
    started_at: Duration,
    last_turn_at: Duration,
    num_turns: u64,
    num_handle_reports: u64,
    num_replica_reports: u64,
    turns: Window,
    handle_reports: Window,
    replica_reports: Window,
}

impl Health {
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            started_at: now,
            last_turn_at: now,
            num_turns: 0,
            num_handle_reports: 0,
            num_replica_reports: 0,
            turns: Window::default(),
            handle_reports: Window::default(),
            replica_reports: Window::default(),
        }
    }

    /// A turn ended now that took so long.
    pub(crate) fn note(&mut self, turn: Turn, took: Duration, now: Duration) {
        self.num_turns += 1;
        self.last_turn_at = now;
        self.turns.push(took);
        match turn {
            Turn::HandleReport => {
                self.num_handle_reports += 1;
                self.handle_reports.push(took);
            }
            Turn::ReplicaReport => {
                self.num_replica_reports += 1;
                self.replica_reports.push(took);
            }
            Turn::Other => {}
        }
    }

    /// `ControllerHealthMetrics`; the process takes so much memory.
    pub(crate) fn metrics(&self, memory_mb: f64, now: Duration) -> Value {
        const MS: f64 = 1e3;
        let uptime_s = now.saturating_sub(self.started_at).as_secs_f64();
        json!({
            "timestamp": now.as_secs_f64(),
            "controller_start_time": self.started_at.as_secs_f64(),
            "uptime_s": uptime_s,
            "last_control_loop_time": self.last_turn_at.as_secs_f64(),
            "num_control_loops": self.num_turns,
            "loop_duration_s": self.turns.stats(1.0),
            "loops_per_second": if uptime_s > 0.0 { self.num_turns as f64 / uptime_s } else { 0.0 },
            "handle_ingest_duration_ms": self.handle_reports.stats(MS),
            "replica_ingest_duration_ms": self.replica_reports.stats(MS),
            "handle_reports_received": self.num_handle_reports,
            "replica_reports_received": self.num_replica_reports,
            "ingest_reports_received": self.num_handle_reports + self.num_replica_reports,
            "process_memory_mb": memory_mb,
        })
    }
}

#[derive(Debug, Default)]
struct Window(VecDeque<Duration>);

impl Window {
    fn push(&mut self, took: Duration) {
        if self.0.len() == WINDOW {
            self.0.pop_front();
        }
        self.0.push_back(took);
    }

    /// Ray's `DurationStats`, in so many parts of a second; null where nothing was measured.
    fn stats(&self, per_second: f64) -> Value {
        if self.0.is_empty() {
            return Value::Null;
        }
        let values = || self.0.iter().map(|took| took.as_secs_f64() * per_second);
        let mean = values().sum::<f64>() / self.0.len() as f64;
        let variance = values().map(|value| (value - mean).powi(2)).sum::<f64>();
        json!({
            "mean": mean,
            "std": (variance / self.0.len() as f64).sqrt(),
            "min": values().fold(f64::INFINITY, f64::min),
            "max": values().fold(0.0, f64::max),
        })
    }
}

/// Megabytes of this process that are in memory; 0 where the system does not say.
pub(crate) fn memory_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_durations_are_told() {
        let s = Duration::from_secs;
        let mut health = Health::new(s(1000));
        for _ in 0..WINDOW {
            health.note(Turn::Other, s(50), s(1001));
        }
        for nth in 0..WINDOW as u64 {
            let turn = if nth % 2 == 0 { Turn::HandleReport } else { Turn::ReplicaReport };
            health.note(turn, s(1 + 2 * (nth % 2)), s(1002));
        }
        let told = health.metrics(5.0, s(1010));
        assert_eq!(told["num_control_loops"], 200);
        assert_eq!((&told["uptime_s"], &told["loops_per_second"]), (&json!(10.0), &json!(20.0)));
        let stats = json!({"mean": 2.0, "std": 1.0, "min": 1.0, "max": 3.0});
        assert_eq!(told["loop_duration_s"], stats);
        assert_eq!(told["handle_ingest_duration_ms"]["mean"], 1000.0);
        assert_eq!(told["replica_ingest_duration_ms"]["std"], 0.0);
        assert_eq!(told["ingest_reports_received"], 100);
        assert!(memory_mb() > 0.0);
    }
}
