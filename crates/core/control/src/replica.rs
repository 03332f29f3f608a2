//! The life of one replica.

use crate::{Instant, seconds};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tyndall_types::protocol::{
    ColdStartPhases, DeploymentConfig, EngineLoad, GangContext, JsonText, MAX_TOLD_MODELS,
    ReplicaDetails,
};
use tyndall_types::{ReplicaId, ReplicaState};

/// After the grace, until the process is asked to end once more.
const KILL_MARGIN: Duration = Duration::from_secs(5);
/// A found replica is asked for its status this often.
const PROBE_PERIOD: Duration = Duration::from_millis(500);
const RECOVERY_PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Metrics of its own that a replica may have, and points of them that are kept.
const MAX_METRICS: usize = 64;
const MAX_STATS: usize = 128;
/// As many failed health checks in a row end a replica, as in Ray.
const UNHEALTHY_CHECKS: u32 = 3;

/// What can happen to a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// It takes requests.
    Ready,
    /// It says that it cannot serve.
    Failed,
    /// Something other than the controller has told its process to end.
    Leaving,
    /// Its process is gone.
    Exited,
    /// The deadline of its state passed.
    Deadline,
    /// It is not wanted any more.
    Unwanted,
    /// Another of its gang is lost.
    GangBroken,
    /// It shall take a new `user_config`.
    Reconfigure,
}

/// What a transition means for the deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing.
    Nothing,
    /// One more takes requests.
    Ready,
    /// A start failed; its process, if any, is to be ended.
    StartFailed,
    /// One that ran is lost; its process, if any, is to be ended.
    Died,
    /// Its process is to be ended.
    Stop,
    /// Its process was asked to end and did not: it is to be killed.
    Kill,
    /// Its process is gone, as it should.
    Gone,
    /// It is to be handed the new `user_config`.
    Reconfigure,
}

/// The transition table of a replica.
pub(crate) fn transition(state: ReplicaState, input: Input) -> (ReplicaState, Outcome) {
    use ReplicaState::{Recovering, Running, Starting, Stopped, Stopping, Updating};
    match (state, input) {
        (Starting | Recovering, Input::Ready) => (Running, Outcome::Ready),
        (Starting | Recovering, Input::Failed | Input::Deadline) => {
            (Stopping, Outcome::StartFailed)
        }
        (Starting, Input::Exited) => (Stopped, Outcome::StartFailed),
        (Recovering, Input::Exited) => (Stopped, Outcome::Died),
        (Updating, Input::Ready) => (Running, Outcome::Nothing),
        (Running | Updating, Input::Failed | Input::Leaving)
        | (Recovering, Input::Leaving)
        | (Updating, Input::Deadline) => (Stopping, Outcome::Died),
        (Starting, Input::Leaving) => (Stopping, Outcome::StartFailed),
        (Running | Updating, Input::Exited) => (Stopped, Outcome::Died),
        (Running, Input::Ready | Input::Deadline) => (Running, Outcome::Nothing),
        (Running, Input::Reconfigure) => (Updating, Outcome::Reconfigure),
        (Starting | Recovering | Updating | Stopping, Input::Reconfigure) => {
            (state, Outcome::Nothing)
        }
        (Starting | Recovering | Running | Updating, Input::Unwanted | Input::GangBroken) => {
            (Stopping, Outcome::Stop)
        }
        (
            Stopping,
            Input::Ready | Input::Failed | Input::Leaving | Input::Unwanted | Input::GangBroken,
        ) => (Stopping, Outcome::Nothing),
        (Stopping, Input::Deadline) => (Stopping, Outcome::Kill),
        (Stopping, Input::Exited) => (Stopped, Outcome::Gone),
        (
            Stopped,
            Input::Ready
            | Input::Failed
            | Input::Leaving
            | Input::Exited
            | Input::Deadline
            | Input::Unwanted
            | Input::GangBroken
            | Input::Reconfigure,
        ) => (Stopped, Outcome::Nothing),
    }
}

/// What a new replica is.
#[derive(Debug, Clone)]
pub(crate) struct Birth {
    pub(crate) id: ReplicaId,
    /// Its number among the replicas of its deployment.
    pub(crate) rank: u32,
    /// The deployment's version that it serves.
    pub(crate) version: u64,
    /// What it was started with.
    pub(crate) config: Arc<DeploymentConfig>,
    /// Where it is of one.
    pub(crate) gang: Option<Arc<GangContext>>,
}

/// One replica whose process may run.
#[derive(Debug, Clone)]
pub(crate) struct Replica {
    pub(crate) id: ReplicaId,
    /// Its number among the replicas of its deployment, free again when it stops.
    pub(crate) rank: u32,
    /// The deployment's version that it serves.
    pub(crate) version: u64,
    /// What it was started with.
    pub(crate) config: Arc<DeploymentConfig>,
    /// Its gang, where it is of one.
    pub(crate) gang: Option<Arc<GangContext>>,
    /// The `user_config` that it has is the deployment's of this number.
    pub(crate) user_config_version: u64,
    /// Health checks without a good answer, in a row.
    pub(crate) failed_checks: u32,
    /// How busy it last said it is, and when.
    pub(crate) load: Option<(Instant, EngineLoad)>,
    /// What its code said of itself, oldest first.
    pub(crate) stats: VecDeque<(Instant, BTreeMap<String, f64>)>,
    /// The multiplexed models that it last said it has.
    pub(crate) models: Vec<String>,
    /// What its code last said of itself to request routers.
    pub(crate) routing_stats: JsonText,
    /// What its code said of its replica when it started.
    pub(crate) metadata: JsonText,
    pub(crate) state: ReplicaState,
    /// Why it is in this state, and what happens next.
    pub(crate) message: String,
    /// Why it is ended, once it is; of one whose process ended by itself that is told then.
    pub(crate) end_reason: String,
    /// When it was asked for, or found.
    pub(crate) decided_at: Instant,
    /// When the state began.
    pub(crate) since: Instant,
    /// When the controller acts on its own.
    pub(crate) deadline: Option<Instant>,
    /// When to ask it for its status.
    pub(crate) probe_at: Option<Instant>,
    pub(crate) pid: Option<u32>,
    /// The process that waited and that it was to become.
    pub(crate) waited_pid: Option<u32>,
    /// Its process was ended by a signal, which may have come from outside.
    pub(crate) was_killed: bool,
    /// From the decision to the process's own first phase.
    pub(crate) spawn: Duration,
    /// From the decision until it took requests; zero where that is not known.
    pub(crate) took: Duration,
    /// It was started because requests waited with no replica there.
    pub(crate) is_woken: bool,
}

impl Replica {
    pub(crate) fn starting(birth: Birth, now: Instant) -> Self {
        let Birth { id, rank, version, config, gang } = birth;
        let timeout_s = config.startup_timeout_s;
        Self {
            id,
            rank,
            version,
            config,
            gang,
            user_config_version: 0,
            failed_checks: 0,
            load: None,
            stats: VecDeque::new(),
            models: Vec::new(),
            routing_stats: JsonText::default(),
            metadata: JsonText::default(),
            state: ReplicaState::Starting,
            message: "its process was asked for; takes requests when it reports ready, is ended \
                      at the deadline"
                .to_owned(),
            end_reason: String::new(),
            decided_at: now,
            since: now,
            deadline: Some(now.saturating_add(seconds(timeout_s))),
            probe_at: None,
            pid: None,
            waited_pid: None,
            was_killed: false,
            spawn: Duration::ZERO,
            took: Duration::ZERO,
            is_woken: false,
        }
    }

    pub(crate) fn recovering(birth: Birth, pid: u32, now: Instant) -> Self {
        Self {
            state: ReplicaState::Recovering,
            message: "found by a new controller; takes requests when it says that it is ready, is \
                      ended at the deadline"
                .to_owned(),
            probe_at: Some(now),
            pid: Some(pid),
            ..Self::starting(birth, now)
        }
    }

    /// Takes in what its code says of itself; what no policy looks back to is forgotten.
    pub(crate) fn note_stats(&mut self, stats: BTreeMap<String, f64>, now: Instant) {
        let stats = stats.into_iter().filter(|(_, value)| value.is_finite()).take(MAX_METRICS);
        self.stats.push_back((now, stats.collect()));
        let since = now.saturating_sub(seconds(self.config.autoscaling.look_back_period_s));
        while self.stats.len() > MAX_STATS
            || (self.stats.len() > 1 && self.stats.front().is_some_and(|(at, _)| *at < since))
        {
            self.stats.pop_front();
        }
    }

    /// Feeds the state machine; `grace` is what the process gets if this makes it stop.
    pub(crate) fn feed(
        &mut self,
        input: Input,
        reason: &str,
        grace: Duration,
        now: Instant,
    ) -> Outcome {
        let before = self.state;
        let (next, outcome) = transition(before, input);
        if (before, next) == (ReplicaState::Starting, ReplicaState::Running) {
            self.took = now.saturating_sub(self.decided_at);
        }
        if next != before {
            self.state = next;
            self.since = now;
            self.probe_at = None;
            self.deadline = None;
            self.message.clear();
        }
        match outcome {
            Outcome::Stop | Outcome::StartFailed | Outcome::Died => {
                reason.clone_into(&mut self.end_reason);
                self.message =
                    format!("{reason}; its process has the grace time to finish, then is killed");
                self.deadline = Some(now.saturating_add(grace).saturating_add(KILL_MARGIN));
            }
            Outcome::Kill => {
                "did not end in its grace time; is being killed".clone_into(&mut self.message);
                self.deadline = Some(now.saturating_add(KILL_MARGIN));
            }
            Outcome::Reconfigure => {
                "takes its new user_config; is ended at the deadline".clone_into(&mut self.message);
                let timeout = seconds(self.config.startup_timeout_s);
                self.deadline = Some(now.saturating_add(timeout));
            }
            Outcome::Nothing | Outcome::Ready | Outcome::Gone => {}
        }
        if self.state == ReplicaState::Running && before != ReplicaState::Running {
            self.check_later(now);
        }
        outcome
    }

    /// It was asked for its status: a found one is asked again soon, others after the answer.
    pub(crate) fn probed(&mut self, now: Instant) {
        let is_found = self.state == ReplicaState::Recovering;
        self.probe_at = is_found.then(|| now.saturating_add(PROBE_PERIOD));
    }

    /// What it says that it has; no more than it may tell.
    pub(crate) fn take_models(&mut self, mut ids: Vec<String>) {
        ids.truncate(MAX_TOLD_MODELS);
        self.models = ids;
    }

    /// How long a probe may take.
    pub(crate) fn probe_timeout(&self) -> Duration {
        match self.state {
            ReplicaState::Recovering => RECOVERY_PROBE_TIMEOUT,
            ReplicaState::Starting
            | ReplicaState::Running
            | ReplicaState::Updating
            | ReplicaState::Stopping
            | ReplicaState::Stopped => seconds(self.config.health_check.timeout_s),
        }
    }

    /// A health check ended: true when there were too many bad ones in a row.
    pub(crate) fn checked(&mut self, is_good: bool, now: Instant) -> bool {
        self.failed_checks = if is_good { 0 } else { self.failed_checks + 1 };
        self.check_later(now);
        self.failed_checks >= UNHEALTHY_CHECKS
    }

    fn check_later(&mut self, now: Instant) {
        self.probe_at = Some(now.saturating_add(seconds(self.config.health_check.period_s)));
    }

    /// True while it takes requests.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, ReplicaState::Running | ReplicaState::Updating)
    }

    /// True while it takes requests or is on the way there.
    pub(crate) fn is_active(&self) -> bool {
        match self.state {
            ReplicaState::Starting
            | ReplicaState::Recovering
            | ReplicaState::Running
            | ReplicaState::Updating => true,
            ReplicaState::Stopping | ReplicaState::Stopped => false,
        }
    }

    /// Ready now: what of the time since the decision the process does not know of is `spawn`.
    pub(crate) fn measure_spawn(&mut self, phases: &ColdStartPhases, now: Instant) {
        let own: f64 = phases.0.iter().map(|(_, s)| s).sum();
        self.spawn = now.saturating_sub(self.decided_at).saturating_sub(seconds(own));
    }

    /// The process's own phases with `spawn` before them.
    pub(crate) fn with_spawn(&self, mut phases: ColdStartPhases) -> ColdStartPhases {
        phases.0.insert(0, ("spawn".to_owned(), self.spawn.as_secs_f64()));
        phases
    }

    pub(crate) fn details(&self, now: Instant) -> ReplicaDetails {
        ReplicaDetails {
            replica_id: self.id.clone(),
            rank: self.is_active().then_some(self.rank),
            gang_id: self.gang.as_ref().map(|gang| gang.gang_id.clone()),
            version: self.version,
            state: self.state,
            pid: self.pid,
            start_time_s: self.decided_at.as_secs_f64(),
            since_s: now.saturating_sub(self.since).as_secs_f64(),
            message: self.message.clone(),
            models: self.models.clone(),
            deadline_s: self.deadline.map(|at| at.saturating_sub(now).as_secs_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ReplicaState::{Recovering, Running, Starting, Stopped, Stopping, Updating};

    #[test]
    fn the_transition_table() {
        use Outcome as O;
        let inputs = [Input::Ready, Input::Failed, Input::Exited, Input::Deadline, Input::Unwanted];
        let alike = |state| transition(state, Input::GangBroken);
        let table = [
            (
                Starting,
                [
                    (Running, O::Ready),
                    (Stopping, O::StartFailed),
                    (Stopped, O::StartFailed),
                    (Stopping, O::StartFailed),
                    (Stopping, O::Stop),
                ],
            ),
            (
                Recovering,
                [
                    (Running, O::Ready),
                    (Stopping, O::StartFailed),
                    (Stopped, O::Died),
                    (Stopping, O::StartFailed),
                    (Stopping, O::Stop),
                ],
            ),
            (
                Running,
                [
                    (Running, O::Nothing),
                    (Stopping, O::Died),
                    (Stopped, O::Died),
                    (Running, O::Nothing),
                    (Stopping, O::Stop),
                ],
            ),
            (
                Updating,
                [
                    (Running, O::Nothing),
                    (Stopping, O::Died),
                    (Stopped, O::Died),
                    (Stopping, O::Died),
                    (Stopping, O::Stop),
                ],
            ),
            (
                Stopping,
                [
                    (Stopping, O::Nothing),
                    (Stopping, O::Nothing),
                    (Stopped, O::Gone),
                    (Stopping, O::Kill),
                    (Stopping, O::Nothing),
                ],
            ),
            (Stopped, [(Stopped, O::Nothing); 5]),
        ];
        for (state, row) in table {
            let leaving = match state {
                Starting => (Stopping, O::StartFailed),
                Recovering | Running | Updating => (Stopping, O::Died),
                Stopping | Stopped => (state, O::Nothing),
            };
            assert_eq!(transition(state, Input::Leaving), leaving, "{state}");
            assert_eq!(alike(state), row[4], "{state}: a broken gang stops as what is unwanted");
            for (input, expected) in inputs.into_iter().zip(row) {
                assert_eq!(transition(state, input), expected, "{state} on {input:?}");
            }
        }
    }
}
