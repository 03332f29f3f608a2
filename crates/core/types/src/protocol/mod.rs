//! The messages between supervisor, controller, proxy and replica: JSON bodies over HTTP on Unix
//! sockets, so that `curl --unix-socket` can read along.
//!
//! | from → to | request | body → answer |
//! |---|---|---|
//! | controller → supervisor | `POST /-/processes` | [`ProcessSpec`] → [`ProcessInfo`] |
//! | | `POST /-/processes/{id}/stop` | [`StopProcess`] → 202 |
//! | | `GET /-/processes` | → `[ProcessInfo]` |
//! | | `GET /-/events` | → one [`ProcessEvent`] per line, first a snapshot, never ending |
//! | | `POST /-/shutdown` | → 202: as if the supervisor had got SIGTERM |
//! | proxy → controller | `GET /-/proxies/{id}/routes` | → one [`RouteTable`] per line at every change, never ending; the proxy is alive as long as it reads |
//! | | `POST /-/proxies/{id}/demand` | [`DemandReport`] → 204 |
//! | | `POST /-/proxies/{id}/usage` | [`KeyUsageReport`] → 204 when it is kept |
//! | replica → controller | `POST /-/replicas/{id}/report` | [`ReplicaReport`] → 204; policies and request routers of an application tell by it that they are ready |
//! | cli → controller | `PUT /-/applications/{name}` | [`ApplicationConfig`] → 204 |
//! | controller → replica | `GET /-/status` | → [`ReplicaStatus`] |
//! | controller → policies of an application | `POST /-/decide` | [`PolicyQuestion`] → [`PolicyAnswer`]; 422 and a text where the policy fails |
//! | proxy → request routers of an application | `POST /-/choose` | [`RouterQuestion`] → [`RouterAnswer`]; 422 and a text where the router fails |
//! | | `POST /-/routed`, `POST /-/completed` | [`RouterNews`] → 204 |
//! | | `POST /-/cancelled` | [`RouterGone`] → 204 |
//! | | `POST /-/attend` | [`RouterCaller`]: held open for as long as the process is there |
//! | proxy → replica | the public routes | as the client sent them |
//! | | `GET `[`ALIVE_PATH`] | → 204: the process answers |
//!
//! Sockets lie in the node's runtime directory: see [`RuntimeDir`].

mod actor;
mod autoscaling;
mod demand;
mod deployment;
mod details;
mod gang;
mod json;
mod policy;
mod process;
mod replica;
mod router;
mod routes;
mod usage;

pub use actor::DeploymentActor;
pub use autoscaling::{Aggregation, AutoscalingConfig, ScalingPolicy};
pub use demand::{Demand, DemandReport};
pub use deployment::{
    ApplicationConfig, ApplicationPolicy, ApplicationSource, Backpressure, ChatConfig,
    DeploymentConfig, GenerateDefaults, HealthCheck, ModelConfig, ModelTask, ProgramConfig,
    Quantization, Residency, Resources, Rollout, WarmPool, Workload,
};
pub use details::{
    ActorDetails, ApplicationDetails, DeadReplica, DeploymentDetails, InstanceDetails,
    ReplicaDetails,
};
pub use gang::{GangContext, GangFailurePolicy, GangPlacementStrategy, GangScheduling};
pub use json::JsonText;
pub use policy::{PolicyAnswer, PolicyContext, PolicyQuestion, PythonPolicy};
pub use process::{Handover, PREPARED, ProcessEvent, ProcessInfo, ProcessSpec, StopProcess};
pub use replica::{
    ColdStartPhases, EngineLoad, MAX_TOLD_MODELS, ModelCard, ReplicaReport, ReplicaStatus,
};
pub use router::{
    PrefixAffinity, PythonRouter, RouterAnswer, RouterBackoff, RouterCaller, RouterGone,
    RouterNews, RouterQuestion, RouterRoute,
};
pub use routes::{
    DeploymentRoute, ModelRoute, ReplicaRoute, RouteTable, Unavailable, retry_after_s,
};
pub use usage::{KeyUsage, KeyUsageOfDay, KeyUsageReport};

use crate::ReplicaId;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Begins the names by which deployment handles inside replicas speak to the controller as proxies
/// do.
pub const HANDLE_PREFIX: &str = "handle-";

/// Asked after a connection to a replica broke: any answer says that its process lives on.
pub const ALIVE_PATH: &str = "/-/alive";

/// Where the processes of one node find each other's sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeDir(pub PathBuf);

impl RuntimeDir {
    /// The supervisor's socket.
    #[must_use]
    pub fn supervisor_socket(&self) -> PathBuf {
        self.0.join("supervisor.sock")
    }

    /// The controller's socket.
    #[must_use]
    pub fn controller_socket(&self) -> PathBuf {
        self.0.join("controller.sock")
    }

    /// A replica's socket.
    #[must_use]
    pub fn replica_socket(&self, id: &ReplicaId) -> PathBuf {
        self.0.join(format!("{id}.sock"))
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_tagged_by_what_happened() {
        let line = serde_json::to_string(&ProcessEvent::Exited {
            id: "r".into(),
            code: None,
            signal: Some(9),
        })
        .unwrap();
        assert_eq!(line, r#"{"event":"exited","id":"r","code":null,"signal":9}"#);
        let report: ReplicaReport =
            serde_json::from_str(r#"{"report":"failed","reason":"no such model"}"#).unwrap();
        assert_eq!(report, ReplicaReport::Failed { reason: "no such model".into() });
    }
}
