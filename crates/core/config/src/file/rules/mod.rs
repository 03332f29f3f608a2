//! What involves more than one field.

mod actors;
mod code;
mod gangs;
mod models;
mod policies;
mod routers;

use super::models as tree;
use super::node::Node;
use super::problem::{Problem, inside};
use std::collections::HashMap;

/// Ray's defaults, where a rule compares with what is not written.
const MIN_REPLICAS: f64 = 1.0;
const MAX_REPLICAS: f64 = 1.0;
const AUTO_MAX_REPLICAS: f64 = 100.0;

/// What a replica takes and aims at where nothing is written; a model aims at a share of what it
/// takes.
type Requests = (f64, Option<f64>);
const OF_CODE: Requests = (5.0, Some(2.0));
const OF_MODELS: Requests = (256.0, None);
/// By which ways an application says what is served.
const WAYS: [&str; 3] = ["import_path", "model", "program"];

pub(super) fn check(root: &Node, problems: &mut Vec<Problem>) {
    if root.get("applications").is_none()
        && let Some(import_path) = root.get("import_path")
    {
        let message = "this is a file of a single application, as Ray read before 2.0";
        let cure = "put its fields into a list: `applications:`, then `- import_path: …`";
        problems.push(Problem::error(import_path, "import_path", message).with_cure(cure));
    }
    let applications = root.get("applications").map_or(&[][..], Node::items);
    let of = |i: usize| format!("applications[{i}]");
    let name = |app: &Node| Some(text_of(app, "name").unwrap_or("default").to_owned());
    unique(applications, "name", name, of, problems);
    // Without the key it is `/`; with null there is none.
    let route = |app: &Node| {
        let is_null = app.entries().iter().any(|e| e.name() == "route_prefix" && e.value.is_null());
        (!is_null).then(|| text_of(app, "route_prefix").unwrap_or("/").to_owned())
    };
    unique(applications, "route_prefix", route, of, problems);
    for (i, app) in applications.iter().enumerate() {
        application(app, &of(i), problems);
    }
}

/// A deployment that a program describes.
pub(super) fn of_deployment(node: &Node, problems: &mut Vec<Problem>) {
    deployment(node, "", OF_CODE, problems);
    code::of_deployment(node, problems);
    gangs::check(node, "", false, problems);
}

fn text_of<'a>(node: &'a Node, name: &str) -> Option<&'a str> {
    node.get(name)?.text()
}

fn number_of(node: &Node, name: &str) -> Option<f64> {
    node.get(name)?.number()
}

/// No two of a list may have the same `field`.
fn unique(
    items: &[Node],
    field: &str,
    value: impl Fn(&Node) -> Option<String>,
    path: impl Fn(usize) -> String,
    problems: &mut Vec<Problem>,
) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (i, item) in items.iter().enumerate() {
        let Some(value) = value(item) else { continue };
        if let Some(first) = seen.get(&value) {
            let at = item.get(field).unwrap_or(item);
            let message = format!("{} has the same {field}, {value:?}", path(*first));
            let cure = format!("give each its own {field}");
            problems.push(Problem::error(at, &inside(&path(i), field), message).with_cure(cure));
        } else {
            seen.insert(value, i);
        }
    }
}

fn application(app: &Node, path: &str, problems: &mut Vec<Problem>) {
    let deployments = app.get("deployments").map_or(&[][..], Node::items);
    let of = |i: usize| format!("{path}.deployments[{i}]");
    let name = |node: &Node| text_of(node, "name").map(str::to_owned);
    unique(deployments, "name", name, of, problems);
    way(app, path, problems);
    let models = tree::of(app, path);
    let requests = if models.is_empty() { OF_CODE } else { OF_MODELS };
    for (i, node) in deployments.iter().enumerate() {
        deployment(node, &of(i), requests, problems);
        let kinds = (app.has("import_path") && models.is_empty(), !models.is_empty());
        routers::check(node, &of(i), kinds, problems);
        gangs::check(node, &of(i), !models.is_empty(), problems);
        if !kinds.0 {
            actors::without_python(node, &of(i), problems);
        }
    }
    external_scaler(app, path, &models, problems);
    code::check(app, path, &models, problems);
    if let Some(policy) = app.get("autoscaling_policy") {
        policies::of_application(policy, &inside(path, "autoscaling_policy"), problems);
    }
    if !models.is_empty() || app.get("import_path").is_none() {
        policies::without_code(policies_of(app, path, &models).into_iter(), problems);
    }
    if tree::is_built(app) {
        models::arguments(app, path, problems);
    }
    models::check(app, path, &models, problems);
}

/// All policies of an application, each with its path.
fn policies_of<'a>(
    app: &'a Node,
    path: &str,
    models: &'a [tree::ModelNode],
) -> Vec<(&'a Node, String)> {
    let of = |node: &'a Node, path: &str| {
        let policy = node.get("autoscaling_config").and_then(|scaling| scaling.get("policy"));
        policy.map(|policy| (policy, inside(path, "autoscaling_config.policy")))
    };
    let own = app.get("autoscaling_policy").map(|p| (p, inside(path, "autoscaling_policy")));
    let deployments = app.get("deployments").map_or(&[][..], Node::items);
    let deployments = deployments.iter().enumerate();
    let deployments = deployments.filter_map(|(i, n)| of(n, &format!("{path}.deployments[{i}]")));
    let models = models.iter().filter_map(|model| {
        of(model.config.get("deployment_config")?, &inside(&model.path, "deployment_config"))
    });
    own.into_iter().chain(deployments).chain(models).collect()
}

/// Exactly one of [`WAYS`], and what goes with it.
fn way(app: &Node, path: &str, problems: &mut Vec<Problem>) {
    let mut given = WAYS.iter().filter_map(|way| Some((way, app.get(way)?)));
    match (given.next(), given.next()) {
        (None, _) => {
            let message = "nothing says what is served";
            let cure = "write model: with a Hugging Face id or path, program: or import_path:";
            problems.push(Problem::error(app, path, message).with_cure(cure));
        }
        (Some((first, _)), Some((second, at))) => {
            let message = format!("{first} and {second} exclude each other");
            let problem = Problem::error(at, &inside(path, second), message);
            problems.push(problem.with_cure("keep one of them, or write two applications"));
        }
        (Some(_), None) => {}
    }
    let model = app.get("model");
    if let (Some(_), Some(args)) = (model, app.get("args")) {
        let message = "a model takes no args";
        let problem = Problem::error(args, &inside(path, "args"), message);
        problems.push(problem.with_cure("write engine_kwargs and deployment_config beside it"));
    }
    for field in ["engine_kwargs", "deployment_config"] {
        let Some(at) = app.get(field).filter(|_| model.is_none_or(|m| m.text().is_none())) else {
            continue;
        };
        let message = format!("{field} stands beside `model:` and an id or path only");
        let cure = match model {
            Some(_) => "write it inside of model:",
            None => "write it inside of the model that it is for",
        };
        problems.push(Problem::error(at, &inside(path, field), message).with_cure(cure));
    }
}

/// A deployment is scaled by the endpoint or by load.
fn external_scaler(
    app: &Node,
    path: &str,
    models: &[tree::ModelNode],
    problems: &mut Vec<Problem>,
) {
    let Some(enabled) = app.get("external_scaler_enabled").filter(|it| it.json() == "true") else {
        return;
    };
    let scales = |node: &Node| {
        node.get("autoscaling_config").is_some() || text_of(node, "num_replicas") == Some("auto")
    };
    let deployments = app.get("deployments").map_or(&[][..], Node::items);
    let first = deployments.iter().position(scales).map(|i| format!("{path}.deployments[{i}]"));
    let is_model =
        |model: &&tree::ModelNode| model.config.get("deployment_config").is_some_and(scales);
    let first = first.or_else(|| {
        models.iter().find(is_model).map(|model| inside(&model.path, "deployment_config"))
    });
    if let Some(first) = first {
        let message = format!("{first} scales by load");
        let cure = "either the endpoint scales or the load does: take one of them out";
        let path = inside(path, "external_scaler_enabled");
        problems.push(Problem::error(enabled, &path, message).with_cure(cure));
    }
}

fn deployment(node: &Node, path: &str, requests: Requests, problems: &mut Vec<Problem>) {
    actors::check(node, path, problems);
    let mut error = |at: &Node, field: &str, message: String, cure: &str| {
        problems.push(Problem::error(at, &inside(path, field), message).with_cure(cure));
    };
    let scaling = node.get("autoscaling_config");
    if let (Some(count), Some(_)) = (node.get("num_replicas"), scaling)
        && count.number().is_some()
    {
        let message = "a fixed number and autoscaling_config exclude each other".to_owned();
        error(count, "num_replicas", message, "leave it out, or write num_replicas: auto");
    }
    let bundles = node.get("placement_group_bundles");
    for field in ["placement_group_strategy", "placement_group_bundle_label_selector"] {
        if let (Some(at), None) = (node.get(field), bundles) {
            let message = "it speaks of bundles, and there are none".to_owned();
            error(at, field, message, "write placement_group_bundles, or leave it out");
        }
    }
    if let (Some(at), Some(_)) = (node.get("max_replicas_per_node"), bundles) {
        let message = "it does not go with placement_group_bundles".to_owned();
        error(at, "max_replicas_per_node", message, "take one of them out");
    }
    if let Some(scaling) = scaling {
        if let Some(policy) = scaling.get("policy") {
            let path = inside(path, "autoscaling_config.policy");
            policies::of_deployment(policy, &path, problems);
        }
        let path = inside(path, "autoscaling_config");
        replica_counts(node, scaling, &path, problems);
        request_counts(node, scaling, (&path, requests), problems);
    }
}

fn replica_counts(deployment: &Node, node: &Node, path: &str, problems: &mut Vec<Problem>) {
    let is_auto = text_of(deployment, "num_replicas") == Some("auto");
    let most = if is_auto { AUTO_MAX_REPLICAS } else { MAX_REPLICAS };
    let min = number_of(node, "min_replicas").unwrap_or(MIN_REPLICAS);
    let max = number_of(node, "max_replicas").unwrap_or(most);
    if max < min {
        let at = node.get("min_replicas").unwrap_or(node);
        let message = format!("min_replicas is {min}, more than max_replicas, {max}");
        let cure = "raise max_replicas or lower min_replicas";
        problems.push(Problem::error(at, path, message).with_cure(cure));
    }
    if let Some(at) = node.get("initial_replicas")
        && let Some(initial) = at.number()
        && !(min..=max).contains(&initial)
        && min <= max
    {
        let message = format!("{initial} is not from min_replicas, {min}, to max_replicas, {max}");
        problems.push(Problem::error(at, &inside(path, "initial_replicas"), message));
    }
}

fn request_counts(
    deployment: &Node,
    node: &Node,
    (path, requests): (&str, Requests),
    problems: &mut Vec<Problem>,
) {
    let ongoing = number_of(deployment, "max_ongoing_requests").unwrap_or(requests.0);
    let target = number_of(node, "target_ongoing_requests").or(requests.1);
    let Some(target) = target else { return };
    if ongoing < target {
        let at = node.get("target_ongoing_requests").unwrap_or(node);
        let message = format!(
            "a replica takes {ongoing} requests and the target is {target}: only requests that \
             wait can add replicas"
        );
        let path = inside(path, "target_ongoing_requests");
        let cure = "raise max_ongoing_requests above it";
        problems.push(Problem::warning(at, &path, message).with_cure(cure));
    }
}
