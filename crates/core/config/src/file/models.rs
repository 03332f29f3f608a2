//! The models of an application, whichever way they are written.

use super::fields::LLM_BUILDERS;
use super::node::{Node, Value, parse};
use super::problem::{Problem, inside};

/// Ray's name of the class that serves a model.
const SERVER_CLASS: &str = "LLMServer";

/// A model and where it stands.
pub(super) struct ModelNode {
    /// An `LLMConfig`.
    pub(super) config: Node,
    /// What `config`'s fields are inside of.
    pub(super) path: String,
    /// It is `model:` and a text, from which its id and its source are taken.
    pub(super) is_short: bool,
}

impl ModelNode {
    /// What clients call it.
    pub(super) fn id(&self) -> Option<&str> {
        self.config.get("model_loading_config")?.get("model_id")?.text()
    }

    /// What is served: its source, else its id.
    pub(super) fn source(&self) -> Option<&Node> {
        let loading = self.config.get("model_loading_config")?;
        loading.get("model_source").or_else(|| loading.get("model_id"))
    }

    /// Where a field of `model_loading_config` is, or is taken from.
    pub(super) fn loading_path(&self, field: &str) -> String {
        let field = format!("model_loading_config.{field}");
        inside(&self.path, if self.is_short { "model" } else { &field })
    }

    /// The name of its deployment, as Ray has it.
    pub(super) fn deployment_name(&self) -> Option<String> {
        let options = self.config.get("deployment_config");
        if let Some(name) = options.and_then(|options| options.get("name")?.text()) {
            return Some(name.to_owned());
        }
        let id = self.id()?.replace('/', "--").replace('.', "_");
        Some(format!("{SERVER_CLASS}:{id}"))
    }
}

/// The models of an application; none where it is built of something else. Files that were not read
/// are left out.
pub(super) fn of(app: &Node, path: &str) -> Vec<ModelNode> {
    if let Some(model) = app.get("model") {
        let model = match model.text() {
            Some(text) => {
                let config = short(app, model, text);
                ModelNode { config, path: path.to_owned(), is_short: true }
            }
            None => {
                let path = inside(path, "model");
                ModelNode { config: model.clone(), path, is_short: false }
            }
        };
        return vec![model];
    }
    let configs = configs(app).map_or(&[][..], Node::items);
    let is_map = |(_, node): &(usize, &Node)| matches!(node.value, Value::Map(_));
    let model = |(i, config): (usize, &Node)| {
        let path = format!("{path}.args.llm_configs[{i}]");
        ModelNode { config: config.clone(), path, is_short: false }
    };
    configs.iter().enumerate().filter(is_map).map(model).collect()
}

/// Whether an application is one of models.
pub(super) fn is_built(app: &Node) -> bool {
    app.get("import_path").and_then(Node::text).is_some_and(|path| LLM_BUILDERS.contains(&path))
}

/// The list of models where an application is built of one.
pub(super) fn configs(app: &Node) -> Option<&Node> {
    if is_built(app) { app.get("args")?.get("llm_configs") } else { None }
}

/// `model: text`, and what stands beside it, as an `LLMConfig`.
fn short(app: &Node, model: &Node, text: &str) -> Node {
    let of_text = |text: &str| model.beside(Value::Text(text.to_owned()));
    let loading = model.beside(Value::Map(vec![
        model.entry("model_id", of_text(id_of(text))),
        model.entry("model_source", of_text(text)),
    ]));
    let beside = ["engine_kwargs", "deployment_config"];
    let options = app.entries().iter().filter(|entry| beside.contains(&entry.name())).cloned();
    let loading = model.entry("model_loading_config", loading);
    model.beside(Value::Map(std::iter::once(loading).chain(options).collect()))
}

/// An id is its own; of a path it is the last name.
fn id_of(text: &str) -> &str {
    if !text.starts_with(['/', '.', '~']) {
        return text;
    }
    let path = text.trim_end_matches('/');
    path.rsplit_once('/').map_or(path, |(_, last)| last)
}

/// Puts the files that lists of models name into their places.
pub(super) fn include(
    root: &mut Node,
    read: &mut dyn FnMut(&str) -> Result<String, String>,
    problems: &mut Vec<Problem>,
) {
    let Some(applications) = root.get_mut("applications") else { return };
    for (i, app) in applications.items_mut().iter_mut().enumerate().filter(|(_, app)| is_built(app))
    {
        let Some(configs) = app.get_mut("args").and_then(|args| args.get_mut("llm_configs")) else {
            continue;
        };
        for (j, config) in configs.items_mut().iter_mut().enumerate() {
            let Some(file) = config.text().map(str::to_owned) else { continue };
            match read(&file).map(|text| parse(&text, Some(&file))) {
                Ok(Ok(node)) => *config = node,
                Ok(Err(problem)) => problems.push(problem),
                Err(why) => {
                    let path = format!("applications[{i}].args.llm_configs[{j}]");
                    let message = format!("failed to read {file}: {why}");
                    let cure = "write the path of a YAML file of one model, or the model itself";
                    problems.push(Problem::error(config, &path, message).with_cure(cure));
                }
            }
        }
    }
}
