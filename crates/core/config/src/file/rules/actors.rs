//! Which actors a deployment may have.

use super::text_of;
use crate::file::fields::{RESERVED_VARIABLES, is_capacity_queue};
use crate::file::node::Node;
use crate::file::problem::{Problem, inside};

/// Each by itself, and all of them together.
pub(super) fn check(deployment: &Node, path: &str, problems: &mut Vec<Problem>) {
    let actors = deployment.get("deployment_actors").map_or(&[][..], Node::items);
    for (i, actor) in actors.iter().enumerate() {
        let path = inside(path, &format!("deployment_actors[{i}]"));
        let class = text_of(actor, "actor_class").unwrap_or_default();
        if is_capacity_queue(class) {
            let message =
                "CapacityQueue has no effect: CapacityQueueRouter keeps its tokens itself";
            problems.push(Problem::warning(actor, &path, message));
        }
        let name = text_of(actor, "name");
        if let Some(name) = name
            && actors[..i].iter().any(|other| text_of(other, "name") == Some(name))
        {
            let message = format!("two actors are called {name:?}");
            let problem = Problem::error(actor, &path, message);
            problems.push(problem.with_cure("give each its own name"));
        }
        let variables = actor
            .get("actor_options")
            .and_then(|options| options.get("runtime_env")?.get("env_vars"))
            .map_or(&[][..], Node::entries);
        for entry in variables.iter().filter(|one| RESERVED_VARIABLES.contains(&one.name())) {
            let path = inside(&path, "actor_options.runtime_env.env_vars");
            let message = format!("{} is the server's to set", entry.name());
            let problem = Problem::error(&entry.key, &path, message);
            problems.push(problem.with_cure("leave it out"));
        }
    }
}

/// They are code in Python.
pub(super) fn without_python(deployment: &Node, path: &str, problems: &mut Vec<Problem>) {
    let actors = deployment.get("deployment_actors").filter(|actors| !actors.items().is_empty());
    if let Some(actors) = actors {
        let path = inside(path, "deployment_actors");
        let message = "actors are for an application in Python";
        let cure = "write import_path: of one, or leave it out";
        problems.push(Problem::error(actors, &path, message).with_cure(cure));
    }
}
