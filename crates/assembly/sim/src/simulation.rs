//! What is simulated.

use crate::outcome::Outcome;
use crate::run::Run;
use crate::{Arrival, Capacity, Faults, LatencyModel};
use std::collections::BTreeMap;
use std::time::Duration;
use tyndall_types::DeploymentId;
use tyndall_types::protocol::ApplicationConfig;

/// Everything that decides an outcome but the trace.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// What is deployed at the begin.
    pub applications: Vec<ApplicationConfig>,
    /// Percent of all replica counts that are carried out.
    pub target_capacity: Option<f64>,
    /// What all nodes have together; the loss of one does not change it.
    pub capacity: Capacity,
    /// Machines; a replica is on one of them and shares its fate.
    pub nodes: u32,
    /// Proxies, which get requests in turn.
    pub proxies: u32,
    /// How replicas start and serve, where `latency_of` does not say.
    pub latency: LatencyModel,
    /// How those of certain deployments do.
    pub latency_of: BTreeMap<DeploymentId, LatencyModel>,
    /// What goes wrong.
    pub faults: Faults,
    /// How long a message takes between two processes.
    pub link: Duration,
    /// A proxy tells its load so long after a change, and what changes meanwhile with it.
    pub report_delay: Duration,
    /// Virtual time after the last arrival; absent is as long as idle replicas stay.
    pub after: Option<Duration>,
    /// Decides all that is by chance.
    pub seed: u64,
}

impl SimConfig {
    /// One node and one proxy, messages of a millisecond, no faults, nothing scarce.
    #[must_use]
    pub fn new(applications: Vec<ApplicationConfig>) -> Self {
        Self {
            applications,
            target_capacity: None,
            capacity: Capacity::default(),
            nodes: 1,
            proxies: 1,
            latency: LatencyModel::default(),
            latency_of: BTreeMap::new(),
            faults: Faults::default(),
            link: Duration::from_millis(1),
            report_delay: Duration::from_millis(1),
            after: None,
            seed: 0,
        }
    }
}

/// A control plane that is ready to run in virtual time.
#[derive(Debug, Clone)]
pub struct Simulation {
    config: SimConfig,
}

impl Simulation {
    /// Takes what is to be simulated.
    #[must_use]
    pub fn new(config: SimConfig) -> Self {
        Self { config }
    }

    /// All deployments; an [`Arrival`] names one by its place here.
    #[must_use]
    pub fn deployments(&self) -> Vec<DeploymentId> {
        let all = self.config.applications.iter().flat_map(|app| &app.deployments);
        all.map(|deployment| deployment.id.clone()).collect()
    }

    /// Runs until everything that `trace` sends has ended and what is idle is gone. Arrivals for
    /// places that are none are passed over; one that is before its predecessor comes with it.
    #[must_use]
    pub fn run(&self, trace: impl IntoIterator<Item = Arrival>) -> Outcome {
        Run::new(self.config.clone()).run(trace.into_iter())
    }
}
