//! The two links to the supervisor: its events come in, commands go out in order.

use crate::service::Message;
use http::{Method, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tyndall_control::{Event, Exit, FoundActor, FoundReplica};
use tyndall_transport::{Client, ClientError, JsonLines, ResponseBody};
use tyndall_types::protocol::{
    DeploymentActor, ProcessEvent, ProcessInfo, ProcessSpec, StopProcess,
};
use tyndall_types::{ApplicationName, DeploymentId, DeploymentName, ReplicaId};

/// The argument of a replica's process that holds its deployment, as JSON.
pub(crate) const CONFIG_ARG: &str = "--deployment-config";
/// The argument of a replica that has its gang.
pub(crate) const GANG_ARG: &str = "--gang";
/// The argument of a process beside the replicas that holds what it is told, as JSON.
pub(crate) const TOLD_ARG: &str = "--told";
/// The supervisor answers in milliseconds; one that does not is ill.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_COMMANDS: usize = 1024;

/// What the supervisor is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    Start(ProcessSpec),
    Stop { replica: ReplicaId, grace: Duration },
}

type Events = JsonLines<ProcessEvent, ResponseBody>;

/// Opens the supervisor's stream of events.
pub(crate) async fn events(supervisor: &Client) -> Result<Events, ClientError> {
    supervisor.lines("/-/events").await
}

/// Passes the supervisor's events on until they end.
pub(crate) async fn follow(mut events: Events, messages: &mpsc::Sender<Message>) {
    loop {
        let message = match events.next().await {
            Ok(Some(ProcessEvent::Snapshot { processes })) => {
                Message::Event(Event::Snapshot(processes.into_iter().map(found).collect()))
            }
            Ok(Some(ProcessEvent::Started { process })) => Message::Event(Event::ProcessStarted {
                replica: ReplicaId::new(process.id),
                pid: process.pid,
            }),
            Ok(Some(ProcessEvent::Prepared { id })) => {
                Message::Event(Event::Prepared { process: ReplicaId::new(id) })
            }
            Ok(Some(ProcessEvent::Exited { id, code, signal })) => {
                let exit = Exit { code, signal };
                Message::Event(Event::ProcessExited { replica: ReplicaId::new(id), exit })
            }
            Ok(Some(ProcessEvent::ShuttingDown)) => Message::ShuttingDown,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "failed to read the supervisor's events");
                return;
            }
        };
        if messages.send(message).await.is_err() {
            return;
        }
    }
}

/// What a process is, by the arguments that a controller before this one gave it.
pub(crate) fn found(process: ProcessInfo) -> FoundReplica {
    let after = |name: &str| process.args.iter().skip_while(move |arg| *arg != name).nth(1);
    let config = after(CONFIG_ARG).and_then(|json| serde_json::from_str(json).ok());
    let gang = after(GANG_ARG).and_then(|json| serde_json::from_str(json).ok()).map(Arc::new);
    let actor = found_actor(&process.args);
    let (replica, pid, gpus) = (ReplicaId::new(process.id), process.pid, process.gpus);
    FoundReplica { replica, pid, config, gpus, gang, actor }
}

fn found_actor(args: &[String]) -> Option<FoundActor> {
    let mut words = args.iter().skip_while(|word| *word != "role").skip(1);
    let mut told = args.iter().skip_while(|word| *word != TOLD_ARG);
    words.next().filter(|role| *role == "actor")?;
    let told: Told = serde_json::from_str(told.nth(1)?).ok()?;
    let deployment = DeploymentId { application: told.application, deployment: told.deployment };
    Some(FoundActor { deployment, actor: told.actor.name, code_version: told.code_version })
}

/// Whose actor it is, of what its process is told.
#[derive(serde::Deserialize)]
struct Told {
    application: ApplicationName,
    deployment: DeploymentName,
    code_version: String,
    actor: DeploymentActor,
}

/// Starts the task that carries out commands one after another, so that no stop overtakes its
/// start. It ends when the returned sender is dropped.
pub(crate) fn commands(
    supervisor: Client,
    messages: mpsc::Sender<Message>,
) -> mpsc::Sender<Command> {
    let (sender, mut commands) = mpsc::channel(MAX_COMMANDS);
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            let event = match command {
                Command::Start(spec) => Some(start(&supervisor, spec).await),
                Command::Stop { replica, grace } => stop(&supervisor, replica, grace).await,
            };
            if let Some(event) = event
                && messages.send(Message::Event(event)).await.is_err()
            {
                return;
            }
        }
    });
    sender
}

async fn start(supervisor: &Client, spec: ProcessSpec) -> Event {
    let replica = ReplicaId::new(spec.id.as_str());
    let call = supervisor.call::<_, ProcessInfo>(Method::POST, "/-/processes", &spec);
    let reason = match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(info)) => return Event::ProcessStarted { replica, pid: info.pid },
        Ok(Err(ClientError::Status { body, .. })) => body,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the supervisor did not answer".to_owned(),
    };
    // It may have been started all the same; nobody would ever use it.
    stop(supervisor, replica.clone(), Duration::ZERO).await;
    Event::StartRefused { replica, reason }
}

/// Asks for the end of a process; an event when there is none.
async fn stop(supervisor: &Client, replica: ReplicaId, grace: Duration) -> Option<Event> {
    let path = format!("/-/processes/{replica}/stop");
    let stop = StopProcess { grace_s: grace.as_secs_f64() };
    match tokio::time::timeout(TIMEOUT, supervisor.tell(Method::POST, &path, &stop)).await {
        Ok(Ok(())) => None,
        Ok(Err(ClientError::Status { status: StatusCode::NOT_FOUND, .. })) => {
            Some(Event::ProcessExited { replica, exit: Exit::default() })
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, %replica, "failed to stop a replica now");
            None
        }
        Err(_) => {
            tracing::warn!(%replica, "the supervisor did not answer");
            None
        }
    }
}
