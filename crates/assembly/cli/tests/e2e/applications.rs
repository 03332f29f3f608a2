//! Applications of config files.

use crate::{demo_copy, server};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Output};
use tyndall_testkit::{Server, Signal, eventually, kill};
use tyndall_types::ApplicationStatus;

/// A config file in a folder of its own.
pub(crate) struct File {
    _home: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

pub(crate) fn file(config: &Value) -> Result<File> {
    let home = tempfile::tempdir()?;
    let path = home.path().join("serve.json");
    std::fs::write(&path, config.to_string())?;
    Ok(File { _home: home, path })
}

fn tyndall(server: &Server, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tyndall"));
    Ok(command.args(args).args(["--address", &server.admin]).output()?)
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Ray's spelling, with a model that is always there and one that sleeps.
fn two_applications() -> Value {
    json!({"applications": [
        {
            "name": "chat", "route_prefix": "/",
            "import_path": "ray.serve.llm:build_openai_app",
            "args": {"llm_configs": [{
                "model_loading_config": {"model_id": "org/small", "model_source": "demo"},
                "deployment_config": {"autoscaling_config": {"min_replicas": 0}},
            }]},
        },
        {
            "name": "second", "route_prefix": "/second", "model": "demo",
            "deployment_config": {"name": "mine", "num_replicas": 1},
        },
    ]})
}

fn chat(server: &Server, path: &str, model: &str) -> Result<u16> {
    let body = json!({
        "model": model, "max_tokens": 3, "messages": [{"role": "user", "content": "Hello"}],
    });
    Ok(server.post(path, &body)?.status)
}

#[test]
fn a_file_of_ray_serve_is_run_as_it_is() -> Result<()> {
    let file = file(&two_applications())?;
    let server = server().start(&file.path)?;
    assert_eq!(chat(&server, "/v1/chat/completions", "org/small")?, 200);
    assert_eq!(chat(&server, "/second/v1/chat/completions", "demo")?, 200);
    assert_eq!(chat(&server, "/v1/chat/completions", "demo")?, 404, "it is another application's");
    assert_eq!(server.get("/-/routes")?.json(), json!({"/": "chat", "/second": "second"}));
    let ray = server.admin_get("/api/serve/applications/")?.json();
    let deployment = &ray["applications"]["chat"]["deployments"]["LLMServer:org--small"];
    assert_eq!(deployment["status"], "HEALTHY");
    assert_eq!(deployment["replicas"][0]["state"], "RUNNING");
    assert_eq!(ray["applications"]["second"]["deployed_app_config"]["model"], "demo");
    let status = stdout(&tyndall(&server, &["status"])?);
    assert!(status.contains("chat#LLMServer:org--small") && status.contains("second#mine"));
    let yaml = stdout(&tyndall(&server, &["status", "--yaml"])?);
    assert!(yaml.contains("applications:\n  chat:\n    status: RUNNING\n"), "{yaml}");
    let config = stdout(&tyndall(&server, &["config", "-n", "second"])?);
    assert!(config.starts_with("name: second\nroute_prefix: /second\nmodel: demo\n"), "{config}");
    let events = stdout(&tyndall(&server, &["events", "chat"])?);
    assert!(events.contains("chat deployed: version 1") && events.contains("woke"), "{events}");
    Ok(())
}

#[test]
fn called_as_serve_it_answers_as_that_does() -> Result<()> {
    let server = server().start(file(&two_applications())?.path)?;
    let home = tempfile::tempdir()?;
    let serve = home.path().join("serve");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tyndall"), &serve)?;
    let ask = |args: &[&str]| -> Result<Output> {
        Ok(Command::new(&serve).args(args).env("RAY_DASHBOARD_ADDRESS", &server.admin).output()?)
    };
    let status = stdout(&ask(&["status"])?);
    assert!(status.starts_with("proxies:\n  proxy-0: HEALTHY\n\napplications:\n"), "{status}");
    let one = stdout(&ask(&["status", "-n", "chat"])?);
    assert!(one.starts_with("status: RUNNING\n\nmessage: ''\n"), "{one}");
    let health = stdout(&ask(&["controller-health"])?);
    assert!(health.starts_with("timestamp: ") && health.contains("loop_duration_s:\n"), "{health}");
    assert!(ask(&["shutdown", "-y"])?.status.success());
    Ok(())
}

#[test]
fn a_deploy_replaces_the_file_before_and_leaves_others_alone() -> Result<()> {
    let server = server().start("demo")?;
    let first = json!({"applications": [
        {"name": "a", "route_prefix": "/a", "model": "demo"},
        {"name": "b", "route_prefix": "/b", "model": "demo"},
    ]});
    let answer = server.deploy(&first)?;
    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
    let names = |server: &Server| -> Option<Vec<String>> {
        let all = server.status().ok()?.applications;
        let is_done = all.values().all(|app| app.status == ApplicationStatus::Running);
        is_done.then(|| all.into_keys().collect())
    };
    eventually("both run", || (names(&server)?.len() == 3).then_some(()))?;
    let before = server.application("a")?.deployments;
    let pids = |of: &std::collections::BTreeMap<String, _>| -> Vec<Option<u32>> {
        of.values()
            .flat_map(|d: &tyndall_types::protocol::DeploymentDetails| &d.replicas)
            .map(|replica| replica.pid)
            .collect()
    };
    let second = json!({"applications": [
        {"name": "a", "route_prefix": "/a", "model": "demo"},
        {"name": "c", "route_prefix": "/c", "model": "demo"},
    ]});
    assert_eq!(server.deploy(&second)?.status, 200);
    eventually("c has come and b has gone", || {
        (names(&server)? == ["a", "c", "demo"]).then_some(())
    })?;
    assert_eq!(
        pids(&server.application("a")?.deployments),
        pids(&before),
        "the same is left alone"
    );
    let clash = json!({"applications": [{"name": "x", "route_prefix": "/", "model": "demo"}]});
    let refused = server.deploy(&clash)?;
    assert_eq!(refused.status, 400);
    assert!(refused.text.contains("application demo is mounted at / already"), "{}", refused.text);
    let bad = json!({"applications": [{"name": "x", "model": "demo", "deployment_config": {
        "autoscaling_config": {"min_replicas": 3, "max_replicas": 2}}}]});
    let refused = server.deploy(&bad)?;
    assert_eq!(refused.status, 400, "{}", refused.text);
    assert!(refused.text.contains("min_replicas is 3, more than max_replicas, 2"));
    assert_eq!(names(&server).context("all run")?, ["a", "c", "demo"], "nothing was changed");
    let deleted = tyndall(&server, &["delete", "c"])?;
    assert!(deleted.status.success());
    eventually("c is gone", || (names(&server)? == ["a", "demo"]).then_some(()))?;
    Ok(())
}

#[test]
fn what_was_deployed_survives_the_controller_and_the_server() -> Result<()> {
    let state = tempfile::tempdir()?;
    let state_dir = state.path().display().to_string();
    let config = json!({"applications": [
        {"name": "a", "route_prefix": "/", "model": "demo", "deployment_config": {"num_replicas": 1}},
    ]});
    let source = file(&config)?;
    let mut first = server().arg("--state-dir", &state_dir).start(&source.path)?;
    let replica = first.pids_of("replica");
    let controller = first.pids_of("controller");
    kill(controller[0], Signal::KILL);
    eventually("another controller has found the replica", || {
        let app = first.application("a").ok()?;
        let found = app.deployments.values().flat_map(|d| &d.replicas).filter_map(|r| r.pid);
        (app.status == ApplicationStatus::Running && found.eq(replica.iter().copied()))
            .then_some(())
    })?;
    assert_eq!(first.application("a")?.version, 1);
    let started = tyndall_testkit::descendants(first.pid());
    first.signal(Signal::TERM);
    first.wait(&started)?;
    // An empty file would delete it; a server that is only started brings it back.
    let second = server().arg("--state-dir", &state_dir).start("demo")?;
    eventually("it is back", || {
        let app = second.application("a").ok()?;
        (app.status == ApplicationStatus::Running && app.source == "declarative").then_some(())
    })?;
    Ok(())
}

#[test]
fn a_build_that_fails_leaves_what_ran() -> Result<()> {
    let (_home, copy) = demo_copy()?;
    let config = |model: &str| {
        json!({"applications": [{"name": "a", "route_prefix": "/", "model": {
            "model_loading_config": {"model_id": "m", "model_source": model},
            "deployment_config": {"num_replicas": 1},
        }}]})
    };
    let server = server().start(file(&config(&copy.display().to_string()))?.path)?;
    assert_eq!(chat(&server, "/v1/chat/completions", "m")?, 200);
    assert_eq!(server.deploy(&config("/no/such/model"))?.status, 200);
    let failed = eventually("the build fails", || {
        let app = server.application("a").ok()?;
        (app.status == ApplicationStatus::DeployFailed).then_some(app)
    })?;
    assert!(failed.message.contains("/no/such/model"), "{}", failed.message);
    assert_eq!(chat(&server, "/v1/chat/completions", "m")?, 200);
    assert_eq!(server.deploy(&config(&copy.display().to_string()))?.status, 200);
    eventually("it runs again", || {
        let app = server.application("a").ok()?;
        (app.status == ApplicationStatus::Running).then_some(())
    })?;
    Ok(())
}

/// The address of a server that ends with the test, also with one that fails.
struct Background(String);

impl Drop for Background {
    fn drop(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tyndall"));
        drop(command.args(["shutdown", "--address", &self.0]).output());
    }
}

#[test]
fn a_server_in_the_background_is_started_used_and_ended() -> Result<()> {
    let state = tempfile::tempdir()?;
    let binary = env!("CARGO_BIN_EXE_tyndall");
    let state_dir = state.path().display().to_string();
    let started = Command::new(binary)
        .args(["start", "--port", "0", "--admin-port", "0", "--state-dir", &state_dir])
        .output()?;
    let said = stdout(&started);
    assert!(started.status.success(), "{said}{}", String::from_utf8_lossy(&started.stderr));
    let url = |mark: &str| -> Result<String> {
        let rest = said.split(mark).nth(1).context("no URL")?;
        let end = rest.find([' ', ')', '\n']).context("no end")?;
        Ok(rest[..end].to_owned())
    };
    let (public, admin) = (url("serving at ")?, url("admin API at ")?);
    let _end = Background(admin.clone());
    let ask = |args: &[&str]| -> Result<Output> {
        Ok(Command::new(binary).args(args).args(["--address", &admin]).output()?)
    };
    let mut config = two_applications();
    config["http_options"] = json!({"request_timeout_s": 77});
    let source = file(&config)?;
    let deployed = ask(&["deploy", &source.path.display().to_string(), "--wait"])?;
    let told = stdout(&deployed);
    assert!(deployed.status.success(), "{told}");
    assert!(told.starts_with("Sent deploy request successfully.\n"), "{told}");
    assert!(told.contains("application chat is RUNNING"), "{told}");
    let details: Value = serde_json::from_slice(&ask(&["status", "--json"])?.stdout)?;
    let chat = &details["applications"]["chat"]["deployments"]["LLMServer:org--small"];
    assert_eq!(chat["config"]["request_timeout_s"], 77.0, "{chat}");
    let routes = tyndall_testkit::get(&format!("{public}/-/routes"))?;
    assert_eq!(routes.json(), json!({"/": "chat", "/second": "second"}));
    assert!(stdout(&ask(&["logs"])?).contains("serving at"), "its log begins with where it is");
    let again = Command::new(binary)
        .args(["start", "--port", "0", "--admin-port", "0", "--state-dir", &state_dir])
        .output()?;
    assert!(!again.status.success(), "two servers cannot have one state");
    assert!(ask(&["shutdown"])?.status.success());
    eventually("it is gone", || {
        ask(&["status"]).ok().filter(|output| !output.status.success()).map(|_| ())
    })?;
    Ok(())
}
