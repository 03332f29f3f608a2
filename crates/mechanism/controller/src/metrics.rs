//! What the controller counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::{Mutex, PoisonError};
use tyndall_control::Notice;
use tyndall_telemetry::{Metric, exposition};
use tyndall_types::{DeploymentId, ReplicaState};

type Labels = Vec<(&'static str, String)>;

/// Buckets of the phases of a start, seconds: from a spawn to a very large model on a slow disk.
const PHASE_SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0];

const STATES: [ReplicaState; 4] = [
    ReplicaState::Starting,
    ReplicaState::Recovering,
    ReplicaState::Running,
    ReplicaState::Stopping,
];

/// The controller's metrics. Labels are bounded: deployments, states and phases.
#[derive(Debug)]
pub struct ControllerMetrics {
    registry: Registry,
    replicas: Family<Labels, Gauge>,
    wakes: Family<Labels, Counter>,
    cold_start: Family<Labels, Histogram, fn() -> Histogram>,
    failures: Family<Labels, Counter>,
    warm_starts: Family<Labels, Counter>,
    rendering: Mutex<()>,
}

impl Default for ControllerMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl ControllerMetrics {
    /// No series yet: they appear with their deployments.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let replicas = Family::default();
        Metric::Replicas.register(&mut registry, Family::clone(&replicas));
        let (wakes, failures, warm_starts) = Default::default();
        Metric::Wakes.register(&mut registry, Family::clone(&wakes));
        Metric::ReplicaFailures.register(&mut registry, Family::clone(&failures));
        Metric::WarmStarts.register(&mut registry, Family::clone(&warm_starts));
        let phases: fn() -> Histogram = || Histogram::new(PHASE_SECONDS);
        let cold_start = Family::new_with_constructor(phases);
        Metric::ColdStart.register(&mut registry, Family::clone(&cold_start));
        let rendering = Mutex::default();
        Self { registry, replicas, wakes, cold_start, failures, warm_starts, rendering }
    }

    /// Counts what happened.
    pub fn count(&self, notice: &Notice) {
        match notice {
            Notice::Waking { deployment, .. } => {
                self.wakes.get_or_create(&labels(deployment)).inc();
            }
            Notice::Ready { deployment, phases, .. } => {
                for (phase, s) in &phases.0 {
                    self.phase(deployment, phase, *s);
                }
            }
            Notice::FirstToken { deployment, phases, .. } => {
                // The others were counted when it was ready.
                for (phase, s) in phases.after_ready() {
                    self.phase(deployment, phase, *s);
                }
            }
            Notice::StartFailed { deployment, .. } | Notice::Died { deployment, .. } => {
                self.failures.get_or_create(&labels(deployment)).inc();
            }
            Notice::WarmStart { deployment, is_taken } => {
                let outcome = if *is_taken { "taken" } else { "missed" };
                self.warm_starts.get_or_create(&with(deployment, "outcome", outcome)).inc();
            }
            Notice::WaitingDied { .. }
            | Notice::Exited { .. }
            | Notice::Scaled { .. }
            | Notice::Policy { .. }
            | Notice::Router { .. }
            | Notice::Actor { .. }
            | Notice::Evicted { .. } => {}
        }
    }

    /// The metrics page, with these replicas of all deployments. Gauges of deployments that are
    /// gone go with them; counters stay, as they must not go back.
    #[must_use]
    pub fn render(&self, deployments: &[(DeploymentId, Vec<ReplicaState>)]) -> String {
        let _one_at_a_time = self.rendering.lock().unwrap_or_else(PoisonError::into_inner);
        self.replicas.clear();
        for (name, states) in deployments {
            // They appear at zero, before there is something to count.
            drop(self.wakes.get_or_create(&labels(name)));
            drop(self.failures.get_or_create(&labels(name)));
            for state in STATES {
                let count = states.iter().filter(|one| **one == state).count();
                let gauge = self.replicas.get_or_create(&with(name, "state", state.as_str()));
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        exposition::render(&self.registry)
    }

    fn phase(&self, deployment: &DeploymentId, phase: &str, s: f64) {
        self.cold_start.get_or_create(&with(deployment, "phase", phase)).observe(s);
    }
}

fn labels(deployment: &DeploymentId) -> Labels {
    vec![("deployment", deployment.to_string())]
}

fn with(deployment: &DeploymentId, name: &'static str, value: &str) -> Labels {
    let mut labels = labels(deployment);
    labels.push((name, value.to_owned()));
    labels
}
