//! Applications of code: where it lies, and what the controller is asked to run for it.

use super::{ApplicationSpec, DeploymentOverride, code_version, gangs, read};
use crate::file::fields::LLM_BUILDERS;
use crate::file::node::Node;
use crate::file::problem::Problem;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use tyndall_types::DeploymentId;
use tyndall_types::protocol::{DeploymentConfig, ProgramConfig, WarmPool};

/// Of a described deployment: the model that it is, as a file has one.
const MODEL: &str = "model";

/// Schemes that mean the disk of the server.
const LOCAL: [&str; 2] = ["file://", "local://"];

/// Where code lies, by `runtime_env`; absent is what is not written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CodePaths {
    /// Where it runs, and may import from: a directory, or a zip archive of one.
    pub working_dir: Option<String>,
    /// Packages, modules, zip archives and wheels that it may import.
    pub py_modules: Option<Vec<String>>,
}

impl CodePaths {
    pub(super) fn read(node: &Node) -> Self {
        let local = |text: &str| local_path(text).unwrap_or(text).to_owned();
        let Some(env) = node.get("runtime_env") else { return Self::default() };
        let modules = env.get("py_modules").map(Node::items);
        let texts = |items: &[Node]| items.iter().filter_map(Node::text).map(local).collect();
        Self {
            working_dir: read::text(env, "working_dir").map(local),
            py_modules: modules.map(texts),
        }
    }

    /// These where they are written, else those of `base`.
    #[must_use]
    pub fn over(&self, base: &Self) -> Self {
        let (over, base) = (self.clone(), base.clone());
        Self {
            working_dir: over.working_dir.or(base.working_dir),
            py_modules: over.py_modules.or(base.py_modules),
        }
    }
}

/// The path on the disk of the server, with its scheme or without; none where it is elsewhere.
pub(in crate::file) fn local_path(text: &str) -> Option<&str> {
    let local = LOCAL.iter().find_map(|scheme| text.strip_prefix(scheme));
    local.or_else(|| (!text.contains("://")).then_some(text))
}

/// Whether a path is that of an archive, which is unpacked before it is used.
#[must_use]
pub fn is_archive(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zip"))
}

/// How a replica is started: arguments before `role`, and where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Launch {
    /// [`ProgramConfig::args`].
    pub args: Vec<String>,
    /// [`ProgramConfig::working_dir`].
    pub working_dir: Option<PathBuf>,
}

/// Where an interpreter of Python finds an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PythonCode<'a> {
    /// `module:attribute` or `module.attribute`.
    ImportPath(&'a str),
    /// A file of cloudpickle.
    File(&'a Path),
}

impl PythonCode<'_> {
    /// How an interpreter is started for it. `sys_path` is searched after the modules of `paths`.
    #[must_use]
    pub fn launch(self, paths: &CodePaths, sys_path: &[String]) -> Launch {
        let mut args = ["-m", "tyndall._program"].map(str::to_owned).to_vec();
        let mut add = |name: &str, value: &str| args.extend([name.to_owned(), value.to_owned()]);
        match self {
            Self::ImportPath(path) => add("--import-path", path),
            Self::File(file) => add("--code", &file.display().to_string()),
        }
        let archive = paths.working_dir.as_deref().filter(|dir| is_archive(dir));
        archive.into_iter().for_each(|archive| add("--working-dir", archive));
        paths.py_modules.iter().flatten().for_each(|module| add("--py-module", module));
        sys_path.iter().for_each(|dir| add("--path", dir));
        let working_dir = paths.working_dir.as_deref().filter(|_| archive.is_none());
        Launch { args, working_dir: working_dir.map(PathBuf::from) }
    }
}

/// A program that carries out an application, and what it says of itself.
pub struct DescribedProgram<'a> {
    /// The program; its replicas are processes of it.
    pub executable: &'a Path,
    /// How a deployment's replicas are started, by where its code lies.
    pub launch: &'a dyn Fn(&CodePaths) -> Launch,
    /// Names the code, beside what the configuration says of it: replicas are replaced when it
    /// changes.
    pub identity: Value,
    /// What it prints for `role describe`.
    pub described: &'a Value,
}

/// Why the description of a program cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescribedError {
    /// It is none, or there is something wrong with a deployment of it.
    #[error("{0}")]
    Unusable(String),
    /// The configuration has options for a deployment that is not there.
    #[error("Deployment '{name}' does not exist. Available: {known:?}")]
    Unknown {
        /// The name in the configuration.
        name: String,
        /// Those that are there.
        known: Vec<String>,
    },
}

impl ApplicationSpec {
    /// What the controller is asked to run for an application of code: what the program says of
    /// itself, with options of the configuration laid over it. `http_request_timeout_s` is the
    /// file's. Models among its deployments are left out: see [`Self::described_models`].
    ///
    /// # Errors
    /// [`DescribedError`].
    pub fn deployments(
        &self,
        program: &DescribedProgram<'_>,
        overrides: &[DeploymentOverride],
        http_request_timeout_s: Option<f64>,
    ) -> Result<Vec<DeploymentConfig>, DescribedError> {
        let unusable = |what: &str| DescribedError::Unusable(what.to_owned());
        let list = program.described["deployments"].as_array();
        let list = list.filter(|list| !list.is_empty());
        let mut deployments = Vec::new();
        let list = list.ok_or_else(|| unusable("it has no deployment"))?;
        for one in list.iter().filter(|one| one.get(MODEL).is_none()) {
            deployments.push(self.deployment(program, one, overrides, http_request_timeout_s)?);
        }
        let known: Vec<&str> = list.iter().map(name_of).collect();
        if let Some(twice) = (1..known.len()).find(|&i| known[..i].contains(&known[i])) {
            return Err(unusable(&format!("two deployments are called {}", known[twice])));
        }
        match overrides.iter().find(|own| !known.contains(&own.name.as_str())) {
            Some(stray) => Err(DescribedError::Unknown {
                name: stray.name.to_string(),
                known: known.iter().map(ToString::to_string).collect(),
            }),
            None => Ok(deployments),
        }
    }

    /// The models among the deployments that a program describes: what a file says of an
    /// application that has these alone, under the same name. None where there are none.
    #[must_use]
    pub fn described_models(&self, described: &Value) -> Option<Value> {
        let list = described["deployments"].as_array().into_iter().flatten();
        let (names, models): (Vec<&str>, Vec<Value>) = list
            .filter_map(|one| {
                let (name, mut model) = (name_of(one), one.get(MODEL)?.as_object()?.clone());
                let options = model.entry("deployment_config").or_insert_with(|| json!({}));
                options.as_object_mut()?.insert("name".to_owned(), name.into());
                Some((name, Value::Object(model)))
            })
            .unzip();
        if models.is_empty() {
            return None;
        }
        let mut application = self.submitted.as_object().cloned().unwrap_or_default();
        let overrides = application.get_mut("deployments").and_then(Value::as_array_mut);
        overrides.into_iter().for_each(|all| all.retain(|own| names.contains(&name_of(own))));
        application.insert("name".to_owned(), self.name.as_str().into());
        application.insert("import_path".to_owned(), LLM_BUILDERS[0].into());
        application.insert("args".to_owned(), json!({"llm_configs": models}));
        Some(application.into())
    }

    fn deployment(
        &self,
        program: &DescribedProgram<'_>,
        described: &Value,
        overrides: &[DeploymentOverride],
        http_request_timeout_s: Option<f64>,
    ) -> Result<DeploymentConfig, DescribedError> {
        let mut options: Map<String, Value> = described.as_object().cloned().unwrap_or_default();
        let init = options.remove("init").unwrap_or_default();
        options.remove("calls");
        let code = DeploymentOverride::from_json(&Value::Object(options))
            .map_err(|problems| DescribedError::Unusable(in_words(described, &problems)))?;
        let own = overrides.iter().find(|own| own.name == code.name);
        let options =
            own.map_or_else(|| code.options.clone(), |own| own.options.over(&code.options));
        let own_paths = options.actor.as_ref().map(|actor| &actor.paths);
        let paths = own_paths.map_or_else(|| self.paths.clone(), |own| own.over(&self.paths));
        let Launch { args, working_dir } = (program.launch)(&paths);
        let mut version = vec![json!([self.code_version, program.identity, init])];
        let program = ProgramConfig {
            executable: program.executable.to_owned(),
            args,
            working_dir,
            deployment: code.name.to_string(),
            init,
        };
        let id = DeploymentId { application: self.name.clone(), deployment: code.name };
        let has_place = !program.args.is_empty() || program.working_dir.is_some();
        let place = has_place.then(|| json!([program.args, program.working_dir]));
        // Only an interpreter can wait: it is told before `role` what to interpret.
        let is_python = !program.args.is_empty();
        let warm = options.own.warm.over(&self.warm);
        let mut config = options.to_deployment(id, program, self, http_request_timeout_s);
        config.warm = if is_python { warm.to_pool() } else { WarmPool::default() };
        if !is_python {
            without_python(&config)?;
        }
        if !config.deployment_actors.is_empty() {
            version.push(json!(config.deployment_actors));
        }
        if let Some(problem) = gangs::problem(&options, &config) {
            let name = config.id.deployment.as_str();
            return Err(DescribedError::Unusable(format!("deployment {name:?}: {problem}")));
        }
        // Who belongs to whom is told when a process starts.
        version.extend(config.gang_scheduling.map(|gang| json!(gang)));
        version.extend([json!(config.env_vars), json!(config.resources)]);
        version.extend(place);
        config.code_version = code_version(&Value::Array(version));
        Ok(config)
    }
}

/// Refuses what only an application in Python has.
fn without_python(config: &DeploymentConfig) -> Result<(), DescribedError> {
    let what = match config {
        one if one.autoscaling.python_policy.is_some() => "a policy in Python is",
        one if one.request_router.is_some() => "a request router in Python is",
        one if !one.deployment_actors.is_empty() => "actors are",
        _ => return Ok(()),
    };
    let name = config.id.deployment.as_str();
    Err(DescribedError::Unusable(format!(
        "deployment {name:?}: {what} for an application in Python"
    )))
}

/// Sorts deployments as a program describes them: callers before callees, the ingress first.
pub fn sort_as_described(deployments: &mut [DeploymentConfig], described: &Value) {
    let list = described["deployments"].as_array().map_or(&[][..], Vec::as_slice);
    let place = |config: &DeploymentConfig| {
        list.iter().position(|one| name_of(one) == config.id.deployment.as_str())
    };
    deployments.sort_by_key(|config| place(config).unwrap_or(list.len()));
}

fn name_of(deployment: &Value) -> &str {
    deployment["name"].as_str().unwrap_or_default()
}

/// What is wrong with a deployment; lines have no meaning in a description.
fn in_words(described: &Value, problems: &[Problem]) -> String {
    let name = name_of(described);
    let one = |problem: &Problem| {
        let path = if problem.path.is_empty() { "" } else { &format!("{}: ", problem.path) };
        let cure = problem.cure.iter().map(|cure| format!(" ({cure})")).collect::<String>();
        format!("{path}{}{cure}", problem.message)
    };
    let lines: Vec<String> = problems.iter().map(one).collect();
    format!("deployment {name:?}: {}", lines.join("; "))
}
