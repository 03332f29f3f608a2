//! The table of processes, and the task that watches each of them.
//!
//! 1. [`Processes::spawn`] starts a child, opens its pidfd and announces it.
//! 2. Its task waits for the pidfd, or for a stop: SIGTERM, and SIGKILL for the whole process group
//!    when the grace is over.
//! 3. When it is gone, and before its id is released, its process group is killed; then it is
//!    reaped, leaves the table and is announced.
//!
//! A process that waits is one like the others, until a start names it: then its entry gets the id and
//! the arguments of the replica that it is from there on.

use crate::waiting::Line;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use std::collections::BTreeMap;
use std::future::pending;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tyndall_types::protocol::{Handover, ProcessEvent, ProcessInfo, ProcessSpec};

/// Which GPUs a process may see; the driver reads it when a process first turns to it.
const GPUS_VARIABLE: &str = "CUDA_VISIBLE_DEVICES";
/// Events that a slow reader may be behind; then its stream ends and it starts anew.
const MAX_EVENTS_BEHIND: usize = 1024;
/// Processes at a time.
const MAX_PROCESSES: usize = 4096;
/// Longest grace; only keeps the arithmetic of time in its range.
const MAX_GRACE: Duration = Duration::from_secs(24 * 3600);

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// One with this id runs.
    #[error("a process with the id {id} runs already")]
    Exists {
        /// The id.
        id: String,
    },
    /// The node ends.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// Too many processes.
    #[error("{max} processes run already; stop some first")]
    TooMany {
        /// The bound.
        max: usize,
    },
    /// The system refused.
    #[error("failed to start {executable}: {source}")]
    System {
        /// What was to be started.
        executable: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// What a process is to the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Controller,
    Proxy,
    Replica,
    /// It waits to become a replica.
    Waiting,
    /// Replicas need it until they have ended.
    Shared,
}

impl Kind {
    /// Whoever listens is told of these: they are the controller's.
    fn is_told(self) -> bool {
        matches!(self, Self::Replica | Self::Waiting | Self::Shared)
    }
}

/// The processes of this node. Clones share the table.
#[derive(Debug, Clone)]
pub(crate) struct Processes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    executable: PathBuf,
    env: BTreeMap<String, String>,
    table: Mutex<Table>,
    events: broadcast::Sender<ProcessEvent>,
    /// Counts exits, to wait on.
    exits: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<String, Entry>,
    num_started: u64,
    is_shutting_down: bool,
    /// Processes that did not end in their grace.
    num_killed: usize,
}

#[derive(Debug)]
struct Entry {
    info: ProcessInfo,
    kind: Kind,
    /// Counts processes: ids change, and the system uses its own again.
    number: u64,
    /// To one that waits.
    line: Option<Line>,
    /// Takes the grace of each stop.
    stop: mpsc::Sender<Duration>,
}

impl Entry {
    fn stop(&self, grace: Duration) {
        if self.stop.try_send(grace).is_err() {
            tracing::debug!(id = %self.info.id, "stopped more often than can be noted, or just ended");
        }
    }
}

impl Processes {
    /// Every process is this executable; `env` adds to the environment that it inherits.
    pub(crate) fn new(executable: PathBuf, env: BTreeMap<String, String>) -> Self {
        let (events, _) = broadcast::channel(MAX_EVENTS_BEHIND);
        let (exits, _) = watch::channel(0);
        Self(Arc::new(Inner { executable, env, table: Mutex::default(), events, exits }))
    }

    /// Starts a process; `stdin` is what it finds as standard input.
    pub(crate) fn spawn(
        &self,
        mut spec: ProcessSpec,
        kind: Kind,
        stdin: Option<OwnedFd>,
    ) -> Result<ProcessInfo, SpawnError> {
        if !spec.gpus.is_empty() {
            spec.env.insert(GPUS_VARIABLE.to_owned(), spec.gpus.join(","));
        }
        let mut table = self.table();
        if table.is_shutting_down {
            return Err(SpawnError::ShuttingDown);
        }
        if table.entries.contains_key(&spec.id) {
            return Err(SpawnError::Exists { id: spec.id });
        }
        if table.entries.len() >= MAX_PROCESSES {
            return Err(SpawnError::TooMany { max: MAX_PROCESSES });
        }
        if let Some(info) = self.take(&mut table, &spec) {
            return Ok(info);
        }
        let system = |source| {
            let executable = spec.executable.as_ref().unwrap_or(&self.0.executable).clone();
            SpawnError::System { executable, source }
        };
        let (line, stdin) = match kind {
            Kind::Waiting => {
                let (line, theirs) = Line::new().map_err(system)?;
                (Some(line), Some(theirs))
            }
            Kind::Controller | Kind::Proxy | Kind::Replica | Kind::Shared => (None, stdin),
        };
        let prepared = line.as_ref().map(Line::prepared).transpose().map_err(system)?;
        let (child, pid, pidfd) = self.start(&spec, stdin).map_err(system)?;
        let raw_pid = u32::try_from(pid.as_raw_nonzero().get()).expect("process ids are positive");
        let waits = line.is_some();
        let info = ProcessInfo {
            id: spec.id.clone(),
            pid: raw_pid,
            args: spec.args,
            gpus: spec.gpus,
            waits,
            is_prepared: false,
        };
        let (stop, stops) = mpsc::channel(8);
        table.num_started += 1;
        let number = table.num_started;
        let entry = Entry { info: info.clone(), kind, number, line, stop };
        table.entries.insert(spec.id, entry);
        if kind.is_told() {
            self.announce(ProcessEvent::Started { process: info.clone() });
        }
        drop(table);
        tokio::spawn(self.clone().watch(number, Watched { child, pid, pidfd }, stops));
        if let Some(prepared) = prepared {
            tokio::spawn(self.clone().prepare(number, prepared));
        }
        Ok(info)
    }

    /// Makes the process that waits under the id that is named what shall be started; none where there
    /// is none, where it is not prepared, or where it does not take it.
    fn take(&self, table: &mut Table, spec: &ProcessSpec) -> Option<ProcessInfo> {
        let waiting = spec.takes.as_ref()?;
        let entry = table.entries.get_mut(waiting)?;
        let line = entry.line.take_if(|_| entry.info.is_prepared)?;
        let more = ["--parent-pid".to_owned(), std::process::id().to_string()];
        let args = spec.args.iter().cloned().chain(more).collect();
        if let Err(error) = line.hand_over(&Handover { args, env: spec.env.clone() }) {
            tracing::warn!(id = %waiting, %error, "a process that waited is of no use");
            entry.stop(Duration::ZERO);
            return None;
        }
        let mut entry = table.entries.remove(waiting)?;
        entry.kind = Kind::Replica;
        entry.info = ProcessInfo {
            id: spec.id.clone(),
            pid: entry.info.pid,
            args: spec.args.clone(),
            gpus: spec.gpus.clone(),
            waits: false,
            is_prepared: false,
        };
        let info = entry.info.clone();
        table.entries.insert(spec.id.clone(), entry);
        self.announce(ProcessEvent::Started { process: info.clone() });
        Some(info)
    }

    /// Notes that a process that waits is prepared.
    async fn prepare(self, number: u64, prepared: impl Future<Output = bool>) {
        if !prepared.await {
            return;
        }
        let mut table = self.table();
        let Some(entry) = table.entries.values_mut().find(|entry| entry.number == number) else {
            return;
        };
        if entry.info.waits {
            entry.info.is_prepared = true;
            self.announce(ProcessEvent::Prepared { id: entry.info.id.clone() });
        }
    }

    /// Asks a process to end; false when there is none of this id.
    pub(crate) fn stop(&self, id: &str, grace: Duration) -> bool {
        let table = self.table();
        let Some(entry) = table.entries.get(id) else { return false };
        entry.stop(grace);
        true
    }

    /// Asks all processes of a kind to end.
    pub(crate) fn stop_all(&self, kind: Kind, grace: Duration) {
        for entry in self.table().entries.values().filter(|entry| entry.kind == kind) {
            entry.stop(grace);
        }
    }

    /// Resolves when no process of this kind is left.
    pub(crate) async fn all_gone(&self, kind: Kind) {
        let is_gone = || !self.table().entries.values().any(|entry| entry.kind == kind);
        let mut exits = self.0.exits.subscribe();
        while !is_gone() {
            exits.changed().await.expect("the sender lives in self");
        }
    }

    /// Resolves when this process is gone; at once when it is not there.
    pub(crate) async fn gone(&self, id: &str) {
        let mut exits = self.0.exits.subscribe();
        while self.table().entries.contains_key(id) {
            exits.changed().await.expect("the sender lives in self");
        }
    }

    /// From now on nothing is started, and whoever listens knows it.
    pub(crate) fn refuse_starts(&self) {
        self.table().is_shutting_down = true;
        self.announce(ProcessEvent::ShuttingDown);
    }

    pub(crate) fn num_killed(&self) -> usize {
        self.table().num_killed
    }

    /// The replicas' processes, and those that wait to become one.
    pub(crate) fn replicas(&self) -> Vec<ProcessInfo> {
        replicas(&self.table())
    }

    /// The replicas' processes now, and every event after that.
    pub(crate) fn subscribe(&self) -> (ProcessEvent, broadcast::Receiver<ProcessEvent>) {
        // Events are sent with the table locked, so none is missed or seen twice.
        let table = self.table();
        (ProcessEvent::Snapshot { processes: replicas(&table) }, self.0.events.subscribe())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self, event: ProcessEvent) {
        // An error only says that nobody listens.
        drop(self.0.events.send(event));
    }

    fn start(
        &self,
        spec: &ProcessSpec,
        stdin: Option<OwnedFd>,
    ) -> std::io::Result<(Child, Pid, AsyncFd<OwnedFd>)> {
        let executable = spec.executable.as_ref().unwrap_or(&self.0.executable);
        let mut command = Command::new(executable);
        if let Some(dir) = &spec.working_dir {
            // The system's own error would read as if the executable were missing.
            if !dir.is_dir() {
                let why = format!("its working directory {} does not exist", dir.display());
                return Err(std::io::Error::new(std::io::ErrorKind::NotFound, why));
            }
            command.current_dir(dir);
        }
        let child = command
            .args(&spec.args)
            .arg("--parent-pid")
            .arg(std::process::id().to_string())
            .envs(&self.0.env)
            .envs(&spec.env)
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.ok_or_else(|| std::io::Error::other("the process was gone at once"))?;
        Ok((child, pid, async_pidfd(pid)?))
    }

    async fn watch(self, number: u64, watched: Watched, stops: mpsc::Receiver<Duration>) {
        let (status, was_killed) = watched.until_gone(stops).await;
        let (code, signal) = (status.and_then(|s| s.code()), status.and_then(|s| s.signal()));
        let mut table = self.table();
        let entry = table.entries.values().find(|entry| entry.number == number);
        let (id, kind) = entry
            .map(|entry| (entry.info.id.clone(), entry.kind))
            .expect("nobody else removes an entry");
        tracing::debug!(%id, ?code, ?signal, "process ended");
        table.entries.remove(&id);
        table.num_killed += usize::from(was_killed);
        if kind.is_told() {
            self.announce(ProcessEvent::Exited { id, code, signal });
        }
        self.0.exits.send_modify(|exits| *exits += 1);
    }
}

/// A pidfd to wait on.
#[expect(
    deprecated,
    reason = "its successor is an unsafe function; the descriptor is owned by the AsyncFd and \
              never replaced, which is all that it asks for"
)]
pub(crate) fn async_pidfd(pid: Pid) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}

fn replicas(table: &Table) -> Vec<ProcessInfo> {
    let is_told = |entry: &&Entry| entry.kind.is_told();
    table.entries.values().filter(is_told).map(|entry| entry.info.clone()).collect()
}

struct Watched {
    child: Child,
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
}

impl Watched {
    /// Waits for the end; the status, and whether its grace was over before.
    async fn until_gone(
        mut self,
        mut stops: mpsc::Receiver<Duration>,
    ) -> (Option<ExitStatus>, bool) {
        let mut kill_at: Option<Instant> = None;
        let mut was_killed = false;
        loop {
            let grace_over = async {
                match kill_at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = self.pidfd.readable() => break,
                Some(grace) = stops.recv(), if !was_killed => {
                    if kill_at.is_none() && !grace.is_zero() {
                        self.signal(Signal::TERM);
                    }
                    let at = Instant::now() + grace.min(MAX_GRACE);
                    kill_at = Some(kill_at.map_or(at, |before| before.min(at)));
                }
                () = grace_over => {
                    kill_at = None;
                    was_killed = true;
                    self.signal(Signal::KILL);
                }
            }
        }
        // Not reaped yet, so the id, and with it the group's, belongs to nobody else.
        if let Err(error) = kill_process_group(self.pid, Signal::KILL) {
            tracing::debug!(%error, "no process group is left to kill");
        }
        match self.child.wait().await {
            Ok(status) => (Some(status), was_killed),
            Err(error) => {
                tracing::error!(%error, "failed to reap a process");
                (None, was_killed)
            }
        }
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(self.pidfd.get_ref(), signal) {
            tracing::debug!(%error, "failed to signal a process that has just ended");
        }
    }
}
