//! Applications in Python, as far as no Python is needed: a script takes the interpreter's place,
//! and a program in Rust the application's.

use crate::applications::{file, stdout};
use crate::programs::program;
use crate::server;
use anyhow::Result;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use tyndall_testkit::{Builder, Server, eventually};
use tyndall_types::ApplicationStatus;

/// Says of `broken:app` what a builder that raises says, of `bare:app` what an interpreter without
/// the package says, and is the program for all others. Each start is a line in `log`.
const INTERPRETER: &str = r#"#!/bin/sh
echo "$(pwd) $*" >> "HOME/log"
case "$4" in
broken:app) printf '%s' '{"error": "Traceback (most recent call last):\n  File \"broken.py\", line 1\nValueError: no; really"}'; exit 1 ;;
bare:app) echo "python: No module named tyndall._program; is it there" >&2; exit 1 ;;
esac
while [ "$1" != role ]; do shift; done
[ "$2" = describe ] && exec PROGRAM role describe --args '{}'
exec PROGRAM "$@"
"#;

struct Interpreter {
    home: tempfile::TempDir,
}

impl Interpreter {
    fn new() -> Result<Self> {
        let home = tempfile::tempdir()?;
        let script = INTERPRETER
            .replace("PROGRAM", &program("serve-echo").display().to_string())
            .replace("HOME", &home.path().display().to_string());
        let path = home.path().join("python");
        std::fs::write(&path, script)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { home })
    }

    fn path(&self) -> PathBuf {
        self.home.path().join("python")
    }

    fn server(&self) -> Builder {
        server().arg("--python", &self.path().display().to_string())
    }

    /// The starts of a role: where, and with what.
    fn starts(&self, role: &str) -> Vec<String> {
        let log = std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
        let of_role = |line: &&str| line.contains(&format!(" role {role}"));
        log.lines().filter(of_role).map(str::to_owned).collect()
    }
}

fn tyndall(args: &[&str]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_tyndall")).args(args).output()?)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn app(import_path: &str) -> Value {
    json!({"applications": [{"name": "app", "import_path": import_path}]})
}

/// What becomes of an application that cannot run.
fn failure(server: &Server) -> Result<String> {
    eventually("it fails", || {
        let app = server.application("app").ok()?;
        (app.status == ApplicationStatus::DeployFailed).then_some(app.message)
    })
}

#[test]
fn an_application_is_run_by_its_interpreter_where_its_code_lies() -> Result<()> {
    let python = Interpreter::new()?;
    let code = tempfile::tempdir()?;
    let dir = code.path().canonicalize()?;
    let dir = dir.display();
    let config = json!({"applications": [{
        "name": "echo", "import_path": "pkg.app:app", "args": {"a": "b"},
        "runtime_env": {"working_dir": dir.to_string(), "py_modules": [dir.to_string()]},
        "deployments": [{"name": "Echo", "max_ongoing_requests": 7}],
    }]});
    let server = python.server().start(file(&config)?.path)?;
    assert_eq!(server.post("/", &json!([1]))?.json(), json!([1]));
    let source = format!("{dir} -m tyndall._program --import-path pkg.app:app --py-module {dir}");
    let described = python.starts("describe");
    assert!(described[0].starts_with(&format!("{source} role describe --args {{\"a\":\"b\"}}")));
    let replicas = python.starts("replica");
    assert!(replicas[0].starts_with(&format!("{source} role replica --runtime-dir ")));
    let echo = &server.application("echo")?.deployments["Echo"];
    assert_eq!(echo.config.as_ref().map(|config| config.max_ongoing_requests), Some(7));

    // The very same again starts nothing, and other arguments start all of it.
    assert_eq!(server.deploy(&config)?.status, 200);
    let mut other = config;
    other["applications"][0]["args"]["a"] = json!("c");
    assert_eq!(server.deploy(&other)?.status, 200);
    eventually("it is started again", || (python.starts("replica").len() == 2).then_some(()))?;
    assert_eq!(python.starts("describe").len(), 2);
    Ok(())
}

#[test]
fn an_import_path_is_run_and_deployed_by_name() -> Result<()> {
    let python = Interpreter::new()?;
    let server = python.server().start("pkg.app:app")?;
    assert!(server.output().contains("Running import path: \"pkg.app:app\"."));
    assert_eq!(server.post("/", &json!(1))?.text, "1");
    let here = std::env::current_dir()?.display().to_string();
    assert!(python.starts("replica")[0].starts_with(&format!("{here} -m tyndall._program ")));

    let admin = ["--address", &server.admin];
    let output = tyndall(
        &[&["deploy", "other.app", "k=v", "--name", "default", "--working-dir", "/"], &admin[..]]
            .concat(),
    )?;
    assert!(output.status.success(), "{}", stderr(&output));
    eventually("it is described", || (python.starts("describe").len() == 2).then_some(()))?;
    let described = &python.starts("describe")[1];
    let expected =
        "/ -m tyndall._program --import-path other.app role describe --args {\"k\":\"v\"}";
    assert!(described.starts_with(expected), "{described}");

    let output = tyndall(&[&["deploy", "a:b", "k"], &admin[..]].concat())?;
    let expected = "Invalid application argument \"k\", must be of the form '<key>=<val>'.";
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    let output = tyndall(&[&["deploy", "no/such"], &admin[..]].concat())?;
    assert!(stderr(&output).contains("is no config file, no program and no import path"));
    Ok(())
}

#[test]
fn a_config_file_is_written_for_an_import_path() -> Result<()> {
    let python = Interpreter::new()?;
    let build = |target: &str| -> Result<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tyndall"));
        command.args(["build", target, "-d", "/"]).env("TYNDALL_PYTHON", python.path());
        Ok(command.output()?)
    };
    let output = build("pkg.app:app")?;
    let text = stdout(&output);
    let application = "- name: app1\n  route_prefix: /\n  import_path: 'pkg.app:app'\n  runtime_env: \
                       {}\n  args: {}\n  deployments:\n  - name: Echo\n    max_ongoing_requests: 256\n";
    assert!(text.ends_with(application), "{text}");
    assert!(python.starts("describe")[0].starts_with("/ -m tyndall._program "));
    assert!(stderr(&build("broken:app")?).contains("ValueError: no; really"));
    Ok(())
}

#[test]
fn what_the_code_raises_reaches_whoever_asks() -> Result<()> {
    let python = Interpreter::new()?;
    let traceback = "Deploying app 'app' failed with exception:\nTraceback (most recent call \
                     last):\n  File \"broken.py\", line 1\nValueError: no; really";
    let server = python.server().start(file(&app("fine:app"))?.path)?;
    assert_eq!(server.deploy(&app("broken:app"))?.status, 200);
    assert_eq!(failure(&server)?, traceback);
    assert_eq!(server.post("/", &json!(1))?.text, "1", "what ran before goes on");
    let status = stdout(&tyndall(&["status", "--address", &server.admin])?);
    assert!(status.contains("ValueError: no; really"), "{status}");
    let path = file(&app("broken:app"))?;
    let path = path.path.display().to_string();
    let output = tyndall(&["deploy", "--wait", &path, "--address", &server.admin])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&format!("application app failed to deploy: {traceback}")));
    let interpreter = python.path().display().to_string();
    let run = ["run", "broken:app", "--port", "0", "--admin-port", "0", "--python", &interpreter];
    let output = tyndall(&run)?;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("ValueError: no; really"), "{}", stderr(&output));

    // An option for a deployment that is not there.
    let mut stray = app("fine:app");
    stray["applications"][0]["deployments"] = json!([{"name": "Stray"}]);
    assert_eq!(server.deploy(&stray)?.status, 200);
    let expected = "Deployment 'Stray' does not exist. Available: [\"Echo\"]";
    eventually("it is told", || failure(&server).ok()?.starts_with(expected).then_some(()))?;
    Ok(())
}

#[test]
fn an_interpreter_that_cannot_do_it_is_told_with_its_cure() -> Result<()> {
    let python = Interpreter::new()?;
    let server = python.server().start(file(&app("fine:app"))?.path)?;
    assert_eq!(server.deploy(&app("bare:app"))?.status, 200);
    let shown = python.path().display().to_string();
    assert_eq!(
        failure(&server)?,
        format!(
            "{shown} has no package tyndall\nhelp: run `{shown} -m pip install tyndall`, or name \
             another Python with --python"
        )
    );
    let missing = ["run", "a:b", "--python", "/no/python", "--port", "0", "--admin-port", "0"];
    let output = tyndall(&missing)?;
    let said = stderr(&output);
    assert!(said.contains("there is no Python at /no/python\nhelp: name another"), "{said}");
    let elsewhere = json!({"applications": [
        {"import_path": "a:b", "runtime_env": {"working_dir": "https://example.org/code.zip"}},
    ]});
    let refused = server.deploy(&elsewhere)?;
    assert_eq!(refused.status, 400);
    let expected = "is not on this machine, and nothing is fetched\n  help: download it";
    assert!(refused.text.contains(expected), "{}", refused.text);
    let gone = json!({"applications": [
        {"name": "app", "import_path": "a:b", "runtime_env": {"working_dir": "/no/such"}},
    ]});
    assert_eq!(server.deploy(&gone)?.status, 200);
    let expected = "working_dir /no/such is no directory of this machine\nhelp: mend its path";
    eventually("it is told", || failure(&server).ok()?.starts_with(expected).then_some(()))?;
    Ok(())
}

#[test]
fn an_application_with_its_code_comes_by_the_admin_port_only() -> Result<()> {
    let python = Interpreter::new()?;
    let mut other = app("fine:app");
    other["applications"][0]["route_prefix"] = json!("/other");
    let server = python.server().start(file(&other)?.path)?;
    let described = json!({"ingress": "Echo", "deployments": [
        {"name": "Echo", "init": {"args": {}, "init": null}, "calls": []},
    ]});
    let body = json!({
        "application": {"route_prefix": "/mine"}, "described": described,
        "python": python.path(), "code": "b25l",
    });
    let put = |url: &str| -> Result<u16> {
        let url = format!("{url}/api/tyndall/applications/mine");
        let output = Command::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "PUT", &url])
            .args(["-d", &body.to_string()])
            .output()?;
        Ok(stdout(&output).parse()?)
    };
    assert!([404, 405].contains(&put(&server.url)?), "the clients' port takes no code");
    assert!(server.application("mine").is_err());
    assert_eq!(put(&server.admin)?, 200);
    eventually("it runs", || {
        let mine = server.application("mine").ok()?;
        (mine.status == ApplicationStatus::Running && mine.source == "imperative").then_some(())
    })?;
    assert_eq!(server.post("/mine", &json!(2))?.text, "2");
    assert_eq!(server.post("/other", &json!(1))?.text, "1", "it stays");
    let started = python.starts("replica").pop().unwrap_or_default();
    let code = started.split(" --code ").nth(1).and_then(|rest| rest.split(' ').next());
    assert_eq!(std::fs::read(code.unwrap_or_default())?, b"one");
    Ok(())
}

#[test]
fn a_server_ends_with_the_program_that_owns_it() -> Result<()> {
    let mut owner = Command::new("/bin/cat").stdin(std::process::Stdio::piped()).spawn()?;
    let mut server = Command::new(env!("CARGO_BIN_EXE_tyndall"))
        .args(["start", "--foreground", "--port", "0", "--admin-port", "0"])
        .args(["--owner-pid", &owner.id().to_string()])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(
        server.stdout.take().expect("it is a pipe"),
    ));
    let (url, admin) = (lines.next().expect("a line")?, lines.next().expect("a line")?);
    let node = tyndall_testkit::get(&format!("{admin}/api/tyndall/node"))?.json();
    assert_eq!(node["url"], url);
    drop(owner.stdin.take());
    owner.wait()?;
    assert!(server.wait()?.success());
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let args = ["start", "--foreground", "--admin-port", "0", "--owner-pid", "1", "--port", &port];
    let output = tyndall(&args)?;
    assert_eq!(output.status.code(), Some(1));
    let said = stdout(&output);
    assert!(said.starts_with(&format!("error: port {port} is in use\nhelp: ")), "{said}");
    Ok(())
}
