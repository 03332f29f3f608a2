//! The task that owns the state: takes messages, applies them, carries out what follows.

use crate::clock::Clock;
use crate::metrics::ControllerMetrics;
use crate::notices;
use crate::store::{Store, StoreError};
use crate::supervisor::Command;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tyndall_control::{Action, Event, State};
use tyndall_transport::Client;
use tyndall_types::protocol::{
    DeploymentConfig, InstanceDetails, ReplicaReport, ReplicaStatus, RouteTable, RuntimeDir,
};
use tyndall_types::{DeploymentName, ReplicaId};

/// A found replica must answer a question by then.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The newest route table; none until a new controller knows what runs.
pub(crate) type Routes = Option<Arc<RouteTable>>;

/// What other tasks ask of the service.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something happened.
    Event(Event),
    /// The node ends: what happens from now on is no failure, and nothing is started.
    ShuttingDown,
    /// A replica reports; answers whether it is known.
    Report { replica: ReplicaId, report: ReplicaReport, reply: oneshot::Sender<bool> },
    /// A proxy reads the routes; answers the number to give when it stops.
    ProxyConnected { proxy: String, reply: oneshot::Sender<u64> },
    /// A proxy's stream ended.
    ProxyGone { proxy: String, connection: u64 },
    /// A deployment is wanted.
    Deploy { config: Box<DeploymentConfig>, reply: oneshot::Sender<Result<(), StoreError>> },
    /// A deployment is not wanted any more; the error names those that are.
    Delete { name: DeploymentName, reply: oneshot::Sender<Result<(), Vec<DeploymentName>>> },
    /// `GET /api/serve/applications/`.
    Details(oneshot::Sender<InstanceDetails>),
    /// The metrics page.
    Metrics(oneshot::Sender<String>),
}

pub(crate) struct Service {
    clock: Clock,
    state: State,
    store: Option<Store>,
    metrics: ControllerMetrics,
    runtime_dir: RuntimeDir,
    commands: mpsc::Sender<Command>,
    routes: watch::Sender<Routes>,
    messages: mpsc::Sender<Message>,
    /// The newest connection of each proxy.
    connections: HashMap<String, u64>,
    num_connections: u64,
    is_shutting_down: bool,
}

impl Service {
    pub(crate) fn new(
        runtime_dir: RuntimeDir,
        store: Option<Store>,
        commands: mpsc::Sender<Command>,
        routes: watch::Sender<Routes>,
        messages: mpsc::Sender<Message>,
    ) -> Self {
        let clock = Clock::start();
        let seed_ms = u64::try_from(clock.now().as_millis()).unwrap_or(u64::MAX);
        Self {
            clock,
            state: State::new(runtime_dir.clone(), seed_ms),
            store,
            metrics: ControllerMetrics::new(),
            runtime_dir,
            commands,
            routes,
            messages,
            connections: HashMap::new(),
            num_connections: 0,
            is_shutting_down: false,
        }
    }

    /// Takes messages until the last sender is gone.
    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        self.restore();
        loop {
            let deadline = self.state.next_deadline().filter(|_| !self.is_shutting_down);
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                () = self.clock.sleep_until(deadline) => self.apply(Event::DeadlinePassed),
            }
        }
    }

    fn restore(&mut self) {
        let stored = self.store.as_ref().map(Store::deployments).transpose();
        let deployments = stored.unwrap_or_else(|error| {
            tracing::error!(%error, "failed to read the deployments");
            None
        });
        for (config, deployed_at) in deployments.into_iter().flatten() {
            tracing::info!(deployment = %config.name, "restored from the state directory");
            self.apply(Event::Deploy { config: Box::new(config), deployed_at });
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
            Message::Deploy { config, reply } => {
                answer(reply, self.deploy(config));
            }
            Message::Delete { name, reply } => {
                answer(reply, self.delete(name));
            }
            Message::Details(reply) => {
                answer(reply, self.state.details(self.clock.now()));
            }
            Message::Metrics(reply) => {
                let details = self.state.details(self.clock.now());
                answer(reply, self.metrics.render(&details));
            }
        }
    }

    fn deploy(&mut self, config: Box<DeploymentConfig>) -> Result<(), StoreError> {
        let deployed_at = self.clock.now();
        if let Some(store) = &mut self.store {
            store.deploy(&config, deployed_at)?;
        }
        tracing::debug!(deployment = %config.name, "deployed");
        self.apply(Event::Deploy { config, deployed_at });
        Ok(())
    }

    fn delete(&mut self, name: DeploymentName) -> Result<(), Vec<DeploymentName>> {
        let names = self.state.deployment_names();
        if !names.contains(&name) {
            return Err(names);
        }
        // It goes even if it cannot be written down: it would only come back with the next
        // controller, which is better than a delete that does nothing.
        if let Some(Err(error)) = self.store.as_mut().map(|store| store.delete(&name)) {
            tracing::error!(%error, deployment = %name, "failed to delete from the state");
        }
        self.apply(Event::Delete(name));
        Ok(())
    }

    fn apply(&mut self, event: Event) {
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
            Action::Start { replica, config } => {
                let args = self.replica_args(&replica, &config);
                let start = Command::Start { replica: replica.clone(), args };
                self.commands.try_send(start).err().map(|_| Event::StartRefused {
                    replica,
                    reason: "too many processes are being started; try again".to_owned(),
                })
            }
            Action::Stop { replica, grace } => {
                // If it is lost, the deadline of the replica's state stops it once more.
                if let Err(error) = self.commands.try_send(Command::Stop { replica, grace }) {
                    tracing::warn!(%error, "failed to stop a replica now");
                }
                None
            }
            Action::Publish => {
                self.routes.send_replace(self.state.routes().map(Arc::new));
                None
            }
            Action::Probe(replica) => {
                let socket = self.runtime_dir.replica_socket(&replica);
                tokio::spawn(probe(Client::unix(socket), replica, self.messages.clone()));
                None
            }
            Action::Forget(name) => {
                tracing::info!(deployment = %name, "deleted");
                self.metrics.forget(&name);
                None
            }
            Action::Notice(notice) => {
                notices::log(&notice);
                self.metrics.count(&notice);
                if let Some(store) = &mut self.store {
                    notices::store(store, &notice, self.clock.now());
                }
                None
            }
        }
    }

    fn replica_args(&self, replica: &ReplicaId, config: &DeploymentConfig) -> Vec<String> {
        let config = serde_json::to_string(config).expect("wire types have string keys only");
        let directory = self.runtime_dir.path().display().to_string();
        let args = ["role", "replica", "--runtime-dir", &directory, "--id", replica.as_str()];
        let args = args.into_iter().map(str::to_owned);
        args.chain([crate::supervisor::CONFIG_ARG.to_owned(), config]).collect()
    }
}

fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    if reply.send(value).is_err() {
        tracing::trace!("whoever asked has left");
    }
}

async fn probe(client: Client, replica: ReplicaId, messages: mpsc::Sender<Message>) {
    let asked = client.get::<ReplicaStatus>("/-/status");
    let status = match tokio::time::timeout(PROBE_TIMEOUT, asked).await {
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
