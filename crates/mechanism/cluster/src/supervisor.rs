//! Start-up, readiness and the order of the end.
//!
//! The end, begun by SIGTERM, SIGINT or `POST /-/shutdown`:
//!
//! 1. The supervisor's copies of the listeners are closed, the proxy is asked to end. It finishes
//!    what it has, also requests that still wait for a replica, so replicas may still be started.
//! 2. The replicas are asked to end. Nothing is started any more.
//! 3. What they share is asked to end.
//! 4. The controller is asked to end.
//!
//! Each step has the drain time, then SIGKILL. A second signal kills everything at once.

use crate::api::Api;
use crate::processes::{Kind, Processes, SpawnError};
use crate::roles::Role;
use bytes::Bytes;
use http::Request;
use std::collections::BTreeMap;
use std::iter;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tyndall_transport::{Client, ClientError, Listener, ServeOptions, reachable, read_body, serve};
use tyndall_types::protocol::RuntimeDir;

/// The id of the only proxy.
const PROXY_ID: &str = "proxy-0";
/// What the controller gets to close its files in, and what replicas share.
const CONTROLLER_GRACE: Duration = Duration::from_secs(5);
/// A killed process is gone in milliseconds, unless it hangs in the kernel.
const KILL_DEADLINE: Duration = Duration::from_secs(5);
/// A process ends its own drain first; the supervisor's deadline is for those that hang.
const DRAIN_MARGIN: Duration = Duration::from_secs(2);

/// What a [`Supervisor`] is made of.
#[derive(Debug)]
pub struct SupervisorOptions {
    /// Started as every role; usually this same executable.
    pub executable: PathBuf,
    /// Added to the environment that every process inherits.
    pub env: BTreeMap<String, String>,
    /// Where the sockets go; see [`NodeDir`](crate::NodeDir).
    pub runtime_dir: RuntimeDir,
    /// Where the controller keeps its state; absent is the runtime directory, so that a new
    /// controller finds the deployments as long as the supervisor lives.
    pub state_dir: Option<PathBuf>,
    /// The public port; passed to the proxy.
    pub public: TcpListener,
    /// The port of gRPC, where it is served; passed to the proxy behind the public one.
    pub grpc: Option<TcpListener>,
    /// The admin port; passed to the controller.
    pub admin: TcpListener,
    /// How long the proxy, and then the replicas, may take to finish what they have.
    pub drain: Duration,
    /// Further arguments of the controller's role.
    pub controller_args: Vec<String>,
    /// Further arguments of the proxy's role.
    pub proxy_args: Vec<String>,
}

/// Why the supervisor did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The supervisor's socket cannot be bound.
    #[error("failed to listen on {path}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A listener or signal handler cannot be used.
    #[error("failed to set up the supervisor")]
    System(#[source] std::io::Error),
    /// A role cannot be started.
    #[error("failed to start a role")]
    Role(#[from] SpawnError),
}

/// A role does not answer.
#[derive(Debug, thiserror::Error)]
#[error("the {role} did not answer on {address} within {waited:?}; its log above says why")]
pub struct NotReady {
    /// Which.
    pub role: &'static str,
    /// Where it was asked.
    pub address: SocketAddr,
    /// How long.
    pub waited: Duration,
}

/// How the end went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitSummary {
    /// A second signal cut it short.
    pub was_forced: bool,
    /// Processes that were killed because they did not end in time.
    pub num_killed: usize,
}

/// Ends the node as SIGTERM would.
#[derive(Debug, Clone)]
pub struct ShutdownTrigger(Arc<Notify>);

impl ShutdownTrigger {
    /// Begins the end; a second call forces it.
    pub fn shutdown(&self) {
        self.0.notify_one();
    }
}

/// The foreground process of a node. Wants a current-thread runtime on the main thread: children
/// are tied to the thread that started them.
#[derive(Debug)]
pub struct Supervisor {
    processes: Processes,
    runtime_dir: RuntimeDir,
    drain: Duration,
    public: SocketAddr,
    admin: SocketAddr,
    api: JoinHandle<usize>,
    end_proxy: Keeper,
    end_controller: Keeper,
    signals: Signals,
}

#[derive(Debug)]
struct Keeper {
    ending: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Keeper {
    fn of(role: Role, processes: &Processes) -> Result<Self, SpawnError> {
        role.start(processes)?;
        let (ending, is_ending) = watch::channel(false);
        let task = tokio::spawn(role.keep(processes.clone(), is_ending));
        Ok(Self { ending, task })
    }

    /// The role is not started again, and its listener is closed here.
    async fn end(&mut self) {
        self.ending.send_replace(true);
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "a role's keeper failed");
        }
    }
}

#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    requested: Arc<Notify>,
}

impl Signals {
    /// The next wish that the node ends.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = self.requested.notified() => {}
        }
    }
}

impl Supervisor {
    /// Opens the supervisor's socket and starts the controller and the proxy.
    ///
    /// # Errors
    /// [`StartError`]; what was started is ended again.
    #[expect(clippy::unused_async, reason = "it needs a runtime, which this says")]
    pub async fn start(options: SupervisorOptions) -> Result<Self, StartError> {
        let system = StartError::System;
        let requested = Arc::new(Notify::new());
        let signals = Signals {
            terminate: signal(SignalKind::terminate()).map_err(system)?,
            interrupt: signal(SignalKind::interrupt()).map_err(system)?,
            requested: requested.clone(),
        };
        let public = options.public.local_addr().map_err(system)?;
        let admin = options.admin.local_addr().map_err(system)?;
        let path = options.runtime_dir.supervisor_socket();
        let listener =
            Listener::bind_unix(&path).map_err(|source| StartError::Socket { path, source })?;
        let processes = Processes::new(options.executable, options.env);
        let api = Api { processes: processes.clone(), shutdown: requested };
        let serve_options = ServeOptions { drain: Duration::ZERO, ..ServeOptions::default() };
        let api = tokio::spawn(serve(listener, api, serve_options, std::future::pending()));

        let runtime_dir = options.runtime_dir;
        let directory = runtime_dir.path().display().to_string();
        let state_dir = options.state_dir.as_deref().unwrap_or(runtime_dir.path());
        let state_dir = state_dir.display().to_string();
        let role = |name: &str, more: &[&str], extra: Vec<String>| {
            let base = ["role", name, "--runtime-dir", &directory];
            base.iter().chain(more).map(ToString::to_string).chain(extra).collect::<Vec<_>>()
        };
        let controller = Role {
            id: "controller",
            kind: Kind::Controller,
            args: role("controller", &["--state-dir", &state_dir], options.controller_args),
            listeners: vec![options.admin],
        };
        let proxy = Role {
            id: PROXY_ID,
            kind: Kind::Proxy,
            args: role("proxy", &["--id", PROXY_ID], options.proxy_args),
            listeners: iter::once(options.public).chain(options.grpc).collect(),
        };
        Ok(Self {
            end_controller: Keeper::of(controller, &processes)?,
            end_proxy: Keeper::of(proxy, &processes)?,
            processes,
            drain: options.drain,
            runtime_dir,
            public,
            admin,
            api,
            signals,
        })
    }

    /// Where the node's sockets lie.
    #[must_use]
    pub fn runtime_dir(&self) -> &RuntimeDir {
        &self.runtime_dir
    }

    /// Lets other tasks end the node.
    #[must_use]
    pub fn shutdown_trigger(&self) -> ShutdownTrigger {
        ShutdownTrigger(self.signals.requested.clone())
    }

    /// Waits until the controller answers, on its socket as on the admin port.
    ///
    /// # Errors
    /// [`NotReady`] after `deadline`.
    pub async fn controller_ready(&self, deadline: Duration) -> Result<(), NotReady> {
        answers("controller", self.admin, "/-/healthz", deadline).await
    }

    /// Waits until the proxy answers on the public port.
    ///
    /// # Errors
    /// [`NotReady`] after `deadline`.
    pub async fn proxy_ready(&self, deadline: Duration) -> Result<(), NotReady> {
        answers("proxy", self.public, "/livez", deadline).await
    }

    /// Runs until the node shall end, then ends every process in order. Nothing is left then.
    pub async fn run_until_shutdown(mut self) -> ExitSummary {
        self.signals.next().await;
        tracing::info!("shutting down; a second signal ends everything at once");
        let mut signals = self.signals;
        let end = end_in_order(
            &self.processes,
            &mut self.end_proxy,
            &mut self.end_controller,
            self.drain,
        );
        let was_forced = tokio::select! {
            () = end => false,
            () = signals.next() => true,
        };
        if was_forced {
            self.end_proxy.ending.send_replace(true);
            self.end_controller.ending.send_replace(true);
            self.processes.refuse_starts();
            let all = [Kind::Proxy, Kind::Waiting, Kind::Replica, Kind::Shared, Kind::Controller];
            for kind in all {
                self.processes.stop_all(kind, Duration::ZERO);
            }
            let gone = async {
                for kind in all {
                    self.processes.all_gone(kind).await;
                }
            };
            if tokio::time::timeout(KILL_DEADLINE, gone).await.is_err() {
                tracing::error!("killed processes hang in the kernel; they go when it lets them");
            }
        }
        self.api.abort();
        ExitSummary { was_forced, num_killed: self.processes.num_killed() }
    }
}

async fn end_in_order(
    processes: &Processes,
    proxy: &mut Keeper,
    controller: &mut Keeper,
    drain: Duration,
) {
    let grace = drain + DRAIN_MARGIN;
    proxy.end().await;
    processes.stop_all(Kind::Proxy, grace);
    processes.all_gone(Kind::Proxy).await;
    processes.refuse_starts();
    for kind in [Kind::Waiting, Kind::Replica] {
        processes.stop_all(kind, grace);
    }
    for kind in [Kind::Waiting, Kind::Replica] {
        processes.all_gone(kind).await;
    }
    processes.stop_all(Kind::Shared, CONTROLLER_GRACE);
    processes.all_gone(Kind::Shared).await;
    controller.end().await;
    processes.stop_all(Kind::Controller, CONTROLLER_GRACE);
    processes.all_gone(Kind::Controller).await;
}

/// Asks until there is a success. The port is open from the start, so that the first question
/// usually waits in the kernel until the role takes it: this is no polling.
async fn answers(
    role: &'static str,
    address: SocketAddr,
    path: &str,
    deadline: Duration,
) -> Result<(), NotReady> {
    let client = Client::tcp(reachable(address));
    let ask = async {
        loop {
            let request = Request::get(path).body(Bytes::new()).expect("a constant path");
            match client.send(request).await {
                Ok(answer) if answer.status().is_success() => {
                    drop(read_body(answer.into_body(), 64 << 10).await);
                    return;
                }
                Ok(_) | Err(ClientError::Broken { .. } | ClientError::Connect { .. }) => {}
                Err(ClientError::Status { .. } | ClientError::Json { .. }) => {}
            }
            // It ended with the question in its hands: wait for the next one.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let began = Instant::now();
    let asked = tokio::time::timeout(deadline, ask).await;
    asked.map_err(|_| NotReady { role, address, waited: began.elapsed() })
}
