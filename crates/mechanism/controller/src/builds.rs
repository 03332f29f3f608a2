//! Builds of applications: each is a process of its own, so that what a submission makes it read,
//! download or run cannot hold up or harm the controller.
//!
//! The process gets a config file with that one application on its standard input and answers with the
//! [`ApplicationConfig`] on its standard output, or with the reason on its standard error. A newer
//! submission of the same application ends an unfinished build.
//!
//! As many builds run at a time as the machine has processors; others wait in the order in which
//! they came. Each application has at most one build, so that their number is the bound.

use crate::code::AwaitsModels;
use crate::processes::{API_KEY_VARIABLE, TOKEN_VARIABLE};
use crate::service::Message;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tyndall_types::ApplicationName;
use tyndall_types::protocol::ApplicationConfig;

/// Longer answers are no application.
const MAX_ANSWER_BYTES: u64 = 64 << 20;
/// Downloads of models are part of a build.
const DEADLINE: Duration = Duration::from_secs(6 * 3600);

/// How applications are built.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    /// The program; without one nothing can be built.
    pub executable: Option<PathBuf>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Seconds to the begin of an answer, where an application says nothing; absent is the default.
    pub request_timeout_s: Option<f64>,
}

/// What is being built, or waits for it.
#[derive(Debug)]
pub(crate) struct Builds {
    builder: Builder,
    /// One permit for each build that may run; those who wait are served in order.
    turns: Arc<Semaphore>,
    messages: mpsc::Sender<Message>,
    running: HashMap<ApplicationName, Running>,
    num_started: u64,
}

#[derive(Debug)]
struct Running {
    number: u64,
    submitted: Value,
    code: Option<Box<AwaitsModels>>,
    task: JoinHandle<()>,
}

/// What a build was started with.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) submitted: Value,
    /// The code that goes with what is built.
    pub(crate) code: Option<Box<AwaitsModels>>,
}

impl Builds {
    pub(crate) fn new(builder: Builder, messages: mpsc::Sender<Message>) -> Self {
        let num_turns = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_turns(builder, messages, num_turns)
    }

    fn with_turns(builder: Builder, messages: mpsc::Sender<Message>, num_turns: usize) -> Self {
        let turns = Arc::new(Semaphore::new(num_turns));
        Self { builder, turns, messages, running: HashMap::new(), num_started: 0 }
    }

    /// Starts a build as soon as it is its turn; one of the same application that runs is ended.
    /// The outcome is [`Message::Built`].
    /// `shared` is what its config file says of all applications.
    pub(crate) fn start(&mut self, application: ApplicationName, begun: Begun, shared: &Value) {
        let Begun { submitted, code } = begun;
        self.cancel(&application);
        self.num_started += 1;
        let number = self.num_started;
        let (builder, messages) = (self.builder.clone(), self.messages.clone());
        let mut file = shared.as_object().cloned().unwrap_or_default();
        file.insert("applications".to_owned(), json!([submitted]));
        let (name, input) = (application.clone(), Value::from(file).to_string());
        let turns = self.turns.clone();
        let task = tokio::spawn(async move {
            let turn = turns.acquire().await.expect("it is never closed");
            let outcome = match tokio::time::timeout(DEADLINE, build(&builder, &input)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("it took longer than {} h", DEADLINE.as_secs() / 3600)),
            };
            drop(turn);
            // Nobody is left to hear it when the controller ends.
            drop(messages.send(Message::Built { application: name, number, outcome }).await);
        });
        self.running.insert(application, Running { number, submitted, code, task });
    }

    /// What it was started with, if this is the build that counts; it is over then.
    pub(crate) fn finish(&mut self, application: &ApplicationName, number: u64) -> Option<Begun> {
        self.running.get(application).filter(|newest| newest.number == number)?;
        let Running { submitted, code, .. } = self.running.remove(application)?;
        Some(Begun { submitted, code })
    }

    pub(crate) fn request_timeout_s(&self) -> Option<f64> {
        self.builder.request_timeout_s
    }

    /// What is being built of an application.
    pub(crate) fn submitted(&self, application: &ApplicationName) -> Option<&Value> {
        self.running.get(application).map(|running| &running.submitted)
    }

    pub(crate) fn cancel(&mut self, application: &ApplicationName) {
        if let Some(running) = self.running.remove(application) {
            // The child goes with the future that holds it.
            running.task.abort();
        }
    }
}

impl Drop for Builds {
    fn drop(&mut self) {
        self.running.values().for_each(|running| running.task.abort());
    }
}

async fn build(builder: &Builder, input: &str) -> Result<Box<ApplicationConfig>, String> {
    let executable = builder.executable.as_ref();
    let executable = executable.ok_or("this controller was started without a builder")?;
    let failed = |error: std::io::Error| format!("failed to run {}: {error}", executable.display());
    let mut child = Command::new(executable)
        .args(&builder.args)
        // Programs are run to say what they have; the node's secrets are not theirs.
        .env_remove(TOKEN_VARIABLE)
        .env_remove(API_KEY_VARIABLE)
        .arg("--parent-pid")
        .arg(std::process::id().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // One that ends early says why elsewhere.
            drop(stdin.write_all(input.as_bytes()).await);
        }
    };
    let (answer, reason, ()) = tokio::join!(read(stdout), read(stderr), write);
    let status = child.wait().await.map_err(failed)?;
    let reason = reason.trim();
    let reason = reason.strip_prefix("error: ").unwrap_or(reason);
    if !status.success() {
        let silent = format!("{} ended with {status} and said nothing", executable.display());
        return Err(if reason.is_empty() { silent } else { reason.to_owned() });
    }
    if !reason.is_empty() {
        tracing::warn!("{reason}");
    }
    let config = serde_json::from_str(&answer);
    config.map_err(|error| format!("{} answered something else: {error}", executable.display()))
}

async fn read(from: Option<impl AsyncReadExt + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // What was read until an error is all there is.
        drop(from.take(MAX_ANSWER_BYTES).read_to_end(&mut bytes).await);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes down when it begins and ends, and fails with the submission as the reason.
    const SCRIPT: &str = "read name; echo \"+$name\" >> \"$0\"; echo \"-$name\" >> \"$0\"; \
                          echo \"$name\" >&2; exit 1";

    fn name(index: usize) -> ApplicationName {
        ApplicationName::new(format!("app{index}")).unwrap()
    }

    #[tokio::test]
    async fn a_few_run_at_a_time_and_all_are_done() {
        const TURNS: usize = 2;
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("log");
        let args = ["-c", SCRIPT, &log.display().to_string()].map(str::to_owned).to_vec();
        let builder = Builder { executable: Some("/bin/sh".into()), args, ..Builder::default() };
        let (messages, mut inbox) = mpsc::channel(1);
        let mut builds = Builds::with_turns(builder, messages, TURNS);
        let begun = |submitted| Begun { submitted, code: None };
        for index in 0..8 {
            builds.start(name(index), begun(json!(index)), &Value::Null);
        }
        // The first is replaced and the last is given up before they begin.
        builds.start(name(0), begun(json!(100)), &json!({"shared": true}));
        builds.cancel(&name(7));
        let mut done = Vec::new();
        while done.len() < 7 {
            let Some(Message::Built { application, number, outcome }) = inbox.recv().await else {
                panic!("a build has an outcome");
            };
            assert!(builds.finish(&application, number).is_some());
            done.push(outcome.unwrap_err());
        }
        done.sort();
        let mut expected: Vec<String> =
            (1..7).map(|index| json!({"applications": [index]}).to_string()).collect();
        expected.push(json!({"shared": true, "applications": [100]}).to_string());
        assert_eq!(done, expected);
        assert!((0..8).all(|index| builds.submitted(&name(index)).is_none()));
        let mut num_running = 0;
        for line in std::fs::read_to_string(&log).unwrap().lines() {
            num_running = if line.starts_with('+') { num_running + 1 } else { num_running - 1 };
            assert!(num_running <= TURNS, "{line}");
        }
    }
}
