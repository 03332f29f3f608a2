//! The supervisor's own roles, kept running.

use crate::processes::{Kind, Processes, SpawnError};
use std::net::TcpListener;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tyndall_transport::pass_listeners;
use tyndall_types::protocol::ProcessSpec;

const FIRST_WAIT: Duration = Duration::from_millis(50);
const MAX_WAIT: Duration = Duration::from_secs(5);
/// A role that ran so long did not die of its start.
const STABLE: Duration = Duration::from_secs(10);

/// A role and the listeners that it finds by its standard input.
#[derive(Debug)]
pub(crate) struct Role {
    pub(crate) id: &'static str,
    pub(crate) kind: Kind,
    pub(crate) args: Vec<String>,
    pub(crate) listeners: Vec<TcpListener>,
}

impl Role {
    pub(crate) fn start(&self, processes: &Processes) -> Result<(), SpawnError> {
        let stdin = pass_listeners(&self.listeners)
            .map_err(|source| SpawnError::System { executable: self.id.into(), source })?;
        let spec = ProcessSpec {
            id: self.id.to_owned(),
            args: self.args.clone(),
            ..ProcessSpec::default()
        };
        processes.spawn(spec, self.kind, Some(stdin)).map(drop)
    }

    /// Starts the role again whenever it ends, until `ending` says true. The listeners are
    /// dropped then: a port is closed when the role's process has closed it too.
    pub(crate) async fn keep(self, processes: Processes, mut ending: watch::Receiver<bool>) {
        let mut wait = FIRST_WAIT;
        loop {
            let began = Instant::now();
            tokio::select! {
                biased;
                _ = ending.wait_for(|ending| *ending) => return,
                () = processes.gone(self.id) => {}
            }
            if began.elapsed() >= STABLE {
                wait = FIRST_WAIT;
            }
            tracing::error!(role = self.id, restart_in = ?wait, "a role ended unexpectedly");
            tokio::select! {
                biased;
                _ = ending.wait_for(|ending| *ending) => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(MAX_WAIT);
            if let Err(error) = self.start(&processes) {
                tracing::error!(role = self.id, %error, "failed to start a role again");
            }
        }
    }
}
