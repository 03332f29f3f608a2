//! The supervisor over real processes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use http::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tyndall_cluster::{ExitSummary, StartError, Supervisor, SupervisorOptions};
use tyndall_transport::{Client, ClientError, JsonLines, ResponseBody};
use tyndall_types::protocol::{ProcessEvent, ProcessInfo, ProcessSpec, RuntimeDir, StopProcess};

const DEADLINE: Duration = Duration::from_secs(20);

fn role_child() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples/role_child")
}

struct Node {
    dir: tempfile::TempDir,
    client: Client,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let client = Client::unix(dir.path().join("supervisor.sock"));
        Self { dir, client }
    }

    fn options(&self, proxy: &[&str]) -> SupervisorOptions {
        let args = |more: &[&str]| {
            let log = self.log_path().display().to_string();
            ["--log", &log].iter().chain(more).map(ToString::to_string).collect()
        };
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        SupervisorOptions {
            executable: role_child(),
            env: [("TEST_ENV".to_owned(), "given".to_owned())].into(),
            runtime_dir: RuntimeDir(self.dir.path().to_owned()),
            state_dir: None,
            public: listen(),
            grpc: None,
            admin: listen(),
            drain: Duration::from_secs(5),
            controller_args: args(&[]),
            proxy_args: args(proxy),
        }
    }

    async fn start(proxy: &[&str]) -> (Self, Supervisor) {
        let node = Self::new();
        let supervisor = Supervisor::start(node.options(proxy)).await.unwrap();
        supervisor.controller_ready(DEADLINE).await.unwrap();
        supervisor.proxy_ready(DEADLINE).await.unwrap();
        (node, supervisor)
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The ids of all processes that came up with this name.
    fn pids(&self, name: &str) -> Vec<u32> {
        let pid = |line: &String| line.strip_prefix(name)?.trim().parse().ok();
        self.log().iter().filter_map(pid).collect()
    }

    async fn spawn(&self, id: &str, more: &[&str]) -> Result<ProcessInfo, ClientError> {
        self.spawn_as(&ProcessSpec { id: id.into(), ..self.spec("replica", more) }).await
    }

    fn spec(&self, role: &str, more: &[&str]) -> ProcessSpec {
        let log = self.log_path().display().to_string();
        let args = ["role", role, "--log", &log];
        ProcessSpec {
            args: args.iter().chain(more).map(ToString::to_string).collect(),
            env: [("NAME".to_owned(), "value".to_owned())].into(),
            ..ProcessSpec::default()
        }
    }

    async fn spawn_as(&self, spec: &ProcessSpec) -> Result<ProcessInfo, ClientError> {
        self.client.call(Method::POST, "/-/processes", spec).await
    }

    /// Starts a process that waits.
    async fn wait(&self, id: &str, more: &[&str]) -> ProcessInfo {
        let spec = ProcessSpec { id: id.into(), waits: true, ..self.spec("warm", more) };
        self.spawn_as(&spec).await.unwrap()
    }

    /// Starts a replica that is to be made of a process that waits.
    async fn take(&self, id: &str, waiting: &str) -> ProcessInfo {
        let (takes, gpus) = (Some(waiting.to_owned()), vec!["GPU-1".to_owned(), "3".to_owned()]);
        let spec = ProcessSpec { id: id.into(), takes, gpus, ..self.spec("replica", &[]) };
        self.spawn_as(&spec).await.unwrap()
    }

    async fn stop(&self, id: &str, grace_s: f64) -> Result<(), ClientError> {
        let path = format!("/-/processes/{id}/stop");
        self.client.tell(Method::POST, &path, &StopProcess { grace_s }).await
    }
}

/// Waits for something that has no event to wait on.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < DEADLINE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// True when a process is gone or only waits to be reaped by whoever adopted it.
fn is_gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

type Events = JsonLines<ProcessEvent, ResponseBody>;

async fn next(events: &mut Events) -> ProcessEvent {
    let event = tokio::time::timeout(DEADLINE, events.next()).await.expect("no event");
    event.unwrap().expect("the stream ended")
}

fn exited(id: &str, code: Option<i32>, signal: Option<i32>) -> ProcessEvent {
    ProcessEvent::Exited { id: id.into(), code, signal }
}

#[tokio::test]
async fn processes_run_where_they_are_told_to() {
    let (node, supervisor) = Node::start(&[]).await;
    let dir = node.dir.path().join("work");
    std::fs::create_dir(&dir).unwrap();
    let spec = |id: &str, dir: &Path| ProcessSpec {
        id: id.into(),
        args: ["role", "replica", "--log", "here"].map(str::to_owned).to_vec(),
        working_dir: Some(dir.to_owned()),
        ..ProcessSpec::default()
    };
    node.spawn_as(&spec("a", &dir)).await.unwrap();
    eventually("it writes into its directory", || dir.join("here").exists()).await;
    let error = node.spawn_as(&spec("b", &dir.join("gone"))).await.unwrap_err().to_string();
    assert!(error.contains("its working directory"), "{error}");
    supervisor.shutdown_trigger().shutdown();
    supervisor.run_until_shutdown().await;
}

#[tokio::test]
async fn processes_come_and_go_as_events() {
    let (node, supervisor) = Node::start(&[]).await;
    let first = node.spawn("a", &[]).await.unwrap();
    let mut events: Events = node.client.lines("/-/events").await.unwrap();
    let snapshot = ProcessEvent::Snapshot { processes: vec![first.clone()] };
    assert_eq!(next(&mut events).await, snapshot);
    assert_eq!(node.client.get::<Vec<ProcessInfo>>("/-/processes").await.unwrap().len(), 1);
    let conflict = node.spawn("a", &[]).await.unwrap_err();
    assert!(matches!(conflict, ClientError::Status { status: StatusCode::CONFLICT, .. }));

    kill(first.pid, Signal::KILL);
    assert_eq!(next(&mut events).await, exited("a", None, Some(9)));
    let second = node.spawn("b", &["--exit", "3"]).await.unwrap();
    assert_eq!(second.args.last().unwrap(), "3");
    assert_eq!(next(&mut events).await, ProcessEvent::Started { process: second });
    assert_eq!(next(&mut events).await, exited("b", Some(3), None));

    let polite = node.spawn("c", &[]).await.unwrap();
    next(&mut events).await;
    eventually("c is up", || node.pids("replica").contains(&polite.pid)).await;
    node.stop("c", 10.0).await.unwrap();
    assert_eq!(next(&mut events).await, exited("c", Some(0), None));

    let stubborn = node.spawn("d", &["--stubborn"]).await.unwrap();
    next(&mut events).await;
    eventually("d is up", || node.pids("replica").contains(&stubborn.pid)).await;
    node.stop("d", 1000.0).await.unwrap();
    eventually("d is told", || node.log().iter().filter(|l| *l == "replica told").count() == 2)
        .await;
    node.stop("d", 0.0).await.unwrap();
    assert_eq!(next(&mut events).await, exited("d", None, Some(9)));

    for id in ["d", "controller", "proxy-0"] {
        let unknown = node.stop(id, 0.0).await.unwrap_err();
        assert!(matches!(unknown, ClientError::Status { status: StatusCode::NOT_FOUND, .. }));
    }
    let garbled = node.client.tell(Method::POST, "/-/processes", &1).await.unwrap_err();
    assert!(matches!(garbled, ClientError::Status { status: StatusCode::BAD_REQUEST, .. }));
    supervisor.shutdown_trigger().shutdown();
    let summary = supervisor.run_until_shutdown().await;
    assert_eq!(summary, ExitSummary { was_forced: false, num_killed: 1 });
}

#[tokio::test]
async fn a_process_that_waits_becomes_a_replica() {
    let (node, supervisor) = Node::start(&[]).await;
    let mut events: Events = node.client.lines("/-/events").await.unwrap();
    next(&mut events).await;
    let waiting = node.wait("w", &[]).await;
    assert!(waiting.waits);
    assert_eq!(next(&mut events).await, ProcessEvent::Started { process: waiting.clone() });
    assert_eq!(next(&mut events).await, ProcessEvent::Prepared { id: "w".into() });

    let replica = node.take("a", "w").await;
    assert_eq!((replica.pid, replica.id.as_str(), replica.waits), (waiting.pid, "a", false));
    assert_eq!(replica.args, node.spec("replica", &[]).args, "as a new controller reads them");
    assert_eq!(next(&mut events).await, ProcessEvent::Started { process: replica.clone() });
    eventually("it is one", || node.pids("replica") == [waiting.pid]).await;
    let handed = r#"handed {"CUDA_VISIBLE_DEVICES": "GPU-1,3", "NAME": "value"}"#;
    assert!(node.log().contains(&handed.to_owned()));
    assert_eq!(replica.gpus, ["GPU-1", "3"]);
    let listed: Vec<ProcessInfo> = node.client.get("/-/processes").await.unwrap();
    assert_eq!(listed, std::slice::from_ref(&replica));
    let unknown = node.stop("w", 0.0).await.unwrap_err();
    assert!(matches!(unknown, ClientError::Status { status: StatusCode::NOT_FOUND, .. }));
    node.stop("a", 10.0).await.unwrap();
    assert_eq!(next(&mut events).await, exited("a", Some(0), None));
    supervisor.shutdown_trigger().shutdown();
    supervisor.run_until_shutdown().await;
}

#[tokio::test]
async fn a_replica_starts_anew_where_none_waits_that_can_become_it() {
    let (node, supervisor) = Node::start(&[]).await;
    let mut events: Events = node.client.lines("/-/events").await.unwrap();
    next(&mut events).await;
    let alone = node.take("a", "nobody").await;
    assert_eq!(next(&mut events).await, ProcessEvent::Started { process: alone.clone() });
    let other = node.take("b", "a").await;
    assert_ne!(alone.pid, other.pid, "a replica is nobody who waits");
    next(&mut events).await;

    let deaf = node.wait("deaf", &["--deaf"]).await;
    next(&mut events).await;
    next(&mut events).await;
    eventually("it hears nothing", || node.log().contains(&"deaf".to_owned())).await;
    let instead = node.take("c", "deaf").await;
    assert_ne!(deaf.pid, instead.pid);
    let mut told = vec![next(&mut events).await, next(&mut events).await];
    told.sort_by_key(|event| matches!(event, ProcessEvent::Exited { .. }));
    let started = ProcessEvent::Started { process: instead };
    assert_eq!(told, [started, exited("deaf", None, Some(9))]);

    let killed = node.wait("killed", &[]).await;
    next(&mut events).await;
    next(&mut events).await;
    kill(killed.pid, Signal::KILL);
    assert_eq!(next(&mut events).await, exited("killed", None, Some(9)));
    assert_ne!(node.take("d", "killed").await.pid, killed.pid);
    supervisor.shutdown_trigger().shutdown();
    supervisor.run_until_shutdown().await;
    for name in ["warm", "replica"] {
        assert!(node.pids(name).into_iter().all(is_gone), "{name}");
    }
}

#[tokio::test]
async fn processes_that_wait_end_with_the_node() {
    let (node, supervisor) = Node::start(&[]).await;
    let waiting = node.wait("w", &[]).await;
    eventually("it is up", || node.pids("warm") == [waiting.pid]).await;
    supervisor.shutdown_trigger().shutdown();
    let summary = supervisor.run_until_shutdown().await;
    assert_eq!(summary, ExitSummary { was_forced: false, num_killed: 0 });
    assert!(is_gone(waiting.pid));
}

#[tokio::test]
async fn roles_are_started_again_and_their_ports_stay_open() {
    let (node, supervisor) = Node::start(&[]).await;
    for (name, other) in [("controller", "proxy"), ("proxy", "controller")] {
        let [pid] = node.pids(name).try_into().unwrap();
        kill(pid, Signal::KILL);
        eventually("a new one is up", || node.pids(name).len() == 2).await;
        assert_eq!(node.pids(other).len(), if name == "controller" { 1 } else { 2 });
        supervisor.controller_ready(DEADLINE).await.unwrap();
        supervisor.proxy_ready(DEADLINE).await.unwrap();
    }
    supervisor.shutdown_trigger().shutdown();
    supervisor.run_until_shutdown().await;
}

#[tokio::test]
async fn the_end_comes_in_order() {
    let (node, supervisor) = Node::start(&[]).await;
    for id in ["a", "b"] {
        node.spawn(id, &[]).await.unwrap();
    }
    let shared =
        ProcessSpec { id: "shared".into(), outlasts_replicas: true, ..node.spec("actor", &[]) };
    node.spawn_as(&shared).await.unwrap();
    eventually("all are up", || node.pids("replica").len() == 2 && node.pids("actor").len() == 1)
        .await;
    assert_eq!(node.log().iter().filter(|line| *line == "TEST_ENV given").count(), 5);
    let mut events: Events = node.client.lines("/-/events").await.unwrap();
    next(&mut events).await;
    node.client.tell(Method::POST, "/-/shutdown", &()).await.unwrap();
    let summary = supervisor.run_until_shutdown().await;
    assert_eq!(summary, ExitSummary { was_forced: false, num_killed: 0 });
    assert_eq!(next(&mut events).await, ProcessEvent::ShuttingDown);
    let log = node.log();
    let at = |line: &str| log.iter().position(|l| l == line).unwrap();
    assert!(at("proxy ended") < at("replica told"), "{log:?}");
    assert_eq!(log.iter().filter(|line| *line == "replica ended").count(), 2);
    let last_replica = log.iter().rposition(|line| line == "replica ended").unwrap();
    assert!(last_replica < at("actor told"), "{log:?}");
    assert!(at("actor ended") < at("controller told"), "{log:?}");
    for name in ["controller", "proxy", "replica", "actor"] {
        assert!(node.pids(name).into_iter().all(is_gone), "{name}");
    }
}

#[tokio::test]
async fn a_second_wish_to_end_forces_it() {
    let (node, supervisor) = Node::start(&["--stubborn"]).await;
    node.spawn("a", &["--stubborn"]).await.unwrap();
    eventually("a is up", || node.pids("replica").len() == 1).await;
    let trigger = supervisor.shutdown_trigger();
    trigger.shutdown();
    let run = tokio::spawn(supervisor.run_until_shutdown());
    eventually("the proxy is told", || node.log().contains(&"proxy told".to_owned())).await;
    trigger.shutdown();
    let summary = run.await.unwrap();
    assert_eq!(summary, ExitSummary { was_forced: true, num_killed: 3 });
    for name in ["controller", "proxy", "replica"] {
        assert!(node.pids(name).into_iter().all(is_gone), "{name}");
    }
}

#[tokio::test]
async fn what_a_replica_started_ends_with_it() {
    let (node, supervisor) = Node::start(&[]).await;
    let replica = node.spawn("a", &["--grandchild"]).await.unwrap();
    eventually("both are up", || node.pids("replica").len() == 1).await;
    let [grandchild] = node.pids("grandchild").try_into().unwrap();
    kill(replica.pid, Signal::KILL);
    eventually("the grandchild is gone", || is_gone(grandchild)).await;
    supervisor.shutdown_trigger().shutdown();
    supervisor.run_until_shutdown().await;
}

/// A supervisor in a process of its own, with one replica; all their ids.
async fn separate(node: &mut Node) -> (std::process::Child, Vec<u32>) {
    let log = node.log_path();
    let child =
        Command::new(role_child()).arg("node").arg(node.dir.path()).arg(&log).spawn().unwrap();
    let socket = format!("tyndall-{}/supervisor.sock", child.id());
    node.client = Client::unix(node.dir.path().join(socket));
    let is_up = |node: &Node| node.pids("controller").len() + node.pids("proxy").len() == 2;
    eventually("the roles are up", || is_up(node)).await;
    node.spawn("a", &[]).await.unwrap();
    eventually("the replica is up", || node.pids("replica").len() == 1).await;
    node.wait("w", &[]).await;
    eventually("one waits", || node.pids("warm").len() == 1).await;
    let pids = ["controller", "proxy", "replica", "warm"]
        .iter()
        .flat_map(|name| node.pids(name))
        .collect();
    (child, pids)
}

#[tokio::test]
async fn a_killed_supervisor_leaves_no_process() {
    let mut node = Node::new();
    let (mut supervisor, pids) = separate(&mut node).await;
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    eventually("all are gone", || pids.iter().all(|&pid| is_gone(pid))).await;
    // What its sockets leave goes with the next node.
    let next = tyndall_cluster::NodeDir::create(node.dir.path()).unwrap();
    let left = |dir: &Path| std::fs::read_dir(dir).unwrap().count();
    assert_eq!(left(node.dir.path()), 2, "the log and the new directory");
    drop(next);
}

#[tokio::test]
async fn a_terminated_supervisor_ends_and_cleans_up() {
    let mut node = Node::new();
    let (mut supervisor, pids) = separate(&mut node).await;
    kill(supervisor.id(), Signal::TERM);
    eventually("it ends", || supervisor.try_wait().unwrap().is_some()).await;
    assert!(supervisor.wait().unwrap().success());
    assert!(pids.into_iter().all(is_gone));
    assert_eq!(std::fs::read_dir(node.dir.path()).unwrap().count(), 1, "the log");
    assert!(node.log().contains(&"replica ended".to_owned()));
}

#[tokio::test]
async fn what_cannot_start_says_so() {
    let node = Node::new();
    let mut options = node.options(&[]);
    options.executable = "/no/such/program".into();
    let error = Supervisor::start(options).await.unwrap_err();
    assert!(matches!(error, StartError::Role(_)), "{error}");
    let mut options = node.options(&[]);
    options.runtime_dir = RuntimeDir("/no/such/directory".into());
    let error = Supervisor::start(options).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/directory/supervisor.sock"), "{error}");
}
