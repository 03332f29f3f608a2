//! The server under test: its config file, its processes, its life and death.

use super::client::REQUEST_TIMEOUT;
use super::outcome::App;
use crate::Context;
use crate::error::BenchError;
use crate::loading::Found;
use crate::processes::{family, is_alive, marked, of_role};
use crate::scratch::Scratch;
use crate::server::{APPLICATIONS, Launch, SUBMISSIONS, Server};
use crate::url::Url;
use http::Method;
use serde_json::{Value, json};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tyndall_transport::Client;
use tyndall_types::protocol::{ApplicationDetails, InstanceDetails};
use tyndall_types::{ApplicationStatus, DeploymentStatus, ReplicaState};

/// Replicas of the application that is always there, when nobody says otherwise.
const REPLICAS: u32 = 2;
/// How long anything that must become true may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long the server may take to come to rest: a version that cannot start is tried again and
/// again, with longer and longer pauses, before it is rolled back.
const REST: Duration = Duration::from_secs(180);
/// Between two looks at it.
const POLL: Duration = Duration::from_millis(20);
/// How long the admin API may take for one answer.
const ANSWER: Duration = Duration::from_secs(15);

/// A server of the binary under test on two applications.
#[derive(Debug)]
pub(super) struct Node<'a> {
    runtime: &'a Runtime,
    launch: Launch,
    server: Server,
    /// Good copies of the model; all but the first are updates of it.
    good: [PathBuf; 2],
    /// One that can be planned and cannot start.
    bad: PathBuf,
    /// Which of the good ones is wanted.
    which: usize,
    /// In the environment of every process of the server.
    mark: String,
    /// Lines that servers said which were killed since.
    said: Vec<String>,
    /// Starts that met what was left of the server before.
    pub(super) num_failed_starts: u32,
    scratch: Scratch,
}

impl<'a> Node<'a> {
    pub(super) fn start(runtime: &'a Runtime, context: &Context) -> Result<Self, BenchError> {
        let scratch = Scratch::new(context)?;
        let demo = Found::target("demo", context)?.dir;
        let good = [scratch.copy(&demo, "model-a")?, scratch.copy(&demo, "model-b")?];
        let bad = scratch.copy(&demo, "model-bad")?;
        scratch.write("model-bad/tokenizer.json", "no tokenizer")?;
        let base = scratch.path().join("run");
        std::fs::create_dir(&base)
            .map_err(|error| BenchError::of("failed to create a directory", &error))?;
        let file = scratch.write("serve.json", &config(&good[0], &good[0]).to_string())?;
        let state = scratch.path().join("state").display().to_string();
        let mut launch = Launch {
            executable: context.executable.clone(),
            target: file.display().to_string(),
            arguments: vec!["--state-dir".to_owned(), state],
            ports: (0, 0),
            runtime_base: Some(base.clone()),
        };
        let server = Server::launch(&launch)?;
        launch.ports = (server.url.port(), server.admin_url.port());
        let mark = base.display().to_string();
        Ok(Self {
            runtime,
            launch,
            server,
            good,
            bad,
            which: 0,
            mark,
            said: Vec::new(),
            num_failed_starts: 0,
            scratch,
        })
    }

    pub(super) fn url(&self) -> &Url {
        &self.server.url
    }

    /// The live processes of a role.
    pub(super) fn pids_of(&self, role: &str) -> Vec<u32> {
        of_role(self.server.pid(), role)
    }

    /// What the admin API says of an application.
    pub(super) fn application(&self, app: App) -> Option<ApplicationDetails> {
        let asked = self.server.admin().get(APPLICATIONS);
        let mut details: InstanceDetails = self.within_answer(asked)?.ok()?;
        details.applications.remove(app.name())
    }

    /// Waits for something that the admin API says of an application.
    fn until<T>(
        &self,
        app: App,
        within: Duration,
        find: impl Fn(ApplicationDetails) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(found) = self.application(app).and_then(&find) {
                return Some(found);
            }
            if Instant::now() > deadline {
                return None;
            }
            self.pause(POLL);
        }
    }

    /// Waits until all is as it is wanted.
    pub(super) fn settle(&self) -> Option<ApplicationDetails> {
        self.until(App::Steady, REST, |app| is_settled(&app).then_some(app))
    }

    /// Waits until an application is there again.
    pub(super) fn is_back(&self, app: App) -> bool {
        self.until(app, DEADLINE, |app| is_settled(&app).then_some(())).is_some()
    }

    /// Deploys the other good version; the file holds it from now on.
    pub(super) fn update(&mut self) -> Result<(), BenchError> {
        self.which = 1 - self.which;
        self.scratch.write("serve.json", &self.wanted().to_string())?;
        self.submit(&self.wanted())
    }

    /// Deploys a version that cannot start.
    pub(super) fn update_badly(&self) -> Result<(), BenchError> {
        self.submit(&config(&self.bad, &self.good[0]))
    }

    /// Deploys what the file holds.
    pub(super) fn submit_again(&self) -> Result<(), BenchError> {
        self.submit(&self.wanted())
    }

    pub(super) fn delete(&self, app: App) -> Result<(), BenchError> {
        let path = format!("{APPLICATIONS}{}", app.name());
        self.admin("delete", |client| {
            let path = path.clone();
            async move { client.tell(Method::DELETE, &path, &()).await }
        })
    }

    pub(super) fn scale(&self, replicas: u32) -> Result<(), BenchError> {
        let path = "/api/v1/applications/steady/deployments/LLMServer:steady/scale";
        let body = json!({"target_num_replicas": replicas});
        self.admin("scale", |client| {
            let body = body.clone();
            async move { client.tell(Method::POST, path, &body).await }
        })
    }

    /// Kills the supervisor and starts it again on the same ports and state. Returns the processes
    /// that outlived it until then.
    pub(super) fn kill_and_start(&mut self) -> Result<usize, BenchError> {
        let before = family(self.server.pid());
        self.said.extend(self.server.lines());
        self.server.kill();
        let deadline = Instant::now() + DEADLINE;
        loop {
            match Server::launch(&self.launch) {
                Ok(server) => {
                    self.server = server;
                    break;
                }
                // The last processes of the one before may still hold the ports or the state.
                Err(_) if Instant::now() < deadline => self.num_failed_starts += 1,
                Err(error) => return Err(error),
            }
            self.pause(POLL);
        }
        let now = family(self.server.pid());
        Ok(before.iter().filter(|pid| is_alive(**pid) && !now.contains(pid)).count())
    }

    /// Ends the server and returns what is left of it.
    pub(super) fn end(self) -> (usize, Vec<String>) {
        let Self { server, mark, mut said, scratch, .. } = self;
        let lines = server.end();
        said.extend(lines);
        let left = marked(&mark).len();
        drop(scratch);
        (left, said)
    }

    pub(super) fn pause(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    fn wanted(&self) -> Value {
        config(&self.good[self.which], &self.good[0])
    }

    fn submit(&self, config: &Value) -> Result<(), BenchError> {
        let text = config.to_string();
        self.admin("deploy", |client| {
            let text = text.clone();
            async move { client.tell_text(Method::PUT, SUBMISSIONS, text).await }
        })
    }

    /// Asks the admin API for something that may be asked twice, until it is done.
    fn admin<F, T, E: std::error::Error>(
        &self,
        what: &str,
        ask: impl Fn(Client) -> F,
    ) -> Result<T, BenchError>
    where
        F: Future<Output = Result<T, E>>,
    {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.within_answer(ask(self.server.admin().clone())) {
                Some(Ok(done)) => return Ok(done),
                Some(Err(error)) if Instant::now() > deadline => {
                    return Err(BenchError::of(&format!("failed to {what}"), &error));
                }
                None if Instant::now() > deadline => {
                    return Err(BenchError::new(format!("failed to {what}: no answer")));
                }
                // The controller may have been killed a moment ago.
                Some(Err(_)) | None => self.pause(POLL),
            }
        }
    }

    fn within_answer<T>(&self, asked: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(async { tokio::time::timeout(ANSWER, asked).await.ok() })
    }
}

/// Everything runs that shall, and nothing else.
pub(super) fn is_settled(app: &ApplicationDetails) -> bool {
    app.status == ApplicationStatus::Running
        && app.deployments.values().all(|deployment| {
            let mut replicas = deployment.replicas.iter();
            deployment.status == DeploymentStatus::Healthy
                && deployment.replicas.len() == deployment.target_num_replicas as usize
                && replicas.all(|replica| replica.state == ReplicaState::Running)
        })
}

/// The processes of an application's replicas that run.
pub(super) fn running(app: &ApplicationDetails) -> Vec<u32> {
    let replicas = app.deployments.values().flat_map(|deployment| &deployment.replicas);
    replicas.filter(|r| r.state == ReplicaState::Running).filter_map(|r| r.pid).collect()
}

fn config(steady: &Path, sleepy: &Path) -> Value {
    let model = |app: App, source: &Path, deployment: Value| {
        json!({
            "model_loading_config": {"model_id": app.name(), "model_source": source},
            "engine_kwargs": {"max_model_len": 512},
            "deployment_config": deployment,
        })
    };
    let idle = json!({"autoscaling_config": {
        "min_replicas": 0, "max_replicas": 1, "downscale_to_zero_delay_s": 0.3,
    }});
    json!({
        "http_options": {"request_timeout_s": REQUEST_TIMEOUT.as_secs()},
        "applications": [
            {
                "name": App::Steady.name(), "route_prefix": "/steady",
                "external_scaler_enabled": true,
                "model": model(App::Steady, steady, json!({"num_replicas": REPLICAS})),
            },
            {
                "name": App::Sleepy.name(), "route_prefix": "/sleepy",
                "model": model(App::Sleepy, sleepy, idle),
            },
        ],
    })
}
