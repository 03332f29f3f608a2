//! `gang_scheduling_config`: replicas that start and end together.

use super::read;
use super::scaling::AutoscalingOption;
use crate::file::DeploymentOptions;
use crate::file::node::Node;
use tyndall_types::protocol::{
    DeploymentConfig, GangFailurePolicy, GangPlacementStrategy, GangScheduling,
};

/// What is written; none of null.
pub(super) fn read(node: &Node) -> Option<GangScheduling> {
    let gang_size = read::whole(node, "gang_size")?;
    let strategy = match read::text(node, "gang_placement_strategy") {
        Some("SPREAD") => GangPlacementStrategy::Spread,
        Some(_) | None => GangPlacementStrategy::Pack,
    };
    Some(GangScheduling {
        gang_size,
        gang_placement_strategy: strategy,
        runtime_failure_policy: GangFailurePolicy::RestartGang,
    })
}

/// What does not go with gangs in a deployment as it is then, where some options are of a file and
/// some of the code; a line of cause and one of cure.
pub(super) fn problem(options: &DeploymentOptions, config: &DeploymentConfig) -> Option<String> {
    let gang = config.gang_scheduling?;
    if options.max_replicas_per_node.is_some() {
        let message = "max_replicas_per_node does not go with gang_scheduling_config";
        return Some(format!("{message}\ntake one of them out"));
    }
    // Of autoscaling only what somebody wrote: its defaults are rounded up.
    let written = match &options.autoscaling {
        Some(AutoscalingOption::On(scaling)) if config.num_replicas.is_none() => [
            ("min_replicas", scaling.min_replicas),
            ("max_replicas", scaling.max_replicas),
            ("initial_replicas", scaling.initial_replicas),
        ],
        Some(_) | None => [("num_replicas", config.num_replicas), ("", None), ("", None)],
    };
    gang.misfit(written)
}
