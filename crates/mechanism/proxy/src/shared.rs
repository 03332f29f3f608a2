//! What requests and the links to the controller share: the deployments of the last route table.

use crate::deployment::{Changes, Deployment};
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
}

impl Table {
    fn with_name(&self, name: &DeploymentName) -> Option<&Arc<Deployment>> {
        self.deployments.iter().find(|deployment| deployment.name() == name)
    }

    /// The deployment that serves a model; without a name the only one there is.
    pub(crate) fn find(&self, model: Option<&str>) -> Result<&Arc<Deployment>, ApiError> {
        let ids: Vec<String> =
            self.deployments.iter().map(|deployment| deployment.route().model_id.clone()).collect();
        let known: Vec<&str> = ids.iter().map(String::as_str).collect();
        match (model, self.deployments.as_slice()) {
            (None, [only]) => Ok(only),
            (None, []) => Err(ApiError::unknown_model("", &[])),
            (None, _) => Err(ApiError::invalid(
                "model",
                format!("model is missing; this server has {}", known.join(", ")),
            )),
            (Some(model), deployments) => deployments
                .iter()
                .zip(&known)
                .find(|(deployment, id)| **id == model || deployment.name().as_str() == model)
                .map(|(deployment, _)| deployment)
                .ok_or_else(|| ApiError::unknown_model(model, &known)),
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
            changes: Arc::new(Changes { demand: Notify::new(), metrics }),
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
        let deployments: Vec<Arc<Deployment>> = table
            .deployments
            .into_iter()
            .map(|route| match before.with_name(&route.deployment) {
                Some(deployment) => {
                    deployment.update(route);
                    deployment.clone()
                }
                None => Arc::new(Deployment::new(route, seed(), self.changes.clone())),
            })
            .collect();
        for gone in &before.deployments {
            if !deployments.iter().any(|deployment| Arc::ptr_eq(deployment, gone)) {
                gone.retire();
            }
        }
        *self.table.write().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(Table { deployments });
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
