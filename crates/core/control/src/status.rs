//! The status of a deployment, by Ray's rules.

use tyndall_types::DeploymentStatus;

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
    DeploymentActorFailed,
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
            Self::DeploymentActorFailed => "DEPLOYMENT_ACTOR_FAILED",
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
    /// Somebody asked for more.
    SetUp,
    /// Somebody asked for fewer.
    SetDown,
    /// A version is given up: its replicas could not start, or not stay.
    NeverStarted,
    /// A version is given up: an actor of it could not start, or not stay.
    ActorsFailed,
    /// Replicas cannot start any more, but one of this version had.
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
        (_, StatusEvent::ActorsFailed) => (DeployFailed, Trigger::DeploymentActorFailed),
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
        // An update or an illness is told until it is over, whatever the load does meanwhile.
        (
            Updating | Unhealthy | DeployFailed,
            StatusEvent::ScaledUp
            | StatusEvent::ScaledDown
            | StatusEvent::SetUp
            | StatusEvent::SetDown,
        ) => now,
        // What somebody asked for is told until it is reached.
        (Upscaling | Downscaling, StatusEvent::ScaledUp | StatusEvent::ScaledDown)
            if now.1 == Trigger::ConfigUpdateStarted =>
        {
            now
        }
        (Upscaling | Downscaling | Healthy, StatusEvent::ScaledUp) => {
            (Upscaling, Trigger::Autoscaling)
        }
        (Upscaling | Downscaling | Healthy, StatusEvent::ScaledDown) => {
            (Downscaling, Trigger::Autoscaling)
        }
        (Upscaling | Downscaling | Healthy, StatusEvent::SetUp) => {
            (Upscaling, Trigger::ConfigUpdateStarted)
        }
        (Upscaling | Downscaling | Healthy, StatusEvent::SetDown) => {
            (Downscaling, Trigger::ConfigUpdateStarted)
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
            (E::ActorsFailed, [DeployFailed; 6]),
            (E::Converged, [Healthy; 6]),
            (E::ScaledUp, [Updating, Upscaling, Upscaling, Upscaling, Unhealthy, DeployFailed]),
            (
                E::ScaledDown,
                [Updating, Downscaling, Downscaling, Downscaling, Unhealthy, DeployFailed],
            ),
            (E::SetUp, [Updating, Upscaling, Upscaling, Upscaling, Unhealthy, DeployFailed]),
            (
                E::SetDown,
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
        let set = (Downscaling, Trigger::ConfigUpdateStarted);
        assert_eq!(transition(set, E::ScaledUp), set);
        assert_eq!(transition(set, E::SetUp), (Upscaling, Trigger::ConfigUpdateStarted));
    }
}
