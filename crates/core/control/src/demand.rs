//! What proxies tell of their load.

use crate::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tyndall_types::DeploymentId;
use tyndall_types::protocol::{DemandReport, HANDLE_PREFIX};

/// A proxy that reports load must read the route table by then.
const PROXY_GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Default)]
struct Proxy {
    is_connected: bool,
    last_sequence: Option<u64>,
    /// Requests queued and ongoing.
    demand: BTreeMap<DeploymentId, (u32, u32)>,
    /// It must be connected by then.
    expires_at: Option<Instant>,
}

/// All proxies, and the sum of their loads.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies {
    proxies: BTreeMap<String, Proxy>,
}

impl Proxies {
    /// Requests queued and ongoing of one deployment, over all proxies.
    pub(crate) fn load(&self, id: &DeploymentId) -> (u32, u32) {
        let loads = self.proxies.values().filter_map(|proxy| proxy.demand.get(id));
        loads.fold((0, 0), |sum: (u32, u32), load| {
            (sum.0.saturating_add(load.0), sum.1.saturating_add(load.1))
        })
    }

    /// A proxy reads the route table; returns whose load changed by it.
    pub(crate) fn connected(&mut self, id: String) -> BTreeSet<DeploymentId> {
        let proxy = self.proxies.entry(id).or_default();
        proxy.expires_at = None;
        if !proxy.is_connected {
            proxy.is_connected = true;
            return BTreeSet::new();
        }
        // Another process of the same name: its counts and sequence start anew.
        let old = std::mem::replace(proxy, Proxy { is_connected: true, ..Proxy::default() });
        old.demand.into_keys().collect()
    }

    /// The proxies that read the route table; what handles in replicas have is none.
    pub(crate) fn connected_names(&self) -> Vec<String> {
        let is_shown = |id: &str| !id.starts_with(HANDLE_PREFIX);
        let connected =
            self.proxies.iter().filter(|(id, proxy)| proxy.is_connected && is_shown(id));
        connected.map(|(id, _)| id.clone()).collect()
    }

    pub(crate) fn gone(&mut self, id: &str) -> BTreeSet<DeploymentId> {
        let gone = self.proxies.remove(id);
        gone.map_or_else(BTreeSet::new, |proxy| proxy.demand.into_keys().collect())
    }

    /// Takes a report in; returns whose load changed by it.
    pub(crate) fn report(
        &mut self,
        id: String,
        report: DemandReport,
        now: Instant,
    ) -> BTreeSet<DeploymentId> {
        let proxy = self.proxies.entry(id).or_default();
        if proxy.last_sequence.is_some_and(|last| report.sequence <= last) {
            return BTreeSet::new();
        }
        if !proxy.is_connected && proxy.expires_at.is_none() {
            proxy.expires_at = Some(now.saturating_add(PROXY_GRACE));
        }
        proxy.last_sequence = Some(report.sequence);
        let mut before = std::mem::take(&mut proxy.demand);
        let mut touched = BTreeSet::new();
        for demand in report.deployments {
            let load = (demand.queued, demand.ongoing);
            if before.remove(&demand.deployment) != Some(load) {
                touched.insert(demand.deployment.clone());
            }
            proxy.demand.insert(demand.deployment, load);
        }
        touched.extend(before.into_keys());
        touched
    }

    /// Forgets proxies that reported and never read the route table.
    pub(crate) fn expire(&mut self, now: Instant) -> BTreeSet<DeploymentId> {
        let is_over = |proxy: &Proxy| proxy.expires_at.is_some_and(|at| at <= now);
        let over: Vec<String> = self
            .proxies
            .iter()
            .filter(|(_, proxy)| is_over(proxy))
            .map(|(id, _)| id.clone())
            .collect();
        over.iter().flat_map(|id| self.gone(id)).collect()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.proxies.values().filter_map(|proxy| proxy.expires_at).min()
    }
}
