//! One deployment: what is wanted, what there is, and how the two are brought together.

use crate::backoff::Backoff;
use crate::event::{Action, Notice};
use crate::replica::{Input, Outcome, Replica};
use crate::state::Context;
use crate::status::{self, StatusEvent, Trigger};
use crate::{Instant, seconds};
use std::cmp::Reverse;
use std::time::Duration;
use tyndall_autoscaling::{Load, Scaling, decide};
use tyndall_types::protocol::{
    ColdStartPhases, DeploymentConfig, DeploymentRoute, ModelCard, ReplicaReport, Unavailable,
};
use tyndall_types::{DeploymentName, DeploymentStatus, ReplicaState};

/// What a process gets to end in when it has no requests.
const SHORT_GRACE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(crate) struct Deployment {
    pub(crate) config: DeploymentConfig,
    /// Of its first deployment; orders the route table.
    pub(crate) order: u64,
    /// Grows when replicas must be replaced for a change to take effect.
    pub(crate) version: u64,
    pub(crate) deployed_at: Instant,
    pub(crate) is_deleting: bool,
    pub(crate) scaling: Scaling,
    pub(crate) status: (DeploymentStatus, Trigger),
    pub(crate) message: String,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) queued: u32,
    pub(crate) ongoing: u32,
    pub(crate) card: Option<ModelCard>,
    /// What the proxies were told last.
    pub(crate) route: Option<DeploymentRoute>,
    backoff: Backoff,
    /// A replica of this version was ready once.
    was_ready: bool,
    unavailable: Option<(Instant, Unavailable)>,
    autoscaling_deadline: Option<Instant>,
}

impl Deployment {
    pub(crate) fn new(config: DeploymentConfig, order: u64, deployed_at: Instant) -> Self {
        Self {
            scaling: Scaling::new(config.autoscaling.min_replicas),
            config,
            order,
            version: 1,
            deployed_at,
            is_deleting: false,
            status: (DeploymentStatus::Updating, Trigger::ConfigUpdateStarted),
            message: String::new(),
            replicas: Vec::new(),
            queued: 0,
            ongoing: 0,
            card: None,
            route: None,
            backoff: Backoff::default(),
            was_ready: false,
            unavailable: None,
            autoscaling_deadline: None,
        }
    }

    /// Takes a new configuration. Only another model makes the replicas old.
    pub(crate) fn configure(&mut self, config: DeploymentConfig, deployed_at: Instant) {
        self.backoff = Backoff::default();
        self.unavailable = None;
        if self.config == config && !self.is_deleting {
            return;
        }
        if self.config.model != config.model {
            self.version += 1;
            self.was_ready = false;
        }
        if self.config.autoscaling != config.autoscaling {
            self.scaling.pending = None;
        }
        if self.is_deleting {
            self.scaling = Scaling::new(config.autoscaling.min_replicas);
            self.is_deleting = false;
        }
        self.config = config;
        self.deployed_at = deployed_at;
        self.moved(StatusEvent::Configured, String::new());
    }

    pub(crate) fn delete(&mut self) {
        self.is_deleting = true;
        self.moved(StatusEvent::Deleted, "ends when its replicas have finished".to_owned());
    }

    /// Takes over a process that a controller before this one had started.
    pub(crate) fn adopt(&mut self, mut replica: Replica, model_is_current: bool) {
        replica.version = if model_is_current { self.version } else { 0 };
        let version = replica.version;
        self.replicas.push(replica);
        let found = self.count(|replica| replica.version == version && replica.is_active());
        self.scaling.target = self.scaling.target.max(u32::try_from(found).unwrap_or(u32::MAX));
    }

    pub(crate) fn report(&mut self, index: usize, report: ReplicaReport, cx: &mut Context<'_>) {
        match report {
            ReplicaReport::Ready { phases, card } => self.ready(index, Some(phases), card, cx),
            ReplicaReport::FirstToken { phases } => {
                self.backoff.served();
                let replica = &self.replicas[index];
                let mut phases = replica.with_spawn(phases);
                if !replica.is_woken {
                    // It waited for a request, and not the request for it.
                    phases.0.retain(|(name, _)| name != ColdStartPhases::HANDOVER);
                }
                cx.notice(Notice::FirstToken {
                    deployment: self.config.name.clone(),
                    replica: replica.id.clone(),
                    phases,
                });
            }
            ReplicaReport::Failed { reason } => self.feed(index, Input::Failed, &reason, cx),
        }
    }

    /// A replica says that it takes requests; phases are unknown when it said so when asked.
    pub(crate) fn ready(
        &mut self,
        index: usize,
        phases: Option<ColdStartPhases>,
        card: ModelCard,
        cx: &mut Context<'_>,
    ) {
        let replica = &mut self.replicas[index];
        let was_running = replica.is_running();
        if let Some(phases) = phases.filter(|_| replica.state == ReplicaState::Starting) {
            replica.measure_spawn(&phases, cx.now);
            cx.out.rest.push(Action::Notice(Notice::Ready {
                deployment: self.config.name.clone(),
                replica: replica.id.clone(),
                phases: replica.with_spawn(phases),
            }));
        }
        self.feed(index, Input::Ready, "", cx);
        let replica = &self.replicas[index];
        if replica.is_running() && !was_running && replica.version == self.version {
            self.card = Some(card);
        }
    }

    /// Feeds the state machine of a replica and does what follows for the deployment.
    pub(crate) fn feed(&mut self, index: usize, input: Input, reason: &str, cx: &mut Context<'_>) {
        let grace = match input {
            Input::Unwanted => seconds(self.config.graceful_shutdown_timeout_s),
            Input::Ready | Input::Failed | Input::Exited | Input::Deadline => SHORT_GRACE,
        };
        let replica = &mut self.replicas[index];
        let ran = cx.now.saturating_sub(replica.since);
        let outcome = replica.feed(input, reason, grace, cx.now);
        let is_current = replica.version == self.version && !self.is_deleting;
        match outcome {
            Outcome::Ready if is_current => {
                self.was_ready = true;
                self.backoff.became_ready();
            }
            Outcome::StartFailed if is_current => self.start_failed(index, reason, cx),
            Outcome::Died if is_current => self.died(index, reason, ran, cx),
            Outcome::Ready
            | Outcome::StartFailed
            | Outcome::Died
            | Outcome::Stop
            | Outcome::Kill
            | Outcome::Gone
            | Outcome::Nothing => {}
        }
        let replica = &self.replicas[index];
        let is_gone = replica.state == ReplicaState::Stopped;
        let id = replica.id.clone();
        match outcome {
            Outcome::Stop | Outcome::StartFailed | Outcome::Died if !is_gone => {
                cx.out.rest.push(Action::Stop { replica: id.clone(), grace });
            }
            Outcome::Kill => {
                cx.out.rest.push(Action::Stop { replica: id.clone(), grace: Duration::ZERO });
            }
            Outcome::Stop
            | Outcome::StartFailed
            | Outcome::Died
            | Outcome::Ready
            | Outcome::Gone
            | Outcome::Nothing => {}
        }
        if is_gone {
            let is_expected = outcome == Outcome::Gone;
            let deployment = self.config.name.clone();
            cx.notice(Notice::Exited { deployment, replica: id, is_expected });
            self.replicas.remove(index);
        }
    }

    fn start_failed(&mut self, index: usize, reason: &str, cx: &mut Context<'_>) {
        let was_killed = self.replicas[index].was_killed;
        let retry_in = self.backoff.start_failed(reason, was_killed, cx.now);
        let event =
            if self.was_ready { StatusEvent::StartFailed } else { StatusEvent::NeverStarted };
        let times = self.backoff.failed_starts;
        let message = format!("a replica failed to start, {times} in a row: {reason}");
        self.moved(event, message);
        cx.notice(Notice::StartFailed {
            deployment: self.config.name.clone(),
            replica: self.replicas[index].id.clone(),
            reason: reason.to_owned(),
            retry_in,
        });
    }

    fn died(&mut self, index: usize, reason: &str, ran: Duration, cx: &mut Context<'_>) {
        let retry_in = self.backoff.crashed(reason, ran, cx.now);
        self.moved(StatusEvent::Died, format!("a replica was lost: {reason}"));
        cx.notice(Notice::Died {
            deployment: self.config.name.clone(),
            replica: self.replicas[index].id.clone(),
            reason: reason.to_owned(),
            retry_in,
        });
    }

    /// Feeds [`Input::Deadline`] to replicas whose time has come, and probes the found ones.
    pub(crate) fn expire(&mut self, cx: &mut Context<'_>) {
        for index in (0..self.replicas.len()).rev() {
            let replica = &mut self.replicas[index];
            if replica.deadline.is_some_and(|at| at <= cx.now) {
                let reason = format!(
                    "not ready within {} s; raise startup_timeout_s if the model is that large",
                    self.config.startup_timeout_s
                );
                self.feed(index, Input::Deadline, &reason, cx);
            } else if replica.probe_at.is_some_and(|at| at <= cx.now) {
                replica.probe_again(cx.now);
                cx.out.rest.push(Action::Probe(replica.id.clone()));
            }
        }
    }

    /// Brings what there is nearer to what is wanted. Doing it again at the same time does nothing.
    pub(crate) fn reconcile(&mut self, cx: &mut Context<'_>) {
        if self.backoff.retry_at.is_some_and(|at| at <= cx.now) {
            self.backoff.retry_at = None;
        }
        self.autoscale(cx);
        self.stop_surplus(cx);
        if cx.can_start {
            self.start_missing(cx);
        }
        self.settle(cx.now);
    }

    /// When something is due if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.replicas
            .iter()
            .flat_map(|replica| [replica.deadline, replica.probe_at])
            .chain([self.backoff.retry_at, self.autoscaling_deadline])
            .flatten()
            .min()
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.is_deleting && self.replicas.is_empty()
    }

    fn autoscale(&mut self, cx: &mut Context<'_>) {
        self.autoscaling_deadline = None;
        if self.is_deleting {
            self.scaling = Scaling::new(0);
            return;
        }
        let num_requests = u64::from(self.queued) + u64::from(self.ongoing);
        let active = u32::try_from(self.count(Replica::is_active)).unwrap_or(u32::MAX);
        if num_requests == 0 {
            // What was lost while nobody asks is not replaced beyond the minimum.
            let floor = self.config.autoscaling.min_replicas.max(active);
            self.scaling.target = self.scaling.target.min(floor);
        }
        let num_running = u32::try_from(self.count(Replica::is_running)).unwrap_or(u32::MAX);
        let before = self.scaling.target;
        let load = Load { num_requests, num_running };
        let decision = decide(&self.config.autoscaling, self.scaling, load, cx.now);
        self.scaling = decision.scaling;
        self.autoscaling_deadline = decision.deadline;
        let after = self.scaling.target;
        if after == before {
            return;
        }
        let event = if after > before { StatusEvent::ScaledUp } else { StatusEvent::ScaledDown };
        self.moved(event, format!("from {before} to {after} replicas"));
        let deployment = self.config.name.clone();
        cx.notice(Notice::Scaled { deployment, from: before, to: after });
    }

    fn stop_surplus(&mut self, cx: &mut Context<'_>) {
        let target = self.scaling.target as usize;
        let version = self.version;
        let is_fresh = |replica: &Replica| replica.version == version && replica.is_active();
        let reason = if self.is_deleting { "the deployment is deleted" } else { "scaled down" };
        self.stop_beyond(target, is_fresh, reason, cx);
        // Old ones serve until as many new ones do; those that cannot serve yet never will.
        let ready = self.count(|replica| is_fresh(replica) && replica.is_running());
        let keep = target.saturating_sub(ready);
        let is_old = |replica: &Replica| replica.version != version && replica.is_active();
        let is_unborn =
            |replica: &Replica| is_old(replica) && replica.state == ReplicaState::Starting;
        self.stop_beyond(0, is_unborn, "replaced by a new version", cx);
        self.stop_beyond(keep, is_old, "replaced by a new version", cx);
    }

    /// Stops all but `keep` of the replicas that `is_candidate` names: first those that are not
    /// ready yet, then the youngest.
    fn stop_beyond(
        &mut self,
        keep: usize,
        is_candidate: impl Fn(&Replica) -> bool,
        reason: &str,
        cx: &mut Context<'_>,
    ) {
        let mut candidates: Vec<usize> =
            (0..self.replicas.len()).filter(|&i| is_candidate(&self.replicas[i])).collect();
        candidates.sort_by_key(|&i| {
            let replica = &self.replicas[i];
            (replica.is_running(), Reverse(replica.decided_at), Reverse(i))
        });
        // Stopping removes nothing from the list, so the indices stay valid.
        for &index in candidates.iter().take(candidates.len().saturating_sub(keep)) {
            self.feed(index, Input::Unwanted, reason, cx);
        }
    }

    fn start_missing(&mut self, cx: &mut Context<'_>) {
        let is_demanded = self.queued > 0 || self.ongoing > 0;
        if self.is_deleting || !self.backoff.allows_start(is_demanded, cx.now) {
            return;
        }
        let version = self.version;
        let fresh = self.count(|replica| replica.version == version && replica.is_active());
        let mut missing = (self.scaling.target as usize).saturating_sub(fresh);
        if self.backoff.failed_starts > 0 {
            // One try is enough to see whether it works again.
            let trying = self.count(|replica| replica.state == ReplicaState::Starting);
            missing = missing.min(1_usize.saturating_sub(trying));
        }
        let is_wake = is_demanded && self.count(Replica::is_active) == 0;
        for nth in 0..missing {
            let id = cx.ids.next(&self.config.name);
            let timeout_s = self.config.startup_timeout_s;
            let mut replica = Replica::starting(id.clone(), version, timeout_s, cx.now);
            replica.is_woken = is_wake;
            self.replicas.push(replica);
            if is_wake && nth == 0 {
                let deployment = self.config.name.clone();
                cx.notice(Notice::Waking { deployment, replica: id.clone() });
            }
            let config = Box::new(self.config.clone());
            cx.out.starts.push(Action::Start { replica: id, config });
        }
    }

    /// Derives what is told to others from the replicas as they are now.
    fn settle(&mut self, now: Instant) {
        let version = self.version;
        let is_hopeless = self.count(Replica::is_active) == 0 && self.backoff.is_hopeless(now);
        match self.backoff.retry_at.filter(|_| is_hopeless && !self.is_deleting) {
            None => self.unavailable = None,
            Some(retry_at) if self.unavailable.as_ref().is_some_and(|(at, _)| *at == retry_at) => {}
            Some(retry_at) => {
                let retry_after_s = retry_at.saturating_sub(now).as_secs_f64();
                let reason = self.backoff.reason.clone();
                self.unavailable = Some((retry_at, Unavailable { reason, retry_after_s }));
            }
        }
        let as_wanted = self.count(|r| r.version == version && r.is_running());
        let is_converged = as_wanted == self.scaling.target as usize
            && as_wanted == self.replicas.len()
            && self.backoff.failed_starts == 0;
        if is_converged && !self.is_deleting && self.status.0 != DeploymentStatus::Healthy {
            self.moved(StatusEvent::Converged, String::new());
        }
    }

    pub(crate) fn unavailable(&self) -> Option<&Unavailable> {
        self.unavailable.as_ref().map(|(_, unavailable)| unavailable)
    }

    pub(crate) fn count(&self, is_counted: impl Fn(&Replica) -> bool) -> usize {
        self.replicas.iter().filter(|replica| is_counted(replica)).count()
    }

    pub(crate) fn name(&self) -> &DeploymentName {
        &self.config.name
    }

    fn moved(&mut self, event: StatusEvent, message: String) {
        let next = status::transition(self.status, event);
        let is_news = next != self.status;
        self.status = next;
        let is_failure = match event {
            StatusEvent::NeverStarted | StatusEvent::StartFailed | StatusEvent::Died => true,
            StatusEvent::Configured
            | StatusEvent::Converged
            | StatusEvent::ScaledUp
            | StatusEvent::ScaledDown
            | StatusEvent::Deleted => false,
        };
        if is_news || is_failure {
            self.message = message;
        }
    }
}
