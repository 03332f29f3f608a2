//! The task that owns the state: takes messages, applies them, carries out what follows.

use crate::builds::{Builder, Builds};
use crate::clock::Clock;
use crate::code::{CodeFiles, CodeSubmission, Received};
use crate::health::{self, Health, Turn};
use crate::metrics::ControllerMetrics;
use crate::models::ModelsSubmission;
use crate::notices;
use crate::origins::{Origin, Origins};
use crate::processes::{self, Own};
use crate::store::{
    Record, Store, StoreError, StoredApplication, StoredEvent, StoredVersion, Usage,
};
use crate::submissions::Refusal;
use crate::supervisor::Command;
use http::Method;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tyndall_control::{Action, Capacity, Event, State};
use tyndall_transport::{Client, ClientError};
use tyndall_types::protocol::{
    ApplicationConfig, ApplicationDetails, InstanceDetails, KeyUsageOfDay, KeyUsageReport,
    ProcessSpec, ReplicaReport, ReplicaStatus, RouteTable, RuntimeDir,
};
use tyndall_types::{ApplicationName, DeploymentId, ReplicaId, ReplicaState};

/// Applications that are told of at once: a wake waits for no more.
pub(crate) const PAGE: usize = 64;

/// What happened is kept when nothing else is to do, or when it is so much.
const MAX_RECORDS: usize = 256;

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<T>;

/// Which events are wanted.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) application: Option<String>,
    /// Only those after this one.
    pub(crate) after: i64,
    pub(crate) limit: u32,
}

/// What other tasks ask of the service.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something happened.
    Event(Event),
    /// The node ends: what happens from now on is no failure, and nothing is started.
    ShuttingDown,
    /// A replica reports; answers whether it is known.
    Report { replica: ReplicaId, report: ReplicaReport, reply: Reply<bool> },
    /// A proxy reads the routes; answers the number to give when it stops.
    ProxyConnected { proxy: String, reply: Reply<u64> },
    /// A proxy's stream ended.
    ProxyGone { proxy: String, connection: u64 },
    /// A config file is wanted.
    Submit { text: String, reply: Reply<Result<(), Refusal>> },
    /// An application is wanted that is built already.
    Deploy { config: Arc<ApplicationConfig>, reply: Reply<Result<(), Refusal>> },
    /// An application is wanted that brings its code; answers its version, unless models are to be built first.
    DeployCode {
        name: ApplicationName,
        submission: Box<CodeSubmission>,
        received: Received,
        reply: Reply<Result<Option<u64>, Refusal>>,
    },
    /// An application of models is wanted that no config file has.
    DeployModels {
        name: ApplicationName,
        submission: ModelsSubmission,
        reply: Reply<Result<(), Refusal>>,
    },
    /// A build is over.
    Built {
        application: ApplicationName,
        number: u64,
        outcome: Result<Box<ApplicationConfig>, String>,
    },
    /// An application is not wanted any more.
    Delete { name: ApplicationName, reply: Reply<Result<(), Refusal>> },
    /// No application is wanted any more.
    DeleteAll(Reply<Result<(), Refusal>>),
    /// A deployment shall have so many replicas.
    Scale { id: DeploymentId, target: u32, reply: Reply<Result<(), Refusal>> },
    /// An application shall go back to an older version; answers which.
    RollBack { name: ApplicationName, to: Option<u64>, reply: Reply<Result<u64, Refusal>> },
    /// The versions of an application.
    Versions { name: ApplicationName, reply: Reply<Result<Vec<StoredVersion>, Refusal>> },
    /// What happened.
    Events { wanted: Wanted, reply: Reply<Result<Vec<StoredEvent>, Refusal>> },
    /// What was used.
    Usage(Reply<Result<Vec<Usage>, Refusal>>),
    /// A proxy tells what API keys used.
    KeyUsage { proxy: String, report: KeyUsageReport, reply: Reply<Result<(), Refusal>> },
    /// What API keys used on the last so many days.
    KeyUsages { num_days: u64, reply: Reply<Result<Vec<KeyUsageOfDay>, Refusal>> },
    /// What a proxy should know that has read the route table up to a version.
    Routes { since: Option<u64>, reply: Reply<Option<RouteTable>> },
    /// How the controller is.
    Health(Reply<Value>),
    /// What there is to know beside applications.
    Overview(Reply<InstanceDetails>),
    /// The next applications by name.
    Applications { after: Option<ApplicationName>, reply: Reply<Vec<ApplicationDetails>> },
    /// The states of all replicas.
    ReplicaStates(Reply<Vec<(DeploymentId, Vec<ReplicaState>)>>),
}

pub(crate) struct Service {
    pub(crate) clock: Clock,
    pub(crate) state: State,
    pub(crate) store: Option<Store>,
    pub(crate) builds: Builds,
    pub(crate) code: CodeFiles,
    /// Where each application came from that is wanted.
    pub(crate) origins: Origins,
    /// What the newest config file says of all its applications.
    pub(crate) shared: Value,
    metrics: Arc<ControllerMetrics>,
    pub(crate) runtime_dir: RuntimeDir,
    commands: mpsc::Sender<Command>,
    /// Counts changes of the route table, for those who send it to proxies.
    routes: watch::Sender<u64>,
    pub(crate) messages: mpsc::Sender<Message>,
    /// The newest connection of each proxy.
    connections: HashMap<String, u64>,
    num_connections: u64,
    /// What happened and is not kept yet.
    records: Vec<Record>,
    is_shutting_down: bool,
    health: Health,
}

/// What a service is made from.
pub(crate) struct Parts {
    pub(crate) runtime_dir: RuntimeDir,
    pub(crate) store: Option<Store>,
    pub(crate) builder: Builder,
    pub(crate) code_dir: PathBuf,
    pub(crate) capacity: Capacity,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) routes: watch::Sender<u64>,
    pub(crate) messages: mpsc::Sender<Message>,
    pub(crate) metrics: Arc<ControllerMetrics>,
}

impl Service {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { runtime_dir, store, builder, code_dir, capacity, .. } = parts;
        let Parts { commands, routes, messages, metrics, .. } = parts;
        let clock = Clock::start();
        let seed_ms = u64::try_from(clock.now().as_millis()).unwrap_or(u64::MAX);
        let mut service = Self {
            clock,
            state: State::new(runtime_dir.clone(), seed_ms),
            store,
            builds: Builds::new(builder, messages.clone()),
            code: CodeFiles::new(code_dir),
            origins: Origins::default(),
            shared: Value::Object(Map::new()),
            metrics,
            runtime_dir,
            commands,
            routes,
            messages,
            connections: HashMap::new(),
            num_connections: 0,
            records: Vec::new(),
            is_shutting_down: false,
            health: Health::new(clock.now()),
        };
        service.apply(Event::Capacity(capacity));
        service
    }

    /// Takes messages until the last sender is gone.
    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        loop {
            let deadline = self.state.next_deadline().filter(|_| !self.is_shutting_down);
            let has_records = !self.records.is_empty();
            let message = tokio::select! {
                message = inbox.recv() => match message {
                    Some(message) => message,
                    None => return,
                },
                () = self.clock.sleep_until(deadline) => Message::Event(Event::DeadlinePassed),
                // Ready only after the others had their turn: a wake does not wait for history.
                () = tokio::task::yield_now(), if has_records => {
                    self.keep_records();
                    continue;
                }
            };
            let (began, turn) = (self.clock.now(), turn(&message));
            self.take(message);
            let now = self.clock.now();
            self.health.note(turn, now.saturating_sub(began), now);
            if self.records.len() >= MAX_RECORDS {
                self.keep_records();
            }
        }
    }

    /// Carries on with what the controller before this one had been asked for.
    ///
    /// # Errors
    /// [`StoreError`]. Without knowing what is wanted, replicas that run would be taken for strays.
    pub(crate) fn restore(&mut self) -> Result<(), StoreError> {
        let Some(store) = &self.store else { return Ok(()) };
        let (capacity, applications) = (store.target_capacity()?, store.applications()?);
        self.shared = store.shared()?;
        let (capacity, direction) = capacity.unzip();
        self.apply(Event::TargetCapacity { capacity, direction: direction.flatten() });
        for application in applications {
            tracing::info!(application = %application.name, "restored from the state directory");
            self.restore_application(application);
        }
        self.code.sweep_all();
        Ok(())
    }

    fn restore_application(&mut self, application: StoredApplication) {
        let StoredApplication { name, source, current, fallback, pending, failure, replica_counts } =
            application;
        self.origins.insert(name.clone(), Origin { source, ..Origin::default() });
        if let Some((config, version, deployed_at)) = current {
            self.origins.insert(name.clone(), Origin { source, ..Origin::of(&config) });
            if let Some(proven) = &fallback {
                self.code.deployed(proven.version, &proven.config, true);
            }
            let is_proven = fallback.as_ref().is_some_and(|proven| proven.version == version);
            self.code.deployed(version, &config, is_proven);
            let config = Arc::new(config);
            self.apply(Event::Deploy { config, version, deployed_at, fallback });
        }
        for (deployment, target) in replica_counts {
            let deployment = DeploymentId { application: name.clone(), deployment };
            self.apply(Event::Scale { deployment, target });
        }
        if let Some((reason, at)) = failure {
            self.apply(Event::Building { application: name.clone(), source, at });
            self.apply(Event::BuildFailed { application: name.clone(), reason });
        }
        if let Some((submitted, _)) = pending {
            self.build(name, submitted);
        }
    }

    /// Notes an event down, to be kept.
    pub(crate) fn record(
        &mut self,
        application: &ApplicationName,
        kind: &'static str,
        message: &str,
    ) {
        self.record_of(application, "", kind, message);
    }

    /// As [`Service::record`], of one deployment.
    pub(crate) fn record_of(
        &mut self,
        application: &ApplicationName,
        deployment: &str,
        kind: &'static str,
        message: &str,
    ) {
        if self.store.is_some() {
            self.records.push(Record::Event {
                at: self.clock.now(),
                application: application.to_string(),
                deployment: deployment.to_owned(),
                kind,
                message: message.to_owned(),
            });
        }
    }

    /// Writes down what happened. A failure is logged: history is no reason to stop.
    pub(crate) fn keep_records(&mut self) {
        let records = std::mem::take(&mut self.records);
        if let Some(store) = &mut self.store
            && !records.is_empty()
            && let Err(error) = store.keep(&records)
        {
            tracing::warn!(%error, "failed to keep {} events", records.len());
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Event(event) => self.apply(event),
            Message::ShuttingDown => self.is_shutting_down = true,
            Message::Report { replica, report, reply } => {
                let is_known = self.state.knows(&replica);
                self.apply(Event::Report { replica, report });
                answer(reply, is_known);
            }
            Message::ProxyConnected { proxy, reply } => {
                self.num_connections += 1;
                self.connections.insert(proxy.clone(), self.num_connections);
                self.apply(Event::ProxyConnected(proxy));
                answer(reply, self.num_connections);
            }
            Message::ProxyGone { proxy, connection } => {
                // An older stream of a proxy that has come again says nothing.
                if self.connections.get(&proxy) == Some(&connection) {
                    self.connections.remove(&proxy);
                    self.apply(Event::ProxyGone(proxy));
                }
            }
            Message::Built { application, number, outcome } => {
                self.built(application, number, outcome);
            }
            asked => self.serve(asked),
        }
    }

    /// Answers what people and tools ask.
    fn serve(&mut self, message: Message) {
        match message {
            Message::Submit { text, reply } => answer(reply, self.submit(&text)),
            Message::Deploy { config, reply } => {
                answer(reply, self.deploy_built(config).map(drop));
            }
            Message::DeployCode { name, submission, received, reply } => {
                answer(reply, self.deploy_code(&name, &submission, received));
            }
            Message::DeployModels { name, submission, reply } => {
                answer(reply, self.deploy_models(name, submission));
            }
            Message::Delete { name, reply } => answer(reply, self.delete(name)),
            Message::DeleteAll(reply) => answer(reply, self.delete_all()),
            Message::Scale { id, target, reply } => answer(reply, self.scale(id, target)),
            Message::RollBack { name, to, reply } => answer(reply, self.roll_back(&name, to)),
            Message::Versions { name, reply } => answer(reply, self.versions(&name)),
            Message::Events { wanted, reply } => {
                self.keep_records();
                let Wanted { application, after, limit } = wanted;
                let events = self.store.as_ref().map_or(Ok(Vec::new()), |store| {
                    store.events(application.as_deref(), after, limit)
                });
                answer(reply, events.map_err(Refusal::from));
            }
            Message::Usage(reply) => {
                self.keep_records();
                let usage = self.store.as_ref().map_or(Ok(Vec::new()), Store::usage);
                answer(reply, usage.map_err(Refusal::from));
            }
            Message::KeyUsage { proxy, report, reply } => {
                let now = self.clock.now();
                let kept = self
                    .store
                    .as_mut()
                    .map_or(Ok(()), |store| store.keep_key_usage(&proxy, &report, now));
                answer(reply, kept.map_err(Refusal::from));
            }
            Message::KeyUsages { num_days, reply } => {
                let now = self.clock.now();
                let store = self.store.as_ref();
                let usage = store.map_or(Ok(Vec::new()), |store| store.key_usage(num_days, now));
                answer(reply, usage.map_err(Refusal::from));
            }
            Message::Routes { since, reply } => answer(reply, self.state.routes(since)),
            Message::Health(reply) => {
                answer(reply, self.health.metrics(health::memory_mb(), self.clock.now()));
            }
            Message::Overview(reply) => answer(reply, self.state.overview()),
            Message::Applications { after, reply } => {
                let now = self.clock.now();
                answer(reply, self.state.applications_after(after.as_ref(), PAGE, now));
            }
            Message::ReplicaStates(reply) => answer(reply, self.state.replica_states()),
            Message::Event(_)
            | Message::ShuttingDown
            | Message::Report { .. }
            | Message::ProxyConnected { .. }
            | Message::ProxyGone { .. }
            | Message::Built { .. } => unreachable!("these are taken before"),
        }
    }

    pub(crate) fn apply(&mut self, event: Event) {
        if self.is_shutting_down {
            return;
        }
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            tracing::trace!(?event);
            for action in self.state.apply(event, self.clock.now()) {
                events.extend(self.carry_out(action));
            }
        }
    }

    /// Carries an action out; an event when it failed at once.
    fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Start { replica, rank, gang, config, gpus, waiting } => {
                let own = Own { id: &replica, rank, gang, gpus, waiting };
                let spec = processes::replica(&self.runtime_dir, &config, own);
                self.start(replica, spec)
            }
            Action::StartWaiting { process, config } => {
                let spec = processes::waiting(&process, &config);
                self.start(process, spec)
            }
            Action::StartSidecar { process, config, gpus } => {
                let spec = processes::sidecar(&self.runtime_dir, &process, &config, gpus);
                self.start(process, spec)
            }
            Action::AskPolicy { process, question, timeout } => {
                self.ask_policy(process, question, timeout);
                None
            }
            Action::Stop { replica, grace } => {
                // If it is lost, the deadline of the replica's state stops it once more.
                if let Err(error) = self.commands.try_send(Command::Stop { replica, grace }) {
                    tracing::warn!(%error, "failed to stop a replica now");
                }
                None
            }
            Action::Publish => {
                self.routes.send_modify(|changes| *changes += 1);
                None
            }
            Action::Probe { replica, timeout } => {
                let client = self.replica(&replica);
                tokio::spawn(probe(client, replica, timeout, self.messages.clone()));
                None
            }
            Action::Reconfigure { replica, config } => {
                let client = self.replica(&replica);
                let user_config = config.user_config.clone();
                tokio::spawn(reconfigure(client, replica, user_config, self.messages.clone()));
                None
            }
            Action::Proven { application, version } => {
                if let Some(store) = &mut self.store
                    && let Err(error) = store.proven(&application, version)
                {
                    tracing::warn!(%error, "failed to note that a version serves");
                }
                self.code.proven(&application, version);
                None
            }
            Action::RolledBack { application, version, to, config, reason } => {
                tracing::error!(%application, version, "rolled back to version {to}: {reason}");
                self.rolled_back(&application, &config, &format!("to version {to}: {reason}"));
                None
            }
            Action::Forget(id) => {
                tracing::info!(deployment = %id, "deleted");
                None
            }
            Action::Notice(notice) => {
                notices::log(&notice);
                self.metrics.count(&notice);
                if self.store.is_some() {
                    self.records.extend(notices::records(&notice, self.clock.now()));
                }
                None
            }
        }
    }

    fn start(&self, replica: ReplicaId, spec: ProcessSpec) -> Option<Event> {
        self.commands.try_send(Command::Start(spec)).err().map(|_| Event::StartRefused {
            replica,
            reason: "too many processes are being started; try again".to_owned(),
        })
    }

    pub(crate) fn replica(&self, replica: &ReplicaId) -> Client {
        Client::unix(self.runtime_dir.replica_socket(replica))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.keep_records();
    }
}

fn turn(message: &Message) -> Turn {
    match message {
        Message::Event(Event::Demand { .. }) => Turn::HandleReport,
        Message::Report { report: ReplicaReport::Load(_), .. } => Turn::ReplicaReport,
        _ => Turn::Other,
    }
}

fn answer<T>(reply: Reply<T>, value: T) {
    if reply.send(value).is_err() {
        tracing::trace!("whoever asked has left");
    }
}

async fn probe(
    client: Client,
    replica: ReplicaId,
    timeout: Duration,
    messages: mpsc::Sender<Message>,
) {
    let asked = client.get::<ReplicaStatus>("/-/status");
    let status = match tokio::time::timeout(timeout, asked).await {
        Ok(Ok(status)) => Some(status),
        Ok(Err(error)) => {
            tracing::debug!(%error, %replica, "no status");
            None
        }
        Err(_) => None,
    };
    // Nobody is left to hear it when the controller ends.
    drop(messages.send(Message::Event(Event::Probed { replica, status })).await);
}

/// Hands over a `user_config`. How long it may take is the deadline of the replica's state.
async fn reconfigure(
    client: Client,
    replica: ReplicaId,
    user_config: serde_json::Value,
    messages: mpsc::Sender<Message>,
) {
    let told = client.tell(Method::POST, "/-/reconfigure", &user_config).await;
    let refusal = told.err().map(|error| match error {
        ClientError::Status { body, .. } => body,
        error => error.to_string(),
    });
    drop(messages.send(Message::Event(Event::Reconfigured { replica, refusal })).await);
}
