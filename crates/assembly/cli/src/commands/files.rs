//! Config files on their way to a server.

use crate::failure::Failure;
use http::Method;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tyndall_config::file::{ConfigFile, Problem, Severity};
use tyndall_transport::Client;
use tyndall_types::ApplicationStatus;
use tyndall_types::protocol::InstanceDetails;

/// Longer files are no configuration.
const MAX_FILE_BYTES: u64 = 8 << 20;
/// What people look at changes no faster.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// Whether this is a config file or a deployment program, and no model.
pub(crate) fn is_application_source(path: &Path) -> bool {
    path.is_file() && (is_config(path) || is_program(path))
}

fn is_config(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| ["yaml", "yml", "json"].contains(&extension))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0)
}

/// The text to submit and what it says; a program is a file of one application.
pub(crate) fn read(path: &Path) -> Result<(String, ConfigFile), Failure> {
    read_with(path, &BTreeMap::new(), None)
}

/// The same, with arguments and a name for the application of a program.
pub(crate) fn read_with(
    path: &Path,
    args: &BTreeMap<String, String>,
    name: Option<&str>,
) -> Result<(String, ConfigFile), Failure> {
    if is_config(path) {
        if !args.is_empty() {
            let cause = "arguments go with a program, and this is a config file";
            return Err(Failure::new(cause).with_cure("write them under args: in the file"));
        }
        return read_config(path);
    }
    let program = path.canonicalize()?;
    let mut application = json!({"program": program});
    if let Some(name) = name {
        application["name"] = name.into();
    }
    if !args.is_empty() {
        application["args"] = json!(args);
    }
    let text = json!({"applications": [application]}).to_string();
    let file = checked(path, ConfigFile::parse(&text))?;
    Ok((text, file))
}

fn read_config(path: &Path) -> Result<(String, ConfigFile), Failure> {
    let text = text(path)?;
    let file = checked(path, parse(path, &text))?;
    // Files that it names are put into what is sent: the server need not see them. Paths are its
    // own, so they are made absolute.
    let submitted = file.typed().map_err(|problem| Failure::new(line(path, &problem)))?;
    let base = path.canonicalize()?.parent().map(Path::to_owned).unwrap_or_default();
    let applications: Vec<_> = submitted
        .applications
        .iter()
        .map(|application| absolute(application.submitted.clone(), &base))
        .collect();
    let mut document = submitted.shared;
    document["applications"] = applications.into();
    if let Some(capacity) = submitted.target_capacity {
        document["target_capacity"] = capacity.into();
    }
    Ok((document.to_string(), file))
}

/// Paths of programs and models that start with `.` mean the file's own folder.
fn absolute(mut application: serde_json::Value, base: &Path) -> serde_json::Value {
    let fix = |value: &mut serde_json::Value| {
        if let Some(text) = value.as_str().filter(|text| text.starts_with('.')) {
            *value = base.join(text).display().to_string().into();
        }
    };
    for key in ["program", "model"] {
        application.get_mut(key).into_iter().for_each(fix);
    }
    let in_model = |model: &mut serde_json::Value| {
        model.pointer_mut("/model_loading_config/model_source").into_iter().for_each(fix);
    };
    application.get_mut("model").into_iter().for_each(in_model);
    let configs = application.pointer_mut("/args/llm_configs");
    let configs = configs.and_then(serde_json::Value::as_array_mut);
    configs.into_iter().flatten().for_each(in_model);
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
                    failed.push(format!("application {name} failed to deploy: {}", app.message));
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
