//! Deployments in Rust: programs, their processes, and calls between them.

use crate::applications::{file, stdout};
use crate::server;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use tyndall_testkit::{Answer, Server, Signal, eventually, kill};
use tyndall_types::protocol::{ApplicationDetails, DeploymentDetails};
use tyndall_types::{ApplicationStatus, ReplicaState};

/// An example of this package. `cargo test` builds them beside the tests, unless it is asked for
/// some of the tests only.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_tyndall")).with_file_name("examples").join(name);
    assert!(path.is_file(), "{path:?} is missing: cargo build -p tyndall-cli --examples");
    path
}

/// The chain at `/`, with a directory for its files.
struct Chain {
    directory: tempfile::TempDir,
    version: u32,
    deployments: Value,
}

impl Chain {
    /// With these options of its deployments.
    fn new(deployments: Value) -> Result<Self> {
        Ok(Self { directory: tempfile::tempdir()?, version: 1, deployments })
    }

    fn config(&self) -> Value {
        json!({"applications": [{
            "name": "chain", "route_prefix": "/", "program": program("serve-chain"),
            "args": {"directory": self.directory.path(), "version": self.version},
            "deployments": self.deployments,
        }]})
    }

    fn start(&self) -> Result<Server> {
        server().start(file(&self.config())?.path)
    }

    fn lines(&self, file: &str) -> usize {
        let text = std::fs::read_to_string(self.directory.path().join(file));
        text.unwrap_or_default().lines().count()
    }
}

fn deployment(server: &Server, name: &str) -> Result<DeploymentDetails> {
    server.application("chain")?.deployments.remove(name).context("no such deployment")
}

fn pids(server: &Server, name: &str) -> Result<BTreeSet<u32>> {
    let replicas = deployment(server, name)?.replicas;
    let running = replicas.iter().filter(|replica| replica.state == ReplicaState::Running);
    Ok(running.filter_map(|replica| replica.pid).collect())
}

fn until(
    server: &Server,
    what: &str,
    is_so: impl Fn(&ApplicationDetails) -> bool,
) -> Result<ApplicationDetails> {
    eventually(what, || server.application("chain").ok().filter(&is_so))
}

/// Sends the head of a GET on a connection of its own.
fn open(server: &Server, path: &str, headers: &str) -> Result<TcpStream> {
    let mut connection = TcpStream::connect(server.url.trim_start_matches("http://"))?;
    connection.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n").as_bytes())?;
    Ok(connection)
}

/// Sends the same GET so many times at once.
fn at_once(server: &Server, path: &str, times: usize) -> Result<Vec<Answer>> {
    thread::scope(|scope| {
        let asked: Vec<_> = (0..times).map(|_| scope.spawn(|| server.get(path))).collect();
        asked.into_iter().map(|asked| asked.join().expect("the thread does not panic")).collect()
    })
}

#[test]
fn programs_are_served_from_a_file_and_by_name() -> Result<()> {
    let config = json!({"applications": [
        {"name": "search", "route_prefix": "/", "program": program("serve-search"),
         "args": {"max_batch_size": 4}},
        {"name": "echo", "route_prefix": "/echo", "program": program("serve-echo")},
    ]});
    let server = server().start(file(&config)?.path)?;
    let found = server.get("/search?question=where+do+whales+live")?;
    assert_eq!(found.json()[0], "Whales live in the sea.", "{}", found.text);
    assert_eq!(server.get("/passages")?.text, "3");
    let echoed = server.post("/echo/any/path", &json!({"a": [1, "é"]}))?;
    assert_eq!((echoed.status, echoed.json()), (200, json!({"a": [1, "é"]})));
    assert_eq!(echoed.header("content-type"), "application/json");
    assert_eq!(server.get("/-/routes")?.json(), json!({"/": "search", "/echo": "echo"}));
    assert_eq!(server.pids_of("replica").len(), 4, "each deployment has a process of its own");

    // The proxy's page has those of all replicas; below the root, `/metrics` is the program's own.
    let page = server.get("/-/metrics")?.text;
    for (name, deployment) in [
        ("deployment_request_counter_total", "Search"),
        ("deployment_request_counter_total", "Ranker"),
        ("deployment_processing_latency_ms_count", "Echo"),
        ("batches_processed_total", "Embedder"),
    ] {
        let (name, deployment) =
            (format!("ray_serve_{name}{{"), format!("deployment=\"{deployment}\""));
        let is_it = |line: &str| line.starts_with(&name) && line.contains(&deployment);
        let line = page.lines().find(|line| is_it(line)).context(name.clone())?;
        ensure!(!line.ends_with(" 0"), "{line}");
    }

    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n";
    let mut line = String::new();
    BufReader::new(open(&server, "/echo", upgrade)?).read_line(&mut line)?;
    assert!(line.starts_with("HTTP/1.1 200 "), "who knows no WebSockets answers over HTTP: {line}");
    Ok(())
}

#[test]
fn a_program_is_run_by_its_path_and_another_takes_its_place() -> Result<()> {
    let server = server().start(program("serve-echo"))?;
    assert_eq!(server.post("/", &json!(1))?.text, "1");
    let directory = tempfile::tempdir()?;
    let output = Command::new(env!("CARGO_BIN_EXE_tyndall"))
        .args(["deploy", "--wait", "--address", &server.admin])
        .arg(program("serve-chain"))
        .arg(format!("directory={}", directory.path().display()))
        .arg("version=7")
        .output()?;
    let told = stdout(&output) + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert_eq!(server.get("/who")?.json()["version"], 7, "texts become what the program takes");
    Ok(())
}

#[test]
fn deployments_have_processes_of_their_own_and_scale_alone() -> Result<()> {
    let mut chain = Chain::new(json!([{"name": "Back", "num_replicas": 3}]))?;
    let server = chain.start()?;
    let back = pids(&server, "Back")?;
    assert_eq!((back.len(), pids(&server, "Front")?.len()), (3, 1), "the file's options hold");
    let mut seen = BTreeSet::new();
    let mut ranks = BTreeSet::new();
    eventually("each of them was called", || {
        let who = server.get("/who").ok()?.json();
        seen.extend(who["pid"].as_u64());
        ranks.extend(who["rank"].as_u64());
        (seen.len() == 3).then_some(())
    })?;
    assert_eq!(seen, back.iter().map(|&pid| u64::from(pid)).collect());
    assert_eq!(ranks, BTreeSet::from([0, 1, 2]));
    let whole = server.get("/who")?;
    assert_eq!(whole.json()["request_id"], whole.header("x-request-id"), "one id in all");
    assert_eq!(whole.json()["has_deadline"], false);
    assert_eq!(server.get("/hurried")?.json()["has_deadline"], true);

    let (front, middle) = (pids(&server, "Front")?, pids(&server, "Middle")?);
    chain.deployments = json!([{"name": "Back", "num_replicas": 1}]);
    assert_eq!(server.deploy(&chain.config())?.status, 200);
    until(&server, "one is left", |app| app.deployments["Back"].replicas.len() == 1)?;
    let left = pids(&server, "Back")?;
    assert!(back.is_superset(&left), "nothing was started again");
    assert_eq!((pids(&server, "Front")?, pids(&server, "Middle")?), (front, middle));
    assert_eq!(server.get("/who")?.json()["pid"], json!(left.first()));
    Ok(())
}

#[test]
fn handles_call_a_chosen_replica_and_all_of_them() -> Result<()> {
    let one_each = json!([{"name": "Back", "num_replicas": 2, "max_ongoing_requests": 1}]);
    let chain = Chain::new(one_each)?;
    let server = chain.start()?;
    let backs = pids(&server, "Back")?;
    eventually("all of them are told", || {
        let told = server.get("/everyone").ok()?.json();
        let told = told.as_array()?.iter().filter_map(|who| who["pid"].as_u64());
        (told.collect::<BTreeSet<_>>() == backs.iter().map(|&pid| u64::from(pid)).collect())
            .then_some(())
    })?;
    std::thread::scope(|scope| {
        let choosing = scope.spawn(|| server.get("/chosen/1"));
        let chosen = chain.directory.path().join("chosen");
        let replica = eventually("one was chosen", || std::fs::read_to_string(&chosen).ok())?;
        // The other one has all that comes meanwhile.
        let seen = (0..5).map(|_| Ok(server.get("/who")?.json()["pid"].as_u64()));
        let seen: BTreeSet<_> = seen.collect::<Result<_>>()?;
        assert_eq!(seen.len(), 1);
        std::fs::write(chain.directory.path().join("dispatch"), "")?;
        let answer = choosing.join().expect("it does not panic")?.json();
        assert_eq!(answer, json!({"replica": replica, "worked": 1}));
        Ok(())
    })
}

#[test]
fn a_deployment_that_sleeps_is_woken_by_a_call() -> Result<()> {
    let sleepy = json!({"min_replicas": 0, "max_replicas": 1, "initial_replicas": 0});
    let chain = Chain::new(json!([{"name": "Back", "autoscaling_config": sleepy}]))?;
    let server = chain.start()?;
    assert!(pids(&server, "Back")?.is_empty());
    let answers = at_once(&server, "/who", 4)?;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200; 4], "{answers:?}");
    assert_eq!(pids(&server, "Back")?.len(), 1);
    Ok(())
}

#[test]
fn a_full_queue_of_a_callee_is_told_to_the_client() -> Result<()> {
    let bounds = json!({
        "name": "Back", "num_replicas": 1, "max_ongoing_requests": 1, "max_queued_requests": 1,
    });
    let mut chain = Chain::new(json!([bounds]))?;
    let server = chain.start()?;
    let refused = |answers: Vec<Answer>| -> Vec<Answer> {
        let is_refused = |answer: &Answer| answer.status != 200;
        answers.into_iter().filter(is_refused).collect()
    };
    let dropped = "Request dropped due to backpressure (num_queued_requests=1, \
                   max_queued_requests=1).";
    let all = refused(at_once(&server, "/work/500", 6)?);
    assert_eq!(all.len(), 4, "one works, and one waits: {all:?}");
    assert!(all.iter().all(|answer| (answer.status, &*answer.text) == (503, dropped)), "{all:?}");
    chain.deployments[0]["backpressure_config"] = json!({"status_code": 429, "retry_after_s": 2.5});
    assert_eq!(server.deploy(&chain.config())?.status, 200);
    eventually("the other status", || {
        let all = refused(at_once(&server, "/work/200", 6).ok()?);
        let is_told = |a: &Answer| (a.status, a.header("retry-after")) == (429, "3");
        (!all.is_empty() && all.iter().all(is_told)).then_some(())
    })?;
    Ok(())
}

#[test]
fn a_lost_callee_costs_only_the_calls_that_it_had() -> Result<()> {
    let bounds = json!({"name": "Back", "num_replicas": 2, "max_ongoing_requests": 2});
    let chain = Chain::new(json!([bounds]))?;
    let server = chain.start()?;
    let answers = thread::scope(|scope| {
        let asked: Vec<_> = (0..12).map(|_| scope.spawn(|| server.get("/work/700"))).collect();
        eventually("all places are taken", || (chain.lines("begun") >= 4).then_some(()))?;
        let victim = *pids(&server, "Back")?.first().context("none runs")?;
        kill(victim, Signal::KILL);
        let answers = asked.into_iter().map(|asked| asked.join().expect("no panic"));
        answers.collect::<Result<Vec<_>>>()
    })?;
    let lost: Vec<&Answer> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert!((1..=2).contains(&lost.len()), "it had two: {lost:?}");
    for answer in lost {
        assert_eq!(answer.status, 503);
        assert!(answer.text.starts_with("the replica of Back that had the call was lost"));
    }
    eventually("another one runs", || (pids(&server, "Back").ok()?.len() == 2).then_some(()))
}

#[test]
fn another_user_config_reaches_running_replicas() -> Result<()> {
    let mut chain =
        Chain::new(json!([{"name": "Back", "num_replicas": 2, "user_config": {"a": 1}}]))?;
    let server = chain.start()?;
    assert_eq!(server.get("/who")?.json()["user_config"], json!({"a": 1}));
    let before = pids(&server, "Back")?;
    chain.deployments[0]["user_config"] = json!({"a": 2});
    assert_eq!(server.deploy(&chain.config())?.status, 200);
    until(&server, "it is deployed", |app| {
        app.version == 2 && app.status == ApplicationStatus::Running
    })?;
    let answers = at_once(&server, "/who", 8)?;
    let is_new = |answer: &Answer| answer.json()["user_config"] == json!({"a": 2});
    assert!(answers.iter().all(is_new), "{answers:?}");
    assert_eq!(pids(&server, "Back")?, before);
    Ok(())
}

#[test]
fn a_replica_that_is_ill_is_replaced() -> Result<()> {
    let chain = Chain::new(json!([
        {"name": "Back", "num_replicas": 1, "health_check_period_s": 0.1},
    ]))?;
    let server = chain.start()?;
    let ill = *pids(&server, "Back")?.first().context("none runs")?;
    std::fs::write(chain.directory.path().join(format!("ill-{ill}")), "")?;
    eventually("another one runs", || {
        let running = pids(&server, "Back").ok()?;
        (running.len() == 1 && !running.contains(&ill)).then_some(())
    })?;
    assert_eq!(server.get("/who")?.status, 200);
    Ok(())
}

#[test]
fn an_update_under_load_loses_nothing() -> Result<()> {
    let mut chain = Chain::new(json!([
        {"name": "Back", "num_replicas": 2}, {"name": "Front", "num_replicas": 2},
    ]))?;
    let server = chain.start()?;
    let (is_over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let keep_asking = || -> Result<()> {
        while !is_over.load(Ordering::SeqCst) {
            let answer = server.get("/who")?;
            ensure!(answer.status == 200, "{}: {}", answer.status, answer.text);
            let counted: Vec<String> = server.stream_get("/count/20")?.collect();
            ensure!(counted.len() == 20, "a stream broke off: {:?}", counted.last());
            answered.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(keep_asking)).collect();
        let outcome = (2..4).try_for_each(|version| {
            let before = answered.load(Ordering::SeqCst);
            eventually("answers", || (answered.load(Ordering::SeqCst) > before + 8).then_some(()))?;
            chain.version = version;
            ensure!(server.deploy(&chain.config())?.status == 200);
            until(&server, "the update is done", |app| {
                let settled = app.deployments.values().all(|d| d.status.as_str() == "HEALTHY");
                app.version == u64::from(version)
                    && app.status == ApplicationStatus::Running
                    && settled
            })?;
            ensure!(server.get("/who")?.json()["version"] == json!(version));
            Ok(())
        });
        is_over.store(true, Ordering::SeqCst);
        for client in clients {
            client.join().expect("the thread does not panic")?;
        }
        outcome
    })
}

#[test]
fn a_deployment_that_the_program_does_not_have_is_named() -> Result<()> {
    let mut chain = Chain::new(json!([]))?;
    let server = chain.start()?;
    chain.deployments = json!([{"name": "Bakc", "num_replicas": 2}]);
    assert_eq!(server.deploy(&chain.config())?.status, 200);
    let failed =
        until(&server, "the deploy fails", |app| app.status == ApplicationStatus::DeployFailed)?;
    let told = "Deployment 'Bakc' does not exist. Available: [\"Front\", \"Middle\", \"Back\"]";
    assert!(failed.message.contains(told), "{}", failed.message);
    assert_eq!(server.get("/who")?.status, 200, "what ran goes on");
    Ok(())
}

#[test]
fn streams_and_their_ends_pass_through_two_hops() -> Result<()> {
    let chain = Chain::new(json!([]))?;
    let server = chain.start()?;
    let stream = server.stream_get("/count/50")?;
    assert!(stream.headers["content-type"].to_str()?.starts_with("text/event-stream"));
    let events: Vec<String> = stream.collect();
    assert_eq!(events, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(chain.lines("counted"), 1);

    // A client that goes away ends the call of the call.
    let client = open(&server, "/through/600000", "")?;
    eventually("the work has begun", || (chain.lines("begun") == 1).then_some(()))?;
    drop(client);
    eventually("the work is dropped", || (chain.lines("cancelled") == 1).then_some(()))?;

    let mut half = open(&server, "/count/100000000", "")?;
    half.read_exact(&mut [0; 64])?;
    drop(half);
    eventually("nobody is at work", || {
        let app = server.application("chain").ok()?;
        app.deployments.values().all(|d| d.ongoing_requests == 0).then_some(())
    })?;

    // The time of a call ends it, and the work for it.
    let late = server.get("/late")?;
    assert_eq!(late.status, 408, "{}", late.text);
    // The hop behind has what is left of the time, and either of the two may end it.
    assert!(late.text.contains(" timed out after 0."), "{}", late.text);
    eventually("the work is dropped", || (chain.lines("cancelled") == 2).then_some(()))
}
