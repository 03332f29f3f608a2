//! Config files on their way to a server.

use crate::args::ApplicationArgs;
use crate::commands::python;
use crate::commands::runtime_env::{self, RuntimeEnv};
use crate::failure::Failure;
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tyndall_config::Environment;
use tyndall_config::file::{ApplicationKind, ApplicationSpec, ConfigFile, Problem, Severity};
use tyndall_transport::Client;
use tyndall_types::protocol::{ApplicationDetails, InstanceDetails};
use tyndall_types::{ApplicationStatus, DeploymentStatus};

/// Longer files are no configuration.
const MAX_FILE_BYTES: u64 = 8 << 20;
/// What people look at changes no faster.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// Whether this is a config file or a deployment program, and no model.
fn is_application_source(path: &Path) -> bool {
    path.is_file() && (is_config(path) || is_program(path))
}

fn is_config(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| ["yaml", "yml", "json"].contains(&extension))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0)
}

/// What is to be submitted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    /// A config file, a program, or the import path of an application in Python.
    pub(crate) target: &'a str,
    /// The name of the application, where the source is no file of several.
    pub(crate) name: Option<&'a str>,
    /// What the command line says of it.
    pub(crate) options: &'a ApplicationArgs,
}

impl Source<'_> {
    /// Whether there is anything of that kind.
    pub(crate) fn is_application(&self) -> bool {
        is_application_source(Path::new(self.target)) || self.is_import_path()
    }

    fn import_path(&self) -> Option<String> {
        python::import_path(self.target).filter(|_| !Path::new(self.target).exists())
    }

    pub(crate) fn is_import_path(&self) -> bool {
        self.import_path().is_some()
    }

    /// It has applications of its own, with their names, routes and arguments.
    pub(crate) fn is_config(&self) -> bool {
        !self.is_import_path() && is_config(Path::new(self.target))
    }

    /// The text to submit and what it says.
    pub(crate) fn read(&self, env: &Environment) -> Result<(String, ConfigFile), Failure> {
        let path = Path::new(self.target);
        if self.is_config() {
            return self.read_config(path, env);
        }
        let mut application = match self.import_path() {
            Some(import_path) => json!({"import_path": import_path}),
            None => json!({"program": path.canonicalize()?}),
        };
        if let Some(name) = self.name {
            application["name"] = name.into();
        }
        if let Some(route) = &self.options.route_prefix {
            application["route_prefix"] = route.as_str().into();
        }
        let args = arguments(&self.options.arguments)?;
        if !args.is_empty() {
            application["args"] = json!(args);
        }
        let settings = RuntimeEnv::new(self.options, env)?;
        settings.add_to(&mut application, self.is_import_path());
        let text = json!({"applications": [application]}).to_string();
        let file = checked(path, ConfigFile::parse(&text))?;
        Ok((text, file))
    }

    fn read_config(&self, path: &Path, env: &Environment) -> Result<(String, ConfigFile), Failure> {
        let text = text(path)?;
        let file = checked(path, parse(path, &text))?;
        // Files that it names are put into what is sent: the server need not see them. Paths are its
        // own, so they are made absolute.
        let submitted = file.typed().map_err(|problem| Failure::new(line(path, &problem)))?;
        let base = path.canonicalize()?.parent().map(Path::to_owned).unwrap_or_default();
        let settings = RuntimeEnv::new(self.options, env)?;
        let one = |spec: &ApplicationSpec| {
            let mut application = absolute(spec.submitted.clone(), &base);
            let is_python = matches!(spec.kind, ApplicationKind::Python { .. });
            settings.add_to(&mut application, is_python);
            application
        };
        let applications: Vec<_> = submitted.applications.iter().map(one).collect();
        let mut document = submitted.shared;
        document["applications"] = applications.into();
        if let Some(capacity) = submitted.target_capacity {
            document["target_capacity"] = capacity.into();
        }
        Ok((document.to_string(), file))
    }
}

/// `key=value` pairs; values stay texts, and only the first `=` splits.
fn arguments(pairs: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let pair = |pair: &String| match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err(Failure::new(format!(
            "Invalid application argument {pair:?}, must be of the form '<key>=<val>'."
        ))),
    };
    pairs.iter().map(pair).collect()
}

/// Paths of programs and models that start with `.` mean the file's own folder, and so do all of
/// `runtime_env`.
fn absolute(mut application: Value, base: &Path) -> Value {
    let fix = |value: &mut Value| {
        if let Some(text) = value.as_str().filter(|text| text.starts_with('.')) {
            *value = base.join(text).display().to_string().into();
        }
    };
    for key in ["program", "model"] {
        application.get_mut(key).into_iter().for_each(fix);
    }
    let in_model = |model: &mut Value| {
        model.pointer_mut("/model_loading_config/model_source").into_iter().for_each(fix);
    };
    application.get_mut("model").into_iter().for_each(in_model);
    let configs = application.pointer_mut("/args/llm_configs");
    let configs = configs.and_then(Value::as_array_mut);
    configs.into_iter().flatten().for_each(in_model);
    let in_env = |env: &mut Value| runtime_env::absolute(env, base);
    application.get_mut("runtime_env").into_iter().for_each(in_env);
    let deployments = application.get_mut("deployments").and_then(Value::as_array_mut);
    for deployment in deployments.into_iter().flatten() {
        deployment.pointer_mut("/ray_actor_options/runtime_env").into_iter().for_each(in_env);
    }
    application
}

/// Parses a file's text; files of models that it names lie beside it.
pub(crate) fn parse(path: &Path, text: &str) -> Result<ConfigFile, Problem> {
    let base = path.parent().map(Path::to_owned).unwrap_or_default();
    ConfigFile::parse_with(text, &mut |name| {
        let file: PathBuf = base.join(name);
        std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))
    })
}

fn checked(path: &Path, file: Result<ConfigFile, Problem>) -> Result<ConfigFile, Failure> {
    let file = file.map_err(|problem| {
        Failure::new(format!("{} cannot be used\n{}", path.display(), line(path, &problem)))
    })?;
    let is_error = |problem: &&Problem| problem.severity == Severity::Error;
    for problem in file.problems() {
        eprint_line(&line(path, problem));
    }
    if file.problems().iter().any(|problem| is_error(&problem)) {
        return Err(Failure::new(format!("{} cannot be used", path.display()))
            .with_cure("mend what is said above"));
    }
    Ok(file)
}

fn eprint_line(text: &str) {
    use std::io::Write;
    // With standard error closed, nobody wants to know.
    drop(std::io::stderr().lock().write_all(text.as_bytes()));
}

/// A file's text.
pub(crate) fn text(path: &Path) -> Result<String, Failure> {
    let failed = |why: String| Failure::new(format!("failed to read {}: {why}", path.display()));
    let mut text = String::new();
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let length = file
        .take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(error.to_string()))?;
    if length as u64 > MAX_FILE_BYTES {
        let most = MAX_FILE_BYTES >> 20;
        return Err(failed(format!("it has more than {most} MiB"))
            .with_cure("split it: a configuration of applications is some kilobytes"));
    }
    Ok(text)
}

/// `FILE:line:column: error: …`, which editors follow.
pub(crate) fn line(path: &Path, problem: &Problem) -> String {
    let text = problem.to_string();
    let file = problem.file.as_ref().map_or_else(String::new, |file| format!("{file}:"));
    let place = format!("{}:{}: ", problem.line, problem.column);
    let text = text.strip_prefix(&file).unwrap_or(&text);
    let text = text.strip_prefix(&place).unwrap_or(text);
    let severity = if problem.severity == Severity::Error { "error" } else { "warning" };
    let path = match &problem.file {
        Some(file) => path.with_file_name(file),
        None => path.to_owned(),
    };
    format!("{}:{place}{severity}: {text}\n", path.display())
}

/// Asks a server to deploy what is in the text.
pub(crate) async fn submit(client: &Client, text: String) -> Result<(), Failure> {
    let path = crate::commands::admin::RAY_APPLICATIONS;
    Ok(client.tell_text(Method::PUT, path, text).await?)
}

/// Waits until every one of these applications runs or has failed, tells each that runs, and
/// returns why the others do not.
pub(crate) async fn wait_until_deployed(
    client: &Client,
    names: &[String],
    mut tell: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<Vec<String>, Failure> {
    let mut waiting: Vec<&String> = names.iter().collect();
    let mut failed = Vec::new();
    while !waiting.is_empty() {
        let path = crate::commands::admin::APPLICATIONS;
        let details: InstanceDetails = client.get(path).await?;
        let mut still = Vec::new();
        for name in waiting {
            match details.applications.get(name) {
                Some(app) if app.status == ApplicationStatus::Running => {
                    tell(&format!("application {name} is RUNNING\n"))?;
                }
                Some(app) if app.status == ApplicationStatus::DeployFailed => {
                    failed.push(why_failed(name, app));
                }
                Some(_) => still.push(name),
                None => failed.push(format!("application {name} is gone")),
            }
        }
        waiting = still;
        if !waiting.is_empty() {
            tokio::time::sleep(LOOK_PERIOD).await;
        }
    }
    Ok(failed)
}

/// What the application says, and each of its deployments that failed.
fn why_failed(name: &str, app: &ApplicationDetails) -> String {
    let mut why = format!("application {name} failed to deploy: {}", app.message);
    for deployment in app.deployments.values() {
        let has_failed = deployment.status == DeploymentStatus::DeployFailed;
        if has_failed && !deployment.message.is_empty() {
            why += &format!("\n{}: {}", deployment.name, deployment.message);
        }
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_pairs() {
        let parse =
            |pairs: &[&str]| arguments(&pairs.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(parse(&["a=1", "b=x=y"]).unwrap()["b"], "x=y");
        for bad in ["a", "a=", "=1"] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }

    fn submitted(target: &str, name: Option<&str>, options: &ApplicationArgs) -> Value {
        let source = Source { target, name, options };
        assert!(source.is_application(), "{target}");
        let (text, file) = source.read(&Environment::new()).unwrap();
        assert!(file.is_valid());
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn an_import_path_is_a_file_of_one_application() {
        let mut options = ApplicationArgs::default();
        let here = std::env::current_dir().unwrap();
        let plain = json!({"import_path": "app:app", "runtime_env": {"working_dir": here}});
        assert_eq!(submitted("app:app", None, &options), json!({"applications": [plain]}));
        options.arguments = vec!["a=1".to_owned()];
        options.route_prefix = Some("/x".to_owned());
        options.working_dir = Some("/w".to_owned());
        options.app_dir = Some("/code".into());
        options.runtime_env_json = Some(r#"{"env_vars": {"A": "b"}}"#.to_owned());
        let full = json!({
            "import_path": "pkg.app", "name": "n", "route_prefix": "/x", "args": {"a": "1"},
            "runtime_env": {"env_vars": {"A": "b", "PYTHONPATH": "/code"}, "working_dir": "/w"},
        });
        assert_eq!(submitted("pkg.app", Some("n"), &options), json!({"applications": [full]}));
    }

    #[test]
    fn paths_of_a_file_are_those_of_its_folder() {
        let home = tempfile::tempdir().unwrap();
        let base = home.path().canonicalize().unwrap();
        let path = home.path().join("serve.yaml");
        let text = "applications:\n- name: a\n  import_path: a:b\n  route_prefix: /a\n  runtime_env: \
                    {working_dir: src, py_modules: [lib, /m, 'file:///x.zip']}\n  deployments: \
                    [{name: D, ray_actor_options: {runtime_env: {working_dir: ./own}}}]\n\
                    - {name: b, import_path: a:b}\n- {name: m, model: m, route_prefix: /m}\n";
        std::fs::write(&path, text).unwrap();
        let options = ApplicationArgs::default();
        let document = submitted(&path.display().to_string(), None, &options);
        let of = |i: usize, pointer: &str| document["applications"][i].pointer(pointer).cloned();
        assert_eq!(of(0, "/runtime_env/working_dir"), Some(json!(base.join("src"))));
        let modules = json!([base.join("lib"), "/m", "file:///x.zip"]);
        assert_eq!(of(0, "/runtime_env/py_modules"), Some(modules));
        let own = "/deployments/0/ray_actor_options/runtime_env/working_dir";
        assert_eq!(of(0, own), Some(json!(base.join("./own"))));
        let here = std::env::current_dir().unwrap();
        assert_eq!(of(1, "/runtime_env/working_dir"), Some(json!(here)));
        assert_eq!(of(2, "/runtime_env"), None);
    }
}
