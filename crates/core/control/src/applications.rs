//! Applications: how they are deployed, reviewed, rolled back and deleted.

use crate::Instant;
use crate::application::{Application, Build, Fallback};
use crate::deployment::{Deployment, Mount};
use crate::event::Action;
use crate::state::{Outbox, State};
use std::collections::BTreeSet;
use std::sync::Arc;
use tyndall_autoscaling::{Bounds, share};
use tyndall_types::protocol::{
    ApplicationConfig, ApplicationPolicy, ApplicationSource, DeploymentConfig,
};
use tyndall_types::{ApplicationName, DeploymentId, DeploymentStatus};

impl State {
    pub(crate) fn building(
        &mut self,
        name: ApplicationName,
        source: ApplicationSource,
        at: Instant,
    ) {
        let unbuilt = || Application::unbuilt(name.clone(), source, at);
        let application = self.applications.entry(name.clone()).or_insert_with(unbuilt);
        application.build = Build::Running;
        application.is_deleting = false;
        application.deployed_at = at;
        application.note.clear();
    }

    pub(crate) fn build_failed(&mut self, name: &ApplicationName, reason: String) {
        if let Some(application) = self.applications.get_mut(name) {
            application.build = Build::Failed(reason);
        }
    }

    /// Takes an application's new configuration; deployments that it no longer has are deleted.
    pub(crate) fn deploy(
        &mut self,
        config: Arc<ApplicationConfig>,
        version: u64,
        deployed_at: Instant,
        fallback: Option<Fallback>,
    ) -> BTreeSet<DeploymentId> {
        let name = config.name.clone();
        let unbuilt = || Application::unbuilt(name.clone(), config.source, deployed_at);
        let application = self.applications.entry(name.clone()).or_insert_with(unbuilt);
        application.build = Build::Done;
        application.is_deleting = false;
        application.note.clear();
        application.version = version;
        application.deployed_at = deployed_at;
        let touched = self.carry_out(config, deployed_at);
        self.set_fallback(&name, fallback);
        touched
    }

    fn carry_out(
        &mut self,
        config: Arc<ApplicationConfig>,
        deployed_at: Instant,
    ) -> BTreeSet<DeploymentId> {
        let (capacity, direction) = (self.target_capacity, self.direction);
        let mut touched = BTreeSet::new();
        let is_model = |deployment: &DeploymentConfig| deployment.workload.model().is_some();
        let is_of_models = config.deployments.first().is_some_and(|first| is_model(first));
        for (index, deployment) in config.deployments.iter().enumerate() {
            let id = deployment.id.clone();
            // Models of an application of code are called by it alone: nothing from outside gets
            // past its ingress.
            let is_inner = is_model(deployment) && !is_of_models;
            let mount = Mount {
                route_prefix: config.route_prefix.clone().filter(|_| !is_inner),
                is_ingress: index == 0 || is_model(deployment) && !is_inner,
            };
            let deployment = deployment.clone();
            match self.deployments.get_mut(&id) {
                Some(known) => known.configure(deployment, mount, deployed_at, |scaler, config| {
                    scaler.configure(&config.autoscaling, capacity, direction);
                }),
                None => {
                    self.num_deployed += 1;
                    let order = self.num_deployed;
                    let new = Deployment::new(deployment, mount, order, deployed_at, capacity);
                    self.deployments.insert(id.clone(), Box::new(new));
                }
            }
            touched.insert(id);
        }
        touched.extend(self.delete_all_but(&config.name, &touched));
        let application = self.applications.get_mut(&config.name);
        application.expect("who deploys has made it").config = config.clone();
        self.register_policies(&config);
        self.register_routers(&config);
        touched
    }

    pub(crate) fn delete(&mut self, name: &ApplicationName) -> BTreeSet<DeploymentId> {
        let Some(application) = self.applications.get_mut(name) else { return BTreeSet::new() };
        application.is_deleting = true;
        self.forget_policies(name);
        self.forget_routers(name);
        let touched = self.delete_all_but(name, &BTreeSet::new());
        self.forget_application(name);
        touched
    }

    fn delete_all_but(
        &mut self,
        name: &ApplicationName,
        kept: &BTreeSet<DeploymentId>,
    ) -> BTreeSet<DeploymentId> {
        let Some(application) = self.applications.get(name) else { return BTreeSet::new() };
        let dropped: BTreeSet<DeploymentId> =
            application.deployment_ids().filter(|id| !kept.contains(id)).cloned().collect();
        for id in &dropped {
            if let Some(deployment) = self.deployments.get_mut(id) {
                deployment.delete();
            }
        }
        dropped
    }

    /// An application that is deleted and has no deployment left is gone.
    pub(crate) fn forget_application(&mut self, name: &ApplicationName) {
        let is_over = self.applications.get(name).is_some_and(|application| {
            application.is_deleting
                && !application.deployment_ids().any(|id| self.deployments.contains_key(id))
        });
        if is_over {
            self.applications.remove(name);
        }
    }

    /// Looks at an application as a whole, after something happened to its deployments: goes back
    /// to the last good version when one of them is given up, and notes when all are proven.
    pub(crate) fn review(
        &mut self,
        name: &ApplicationName,
        out: &mut Outbox,
    ) -> BTreeSet<DeploymentId> {
        let Some(application) = self.applications.get(name) else { return BTreeSet::new() };
        if application.is_deleting || application.build != Build::Done {
            return BTreeSet::new();
        }
        let of = || application.deployment_ids().filter_map(|id| self.deployments.get(id));
        let given_up = of().find(|deployment| {
            deployment.is_given_up && deployment.config.rollout.is_automatic_rollback
        });
        let version = application.version;
        let good_version = application.good.as_ref().map(|good| good.version);
        if let Some(deployment) = given_up {
            let reason = format!("{}: {}", deployment.id().deployment, deployment.message);
            return match &application.good {
                Some(good) if good.version != version => {
                    let good = good.clone();
                    self.roll_back(name, good, reason, out)
                }
                Some(_) | None => BTreeSet::new(),
            };
        }
        let is_proven = of().count() > 0
            && of().all(|deployment| {
                deployment.was_ready
                    && !deployment.is_rolling()
                    && deployment.status.0 == DeploymentStatus::Healthy
            });
        if is_proven && good_version != Some(version) {
            let config = application.config.clone();
            let application = self.applications.get_mut(name).expect("it was just there");
            application.good = Some(Fallback { version, config });
            out.rest.push(Action::Proven { application: name.clone(), version });
        }
        BTreeSet::new()
    }

    fn roll_back(
        &mut self,
        name: &ApplicationName,
        good: Fallback,
        reason: String,
        out: &mut Outbox,
    ) -> BTreeSet<DeploymentId> {
        let Some(application) = self.applications.get_mut(name) else { return BTreeSet::new() };
        let failed = application.version;
        application.version += 1;
        application.note =
            format!("version {failed} was rolled back to version {}: {reason}", good.version);
        // Under its new number it has not proved itself: if it fails as well, that is the end.
        application.good = None;
        let version = application.version;
        let deployed_at = application.deployed_at;
        out.rest.push(Action::RolledBack {
            application: name.clone(),
            version,
            to: good.version,
            config: good.config.clone(),
            reason,
        });
        self.carry_out(good.config, deployed_at)
    }

    /// Lets policies of applications share out replicas; returns all deployments that are to be
    /// reconciled then.
    pub(crate) fn with_policies(
        &mut self,
        mut touched: BTreeSet<DeploymentId>,
        now: Instant,
    ) -> BTreeSet<DeploymentId> {
        let names: BTreeSet<ApplicationName> =
            touched.iter().map(|id| id.application.clone()).collect();
        for name in names {
            let Some(application) = self.applications.get(&name) else { continue };
            let policy = application.config.autoscaling_policy.clone();
            let ids: Vec<DeploymentId> = application.deployment_ids().cloned().collect();
            let Some(ApplicationPolicy::SharedBudget { max_total_replicas }) = policy else {
                for id in &ids {
                    if let Some(deployment) = self.deployments.get_mut(id) {
                        deployment.allotted = None;
                    }
                }
                continue;
            };
            let mut wanted: Vec<(Bounds, u32)> = Vec::with_capacity(ids.len());
            for id in &ids {
                let load = self.proxies.load(id);
                let (capacity, direction) = (self.target_capacity, self.direction);
                let Some(deployment) = self.deployments.get_mut(id) else { continue };
                deployment.set_load(load, now);
                let config = deployment.config.clone();
                let bounds = Bounds::new(&config.autoscaling, capacity, direction)
                    .of_gangs(config.gang_size());
                let load = deployment.load(now);
                wanted.push((bounds, deployment.wanted(load, now)));
            }
            for (id, allotted) in ids.iter().zip(share(max_total_replicas, &wanted)) {
                if let Some(deployment) = self.deployments.get_mut(id)
                    && deployment.allotted != Some(allotted)
                {
                    deployment.allotted = Some(allotted);
                    touched.insert(id.clone());
                }
            }
        }
        touched
    }
}
