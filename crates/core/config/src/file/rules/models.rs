//! Rules of applications of models.

use super::{OF_MODELS, deployment, number_of, routers, text_of, tree, unique};
use crate::file::check::object;
use crate::file::fields::{LLM_ARGS, LLM_INGRESS};
use crate::file::kind::NAME_ACCEPTED;
use crate::file::node::{Node, Value};
use crate::file::problem::{Problem, inside};
use tree::ModelNode;
use tyndall_parsers::{ReasoningFormat, ToolFormat, UnknownParser};
use tyndall_types::DeploymentName;

/// Arguments of what builds an application of models.
pub(super) fn arguments(app: &Node, path: &str, problems: &mut Vec<Problem>) {
    let path = inside(path, "args");
    let Some(args) = app.get("args") else {
        let message = "`args` is missing: the models";
        let cure = "write args: with llm_configs: and a list of models";
        problems.push(Problem::error(app, &path, message).with_cure(cure));
        return;
    };
    object(&LLM_ARGS, args, &path, problems);
    if let Some(configs) = args.get("llm_configs")
        && configs.items().is_empty()
        && matches!(configs.value, Value::List(_))
    {
        let message = "there is no model in the list";
        problems.push(Problem::error(configs, &inside(&path, "llm_configs"), message));
    }
}

pub(super) fn check(app: &Node, path: &str, models: &[ModelNode], problems: &mut Vec<Problem>) {
    let configs: Vec<Node> = models.iter().map(|model| model.config.clone()).collect();
    let of = |i: usize| models[i].path.clone();
    let id =
        |node: &Node| text_of(node.get("model_loading_config")?, "model_id").map(str::to_owned);
    let before = problems.len();
    unique(&configs, "model_id", id, of, problems);
    if problems.len() == before {
        unique_names(models, problems);
    }
    for model in models {
        name(model, problems);
        source(model, problems);
        let options = model.config.get("deployment_config");
        if let Some(options) = options {
            let path = inside(&model.path, "deployment_config");
            deployment(options, &path, OF_MODELS, problems);
            routers::of_model(options, &path, problems);
        }
        engine(model, problems);
        parsers(model, problems);
        placement(model, problems);
        if let Some(actor) = options.and_then(|options| options.get("ray_actor_options")) {
            gpus(actor, &inside(&model.path, "deployment_config.ray_actor_options"), problems);
        }
    }
    if !models.is_empty() {
        overrides(app, path, models, problems);
    }
}

/// Names of parsers.
fn parsers(model: &ModelNode, problems: &mut Vec<Problem>) {
    let Some(kwargs) = model.config.get("engine_kwargs") else { return };
    let mut check = |field: &str, known: fn(&str) -> Result<(), UnknownParser>| {
        let Some(node) = kwargs.get(field) else { return };
        if let Some(Err(error)) = node.text().map(known) {
            let path = inside(&model.path, &format!("engine_kwargs.{field}"));
            problems.push(Problem::error(node, &path, error.to_string()));
        }
    };
    check("tool_call_parser", |name| ToolFormat::from_name(name).map(drop));
    check("reasoning_parser", |name| ReasoningFormat::from_name(name).map(drop));
}

/// Names of deployments, which may be the same for other ids.
fn unique_names(models: &[ModelNode], problems: &mut Vec<Problem>) {
    for (i, model) in models.iter().enumerate() {
        let name = model.deployment_name();
        let same = models[..i].iter().find(|one| name.is_some() && one.deployment_name() == name);
        if let (Some(first), Some(name)) = (same, name) {
            let path = inside(&model.path, "deployment_config.name");
            let message = format!("{} has the same deployment, {name:?}", first.path);
            let cure = "give one of them a name in its deployment_config";
            problems.push(Problem::error(&model.config, &path, message).with_cure(cure));
        }
    }
}

/// An id and a name that are taken from something else may not be usable.
fn name(model: &ModelNode, problems: &mut Vec<Problem>) {
    let Some(id) = model.id() else { return };
    if DeploymentName::new(id).is_err() {
        // Where it is written as an id, the table has said so.
        if model.is_short {
            let message = format!("{id:?} is not {NAME_ACCEPTED}");
            let cure = "write model: {model_loading_config: {model_id: …, model_source: …}}";
            let problem = Problem::error(&model.config, &model.loading_path("model_id"), message);
            problems.push(problem.with_cure(cure));
        }
        return;
    }
    let derived = model.deployment_name();
    if derived.is_some_and(|name| DeploymentName::new(name).is_err())
        && model.config.get("deployment_config").is_none_or(|options| !options.has("name"))
    {
        let message = "the name of its deployment, made from this id, is too long";
        let cure = "write a shorter name in its deployment_config";
        let problem = Problem::error(&model.config, &model.loading_path("model_id"), message);
        problems.push(problem.with_cure(cure));
    }
}

fn source(model: &ModelNode, problems: &mut Vec<Problem>) {
    let Some(source) = model.source() else { return };
    let is_remote = source.text().is_some_and(|text| text.contains("://"));
    if is_remote || source.text().is_none() {
        let path = model.loading_path("model_source");
        let message = "models are not read from buckets";
        let cure = "copy it to this machine and write its path, or write a Hugging Face id";
        problems.push(Problem::error(source, &path, message).with_cure(cure));
    }
}

fn engine(model: &ModelNode, problems: &mut Vec<Problem>) {
    let Some(engine) = model.config.get("engine_kwargs") else { return };
    if let (Some(seqs), Some(tokens), Some(at)) = (
        number_of(engine, "max_num_seqs"),
        number_of(engine, "max_num_batched_tokens"),
        engine.get("max_num_batched_tokens"),
    ) && tokens < seqs
    {
        let path = inside(&model.path, "engine_kwargs.max_num_batched_tokens");
        let message = format!(
            "it is {tokens}, less than max_num_seqs with {seqs}: a step could not serve every \
             sequence"
        );
        let cure = "raise it, or lower max_num_seqs";
        problems.push(Problem::error(at, &path, message).with_cure(cure));
    }
}

fn placement(model: &ModelNode, problems: &mut Vec<Problem>) {
    let Some(placement) = model.config.get("placement_group_config") else { return };
    let path = inside(&model.path, "placement_group_config");
    let of = |field| placement.get(field).is_some();
    if of("bundle_per_worker") == of("bundles") {
        let message = "it has exactly one of bundle_per_worker and bundles";
        problems.push(Problem::error(placement, &path, message));
    }
    let bundles = placement.get("bundles").map_or(&[][..], Node::items).iter();
    let gpus = bundles.chain(placement.get("bundle_per_worker")).find_map(|it| it.get("GPU"));
    warn_of_gpus(gpus, &path, problems);
}

fn gpus(actor: &Node, path: &str, problems: &mut Vec<Problem>) {
    warn_of_gpus(actor.get("num_gpus"), &inside(path, "num_gpus"), problems);
}

fn warn_of_gpus(gpus: Option<&Node>, path: &str, problems: &mut Vec<Problem>) {
    if let Some(gpus) = gpus.filter(|gpus| gpus.number() > Some(0.0)) {
        let message = "GPUs have no effect: models run on CPUs in this build";
        problems.push(Problem::warning(gpus, path, message));
    }
}

/// `deployments` of the application name those of its models.
fn overrides(app: &Node, path: &str, models: &[ModelNode], problems: &mut Vec<Problem>) {
    let names: Vec<String> = models.iter().filter_map(ModelNode::deployment_name).collect();
    let deployments = app.get("deployments").map_or(&[][..], Node::items);
    for (i, options) in deployments.iter().enumerate() {
        let path = format!("{path}.deployments[{i}]");
        let Some(name) = text_of(options, "name") else { continue };
        if name == LLM_INGRESS {
            let message = format!("options of {name} have no effect: the proxy is the ingress");
            problems.push(Problem::warning(options, &path, message));
        } else if !names.iter().any(|one| one == name) {
            let message = format!("there is no deployment {name:?}");
            let cure = format!("it has {}", names.join(", "));
            let problem = Problem::error(options, &inside(&path, "name"), message);
            problems.push(problem.with_cure(cure));
        }
        if let Some(actor) = options.get("ray_actor_options") {
            gpus(actor, &inside(&path, "ray_actor_options"), problems);
        }
    }
}
