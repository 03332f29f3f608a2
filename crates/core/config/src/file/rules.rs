//! What involves more than one field.

use super::check::object;
use super::fields::{LLM_ARGS, LLM_BUILDERS};
use super::node::Node;
use super::problem::{Problem, inside};
use std::collections::HashMap;

/// Ray's defaults, where a rule compares with what is not written.
const MIN_REPLICAS: f64 = 1.0;
const MAX_REPLICAS: f64 = 1.0;
const AUTO_MAX_REPLICAS: f64 = 100.0;

/// What a replica takes and aims at where nothing is written; absent takes and aims without bound.
type Requests = Option<(f64, f64)>;
const OF_CODE: Requests = Some((5.0, 2.0));
const OF_MODELS: Requests = None;

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
    for (i, node) in deployments.iter().enumerate() {
        deployment(node, &of(i), OF_CODE, problems);
    }
    let scales = |node: &Node| {
        node.get("autoscaling_config").is_some() || text_of(node, "num_replicas") == Some("auto")
    };
    if let Some(enabled) = app.get("external_scaler_enabled")
        && enabled.json() == "true"
        && let Some(i) = deployments.iter().position(scales)
    {
        let message = format!("{} scales by load", of(i));
        let cure = "either the endpoint scales or the load does: take one of them out";
        let path = inside(path, "external_scaler_enabled");
        problems.push(Problem::error(enabled, &path, message).with_cure(cure));
    }
    if text_of(app, "import_path").is_some_and(|path| LLM_BUILDERS.contains(&path)) {
        models(app, path, problems);
    }
}

/// Arguments of an application of language models.
fn models(app: &Node, path: &str, problems: &mut Vec<Problem>) {
    let path = inside(path, "args");
    let Some(args) = app.get("args") else {
        let message = "`args` is missing: the models";
        let cure = "write args: with llm_configs: and a list of models";
        problems.push(Problem::error(app, &path, message).with_cure(cure));
        return;
    };
    object(&LLM_ARGS, args, &path, problems);
    let Some(configs) = args.get("llm_configs") else { return };
    let of = |i: usize| format!("{path}.llm_configs[{i}]");
    if configs.items().is_empty() {
        let message = "there is no model in the list";
        problems.push(Problem::error(configs, &inside(&path, "llm_configs"), message));
    }
    let id =
        |node: &Node| text_of(node.get("model_loading_config")?, "model_id").map(str::to_owned);
    unique(configs.items(), "model_id", id, of, problems);
    for (i, model) in configs.items().iter().enumerate() {
        let Some(options) = model.get("deployment_config") else { continue };
        deployment(options, &inside(&of(i), "deployment_config"), OF_MODELS, problems);
    }
}

fn deployment(node: &Node, path: &str, requests: Requests, problems: &mut Vec<Problem>) {
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
    let ongoing = number_of(deployment, "max_ongoing_requests").or(requests.map(|r| r.0));
    let target = number_of(node, "target_ongoing_requests").or(requests.map(|r| r.1));
    let (Some(ongoing), Some(target)) = (ongoing, target) else { return };
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
