//! The status of a deployment and of its application, by Ray's rules.

use tyndall_types::{ApplicationStatus, DeploymentStatus};

/// Why a status last changed, by Ray's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trigger {
    Unspecified,
    ConfigUpdateStarted,
    ConfigUpdateCompleted,
    UpscaleCompleted,
    DownscaleCompleted,
    Autoscaling,
    ReplicaStartupFailed,
    HealthCheckFailed,
    Deleting,
}

impl Trigger {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "UNSPECIFIED",
            Self::ConfigUpdateStarted => "CONFIG_UPDATE_STARTED",
            Self::ConfigUpdateCompleted => "CONFIG_UPDATE_COMPLETED",
            Self::UpscaleCompleted => "UPSCALE_COMPLETED",
            Self::DownscaleCompleted => "DOWNSCALE_COMPLETED",
            Self::Autoscaling => "AUTOSCALING",
            Self::ReplicaStartupFailed => "REPLICA_STARTUP_FAILED",
            Self::HealthCheckFailed => "HEALTH_CHECK_FAILED",
            Self::Deleting => "DELETING",
        }
    }
}

/// What moves the status of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusEvent {
    /// A new configuration.
    Configured,
    /// Target and reality agree.
    Converged,
    /// The autoscaler wants more.
    ScaledUp,
    /// The autoscaler wants fewer.
    ScaledDown,
    /// A replica could not start and no replica of this version ever did.
    NeverStarted,
    /// A replica could not start, but one of this version had.
    StartFailed,
    /// A replica that ran is lost.
    Died,
    /// It shall go.
    Deleted,
}

/// The transition table of a deployment's status.
pub(crate) fn transition(
    now: (DeploymentStatus, Trigger),
    event: StatusEvent,
) -> (DeploymentStatus, Trigger) {
    use DeploymentStatus::{DeployFailed, Downscaling, Healthy, Unhealthy, Updating, Upscaling};
    match (now.0, event) {
        (_, StatusEvent::Configured) => (Updating, Trigger::ConfigUpdateStarted),
        (_, StatusEvent::Deleted) => (Updating, Trigger::Deleting),
        (_, StatusEvent::NeverStarted) => (DeployFailed, Trigger::ReplicaStartupFailed),
        (DeployFailed, StatusEvent::StartFailed | StatusEvent::Died) => now,
        (Updating | Upscaling | Downscaling | Healthy | Unhealthy, StatusEvent::StartFailed) => {
            (Unhealthy, Trigger::ReplicaStartupFailed)
        }
        (Updating | Upscaling | Downscaling | Healthy | Unhealthy, StatusEvent::Died) => {
            (Unhealthy, Trigger::HealthCheckFailed)
        }
        (Updating, StatusEvent::Converged) => (Healthy, Trigger::ConfigUpdateCompleted),
        (Upscaling, StatusEvent::Converged) => (Healthy, Trigger::UpscaleCompleted),
        (Downscaling, StatusEvent::Converged) => (Healthy, Trigger::DownscaleCompleted),
        (Unhealthy | DeployFailed, StatusEvent::Converged) => (Healthy, Trigger::Unspecified),
        (Healthy, StatusEvent::Converged) => now,
        (Updating | Unhealthy | DeployFailed, StatusEvent::ScaledUp | StatusEvent::ScaledDown) => {
            now
        }
        (Upscaling | Downscaling | Healthy, StatusEvent::ScaledUp) => {
            (Upscaling, Trigger::Autoscaling)
        }
        (Upscaling | Downscaling | Healthy, StatusEvent::ScaledDown) => {
            (Downscaling, Trigger::Autoscaling)
        }
    }
}

/// The status of an application of one deployment.
pub(crate) fn application(status: DeploymentStatus, is_deleting: bool) -> ApplicationStatus {
    if is_deleting {
        return ApplicationStatus::Deleting;
    }
    match status {
        DeploymentStatus::DeployFailed => ApplicationStatus::DeployFailed,
        DeploymentStatus::Unhealthy => ApplicationStatus::Unhealthy,
        DeploymentStatus::Updating => ApplicationStatus::Deploying,
        DeploymentStatus::Healthy | DeploymentStatus::Upscaling | DeploymentStatus::Downscaling => {
            ApplicationStatus::Running
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DeploymentStatus::{DeployFailed, Downscaling, Healthy, Unhealthy, Updating, Upscaling};

    #[test]
    fn the_transition_table() {
        use StatusEvent as E;
        let all = [Updating, Upscaling, Downscaling, Healthy, Unhealthy, DeployFailed];
        let table = [
            (E::Configured, [Updating; 6]),
            (E::Deleted, [Updating; 6]),
            (E::NeverStarted, [DeployFailed; 6]),
            (E::Converged, [Healthy; 6]),
            (E::ScaledUp, [Updating, Upscaling, Upscaling, Upscaling, Unhealthy, DeployFailed]),
            (
                E::ScaledDown,
                [Updating, Downscaling, Downscaling, Downscaling, Unhealthy, DeployFailed],
            ),
            (E::StartFailed, [Unhealthy, Unhealthy, Unhealthy, Unhealthy, Unhealthy, DeployFailed]),
            (E::Died, [Unhealthy, Unhealthy, Unhealthy, Unhealthy, Unhealthy, DeployFailed]),
        ];
        for (event, row) in table {
            for (status, expected) in all.into_iter().zip(row) {
                let next = transition((status, Trigger::Unspecified), event);
                assert_eq!(next.0, expected, "{status} on {event:?}");
            }
        }
        let completed = |status| transition((status, Trigger::Autoscaling), E::Converged).1;
        assert_eq!(completed(Upscaling), Trigger::UpscaleCompleted);
        assert_eq!(completed(Downscaling), Trigger::DownscaleCompleted);
        assert_eq!(completed(Updating), Trigger::ConfigUpdateCompleted);
        assert_eq!(completed(Healthy), Trigger::Autoscaling);
    }

    #[test]
    fn the_autoscaler_keeps_an_application_running() {
        assert_eq!(application(Upscaling, false), ApplicationStatus::Running);
        assert_eq!(application(Updating, false), ApplicationStatus::Deploying);
        assert_eq!(application(Updating, true), ApplicationStatus::Deleting);
    }
}
