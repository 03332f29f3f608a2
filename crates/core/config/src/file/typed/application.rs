//! One application of a file.

use super::code::CodePaths;
use super::deployment::{DeploymentOverride, WarmOptions};
use super::{LoggingOptions, ModelSpec, read};
use crate::file::fields::{BuiltInPolicy, LLM_INGRESS, PolicyKind};
use crate::file::models;
use crate::file::node::Node;
use crate::file::problem::Problem;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tyndall_types::ApplicationName;
use tyndall_types::protocol::ApplicationPolicy;

/// An application as a file describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct ApplicationSpec {
    /// Unique in the file; `default` where none is written.
    pub name: ApplicationName,
    /// Where it is mounted; absent takes no requests from outside.
    pub route_prefix: Option<String>,
    /// Whether the scale endpoint may set replica counts.
    pub external_scaler_enabled: bool,
    /// One policy for all of its deployments.
    pub autoscaling_policy: Option<ApplicationPolicy>,
    /// Logs of its replicas, where a deployment does not say otherwise: its own, else the file's.
    pub logging: Option<LoggingOptions>,
    /// Variables of all of its deployments; a deployment's own win.
    pub env_vars: BTreeMap<String, String>,
    /// Where its code lies, where a deployment does not say otherwise.
    pub paths: CodePaths,
    /// Processes that wait to become replicas, where a deployment does not say otherwise.
    pub warm: WarmOptions,
    /// What the file says, only the fields that are written; files of models are put into it.
    pub submitted: Value,
    /// What restarts all replicas when it changes, with keys in one order: what Ray Serve makes its
    /// code version of. Null for models: what restarts those is in the configuration of each.
    pub code_version: Value,
    /// What is served.
    pub kind: ApplicationKind,
}

/// What an application is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum ApplicationKind {
    /// Language models, at least one; one deployment each.
    Models(Vec<ModelSpec>),
    /// A program that has the deployments.
    Program {
        /// Its path, as written.
        executable: String,
        /// Arguments of what builds the application; a map.
        args: Value,
        /// Options that replace those of the program.
        overrides: Vec<DeploymentOverride>,
    },
    /// Code in Python.
    Python {
        /// `module:attribute` or `module.attribute`.
        import_path: String,
        /// Arguments of what builds the application; a map.
        args: Value,
        /// Options that replace those of the code.
        overrides: Vec<DeploymentOverride>,
    },
}

impl ApplicationSpec {
    pub(super) fn read(
        app: &Node,
        of_file: Option<&LoggingOptions>,
        path: &str,
    ) -> Result<Self, Problem> {
        let logging = app.get("logging_config").map(LoggingOptions::read);
        let name = read::text(app, "name").unwrap_or("default");
        let logging = logging.or_else(|| of_file.cloned());
        let kind = kind(app, logging.as_ref(), path)?;
        let is_models = matches!(kind, ApplicationKind::Models(_));
        Ok(Self {
            name: ApplicationName::new(name).expect("names are checked"),
            route_prefix: route_prefix(app),
            external_scaler_enabled: read::flag(app, "external_scaler_enabled").unwrap_or(false),
            autoscaling_policy: app.get("autoscaling_policy").and_then(policy),
            logging,
            env_vars: read::env_vars(app),
            paths: CodePaths::read(app),
            warm: app.get("tyndall").map(WarmOptions::read).unwrap_or_default(),
            submitted: app.to_json(),
            code_version: if is_models { Value::Null } else { sorted(code_version(app)) },
            kind,
        })
    }
}

fn kind(
    app: &Node,
    logging: Option<&LoggingOptions>,
    path: &str,
) -> Result<ApplicationKind, Problem> {
    let overrides = || -> Vec<DeploymentOverride> {
        let deployments = app.get("deployments").map_or(&[][..], Node::items);
        deployments.iter().map(DeploymentOverride::read).collect()
    };
    let args = || app.get("args").map_or_else(|| json!({}), Node::to_json);
    if app.has("model") || models::is_built(app) {
        unread(app, path)?;
        let env_vars = read::env_vars(app);
        let overrides: Vec<DeploymentOverride> =
            overrides().into_iter().filter(|one| one.name.as_str() != LLM_INGRESS).collect();
        let specs = models::of(app, path);
        let specs =
            specs.iter().map(|model| ModelSpec::read(model, &env_vars, logging, &overrides));
        return Ok(ApplicationKind::Models(specs.collect()));
    }
    if let Some(executable) = read::text(app, "program") {
        let executable = executable.to_owned();
        return Ok(ApplicationKind::Program { executable, args: args(), overrides: overrides() });
    }
    let import_path = read::text(app, "import_path").unwrap_or_default().to_owned();
    Ok(ApplicationKind::Python { import_path, args: args(), overrides: overrides() })
}

/// A file of a model that is still only a name.
fn unread(app: &Node, path: &str) -> Result<(), Problem> {
    let configs = models::configs(app).map_or(&[][..], Node::items);
    let found = configs.iter().enumerate().find(|(_, node)| node.text().is_some());
    found.map_or(Ok(()), |(i, node)| {
        let path = format!("{path}.args.llm_configs[{i}]");
        let message = "files of models are not read here";
        Err(Problem::error(node, &path, message).with_cure("write the model itself"))
    })
}

/// Without the key it is `/`; with null there is none.
fn route_prefix(app: &Node) -> Option<String> {
    let given = app.entries().iter().find(|entry| entry.name() == "route_prefix");
    given.map_or(Some("/"), |entry| entry.value.text()).map(str::to_owned)
}

fn policy(node: &Node) -> Option<ApplicationPolicy> {
    if let Some(python) = super::scaling::python_policy(node) {
        return Some(ApplicationPolicy::Python(python));
    }
    let found = BuiltInPolicy::of(node)?;
    let kwargs = node.get("policy_kwargs")?;
    (found.kind == PolicyKind::SharedBudget).then(|| ApplicationPolicy::SharedBudget {
        max_total_replicas: read::whole(kwargs, "max_total_replicas").unwrap_or(1),
    })
}

/// Source: ray 2.60.0 `python/ray/serve/_private/deploy_utils.py`.
fn code_version(app: &Node) -> Value {
    let of = |name: &str| app.get(name).map_or(Value::Null, Node::to_json);
    let deployments = app.get("deployments").map_or(&[][..], Node::items);
    let by_name = |value: &dyn Fn(&Node) -> Option<Value>| -> Value {
        let named = |node: &Node| Some((read::text(node, "name")?.to_owned(), value(node)?));
        Value::Object(deployments.iter().filter_map(named).collect())
    };
    let policies = by_name(&|node| Some(node.get("autoscaling_config")?.get("policy")?.to_json()));
    let routers = by_name(&|node| Some(node.get("request_router_config")?.to_json()));
    json!({
        "import_path": of("import_path"),
        "program": of("program"),
        "runtime_env": of("runtime_env"),
        "args": of("args"),
        "autoscaling_policy": of("autoscaling_policy"),
        "autoscaling_policies": policies,
        "request_routers": routers,
    })
}

/// The same with the keys of every map in the order of the alphabet.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<String, Value> = map.into_iter().collect();
            let map: Map<_, _> = ordered.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            Value::Object(map)
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        other => other,
    }
}
