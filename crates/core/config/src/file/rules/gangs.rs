//! What does not go with gangs, as far as a file alone tells it.

use super::number_of;
use crate::file::node::Node;
use crate::file::problem::{Problem, inside};

const FIELD: &str = "gang_scheduling_config";

pub(super) fn check(deployment: &Node, path: &str, is_model: bool, problems: &mut Vec<Problem>) {
    let Some(gang) = deployment.get(FIELD) else { return };
    if is_model {
        let message = "a model needs no gang: each of its replicas is one process";
        let problem = Problem::error(gang, &inside(path, FIELD), message);
        problems.push(problem.with_cure("leave it out"));
        return;
    }
    for field in ["max_replicas_per_node", "placement_group_strategy"] {
        if let Some(at) = deployment.get(field) {
            let message = format!("it does not go with {FIELD}");
            let problem = Problem::error(at, &inside(path, field), message);
            problems.push(problem.with_cure("take one of them out"));
        }
    }
    let Some(gang_size) = number_of(gang, "gang_size").filter(|size| *size >= 1.0) else { return };
    let scaling = deployment.get("autoscaling_config");
    let fields = ["min_replicas", "max_replicas", "initial_replicas"];
    let of_scaling = scaling.into_iter().flat_map(|node| fields.map(|field| (node, field)));
    for (node, field) in [(deployment, "num_replicas")].into_iter().chain(of_scaling) {
        let Some((at, count)) = node.get(field).and_then(|at| Some((at, at.number()?))) else {
            continue;
        };
        if count % gang_size != 0.0 {
            let message = format!("{count} is no multiple of gang_size, {gang_size}");
            let path = if field == "num_replicas" {
                inside(path, field)
            } else {
                inside(&inside(path, "autoscaling_config"), field)
            };
            let problem = Problem::error(at, &path, message);
            problems.push(problem.with_cure("choose a multiple of it"));
        }
    }
}
