//! Feeds the control core with events and carries out its actions.
//!
//! One task owns the [`State`](tyndall_control::State), the store and the metrics (`service.rs`).
//! It sleeps until a message comes or the core's next deadline passes; there is no period.
//!
//! ```text
//!  proxies, replicas, cli ──HTTP──► api ──┐                     ┌──► routes ──lines──► proxies
//!                                         ├─messages─► service ─┼──► supervisor client
//!  supervisor ──lines──► process events ──┘                     └──► store, metrics, log
//! ```
#![forbid(unsafe_code)]

mod api;
mod builds;
mod clock;
mod code;
mod health;
mod logs;
mod metrics;
mod models;
mod notices;
mod origins;
mod policies;
mod processes;
mod ray;
mod service;
mod store;
mod submissions;
mod supervisor;

pub use builds::Builder;
pub use metrics::ControllerMetrics;
pub use ray::{Grpc, Http, Instance};
pub use store::{
    Store, StoreError, StoredApplication, StoredEvent, StoredVersion, Submission, Usage,
};
pub use tyndall_control::Capacity;

use crate::api::{Api, Scope};
use crate::service::{Parts, Service};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tyndall_transport::{Client, ClientError, Listener, ServeOptions, serve};
use tyndall_types::protocol::RuntimeDir;

/// Messages that may wait for the service; senders wait beyond that.
const MAX_MESSAGES: usize = 1024;
/// Whoever asked for the end on the admin port has its answer by then.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What the controller's process is told.
#[derive(Debug)]
pub struct ControllerOptions {
    /// Where the sockets of the node lie.
    pub runtime_dir: RuntimeDir,
    /// Where `state.db` lies; absent keeps nothing.
    pub state_dir: Option<PathBuf>,
    /// The admin port.
    pub admin: Listener,
    /// What the admin port asks for as `Authorization: Bearer`; absent asks for nothing.
    pub admin_token: Option<String>,
    /// How applications of config files are built.
    pub builder: Builder,
    /// What the machine has for replicas.
    pub capacity: Capacity,
    /// What is told of this instance.
    pub instance: Instance,
    /// Where the logs of the node go, if not to a terminal.
    pub log_file: Option<PathBuf>,
}

/// Why the controller ended.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The state cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its own socket cannot be bound.
    #[error("failed to listen on {path}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The signal handler cannot be set.
    #[error("failed to set up the controller")]
    System(#[source] std::io::Error),
    /// The supervisor does not answer.
    #[error("failed to reach the supervisor")]
    Supervisor(#[source] ClientError),
    /// The supervisor ended its stream of events: it is gone, or this process was too slow. A new
    /// controller starts from what runs then.
    #[error("the supervisor's events ended")]
    EventsEnded,
}

/// Runs the controller until SIGTERM. What the admin port was asked before that is answered.
///
/// # Errors
/// [`ControllerError`]; the supervisor starts another one then.
pub async fn run(options: ControllerOptions) -> Result<(), ControllerError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ControllerError::System)?;
    let store = options.state_dir.as_deref().map(Store::open).transpose()?;
    let state_dir = options.state_dir.as_deref();
    let code_dir = state_dir.unwrap_or(options.runtime_dir.path()).join("code");
    let (messages, inbox) = mpsc::channel(MAX_MESSAGES);
    let supervisor = Client::unix(options.runtime_dir.supervisor_socket());
    let events = supervisor::events(&supervisor).await.map_err(ControllerError::Supervisor)?;
    let (routes, routes_seen) = watch::channel(0);
    let commands = supervisor::commands(supervisor.clone(), messages.clone());
    let metrics = Arc::new(ControllerMetrics::new());
    let mut service = Service::new(Parts {
        runtime_dir: options.runtime_dir.clone(),
        store,
        builder: options.builder,
        code_dir: code_dir.clone(),
        capacity: options.capacity,
        commands,
        routes,
        messages: messages.clone(),
        metrics: metrics.clone(),
    });
    service.restore()?;

    let instance = Arc::new(options.instance);
    let log_file = options.log_file.map(Arc::new);
    let token: Option<Arc<str>> = options.admin_token.map(Arc::from);
    let is_loopback = options.admin.tcp_addr().is_none_or(|address| address.ip().is_loopback());
    let code_dir = Arc::new(code_dir);
    let path = options.runtime_dir.controller_socket();
    let socket =
        Listener::bind_unix(&path).map_err(|source| ControllerError::Socket { path, source })?;
    let api = |scope| Api {
        messages: messages.clone(),
        routes: routes_seen.clone(),
        supervisor: supervisor.clone(),
        instance: instance.clone(),
        token: token.clone(),
        metrics: metrics.clone(),
        log_file: log_file.clone(),
        runtime_dir: options.runtime_dir.clone(),
        code_dir: code_dir.clone(),
        takes_code: scope == Scope::Node || is_loopback || token.is_some(),
        scope,
    };
    let serve_options = ServeOptions { drain: Duration::ZERO, ..ServeOptions::default() };
    let internal = serve(socket, api(Scope::Node), serve_options, std::future::pending());
    let admin_options = ServeOptions { drain: LAST_ANSWERS, ..serve_options };
    let admin = serve(options.admin, api(Scope::Admin), admin_options, async {
        terminate.recv().await;
    });
    // All on this task: whichever ends first, the rest is dropped with it. The routes that proxies
    // read never end by themselves, so the internal socket is not waited for.
    tokio::select! {
        () = service.run(inbox) => Ok(()),
        () = supervisor::follow(events, &messages) => Err(ControllerError::EventsEnded),
        _ = internal => Ok(()),
        _ = admin => Ok(()),
    }
}
