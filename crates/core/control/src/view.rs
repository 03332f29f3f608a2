//! What others see of the state.

use crate::application::{Application, joined};
use crate::deployment::Deployment;
use crate::replica::Replica;
use crate::status::Trigger;
use crate::{Instant, State};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use tyndall_types::protocol::{
    ApplicationDetails, DeploymentDetails, DeploymentRoute, InstanceDetails, ModelRoute,
    ReplicaRoute, RouteTable, RouterRoute, RuntimeDir,
};
use tyndall_types::{ApplicationName, DeploymentId, ReplicaState};

impl State {
    /// What a proxy should know that has read the table up to version `since`; none until a new
    /// controller knows what runs.
    #[must_use]
    pub fn routes(&self, since: Option<u64>) -> Option<RouteTable> {
        if !self.is_open {
            return None;
        }
        let range = self.unrouted_before..=self.routes_version;
        let since = since.filter(|since| range.contains(since));
        let news = self.routed.range(since.map_or(0, |since| since + 1)..);
        let mut deployments: Vec<Arc<DeploymentRoute>> = news
            .filter_map(|(_, id)| self.deployments.get(id)?.route.as_ref())
            .map(|(_, route)| route.clone())
            .collect();
        deployments.sort_by_key(|route| route.order);
        let removed = match since {
            None => Vec::new(),
            Some(since) => {
                let news = self.unrouted.iter().filter(|(version, _)| *version > since);
                let is_back = |id: &&DeploymentId| {
                    self.deployments.get(*id).is_some_and(|d| d.route.is_some())
                };
                news.map(|(_, id)| id).filter(|id| !is_back(id)).cloned().collect()
            }
        };
        let version = self.routes_version;
        Some(RouteTable { version, is_complete: since.is_none(), deployments, removed })
    }

    /// `GET /api/tyndall/applications/`.
    #[must_use]
    pub fn details(&self, now: Instant) -> InstanceDetails {
        let one = |(name, application): (&ApplicationName, &Application)| {
            (name.as_str().to_owned(), self.application_details(application, now))
        };
        let applications = self.applications.iter().map(one).collect();
        InstanceDetails { applications, ..self.overview() }
    }

    /// The same without applications.
    #[must_use]
    pub fn overview(&self) -> InstanceDetails {
        InstanceDetails {
            applications: BTreeMap::new(),
            target_capacity: self.target_capacity,
            proxies: self.proxies.connected_names(),
        }
    }

    /// So many applications of those whose names come after `after`.
    #[must_use]
    pub fn applications_after(
        &self,
        after: Option<&ApplicationName>,
        count: usize,
        now: Instant,
    ) -> Vec<ApplicationDetails> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let applications = self.applications.range((from, Bound::Unbounded)).take(count);
        applications.map(|(_, application)| self.application_details(application, now)).collect()
    }

    /// The states of the replicas of each deployment.
    #[must_use]
    pub fn replica_states(&self) -> Vec<(DeploymentId, Vec<ReplicaState>)> {
        let states = |deployment: &Deployment| {
            deployment.replicas.iter().map(|replica| replica.state).collect()
        };
        self.deployments.iter().map(|(id, deployment)| (id.clone(), states(deployment))).collect()
    }

    /// One application; none that is not there.
    #[must_use]
    pub fn application(&self, name: &ApplicationName, now: Instant) -> Option<ApplicationDetails> {
        Some(self.application_details(self.applications.get(name)?, now))
    }

    fn application_details(&self, application: &Application, now: Instant) -> ApplicationDetails {
        let of = || application.deployment_ids().filter_map(|id| self.deployments.get(id));
        let statuses = of().map(|deployment| {
            let (status, trigger) = deployment.status;
            let name = deployment.id().deployment.as_str();
            (name, status, trigger == Trigger::ConfigUpdateStarted)
        });
        let (status, message) = application.status(statuses);
        let config = &application.config;
        let deployments = of().map(|deployment| {
            (deployment.id().deployment.as_str().to_owned(), deployment.details(now))
        });
        ApplicationDetails {
            name: config.name.as_str().to_owned(),
            route_prefix: config.route_prefix.clone(),
            ingress: config.deployments.first().map(|first| first.id.deployment.to_string()),
            source: config.source.as_str().to_owned(),
            version: application.version,
            external_scaler_enabled: config.external_scaler_enabled,
            submitted: config.submitted.value(),
            status,
            message,
            last_deployed_time_s: application.deployed_at.as_secs_f64(),
            deployments: deployments.collect(),
        }
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
            models: replica.models.clone(),
            routing_stats: replica.routing_stats.clone(),
            metadata: replica.metadata.clone(),
        };
        let model = self.config.workload.model().map(|model| ModelRoute {
            id: model.id.clone(),
            aliases: model.aliases.clone(),
            task: model.task,
            created_s: self.deployed_at.as_secs(),
            generate: model.generate,
            max_model_len: self
                .card
                .as_ref()
                .map(|card| card.max_model_len)
                .or(model.max_model_len),
            prefix_affinity: self.config.prefix_affinity,
        });
        Some(DeploymentRoute {
            deployment: self.config.id.clone(),
            order: self.order,
            route_prefix: self.mount.route_prefix.clone(),
            is_ingress: self.mount.is_ingress,
            model,
            max_ongoing_requests: self.config.max_ongoing_requests,
            max_queued_requests: self.config.max_queued_requests,
            backpressure: self.config.backpressure,
            request_timeout_s: self.config.request_timeout_s,
            replicas: running.map(replica).collect(),
            unavailable: self.unavailable().cloned(),
            router: self.router_route(runtime_dir).map(Box::new),
        })
    }

    fn router_route(&self, runtime_dir: &RuntimeDir) -> Option<RouterRoute> {
        let process = self.routing.as_ref()?.process.as_ref()?;
        let backoff = self.config.request_router.as_ref()?.backoff;
        Some(RouterRoute { socket: runtime_dir.replica_socket(process), backoff })
    }

    fn details(&self, now: Instant) -> DeploymentDetails {
        DeploymentDetails {
            name: self.id().deployment.as_str().to_owned(),
            status: self.status.0,
            status_trigger: self.status.1.as_str().to_owned(),
            message: joined([
                &self.message,
                &self.waits_for_actors(),
                self.asked.as_ref().map_or("", |asked| asked.trouble.as_str()),
                self.routing.as_ref().map_or("", |routing| routing.trouble.as_str()),
            ]),
            model_id: self.config.workload.model().map(|model| model.id.clone()),
            target_num_replicas: self.scaler.target(),
            queued_requests: self.queued,
            ongoing_requests: self.ongoing,
            config: Some(self.config.clone()),
            replicas: self.replicas.iter().map(|replica| replica.details(now)).collect(),
            actors: self.actors.details(now),
            dead_replicas: self.dead.iter().cloned().collect(),
        }
    }
}
