//! `tyndall run`: finds and plans the model, starts the supervisor, deploys, waits for the end.

use crate::args::RunArgs;
use crate::commands::plan::{Planned, find};
use crate::failure::Failure;
use crate::output::print;
use bytes::Bytes;
use http::{Method, Request};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tyndall_bench::table;
use tyndall_cluster::process::raise_file_limit;
use tyndall_cluster::{NodeDir, Supervisor, SupervisorOptions};
use tyndall_config::{Environment, Origin, RunConfig};
use tyndall_controller::Store;
use tyndall_hub::ResolvedModel;
use tyndall_transport::{Client, reachable};
use tyndall_types::DeploymentName;
use tyndall_types::protocol::DeploymentConfig;

/// How long controller and proxy may take to answer. They do nothing slow before that; a machine
/// under heavy load is the only reason to wait long.
const START_DEADLINE: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(10);
const INTERRUPTED: u8 = 130;

pub(crate) fn run(args: RunArgs, env: &Environment) -> Result<ExitCode, Failure> {
    let config = tyndall_config::resolve(&args.settings.0, env)?;
    if args.print_config {
        print(&effective(&config))?;
        return Ok(ExitCode::SUCCESS);
    }
    crate::roles::init_logs("run", &config.log_filter, config.log_format)?;
    raise_file_limit();
    // Both ports first: with one taken, nothing is downloaded or started.
    let public = bind(config.network.public, "--port")?;
    let admin = bind(config.network.admin, "--admin-port")?;
    if let Some(dir) = &config.state_dir {
        // Closed again at once: it is the controller's. A failure is told before anything starts.
        Store::open(dir).map_err(|error| Failure::of(&error))?;
    }
    let model = find(&config, env)?;
    let name = public_name(&config, &model)?;
    let planned = Planned::new(&config, &model)?;
    let (url, admin_url) = (url_of(&public)?, url_of(&admin)?);
    print(&format!(
        "{}\nserving {name} at {url}  (admin API at {admin_url})\ntry it:\n  {}\n",
        planned.describe(&config, &model),
        curl(&url)
    ))?;
    let mut deployment = config.deployment(name.clone(), name.into(), model.dir.clone());
    deployment.model.memory_budget_bytes = Some(planned.budget_bytes());
    deployment.model.max_model_len = Some(planned.memory.max_model_len);
    supervise(&config, env, deployment, (public, admin))
}

/// The server's processes read their log settings in the environment; these are those that flags gave.
fn log_env(config: &RunConfig) -> BTreeMap<String, String> {
    let given = ["log", "log_format"].iter().filter_map(|key| {
        let line = config.effective.iter().find(|line| line.key == *key)?;
        let name = tyndall_config::setting(key)?.env;
        matches!(line.origin, Origin::Flag(_)).then(|| (name.to_owned(), line.value.clone()))
    });
    given.collect()
}

/// The public id: what the user says, else what the model is called where it came from.
fn public_name(config: &RunConfig, model: &ResolvedModel) -> Result<DeploymentName, Failure> {
    if let Some(name) = &config.name {
        return Ok(name.clone());
    }
    DeploymentName::new(&model.id).map_err(|error| {
        Failure::of(&error).with_cure(format!("call it something else: --name {}", tame(&model.id)))
    })
}

/// A usable name near an unusable one.
fn tame(id: &str) -> String {
    let mapped: String =
        id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
    let name = mapped.trim_matches('-');
    if name.is_empty() { "my-model".to_owned() } else { name.chars().take(64).collect() }
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

fn curl(url: &str) -> String {
    format!(
        "curl -s {url}/generate -H 'content-type: application/json' \
         -d '{{\"prompt\": \"Write a haiku about Ray Serve.\"}}'"
    )
}

fn effective(config: &RunConfig) -> String {
    let rows: Vec<Vec<String>> = config
        .effective
        .iter()
        .map(|line| {
            let value = if line.value.is_empty() { "-" } else { &line.value };
            vec![line.key.to_owned(), value.to_owned(), line.origin.to_string()]
        })
        .collect();
    table(&rows, &[])
}

/// The supervisor's life, on this thread: its children are tied to it.
fn supervise(
    config: &RunConfig,
    env: &Environment,
    deployment: DeploymentConfig,
    (public, admin): (TcpListener, TcpListener),
) -> Result<ExitCode, Failure> {
    let public_address = reachable(public.local_addr()?);
    let node = node_dir(env)?;
    let drain_s = config.limits.graceful_timeout_s;
    let options = SupervisorOptions {
        executable: std::env::current_exe()?,
        env: log_env(config),
        runtime_dir: node.runtime_dir().clone(),
        state_dir: config.state_dir.clone(),
        public,
        admin,
        drain: Duration::from_secs_f64(drain_s),
        controller_args: Vec::new(),
        proxy_args: vec!["--drain-s".to_owned(), drain_s.to_string()],
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let summary = runtime.block_on(async {
        let supervisor = Supervisor::start(options).await.map_err(|error| Failure::of(&error))?;
        let started = tokio::select! {
            started = serve(&supervisor, &deployment, public_address) => started,
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

/// A short path for sockets: the user's runtime directory, else the common temporary one.
fn node_dir(env: &Environment) -> Result<NodeDir, Failure> {
    let bases = ["XDG_RUNTIME_DIR", "TMPDIR"].iter().filter_map(|name| env.get(*name));
    let bases: Vec<PathBuf> = bases.map(PathBuf::from).filter(|dir| dir.is_dir()).collect();
    if let Some(node) = bases.iter().find_map(|base| NodeDir::create(base).ok()) {
        return Ok(node);
    }
    NodeDir::create(Path::new("/tmp")).map_err(|error| Failure::of(&error))
}

/// Deploys, and returns when the first request can be sent.
async fn serve(
    supervisor: &Supervisor,
    deployment: &DeploymentConfig,
    public: SocketAddr,
) -> Result<(), Failure> {
    let not_ready = |error| Failure::of(&error);
    supervisor.controller_ready(START_DEADLINE).await.map_err(not_ready)?;
    let controller = Client::unix(supervisor.runtime_dir().controller_socket());
    let path = format!("/-/deployments/{}", deployment.name);
    controller.tell(Method::PUT, &path, deployment).await?;
    let proxy = Client::tcp(public);
    let ready = tokio::time::timeout(START_DEADLINE, async {
        while !is_ready(&proxy, &deployment.model.id).await {
            tokio::time::sleep(READY_POLL).await;
        }
    });
    ready.await.map_err(|_| {
        let waited_s = START_DEADLINE.as_secs();
        Failure::new(format!("the proxy was not ready within {waited_s} s"))
            .with_cure("its log above says why")
    })?;
    let when = match deployment.autoscaling.min_replicas {
        0 => "the first request wakes the model",
        _ => "the model is loading",
    };
    print(&format!("ready: {when}; Ctrl-C ends everything\n"))
}

/// The proxy is ready and knows the model.
async fn is_ready(proxy: &Client, model_id: &str) -> bool {
    let request = Request::get("/readyz").body(Bytes::new()).expect("a constant path");
    let is_ready = proxy.send(request).await.is_ok_and(|answer| answer.status().is_success());
    if !is_ready {
        return false;
    }
    let models = proxy.get::<serde_json::Value>("/v1/models").await;
    models.is_ok_and(|models| {
        let list = models["data"].as_array().into_iter().flatten();
        list.into_iter().any(|model| model["id"] == model_id)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_names_get_a_usable_proposal() {
        for (id, expected) in [("my model", "my-model"), ("é", "my-model"), ("-x-", "x")] {
            assert_eq!(tame(id), expected);
            DeploymentName::new(tame(id)).unwrap();
        }
    }
}
