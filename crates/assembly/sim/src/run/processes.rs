//! Processes that are pretended: they start, serve, drain, and die.

use super::{Event, Run};
use crate::random::Stream;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tyndall_control::{Event as ControlEvent, Exit};
use tyndall_routing::{Failure, Ticket};
use tyndall_types::ReplicaId;
use tyndall_types::protocol::{
    ColdStartPhases, DeploymentConfig, EngineLoad, GangContext, ReplicaReport,
};

/// From the order to a process that runs.
const SPAWN: Duration = Duration::from_millis(5);
/// How often an engine tells how busy it is.
const LOAD_PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Starting,
    Running,
    Draining,
    Gone,
}

pub(super) struct Process {
    pub(super) replica: ReplicaId,
    pub(super) pid: u32,
    pub(super) deployment: usize,
    pub(super) node: usize,
    pub(super) config: Arc<DeploymentConfig>,
    pub(super) gang: Option<Arc<GangContext>>,
    pub(super) life: Life,
    /// Requests that it works on.
    pub(super) tickets: Vec<Ticket>,
    has_served: bool,
    /// Where it stands among those that are alive.
    place: usize,
    is_telling: bool,
    /// Sum and number of the times to first tokens that were not told yet.
    first_tokens: (f64, u32),
}

/// All processes that ever were, by number.
pub(super) struct Processes {
    all: Vec<Process>,
    by_replica: HashMap<ReplicaId, usize>,
    alive: Vec<usize>,
    /// Times as long a request takes on each node; none where the node is lost.
    pub(super) nodes: Vec<Option<f64>>,
    next_node: usize,
    /// Of each deployment those that start, and those that run.
    counts: Vec<(u32, u32)>,
}

impl Processes {
    pub(super) fn new(nodes: usize, deployments: usize) -> Self {
        Self {
            all: Vec::new(),
            by_replica: HashMap::new(),
            alive: Vec::new(),
            nodes: vec![Some(1.0); nodes],
            next_node: 0,
            counts: vec![(0, 0); deployments],
        }
    }

    pub(super) fn num_started(&self) -> u64 {
        self.all.len() as u64
    }

    pub(super) fn find(&self, replica: &ReplicaId) -> Option<&Process> {
        self.by_replica.get(replica).map(|number| &self.all[*number])
    }

    pub(super) fn number(&self, replica: &ReplicaId) -> Option<usize> {
        self.by_replica.get(replica).copied()
    }

    pub(super) fn is_running(&self, number: usize) -> bool {
        self.all[number].life == Life::Running
    }

    pub(super) fn alive(&self) -> impl Iterator<Item = &Process> {
        self.alive.iter().map(|number| &self.all[*number])
    }

    pub(super) fn alive_numbers(&self) -> &[usize] {
        &self.alive
    }

    /// How slow the node of a process is.
    pub(super) fn slowness(&self, number: usize) -> f64 {
        self.nodes[self.all[number].node].unwrap_or(1.0)
    }

    pub(super) fn on_node(&self, node: usize) -> Vec<usize> {
        let is_there = |number: &usize| self.all[*number].node == node;
        self.alive.iter().copied().filter(is_there).collect()
    }

    /// The next node that is not lost, in turn.
    fn node(&mut self) -> usize {
        for _ in 0..self.nodes.len() {
            self.next_node = (self.next_node + 1) % self.nodes.len();
            if self.nodes[self.next_node].is_some() {
                break;
            }
        }
        self.next_node
    }

    fn change(&mut self, number: usize, life: Life) {
        let process = &mut self.all[number];
        let (starting, running) = &mut self.counts[process.deployment];
        match process.life {
            Life::Starting => *starting -= 1,
            Life::Running => *running -= 1,
            Life::Draining | Life::Gone => {}
        }
        process.life = life;
        match life {
            Life::Starting => *starting += 1,
            Life::Running => *running += 1,
            Life::Draining | Life::Gone => {}
        }
        if life == Life::Gone {
            let place = process.place;
            self.by_replica.remove(&process.replica);
            self.alive.swap_remove(place);
            if let Some(moved) = self.alive.get(place) {
                self.all[*moved].place = place;
            }
        }
    }
}

impl Run {
    pub(super) fn start(
        &mut self,
        replica: ReplicaId,
        config: Arc<DeploymentConfig>,
        gang: Option<Arc<GangContext>>,
    ) {
        let number = self.processes.all.len();
        let Some(&deployment) = self.places.get(&config.id) else { return };
        if self.processes.by_replica.insert(replica.clone(), number).is_some() {
            self.anomaly(format!("the id {replica} was used twice"));
        }
        let pid = u32::try_from(number + 1).unwrap_or(u32::MAX);
        let place = self.processes.alive.len();
        let node = self.processes.node();
        let told = replica.clone();
        self.processes.alive.push(number);
        self.processes.all.push(Process {
            replica,
            pid,
            deployment,
            node,
            config,
            gang,
            life: Life::Gone,
            tickets: Vec::new(),
            has_served: false,
            place,
            is_telling: false,
            first_tokens: (0.0, 0),
        });
        self.recorders[deployment].totals.started += 1;
        self.live(number, Life::Starting);
        let started = ControlEvent::ProcessStarted { replica: told, pid };
        let spawned = Event::ToController(self.controller.number, Box::new(started));
        self.agenda.add(self.now + SPAWN, spawned);
        let (random, n) = (self.random, number as u64);
        if random.unit(Stream::StartFault, n) < self.config.faults.start_hang {
            return;
        }
        let start_s = self.deployments[deployment].latency.start.draw_s(random, Stream::Start, n);
        let ready_at = self.now.saturating_add(tyndall_control::seconds(start_s));
        self.agenda.add(ready_at.max(self.now + SPAWN), Event::Ready { process: number });
    }

    /// Changes how a process is, and what is recorded of it.
    fn live(&mut self, number: usize, life: Life) {
        self.processes.change(number, life);
        let deployment = self.processes.all[number].deployment;
        let (starting, running) = self.processes.counts[deployment];
        self.recorders[deployment].replicas(self.now, starting, running);
    }

    pub(super) fn ready(&mut self, number: usize) {
        let process = &self.processes.all[number];
        if process.life != Life::Starting {
            return;
        }
        let replica = process.replica.clone();
        let faults = &self.config.faults;
        let draw = self.random.unit(Stream::StartFault, number as u64);
        if (draw - faults.start_hang) < faults.start_failure {
            let reason = "the simulation lets it fail".to_owned();
            let report = ReplicaReport::Failed { reason };
            self.tell(ControlEvent::Report { replica, report });
            self.exit(number, false);
            return;
        }
        self.live(number, Life::Running);
        let phases = ColdStartPhases::default();
        let report = ReplicaReport::Ready { phases, card: None };
        self.tell(ControlEvent::Report { replica, report });
    }

    /// SIGTERM: it drains, and is killed when the grace is over.
    pub(super) fn stop(&mut self, replica: &ReplicaId, grace: Duration) {
        let Some(number) = self.processes.number(replica) else { return };
        self.live(number, Life::Draining);
        if self.processes.all[number].tickets.is_empty() {
            self.after_link(Event::Exit { process: number, is_killed: false });
        } else {
            let at = self.now.saturating_add(grace);
            self.agenda.add(at, Event::Exit { process: number, is_killed: true });
        }
    }

    pub(super) fn exit(&mut self, number: usize, is_killed: bool) {
        if self.processes.all[number].life == Life::Gone {
            return;
        }
        self.live(number, Life::Gone);
        let process = &mut self.processes.all[number];
        let tickets = std::mem::take(&mut process.tickets);
        let replica = process.replica.clone();
        let exit = match is_killed {
            true => Exit { code: None, signal: Some(9) },
            false => Exit { code: Some(0), signal: None },
        };
        self.tell(ControlEvent::ProcessExited { replica, exit });
        for ticket in tickets {
            self.failed(ticket, Failure::Broken);
        }
    }

    /// A request is taken; how many the process works on now.
    pub(super) fn take_up(&mut self, number: usize, ticket: Ticket) -> usize {
        let process = &mut self.processes.all[number];
        process.tickets.push(ticket);
        let ongoing = process.tickets.len();
        self.tell_later(number);
        ongoing
    }

    /// A request has ended, answered or not.
    pub(super) fn put_down(&mut self, number: usize, ticket: Ticket) {
        let process = &mut self.processes.all[number];
        process.tickets.retain(|other| *other != ticket);
        if process.life == Life::Draining && process.tickets.is_empty() {
            self.after_link(Event::Exit { process: number, is_killed: false });
        }
        self.tell_later(number);
    }

    /// A request was answered.
    pub(super) fn served(&mut self, number: usize, first_token: Duration) {
        let process = &mut self.processes.all[number];
        process.first_tokens.0 += first_token.as_secs_f64();
        process.first_tokens.1 += 1;
        if !process.has_served {
            process.has_served = true;
            let replica = process.replica.clone();
            let report = ReplicaReport::FirstToken { phases: ColdStartPhases::default() };
            self.tell(ControlEvent::Report { replica, report });
        }
    }

    fn tell_later(&mut self, number: usize) {
        let process = &mut self.processes.all[number];
        if self.deployments[process.deployment].tells_engine_load && !process.is_telling {
            process.is_telling = true;
            self.agenda.add(self.now + LOAD_PERIOD, Event::EngineLoad { process: number });
        }
    }

    pub(super) fn tell_engine_load(&mut self, number: usize) {
        let process = &mut self.processes.all[number];
        process.is_telling = false;
        if process.life != Life::Running {
            return;
        }
        let ongoing = process.tickets.len();
        let tokens = self.deployments[process.deployment].latency.tokens;
        let (sum_s, count) = std::mem::take(&mut process.first_tokens);
        let load = EngineLoad {
            running_tokens: u64::from(tokens) * ongoing as u64,
            waiting_tokens: 0,
            kv_use: ongoing as f64 / f64::from(process.config.max_ongoing_requests.max(1)),
            ttft_s: (count > 0).then(|| sum_s / f64::from(count)),
        };
        let replica = process.replica.clone();
        self.tell(ControlEvent::Report { replica, report: ReplicaReport::Load(load) });
    }
}
