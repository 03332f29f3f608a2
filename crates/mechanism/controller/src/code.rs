//! Code that came with an application instead of lying where a config file says: a pickle, kept in
//! a file under the hash of its contents for as long as an application may be started from it.
//!
//! 1. [`receive`] writes what the admin API was sent into a file of its own, away from the service.
//! 2. [`Service::deploy_code`] gives it its name and deploys; without that it goes with [`Received`].
//! 3. [`CodeFiles`] knows for each application the files of what is carried out and of the version
//!    that it would go back to. One that nothing needs any more is removed at once, or at the next
//!    start of a controller that died in between.

use crate::origins::Origin;
use crate::service::Service;
use crate::submissions::Refusal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use tyndall_config::file::{
    ApplicationKind, ApplicationSpec, ConfigFile, DescribedProgram, PythonCode, Severity,
    sort_as_described,
};
use tyndall_types::ApplicationName;
use tyndall_types::protocol::{ApplicationConfig, ApplicationSource, DeploymentConfig, Workload};

/// What says where the pickle is, among the arguments of a program.
const CODE_ARG: &str = "--code";
/// Stands for the import path that such an application has not.
const NO_IMPORT_PATH: &str = "deployed:imperatively";

/// An application with its code, as the admin API takes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CodeSubmission {
    /// Fields of an application of a config file, but for its name and what it is made of.
    #[serde(default)]
    pub(crate) application: Map<String, Value>,
    /// What `role describe` would print.
    pub(crate) described: Value,
    /// The interpreter that can read the code.
    pub(crate) python: PathBuf,
    /// Directories that it imports from beside its own.
    #[serde(default)]
    pub(crate) sys_path: Vec<String>,
    /// A pickle, in base64.
    pub(crate) code: String,
}

/// A pickle that belongs to no application yet; its file goes with it.
#[derive(Debug)]
pub(crate) struct Received {
    path: PathBuf,
    hash: String,
}

impl Drop for Received {
    fn drop(&mut self) {
        // One that has its name by now is not there any more.
        drop(std::fs::remove_file(&self.path));
    }
}

/// An application of code whose models are being built. Its pickle goes with it, unless it is
/// deployed.
#[derive(Debug)]
pub(crate) struct AwaitsModels {
    /// Without its models.
    config: ApplicationConfig,
    described: Value,
    received: Received,
    /// Where the pickle is to lie.
    file: PathBuf,
}

/// Reads what was sent and writes its pickle down. Blocks.
pub(crate) fn receive(dir: &Path, body: &[u8]) -> Result<(CodeSubmission, Received), Refusal> {
    let submission = serde_json::from_slice(body);
    let mut submission: CodeSubmission =
        submission.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    let received = keep(dir, &std::mem::take(&mut submission.code))?;
    Ok((submission, received))
}

fn keep(dir: &Path, code: &str) -> Result<Received, Refusal> {
    static RECEIVED: AtomicU64 = AtomicU64::new(0);
    let bad = |why: String| Refusal::new(StatusCode::BAD_REQUEST, why);
    let bytes = BASE64.decode(code).map_err(|error| bad(format!("code is no base64: {error}")))?;
    if bytes.is_empty() {
        return Err(bad("code is empty; send a pickle of the application".to_owned()));
    }
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let number = RECEIVED.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!("received-{}-{number}", std::process::id()));
    let received = Received { path, hash };
    write(dir, &received.path, &bytes).map_err(|error| {
        let status = match error.kind() {
            std::io::ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal::new(status, format!("failed to keep the code in {}: {error}", dir.display()))
    })?;
    Ok(received)
}

/// Nobody but this user reads it, and nobody else can write what is executed.
fn write(dir: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}

/// The files of applications that came with their code.
#[derive(Debug)]
pub(crate) struct CodeFiles {
    dir: PathBuf,
    /// The file of each version that may be started; applications without any are left out.
    versions: HashMap<ApplicationName, Vec<Kept>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    version: u64,
    file: Option<PathBuf>,
    is_proven: bool,
}

impl CodeFiles {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, versions: HashMap::new() }
    }

    /// A version is carried out. Others that never proved themselves are not gone back to.
    pub(crate) fn deployed(&mut self, version: u64, config: &ApplicationConfig, is_proven: bool) {
        let file = file_of(config);
        let mut kept = self.versions.remove(&config.name).unwrap_or_default();
        if file.is_none() && kept.is_empty() {
            return;
        }
        let (stay, mut gone): (Vec<_>, Vec<_>) = kept.drain(..).partition(|kept| kept.is_proven);
        kept = stay;
        if is_proven {
            // It is what the application would go back to.
            gone.append(&mut kept);
        }
        kept.push(Kept { version, file, is_proven });
        if kept.iter().any(|kept| kept.file.is_some()) {
            self.versions.insert(config.name.clone(), kept);
        }
        self.sweep(gone);
    }

    /// A version has proven itself: the application would go back to nothing older.
    pub(crate) fn proven(&mut self, name: &ApplicationName, version: u64) {
        let Some(kept) = self.versions.get_mut(name) else { return };
        let (stay, gone) = kept.drain(..).partition(|kept| kept.version >= version);
        *kept = stay;
        for one in kept.iter_mut().filter(|kept| kept.version == version) {
            one.is_proven = true;
        }
        if kept.iter().all(|kept| kept.file.is_none()) {
            self.versions.remove(name);
        }
        self.sweep(gone);
    }

    pub(crate) fn forget(&mut self, name: &ApplicationName) {
        let gone = self.versions.remove(name).unwrap_or_default();
        self.sweep(gone);
    }

    /// Removes all that no application needs, such as what a controller left that was killed.
    pub(crate) fn sweep_all(&self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        entries.flatten().map(|entry| entry.path()).for_each(|path| self.remove_unless_used(&path));
    }

    fn sweep(&self, gone: Vec<Kept>) {
        gone.iter().filter_map(|gone| gone.file.as_ref()).for_each(|f| self.remove_unless_used(f));
    }

    fn remove_unless_used(&self, path: &Path) {
        let mut files = self.versions.values().flatten().filter_map(|kept| kept.file.as_deref());
        if path.starts_with(&self.dir) && !files.any(|used| used == path) {
            tracing::debug!(path = %path.display(), "no application needs this code any more");
            drop(std::fs::remove_file(path));
        }
    }
}

/// The pickle of an application that came with its code.
pub(crate) fn file_of(config: &ApplicationConfig) -> Option<PathBuf> {
    config.deployments.iter().find_map(|deployment| match &deployment.workload {
        Workload::Model(_) => None,
        Workload::Program(program) => {
            let mut args = program.args.iter().skip_while(|arg| *arg != CODE_ARG);
            args.nth(1).map(PathBuf::from)
        }
    })
}

impl Service {
    /// Adds or replaces one application that brings its code; others are not touched. Every call is
    /// a new version of the code, as in Ray. Returns its number; one that has models gets it when
    /// these are built.
    pub(crate) fn deploy_code(
        &mut self,
        name: &ApplicationName,
        submission: &CodeSubmission,
        received: Received,
    ) -> Result<Option<u64>, Refusal> {
        let file = self.code.dir.join(format!("{}.pkl", received.hash));
        let mut application = submission.application.clone();
        application.insert("import_path".to_owned(), NO_IMPORT_PATH.into());
        let spec = spec(name, application)?;
        let ApplicationKind::Python { overrides, .. } = &spec.kind else {
            let why = "application says what is served; leave model and program out of it";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, why));
        };
        self.check_place(name, spec.route_prefix.as_deref(), |_| true)?;
        let program = DescribedProgram {
            executable: &submission.python,
            launch: &|paths| PythonCode::File(&file).launch(paths, &submission.sys_path),
            identity: json!([received.hash, self.clock.now().as_nanos().to_string()]),
            described: &submission.described,
        };
        let timeout_s = self.builds.request_timeout_s();
        let deployments = spec.deployments(&program, overrides, timeout_s).map_err(|error| {
            Refusal::new(StatusCode::BAD_REQUEST, format!("application {name}: {error}"))
        })?;
        let models = spec.described_models(&submission.described);
        let config = ApplicationConfig {
            name: name.clone(),
            route_prefix: spec.route_prefix,
            source: ApplicationSource::Imperative,
            external_scaler_enabled: spec.external_scaler_enabled,
            autoscaling_policy: spec.autoscaling_policy,
            submitted: Default::default(),
            deployments: deployments.into_iter().map(Into::into).collect(),
        };
        let Some(models) = models else {
            return self.deploy_received(config, &received, &file).map(Some);
        };
        let models = self::spec(name, models.as_object().cloned().unwrap_or_default())?.submitted;
        let described = submission.described.clone();
        let code = AwaitsModels { config, described, received, file };
        self.build_from(ApplicationSource::Imperative, name.clone(), models, Some(code.into()));
        Ok(None)
    }

    /// The models are built that an application of code has beside it.
    pub(crate) fn deploy_with_models(
        &mut self,
        code: AwaitsModels,
        models: ApplicationConfig,
    ) -> Result<u64, Refusal> {
        let AwaitsModels { mut config, described, received, file } = code;
        let mut deployments: Vec<DeploymentConfig> = config
            .deployments
            .iter()
            .chain(&models.deployments)
            .map(|one| (**one).clone())
            .collect();
        sort_as_described(&mut deployments, &described);
        config.deployments = deployments.into_iter().map(Into::into).collect();
        self.deploy_received(config, &received, &file)
    }

    fn deploy_received(
        &mut self,
        config: ApplicationConfig,
        received: &Received,
        file: &Path,
    ) -> Result<u64, Refusal> {
        std::fs::rename(&received.path, file).map_err(|error| {
            let why = format!("failed to keep the code in {}: {error}", file.display());
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, why)
        })?;
        self.deploy_built(config.into()).inspect_err(|_| self.code.remove_unless_used(file))
    }

    /// Refuses a place that another application has, in Ray's words, which programs look for.
    pub(crate) fn check_place(
        &self,
        name: &ApplicationName,
        prefix: Option<&str>,
        is_other: impl Fn(&Origin) -> bool,
    ) -> Result<(), Refusal> {
        let Some((prefix, other)) = self.occupant(name, prefix, is_other) else { return Ok(()) };
        let why = format!(
            "Prefix {prefix} is being used by application \"{other}\". Failed to deploy \
             application \"{name}\"."
        );
        Err(Refusal::new(StatusCode::CONFLICT, why))
    }

    /// Whether the code of a version is still there; that of a config file is nobody's to keep.
    pub(crate) fn check_code(&self, config: &ApplicationConfig) -> Result<(), Refusal> {
        match file_of(config).filter(|file| !file.is_file()) {
            None => Ok(()),
            Some(_) => Err(Refusal::new(
                StatusCode::GONE,
                format!("the code of this version of {} is not kept; deploy it again", config.name),
            )),
        }
    }
}

/// What an application of a config file would be that says this.
pub(crate) fn spec(
    name: &ApplicationName,
    given: Map<String, Value>,
) -> Result<ApplicationSpec, Refusal> {
    let bad = |why: String| Refusal::new(StatusCode::BAD_REQUEST, why);
    let mut application = Map::from_iter([("name".to_owned(), name.as_str().into())]);
    application.extend(given.into_iter().filter(|(field, _)| field != "name"));
    let text = json!({"applications": [application]}).to_string();
    let file = ConfigFile::parse(&text).map_err(|problem| bad(problem.to_string()))?;
    let errors = file.problems().iter().filter(|problem| problem.severity == Severity::Error);
    let lines: Vec<String> = errors
        .map(|problem| {
            let path = problem.path.strip_prefix("applications[0].").unwrap_or(&problem.path);
            let cure = problem.cure.iter().map(|cure| format!("\n  help: {cure}"));
            format!("application {name}: {path}: {}{}", problem.message, cure.collect::<String>())
        })
        .collect();
    if !lines.is_empty() {
        return Err(bad(lines.join("\n")));
    }
    let config = file.typed().map_err(|problem| bad(problem.to_string()))?;
    let spec = config.applications.into_iter().next();
    spec.ok_or_else(|| bad("there is no application in it".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tyndall_config::file::DeploymentOptions;
    use tyndall_types::DeploymentId;
    use tyndall_types::protocol::ProgramConfig;

    fn name(name: &str) -> ApplicationName {
        ApplicationName::new(name).unwrap()
    }

    /// An application that is made of this file.
    fn made_of(app: &str, file: Option<&Path>) -> ApplicationConfig {
        let given = json!({"import_path": NO_IMPORT_PATH});
        let spec = spec(&name(app), given.as_object().unwrap().clone()).unwrap();
        let args = file.map(|file| vec![CODE_ARG.to_owned(), file.display().to_string()]);
        let program = ProgramConfig { args: args.unwrap_or_default(), ..ProgramConfig::default() };
        let id = DeploymentId::try_from(format!("{app}#D")).unwrap();
        let config = DeploymentOptions::default().to_deployment(id, program, &spec, None);
        ApplicationConfig {
            name: name(app),
            route_prefix: None,
            source: ApplicationSource::Imperative,
            external_scaler_enabled: false,
            autoscaling_policy: None,
            submitted: Default::default(),
            deployments: vec![Arc::new(config)],
        }
    }

    #[test]
    fn code_stays_as_long_as_an_application_may_be_started_from_it() {
        let home = tempfile::tempdir().unwrap();
        let mut files = CodeFiles::new(home.path().to_owned());
        let file = |name: &str| {
            let path = home.path().join(name);
            std::fs::write(&path, name).unwrap();
            path
        };
        let left = || {
            let entries = std::fs::read_dir(home.path()).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names.join(" ")
        };
        let (one, two, three) = (file("1"), file("2"), file("3"));
        let mut deploy = |app: &str, version, file: Option<&Path>| {
            files.deployed(version, &made_of(app, file), false);
        };
        deploy("a", 1, Some(&one));
        deploy("b", 1, Some(&one));
        files.proven(&name("a"), 1);
        // The proven one is what it would go back to; the second never was.
        files.deployed(2, &made_of("a", Some(&two)), false);
        files.deployed(3, &made_of("a", Some(&three)), false);
        assert_eq!(left(), "1 3");
        files.proven(&name("a"), 3);
        assert_eq!(left(), "1 3", "the other application is made of the first");
        files.forget(&name("b"));
        assert_eq!(left(), "3");
        // A version from a config file takes its place, and then proves itself.
        files.deployed(4, &made_of("a", None), false);
        assert_eq!(left(), "3");
        files.proven(&name("a"), 4);
        assert_eq!(left(), "");
        assert!(files.versions.is_empty());
        file("strange");
        files.sweep_all();
        assert_eq!(left(), "");
    }

    #[test]
    fn what_is_received_is_private_and_goes_unless_it_is_taken() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("code");
        let received = keep(&dir, "aGVsbG8=").unwrap();
        assert_eq!(std::fs::read(&received.path).unwrap(), b"hello");
        assert!(received.hash.starts_with("2cf24dba5fb0a30e"), "{}", received.hash);
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&received.path), mode(&dir)), (0o600, 0o700));
        drop(received);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        for (bad, expected) in [("?", "code is no base64"), ("", "code is empty")] {
            let refusal = keep(&dir, bad).unwrap_err();
            assert!(refusal.reason.starts_with(expected), "{}", refusal.reason);
        }
    }
}
