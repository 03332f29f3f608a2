//! `runtime_env` on the command line, by the flags of Ray's `serve`.

use crate::args::ApplicationArgs;
use crate::commands::files;
use crate::failure::Failure;
use serde_json::{Map, Value, json};
use std::path::Path;
use tyndall_config::Environment;
use tyndall_config::file::value;

const IMPORT_VARIABLE: &str = "PYTHONPATH";

/// What the flags say, below what a file says of an application itself.
#[derive(Debug)]
pub(crate) struct RuntimeEnv {
    given: Map<String, Value>,
    /// Where applications in Python are found.
    app_dir: String,
    /// What they find beside it, where another directory is to be their working directory.
    import_path: Option<String>,
}

impl RuntimeEnv {
    pub(crate) fn new(options: &ApplicationArgs, env: &Environment) -> Result<Self, Failure> {
        let mut given = given(options)?;
        let here = std::env::current_dir()?;
        if let Some(dir) = &options.working_dir {
            given["working_dir"] = dir.as_str().into();
        }
        absolute(&mut given, &here);
        let app_dir = options.app_dir.as_deref().unwrap_or(Path::new("."));
        let app_dir = std::path::absolute(here.join(app_dir))?.display().to_string();
        let import_path = options.app_dir.is_some().then(|| {
            let own = given.pointer(&format!("/env_vars/{IMPORT_VARIABLE}"));
            let inherited = env.get(IMPORT_VARIABLE).map(String::as_str);
            match own.and_then(Value::as_str).or(inherited).filter(|paths| !paths.is_empty()) {
                Some(paths) => format!("{app_dir}:{paths}"),
                None => app_dir.clone(),
            }
        });
        let given = given.as_object().cloned().unwrap_or_default();
        Ok(Self { given, app_dir, import_path })
    }

    /// What an application has itself wins, and variables are joined.
    pub(crate) fn add_to(&self, application: &mut Value, is_python: bool) {
        let mut env = self.given.clone();
        let own = application.get("runtime_env").and_then(Value::as_object).cloned();
        let is_bare = own.is_none() && env.is_empty();
        for (key, value) in own.unwrap_or_default() {
            match (env.get_mut(&key).and_then(Value::as_object_mut), &value) {
                (Some(below), Value::Object(vars)) if key == "env_vars" => {
                    below.extend(vars.clone());
                }
                _ => drop(env.insert(key, value)),
            }
        }
        if is_python {
            match (env.get("working_dir"), &self.import_path) {
                (None | Some(Value::Null), _) => {
                    env.insert("working_dir".to_owned(), self.app_dir.as_str().into());
                }
                (Some(_), Some(paths)) => {
                    let vars = env.entry("env_vars").or_insert_with(|| json!({}));
                    vars[IMPORT_VARIABLE] = paths.as_str().into();
                }
                (Some(_), None) => {}
            }
        } else if is_bare {
            return;
        }
        application["runtime_env"] = env.into();
    }
}

fn given(options: &ApplicationArgs) -> Result<Value, Failure> {
    let (from, text) = match (&options.runtime_env, &options.runtime_env_json) {
        (Some(path), _) => ("--runtime-env", files::text(path)?),
        (None, Some(text)) => ("--runtime-env-json", text.clone()),
        (None, None) => return Ok(json!({})),
    };
    let failed = |why: String| {
        Failure::new(format!("{from} cannot be used: {why}"))
            .with_cure("write a map, such as {\"env_vars\": {\"NAME\": \"value\"}}")
    };
    let given = value(&text).map_err(|problem| failed(problem.to_string()))?;
    match given {
        Value::Null => Ok(json!({})),
        Value::Object(_) => Ok(given),
        other => Err(failed(format!("it is {other}, which is not a map"))),
    }
}

/// Makes what lies on this machine mean the same from everywhere: relative paths are those of
/// `base`.
pub(crate) fn absolute(env: &mut Value, base: &Path) {
    let fix = |path: &mut Value| {
        if let Some(text) = path.as_str().filter(|text| !text.contains("://")) {
            *path = base.join(text).display().to_string().into();
        }
    };
    env.get_mut("working_dir").into_iter().for_each(fix);
    let modules = env.get_mut("py_modules").and_then(Value::as_array_mut);
    modules.into_iter().flatten().for_each(fix);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(json: &str) -> ApplicationArgs {
        ApplicationArgs { runtime_env_json: Some(json.to_owned()), ..ApplicationArgs::default() }
    }

    #[test]
    fn what_an_application_says_itself_wins() {
        let flags = flags(r#"{"env_vars": {"A": "flag", "B": "flag"}, "working_dir": "/flag"}"#);
        let env = RuntimeEnv::new(&flags, &Environment::new()).unwrap();
        let mut own = json!({"runtime_env": {"env_vars": {"B": "own"}, "pip": ["x"]}});
        env.add_to(&mut own, true);
        assert_eq!(
            own["runtime_env"],
            json!({"env_vars": {"A": "flag", "B": "own"}, "pip": ["x"], "working_dir": "/flag"})
        );
        let mut placed = json!({"runtime_env": {"working_dir": "/own"}});
        env.add_to(&mut placed, false);
        assert_eq!(placed["runtime_env"]["working_dir"], "/own");
        let mut bare = json!({});
        let none = RuntimeEnv::new(&ApplicationArgs::default(), &Environment::new()).unwrap();
        none.add_to(&mut bare, false);
        assert_eq!(bare, json!({}));
    }

    #[test]
    fn where_an_application_is_found_goes_before_other_paths() {
        let mut flags = flags(r#"{"working_dir": "/w"}"#);
        flags.app_dir = Some("/code".into());
        let env: Environment = [("PYTHONPATH".to_owned(), "/before".to_owned())].into();
        let mut application = json!({});
        RuntimeEnv::new(&flags, &env).unwrap().add_to(&mut application, true);
        assert_eq!(application["runtime_env"]["env_vars"]["PYTHONPATH"], "/code:/before");
        flags.runtime_env_json = None;
        let mut application = json!({});
        RuntimeEnv::new(&flags, &env).unwrap().add_to(&mut application, true);
        assert_eq!(application["runtime_env"], json!({"working_dir": "/code"}));
    }

    #[test]
    fn what_is_no_map_is_refused() {
        for bad in ["[1]", "{", "text"] {
            let told = format!("{:?}", RuntimeEnv::new(&flags(bad), &Environment::new()));
            assert!(told.contains("--runtime-env-json cannot be used: "), "{told}");
        }
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("env.yaml");
        std::fs::write(&path, "env_vars:\n  A: b\nworking_dir: rel\n").unwrap();
        let options = ApplicationArgs { runtime_env: Some(path), ..ApplicationArgs::default() };
        let env = RuntimeEnv::new(&options, &Environment::new()).unwrap();
        assert_eq!(env.given["env_vars"], json!({"A": "b"}));
        let here = std::env::current_dir().unwrap();
        assert_eq!(env.given["working_dir"], json!(here.join("rel")));
    }
}
