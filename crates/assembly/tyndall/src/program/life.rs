//! The life of a replica, from its socket to its end.
//!
//! 1. Bind the socket, so that `/-/status` says STARTING at once.
//! 2. Build the application, find the deployment, start it, hand it its `user_config`, check its
//!    health.
//! 3. Tell the controller that it is ready, or why it never will be.
//! 4. Serve.
//! 5. On SIGTERM refuse what is new, finish what was begun, stop the deployment. WebSockets may go on
//!    for nearly as long as the drain takes, and are told then.
//!
//! The links to the controller that its own calls need are there from the first handle that is read
//! in step 2 up to the end of step 5.

use super::host::App;
use super::ongoing::Requests;
use super::routes::Routes;
use super::standby;
use crate::application::Built;
use crate::caller::Caller;
use crate::context::{Metadata, ReplicaContext, ReplicaFacts};
use crate::described::ProgramInit;
use crate::error::{Error, Result};
use crate::held::HeldModels;
use crate::servant::Servant;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::Method;
use serde_json::Value;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tyndall_telemetry::{ProgramLabels, ProgramMetrics};
use tyndall_transport::{Client, Listener, ServeOptions, polling_runtime, serve};
use tyndall_types::ReplicaId;
use tyndall_types::protocol::{
    ColdStartPhases, DeploymentConfig, GangContext, ReplicaReport, RuntimeDir, Workload,
};

/// How long a replica that cannot start tries to say so.
const LAST_WORDS: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(500);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// After a report of the models until the next, as in Ray.
const MODELS_PAUSE: Duration = Duration::from_millis(100);

/// What is open so long before the drain time is over is told that it ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a replica is started with.
pub(super) struct ReplicaOptions {
    pub(super) runtime_dir: RuntimeDir,
    pub(super) id: ReplicaId,
    pub(super) config: DeploymentConfig,
    pub(super) rank: u32,
    pub(super) gang: Option<GangContext>,
    /// When the process began; cold-start phases count from here.
    pub(super) started_at: Instant,
}

/// Why a replica ends other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplicaError {
    #[error("failed to listen on {path}; check that the runtime directory exists and is short")]
    Listen {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to set up the process")]
    System(#[source] std::io::Error),
    /// It was reported to the controller.
    #[error("the deployment cannot start: {reason}")]
    Start { reason: String },
}

/// What a replica's value is made from.
#[derive(Clone)]
pub struct ReplicaStart {
    /// Which of the program's deployments.
    pub deployment: String,
    /// What it is made from.
    pub init: ProgramInit,
    /// All that holds for the deployment; `user_config` is to be taken before the start is done,
    /// unless it is null.
    pub config: DeploymentConfig,
    /// The replica.
    pub context: ReplicaContext,
    /// The way to other deployments.
    pub caller: Arc<dyn Caller>,
}

impl std::fmt::Debug for ReplicaStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ReplicaStart").field(&self.deployment).finish()
    }
}

/// Makes it, hands it its `user_config`, and checks its health.
pub(crate) trait Start:
    FnOnce(ReplicaStart) -> BoxFuture<'static, Result<Arc<dyn Servant>>>
{
}

impl<F: FnOnce(ReplicaStart) -> BoxFuture<'static, Result<Arc<dyn Servant>>>> Start for F {}

/// Starts a deployment of an application that is built here.
pub(super) fn from_application(build: impl FnOnce(Value) -> Result<Built>) -> impl Start {
    move |started: ReplicaStart| {
        let found = build(started.init.args).and_then(|built| {
            let part = built.find(&started.deployment)?;
            let user_config = started.config.user_config;
            Ok(part.start(started.init.init, started.caller, started.context, user_config))
        });
        async move { found?.await }.boxed()
    }
}

/// The threads of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// Its code runs on them: as many as it has CPUs.
    Shared,
    /// Its code has threads of its own. A second one would be woken by each answer that comes from
    /// there, and would wake the first.
    Apart,
}

impl Threads {
    /// How many there are.
    fn count(self, config: &DeploymentConfig) -> usize {
        match self {
            Self::Shared => config.resources.num_cpus.ceil().clamp(1.0, 256.0) as usize,
            Self::Apart => 1,
        }
    }
}

/// Is a replica until it is told to end.
pub(super) fn block_on(
    options: ReplicaOptions,
    threads: Threads,
    start: impl Start,
) -> Result<(), ReplicaError> {
    let count = threads.count(&options.config);
    let runtime = match count {
        1 => polling_runtime(),
        more => Builder::new_multi_thread().worker_threads(more).enable_all().build(),
    };
    // One thread may be held up by code that computes.
    let may_stall = threads == Threads::Shared && count == 1;
    let runtime = runtime.map_err(ReplicaError::System)?;
    let outcome = runtime.block_on(async {
        let terminate = signal(SignalKind::terminate()).map_err(ReplicaError::System)?;
        let interrupt = signal(SignalKind::interrupt()).map_err(ReplicaError::System)?;
        run(options, may_stall, start, either(terminate, interrupt)).await
    });
    // Blocking work that outlasts the drain is not waited for; the process ends with its main.
    runtime.shutdown_background();
    outcome
}

async fn either(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

async fn run(
    options: ReplicaOptions,
    may_stall: bool,
    make: impl Start,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ReplicaError> {
    let socket = options.runtime_dir.replica_socket(&options.id);
    let listener = Listener::bind_unix(&socket)
        .map_err(|source| ReplicaError::Listen { path: socket.display().to_string(), source })?;
    let process = options.started_at.elapsed();
    let metrics = Arc::new(ProgramMetrics::new(ProgramLabels {
        application: options.config.id.application.to_string(),
        deployment: options.config.id.deployment.to_string(),
        replica: options.id.to_string(),
    }));
    let requests = Requests::new(options.config.max_ongoing_requests, metrics.clone());
    let held = Arc::<HeldModels>::default();
    let metadata = Arc::<Metadata>::default();
    let app = App::new(options.id.clone(), requests.clone(), held.clone(), metadata.clone());
    let drain = Duration::try_from_secs_f64(options.config.graceful_shutdown_timeout_s);
    let drain = drain.unwrap_or(Duration::MAX);
    let routes = Arc::new(Routes::new(
        &options.runtime_dir,
        &options.id,
        options.config.id.application.clone(),
    ));
    let mut links = JoinSet::new();
    links.spawn(routes.clone().run());
    let (stop, stopped) = watch::channel(());
    let serve_options = ServeOptions::of_replica(drain);
    let stands_by = may_stall
        .then(|| standby::begin(&listener, app.clone(), serve_options, stopped.clone()))
        .transpose()
        .map_err(ReplicaError::System)?;
    let standing_by = async {
        match stands_by {
            Some(cut) => cut.await.unwrap_or_default(),
            None => 0,
        }
    };
    let serving = serve(listener, app.clone(), serve_options, standby::end_of(stopped));
    let own = (held.clone(), metadata.clone());
    let begin = |options| start(options, make, routes, metrics, own);
    let said = Said { models: held.watch(), metadata, requests };
    let living = async {
        let outcome = live(&app, options, process, said, begin, shutdown).await;
        let servant = app.set_stopping();
        servant.iter().for_each(|servant| servant.leave());
        let since = Instant::now();
        drop(stop);
        (outcome, servant, since)
    };
    let ending = async {
        app.stopping().await;
        tokio::time::sleep(drain.saturating_sub(FAREWELL.min(drain / 4))).await;
        app.set_over();
        std::future::pending::<Infallible>().await
    };
    let all = async { tokio::join!(serving, standing_by, living) };
    let (cut, cut_there, (outcome, servant, since)) = tokio::select! {
        done = all => done,
        never = ending => match never {},
    };
    if cut + cut_there > 0 {
        tracing::warn!(connections = cut + cut_there, "cut because the drain time was over");
    }
    if let Some(servant) = servant {
        let left = drain.saturating_sub(since.elapsed());
        if tokio::time::timeout(left, servant.stop()).await.is_err() {
            tracing::warn!("the drain time was over before the deployment had stopped");
        }
    }
    drop(links);
    outcome
}

/// Starts, reports, and waits for the end.
async fn live<S>(
    app: &App,
    options: ReplicaOptions,
    process: Duration,
    said: Said,
    start: impl FnOnce(ReplicaOptions) -> S,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ReplicaError>
where
    S: Future<Output = Result<Arc<dyn Servant>>>,
{
    let controller = Client::unix(options.runtime_dir.controller_socket());
    let id = options.id.clone();
    let begun = Instant::now();
    tokio::pin!(shutdown);
    let started = tokio::select! {
        () = &mut shutdown => return Ok(()),
        started = start(options) => started,
    };
    let servant = match started {
        Ok(servant) => servant,
        Err(error) => {
            let reason = error.to_string();
            let report = ReplicaReport::Failed { reason: reason.clone() };
            let is_told = tokio::select! {
                // Whoever heard it may end the process before it answers.
                () = &mut shutdown => true,
                told = tokio::time::timeout(LAST_WORDS, send(&controller, &id, &report)) => told.is_ok(),
            };
            // Who was told logs it.
            if !is_told {
                tracing::error!(reason, "the deployment cannot start");
            }
            return Err(ReplicaError::Start { reason });
        }
    };
    app.set_running(servant);
    let phases = [("process", process), ("start", begun.elapsed())];
    let phases = phases.map(|(name, time)| (name.to_owned(), time.as_secs_f64())).to_vec();
    let ready = ReplicaReport::Ready { phases: ColdStartPhases(phases), card: None };
    let reported = async {
        if let Some(metadata) = said.metadata.get().cloned() {
            send(&controller, &id, &ReplicaReport::Metadata { metadata }).await;
        }
        send(&controller, &id, &ready).await;
        let answered = async {
            said.requests.first_answer().await;
            send(&controller, &id, &ReplicaReport::Answered).await;
        };
        tokio::join!(report_models(&controller, &id, said.models), answered);
    };
    tokio::select! {
        () = &mut shutdown => {
            tracing::info!("draining");
            // Beside the drain: whoever wanted this may be gone.
            tokio::spawn(async move {
                let told = send(&controller, &id, &ReplicaReport::Leaving);
                drop(tokio::time::timeout(LAST_WORDS, told).await);
            });
        }
        () = reported => {}
    }
    Ok(())
}

/// What a replica tells the controller once it runs.
struct Said {
    models: watch::Receiver<Vec<String>>,
    metadata: Arc<Metadata>,
    requests: Arc<Requests>,
}

/// Reports which models there are, whenever that changes, for ever.
async fn report_models(
    controller: &Client,
    id: &ReplicaId,
    mut models: watch::Receiver<Vec<String>>,
) {
    let mut told = Vec::new();
    loop {
        let ids = models.borrow_and_update().clone();
        if ids != told {
            told.clone_from(&ids);
            send(controller, id, &ReplicaReport::Models { ids }).await;
            tokio::time::sleep(MODELS_PAUSE).await;
        } else if models.changed().await.is_err() {
            // The replica ends.
            return std::future::pending().await;
        }
    }
}

async fn start(
    options: ReplicaOptions,
    make: impl Start,
    routes: Arc<Routes>,
    metrics: Arc<ProgramMetrics>,
    (held, metadata): (Arc<HeldModels>, Arc<Metadata>),
) -> Result<Arc<dyn Servant>> {
    let config = options.config;
    let Workload::Program(program) = &config.workload else {
        return Err(Error::options(
            "the deployment is a model, which this program does not serve; start it with `tyndall`",
        ));
    };
    let init: ProgramInit = serde_json::from_value(program.init.clone()).map_err(|error| {
        Error::options(format!(
            "the deployment's init is not one of a program: {error}; deploy the program again"
        ))
    })?;
    let deployment = program.deployment.clone();
    let facts = ReplicaFacts {
        application: config.id.application.clone(),
        deployment: deployment.clone(),
        replica_id: options.id,
        max_ongoing_requests: config.max_ongoing_requests,
        rank: options.rank,
        gang: options.gang,
        metrics,
        held,
        metadata,
    };
    let context = ReplicaContext { facts: Arc::new(facts) };
    make(ReplicaStart { deployment, init, config, context, caller: routes }).await
}

/// Sends a report until the controller has taken it. A report may arrive twice, which means the
/// same.
async fn send(controller: &Client, id: &ReplicaId, report: &ReplicaReport) {
    let path = format!("/-/replicas/{id}/report");
    let mut pause = FIRST_PAUSE;
    loop {
        let told = controller.tell(Method::POST, &path, report);
        match tokio::time::timeout(ANSWER_TIMEOUT, told).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::debug!(%error, "the controller did not take a report"),
            Err(_) => tracing::debug!("the controller does not answer"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod websockets;
