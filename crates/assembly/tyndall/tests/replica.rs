//! The examples as real processes: what they print, and how they live as replicas.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tyndall::{Call, Described, RequestContext, wire};
use tyndall_transport::{
    Body, Client, Handler, Listener, RequestBody, ServeOptions, empty, read_body, serve,
};
use tyndall_types::protocol::{
    DeploymentConfig, ProgramConfig, ReplicaReport, ReplicaStatus, RuntimeDir,
};
use tyndall_types::{ApplicationName, HEADER_NOT_STARTED, ReplicaId, ReplicaState};

const PATIENCE: Duration = Duration::from_secs(30);

fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples").join(name)
}

async fn output(name: &str, args: &[&str]) -> Output {
    let run = Command::new(example(name)).args(args).output();
    timeout(PATIENCE, run).await.unwrap().unwrap()
}

async fn described(name: &str, args: &[&str]) -> Described {
    let output = output(name, &[&["role", "describe"], args].concat()).await;
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A deployment of an example, as a controller would ask for it.
fn config(name: &str, described: &Described, deployment: &str) -> DeploymentConfig {
    let mut deployments = described.deployments.iter();
    let found = deployments.find(|one| one.options.given_name() == deployment).unwrap();
    let program = ProgramConfig {
        executable: example(name),
        deployment: deployment.to_owned(),
        init: serde_json::to_value(&found.init).unwrap(),
        ..ProgramConfig::default()
    };
    found.options.resolve(&ApplicationName::new("app").unwrap(), program).unwrap()
}

#[derive(Clone)]
struct Controller(mpsc::Sender<ReplicaReport>);

impl Handler for Controller {
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        assert_eq!(request.uri().path(), "/-/replicas/r0/report");
        let body = read_body(request.into_body(), 1 << 20).await.unwrap();
        self.0.send(serde_json::from_slice(&body).unwrap()).await.unwrap();
        empty(StatusCode::NO_CONTENT)
    }
}

struct Replica {
    child: Child,
    client: Client,
    reports: mpsc::Receiver<ReplicaReport>,
    runtime_dir: RuntimeDir,
    _dir: tempfile::TempDir,
}

impl Replica {
    fn start(config: &DeploymentConfig) -> Self {
        let ProgramConfig { executable, .. } = match &config.workload {
            tyndall_types::protocol::Workload::Program(program) => program,
            tyndall_types::protocol::Workload::Model(_) => panic!("a model"),
        };
        let dir = tempfile::tempdir().unwrap();
        let runtime_dir = RuntimeDir(dir.path().to_owned());
        let (sender, reports) = mpsc::channel(8);
        let listener = Listener::bind_unix(&runtime_dir.controller_socket()).unwrap();
        let forever = std::future::pending();
        tokio::spawn(serve(listener, Controller(sender), ServeOptions::default(), forever));
        let child = Command::new(executable)
            .args(["role", "replica", "--id", "r0", "--runtime-dir"])
            .arg(dir.path())
            .args(["--deployment-config", &serde_json::to_string(config).unwrap()])
            .args(["--parent-pid", &std::process::id().to_string()])
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let client = Client::unix(runtime_dir.replica_socket(&ReplicaId::new("r0")));
        Self { child, client, reports, runtime_dir, _dir: dir }
    }

    async fn report(&mut self) -> ReplicaReport {
        timeout(PATIENCE, self.reports.recv()).await.unwrap().unwrap()
    }

    async fn ready(config: &DeploymentConfig) -> Self {
        let mut replica = Self::start(config);
        let ReplicaReport::Ready { phases, card } = replica.report().await else {
            panic!("not ready")
        };
        let names: Vec<&str> = phases.0.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names, card), (vec!["process", "start"], None));
        replica
    }

    async fn status(&self) -> ReplicaStatus {
        timeout(PATIENCE, self.client.get("/-/status")).await.unwrap().unwrap()
    }

    async fn call(&self, method: &str, request: Value) -> tyndall::Result<Value> {
        let call = Call {
            application: None,
            encoding: tyndall::Encoding::Json,
            deployment: String::new(),
            method: method.to_owned(),
            body: serde_json::to_vec(&request).unwrap().into(),
            context: RequestContext { request_id: "r".into(), ..RequestContext::default() },
        };
        let answer = self.client.send(wire::encode(&call, false).unwrap()).await.unwrap();
        assert_eq!(answer.headers()["x-request-id"], "r");
        let body = wire::decode(answer).await?;
        Ok(serde_json::from_slice(&body).unwrap())
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Bytes, Option<String>) {
        let body = serde_json::to_vec(body).unwrap();
        let mut request = Request::new(Bytes::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().unwrap();
        let answer = self.client.send(request).await.unwrap();
        let refused = answer.headers().get(HEADER_NOT_STARTED);
        let refused = refused.map(|reason| reason.to_str().unwrap().to_owned());
        (answer.status(), read_body(answer.into_body(), 1 << 20).await.unwrap(), refused)
    }

    fn terminate(&self) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    }

    async fn exit_code(&mut self) -> Option<i32> {
        timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap().code()
    }
}

#[tokio::test]
async fn programs_say_what_they_are() {
    let search = described("search", &["--args", r#"{"max_batch_size": 4}"#]).await;
    assert_eq!(search.ingress, "Search");
    let names: Vec<_> = search.deployments.iter().map(|one| one.options.given_name()).collect();
    assert_eq!(names, ["Search", "Ranker", "Embedder"]);
    assert_eq!(search.deployments[0].calls, ["Embedder", "Ranker"]);
    let embedder = serde_json::to_value(&search.deployments[2]).unwrap();
    assert_eq!(
        embedder,
        json!({
            "name": "Embedder", "max_ongoing_requests": 64, "calls": [],
            "init": {"args": {"max_batch_size": 4}, "init": {"max_batch_size": 4}},
        })
    );

    let usage = output("echo", &[]).await;
    assert!(usage.status.success());
    assert!(String::from_utf8_lossy(&usage.stdout).contains("tyndall run "));
    let wrong = output("echo", &["serve"]).await;
    assert_eq!(wrong.status.code(), Some(2));
    let args = output("echo", &["role", "describe", "--args", r#"{"a": 1}"#]).await;
    assert_eq!(args.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&args.stderr).contains("takes no arguments"));
}

#[tokio::test]
async fn a_deployment_is_called_reconfigured_and_ended() {
    let search = described("search", &[]).await;
    let mut replica = Replica::ready(&config("search", &search, "Ranker")).await;
    let status = replica.status().await;
    assert_eq!((status.state, status.ongoing), (ReplicaState::Running, 0));
    assert_eq!(replica.call("count", Value::Null).await, Ok(json!(3)));
    let near = json!({"vector": vec![0.0; 26], "at_most": 1});
    assert_eq!(replica.call("call", near).await, Ok(json!(["Whales live in the sea."])));
    let missing = replica.call("missing", Value::Null).await.unwrap_err().to_string();
    assert!(missing.contains("does not exist"), "{missing}");

    let (status, ..) = replica.post("/-/reconfigure", &json!(["a"])).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(replica.call("count", Value::Null).await, Ok(json!(1)));
    let (status, body, _) = replica.post("/-/reconfigure", &json!(1)).await;
    let error: tyndall::Error = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(matches!(error, tyndall::Error::UserError { .. }), "{error}");
    assert_eq!(replica.call("count", Value::Null).await, Ok(json!(1)));

    replica.terminate();
    assert_eq!(replica.exit_code().await, Some(0));
}

#[tokio::test]
async fn requests_that_were_begun_are_finished() {
    let echo = described("echo", &[]).await;
    let mut config = config("echo", &echo, "Echo");
    config.max_ongoing_requests = 1;
    let mut replica = Replica::ready(&config).await;
    let (status, body, _) = replica.post("/any/path", &json!({"a": [1]})).await;
    assert_eq!((status, &body[..]), (StatusCode::OK, br#"{"a":[1]}"# as &[u8]));

    // Half a request is one that the replica has.
    let socket = replica.runtime_dir.replica_socket(&ReplicaId::new("r0"));
    let mut half = UnixStream::connect(socket).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nconnection: close\r\n\r\n[1";
    half.write_all(head.as_bytes()).await.unwrap();
    while replica.status().await.ongoing == 0 {
        tokio::task::yield_now().await;
    }
    let (status, _, refused) = replica.post("/", &json!(1)).await;
    assert_eq!((status, refused.as_deref()), (StatusCode::SERVICE_UNAVAILABLE, Some("full")));

    replica.terminate();
    half.write_all(b",2]").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, half.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("[1,2]"), "{answer}");
    assert_eq!(replica.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_replica_that_cannot_start_says_so() {
    let echo = described("echo", &[]).await;
    let mut config = config("echo", &echo, "Echo");
    if let tyndall_types::protocol::Workload::Program(program) = &mut config.workload {
        program.deployment = "Other".to_owned();
    }
    let mut replica = Replica::start(&config);
    let ReplicaReport::Failed { reason } = replica.report().await else { panic!("not failed") };
    assert!(
        reason.contains("Deployment 'Other' does not exist. Available: [\"Echo\"]"),
        "{reason}"
    );
    assert_eq!(replica.exit_code().await, Some(1));
}

#[tokio::test]
async fn a_replica_of_another_parent_does_not_start() {
    let echo = described("echo", &[]).await;
    let config = serde_json::to_string(&config("echo", &echo, "Echo")).unwrap();
    let line = ["role", "replica", "--id=r0", "--runtime-dir=/nowhere", "--parent-pid=4294967295"];
    let mut command = Command::new(example("echo"));
    command.args(line).args(["--deployment-config", &config]).stderr(Stdio::piped());
    let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("the supervisor 4294967295 is gone"), "{told}");
}
