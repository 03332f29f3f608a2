//! Request routers in Python: the process of an application that has some, and why they do not choose.
//!
//! They run in a [`Sidecar`] of their application. Who sends requests asks them, and learns from the
//! route table where. What they say of themselves comes as reports of their process. While it is away,
//! or fails, the rule that is built in chooses, and why is told once.

use crate::Instant;
use crate::deployment::Deployment;
use crate::event::{Action, Notice};
use crate::policies::program;
use crate::sidecar::{self, Sidecar, SidecarConfig};
use crate::state::{Outbox, State};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tyndall_types::protocol::{ApplicationConfig, DeploymentConfig, PythonRouter, ReplicaReport};
use tyndall_types::{ApplicationName, DeploymentId, DeploymentName, ReplicaId};

const ROLE: &str = "router";

/// What holds of the request router in Python of a deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Routing {
    /// The process that is asked, once it is ready.
    pub(crate) process: Option<ReplicaId>,
    /// It is being started, for the first time since it is wanted; another may answer in its place.
    pub(crate) is_starting: bool,
    /// Why it does not choose; empty when it does.
    pub(crate) trouble: String,
}

/// The request routers of an application.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routers {
    sidecar: Sidecar,
    /// What their process said last, by deployment.
    troubles: BTreeMap<DeploymentName, String>,
}

impl Routers {
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.sidecar.deadline()
    }

    fn routing(&self, deployment: &DeploymentName) -> Routing {
        let process = self.sidecar.answers().cloned();
        let trouble = match (self.sidecar.trouble.as_str(), self.troubles.get(deployment)) {
            ("", None) => String::new(),
            ("", Some(why)) => {
                format!("its request router failed, and the built-in rule chooses replicas: {why}")
            }
            (why, _) => format!(
                "the process of its request router is gone, and the built-in rule chooses replicas: \
                 {why}"
            ),
        };
        let is_starting = self.sidecar.ready().is_none() && self.sidecar.trouble.is_empty();
        Routing { process, is_starting, trouble }
    }
}

impl State {
    /// Takes over which request routers in Python an application has.
    pub(crate) fn register_routers(&mut self, config: &ApplicationConfig) {
        let wanted = sidecar(config);
        if wanted.is_none() && !self.routers.contains_key(&config.name) {
            return;
        }
        let routers = self.routers.entry(config.name.clone()).or_default();
        if routers.sidecar.want_after(wanted) {
            routers.troubles.clear();
            for one in &config.deployments {
                if let Some(deployment) = self.deployments.get_mut(&one.id) {
                    let routing = || routers.routing(&one.id.deployment);
                    deployment.routing = router(one).map(|_| routing());
                }
            }
        }
        self.unattended.insert(config.name.clone());
    }

    /// An application is deleted: it has none.
    pub(crate) fn forget_routers(&mut self, name: &ApplicationName) {
        if let Some(routers) = self.routers.get_mut(name) {
            routers.sidecar.want(None);
            self.unattended.insert(name.clone());
        }
    }

    /// Whose request routers run in this process.
    pub(crate) fn home_of_routers(&self, process: &ReplicaId) -> Option<ApplicationName> {
        sidecar::home(self.routers.iter().map(|(name, one)| (name, &one.sidecar)), process)
    }

    /// Something happened to a process of request routers. False where it is none.
    pub(crate) fn with_routers(
        &mut self,
        process: &ReplicaId,
        change: impl FnOnce(&mut Sidecar),
    ) -> bool {
        let Some(name) = self.home_of_routers(process) else { return false };
        if let Some(routers) = self.routers.get_mut(&name)
            && routers.sidecar.is_another_after(change)
        {
            // What was said was of the process before.
            routers.troubles.clear();
        }
        self.unattended.insert(name);
        true
    }

    /// A process of request routers tells something.
    pub(crate) fn report_of_routers(&mut self, process: &ReplicaId, report: ReplicaReport) {
        let ReplicaReport::RouterTroubles { troubles } = report else {
            self.with_routers(process, |sidecar| sidecar.report(process, report));
            return;
        };
        let Some(name) = self.home_of_routers(process) else { return };
        if let Some(routers) = self.routers.get_mut(&name)
            && routers.sidecar.ready() == Some(process)
        {
            routers.troubles = troubles;
            self.unattended.insert(name);
        }
    }

    /// Starts and ends what is due, and tells deployments what holds; returns those for which that is
    /// new.
    pub(crate) fn attend_routers(
        &mut self,
        name: &ApplicationName,
        now: Instant,
        can_start: bool,
        out: &mut Outbox,
    ) -> BTreeSet<DeploymentId> {
        let mut touched = BTreeSet::new();
        let Some(mut routers) = self.routers.remove(name) else { return touched };
        routers.sidecar.reconcile(now, can_start, &mut self.ids, out);
        let ids = self.applications.get(name).into_iter().flat_map(|one| one.deployment_ids());
        for id in ids {
            let known = self.deployments.get_mut(id).filter(|one| !one.is_deleting);
            let Some(before) = known.and_then(|one| one.routing.as_mut()) else { continue };
            let routing = routers.routing(&id.deployment);
            if routing == *before {
                continue;
            }
            if routing.trouble != before.trouble {
                let (deployment, trouble) = (id.clone(), routing.trouble.clone());
                out.rest.push(Action::Notice(Notice::Router { deployment, trouble }));
            }
            *before = routing;
            touched.insert(id.clone());
        }
        if !routers.sidecar.is_over() {
            self.routers.insert(name.clone(), routers);
        }
        touched
    }

    /// Applications whose request routers have something due.
    pub(crate) fn due_routers(&self, now: Instant) -> Vec<ApplicationName> {
        let is_due = |one: &Routers| one.deadline().is_some_and(|at| at <= now);
        let due = self.routers.iter().filter(|(_, one)| is_due(one));
        due.map(|(name, _)| name.clone()).collect()
    }
}

impl Deployment {
    /// Its request router will soon be there for the first time: it is not all that it shall be.
    pub(crate) fn awaits_router(&self) -> bool {
        self.routing.as_ref().is_some_and(|routing| routing.is_starting)
    }
}

fn router(config: &DeploymentConfig) -> Option<&PythonRouter> {
    program(config).and(config.request_router.as_deref())
}

/// The process that an application's request routers need: that of its first deployment that has one,
/// where its code and its variables are.
fn sidecar(config: &ApplicationConfig) -> Option<SidecarConfig> {
    let all = || config.deployments.iter().map(|one| &**one);
    let home = all().find(|one| router(one).is_some())?;
    let program = program(home)?;
    let routers: BTreeMap<String, Value> = all()
        .filter_map(|one| Some((one.id.deployment.to_string(), json!(router(one)?))))
        .collect();
    let versions = all().map(|one| json!([one.id.deployment, one.code_version]));
    Some(SidecarConfig {
        role: ROLE,
        program: program.clone(),
        env_vars: home.env_vars.clone(),
        told: json!({
            "application": config.name,
            "args": program.init["args"],
            "deployments": routers,
        }),
        outlasts_replicas: false,
        startup_timeout_s: home.startup_timeout_s,
        identity: versions.collect(),
    })
}
