//! Which request routers may be named where.

use crate::file::fields::router_in_python;
use crate::file::node::{Entry, Node};
use crate::file::problem::{Problem, inside};

/// What the rule that is built in does not look at.
const OF_PYTHON: [&str; 6] = [
    "request_router_kwargs",
    "request_routing_stats_period_s",
    "request_routing_stats_timeout_s",
    "initial_backoff_s",
    "backoff_multiplier",
    "max_backoff_s",
];

/// The router of a deployment of code.
pub(super) fn check(deployment: &Node, path: &str, has_python: bool, problems: &mut Vec<Problem>) {
    let Some(router) = deployment.get("request_router_config") else { return };
    let path = inside(path, "request_router_config");
    match (router_in_python(router), has_python) {
        (Some(_), true) => {}
        (Some(_), false) => {
            let at = router.get("request_router_class").unwrap_or(router);
            let message = "a request router in Python is for an application in Python";
            let cure = "write import_path: of one, or leave it out";
            let path = inside(&path, "request_router_class");
            problems.push(Problem::error(at, &path, message).with_cure(cure));
        }
        (None, _) => {
            let has_none = |entry: &&Entry| OF_PYTHON.contains(&entry.name());
            for entry in router.entries().iter().filter(has_none) {
                let name = entry.name();
                let message = format!(
                    "{name} has no effect: the built-in rule has no arguments, and gives a request \
                     its replica as soon as one has room"
                );
                problems.push(Problem::warning(&entry.key, &inside(&path, name), message));
            }
        }
    }
}
