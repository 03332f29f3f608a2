//! One application: the unit that is deployed, rolled back and deleted as a whole.

use crate::Instant;
use std::sync::Arc;
use tyndall_types::protocol::{ApplicationConfig, ApplicationSource};
use tyndall_types::{ApplicationName, ApplicationStatus, DeploymentId, DeploymentStatus};

/// How far the newest submission is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Build {
    /// It is carried out.
    Done,
    /// Its deployments are being worked out.
    Running,
    /// They could not be; what was carried out before goes on.
    Failed(String),
}

/// A version that an application can go back to.
#[derive(Debug, Clone, PartialEq)]
pub struct Fallback {
    /// Its number.
    pub version: u64,
    /// What it was.
    pub config: Arc<ApplicationConfig>,
}

#[derive(Debug, Clone)]
pub(crate) struct Application {
    /// What is carried out; without deployments until the first build is done.
    pub(crate) config: Arc<ApplicationConfig>,
    pub(crate) version: u64,
    pub(crate) deployed_at: Instant,
    pub(crate) is_deleting: bool,
    pub(crate) build: Build,
    /// The newest version of which every deployment had a replica that took requests.
    pub(crate) good: Option<Fallback>,
    /// Why it went back to an older version.
    pub(crate) note: String,
    /// Why its autoscaling policy does not decide; empty when it does.
    pub(crate) trouble: String,
}

impl Application {
    /// One of which nothing is known but that it is being built.
    pub(crate) fn unbuilt(name: ApplicationName, source: ApplicationSource, at: Instant) -> Self {
        let config = ApplicationConfig {
            name,
            route_prefix: None,
            source,
            external_scaler_enabled: false,
            autoscaling_policy: None,
            submitted: Default::default(),
            deployments: Vec::new(),
        };
        Self {
            config: Arc::new(config),
            version: 0,
            deployed_at: at,
            is_deleting: false,
            build: Build::Running,
            good: None,
            note: String::new(),
            trouble: String::new(),
        }
    }

    pub(crate) fn deployment_ids(&self) -> impl Iterator<Item = &DeploymentId> + Clone {
        self.config.deployments.iter().map(|deployment| &deployment.id)
    }

    /// Its status and message, from those of its deployments, by Ray's ranks: what failed to deploy
    /// goes before what is unhealthy, that before what is on its way.
    pub(crate) fn status<'a>(
        &self,
        deployments: impl Iterator<Item = (&'a str, DeploymentStatus, bool)> + Clone,
    ) -> (ApplicationStatus, String) {
        if self.is_deleting {
            return (ApplicationStatus::Deleting, String::new());
        }
        match &self.build {
            Build::Running => return (ApplicationStatus::Deploying, "being built".to_owned()),
            Build::Failed(reason) => return (ApplicationStatus::DeployFailed, reason.clone()),
            Build::Done => {}
        }
        let named = |wanted: DeploymentStatus| {
            let names: Vec<&str> = deployments
                .clone()
                .filter(|(_, status, _)| *status == wanted)
                .map(|(name, ..)| name)
                .collect();
            (!names.is_empty()).then(|| names.join(", "))
        };
        if let Some(names) = named(DeploymentStatus::DeployFailed) {
            let message = format!("failed to deploy {names}");
            return (ApplicationStatus::DeployFailed, self.with_note(message));
        }
        if let Some(names) = named(DeploymentStatus::Unhealthy) {
            return (ApplicationStatus::Unhealthy, self.with_note(format!("unhealthy: {names}")));
        }
        // What the autoscaler does by itself is no deploying.
        let is_deploying = deployments.clone().any(|(_, status, by_config)| match status {
            DeploymentStatus::Updating => true,
            DeploymentStatus::Upscaling | DeploymentStatus::Downscaling => by_config,
            DeploymentStatus::Healthy
            | DeploymentStatus::Unhealthy
            | DeploymentStatus::DeployFailed => false,
        });
        let status =
            if is_deploying { ApplicationStatus::Deploying } else { ApplicationStatus::Running };
        (status, self.with_note(String::new()))
    }

    fn with_note(&self, message: String) -> String {
        joined([message.as_str(), &self.note, &self.trouble])
    }
}

/// What there is to say, with nothing between where there is nothing.
pub(crate) fn joined<const N: usize>(parts: [&str; N]) -> String {
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use DeploymentStatus::{DeployFailed, Downscaling, Healthy, Unhealthy, Updating, Upscaling};

    #[test]
    fn the_worst_deployment_is_the_applications_status() {
        let name = ApplicationName::new("a").unwrap();
        let mut app =
            Application::unbuilt(name, ApplicationSource::Declarative, Instant::default());
        let status = |app: &Application, of: &[(DeploymentStatus, bool)]| {
            app.status(of.iter().map(|(status, by_config)| ("d", *status, *by_config)))
        };
        assert_eq!(status(&app, &[]).0, ApplicationStatus::Deploying);
        app.build = Build::Failed("no such file".into());
        let failed = (ApplicationStatus::DeployFailed, "no such file".to_owned());
        assert_eq!(status(&app, &[(Healthy, false)]), failed);
        app.build = Build::Done;
        for (of, expected) in [
            (&[(Healthy, false), (DeployFailed, false)][..], ApplicationStatus::DeployFailed),
            (&[(Unhealthy, false), (Updating, false)], ApplicationStatus::Unhealthy),
            (&[(Updating, true), (Healthy, false)], ApplicationStatus::Deploying),
            (&[(Upscaling, true)], ApplicationStatus::Deploying),
            (&[(Upscaling, false), (Downscaling, false)], ApplicationStatus::Running),
            (&[(Healthy, false)], ApplicationStatus::Running),
            (&[], ApplicationStatus::Running),
        ] {
            assert_eq!(status(&app, of).0, expected, "{of:?}");
        }
        app.is_deleting = true;
        assert_eq!(status(&app, &[(DeployFailed, false)]).0, ApplicationStatus::Deleting);
    }
}
