//! The counts of all deployments of a router, as the controller is told them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use tyndall_telemetry::ProxyMetrics;
use tyndall_types::DeploymentId;
use tyndall_types::protocol::Demand;

/// Where deployments report that their counts changed.
#[derive(Debug)]
pub(crate) struct Changes {
    /// Names this process to request routers.
    pub(crate) caller: String,
    /// Any count.
    pub(crate) demand: Notify,
    /// How many wait: a replica may have to come for them.
    pub(crate) queued: Notify,
    /// Every deployment with a count above zero, so that a report costs what is busy and not what
    /// there is.
    pub(crate) busy: Mutex<HashMap<DeploymentId, Arc<Load>>>,
    pub(crate) metrics: Arc<ProxyMetrics>,
}

/// Both counts of a deployment, queued and ongoing, as one value.
#[derive(Debug, Default)]
pub(crate) struct Load(AtomicU64);

impl Load {
    pub(crate) fn set(&self, queued: u32, ongoing: u32) {
        self.0.store(u64::from(queued) << 32 | u64::from(ongoing), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> (u32, u32) {
        let both = self.0.load(Ordering::Relaxed);
        ((both >> 32) as u32, both as u32)
    }
}

impl Changes {
    /// The load now: every deployment with a count above zero.
    pub(crate) fn loads(&self) -> Vec<Demand> {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let demand = |(id, load): (&DeploymentId, &Arc<Load>)| {
            let (queued, ongoing) = load.get();
            Demand { deployment: id.clone(), queued, ongoing }
        };
        busy.iter().map(demand).collect()
    }

    pub(crate) fn set_busy(&self, id: &DeploymentId, load: &Arc<Load>, is_busy: bool) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if is_busy {
            busy.insert(id.clone(), load.clone());
        } else {
            busy.remove(id);
        }
    }
}
