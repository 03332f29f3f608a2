//! One deployment: what is wanted, and what happens to its replicas.

use crate::actors::Actors;
use crate::backoff::Backoff;
use crate::event::{Action, Notice};
use crate::ledger::Shortage;
use crate::policies::Asked;
use crate::replica::{Birth, Input, Outcome, Replica};
use crate::routers::Routing;
use crate::state::Context;
use crate::status::{self, StatusEvent, Trigger};
use crate::warm::Pool;
use crate::{Instant, seconds};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tyndall_autoscaling::{Autoscaler, Bounds};
use tyndall_types::protocol::{
    ColdStartPhases, DeadReplica, DeploymentConfig, DeploymentRoute, ModelCard, ReplicaReport,
    Unavailable, Workload,
};
use tyndall_types::{DeploymentId, DeploymentStatus, ReplicaState};

/// What a process gets to end in when it has no requests.
const SHORT_GRACE: Duration = Duration::from_secs(1);
/// Failed starts per replica of the target after which a version is given up, as in Ray.
const STARTS_PER_REPLICA: u32 = 3;
/// Ended replicas that are still told of, as in Ray.
const MAX_DEAD: usize = 10;

#[derive(Debug, Clone)]
pub(crate) struct Deployment {
    pub(crate) config: Arc<DeploymentConfig>,
    /// Of its first deployment; orders the route table.
    pub(crate) order: u64,
    /// Where its application is mounted, and whether it is what requests from outside go to.
    pub(crate) mount: Mount,
    /// Names the code that replicas shall have; grows with each code that is new.
    pub(crate) version: u64,
    pub(crate) deployed_at: Instant,
    pub(crate) is_deleting: bool,
    pub(crate) scaler: Autoscaler,
    /// A number of replicas that somebody set after the last deploy.
    pub(crate) set_replicas: Option<u32>,
    /// What the policy of the application gives it.
    pub(crate) allotted: Option<u32>,
    /// What a policy in Python says of it; none where there is no such policy.
    pub(crate) asked: Option<Asked>,
    /// Of its request router in Python; none where it has none.
    pub(crate) routing: Option<Routing>,
    pub(crate) status: (DeploymentStatus, Trigger),
    pub(crate) message: String,
    pub(crate) replicas: Vec<Replica>,
    /// What its replicas share.
    pub(crate) actors: Actors,
    /// Processes that wait to become replicas.
    pub(crate) warm: Pool,
    pub(crate) dead: VecDeque<DeadReplica>,
    pub(crate) queued: u32,
    pub(crate) ongoing: u32,
    /// When its last request ended; where it never had one, when it was deployed.
    pub(crate) used_at: Instant,
    pub(crate) card: Option<ModelCard>,
    /// What the proxies were told last, and in which version of the table.
    pub(crate) route: Option<(u64, Arc<DeploymentRoute>)>,
    /// Replicas are missing that do not fit beside what runs.
    pub(crate) blocked: Option<(Instant, Shortage)>,
    /// For whom it gave way; it takes nothing while that one waits.
    pub(crate) gave_way_to: Option<DeploymentId>,
    /// Its version cannot be rolled out.
    pub(crate) is_given_up: bool,
    /// A replica of this version was ready once.
    pub(crate) was_ready: bool,
    pub(crate) backoff: Backoff,
    pub(crate) unavailable: Option<(Instant, Unavailable)>,
    pub(crate) autoscaling_deadline: Option<Instant>,
    /// Replicas of the target that were lost and are not there again.
    pub(crate) num_lost: u32,
    /// Replicas that there shall be also while nobody asks.
    pub(crate) floor: u32,
    last_version: u64,
    user_config_version: u64,
    /// Failures of this version since it was deployed.
    num_failures: u32,
}

/// Where an application is mounted, and which deployments take its requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Mount {
    pub(crate) route_prefix: Option<String>,
    pub(crate) is_ingress: bool,
}

impl Deployment {
    pub(crate) fn new(
        config: Arc<DeploymentConfig>,
        mount: Mount,
        order: u64,
        deployed_at: Instant,
        target_capacity: Option<f64>,
    ) -> Self {
        Self {
            scaler: Autoscaler::new(&config.autoscaling, target_capacity),
            config,
            order,
            mount,
            version: 1,
            deployed_at,
            is_deleting: false,
            set_replicas: None,
            allotted: None,
            asked: None,
            routing: None,
            status: (DeploymentStatus::Updating, Trigger::ConfigUpdateStarted),
            message: String::new(),
            replicas: Vec::new(),
            actors: Actors::default(),
            warm: Pool::default(),
            dead: VecDeque::new(),
            queued: 0,
            ongoing: 0,
            used_at: deployed_at,
            card: None,
            route: None,
            blocked: None,
            gave_way_to: None,
            is_given_up: false,
            was_ready: false,
            backoff: Backoff::default(),
            unavailable: None,
            autoscaling_deadline: None,
            num_lost: 0,
            floor: 0,
            last_version: 1,
            user_config_version: 0,
            num_failures: 0,
        }
    }

    /// Takes a new configuration. Only other code makes the replicas old; code that replicas still
    /// have makes them new again.
    pub(crate) fn configure(
        &mut self,
        config: Arc<DeploymentConfig>,
        mount: Mount,
        deployed_at: Instant,
        scale: impl FnOnce(&mut Autoscaler, &DeploymentConfig),
    ) {
        self.backoff.forgive();
        self.warm.forgive();
        self.actors.forgive();
        self.unavailable = None;
        self.is_given_up = false;
        self.num_failures = 0;
        self.num_lost = 0;
        self.mount = mount;
        if self.config == config && !self.is_deleting {
            return;
        }
        if !self.config.has_code_of(&config) {
            let same = self.replicas.iter().find(|replica| replica.config.has_code_of(&config));
            let known = same.map(|replica| (replica.version, replica.is_running()));
            (self.version, self.was_ready) = known.unwrap_or_else(|| {
                self.last_version += 1;
                (self.last_version, false)
            });
        }
        self.set_replicas = None;
        if self.config.autoscaling != config.autoscaling || self.is_deleting {
            scale(&mut self.scaler, &config);
        }
        if self.config.user_config != config.user_config {
            self.user_config_version += 1;
        }
        let event = self.config_event(&config);
        self.is_deleting = false;
        self.config = config;
        // What is no code holds for replicas that run already.
        for replica in self.replicas.iter_mut().filter(|r| r.version == self.version) {
            replica.config = self.config.clone();
        }
        self.deployed_at = deployed_at;
        if let Some(event) = event {
            self.moved(event, String::new());
        }
    }

    /// A change of the count alone is told as what it is.
    fn config_event(&self, config: &DeploymentConfig) -> Option<StatusEvent> {
        let counts = (self.config.num_replicas, config.num_replicas);
        let alike =
            DeploymentConfig { num_replicas: config.num_replicas, ..(*self.config).clone() };
        match counts {
            _ if self.is_deleting || alike != *config => Some(StatusEvent::Configured),
            // The count is told of when it is carried out.
            (Some(_), Some(_)) => None,
            (Some(_) | None, None) | (None, Some(_)) => Some(StatusEvent::Configured),
        }
    }

    pub(crate) fn delete(&mut self) {
        self.is_deleting = true;
        self.moved(StatusEvent::Deleted, "ends when its replicas have finished".to_owned());
    }

    /// Takes over a process that a controller before this one had started.
    pub(crate) fn adopt(&mut self, birth: Birth, pid: u32, now: Instant) {
        let is_current = birth.config.has_code_of(&self.config);
        let version = if is_current { self.version } else { 0 };
        let rank = self.free_ranks(1)[0];
        let has_user_config = birth.config.user_config == self.config.user_config;
        let mut replica = Replica::recovering(Birth { version, rank, ..birth }, pid, now);
        if is_current {
            replica.config = self.config.clone();
        }
        // It is handed the newest one when it is found to run.
        replica.user_config_version =
            if has_user_config { self.user_config_version } else { u64::MAX };
        self.replicas.push(replica);
        let found = self.count(|replica| replica.version == version && replica.is_active());
        let found = u32::try_from(found).unwrap_or(u32::MAX);
        if found > self.scaler.target() {
            self.scaler.set_target(found);
        }
    }

    /// The smallest numbers that no active replica has.
    pub(crate) fn free_ranks(&self, number: usize) -> Vec<u32> {
        let active = self.replicas.iter().filter(|replica| replica.is_active());
        let taken: BTreeSet<u32> = active.map(|replica| replica.rank).collect();
        (0..=u32::MAX).filter(|rank| !taken.contains(rank)).take(number).collect()
    }

    /// The process of a replica runs.
    pub(crate) fn process_started(&mut self, index: usize, pid: u32, cx: &mut Context<'_>) {
        let replica = &mut self.replicas[index];
        // It is told of by the answer to the start, and as an event.
        let is_news = replica.pid.replace(pid).is_none();
        if is_news && replica.config.warm.processes > 0 {
            let is_taken = replica.waited_pid == Some(pid);
            cx.notice(Notice::WarmStart { deployment: self.config.id.clone(), is_taken });
        }
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
                    deployment: self.config.id.clone(),
                    replica: replica.id.clone(),
                    phases,
                });
            }
            ReplicaReport::Answered => self.backoff.served(),
            ReplicaReport::Leaving => {
                let reason = "its process was told to end, and not by the server";
                self.feed(index, Input::Leaving, reason, cx);
            }
            ReplicaReport::Load(load) => self.replicas[index].load = Some((cx.now, load)),
            ReplicaReport::Stats { metrics } => self.replicas[index].note_stats(metrics, cx.now),
            ReplicaReport::RoutingStats { stats } => {
                self.replicas[index].routing_stats = stats;
            }
            ReplicaReport::Metadata { metadata } => self.replicas[index].metadata = metadata,
            // Of another kind of process.
            ReplicaReport::RouterTroubles { .. } => {}
            ReplicaReport::Models { ids } => self.replicas[index].take_models(ids),
            ReplicaReport::Failed { reason } => self.feed(index, Input::Failed, &reason, cx),
        }
    }

    /// A replica says that it takes requests; phases are unknown when it said so when asked.
    pub(crate) fn ready(
        &mut self,
        index: usize,
        phases: Option<ColdStartPhases>,
        card: Option<ModelCard>,
        cx: &mut Context<'_>,
    ) {
        let newest = self.user_config_version;
        let replica = &mut self.replicas[index];
        let was_running = replica.is_running();
        if let Some(phases) = phases.filter(|_| replica.state == ReplicaState::Starting) {
            replica.measure_spawn(&phases, cx.now);
            cx.out.rest.push(Action::Notice(Notice::Ready {
                deployment: self.config.id.clone(),
                replica: replica.id.clone(),
                phases: replica.with_spawn(phases),
            }));
        }
        if replica.state == ReplicaState::Updating {
            replica.user_config_version = newest;
        }
        self.feed(index, Input::Ready, "", cx);
        let replica = &self.replicas[index];
        if replica.is_running() && !was_running && replica.version == self.version {
            self.card = card.or(self.card.take());
        }
    }

    /// Feeds the state machine of a replica and does what follows for the deployment.
    pub(crate) fn feed(&mut self, index: usize, input: Input, reason: &str, cx: &mut Context<'_>) {
        let grace = match input {
            Input::Unwanted | Input::Leaving => seconds(self.config.graceful_shutdown_timeout_s),
            Input::Ready
            | Input::Failed
            | Input::Exited
            | Input::Deadline
            | Input::GangBroken
            | Input::Reconfigure => SHORT_GRACE,
        };
        // Of a gang the first failure counts: it brings the others with it.
        let is_first = self.is_whole(index, Replica::is_active);
        let is_start = self.has_starting_member(&self.replicas[index]);
        let replica = &mut self.replicas[index];
        let ran = cx.now.saturating_sub(replica.since);
        let outcome = replica.feed(input, reason, grace, cx.now);
        let is_current = replica.version == self.version && !self.is_deleting;
        match outcome {
            Outcome::Ready if is_current && self.is_whole(index, Replica::is_running) => {
                self.was_ready = true;
                self.backoff.became_ready();
                self.is_given_up &= self.is_rolling();
            }
            Outcome::StartFailed if is_current && is_first => {
                self.start_failed(index, reason, ran, cx);
            }
            Outcome::Died if is_current && is_first && is_start => {
                self.start_failed(index, reason, ran, cx);
            }
            Outcome::Died if is_current && is_first => self.died(index, reason, ran, cx),
            Outcome::Ready
            | Outcome::StartFailed
            | Outcome::Died
            | Outcome::Stop
            | Outcome::Kill
            | Outcome::Gone
            | Outcome::Reconfigure
            | Outcome::Nothing => {}
        }
        self.carry_out(index, outcome, grace, reason, cx);
    }

    fn carry_out(
        &mut self,
        index: usize,
        outcome: Outcome,
        grace: Duration,
        reason: &str,
        cx: &mut Context<'_>,
    ) {
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
            Outcome::Reconfigure => {
                let config = self.config.clone();
                cx.out.rest.push(Action::Reconfigure { replica: id.clone(), config });
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
            let gone = self.replicas.remove(index);
            let lived = cx.now.saturating_sub(gone.decided_at);
            let reason = if reason.is_empty() || is_expected { &gone.end_reason } else { reason };
            self.dead.push_front(DeadReplica {
                replica_id: gone.id,
                pid: gone.pid,
                start_time_s: gone.decided_at.as_secs_f64(),
                end_time_s: cx.now.as_secs_f64(),
                reason: reason.to_owned(),
            });
            self.dead.truncate(MAX_DEAD);
            cx.out.gone.push(id.clone());
            let deployment = self.config.id.clone();
            cx.notice(Notice::Exited { deployment, replica: id, is_expected, lived });
        }
    }

    fn start_failed(&mut self, index: usize, reason: &str, ran: Duration, cx: &mut Context<'_>) {
        let replica = &self.replicas[index];
        let (killed_after, kind) = (replica.was_killed.then_some(ran), replica.kind());
        self.num_lost = self.num_lost.saturating_add(replica.gang_size());
        let retry_in = self.backoff.start_failed(reason, killed_after, cx.now);
        let times = self.backoff.starts_in_vain();
        let message = format!("{kind} failed to start, {times} in a row: {reason}");
        if !self.failed(&message) {
            let event =
                (self.was_ready && times >= self.start_limit()).then_some(StatusEvent::StartFailed);
            match event {
                Some(event) => self.moved(event, message),
                None => self.message = message,
            }
        }
        cx.notice(Notice::StartFailed {
            deployment: self.config.id.clone(),
            replica: self.replicas[index].id.clone(),
            reason: reason.to_owned(),
            retry_in,
        });
    }

    fn died(&mut self, index: usize, reason: &str, ran: Duration, cx: &mut Context<'_>) {
        let replica = &self.replicas[index];
        self.num_lost = self.num_lost.saturating_add(replica.gang_size());
        let retry_in = self.backoff.crashed(reason, ran, cx.now);
        let message = format!("{} was lost: {reason}", replica.kind());
        if !self.is_rolling() || !self.failed(&message) {
            self.moved(StatusEvent::Died, message);
        }
        cx.notice(Notice::Died {
            deployment: self.config.id.clone(),
            replica: self.replicas[index].id.clone(),
            reason: reason.to_owned(),
            retry_in,
        });
    }

    /// One more failure of this version: whether that was one too many. While the version before
    /// it still serves, replicas that had started count too.
    fn failed(&mut self, message: &str) -> bool {
        self.num_failures = self.num_failures.saturating_add(1);
        let is_unproven = !self.was_ready || self.is_rolling();
        if !is_unproven || self.num_failures < self.start_limit() {
            return false;
        }
        self.is_given_up = true;
        self.moved(StatusEvent::NeverStarted, message.to_owned());
        true
    }

    /// Replicas of an older version take requests.
    pub(crate) fn is_rolling(&self) -> bool {
        self.count(|replica| replica.version != self.version && replica.is_running()) > 0
    }

    /// Failures after which a version is given up.
    pub(crate) fn start_limit(&self) -> u32 {
        let per_target = self.scaler.target().max(1).saturating_mul(STARTS_PER_REPLICA);
        self.config.max_constructor_retry_count.min(per_target).max(1)
    }

    /// Feeds [`Input::Deadline`] to replicas whose time has come, and asks those that are due for
    /// their status.
    pub(crate) fn expire(&mut self, cx: &mut Context<'_>) {
        self.expire_warm(cx);
        self.expire_actors(cx);
        for index in (0..self.replicas.len()).rev() {
            let replica = &mut self.replicas[index];
            if replica.deadline.is_some_and(|at| at <= cx.now) {
                let reason = too_slow(&replica.config);
                self.feed(index, Input::Deadline, &reason, cx);
            } else if replica.probe_at.is_some_and(|at| at <= cx.now) {
                replica.probed(cx.now);
                let timeout = replica.probe_timeout();
                cx.out.rest.push(Action::Probe { replica: replica.id.clone(), timeout });
            }
        }
    }

    /// The next replica that has an older `user_config` than it shall have.
    pub(crate) fn outdated(&self) -> Option<usize> {
        let is_outdated = |replica: &Replica| {
            replica.state == ReplicaState::Running
                && replica.version == self.version
                && replica.user_config_version != self.user_config_version
        };
        self.replicas.iter().position(is_outdated)
    }

    /// Adds a replica that is about to be started.
    pub(crate) fn add(&mut self, mut replica: Replica) {
        replica.user_config_version = self.user_config_version;
        self.replicas.push(replica);
    }

    /// When something is due if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.replicas
            .iter()
            .flat_map(|replica| [replica.deadline, replica.probe_at])
            .chain([self.backoff.retry_at, self.autoscaling_deadline, self.actors.deadline()])
            .chain(self.warm.deadlines())
            .flatten()
            .min()
    }

    pub(crate) fn is_gone(&self) -> bool {
        let has_none = self.replicas.is_empty() && self.actors.is_empty();
        self.is_deleting && has_none && self.warm.is_empty()
    }

    /// The bounds of its number of replicas.
    pub(crate) fn bounds(&self, cx: &Context<'_>) -> Bounds {
        let bounds = Bounds::new(&self.config.autoscaling, cx.target_capacity, cx.direction);
        bounds.of_gangs(self.config.gang_size())
    }

    pub(crate) fn unavailable(&self) -> Option<&Unavailable> {
        self.unavailable.as_ref().map(|(_, unavailable)| unavailable)
    }

    pub(crate) fn count(&self, is_counted: impl Fn(&Replica) -> bool) -> usize {
        self.replicas.iter().filter(|replica| is_counted(replica)).count()
    }

    pub(crate) fn id(&self) -> &DeploymentId {
        &self.config.id
    }

    pub(crate) fn moved(&mut self, event: StatusEvent, message: String) {
        let next = status::transition(self.status, event);
        let is_news = next != self.status;
        self.status = next;
        let is_failure = match event {
            StatusEvent::NeverStarted
            | StatusEvent::ActorsFailed
            | StatusEvent::StartFailed
            | StatusEvent::Died => true,
            StatusEvent::Configured
            | StatusEvent::Converged
            | StatusEvent::ScaledUp
            | StatusEvent::ScaledDown
            | StatusEvent::SetUp
            | StatusEvent::SetDown
            | StatusEvent::Deleted => false,
        };
        if is_news || is_failure {
            self.message = message;
        }
    }
}

/// Why a start is given up whose time is over.
fn too_slow(config: &DeploymentConfig) -> String {
    let cure = match &config.workload {
        Workload::Model(_) => "raise startup_timeout_s if the model is that large",
        Workload::Program(_) => {
            "the log says what its constructor waits for; mend it, or raise startup_timeout_s"
        }
    };
    format!("not ready within {} s; {cure}", config.startup_timeout_s)
}
