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
        let log = self.log_path().display().to_string();
        let args = ["role", "replica", "--log", &log];
        let spec = ProcessSpec {
            executable: None,
            working_dir: None,
            id: id.into(),
            args: args.iter().chain(more).map(ToString::to_string).collect(),
            env: [("NAME".to_owned(), "value".to_owned())].into(),
        };
        self.client.call(Method::POST, "/-/processes", &spec).await
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
        executable: None,
        args: ["role", "replica", "--log", "here"].map(str::to_owned).to_vec(),
        working_dir: Some(dir.to_owned()),
        env: Default::default(),
    };
    let spawn = async |spec: &ProcessSpec| {
        node.client.call::<_, ProcessInfo>(Method::POST, "/-/processes", spec).await
    };
    spawn(&spec("a", &dir)).await.unwrap();
    eventually("it writes into its directory", || dir.join("here").exists()).await;
    let error = spawn(&spec("b", &dir.join("gone"))).await.unwrap_err().to_string();
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
    eventually("both are up", || node.pids("replica").len() == 2).await;
    assert_eq!(node.log().iter().filter(|line| *line == "TEST_ENV given").count(), 4);
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
    assert!(last_replica < at("controller told"), "{log:?}");
    for name in ["controller", "proxy", "replica"] {
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
    let pids = ["controller", "proxy", "replica"].iter().flat_map(|name| node.pids(name)).collect();
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
