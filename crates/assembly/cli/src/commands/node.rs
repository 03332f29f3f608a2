//! A node in this process: its listeners, its supervisor, its end.

use crate::commands::keys;
use crate::failure::Failure;
use crate::machine::{GPUS_VARIABLE, available_memory_bytes, gpus, hostname};
use std::collections::BTreeMap;
use std::future::Future;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tyndall_cluster::process::{ended, raise_file_limit};
use tyndall_cluster::{NodeDir, Supervisor, SupervisorOptions};
use tyndall_config::{Environment, GrpcSettings, Origin, RunConfig};
use tyndall_controller::Store;
use tyndall_transport::reachable;

/// How long controller and proxy may take to answer. They do nothing slow before that; a machine
/// under heavy load is the only reason to wait long.
pub(crate) const START_DEADLINE: Duration = Duration::from_secs(60);
const INTERRUPTED: u8 = 130;

/// A node that is not started yet: its ports are taken, so that nothing is begun in vain.
pub(crate) struct Node {
    public: TcpListener,
    grpc: Option<TcpListener>,
    admin: TcpListener,
}

/// What a controller is told beside its settings.
#[derive(Debug, Default)]
pub(crate) struct ControllerExtras {
    /// Of a config file's `http_options`.
    pub(crate) request_timeout_s: Option<f64>,
    /// Where the logs of the node go, if not to a terminal.
    pub(crate) log_file: Option<PathBuf>,
    /// The process with whose end the node ends.
    pub(crate) owner_pid: Option<u32>,
}

impl Node {
    /// Takes both ports and looks whether the state can be used.
    pub(crate) fn new(config: &RunConfig) -> Result<Self, Failure> {
        raise_file_limit();
        if let Some(file) = &config.api_keys.file {
            // The proxy reads it again; what is wrong is told before anything starts.
            keys::read(file)?;
        }
        let public = bind(config.network.public, "--port")?;
        let grpc = config.grpc.as_ref().map(|grpc| bind(grpc.address, "--grpc-port"));
        let admin = bind(config.network.admin, "--admin-port")?;
        if let Some(dir) = &config.state_dir {
            // Closed again at once: it is the controller's. A failure is told before anything starts.
            Store::open(dir).map_err(|error| Failure::of(&error))?;
        }
        Ok(Self { public, grpc: grpc.transpose()?, admin })
    }

    pub(crate) fn url(&self) -> Result<String, Failure> {
        url_of(&self.public)
    }

    pub(crate) fn admin_url(&self) -> Result<String, Failure> {
        url_of(&self.admin)
    }

    pub(crate) fn public_address(&self) -> Result<SocketAddr, Failure> {
        Ok(reachable(self.public.local_addr()?))
    }

    pub(crate) fn admin_address(&self) -> Result<SocketAddr, Failure> {
        Ok(reachable(self.admin.local_addr()?))
    }

    /// The node's life, on this thread: its children are tied to it. `begin` deploys what is to be
    /// served; its failure is the node's end.
    pub(crate) fn supervise<F>(
        self,
        config: &RunConfig,
        env: &Environment,
        extras: &ControllerExtras,
        begin: impl FnOnce(tyndall_types::protocol::RuntimeDir) -> F,
    ) -> Result<ExitCode, Failure>
    where
        F: Future<Output = Result<(), Failure>>,
    {
        let node = node_dir(env)?;
        let options = SupervisorOptions {
            executable: std::env::current_exe()?,
            env: child_env(config),
            runtime_dir: node.runtime_dir().clone(),
            state_dir: config.state_dir.clone(),
            drain: Duration::from_secs_f64(config.limits.graceful_timeout_s),
            controller_args: self.controller_args(config, env, extras)?,
            proxy_args: proxy_args(config)?,
            public: self.public,
            grpc: self.grpc,
            admin: self.admin,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let summary = runtime.block_on(async {
            let supervisor =
                Supervisor::start(options).await.map_err(|error| Failure::of(&error))?;
            let runtime_dir = supervisor.runtime_dir().clone();
            if let Some(pid) = extras.owner_pid {
                let trigger = supervisor.shutdown_trigger();
                tokio::spawn(async move {
                    if let Err(error) = ended(pid).await {
                        tracing::error!(%error, "failed to watch the program that started this");
                    }
                    trigger.shutdown();
                });
            }
            let started = tokio::select! {
                started = async {
                    let ready = supervisor.controller_ready(START_DEADLINE).await;
                    ready.map_err(|error| Failure::of(&error))?;
                    begin(runtime_dir).await
                } => started,
                // The supervisor has seen the signal too and acts on it below.
                () = interrupted() => Ok(()),
            };
            if started.is_err() {
                supervisor.shutdown_trigger().shutdown();
            }
            let summary = supervisor.run_until_shutdown().await;
            started.map(|()| summary)
        })?;
        drop(node);
        if summary.was_forced {
            return Ok(ExitCode::from(INTERRUPTED));
        }
        if summary.num_killed > 0 {
            let killed = summary.num_killed;
            return Err(Failure::new(format!(
                "{killed} processes did not end in time and were killed"
            ))
            .with_cure("give requests more time to finish with --graceful-timeout"));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn controller_args(
        &self,
        config: &RunConfig,
        env: &Environment,
        extras: &ControllerExtras,
    ) -> Result<Vec<String>, Failure> {
        let mut args = vec!["--public".to_owned(), self.public.local_addr()?.to_string()];
        args.extend(["--node-id".to_owned(), hostname()]);
        if let Some(grpc) = &config.grpc {
            args.extend(["--grpc-port".to_owned(), grpc.address.port().to_string()]);
            let functions = grpc.servicer_functions.join(",");
            args.extend(["--grpc-servicer-functions".to_owned(), functions]);
            args.extend(grpc_timeout(grpc));
            if !grpc.has_reflection {
                args.push("--grpc-disable-reflection".to_owned());
            }
        }
        // Measured once: later the models themselves would be missing from it.
        if let Some(bytes) = config.node.memory_bytes.or_else(available_memory_bytes) {
            args.extend(["--memory-bytes".to_owned(), bytes.to_string()]);
        }
        let gpus = gpus(env.get(GPUS_VARIABLE).map(String::as_str), config.node.num_gpus)?;
        if !gpus.is_empty() {
            args.extend(["--gpus".to_owned(), gpus.join(",")]);
        }
        if let Some(cpus) = config.node.num_cpus {
            args.extend(["--num-cpus".to_owned(), cpus.to_string()]);
        }
        for (name, amount) in &config.node.custom {
            args.extend(["--resource".to_owned(), format!("{amount} {name}")]);
        }
        let timeout_s = extras.request_timeout_s.unwrap_or(config.limits.request_timeout_s);
        args.extend(["--request-timeout-s".to_owned(), timeout_s.to_string()]);
        if let Some(file) = &extras.log_file {
            args.extend(["--log-file".to_owned(), file.display().to_string()]);
        }
        Ok(args)
    }
}

fn proxy_args(config: &RunConfig) -> Result<Vec<String>, Failure> {
    let mut args = vec!["--drain-s".to_owned(), config.limits.graceful_timeout_s.to_string()];
    if let Some(file) = &config.api_keys.file {
        args.extend(["--api-keys".to_owned(), std::path::absolute(file)?.display().to_string()]);
    }
    if let Some(cors) = &config.cors {
        let cors = serde_json::to_string(cors).expect("texts and numbers are JSON");
        args.extend(["--cors".to_owned(), cors]);
    }
    args.extend(config.grpc.iter().flat_map(grpc_timeout));
    Ok(args)
}

fn grpc_timeout(grpc: &GrpcSettings) -> impl Iterator<Item = String> + use<> {
    let words = grpc.request_timeout_s.map(|s| ["--grpc-timeout-s".to_owned(), s.to_string()]);
    words.into_iter().flatten()
}

/// The server's processes read their log settings, and keys that others may not see among their
/// arguments, in the environment; these are those that flags gave.
fn child_env(config: &RunConfig) -> BTreeMap<String, String> {
    let mut env = flag_env(config);
    // Replicas import these, as do the processes that look what an application has.
    let grpc = config.grpc.as_ref();
    let functions = grpc.map(|grpc| grpc.servicer_functions.join(",")).unwrap_or_default();
    let setting = tyndall_config::setting("grpc_servicer_functions").expect("a key of the table");
    env.insert(setting.env.to_owned(), functions);
    let has_reflection = grpc.is_some_and(|grpc| grpc.has_reflection);
    env.insert("TYNDALL_GRPC_REFLECTION".to_owned(), u8::from(has_reflection).to_string());
    let secrets = &config.api_keys.secrets;
    if !secrets.is_empty() {
        env.insert(keys::VARIABLE.to_owned(), secrets.join(","));
    }
    env
}

fn flag_env(config: &RunConfig) -> BTreeMap<String, String> {
    let given = ["log", "log_format", "python"].iter().filter_map(|key| {
        let line = config.effective.iter().find(|line| line.key == *key)?;
        let name = tyndall_config::setting(key)?.env;
        matches!(line.origin, Origin::Flag(_)).then(|| (name.to_owned(), line.value.clone()))
    });
    given.collect()
}

fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(address).map_err(|error| {
        let failure = Failure::new(format!("failed to listen on {address}: {error}"));
        match error.kind() {
            ErrorKind::AddrInUse => Failure::new(format!("port {} is in use", address.port()))
                .with_cure(format!(
                    "end what listens on {address}, or choose another port: {flag} 0 takes any"
                )),
            ErrorKind::PermissionDenied => failure.with_cure("ports below 1024 want privileges"),
            ErrorKind::AddrNotAvailable => failure.with_cure("choose an address of this machine"),
            _ => failure,
        }
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn url_of(listener: &TcpListener) -> Result<String, Failure> {
    Ok(format!("http://{}", reachable(listener.local_addr()?)))
}

/// A short path for sockets: the user's runtime directory, else the common temporary one.
fn node_dir(env: &Environment) -> Result<NodeDir, Failure> {
    let bases = ["XDG_RUNTIME_DIR", "TMPDIR"].iter().filter_map(|name| env.get(*name));
    let bases: Vec<PathBuf> = bases.map(PathBuf::from).filter(|dir| dir.is_dir()).collect();
    if let Some(node) = bases.iter().find_map(|base| NodeDir::create(base).ok()) {
        return Ok(node);
    }
    NodeDir::create(Path::new("/tmp")).map_err(|error| Failure::of(&error))
}

async fn interrupted() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
