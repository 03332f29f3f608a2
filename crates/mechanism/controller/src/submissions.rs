//! What operators want, and what becomes of it: submissions, rollbacks, deletions, counts.

use crate::builds::Begun;
use crate::code::AwaitsModels;
use crate::origins::Origin;
use crate::service::Service;
use crate::store::{StoreError, StoredVersion, Submission};
use http::StatusCode;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use tyndall_config::file::{ApplicationSpec, ConfigFile, Severity};
use tyndall_control::Event;
use tyndall_types::protocol::{ApplicationConfig, ApplicationSource};
use tyndall_types::{ApplicationName, ApplicationStatus, DeploymentId};

/// Applications that are named where one is not known.
const MAX_NAMED: usize = 20;

/// Why something that was asked for is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// One line of cause and one of cure.
    pub(crate) reason: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }

    fn invalid(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let status = if error.is_full() {
            StatusCode::INSUFFICIENT_STORAGE
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        Self::new(status, tyndall_types::with_causes(error.to_string(), &error))
    }
}

impl Service {
    /// Takes a whole config file: its applications are built, those of the file before that are not
    /// in it are deleted, others stay. Nothing is changed where anything of it is wrong.
    pub(crate) fn submit(&mut self, text: &str) -> Result<(), Refusal> {
        let file = ConfigFile::parse(text).map_err(|problem| {
            Refusal::invalid(format!("the config is no YAML or JSON: {problem}"))
        })?;
        let of = |severity| {
            let lines = file.problems().iter().filter(move |p| p.severity == severity);
            lines.map(ToString::to_string).collect::<Vec<_>>()
        };
        let errors = of(Severity::Error);
        if !errors.is_empty() {
            return Err(Refusal::invalid(errors.join("\n")));
        }
        for warning in of(Severity::Warning) {
            tracing::warn!("{warning}");
        }
        let config = file.typed().map_err(|problem| Refusal::invalid(problem.to_string()))?;
        let is_other = |other: &Origin| other.source != ApplicationSource::Declarative;
        for application in &config.applications {
            let prefix = application.route_prefix.as_deref();
            self.check_route(&application.name, prefix, is_other)?;
        }
        let gone = self.gone(&config.applications);
        let is_same = self.shared == config.shared;
        let new: Vec<ApplicationSpec> = config
            .applications
            .into_iter()
            .filter(|application| !is_same || !self.is_carried_out(application))
            .collect();
        let capacity = config.target_capacity;
        let direction = self.state.capacity_direction(capacity);
        if let Some(store) = &mut self.store {
            let submission = Submission {
                applications: new.iter().map(|new| (&new.name, &new.submitted)).collect(),
                gone: &gone,
                target_capacity: capacity.map(|percent| (percent, direction)),
                shared: &config.shared,
            };
            store.submit(&submission, self.clock.now())?;
        }
        self.shared = config.shared;
        self.apply(Event::TargetCapacity { capacity, direction });
        for name in gone {
            self.forget(name);
        }
        for application in new {
            self.build(application.name, application.submitted);
        }
        Ok(())
    }

    /// The applications of the file before that are not in this one.
    fn gone(&self, applications: &[ApplicationSpec]) -> Vec<ApplicationName> {
        let wanted: BTreeSet<&ApplicationName> =
            applications.iter().map(|application| &application.name).collect();
        let is_gone = |(name, origin): &(&ApplicationName, &Origin)| {
            origin.source == ApplicationSource::Declarative && !wanted.contains(name)
        };
        self.origins.iter().filter(is_gone).map(|(name, _)| name.clone()).collect()
    }

    /// The very same was submitted before, and did not fail: nothing is done, as in Ray.
    fn is_carried_out(&self, application: &ApplicationSpec) -> bool {
        if let Some(submitted) = self.builds.submitted(&application.name) {
            return *submitted == application.submitted;
        }
        let known = self.state.application(&application.name, self.clock.now());
        known.is_some_and(|known| {
            known.submitted == application.submitted
                && known.source == ApplicationSource::Declarative.as_str()
                && !matches!(
                    known.status,
                    ApplicationStatus::DeployFailed | ApplicationStatus::Deleting
                )
        })
    }

    /// No two applications at the same place.
    fn check_route(
        &self,
        name: &ApplicationName,
        prefix: Option<&str>,
        is_other: impl Fn(&Origin) -> bool,
    ) -> Result<(), Refusal> {
        let Some((prefix, other)) = self.occupant(name, prefix, is_other) else { return Ok(()) };
        Err(Refusal::invalid(format!(
            "application {other} is mounted at {prefix} already; give {name} another \
             route_prefix, or delete the other one first",
        )))
    }

    /// Which other application is where this one is to be mounted.
    pub(crate) fn occupant<'a>(
        &self,
        name: &ApplicationName,
        prefix: Option<&'a str>,
        is_other: impl Fn(&Origin) -> bool,
    ) -> Option<(&'a str, &ApplicationName)> {
        let prefix = prefix?;
        let mut others = self.origins.at(prefix);
        let other = others.find(|(other, origin)| *other != name && is_other(origin));
        other.map(|(other, _)| (prefix, other))
    }

    /// Builds a submission; what is carried out goes on meanwhile.
    pub(crate) fn build(&mut self, name: ApplicationName, submitted: Value) {
        self.build_from(ApplicationSource::Declarative, name, submitted, None);
    }

    pub(crate) fn build_from(
        &mut self,
        source: ApplicationSource,
        name: ApplicationName,
        submitted: Value,
        code: Option<Box<AwaitsModels>>,
    ) {
        let route_prefix = match submitted.get("route_prefix") {
            None => Some("/".to_owned()),
            Some(prefix) => prefix.as_str().map(str::to_owned),
        };
        // What it is made of is not known before it is built.
        let origin = Origin { source, route_prefix, is_models: false };
        self.origins.insert(name.clone(), origin);
        let at = self.clock.now();
        self.apply(Event::Building { application: name.clone(), source, at });
        self.builds.start(name, Begun { submitted, code }, &self.shared);
    }

    /// A build is over.
    pub(crate) fn built(
        &mut self,
        name: ApplicationName,
        number: u64,
        outcome: Result<Box<ApplicationConfig>, String>,
    ) {
        let Some(Begun { submitted, code }) = self.builds.finish(&name, number) else { return };
        let source = self.origins.get(&name).map(|origin| origin.source).unwrap_or_default();
        let outcome = outcome.and_then(|mut config| {
            if config.name != name {
                return Err(format!("the builder answered with application {}", config.name));
            }
            config.source = source;
            // What a program asked for is in no file.
            if source == ApplicationSource::Declarative {
                config.submitted = (&submitted).into();
            }
            let deployed = match code {
                Some(code) => self.deploy_with_models(*code, *config),
                None => {
                    problem(&config).map_or(Ok(()), Err)?;
                    self.deploy(config.into(), "")
                }
            };
            deployed.map(drop).map_err(|refusal| refusal.reason)
        });
        if let Err(reason) = outcome {
            tracing::error!(application = %name, "failed to deploy: {reason}");
            self.record(&name, "build_failed", &reason);
            if let Some(Err(error)) = self.store.as_mut().map(|store| store.give_up(&name, &reason))
            {
                tracing::warn!(%error, "failed to forget a submission");
            }
            let served = self.state.application(&name, self.clock.now());
            if let (Some(served), Some(origin)) = (served, self.origins.get(&name)) {
                let origin = Origin { route_prefix: served.route_prefix, ..origin.clone() };
                self.origins.insert(name.clone(), origin);
            }
            self.apply(Event::BuildFailed { application: name, reason });
        }
    }

    /// Carries out what was built elsewhere, in place of a build that goes on. Returns its number.
    pub(crate) fn deploy_built(&mut self, config: Arc<ApplicationConfig>) -> Result<u64, Refusal> {
        problem(&config).map_or(Ok(()), |problem| Err(Refusal::invalid(problem)))?;
        let own = Origin::of(&config);
        self.check_route(&config.name, own.route_prefix.as_deref(), |other| {
            !own.is_models || !other.is_models
        })?;
        let name = config.name.clone();
        let version = self.deploy(config, "")?;
        self.builds.cancel(&name);
        Ok(version)
    }

    fn deploy(&mut self, config: Arc<ApplicationConfig>, note: &str) -> Result<u64, Refusal> {
        let deployed_at = self.clock.now();
        let name = config.name.clone();
        let version = match &mut self.store {
            Some(store) => store.deploy(&config, note, deployed_at)?,
            None => {
                let known = self.state.application(&name, deployed_at);
                known.map_or(0, |known| known.version) + 1
            }
        };
        tracing::debug!(application = %name, version, "deployed");
        crate::policies::warn_of_overridden(&config);
        self.origins.insert(name.clone(), Origin::of(&config));
        self.code.deployed(version, &config, false);
        self.record(&name, "deployed", &format!("version {version}{note}"));
        self.apply(Event::Deploy { config, version, deployed_at, fallback: None });
        Ok(version)
    }

    /// The core went back to an older version: that is a new one.
    pub(crate) fn rolled_back(
        &mut self,
        name: &ApplicationName,
        config: &ApplicationConfig,
        how: &str,
    ) {
        self.record(name, "rolled_back", how);
        self.origins.insert(name.clone(), Origin::of(config));
        let (now, note) = (self.clock.now(), format!(": rolled back {how}"));
        match self.store.as_mut().map(|store| store.deploy(config, &note, now)) {
            Some(Err(error)) => {
                tracing::error!(%error, application = %name, "failed to keep a rollback");
            }
            Some(Ok(version)) => self.code.deployed(version, config, true),
            None => {}
        }
    }

    /// Deletes an application.
    pub(crate) fn delete(&mut self, name: ApplicationName) -> Result<(), Refusal> {
        if self.origins.get(&name).is_none() {
            return Err(self.unknown(&name));
        }
        self.forget(name);
        Ok(())
    }

    /// Deletes all applications; the next ones begin with all of the capacity.
    pub(crate) fn delete_all(&mut self) -> Result<(), Refusal> {
        for name in self.state.application_names() {
            self.forget(name);
        }
        self.apply(Event::TargetCapacity { capacity: None, direction: None });
        if let Some(store) = &mut self.store {
            store.drop_target_capacity()?;
        }
        Ok(())
    }

    fn forget(&mut self, name: ApplicationName) {
        self.builds.cancel(&name);
        self.code.forget(&name);
        self.origins.remove(&name);
        // It goes even if it cannot be written down: it would only come back with the next
        // controller, which is better than a delete that does nothing.
        if let Some(Err(error)) = self.store.as_mut().map(|store| store.delete(&name)) {
            tracing::error!(%error, application = %name, "failed to delete from the state");
        }
        self.record(&name, "deleted", "");
        self.apply(Event::Delete(name));
    }

    /// Sets the number of replicas of a deployment whose application allows it.
    pub(crate) fn scale(&mut self, id: DeploymentId, target: u32) -> Result<(), Refusal> {
        let application = self.state.application(&id.application, self.clock.now());
        let known = application
            .filter(|application| application.deployments.contains_key(id.deployment.as_str()));
        let Some(application) = known else {
            let reason = "Application or Deployment not found";
            return Err(Refusal::new(StatusCode::NOT_FOUND, reason));
        };
        let failed = |reason: String| Err(Refusal::new(StatusCode::PRECONDITION_FAILED, reason));
        if application.status == ApplicationStatus::Deleting {
            return failed("Deployment is deleted".to_owned());
        }
        if !application.external_scaler_enabled {
            return failed(format!(
                "external_scaler_enabled is false for application {}; set it in its config",
                id.application
            ));
        }
        if let Some(store) = &mut self.store {
            store.scale(&id, target)?;
        }
        let message = format!("{target} replicas");
        self.record_of(&id.application, id.deployment.as_str(), "scale_requested", &message);
        self.apply(Event::Scale { deployment: id, target });
        Ok(())
    }

    /// The versions of an application, newest first.
    pub(crate) fn versions(&self, name: &ApplicationName) -> Result<Vec<StoredVersion>, Refusal> {
        let Some(store) = &self.store else { return Ok(Vec::new()) };
        let versions = store.versions(name)?;
        if versions.is_empty() {
            return Err(self.unknown(name));
        }
        Ok(versions)
    }

    /// Goes back to an older version: the one that is named, else the newest proven one before what
    /// is carried out. Returns its number.
    pub(crate) fn roll_back(
        &mut self,
        name: &ApplicationName,
        to: Option<u64>,
    ) -> Result<u64, Refusal> {
        let versions = self.versions(name)?;
        let current = self.state.application(name, self.clock.now());
        let Some(current) = current else {
            return Err(self.unknown(name));
        };
        let carried_out = versions.iter().find(|version| version.version == current.version);
        let is_other =
            |version: &&StoredVersion| carried_out.is_none_or(|now| now.config != version.config);
        let found = match to {
            Some(to) => versions.iter().find(|version| version.version == to),
            None => versions
                .iter()
                .filter(|version| version.version < current.version)
                .find(|version| version.is_proven && is_other(version)),
        };
        let Some(found) = found else {
            let known: Vec<String> = versions.iter().map(|v| v.version.to_string()).collect();
            let what = to.map_or_else(
                || "no older version of it ever served".to_owned(),
                |to| format!("there is no version {to}"),
            );
            return Err(Refusal::new(
                StatusCode::NOT_FOUND,
                format!("{name}: {what}; its versions are {}", known.join(", ")),
            ));
        };
        self.check_code(&found.config)?;
        let note = format!(": back to version {}, as asked", found.version);
        self.deploy(Arc::new(found.config.clone()), &note)?;
        self.builds.cancel(name);
        Ok(found.version)
    }

    fn unknown(&self, name: &ApplicationName) -> Refusal {
        let known = self.origins.len();
        let mut names: Vec<&str> =
            self.origins.iter().take(MAX_NAMED).map(|(name, _)| name.as_str()).collect();
        let more = format!("and {} more", known.saturating_sub(MAX_NAMED));
        if known > MAX_NAMED {
            names.push(&more);
        }
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let reason = format!("no application {name}; there are: {known}");
        Refusal::new(StatusCode::NOT_FOUND, reason)
    }
}

/// What is wrong with an application that did not come from a config file.
fn problem(config: &ApplicationConfig) -> Option<String> {
    let mut names = BTreeSet::new();
    if config.deployments.is_empty() {
        return Some(format!("application {} has no deployment", config.name));
    }
    config.deployments.iter().find_map(|deployment| {
        let id = &deployment.id;
        if id.application != config.name {
            return Some(format!("deployment {id} is not of application {}", config.name));
        }
        if !names.insert(&id.deployment) {
            return Some(format!("there are two deployments {}", id.deployment));
        }
        let scaling = &deployment.autoscaling;
        if scaling.max_replicas == 0 || scaling.max_replicas < scaling.min_replicas {
            return Some("max_replicas must be at least 1 and at least min_replicas".to_owned());
        }
        if scaling.target_ongoing_requests.is_nan() || scaling.target_ongoing_requests <= 0.0 {
            return Some("target_ongoing_requests must be above 0".to_owned());
        }
        None
    })
}
