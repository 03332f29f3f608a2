//! The whole life of a replica, with a tiny model and a controller that listens.

use super::alphabet::{self, Alphabet};
use super::{PATIENCE, ask, json_of, post, status, tokenizer_files};
use crate::life::run_with;
use crate::load::load;
use crate::phases::PhaseClock;
use crate::served::Served;
use crate::{ReplicaError, ReplicaOptions};
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tyndall_text::Tokenizer;
use tyndall_transport::{
    Body, Client, Handler, Listener, RequestBody, ServeOptions, empty, read_body, serve,
};
use tyndall_types::protocol::{
    AutoscalingConfig, ColdStartPhases, DeploymentConfig, EngineLoad, GenerateDefaults,
    ModelConfig, ProgramConfig, ReplicaReport, RuntimeDir, Workload,
};
use tyndall_types::{DeploymentId, DeploymentName, ReplicaId};

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

pub(super) struct Process {
    pub(super) client: Client,
    reports: mpsc::Receiver<ReplicaReport>,
    stop: oneshot::Sender<()>,
    replica: JoinHandle<Result<(), ReplicaError>>,
    dir: tempfile::TempDir,
}

/// A tiny model's directory, with a tokenizer of bytes.
fn model(dir: &Path) -> PathBuf {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/llama3-bf16");
    let model = dir.join("model");
    std::fs::create_dir(&model).unwrap();
    for name in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(fixture.join(name), model.join(name)).unwrap();
    }
    tokenizer_files::write(&model);
    model
}

fn config(path: PathBuf) -> DeploymentConfig {
    DeploymentConfig {
        id: DeploymentId::single(DeploymentName::new("tiny").unwrap()),
        workload: Workload::Model(ModelConfig {
            id: "org/tiny".to_owned(),
            aliases: Vec::new(),
            task: Default::default(),
            sampling: Default::default(),
            path,
            max_model_len: None,
            memory_budget_bytes: Some(64 << 20),
            max_num_seqs: 8,
            max_num_batched_tokens: 64,
            num_threads: Some(1),
            speculation: true,
            quantization: Default::default(),
            chat: Default::default(),
            generate: GenerateDefaults { max_new_tokens: 8, temperature: 0.0, top_p: 1.0 },
        }),
        code_version: String::new(),
        num_replicas: None,
        autoscaling: AutoscalingConfig {
            min_replicas: 0,
            initial_replicas: None,
            max_replicas: 1,
            target_ongoing_requests: 1.0,
            look_back_period_s: 0.0,
            aggregation_function: Default::default(),
            upscale_delay_s: 0.0,
            downscale_delay_s: 1.0,
            downscale_to_zero_delay_s: 1.0,
            upscaling_factor: 1.0,
            downscaling_factor: 1.0,
            policy: Default::default(),
            python_policy: None,
        },
        max_ongoing_requests: 8,
        max_queued_requests: 8,
        backpressure: Default::default(),
        request_timeout_s: 60.0,
        graceful_shutdown_timeout_s: 20.0,
        startup_timeout_s: 60.0,
        health_check: Default::default(),
        max_constructor_retry_count: 20,
        rollout: Default::default(),
        resources: Default::default(),
        residency: Default::default(),
        env_vars: Default::default(),
        user_config: Value::Null,
        warm: Default::default(),
        deployment_actors: Vec::new(),
        request_router: None,
        gang_scheduling: None,
        prefix_affinity: None,
    }
}

impl Process {
    pub(super) fn start(prepare: impl FnOnce(&Path) -> PathBuf) -> Self {
        Self::start_with(|dir| config(prepare(dir)), load)
    }

    /// With the alphabet instead of the model.
    fn start_alphabet(runner: Alphabet) -> Self {
        let load = |options: ReplicaOptions, clock| async move {
            let model = options.config.workload.model().unwrap();
            let tokenizer = Tokenizer::load(&model.path).unwrap();
            let ready = alphabet::ready(runner, tokenizer);
            Ok((Served::Generator(Arc::new(ready)), clock))
        };
        Self::start_with(|dir| config(model(dir)), load)
    }

    fn start_with<F, L>(config: impl FnOnce(&Path) -> DeploymentConfig, load: F) -> Self
    where
        F: FnOnce(ReplicaOptions, PhaseClock) -> L + Send + 'static,
        L: Future<Output = Result<(Served, PhaseClock), String>> + Send + 'static,
    {
        let dir = tempfile::tempdir().unwrap();
        let runtime_dir = RuntimeDir(dir.path().to_owned());
        let (sender, reports) = mpsc::channel(8);
        let listener = Listener::bind_unix(&runtime_dir.controller_socket()).unwrap();
        let forever = std::future::pending();
        tokio::spawn(serve(listener, Controller(sender), ServeOptions::default(), forever));
        let id = ReplicaId::new("r0");
        let client = Client::unix(runtime_dir.replica_socket(&id));
        let options = ReplicaOptions {
            runtime_dir,
            id,
            config: config(dir.path()),
            started_at: Instant::now(),
            available_memory_bytes: 1 << 30,
            isa: Some(tyndall_kernels::Isa::Portable),
            cache_dir: None,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let replica = tokio::spawn(run_with(options, load, async { drop(stopped.await) }));
        Self { client, reports, stop, replica, dir }
    }

    pub(super) async fn report(&mut self) -> ReplicaReport {
        tokio::time::timeout(PATIENCE, self.reports.recv()).await.unwrap().unwrap()
    }

    async fn load_report(&mut self) -> EngineLoad {
        loop {
            if let ReplicaReport::Load(load) = self.report().await {
                return load;
            }
        }
    }

    /// The next report of another kind than the engine's load.
    async fn report_of_life(&mut self) -> ReplicaReport {
        loop {
            let report = self.report().await;
            if !matches!(report, ReplicaReport::Load(_)) {
                return report;
            }
        }
    }

    pub(super) async fn end(self) -> Result<(), ReplicaError> {
        drop(self.stop);
        tokio::time::timeout(PATIENCE, self.replica).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn a_model_is_loaded_reported_served_and_ended() {
    let started = Instant::now();
    let mut process = Process::start(model);
    let ReplicaReport::Ready { phases: ColdStartPhases(phases), card } = process.report().await
    else {
        panic!("not ready");
    };
    let names: Vec<&str> = phases.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["process", "config", "kernels", "weights", "tokenizer", "engine"]);
    let sum: f64 = phases.iter().map(|(_, seconds)| seconds).sum();
    assert!(sum > 0.0 && sum <= started.elapsed().as_secs_f64());
    assert_eq!(card.unwrap().max_model_len, 128);

    let kwargs = json!({"max_new_tokens": 5});
    let body = json!({"prompts": ["hello", "world"], "generation_kwargs": kwargs});
    let first = post(&process.client, "/generate", &body).await;
    let timing = first.headers()["server-timing"].to_str().unwrap().to_owned();
    let told = timing.split(", ").filter_map(|part| part.strip_prefix("wake.")?.split_once(';'));
    let told: Vec<&str> = told.map(|(name, _)| name).collect();
    assert_eq!(told, [&names[..], &["handover"]].concat(), "{timing}");
    assert!(timing.contains(", wake;dur="), "{timing}");
    let both = json_of(first).await;
    assert_eq!(both["completions"].as_array().unwrap().len(), 2);
    let body = json!({"prompt": "world", "generation_kwargs": kwargs});
    let second = post(&process.client, "/generate", &body).await;
    let timing = second.headers()["server-timing"].to_str().unwrap().to_owned();
    assert!(!timing.contains("wake"), "only before the first token: {timing}");
    let alone = json_of(second).await;
    assert_eq!(alone["completions"][0], both["completions"][1]);

    let told = process.report_of_life().await;
    let ReplicaReport::FirstToken { phases: ColdStartPhases(phases) } = told else {
        panic!("no first token");
    };
    let after: Vec<&str> = phases[names.len()..].iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(after, ["handover", "first_step"]);

    let long = json!({"prompt": "x".repeat(200), "max_tokens": 3});
    let refused = post(&process.client, "/v1/completions", &long).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let error = json_of(refused).await.to_string();
    assert!(error.contains("128 tokens") && error.contains("has 201"), "{error}");
    assert!(process.end().await.is_ok());
}

#[tokio::test]
async fn a_model_that_cannot_be_served_is_reported_in_one_line() {
    let without = |name: &'static str| {
        move |dir: &Path| {
            let model = model(dir);
            std::fs::remove_file(model.join(name)).unwrap();
            model
        }
    };
    let truncated = |dir: &Path| {
        let model = model(dir);
        let weights = model.join("model.safetensors");
        let bytes = std::fs::read(&weights).unwrap();
        std::fs::write(weights, &bytes[..bytes.len() / 2]).unwrap();
        model
    };
    let starts = [
        ("config.json", Process::start(without("config.json"))),
        ("safetensors", Process::start(without("model.safetensors"))),
        ("tokenizer", Process::start(without("tokenizer.json"))),
        ("model.safetensors", Process::start(truncated)),
        ("missing", Process::start(|dir| dir.join("missing"))),
    ];
    for (part, mut process) in starts {
        let ReplicaReport::Failed { reason } = process.report().await else {
            panic!("{part}: it started");
        };
        assert!(reason.contains(part) && !reason.contains('\n'), "{part}: {reason}");
        let ended = tokio::time::timeout(PATIENCE, process.replica).await.unwrap().unwrap();
        assert!(matches!(ended, Err(ReplicaError::Load { reason: r }) if r == reason));
    }
}

#[tokio::test]
async fn a_replica_can_be_stopped_while_it_loads_or_when_it_never_answered() {
    let process = Process::start(model);
    assert!(process.dir.path().exists());
    assert!(process.end().await.is_ok());
}

#[tokio::test]
async fn draining_finishes_what_was_begun() {
    let (runner, gate) = Alphabet::gated();
    let mut process = Process::start_alphabet(runner);
    assert!(matches!(process.report().await, ReplicaReport::Ready { .. }));
    let client = process.client.clone();
    let asked =
        tokio::spawn(async move { ask(&client, "/generate", json!({"prompt": "x"})).await });
    let begun = async {
        while status(&process.client).await.ongoing == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.unwrap();
    let ending = tokio::spawn(process.end());
    gate.open();
    assert_eq!(asked.await.unwrap()["completions"], json!(["yz"]));
    assert!(ending.await.unwrap().is_ok());
}

#[tokio::test]
async fn one_that_ends_right_after_its_first_token_tells_of_it() {
    // Which of both is seen first is chance.
    for _ in 0..8 {
        let mut process = Process::start_alphabet(Alphabet::open());
        assert!(matches!(process.report().await, ReplicaReport::Ready { .. }));
        let answer = post(&process.client, "/generate", &json!({"prompt": "x"})).await;
        let Process { client, mut reports, stop, replica, dir: _dir } = process;
        drop(stop);
        let told = async {
            while let Some(report) = reports.recv().await {
                if matches!(report, ReplicaReport::FirstToken { .. }) {
                    return;
                }
            }
            panic!("nobody tells any more");
        };
        tokio::time::timeout(PATIENCE, told).await.unwrap();
        assert_eq!(json_of(answer).await["completions"], json!(["yz"]));
        // A drain leaves idle connections to their clients for a while.
        drop(client);
        assert!(tokio::time::timeout(PATIENCE, replica).await.unwrap().unwrap().is_ok());
    }
}

#[tokio::test]
async fn an_engine_that_dies_fails_its_requests_and_ends_the_process() {
    let mut process = Process::start_alphabet(Alphabet::panicking());
    assert!(matches!(process.report().await, ReplicaReport::Ready { .. }));
    let response = post(&process.client, "/generate", &json!({"prompt": "x"})).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let ended = tokio::time::timeout(PATIENCE, process.replica).await.unwrap().unwrap();
    let Err(ReplicaError::Engine { reason }) = ended else { panic!("{ended:?}") };
    assert!(reason.contains("it was told to panic"), "{reason}");
}

#[tokio::test]
async fn a_program_is_refused_by_its_name() {
    let program = ProgramConfig {
        executable: "/bin/true".into(),
        deployment: "main".to_owned(),
        init: Value::Null,
        ..ProgramConfig::default()
    };
    let config = |dir: &Path| DeploymentConfig {
        workload: Workload::Program(program),
        ..config(dir.join("missing"))
    };
    let mut process = Process::start_with(config, load);
    let ReplicaReport::Failed { reason } = process.report().await else { panic!("it started") };
    assert!(reason.starts_with("tiny is a program"), "{reason}");
    assert!(matches!(process.end().await, Err(ReplicaError::Load { .. })));
}

#[tokio::test]
async fn the_engines_load_is_reported_once_a_second_down_to_nothing() {
    let (runner, gate) = Alphabet::gated();
    let mut process = Process::start_alphabet(runner);
    assert!(matches!(process.report().await, ReplicaReport::Ready { .. }));
    let client = process.client.clone();
    let body = json!({"prompt": "abc", "generation_kwargs": {"max_new_tokens": 4}});
    let asked = tokio::spawn(async move { ask(&client, "/generate", body).await });
    gate.allow(1);
    // The special token, three letters, and one that was generated, which the first look may miss.
    let mut busy = process.load_report().await;
    while busy.running_tokens < 5 {
        busy = process.load_report().await;
    }
    assert_eq!((busy.running_tokens, busy.waiting_tokens), (5, 0));
    assert!(busy.kv_use > 0.0 && busy.ttft_s.is_some(), "{busy:?}");
    gate.open();
    let mut last = busy;
    while last != EngineLoad::default() {
        let came = Instant::now();
        last = process.load_report().await;
        // The pause begins when the report was taken, which is after it came; a little less where
        // this test looked late.
        assert!(came.elapsed() > Duration::from_millis(500), "{:?}", came.elapsed());
    }
    asked.await.unwrap();
    assert!(process.end().await.is_ok());
}
