//! Applications in Python: which interpreter runs them, and what one says of itself.

use crate::failure::Failure;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tyndall_config::file::{
    ApplicationKind, ApplicationSpec, AutoscalingOption, CodePaths, DeploymentOverride, Launch,
    PythonCode, RouterOption, is_archive,
};
use tyndall_config::{Environment, RoleConfig};
use tyndall_types::protocol::ApplicationPolicy;

const FALLBACK: &str = "python3";
/// What an interpreter says that lacks the package, or has one without this module.
const NO_PACKAGE: [&str; 2] = [
    "Error while finding module specification for 'tyndall._program'",
    "No module named tyndall._program",
];

/// The interpreter that runs applications: the one that is named, else that of the virtual
/// environment, else that of the one in which this program is installed, else the first `python3` on
/// the path.
pub(crate) fn interpreter(env: &Environment) -> Result<PathBuf, Failure> {
    let program = std::env::current_exe().ok();
    choose(env, program.as_deref().and_then(Path::parent))
}

fn choose(env: &Environment, own_dir: Option<&Path>) -> Result<PathBuf, Failure> {
    let var = |name: &str| env.get(name).filter(|value| !value.is_empty());
    if let Some(given) = RoleConfig::from_env(env)?.python {
        let found = if given.components().count() > 1 {
            // Not resolved: a virtual environment is known by where its link lies.
            std::path::absolute(&given).ok().filter(|path| path.is_file())
        } else {
            on_path(&given, env)
        };
        return found.ok_or_else(|| {
            Failure::new(format!("there is no Python at {}", given.display()))
                .with_cure("name another one with --python or TYNDALL_PYTHON")
        });
    }
    let python = |dir: &Path| Some(dir.join("bin/python")).filter(|path| path.is_file());
    let named = var("VIRTUAL_ENV").and_then(|dir| python(Path::new(dir)));
    // What is beside a program of the system is no more than what is on the path.
    let is_venv = |dir: &&Path| dir.join("pyvenv.cfg").is_file();
    let own = || own_dir.and_then(Path::parent).filter(is_venv).and_then(python);
    named.or_else(own).or_else(|| on_path(Path::new(FALLBACK), env)).ok_or_else(|| {
        Failure::new(format!("there is no {FALLBACK} on the PATH to run applications in Python"))
            .with_cure("install it, or name one with --python or TYNDALL_PYTHON")
    })
}

fn on_path(name: &Path, env: &Environment) -> Option<PathBuf> {
    let dirs = env.get("PATH").map(String::as_str).unwrap_or_default();
    std::env::split_paths(dirs).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// How a deployment in Python is started, with paths that mean the same from everywhere.
pub(crate) fn launch(import_path: &str, paths: &CodePaths) -> Launch {
    PythonCode::ImportPath(import_path).launch(&absolute(paths), &[])
}

fn absolute(paths: &CodePaths) -> CodePaths {
    let one = |path: &String| {
        std::path::absolute(path).map_or_else(|_| path.clone(), |path| path.display().to_string())
    };
    let modules = paths.py_modules.as_ref();
    CodePaths {
        working_dir: paths.working_dir.as_ref().map(one),
        py_modules: modules.map(|all| all.iter().map(one).collect()),
    }
}

/// Whether everything is there that the code of an application lies in.
pub(crate) fn check_paths(paths: &CodePaths) -> Result<(), Failure> {
    let missing = |field: &str, path: &str, what: &str| {
        Failure::new(format!("{field} {path} is no {what} of this machine"))
            .with_cure("mend its path under runtime_env:")
    };
    if let Some(dir) = &paths.working_dir {
        let path = Path::new(dir);
        if is_archive(dir) && !path.is_file() {
            return Err(missing("working_dir", dir, "file"));
        }
        if !is_archive(dir) && !path.is_dir() {
            return Err(missing("working_dir", dir, "directory"));
        }
    }
    let modules = paths.py_modules.iter().flatten();
    match modules.into_iter().find(|module| !Path::new(module).exists()) {
        Some(module) => Err(missing("py_modules:", module, "file or directory")),
        None => Ok(()),
    }
}

/// Asks an application in Python what it has.
pub(crate) fn describe(
    interpreter: &Path,
    import_path: &str,
    application: &ApplicationSpec,
    args: &Value,
) -> Result<Value, Failure> {
    check_paths(&application.paths)?;
    let answer = ask(interpreter, launch(import_path, &application.paths), application, args)?;
    if let Some(traceback) = answer["error"].as_str() {
        let name = &application.name;
        let traceback = traceback.trim_end();
        return Err(Failure::new(format!(
            "Deploying app '{name}' failed with exception:\n{traceback}"
        )));
    }
    Ok(answer)
}

/// The policies in Python that a file names.
fn policies(application: &ApplicationSpec) -> impl Iterator<Item = &str> {
    let of_all = match &application.autoscaling_policy {
        Some(ApplicationPolicy::Python(policy)) => Some(policy),
        Some(ApplicationPolicy::SharedBudget { .. }) | None => None,
    };
    let own = overrides(application).iter().filter_map(|one| match &one.options.autoscaling {
        Some(AutoscalingOption::On(options)) => options.python_policy.as_deref(),
        Some(AutoscalingOption::Off) | None => None,
    });
    of_all.into_iter().chain(own).map(|policy| policy.policy_function.as_str())
}

/// The request routers in Python that a file names.
fn routers(application: &ApplicationSpec) -> impl Iterator<Item = &str> {
    overrides(application).iter().filter_map(|one| match &one.options.request_router {
        Some(RouterOption::Python(router)) => Some(router.request_router_class.as_str()),
        Some(RouterOption::BuiltIn | RouterOption::PrefixCache(_)) | None => None,
    })
}

fn overrides(application: &ApplicationSpec) -> &[DeploymentOverride] {
    match &application.kind {
        ApplicationKind::Python { overrides, .. } => overrides,
        ApplicationKind::Program { .. } | ApplicationKind::Models(_) => &[],
    }
}

fn ask(
    interpreter: &Path,
    launch: Launch,
    application: &ApplicationSpec,
    args: &Value,
) -> Result<Value, Failure> {
    let shown = interpreter.display();
    let mut command = Command::new(interpreter);
    command.args(launch.args).args(["role", "describe", "--args"]).arg(args.to_string());
    command.arg("--parent-pid").arg(std::process::id().to_string());
    // What only the file names is looked for too, before anything is replaced.
    command.args(policies(application).flat_map(|path| ["--policy", path]));
    command.args(routers(application).flat_map(|path| ["--router", path]));
    command.envs(&application.env_vars).stdin(Stdio::null());
    if let Some(dir) = launch.working_dir {
        command.current_dir(dir);
    }
    let Output { status, stdout, stderr } = command.output().map_err(|error| {
        Failure::new(format!("failed to run {shown}: {error}"))
            .with_cure("name another Python with --python or TYNDALL_PYTHON")
    })?;
    let said = String::from_utf8_lossy(&stderr).trim().to_owned();
    if !status.success() && NO_PACKAGE.iter().any(|text| said.contains(text)) {
        let cause = format!("{shown} has no package tyndall");
        return Err(Failure::new(cause).with_cure(format!(
            "run `{shown} -m pip install tyndall`, or name another Python with --python"
        )));
    }
    match serde_json::from_slice(&stdout) {
        Ok(answer) => Ok(answer),
        Err(_) if !status.success() => {
            Err(Failure::new(format!("{shown} ended with {status}: {said}")))
        }
        Err(error) => Err(Failure::new(format!("{shown} answered something else: {error}"))
            .with_cure(format!("run `{shown} -m pip install --upgrade tyndall`"))),
    }
}

/// The import path of an application that a target names; none where it names a model. The module
/// may be written as a path from where the command runs, as in `examples/app:app`.
pub(crate) fn import_path(target: &str) -> Option<String> {
    let path = match target.split_once(':') {
        Some((module, attribute)) => format!("{}:{attribute}", module.replace('/', ".")),
        None => target.to_owned(),
    };
    is_import_path(&path).then_some(path)
}

/// Whether it is one, and no model: names of Hugging Face have a `/` or no dot, and what lies on the
/// disk is meant first.
fn is_import_path(target: &str) -> bool {
    let is_name = |part: &str| {
        let mut chars = part.chars();
        chars.next().is_some_and(|first| first.is_alphabetic() || first == '_')
            && chars.all(|c| c.is_alphanumeric() || c == '_')
    };
    let is_dotted = |text: &str| text.split('.').all(is_name);
    let is_file_name = ["yaml", "yml", "json"].iter().any(|end| {
        target.rsplit_once('.').is_some_and(|(_, extension)| extension.eq_ignore_ascii_case(end))
    });
    match target.split_once(':') {
        Some((module, attribute)) => is_dotted(module) && is_dotted(attribute),
        None => {
            target.contains('.')
                && is_dotted(target)
                && !is_file_name
                && !Path::new(target).exists()
        }
    }
}

/// What `tyndall build` asks of an application that no file describes.
pub(crate) fn describe_alone(
    import_path: &str,
    app_dir: &Path,
    env: &Environment,
) -> Result<Value, Failure> {
    let app_dir = std::path::absolute(app_dir)?.display().to_string();
    let text = json!({"applications": [
        {"import_path": import_path, "runtime_env": {"working_dir": app_dir}},
    ]});
    let file = tyndall_config::file::ConfigFile::parse(&text.to_string());
    let config = file.and_then(|file| file.typed());
    let config = config.map_err(|problem| Failure::new(problem.message))?;
    let spec = config.applications.into_iter().next();
    let spec = spec.ok_or_else(|| Failure::new(format!("{import_path} is no application")))?;
    describe(&interpreter(env)?, import_path, &spec, &json!({}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn import_paths_are_told_from_models() {
        assert_eq!(import_path("a/b_c/app:app.inner").as_deref(), Some("a.b_c.app:app.inner"));
        for bad in ["./app:app", "/a/app:app", "a//b:app", "a/b", "org/opt-1.3b"] {
            assert_eq!(import_path(bad), None, "{bad}");
        }
        for good in ["app:app", "pkg.mod:app", "pkg.mod:Outer.app", "mod.app", "_a.b", "é:f"] {
            assert!(is_import_path(good), "{good}");
        }
        for bad in [
            "demo",
            "gpt2",
            "facebook/opt-125m",
            "./app:app",
            "a:b:c",
            ":a",
            "a:",
            "a-b:c",
            "opt-1.3b",
            "serve.yaml",
            "serve.JSON",
            "C:\\x",
            "a..b",
            "a.",
            "org/m.n",
            "gemma-2.it",
            "a.1b",
        ] {
            assert!(!is_import_path(bad), "{bad}");
        }
    }

    #[test]
    fn the_interpreter_is_the_one_named_then_the_environments_then_the_programs_then_the_paths() {
        let home = tempfile::tempdir().unwrap();
        let file = |path: &str| {
            let path = home.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path
        };
        let path = home.path().join("on/path");
        let env = |more: &[(&str, &str)]| -> Environment {
            let mut env = Environment::new();
            env.insert("PATH".to_owned(), path.display().to_string());
            env.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
            env
        };
        let own_dir = home.path().join("own/bin");
        let interpreter = |env: &Environment| choose(env, Some(&own_dir));
        let told = interpreter(&env(&[])).unwrap_err();
        assert!(format!("{told:?}").contains("there is no python3 on the PATH"), "{told:?}");
        let (on_path, other) = (file("on/path/python3"), file("on/path/other"));
        assert_eq!(interpreter(&env(&[])).unwrap(), on_path);
        let venv = home.path().join("venv").display().to_string();
        assert_eq!(interpreter(&env(&[("VIRTUAL_ENV", &venv)])).unwrap(), on_path);
        let own = file("own/bin/python");
        assert_eq!(interpreter(&env(&[])).unwrap(), on_path, "it is no virtual environment");
        file("own/pyvenv.cfg");
        assert_eq!(interpreter(&env(&[])).unwrap(), own);
        assert_eq!(interpreter(&env(&[("VIRTUAL_ENV", &venv)])).unwrap(), own);
        assert_eq!(choose(&env(&[]), None).unwrap(), on_path);
        let of_venv = file("venv/bin/python");
        assert_eq!(interpreter(&env(&[("VIRTUAL_ENV", &venv)])).unwrap(), of_venv);
        let named = |name: &str| env(&[("VIRTUAL_ENV", &venv), ("TYNDALL_PYTHON", name)]);
        assert_eq!(interpreter(&named("other")).unwrap(), other);
        assert_eq!(interpreter(&named(&on_path.display().to_string())).unwrap(), on_path);
        for missing in ["/no/python", "nothing"] {
            let told = format!("{:?}", interpreter(&named(missing)).unwrap_err());
            assert!(told.contains(&format!("there is no Python at {missing}")), "{told}");
        }
    }

    #[test]
    fn what_is_not_there_is_told_before_anything_is_run() {
        let paths = |dir: Option<&str>, modules: &[&str]| CodePaths {
            working_dir: dir.map(str::to_owned),
            py_modules: Some(modules.iter().map(|one| (*one).to_owned()).collect()),
        };
        check_paths(&paths(Some("/"), &["/tmp"])).unwrap();
        check_paths(&CodePaths::default()).unwrap();
        for (paths, expected) in [
            (paths(Some("/no/such"), &[]), "working_dir /no/such is no directory"),
            (paths(Some("/no.zip"), &[]), "working_dir /no.zip is no file"),
            (paths(None, &["/no/such"]), "py_modules: /no/such is no file or directory"),
        ] {
            let told = format!("{:?}", check_paths(&paths).unwrap_err());
            assert!(told.contains(expected), "{told}");
        }
    }
}
