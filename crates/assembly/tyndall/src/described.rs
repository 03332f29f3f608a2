//! An application as whoever runs it sees it.

use crate::options::DeploymentOptions;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What `PROGRAM role describe` prints: an application, as JSON.
///
/// ```json
/// {
///   "ingress": "Search",
///   "deployments": [
///     {"name": "Search", "init": {"args": null, "init": {"ranker": {"deployment": "Ranker"}}}, "calls": ["Ranker"]},
///     {"name": "Ranker", "num_replicas": 2, "init": {"args": null, "init": null}, "calls": []}
///   ]
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Described {
    /// The deployment that takes requests from outside.
    pub ingress: String,
    /// Callers before those that they call; the ingress is the first.
    pub deployments: Vec<DescribedDeployment>,
}

/// A deployment of an application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DescribedDeployment {
    /// Its name, and the options that the code sets, side by side and by the names of a config
    /// file, so that those of a config file can replace them; then
    /// [`DeploymentOptions::resolve`].
    #[serde(flatten)]
    pub options: DeploymentOptions,
    /// What its replicas are made from:
    /// [`ProgramConfig::init`](tyndall_types::protocol::ProgramConfig::init), to be handed on
    /// unchanged.
    pub init: ProgramInit,
    /// Which deployments it calls, each once.
    pub calls: Vec<String>,
}

/// What a replica of a program is made from.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ProgramInit {
    /// The application's arguments: a replica builds the application again, and finds its
    /// deployment in it by name.
    pub args: Value,
    /// The deployment's `Init`. A handle in it is `{"deployment": name}`.
    pub init: Value,
}
