//! The hidden `role` commands: each is a process of a running server.

use crate::args::{CommonRoleArgs, RoleArgs};
use crate::failure::Failure;
use std::error::Error;
use std::future::Future;
use std::time::Duration;
use tokio::runtime::Builder;
use tyndall_cluster::process::prepare_child;
use tyndall_config::{Environment, LogFormat, RoleConfig};
use tyndall_controller::ControllerOptions;
use tyndall_proxy::ProxyOptions;
use tyndall_telemetry::LogOptions;
use tyndall_transport::Listener;
use tyndall_types::protocol::RuntimeDir;

/// A proxy moves bytes; two threads keep it from being one slow client's hostage and leave the
/// cores to the model.
const PROXY_THREADS: usize = 2;

pub(crate) fn run(role: RoleArgs, env: &Environment) -> Result<(), Failure> {
    let config = RoleConfig::from_env(env)?;
    match role {
        RoleArgs::Controller { common, state_dir } => {
            prepare("controller", &common, &config)?;
            block_on(&mut Builder::new_current_thread(), async {
                tyndall_controller::run(ControllerOptions {
                    runtime_dir: RuntimeDir(common.runtime_dir),
                    state_dir,
                    admin: Listener::from_stdin()?,
                })
                .await?;
                Ok(())
            })
        }
        RoleArgs::Proxy { common, id, drain_s } => {
            prepare(&id, &common, &config)?;
            block_on(Builder::new_multi_thread().worker_threads(PROXY_THREADS), async {
                tyndall_proxy::run(ProxyOptions {
                    runtime_dir: RuntimeDir(common.runtime_dir),
                    id,
                    listener: Listener::from_stdin()?,
                    drain: Duration::try_from_secs_f64(drain_s)?,
                })
                .await?;
                Ok(())
            })
        }
        RoleArgs::Replica { common, id, deployment_config } => {
            prepare(&id, &common, &config)?;
            drop(deployment_config);
            Err(Failure::new("this build has no engine yet"))
        }
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

fn block_on(
    builder: &mut Builder,
    role: impl Future<Output = Result<(), Box<dyn Error>>>,
) -> Result<(), Failure> {
    let runtime = builder.enable_all().build()?;
    runtime.block_on(role).map_err(|error| Failure::of(error.as_ref()))
}
