//! The life of the process, from its socket to its end.

use crate::app::App;
use crate::load::load;
use crate::phases::PhaseClock;
use crate::ready::FirstToken;
use crate::report::send;
use crate::served::Served;
use crate::{ReplicaError, ReplicaOptions};
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tyndall_engine::StopCause;
use tyndall_transport::{Client, Listener, ServeOptions, serve};
use tyndall_types::ReplicaId;
use tyndall_types::protocol::{EngineLoad, ReplicaReport};

/// How long a replica that cannot start tries to say so.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// After a report of the engine's load until it is looked at again.
const LOAD_PAUSE: Duration = Duration::from_secs(1);

/// How long the end waits for the report of the first token.
const FIRST_TOKEN_END: Duration = Duration::from_secs(1);
/// How long the engine's last step may take when the process ends.
const ENGINE_END: Duration = Duration::from_secs(2);

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// [`ReplicaError`]; the process should exit with an error, so that it is replaced.
///
/// # Cancel safety
/// Dropping the future cuts every connection and ends the engine.
pub async fn run(options: ReplicaOptions) -> Result<(), ReplicaError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ReplicaError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ReplicaError::Signal)?;
    let asked_to_end = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    run_until(options, asked_to_end).await
}

/// Serves until `shutdown` resolves, then drains.
///
/// # Errors
/// [`ReplicaError`].
///
/// # Cancel safety
/// As [`run`].
pub async fn run_until(
    options: ReplicaOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ReplicaError> {
    run_with(options, load, shutdown).await
}

/// [`run_until`] with another way to come to a model.
pub(crate) async fn run_with<L>(
    options: ReplicaOptions,
    load: impl FnOnce(ReplicaOptions, PhaseClock) -> L,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ReplicaError>
where
    L: Future<Output = Result<(Served, PhaseClock), String>>,
{
    let mut clock = PhaseClock::since(options.started_at);
    let socket = options.runtime_dir.replica_socket(&options.id);
    let listener = Listener::bind_unix(&socket)
        .map_err(|source| ReplicaError::Listen { path: socket.display().to_string(), source })?;
    clock.end("process");
    let app = App::new(options.id.clone());
    let drain = Duration::try_from_secs_f64(options.config.graceful_shutdown_timeout_s);
    let serve_options = ServeOptions::of_replica(drain.unwrap_or(Duration::MAX));
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = serve(listener, app.clone(), serve_options, async { drop(stopped.await) });
    let living = async {
        let controller = Client::unix(options.runtime_dir.controller_socket());
        let id = options.id.clone();
        let outcome = live(&app, &id, &controller, load(options, clock), shutdown).await;
        let ready = app.set_stopping();
        drop(stop);
        (outcome, ready)
    };
    let (cut, (outcome, ready)) = tokio::join!(serving, living);
    if cut > 0 {
        tracing::warn!(connections = cut, "cut because the drain time was over");
    }
    if let Some(ready) = ready {
        ready.shutdown();
        drop(tokio::time::timeout(ENGINE_END, ready.stopped()).await);
    }
    outcome
}

/// Loads, reports, and waits for the end.
async fn live(
    app: &App,
    id: &ReplicaId,
    controller: &Client,
    loading: impl Future<Output = Result<(Served, PhaseClock), String>>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ReplicaError> {
    tokio::pin!(shutdown);
    let loaded = tokio::select! {
        () = &mut shutdown => return Ok(()),
        loaded = loading => loaded,
    };
    let (ready, clock) = match loaded {
        Ok(loaded) => loaded,
        Err(reason) => {
            let report = ReplicaReport::Failed { reason: reason.clone() };
            let is_told = tokio::select! {
                // Whoever heard it may end the process before it answers.
                () = &mut shutdown => true,
                told = tokio::time::timeout(LAST_WORDS, send(controller, id, &report)) => told.is_ok(),
            };
            // Who was told logs it.
            if !is_told {
                tracing::error!(reason, "the model cannot be served");
            }
            return Err(ReplicaError::Load { reason });
        }
    };
    tracing::debug!(phases = ?clock.phases().0, "ready");
    app.set_running(ready.clone(), clock.clone());
    let (told, is_told) = oneshot::channel();
    let reports = async {
        let (phases, card) = (clock.phases(), Some(ready.card().clone()));
        send(controller, id, &ReplicaReport::Ready { phases, card }).await;
        let first_token = async {
            report_first_token(&ready, controller, id, &clock).await;
            // Nobody waits for it before the end.
            let _sent = told.send(());
            ready.save_tokenizer();
        };
        tokio::join!(first_token, report_load(&ready, controller, id));
    };
    tokio::pin!(reports);
    tokio::select! {
        () = &mut shutdown => {
            tracing::info!("draining");
            // Beside the drain: whoever wanted this may be gone.
            let (controller, own) = (controller.clone(), id.clone());
            tokio::spawn(async move {
                let told = send(&controller, &own, &ReplicaReport::Leaving);
                drop(tokio::time::timeout(LAST_WORDS, told).await);
            });
            // One that nobody needs any more may be told to end before it has told of its first token.
            if ready.first_token().borrow().is_some() {
                tokio::select! {
                    _ = is_told => {}
                    () = &mut reports => {}
                    () = tokio::time::sleep(FIRST_TOKEN_END) => {}
                }
            }
            Ok(())
        }
        cause = ready.stopped() => match cause {
            StopCause::Shutdown => Ok(()),
            StopCause::Failed { reason } => {
                Err(ReplicaError::Engine { reason: reason.to_string() })
            }
        },
        () = &mut reports => Ok(()),
    }
}

/// Called when the controller knows that the replica is ready: its part of the time ends here.
async fn report_first_token(
    ready: &Served,
    controller: &Client,
    id: &ReplicaId,
    clock: &PhaseClock,
) {
    let told = Instant::now();
    let mut first_token = ready.first_token().clone();
    // An error means that the engine is gone, which ends the process elsewhere.
    if let Ok(first) = first_token.wait_for(Option::is_some).await.map(|first| *first)
        && let Some(FirstToken { at, after }) = first
    {
        let phases = clock.with_first_token(at.saturating_duration_since(told + after), after);
        send(controller, id, &ReplicaReport::FirstToken { phases }).await;
    }
}

/// Reports how busy the engine is, for ever.
async fn report_load(ready: &Served, controller: &Client, id: &ReplicaId) {
    let mut told = EngineLoad::default();
    loop {
        told = ready.load_signal().other_than(told, || ready.stats()).await;
        send(controller, id, &ReplicaReport::Load(told)).await;
        tokio::time::sleep(LOAD_PAUSE).await;
    }
}
