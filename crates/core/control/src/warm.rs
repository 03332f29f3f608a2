//! Interpreters that wait, with what a deployment imports, to become its next replicas.
//!
//! - One is started while no replica of its deployment is, one after another, so that it takes the cores
//!   from no start that somebody waits for.
//! - A replica that is started becomes one that is prepared, if there is one; the next is started when the
//!   replica is there.
//! - It serves one code, one environment and one list of modules; when another is wanted it is ended.
//! - One that dies is started again after 1 s, then 2 s; after three in a row none is, until the next
//!   deploy.

use crate::Instant;
use crate::deployment::Deployment;
use crate::event::{Action, Event, Notice};
use crate::state::{Context, Outbox, State};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tyndall_types::protocol::DeploymentConfig;
use tyndall_types::{DeploymentId, ReplicaId, ReplicaState};

/// Until the next one is started after a death, doubled by each.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Deaths in a row after which none is started any more.
const MAX_DEATHS: u32 = 3;
/// One that lived so long did not die of what it imports.
const STABLE: Duration = Duration::from_secs(60);
/// It has nothing to finish.
const GRACE: Duration = Duration::from_secs(1);
/// After the grace, until it is asked to end once more.
const KILL_MARGIN: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It imports.
    Preparing,
    /// It can become a replica.
    Prepared,
    /// It was asked to end; asked once more then.
    Stopping(Instant),
}

#[derive(Debug, Clone)]
struct Process {
    id: ReplicaId,
    pid: Option<u32>,
    /// What it was started for.
    config: Arc<DeploymentConfig>,
    phase: Phase,
    since: Instant,
}

impl Process {
    /// Whether a replica of this deployment can be made of it.
    fn fits(&self, config: &DeploymentConfig) -> bool {
        Arc::as_ptr(&self.config) == std::ptr::from_ref(config)
            || (self.config.has_code_of(config)
                && self.config.env_vars == config.env_vars
                && self.config.warm.preload == config.warm.preload)
    }

    fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping(_))
    }

    fn stop(&mut self, grace: Duration, cx: &mut Context<'_>) {
        self.phase = Phase::Stopping(cx.now.saturating_add(grace).saturating_add(KILL_MARGIN));
        cx.out.rest.push(Action::Stop { replica: self.id.clone(), grace });
    }
}

/// The processes of one deployment that wait.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pool {
    processes: Vec<Process>,
    deaths: u32,
    /// No start before this.
    retry_at: Option<Instant>,
}

impl Pool {
    pub(crate) fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// What happened before is forgotten: deaths may have had a cause that is gone.
    pub(crate) fn forgive(&mut self) {
        (self.deaths, self.retry_at) = (0, None);
    }

    /// When something is due if nothing happens.
    pub(crate) fn deadlines(&self) -> impl Iterator<Item = Option<Instant>> {
        let stopping = self.processes.iter().map(|process| match process.phase {
            Phase::Stopping(at) => Some(at),
            Phase::Preparing | Phase::Prepared => None,
        });
        stopping.chain([self.retry_at])
    }

    /// Takes a process that is prepared; a replica of this configuration is made of it.
    pub(crate) fn take(&mut self, config: &DeploymentConfig) -> Option<(ReplicaId, Option<u32>)> {
        let fits = |process: &Process| process.phase == Phase::Prepared && process.fits(config);
        let index = self.processes.iter().position(fits)?;
        self.forgive();
        let process = self.processes.remove(index);
        Some((process.id, process.pid))
    }

    fn index(&self, id: &ReplicaId) -> Option<usize> {
        self.processes.iter().position(|process| process.id == *id)
    }

    fn may_start(&self) -> bool {
        let is_preparing = |process: &Process| process.phase == Phase::Preparing;
        self.deaths < MAX_DEATHS
            && self.retry_at.is_none()
            && !self.processes.iter().any(is_preparing)
    }
}

impl Deployment {
    /// Brings the processes that wait nearer to what is wanted.
    pub(crate) fn keep_warm(&mut self, cx: &mut Context<'_>) {
        self.warm.retry_at = self.warm.retry_at.filter(|at| *at > cx.now);
        let is_over = self.is_deleting || self.is_given_up || cx.target_capacity == Some(0.0);
        let wanted = if is_over { 0 } else { self.config.warm.processes as usize };
        let mut kept = 0;
        for process in self.warm.processes.iter_mut().filter(|process| !process.is_stopping()) {
            if kept < wanted && process.fits(&self.config) {
                kept += 1;
            } else {
                process.stop(GRACE, cx);
            }
        }
        let is_starting = self.count(|replica| replica.state == ReplicaState::Starting) > 0;
        // What cannot start is tried by itself first.
        let is_troubled = self.blocked.is_some() || self.backoff.failed_starts > 0;
        if kept < wanted && cx.can_start && !is_starting && !is_troubled && self.warm.may_start() {
            let id = cx.ids.next_waiting(&self.config.id.deployment);
            let config = self.config.clone();
            self.warm.processes.push(Process {
                id: id.clone(),
                pid: None,
                config: config.clone(),
                phase: Phase::Preparing,
                since: cx.now,
            });
            cx.out.rest.push(Action::StartWaiting { process: id, config });
        }
    }

    /// Asks those once more to end whose time is over.
    pub(crate) fn expire_warm(&mut self, cx: &mut Context<'_>) {
        for process in &mut self.warm.processes {
            if matches!(process.phase, Phase::Stopping(at) if at <= cx.now) {
                process.stop(Duration::ZERO, cx);
            }
        }
    }

    fn waiting_ended(&mut self, index: usize, reason: &str, cx: &mut Context<'_>) {
        let process = self.warm.processes.remove(index);
        if process.is_stopping() {
            return;
        }
        let is_stable = cx.now.saturating_sub(process.since) >= STABLE;
        let deaths = if is_stable { 1 } else { self.warm.deaths.saturating_add(1) };
        self.warm.deaths = deaths;
        let wait = FIRST_WAIT.saturating_mul(1 << (deaths - 1).min(MAX_DEATHS));
        let retry_in = Some(wait).filter(|_| deaths < MAX_DEATHS);
        self.warm.retry_at = retry_in.map(|wait| cx.now.saturating_add(wait));
        cx.notice(Notice::WaitingDied {
            deployment: self.config.id.clone(),
            reason: reason.to_owned(),
            retry_in,
        });
    }
}

impl State {
    /// Whose process waits under this id.
    fn home_of_waiting(&self, id: &ReplicaId) -> Option<DeploymentId> {
        let mut all = self.deployments.iter();
        let found = all.find(|(_, deployment)| deployment.warm.index(id).is_some());
        found.map(|(home, _)| home.clone())
    }

    /// Takes an event of a process that waits; none for one of any other process.
    pub(crate) fn waiting_event(
        &mut self,
        event: &Event,
        now: Instant,
        out: &mut Outbox,
    ) -> Option<BTreeSet<DeploymentId>> {
        let (Event::ProcessStarted { replica: id, .. }
        | Event::Prepared { process: id }
        | Event::StartRefused { replica: id, .. }
        | Event::ProcessExited { replica: id, .. }) = event
        else {
            return None;
        };
        // Most events are of replicas, and those are known by an index.
        let home = (!self.knows(id)).then(|| self.home_of_waiting(id))??;
        let (deployment, mut cx) = self.deployment(&home, now, out);
        let deployment = deployment?;
        let index = deployment.warm.index(id)?;
        let process = &mut deployment.warm.processes[index];
        match event {
            Event::ProcessStarted { pid, .. } => process.pid = Some(*pid),
            Event::Prepared { .. } if process.phase == Phase::Preparing => {
                process.phase = Phase::Prepared;
            }
            Event::StartRefused { reason, .. } => deployment.waiting_ended(index, reason, &mut cx),
            Event::ProcessExited { exit, .. } => {
                deployment.waiting_ended(index, &format!("it {exit}"), &mut cx);
            }
            _ => {}
        }
        Some(BTreeSet::from([home]))
    }
}
