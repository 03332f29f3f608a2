//! Where code lies.

use super::tree;
use crate::file::node::Node;
use crate::file::problem::{Problem, inside};
use crate::file::typed::{is_archive, local_path};

const FIELDS: [&str; 2] = ["working_dir", "py_modules"];
/// What only code in Python has.
const WARM: [&str; 2] = ["preload", "warm_processes"];

/// The `runtime_env` of an application and of its deployments.
pub(super) fn check(
    app: &Node,
    path: &str,
    models: &[tree::ModelNode],
    problems: &mut Vec<Problem>,
) {
    let is_model = app.has("model") || tree::is_built(app);
    let is_program = app.has("program");
    let mut check = |node: &Node, path: &str| {
        let Some(env) = node.get("runtime_env") else { return };
        let path = inside(path, "runtime_env");
        if is_model {
            FIELDS.iter().for_each(|field| {
                no_effect(env, &path, field, "a model runs no code of yours", problems);
            });
            return;
        }
        if is_program {
            no_effect(env, &path, "py_modules", "a program imports no modules", problems);
        }
        paths(env, &path, problems);
        if let Some(dir) = env.get("working_dir").filter(|dir| dir.text().is_some_and(is_archive))
            && is_program
        {
            let message = "a program runs in a directory, and this is an archive";
            let problem = Problem::error(dir, &inside(&path, "working_dir"), message);
            problems.push(problem.with_cure("unpack it, and write the directory"));
        }
    };
    check(app, path);
    for model in models {
        check(&model.config, &model.path);
    }
    let deployments = app.get("deployments").map_or(&[][..], Node::items);
    for (i, node) in deployments.iter().enumerate() {
        if let Some(actor) = node.get("ray_actor_options") {
            check(actor, &format!("{path}.deployments[{i}].ray_actor_options"));
        }
    }
    if is_model || is_program {
        let why =
            if is_model { "a model runs no code of yours" } else { "a program imports no modules" };
        let of_models = models.iter().filter_map(|model| {
            let path = inside(&model.path, "deployment_config");
            Some((model.config.get("deployment_config")?.clone(), path))
        });
        let of = |(i, node): (usize, &Node)| (node.clone(), format!("{path}.deployments[{i}]"));
        let nodes = deployments.iter().enumerate().map(of).chain(of_models);
        for (node, path) in nodes.chain([(app.clone(), path.to_owned())]) {
            let Some(own) = node.get("tyndall") else { continue };
            let path = inside(&path, "tyndall");
            WARM.iter().for_each(|field| no_effect(own, &path, field, why, problems));
        }
    }
}

/// The `runtime_env` of a deployment that a program describes.
pub(super) fn of_deployment(node: &Node, problems: &mut Vec<Problem>) {
    let env = node.get("ray_actor_options").and_then(|actor| actor.get("runtime_env"));
    env.into_iter().for_each(|env| paths(env, "ray_actor_options.runtime_env", problems));
}

/// Nothing is fetched from elsewhere.
fn paths(env: &Node, path: &str, problems: &mut Vec<Problem>) {
    let mut local = |node: &Node, path: &str| {
        let Some(text) = node.text().filter(|text| local_path(text).is_none()) else { return };
        let message = format!("{text:?} is not on this machine, and nothing is fetched");
        let cure = "download it, and write its path, such as /code/app or file:///code/app.zip";
        problems.push(Problem::error(node, path, message).with_cure(cure));
    };
    if let Some(dir) = env.get("working_dir") {
        local(dir, &inside(path, "working_dir"));
    }
    let modules = env.get("py_modules").map_or(&[][..], Node::items);
    for (i, module) in modules.iter().enumerate() {
        local(module, &inside(path, &format!("py_modules[{i}]")));
    }
}

/// Warns once of a field.
fn no_effect(env: &Node, path: &str, field: &str, why: &str, problems: &mut Vec<Problem>) {
    let Some(entry) = env.entries().iter().find(|entry| entry.name() == field) else { return };
    let message = format!("{field} has no effect: {why}");
    let was_told = problems.iter().any(|problem| problem.message == message);
    if !was_told && !entry.value.is_null() {
        problems.push(Problem::warning(&entry.key, &inside(path, field), message));
    }
}
