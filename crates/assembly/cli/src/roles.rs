//! The hidden `role` commands: each is a process of a running server.

use crate::args::{CommonRoleArgs, NodeArgs, RoleArgs};
use crate::commands;
use crate::commands::build::Machine;
use crate::failure::Failure;
use crate::machine::available_memory_bytes;
use std::error::Error;
use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tyndall_cluster::process::prepare_child;
use tyndall_config::{Environment, Isa, LogFormat, RoleConfig};
use tyndall_controller::{
    Builder as AppBuilder, Capacity, ControllerOptions, Grpc, Http, Instance,
};
use tyndall_hub::HubOptions;
use tyndall_proxy::{GrpcOptions, KeySources, ProxyOptions};
use tyndall_replica::{ReplicaError, ReplicaOptions};
use tyndall_telemetry::LogOptions;
use tyndall_transport::{Listener, polling_runtime};
use tyndall_types::ReplicaId;
use tyndall_types::protocol::RuntimeDir;

/// A proxy moves bytes, and leaves half of the cores to models and programs. Where there are few, a
/// second thread would only take turns with those that it serves.
const MAX_PROXY_THREADS: usize = 4;

/// Text in and text out; the engine has threads of its own.
const REPLICA_THREADS: usize = 1;

/// Runs a role to its end. `started_at` is when the process began.
pub(crate) fn run(role: RoleArgs, env: &Environment, started_at: Instant) -> Result<(), Failure> {
    let config = RoleConfig::from_env(env)?;
    match role {
        RoleArgs::Controller { common, state_dir, node } => {
            prepare("controller", &common, &config)?;
            block_on(&mut Builder::new_current_thread(), async {
                let runtime_dir = RuntimeDir(common.runtime_dir);
                let options = controller_options(runtime_dir, state_dir, node, env)?;
                tyndall_controller::run(options).await.map_err(|error| log(&error))
            })
        }
        RoleArgs::Build { parent_pid, memory_bytes, request_timeout_s } => {
            prepare_child(parent_pid).map_err(|error| Failure::of(&error))?;
            let memory_bytes = memory_bytes.or_else(available_memory_bytes).unwrap_or(0);
            commands::build::role(Machine { memory_bytes, request_timeout_s }, env)
        }
        RoleArgs::Proxy { common, id, drain_s, cors, api_keys, grpc_timeout_s } => {
            prepare(&id, &common, &config)?;
            let cors = cors
                .as_deref()
                .map(serde_json::from_str)
                .transpose()
                .map_err(|error| Failure::new(format!("--cors is not as expected: {error}")))?;
            on_runtime(proxy_runtime(), async {
                let mut listeners = listeners()?;
                let options = ProxyOptions {
                    runtime_dir: RuntimeDir(common.runtime_dir),
                    id,
                    listener: first(&mut listeners)?,
                    drain: seconds(drain_s)?,
                    cors,
                    keys: KeySources {
                        file: api_keys,
                        keys: commands::keys::unnamed(&config.api_keys),
                    },
                    grpc: grpc(listeners.next(), grpc_timeout_s)?,
                };
                tyndall_proxy::run(options).await.map_err(|error| log(&error))
            })
        }
        RoleArgs::Replica { common, id, deployment_config } => {
            prepare(&id, &common, &config)?;
            let deployment = serde_json::from_str(&deployment_config).map_err(|error| {
                Failure::new(format!("--deployment-config is not as expected: {error}"))
            })?;
            let options = ReplicaOptions {
                runtime_dir: RuntimeDir(common.runtime_dir),
                id: ReplicaId::new(id),
                config: deployment,
                started_at,
                // The controller's budget decides; this is for a deployment that names none.
                available_memory_bytes: available_memory_bytes().unwrap_or(0),
                isa: config.isa.map(isa),
                cache_dir: HubOptions::from_env(env).ok().map(|hub| hub.own_cache_dir),
            };
            block_on(Builder::new_multi_thread().worker_threads(REPLICA_THREADS), async {
                match tyndall_replica::run(options).await {
                    // The controller has the reason and tells it.
                    Err(ReplicaError::Load { .. }) => Err(Failure::told()),
                    Err(error) => Err(log(&error)),
                    Ok(()) => Ok(()),
                }
            })
        }
    }
}

fn proxy_runtime() -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match (cores / 2).min(MAX_PROXY_THREADS) {
        0 | 1 => polling_runtime(),
        threads => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
}

fn controller_options(
    runtime_dir: RuntimeDir,
    state_dir: Option<PathBuf>,
    node: NodeArgs,
    env: &Environment,
) -> Result<ControllerOptions, Failure> {
    let mut args = vec!["role".to_owned(), "build".to_owned()];
    if let Some(bytes) = node.memory_bytes {
        args.extend(["--memory-bytes".to_owned(), bytes.to_string()]);
    }
    args.extend(["--request-timeout-s".to_owned(), node.request_timeout_s.to_string()]);
    let address = tyndall_transport::reachable(node.public);
    Ok(ControllerOptions {
        runtime_dir,
        state_dir,
        admin: first(&mut listeners()?)?,
        admin_token: commands::token(env),
        builder: AppBuilder {
            executable: Some(std::env::current_exe()?),
            args,
            request_timeout_s: Some(node.request_timeout_s),
        },
        capacity: Capacity {
            memory_bytes: node.memory_bytes,
            num_cpus: node.num_cpus,
            gpus: node.gpus,
            custom: node.resource.into_iter().collect(),
        },
        instance: Instance {
            node_id: node.node_id,
            node_ip: address.ip().to_string(),
            http: Http { host: node.public.ip().to_string(), port: node.public.port() },
            grpc: node.grpc_port.map(|port| Grpc {
                port,
                servicer_functions: node.grpc_servicer_functions,
                request_timeout_s: node.grpc_timeout_s,
                has_reflection: !node.grpc_disable_reflection,
            }),
        },
        log_file: node.log_file,
    })
}

fn isa(isa: Isa) -> tyndall_kernels::Isa {
    match isa {
        Isa::Amx => tyndall_kernels::Isa::AmxBf16,
        Isa::Avx512Bf16 => tyndall_kernels::Isa::Avx512Bf16,
        Isa::Avx512 => tyndall_kernels::Isa::Avx512,
        Isa::Avx2 => tyndall_kernels::Isa::Avx2,
        Isa::Portable => tyndall_kernels::Isa::Portable,
    }
}

/// Ties the process to its supervisor, then opens its log.
fn prepare(role: &str, common: &CommonRoleArgs, config: &RoleConfig) -> Result<(), Failure> {
    prepare_child(common.parent_pid).map_err(|error| Failure::of(&error))?;
    init_logs(role, &config.log_filter, config.log_format)
}

/// Opens the log of this process.
pub(crate) fn init_logs(role: &str, filter: &str, format: LogFormat) -> Result<(), Failure> {
    let format = match format {
        LogFormat::Text => tyndall_telemetry::LogFormat::Text,
        LogFormat::Json => tyndall_telemetry::LogFormat::Json,
    };
    let options = LogOptions { role: role.to_owned(), filter: filter.to_owned(), format };
    tyndall_telemetry::init_logs(options).map_err(|error| Failure::of(&error))
}

/// The listeners that the supervisor passed.
fn listeners() -> Result<impl Iterator<Item = Listener>, Failure> {
    Ok(Listener::all_from_stdin().map_err(|error| log(&error))?.into_iter())
}

fn first(listeners: &mut impl Iterator<Item = Listener>) -> Result<Listener, Failure> {
    listeners.next().ok_or_else(|| Failure::new("the role got no listener as standard input"))
}

/// What a proxy does with its second listener, if it has one.
fn grpc(
    listener: Option<Listener>,
    timeout_s: Option<f64>,
) -> Result<Option<GrpcOptions>, Failure> {
    let request_timeout = timeout_s.map(seconds).transpose()?;
    Ok(listener.map(|listener| GrpcOptions { listener, request_timeout }))
}

fn seconds(seconds: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(seconds).map_err(|error| log(&error))
}

/// Says why the role ends, as its log says everything else.
fn log(error: &(dyn Error + 'static)) -> Failure {
    tracing::error!(error, "the role ends");
    Failure::told()
}

fn block_on(
    builder: &mut Builder,
    role: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    on_runtime(builder.enable_all().build(), role)
}

fn on_runtime(
    runtime: std::io::Result<Runtime>,
    role: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    runtime.map_err(|error| log(&error))?.block_on(role)
}
