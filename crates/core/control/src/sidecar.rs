//! A process of an application's own beside its replicas, which runs what is code of the application
//! and no part of a replica.
//!
//! 1. It is started as soon as the application wants one, and again, after a back-off, whenever it
//!    ends unasked.
//! 2. It reports as replicas do: ready, or why it cannot start. Deadline: `startup_timeout_s`.
//! 3. When the application wants another or none, it is told to end, some of them only when the other
//!    is ready. Deadline: a short grace, after which it is told once more.
//!
//! A new controller takes over none but actors (`actors.rs`): it finds the others among the processes
//! that belong to no deployment, ends them, and starts its own.

use crate::Instant;
use crate::backoff::Backoff;
use crate::event::Action;
use crate::ids::Ids;
use crate::seconds;
use crate::state::{Outbox, State};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tyndall_types::protocol::{ActorDetails, ProgramConfig, ReplicaReport};
use tyndall_types::{ApplicationName, DeploymentId, DeploymentName, ReplicaId, ReplicaState};

/// What it gets to end in.
const GRACE: Duration = Duration::from_secs(1);
/// It is killed when its grace is over; who hears nothing by then asks again.
const MARGIN: Duration = Duration::from_secs(2);

/// What a process beside the replicas is.
#[derive(Debug, Clone, PartialEq)]
pub struct SidecarConfig {
    /// The word after `role`.
    pub role: &'static str,
    /// The application's own program.
    pub program: ProgramConfig,
    /// Its environment, beside the inherited one.
    pub env_vars: BTreeMap<String, String>,
    /// What it is told, as JSON.
    pub told: Value,
    /// Replicas need it until they have ended.
    pub outlasts_replicas: bool,
    /// By then it is ready.
    pub startup_timeout_s: f64,
    /// Another process is needed when this is another, though it is told the same.
    pub identity: Value,
}

#[derive(Debug, Clone)]
struct Process {
    id: ReplicaId,
    /// Once it is known.
    pid: Option<u32>,
    since: Instant,
    /// It must be ready by then; none when it is.
    deadline: Option<Instant>,
    /// Why it said that it cannot start.
    failure: Option<String>,
}

/// That a process ended unasked.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// It had been ready.
    pub(crate) was_ready: bool,
    /// Failed starts in a row, or deaths soon after it was ready.
    pub(crate) times: u32,
    pub(crate) reason: String,
}

/// The process that an application wants, and those that it no longer does.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sidecar {
    wanted: Option<Arc<SidecarConfig>>,
    process: Option<Process>,
    /// The one before, which goes on until the one that is wanted is ready, or has failed.
    leaving: Option<ReplicaId>,
    /// Told to end; told again at that time.
    ending: BTreeMap<ReplicaId, Instant>,
    backoff: Backoff,
    /// Why there is none; empty while there is, or soon will be.
    pub(crate) trouble: String,
    /// The newest that nobody has asked for yet.
    failure: Option<Failure>,
}

impl Sidecar {
    /// From now on it is this one; true when that is another than before.
    pub(crate) fn want(&mut self, wanted: Option<SidecarConfig>) -> bool {
        let is_new = self.want_after(wanted);
        if is_new {
            self.let_go();
        }
        is_new
    }

    /// The same, but that one which is ready goes on until the next is.
    pub(crate) fn want_after(&mut self, wanted: Option<SidecarConfig>) -> bool {
        if self.wanted.as_deref() == wanted.as_ref() {
            return false;
        }
        self.wanted = wanted.map(Arc::new);
        self.backoff = Backoff::default();
        self.trouble.clear();
        // It is no longer wanted, so its end is expected.
        if let Some(process) = self.process.take() {
            if process.deadline.is_none() && self.wanted.is_some() {
                self.let_go();
                self.leaving = Some(process.id);
            } else {
                self.ending.insert(process.id, Instant::ZERO);
            }
        }
        if self.wanted.is_none() {
            self.let_go();
        }
        true
    }

    fn let_go(&mut self) {
        if let Some(id) = self.leaving.take() {
            self.ending.insert(id, Instant::ZERO);
        }
    }

    /// Does what is due. Doing it again at the same time does nothing.
    pub(crate) fn reconcile(
        &mut self,
        now: Instant,
        can_start: bool,
        ids: &mut Ids,
        out: &mut Outbox,
    ) {
        self.tidy(now, out);
        if can_start && self.is_due(now) {
            let id = self.next_id(ids);
            self.start(id, Vec::new(), now, out);
        }
    }

    /// Ends what is to end.
    pub(crate) fn tidy(&mut self, now: Instant, out: &mut Outbox) {
        self.backoff.retry_at = self.backoff.retry_at.filter(|at| *at > now);
        if let Some(process) = &self.process
            && process.deadline.is_some_and(|at| at <= now)
        {
            let timeout_s = self.wanted.as_ref().map_or(0.0, |wanted| wanted.startup_timeout_s);
            self.end(&format!("it was not ready within {timeout_s} s"), now);
        }
        for (id, at) in self.ending.iter_mut().filter(|(_, at)| **at <= now) {
            let grace = if at.is_zero() { GRACE } else { Duration::ZERO };
            *at = now.saturating_add(GRACE + MARGIN);
            out.rest.push(Action::Stop { replica: id.clone(), grace });
        }
    }

    /// It is to be started.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.wanted.is_some() && self.process.is_none() && self.backoff.allows_start(now)
    }

    /// Of the process that is started next.
    pub(crate) fn next_id(&self, ids: &mut Ids) -> ReplicaId {
        let role = self.wanted.as_ref().map_or("sidecar", |wanted| wanted.role);
        ids.next(&DeploymentName::new(role).expect("roles are words"))
    }

    pub(crate) fn start(
        &mut self,
        id: ReplicaId,
        gpus: Vec<String>,
        now: Instant,
        out: &mut Outbox,
    ) {
        let Some(config) = &self.wanted else { return };
        self.backoff.retry_at = None;
        let deadline = now.saturating_add(seconds(config.startup_timeout_s));
        let process = Process {
            id: id.clone(),
            pid: None,
            since: now,
            deadline: Some(deadline),
            failure: None,
        };
        self.process = Some(process);
        out.starts.push(Action::StartSidecar { process: id, config: config.clone(), gpus });
    }

    /// Takes over a process that runs; it must be ready by then, or is.
    pub(crate) fn adopt(
        &mut self,
        id: ReplicaId,
        pid: u32,
        deadline: Option<Instant>,
        now: Instant,
    ) {
        self.process = Some(Process { id, pid: Some(pid), since: now, deadline, failure: None });
    }

    /// Its process runs.
    pub(crate) fn started(&mut self, id: &ReplicaId, pid: u32) {
        if let Some(process) = self.process.as_mut().filter(|process| process.id == *id) {
            process.pid = Some(pid);
        }
    }

    /// As others see it, under this name.
    pub(crate) fn details(&self, name: &str, version: u64, now: Instant) -> ActorDetails {
        let process = self.process.as_ref();
        let state = match process {
            Some(Process { deadline: None, .. }) => ReplicaState::Running,
            Some(_) => ReplicaState::Starting,
            None if self.ending.is_empty() => ReplicaState::Stopped,
            None => ReplicaState::Stopping,
        };
        let deadline = match process {
            Some(process) => process.deadline,
            None => self.backoff.retry_at.filter(|_| self.is_wanted()),
        };
        let left = |at: Instant| at.saturating_sub(now).as_secs_f64();
        ActorDetails {
            name: name.to_owned(),
            version,
            state,
            pid: process.and_then(|process| process.pid),
            since_s: process.map(|process| now.saturating_sub(process.since).as_secs_f64()),
            message: self.trouble.clone(),
            deadline_s: deadline.map(left),
        }
    }

    /// None is wanted any more, and what is there ends.
    pub(crate) fn release(&mut self) {
        self.wanted = None;
        if let Some(process) = self.process.take() {
            self.ending.insert(process.id, Instant::ZERO);
        }
        self.let_go();
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// The next start does not wait.
    pub(crate) fn forgive(&mut self) {
        self.backoff.forgive();
    }

    /// Why it ended unasked, where that is news.
    pub(crate) fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    /// Until when nobody should wait for it, and why.
    pub(crate) fn hopeless(&self, now: Instant) -> Option<(Instant, &str)> {
        let retry_at = self.backoff.retry_at.filter(|_| self.backoff.is_hopeless(now))?;
        self.process.is_none().then_some((retry_at, self.backoff.reason.as_str()))
    }

    /// The process, ready or not.
    pub(crate) fn current(&self) -> Option<&ReplicaId> {
        self.process.as_ref().map(|process| &process.id)
    }

    /// The process, once it is ready.
    pub(crate) fn ready(&self) -> Option<&ReplicaId> {
        self.process.as_ref().filter(|process| process.deadline.is_none()).map(|one| &one.id)
    }

    /// Changes it, and says whether another process is ready then, or none any more.
    pub(crate) fn is_another_after(&mut self, change: impl FnOnce(&mut Self)) -> bool {
        let before = self.ready().cloned();
        change(self);
        self.ready() != before.as_ref()
    }

    /// The process that answers: the one that is wanted, once it is ready, before that the one before.
    pub(crate) fn answers(&self) -> Option<&ReplicaId> {
        self.ready().or(self.leaving.as_ref())
    }

    pub(crate) fn knows(&self, id: &ReplicaId) -> bool {
        self.process.as_ref().is_some_and(|process| process.id == *id)
            || self.leaving.as_ref() == Some(id)
            || self.ending.contains_key(id)
    }

    /// It tells something.
    pub(crate) fn report(&mut self, id: &ReplicaId, report: ReplicaReport) {
        let Some(process) = self.process.as_mut().filter(|process| process.id == *id) else {
            return;
        };
        match report {
            ReplicaReport::Ready { .. } => {
                process.deadline = None;
                self.backoff.became_ready();
                self.trouble.clear();
                self.let_go();
            }
            // Its process ends next.
            ReplicaReport::Failed { reason } => process.failure = Some(reason),
            ReplicaReport::FirstToken { .. }
            | ReplicaReport::Answered
            | ReplicaReport::Leaving
            | ReplicaReport::Load(_)
            | ReplicaReport::Models { .. }
            | ReplicaReport::Stats { .. }
            | ReplicaReport::RoutingStats { .. }
            | ReplicaReport::Metadata { .. }
            | ReplicaReport::RouterTroubles { .. } => {}
        }
    }

    /// Its process is gone, or never was.
    pub(crate) fn gone(&mut self, id: &ReplicaId, was_killed: bool, reason: &str, now: Instant) {
        let was_leaving = self.leaving.take_if(|leaving| leaving == id).is_some();
        if was_leaving || self.ending.remove(id).is_some() {
            return;
        }
        let Some(process) = self.process.take_if(|process| process.id == *id) else { return };
        self.failed(&process, was_killed, reason, now);
    }

    /// Ends a process that is of no use, so that another takes its place.
    pub(crate) fn end(&mut self, reason: &str, now: Instant) {
        let Some(process) = self.process.take() else { return };
        self.failed(&process, false, reason, now);
        self.ending.insert(process.id, Instant::ZERO);
    }

    fn failed(&mut self, process: &Process, was_killed: bool, reason: &str, now: Instant) {
        // One that says why was not ended from outside.
        let was_killed = was_killed && process.failure.is_none();
        let reason = process.failure.as_deref().unwrap_or(reason);
        let was_ready = process.deadline.is_none();
        let ran = now.saturating_sub(process.since);
        if !was_ready {
            self.backoff.start_failed(reason, was_killed.then_some(ran), now);
        } else {
            self.backoff.crashed(reason, ran, now);
        }
        reason.clone_into(&mut self.trouble);
        let times = if was_ready { self.backoff.crashes } else { self.backoff.starts_in_vain() };
        self.failure = Some(Failure { was_ready, times, reason: reason.to_owned() });
        self.let_go();
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let started = self.process.as_ref().and_then(|process| process.deadline);
        let retry_at = self.backoff.retry_at.filter(|_| self.process.is_none());
        let retry_at = retry_at.filter(|_| self.wanted.is_some());
        self.ending.values().copied().chain(started).chain(retry_at).min()
    }

    /// Nothing is wanted and nothing is left.
    pub(crate) fn is_over(&self) -> bool {
        let has_none = self.process.is_none() && self.leaving.is_none() && self.ending.is_empty();
        self.wanted.is_none() && has_none
    }
}

/// Whose process this is.
pub(crate) fn home<'a>(
    mut all: impl Iterator<Item = (&'a ApplicationName, &'a Sidecar)>,
    process: &ReplicaId,
) -> Option<ApplicationName> {
    all.find(|(_, one)| one.knows(process)).map(|(name, _)| name.clone())
}

impl State {
    /// True for a process beside the replicas that may run.
    pub(crate) fn is_sidecar(&self, process: &ReplicaId) -> bool {
        self.home_of_policies(process).is_some() || self.home_of_routers(process).is_some()
    }

    /// Something happened to a process beside the replicas. False where it is none.
    pub(crate) fn with_sidecar(
        &mut self,
        process: &ReplicaId,
        change: impl FnOnce(&mut Sidecar),
    ) -> bool {
        match self.home_of_policies(process) {
            Some(_) => self.with_policies_of(process, change),
            None => self.with_routers(process, change),
        }
    }

    /// A process beside the replicas tells something.
    pub(crate) fn report_of_sidecar(&mut self, process: &ReplicaId, report: ReplicaReport) {
        match self.home_of_policies(process) {
            Some(_) => self.report_of_policies(process, report),
            None => self.report_of_routers(process, report),
        }
    }

    /// Does what is due beside the replicas of applications that something happened to; returns the
    /// deployments for which something is new by it.
    pub(crate) fn attend(
        &mut self,
        now: Instant,
        can_start: bool,
        out: &mut Outbox,
    ) -> BTreeSet<DeploymentId> {
        let mut touched = BTreeSet::new();
        for name in std::mem::take(&mut self.unattended) {
            self.attend_policies(&name, now, can_start, out);
            touched.extend(self.attend_routers(&name, now, can_start, out));
        }
        touched
    }
}
