//! What the supervisor is asked to start for a deployment.

use crate::supervisor::{CONFIG_ARG, GANG_ARG, TOLD_ARG};
use std::collections::BTreeMap;
use std::sync::Arc;
use tyndall_control::SidecarConfig;
use tyndall_types::ReplicaId;
use tyndall_types::protocol::{
    DeploymentConfig, GangContext, ProcessSpec, ProgramConfig, RuntimeDir, Workload,
};

/// Tells a replica's process its number among the replicas of its deployment.
const RANK_VARIABLE: &str = "TYNDALL_REPLICA_RANK";
/// Has the key to the admin API in the environment of the server.
pub(crate) const TOKEN_VARIABLE: &str = "TYNDALL_ADMIN_TOKEN";
/// Has keys of clients in the environment of the server.
pub(crate) const API_KEY_VARIABLE: &str = "TYNDALL_API_KEY";

/// What one replica has that others of its deployment have not.
pub(crate) struct Own<'a> {
    pub(crate) id: &'a ReplicaId,
    pub(crate) rank: u32,
    pub(crate) gang: Option<Arc<GangContext>>,
    pub(crate) gpus: Vec<String>,
    /// The process that waits and becomes it.
    pub(crate) waiting: Option<ReplicaId>,
}

/// The process of a replica.
pub(crate) fn replica(
    runtime_dir: &RuntimeDir,
    config: &DeploymentConfig,
    own: Own<'_>,
) -> ProcessSpec {
    let json = serde_json::to_string(config).expect("wire types have string keys only");
    let directory = runtime_dir.path().display().to_string();
    let gang = own.gang.as_deref().map(serde_json::to_string);
    let gang = gang.transpose().expect("wire types have string keys only");
    let mut role =
        vec!["replica", "--runtime-dir", &directory, "--id", own.id.as_str(), CONFIG_ARG, &json];
    // Among the arguments, which the supervisor lists: the next controller reads it there.
    role.extend(gang.iter().flat_map(|json| [GANG_ARG, json]));
    let mut spec = process(own.id, config.env_vars.clone(), program(config), &role);
    spec.env.insert(RANK_VARIABLE.to_owned(), own.rank.to_string());
    spec.gpus = own.gpus;
    spec.takes = own.waiting.map(|id| id.as_str().to_owned());
    spec
}

/// A process that imports and waits, to become any replica of its deployment. What only one of them
/// has comes with the words that make it one.
pub(crate) fn waiting(id: &ReplicaId, config: &DeploymentConfig) -> ProcessSpec {
    let (application, deployment) = (&config.id.application, &config.id.deployment);
    let preload = config.warm.preload.join(",");
    let mut role = vec!["warm", "--id", id.as_str(), "--application", application.as_str()];
    role.extend(["--deployment", deployment.as_str(), "--preload", &preload]);
    ProcessSpec { waits: true, ..process(id, config.env_vars.clone(), program(config), &role) }
}

/// The process that runs beside an application.
pub(crate) fn sidecar(
    runtime_dir: &RuntimeDir,
    id: &ReplicaId,
    config: &SidecarConfig,
    gpus: Vec<String>,
) -> ProcessSpec {
    let directory = runtime_dir.path().display().to_string();
    let told = config.told.to_string();
    let role = [config.role, "--runtime-dir", &directory, "--id", id.as_str(), TOLD_ARG, &told];
    let spec = process(id, config.env_vars.clone(), Some(&config.program), &role);
    ProcessSpec { gpus, outlasts_replicas: config.outlasts_replicas, ..spec }
}

fn program(config: &DeploymentConfig) -> Option<&ProgramConfig> {
    match &config.workload {
        Workload::Model(_) => None,
        Workload::Program(program) => Some(program),
    }
}

fn process(
    id: &ReplicaId,
    mut env: BTreeMap<String, String>,
    program: Option<&ProgramConfig>,
    role: &[&str],
) -> ProcessSpec {
    // What replicas run may be of others: the keys of the node and of its clients are not theirs.
    for secret in [TOKEN_VARIABLE, API_KEY_VARIABLE] {
        env.entry(secret.to_owned()).or_default();
    }
    let (executable, mut args, working_dir) = match program.cloned() {
        None => (None, Vec::new(), None),
        Some(ProgramConfig { executable, args, working_dir, .. }) => {
            (Some(executable), args, working_dir)
        }
    };
    args.extend(["role"].iter().chain(role).map(ToString::to_string));
    let id = id.as_str().to_owned();
    ProcessSpec { id, executable, args, working_dir, env, ..ProcessSpec::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tyndall_types::protocol::ProcessInfo;

    fn config() -> DeploymentConfig {
        serde_json::from_value(serde_json::json!({
            "id": "app#D",
            "program": {
                "executable": "/python", "args": ["-m", "tyndall._program"], "working_dir": "/work",
                "deployment": "D",
            },
            "autoscaling": {
                "min_replicas": 0, "max_replicas": 1, "target_ongoing_requests": 2.0,
                "upscale_delay_s": 0.0, "downscale_delay_s": 60.0, "downscale_to_zero_delay_s": 60.0,
            },
            "max_ongoing_requests": 8, "max_queued_requests": 256, "request_timeout_s": 600.0,
            "graceful_shutdown_timeout_s": 20.0, "startup_timeout_s": 600.0,
            "resources": {"num_cpus": 1.0, "num_gpus": 2.0, "memory_bytes": null},
            "env_vars": {"A": "b", "TYNDALL_API_KEY": "its own"},
            "warm": {"processes": 1, "preload": ["torch", "a.b"]},
        }))
        .unwrap()
    }

    #[test]
    fn one_that_waits_differs_from_a_replica_in_what_it_is_handed() {
        let config = config();
        let id = ReplicaId::new("warm-D-0");
        let waiting = waiting(&id, &config);
        let words = "-m tyndall._program role warm --id warm-D-0 --application app --deployment D \
                     --preload torch,a.b";
        assert_eq!(waiting.args.join(" "), words);
        assert!(waiting.waits && waiting.takes.is_none());
        let replica_id = ReplicaId::new("D-1");
        let gpus = vec!["0".to_owned(), "2".to_owned()];
        let own =
            Own { id: &replica_id, rank: 3, gang: None, gpus: gpus.clone(), waiting: Some(id) };
        let replica = replica(&RuntimeDir("/run".into()), &config, own);
        assert_eq!(replica.args[2..8].join(" "), "role replica --runtime-dir /run --id D-1");
        assert_eq!(serde_json::from_str::<DeploymentConfig>(&replica.args[9]).unwrap(), config);
        assert_eq!((replica.waits, replica.takes.as_deref()), (false, Some("warm-D-0")));
        assert_eq!(waiting.executable, replica.executable);
        assert_eq!(waiting.working_dir, replica.working_dir);
        let more: BTreeMap<&str, &str> = replica
            .env
            .iter()
            .filter(|(name, _)| !waiting.env.contains_key(*name))
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(more, [(RANK_VARIABLE, "3")].into());
        assert_eq!((waiting.gpus.len(), replica.gpus), (0, gpus));
        assert!(waiting.env.iter().all(|(name, value)| replica.env[name] == *value));
        assert!(!replica.args.contains(&GANG_ARG.to_owned()));
        assert_eq!(
            (waiting.env["TYNDALL_API_KEY"].as_str(), &*waiting.env[TOKEN_VARIABLE]),
            ("its own", "")
        );
    }

    #[test]
    fn a_replica_of_a_gang_is_found_with_its_gang() {
        let (config, id) = (config(), ReplicaId::new("D-1"));
        let gang = Arc::new(GangContext {
            gang_id: "g".to_owned(),
            rank: 0,
            world_size: 2,
            member_replica_ids: vec![id.clone(), ReplicaId::new("D-2")],
            pg_name: "SERVE_GANG::app_D_0_g".to_owned(),
        });
        let own =
            Own { id: &id, rank: 3, gang: Some(gang.clone()), gpus: Vec::new(), waiting: None };
        let args = replica(&RuntimeDir("/run".into()), &config, own).args;
        let info = ProcessInfo { id: "D-1".to_owned(), pid: 7, args, ..ProcessInfo::default() };
        let found = crate::supervisor::found(info);
        assert_eq!((found.gang, found.config.as_deref()), (Some(gang), Some(&config)));
    }
}
