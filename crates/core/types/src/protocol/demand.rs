//! The load, as proxies tell it.

use crate::DeploymentId;
use serde::{Deserialize, Serialize};

/// What a proxy knows of the load; counts are exact, pushed at every change.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DemandReport {
    /// Grows by one with each report of one proxy process, so that an overtaken one is dropped.
    pub sequence: u64,
    /// Every deployment with a count above zero; those not named are at zero.
    pub deployments: Vec<Demand>,
}

/// The load of one deployment at one proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Which.
    pub deployment: DeploymentId,
    /// Requests that wait for a replica.
    pub queued: u32,
    /// Requests that a replica has, up to the last byte of the answer.
    pub ongoing: u32,
}
