//! What requests and the links to the controller share: the deployments of the last route table.

use crate::deployment::{Changes, Deployment};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tyndall_openai::ApiError;
use tyndall_telemetry::ProxyMetrics;
use tyndall_types::DeploymentName;
use tyndall_types::protocol::{Demand, RouteTable};

/// How long a request waits for the first route table of a proxy that has just started.
const FIRST_TABLE: Duration = Duration::from_secs(5);

/// The deployments of one route table, in its order.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) deployments: Vec<Arc<Deployment>>,
    /// Where each model id and each deployment name leads; an id wins over a name.
    by_id: HashMap<String, usize>,
}

impl Table {
    fn new(deployments: Vec<Arc<Deployment>>) -> Self {
        let mut by_id = HashMap::with_capacity(deployments.len());
        for (index, deployment) in deployments.iter().enumerate() {
            by_id.entry(deployment.route().model_id.clone()).or_insert(index);
        }
        for (index, deployment) in deployments.iter().enumerate() {
            by_id.entry(deployment.name().to_string()).or_insert(index);
        }
        Self { deployments, by_id }
    }

    /// The deployment that serves a model; without a name the only one there is.
    pub(crate) fn find(&self, model: Option<&str>) -> Result<&Arc<Deployment>, ApiError> {
        let known = || -> Vec<String> {
            self.deployments.iter().map(|deployment| deployment.route().model_id.clone()).collect()
        };
        match (model, self.deployments.as_slice()) {
            (None, [only]) => Ok(only),
            (None, []) => Err(ApiError::unknown_model::<&str>("", &[])),
            (None, _) => Err(ApiError::missing_model(&known())),
            (Some(model), deployments) => match self.by_id.get(model) {
                Some(&index) => Ok(&deployments[index]),
                None => Err(ApiError::unknown_model(model, &known())),
            },
        }
    }
}

/// The state of a proxy.
#[derive(Debug)]
pub(crate) struct Shared {
    table: RwLock<Arc<Table>>,
    has_table: watch::Sender<bool>,
    changes: Arc<Changes>,
}

impl Shared {
    pub(crate) fn new() -> Self {
        let metrics = Arc::new(ProxyMetrics::new());
        Self {
            table: RwLock::default(),
            has_table: watch::Sender::new(false),
            changes: Arc::new(Changes {
                demand: Notify::new(),
                is_cut: watch::Sender::new(false),
                metrics,
            }),
        }
    }

    pub(crate) fn metrics(&self) -> &Arc<ProxyMetrics> {
        &self.changes.metrics
    }

    /// The last table; empty before the first.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn has_table(&self) -> bool {
        *self.has_table.borrow()
    }

    /// The last table, once there is one.
    pub(crate) async fn first_table(&self) -> Result<Arc<Table>, ApiError> {
        let mut has_table = self.has_table.subscribe();
        let ready = has_table.wait_for(|has| *has);
        if tokio::time::timeout(FIRST_TABLE, ready).await.is_err() {
            return Err(ApiError::unavailable(
                "the proxy has no routes yet: its controller does not answer; try again",
            ));
        }
        Ok(self.table())
    }

    /// Takes a new table: deployments that stay keep their requests, those that are gone fail the
    /// ones that wait.
    pub(crate) fn apply(&self, table: RouteTable) {
        let before = self.table();
        let by_name: HashMap<&DeploymentName, &Arc<Deployment>> =
            before.deployments.iter().map(|deployment| (deployment.name(), deployment)).collect();
        let mut kept = HashSet::new();
        let deployments = table
            .deployments
            .into_iter()
            .map(|route| match by_name.get(&route.deployment) {
                Some(deployment) => {
                    kept.insert(deployment.name());
                    deployment.update(route);
                    Arc::clone(deployment)
                }
                None => Arc::new(Deployment::new(route, seed(), self.changes.clone())),
            })
            .collect();
        for gone in before.deployments.iter().filter(|old| !kept.contains(old.name())) {
            gone.retire();
        }
        *self.table.write().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(Table::new(deployments));
        self.has_table.send_replace(true);
    }

    /// The load now: every deployment with a count above zero.
    pub(crate) fn demand(&self) -> Vec<Demand> {
        self.table()
            .deployments
            .iter()
            .map(|deployment| deployment.demand())
            .filter(|demand| demand.queued + demand.ongoing > 0)
            .collect()
    }

    /// The drain time is over.
    pub(crate) fn cut(&self) {
        self.changes.is_cut.send_replace(true);
    }

    /// Resolves when the drain time is over.
    pub(crate) async fn is_cut(&self) {
        let mut is_cut = self.changes.is_cut.subscribe();
        // The sender lives as long as self.
        drop(is_cut.wait_for(|is_cut| *is_cut).await);
    }

    /// Resolves when a count changed since it last did.
    pub(crate) async fn demand_changed(&self) {
        self.changes.demand.notified().await;
    }

    /// Makes [`Shared::demand_changed`] resolve, so that the controller hears all counts.
    pub(crate) fn repeat_demand(&self) {
        self.changes.demand.notify_one();
    }
}

/// A number that differs from process to process and call to call.
pub(crate) fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::route;

    fn table(models: &[&str]) -> RouteTable {
        RouteTable { version: 1, deployments: models.iter().map(|model| route(model)).collect() }
    }

    #[test]
    fn models_are_found_by_id_by_name_or_by_being_alone() {
        let shared = Shared::new();
        shared.apply(table(&["a"]));
        assert_eq!(shared.table().find(None).unwrap().name().as_str(), "a");
        let mut two = table(&["a", "b"]);
        two.deployments[1].model_id = "org/b".to_owned();
        shared.apply(two);
        let table = shared.table();
        for asked in ["b", "org/b"] {
            assert_eq!(table.find(Some(asked)).unwrap().name().as_str(), "b");
        }
        let message = table.find(None).unwrap_err().message;
        assert_eq!(message, "model is missing; this server has a, org/b");
        assert_eq!(table.find(Some("c")).unwrap_err().status, 404);
        assert_eq!(Table::default().find(None).unwrap_err().status, 404);
    }

    #[test]
    fn deployments_outlive_tables_that_name_them() {
        let shared = Shared::new();
        shared.apply(table(&["a", "b"]));
        let before = shared.table().deployments[0].clone();
        shared.apply(table(&["b", "a"]));
        assert!(Arc::ptr_eq(&before, &shared.table().deployments[1]));
        shared.apply(table(&[]));
        assert!(shared.table().deployments.is_empty() && shared.has_table());
    }
}
