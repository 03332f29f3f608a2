//! Which request routers may be named where.

use crate::file::check::object;
use crate::file::fields::{Named, PREFIX_KWARGS, named};
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

/// The router of a model.
pub(super) fn of_model(options: &Node, path: &str, problems: &mut Vec<Problem>) {
    let Some(router) = options.get("request_router_config") else { return };
    let path = inside(path, "request_router_config");
    let (name, why) = match named(router) {
        Named::PrefixCache => return,
        Named::Python(_) => ("request_router_class", "replicas of models are chosen by the proxy"),
        Named::BuiltIn => ("request_router_kwargs", "the built-in rule has no arguments"),
    };
    if let Some(node) = router.get(name) {
        let message = format!("{name} is ignored: {why}");
        let cure = "leave it out, or name ray.serve.llm.request_router:PrefixCacheAffinityRouter";
        problems.push(Problem::warning(node, &inside(&path, name), message).with_cure(cure));
    }
}

/// The router of a deployment of code, or of one that may be a model's.
pub(super) fn check(
    deployment: &Node,
    path: &str,
    (has_python, has_models): (bool, bool),
    problems: &mut Vec<Problem>,
) {
    let Some(router) = deployment.get("request_router_config") else { return };
    let path = inside(path, "request_router_config");
    let mut refuse = |message, cure| {
        let at = router.get("request_router_class").unwrap_or(router);
        let path = inside(&path, "request_router_class");
        problems.push(Problem::error(at, &path, message).with_cure(cure));
    };
    match named(router) {
        Named::PrefixCache if has_models => {
            if let Some(kwargs) = router.get("request_router_kwargs") {
                object(&PREFIX_KWARGS, kwargs, &inside(&path, "request_router_kwargs"), problems);
            }
        }
        Named::PrefixCache => refuse(
            "PrefixCacheAffinityRouter is for models",
            "write it in the deployment_config of a model, or leave it out",
        ),
        Named::Python(_) if has_python => {}
        Named::Python(_) => refuse(
            "a request router in Python is for an application in Python",
            "write import_path: of one, or leave it out",
        ),
        Named::BuiltIn => {
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
