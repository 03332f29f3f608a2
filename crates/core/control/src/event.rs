//! What goes into [`State`](crate::State) and what comes out.

use crate::Instant;
use crate::application::Fallback;
use crate::ledger::Capacity;
use crate::sidecar::SidecarConfig;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tyndall_autoscaling::CapacityDirection;
use tyndall_types::protocol::{
    ApplicationConfig, ApplicationSource, ColdStartPhases, DemandReport, DeploymentConfig,
    GangContext, PolicyAnswer, PolicyQuestion, ReplicaReport, ReplicaStatus,
};
use tyndall_types::{ApplicationName, DeploymentId, DeploymentName, ReplicaId};

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The deployments of an application are being worked out; what is carried out goes on.
    Building {
        /// Which.
        application: ApplicationName,
        /// By which way it came.
        source: ApplicationSource,
        /// When it was submitted.
        at: Instant,
    },
    /// They could not be.
    BuildFailed {
        /// Whose.
        application: ApplicationName,
        /// One line of cause and one of cure.
        reason: String,
    },
    /// An application is wanted, new or changed. The same configuration again changes nothing but
    /// the back-off of its deployments, which starts anew.
    Deploy {
        /// Complete and validated.
        config: Arc<ApplicationConfig>,
        /// Its number in the history.
        version: u64,
        /// When it was deployed; earlier than now when it comes from storage.
        deployed_at: Instant,
        /// What it can go back to, when that comes from storage.
        fallback: Option<Fallback>,
    },
    /// An application is not wanted any more.
    Delete(ApplicationName),
    /// Percent of all replica counts that shall be carried out.
    TargetCapacity {
        /// Absent is all of them.
        capacity: Option<f64>,
        /// Which way it went; absent follows from the capacity before.
        direction: Option<CapacityDirection>,
    },
    /// Somebody wants so many replicas of a deployment, whatever its load.
    Scale {
        /// Which.
        deployment: DeploymentId,
        /// How many.
        target: u32,
    },
    /// What the machine has.
    Capacity(Capacity),
    /// A proxy reads the route table.
    ProxyConnected(String),
    /// A proxy tells its load.
    Demand {
        /// Which proxy.
        proxy: String,
        /// All of its load.
        report: DemandReport,
    },
    /// A proxy stopped reading the route table: its load is gone with it.
    ProxyGone(String),
    /// The replicas' processes that ran before this controller did. Nothing is started before.
    Snapshot(Vec<FoundReplica>),
    /// The process that [`Action::Start`] or [`Action::StartWaiting`] asked for runs.
    ProcessStarted {
        /// Which.
        replica: ReplicaId,
        /// Its process.
        pid: u32,
    },
    /// The process that [`Action::StartWaiting`] asked for can become a replica.
    Prepared {
        /// Which.
        process: ReplicaId,
    },
    /// The process that [`Action::Start`] or [`Action::StartWaiting`] asked for could not be started.
    StartRefused {
        /// Which.
        replica: ReplicaId,
        /// Why.
        reason: String,
    },
    /// A process is gone.
    ProcessExited {
        /// Which.
        replica: ReplicaId,
        /// How.
        exit: Exit,
    },
    /// A replica tells something.
    Report {
        /// Which.
        replica: ReplicaId,
        /// What.
        report: ReplicaReport,
    },
    /// The answer to [`Action::Reconfigure`].
    Reconfigured {
        /// Which.
        replica: ReplicaId,
        /// Why it did not take it.
        refusal: Option<String>,
    },
    /// The answer to [`Action::Probe`]; none when there was none.
    Probed {
        /// Which.
        replica: ReplicaId,
        /// What it says of itself.
        status: Option<ReplicaStatus>,
    },
    /// The answer to [`Action::AskPolicy`].
    PolicyAnswered {
        /// Of which process.
        process: ReplicaId,
        /// Whose policy; none is the application's.
        deployment: Option<DeploymentName>,
        /// What it was.
        outcome: PolicyOutcome,
    },
    /// The time of [`State::next_deadline`](crate::State::next_deadline) has come.
    DeadlinePassed,
}

/// A replica's process that a new controller found.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundReplica {
    /// Its id.
    pub replica: ReplicaId,
    /// Its process.
    pub pid: u32,
    /// What it was started with; none when that cannot be told, so that it can only be stopped.
    pub config: Option<Box<DeploymentConfig>>,
    /// The GPUs that it was given, by name.
    pub gpus: Vec<String>,
    /// Of a replica of a gang, as it was told when it started.
    pub gang: Option<Arc<GangContext>>,
    /// It is no replica but an actor.
    pub actor: Option<FoundActor>,
}

/// What the process of an actor was started as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundActor {
    /// Whose.
    pub deployment: DeploymentId,
    /// Which.
    pub actor: String,
    /// Of replicas of this code.
    pub code_version: String,
}

/// What becomes of a question to a policy.
#[derive(Debug, Clone, PartialEq)]
pub enum PolicyOutcome {
    /// It decided.
    Answered(PolicyAnswer),
    /// It did not, and says why.
    Failed(String),
    /// There was no answer in time.
    Silent,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exit {
    /// Its exit code, when it exited by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (_, Some(9)) => f.write_str(
                "was killed by signal 9 (likely out of memory, which dmesg tells: then lower \
                 max_ongoing_requests or the number of replicas)",
            ),
            (_, Some(signal @ (4 | 6 | 7 | 8 | 11))) => {
                write!(
                    f,
                    "was ended by signal {signal} (a crash in native code; the log says where)"
                )
            }
            (_, Some(signal)) => write!(f, "was ended by signal {signal}"),
            (Some(code), None) => write!(f, "exited with code {code}"),
            (None, None) => f.write_str("is gone"),
        }
    }
}

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Start the process of a new replica.
    Start {
        /// Its id.
        replica: ReplicaId,
        /// Its number among the replicas of its deployment.
        rank: u32,
        /// Its gang, where it is of one; all of one start together.
        gang: Option<Arc<GangContext>>,
        /// What it shall serve.
        config: Arc<DeploymentConfig>,
        /// The GPUs that it may use, by name.
        gpus: Vec<String>,
        /// The process that waits and becomes it; a new one where that is not there any more.
        waiting: Option<ReplicaId>,
    },
    /// Start a process that waits to become a replica.
    StartWaiting {
        /// Its id until then.
        process: ReplicaId,
        /// What for.
        config: Arc<DeploymentConfig>,
    },
    /// Start a process of an application's own beside its replicas; it reports as they do.
    StartSidecar {
        /// Its id.
        process: ReplicaId,
        /// What it is.
        config: Arc<SidecarConfig>,
        /// The GPUs that it may use, by name.
        gpus: Vec<String>,
    },
    /// Ask a policy; the answer is [`Event::PolicyAnswered`].
    AskPolicy {
        /// The process that it runs in.
        process: ReplicaId,
        /// What it is asked.
        question: PolicyQuestion,
        /// How long it may take.
        timeout: Duration,
    },
    /// Give every proxy the new [`State::routes`](crate::State::routes).
    Publish,
    /// End a process of a replica, or one that waits: SIGTERM, and SIGKILL when the grace is over.
    Stop {
        /// Which.
        replica: ReplicaId,
        /// Time for the requests it has.
        grace: Duration,
    },
    /// Hand a replica its new `user_config`; the answer is [`Event::Reconfigured`].
    Reconfigure {
        /// Which.
        replica: ReplicaId,
        /// What it shall have.
        config: Arc<DeploymentConfig>,
    },
    /// Ask a replica for its status; the answer is [`Event::Probed`].
    Probe {
        /// Which.
        replica: ReplicaId,
        /// How long it may take.
        timeout: Duration,
    },
    /// Every deployment of this version had a replica that took requests: it is one to go back to.
    Proven {
        /// Whose.
        application: ApplicationName,
        /// Which.
        version: u64,
    },
    /// An application went back to an older version, which is a new one in the history.
    RolledBack {
        /// Which.
        application: ApplicationName,
        /// The new version's number.
        version: u64,
        /// The older version's number.
        to: u64,
        /// What it is.
        config: Arc<ApplicationConfig>,
        /// Why.
        reason: String,
    },
    /// A deleted deployment has no process left.
    Forget(DeploymentId),
    /// Tell whoever watches.
    Notice(Notice),
}

/// Something worth a log line or a metric.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// A deployment at zero replicas gets one because of a request.
    Waking {
        /// Which.
        deployment: DeploymentId,
        /// The replica that is started.
        replica: ReplicaId,
    },
    /// A replica takes requests.
    Ready {
        /// Whose.
        deployment: DeploymentId,
        /// Which.
        replica: ReplicaId,
        /// From the decision to start it; the first phase is `spawn`.
        phases: ColdStartPhases,
    },
    /// The process of a replica runs whose deployment has some that wait.
    WarmStart {
        /// Whose.
        deployment: DeploymentId,
        /// It is one of those, so that it has imported already.
        is_taken: bool,
    },
    /// A process that waits is gone without having been asked.
    WaitingDied {
        /// Whose.
        deployment: DeploymentId,
        /// How.
        reason: String,
        /// Until the next one; none is started any more where this is absent.
        retry_in: Option<Duration>,
    },
    /// The first request of a replica got its first token.
    FirstToken {
        /// Whose.
        deployment: DeploymentId,
        /// Which.
        replica: ReplicaId,
        /// From the decision to start it; the first phase is `spawn`.
        phases: ColdStartPhases,
    },
    /// A replica could not start.
    StartFailed {
        /// Whose.
        deployment: DeploymentId,
        /// Which.
        replica: ReplicaId,
        /// One line of cause and one of cure.
        reason: String,
        /// Until the next try.
        retry_in: Duration,
    },
    /// A replica that ran is gone without having been asked.
    Died {
        /// Whose.
        deployment: DeploymentId,
        /// Which.
        replica: ReplicaId,
        /// How.
        reason: String,
        /// Until its replacement may start.
        retry_in: Duration,
    },
    /// A replica's process is gone.
    Exited {
        /// Whose.
        deployment: DeploymentId,
        /// Which.
        replica: ReplicaId,
        /// It had been asked to end.
        is_expected: bool,
        /// Since it was asked for.
        lived: Duration,
    },
    /// The autoscaler changed the target.
    Scaled {
        /// Which.
        deployment: DeploymentId,
        /// Replicas before.
        from: u32,
        /// Replicas now.
        to: u32,
    },
    /// A policy in Python fails, or does so no longer.
    Policy {
        /// Of which application.
        application: ApplicationName,
        /// Of which deployment; none is the application's own, or its process.
        deployment: Option<DeploymentName>,
        /// Why; empty when it decides again.
        trouble: String,
    },
    /// A request router in Python does not choose, or does so again.
    Router {
        /// Whose.
        deployment: DeploymentId,
        /// Why; empty when it chooses.
        trouble: String,
    },
    /// An actor is lost or fails to start, or is there again.
    Actor {
        /// Whose.
        deployment: DeploymentId,
        /// Its name.
        actor: String,
        /// Why; empty when it is there again.
        trouble: String,
    },
    /// Idle replicas went, because another deployment needed their memory.
    Evicted {
        /// Whose.
        deployment: DeploymentId,
        /// For whom.
        by: DeploymentId,
    },
}
