//! Statuses by Ray Serve's names. Source: Ray `serve/_private/common.py`, `serve/schema.py`.

use serde::{Deserialize, Serialize};

macro_rules! status {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// The status as Ray Serve writes it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

status! {
    /// Where a replica is in its life.
    ReplicaState {
        /// Its process was asked for and has not reported ready.
        Starting = "STARTING",
        /// It is taking a new `user_config`.
        Updating = "UPDATING",
        /// A new controller found its process and waits for its report.
        Recovering = "RECOVERING",
        /// It takes requests.
        Running = "RUNNING",
        /// It takes no new requests and finishes those it has.
        Stopping = "STOPPING",
        /// Its process is gone.
        Stopped = "STOPPED",
    }
}

status! {
    /// How a deployment is doing.
    DeploymentStatus {
        /// A new target is being carried out.
        Updating = "UPDATING",
        /// Target and reality agree; zero replicas of zero is healthy.
        Healthy = "HEALTHY",
        /// Replicas were lost or cannot be kept running.
        Unhealthy = "UNHEALTHY",
        /// No replica of this version ever started.
        DeployFailed = "DEPLOY_FAILED",
        /// Replicas are being added by the autoscaler.
        Upscaling = "UPSCALING",
        /// Replicas are being removed by the autoscaler.
        Downscaling = "DOWNSCALING",
    }
}

status! {
    /// How an application is doing.
    ApplicationStatus {
        /// Nothing was deployed yet.
        NotStarted = "NOT_STARTED",
        /// Its deployments are being carried out.
        Deploying = "DEPLOYING",
        /// All its deployments are healthy.
        Running = "RUNNING",
        /// A deployment cannot start.
        DeployFailed = "DEPLOY_FAILED",
        /// A deployment that ran is not healthy.
        Unhealthy = "UNHEALTHY",
        /// It is being removed.
        Deleting = "DELETING",
    }
}
