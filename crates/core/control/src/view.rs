//! What others see of the state.

use crate::deployment::Deployment;
use crate::replica::Replica;
use crate::{Instant, State, status};
use tyndall_types::protocol::{
    ApplicationDetails, DeploymentDetails, DeploymentRoute, InstanceDetails, ReplicaRoute,
    RouteTable, RuntimeDir,
};

impl State {
    /// What every proxy should know; none until a new controller knows what runs.
    #[must_use]
    pub fn routes(&self) -> Option<RouteTable> {
        if !self.is_open {
            return None;
        }
        let mut routed: Vec<&Deployment> = self.deployments.values().collect();
        routed.sort_by_key(|deployment| deployment.order);
        let deployments = routed.into_iter().filter_map(|d| d.route.clone()).collect();
        Some(RouteTable { version: self.routes_version, deployments })
    }

    /// `GET /api/serve/applications/`.
    #[must_use]
    pub fn details(&self, now: Instant) -> InstanceDetails {
        let one = |deployment: &Deployment| {
            let name = deployment.name().as_str().to_owned();
            (name, deployment.application_details(now))
        };
        InstanceDetails { applications: self.deployments.values().map(one).collect() }
    }
}

impl Deployment {
    /// The deployment's route as it is now; none when it is being deleted.
    pub(crate) fn route_now(&self, runtime_dir: &RuntimeDir) -> Option<DeploymentRoute> {
        if self.is_deleting {
            return None;
        }
        let running = self.replicas.iter().filter(|replica| replica.is_running());
        let replica = |replica: &Replica| ReplicaRoute {
            id: replica.id.clone(),
            socket: runtime_dir.replica_socket(&replica.id),
        };
        Some(DeploymentRoute {
            deployment: self.config.name.clone(),
            model_id: self.config.model.id.clone(),
            created_s: self.deployed_at.as_secs(),
            max_ongoing_requests: self.config.max_ongoing_requests,
            max_queued_requests: self.config.max_queued_requests,
            request_timeout_s: self.config.request_timeout_s,
            generate: self.config.model.generate,
            max_model_len: self.max_model_len(),
            replicas: running.map(replica).collect(),
            unavailable: self.unavailable().cloned(),
        })
    }

    fn max_model_len(&self) -> Option<u32> {
        let said = self.card.as_ref().map(|card| card.max_model_len);
        said.or(self.config.model.max_model_len)
    }

    fn application_details(&self, now: Instant) -> ApplicationDetails {
        let name = self.name().as_str().to_owned();
        let details = self.details(now);
        ApplicationDetails {
            route_prefix: "/".to_owned(),
            status: status::application(self.status.0, self.is_deleting),
            message: self.message.clone(),
            last_deployed_time_s: self.deployed_at.as_secs_f64(),
            deployments: [(name.clone(), details)].into(),
            name,
        }
    }

    fn details(&self, now: Instant) -> DeploymentDetails {
        DeploymentDetails {
            name: self.name().as_str().to_owned(),
            status: self.status.0,
            status_trigger: self.status.1.as_str().to_owned(),
            message: self.message.clone(),
            model_id: self.config.model.id.clone(),
            target_num_replicas: self.scaling.target,
            queued_requests: self.queued,
            ongoing_requests: self.ongoing,
            replicas: self.replicas.iter().map(|replica| replica.details(now)).collect(),
        }
    }
}
