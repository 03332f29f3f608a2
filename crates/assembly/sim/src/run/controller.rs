//! The controller: the real state, fed with what arrives, its actions carried out.

use super::processes::{Life, Process};
use super::{Event, Run};
use std::sync::Arc;
use std::time::Duration;
use tyndall_control::{Action, Event as ControlEvent, FoundReplica, Notice, State};
use tyndall_types::protocol::{ReplicaStatus, RouteTable, RuntimeDir};
use tyndall_types::{ReplicaId, ReplicaState};

/// Unix milliseconds at the begin.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// One controller after the other.
#[derive(Default)]
pub(super) struct Controller {
    /// None while there is none.
    state: Option<State>,
    /// Of the one that is there; messages to others are lost.
    pub(super) number: u32,
    /// When the next tick is on the agenda.
    tick_at: Option<Duration>,
    pub(super) num_decided: u64,
}

impl Run {
    /// A new controller, which finds what its predecessors left.
    pub(super) fn start_controller(&mut self) {
        let ms = u64::try_from(self.now.as_millis()).unwrap_or(u64::MAX);
        // As the controller does it, the time alone; but no two ids are the same where replicas
        // were started faster than one a millisecond.
        let seed_ms = EPOCH_MS + ms.max(self.processes.num_started());
        self.controller.number += 1;
        self.controller.tick_at = None;
        self.controller.state = Some(State::new(RuntimeDir("/sim".into()), seed_ms));
        self.decide(ControlEvent::Capacity(self.config.capacity.clone()));
        if self.config.target_capacity.is_some() {
            let capacity = self.config.target_capacity;
            self.decide(ControlEvent::TargetCapacity { capacity, direction: None });
        }
        for config in self.config.applications.clone() {
            let config = Arc::new(config);
            let deployed_at = Duration::ZERO;
            self.decide(ControlEvent::Deploy { config, version: 1, deployed_at, fallback: None });
        }
        let found: Vec<FoundReplica> = self.processes.alive().map(found).collect();
        let is_first = found.is_empty() && self.controller.number == 1;
        self.decide(ControlEvent::Snapshot(found));
        let why = if is_first { "deployed" } else { "new controller" };
        (0..self.deployments.len()).for_each(|deployment| self.read_target(deployment, why));
        let controller = self.controller.number;
        for proxy in 0..self.proxies.len() {
            self.after_link(Event::Connect { proxy, controller });
        }
    }

    pub(super) fn stop_controller(&mut self) {
        if self.controller.state.take().is_some() {
            self.agenda.add(self.now + super::RESTART, Event::ControllerUp);
        }
    }

    /// Tells the controller something, a link's delay later.
    pub(super) fn tell(&mut self, event: ControlEvent) {
        self.after_link(Event::ToController(self.controller.number, Box::new(event)));
    }

    pub(super) fn after_link(&mut self, event: Event) {
        self.agenda.add(self.now + self.config.link, event);
    }

    pub(super) fn arrived(&mut self, controller: u32, event: ControlEvent) {
        if controller == self.controller.number {
            self.decide(event);
        }
    }

    pub(super) fn has_controller(&self, number: u32) -> bool {
        self.controller.number == number && self.controller.state.is_some()
    }

    /// The route table of the controller that is there.
    pub(super) fn routes(&self, since: Option<u64>) -> Option<RouteTable> {
        self.controller.state.as_ref()?.routes(since)
    }

    pub(super) fn tick(&mut self) {
        if self.controller.tick_at.is_some_and(|at| at <= self.now) {
            self.controller.tick_at = None;
        }
        let Some(state) = &self.controller.state else { return };
        if state.next_deadline().is_some_and(|at| at <= self.now) {
            self.decide(ControlEvent::DeadlinePassed);
            let next = self.controller.state.as_ref().and_then(State::next_deadline);
            if next.is_some_and(|at| at <= self.now) {
                self.anomaly("a deadline of the controller does not pass".to_owned());
                self.agenda.add(self.now + Duration::from_millis(1), Event::Tick);
                return;
            }
        }
        self.arm();
    }

    /// Lets the controller decide, carries out what it wants, and comes back when it says so.
    pub(super) fn decide(&mut self, event: ControlEvent) {
        let is_tick = event == ControlEvent::DeadlinePassed;
        let Some(state) = &mut self.controller.state else { return };
        self.controller.num_decided += 1;
        for action in state.apply(event, self.now) {
            self.carry_out(action);
        }
        if !is_tick {
            self.arm();
        }
    }

    fn arm(&mut self) {
        let next = self.controller.state.as_ref().and_then(State::next_deadline);
        let Some(next) = next.map(|at| at.max(self.now)) else { return };
        if self.controller.tick_at.is_none_or(|at| next < at) {
            self.controller.tick_at = Some(next);
            self.agenda.add(next, Event::Tick);
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Start { replica, config, gang, .. } => self.start(replica, config, gang),
            Action::Stop { replica, grace } => self.stop(&replica, grace),
            Action::Publish => {
                (0..self.proxies.len()).for_each(|proxy| self.expect_routes(proxy));
            }
            Action::Probe { replica, .. } => {
                let status = self.status(&replica);
                self.tell(ControlEvent::Probed { replica, status });
            }
            Action::Reconfigure { replica, .. } => {
                self.tell(ControlEvent::Reconfigured { replica, refusal: None });
            }
            Action::Notice(notice) => self.note(notice),
            // Starts take as long as the scenario says, and no code of an application runs here: files
            // with policies in Python are refused.
            Action::StartWaiting { .. }
            | Action::StartSidecar { .. }
            | Action::AskPolicy { .. }
            | Action::Proven { .. }
            | Action::RolledBack { .. }
            | Action::Forget(_) => {}
        }
    }

    /// What a replica says when it is asked; none where its process is gone.
    fn status(&self, replica: &ReplicaId) -> Option<ReplicaStatus> {
        let process = self.processes.find(replica)?;
        let state = match process.life {
            Life::Starting => ReplicaState::Starting,
            Life::Running => ReplicaState::Running,
            Life::Draining => ReplicaState::Stopping,
            Life::Gone => return None,
        };
        let ongoing = u32::try_from(process.tickets.len()).unwrap_or(u32::MAX);
        let replica_id = replica.clone();
        Some(ReplicaStatus { ongoing, ..ReplicaStatus::new(replica_id, state) })
    }

    fn note(&mut self, notice: Notice) {
        let deployment = match &notice {
            Notice::Policy { .. } => return,
            Notice::Waking { deployment, .. }
            | Notice::Ready { deployment, .. }
            | Notice::WarmStart { deployment, .. }
            | Notice::WaitingDied { deployment, .. }
            | Notice::FirstToken { deployment, .. }
            | Notice::StartFailed { deployment, .. }
            | Notice::Died { deployment, .. }
            | Notice::Exited { deployment, .. }
            | Notice::Scaled { deployment, .. }
            | Notice::Router { deployment, .. }
            | Notice::Actor { deployment, .. }
            | Notice::Evicted { deployment, .. } => deployment,
        };
        let Some(&place) = self.places.get(deployment) else { return };
        let recorder = &mut self.recorders[place];
        match notice {
            Notice::Waking { .. } => recorder.totals.woken += 1,
            Notice::StartFailed { .. } => recorder.totals.start_failures += 1,
            Notice::Died { .. } => recorder.totals.died += 1,
            Notice::Scaled { to, .. } => recorder.target(self.now, to, "autoscaling"),
            Notice::Evicted { .. } => {
                recorder.totals.evicted += 1;
                recorder.target(self.now, 0, "evicted");
            }
            Notice::Exited { .. } => self.look_at_losses(place),
            Notice::Ready { .. }
            | Notice::FirstToken { .. }
            | Notice::WarmStart { .. }
            | Notice::WaitingDied { .. }
            | Notice::Policy { .. }
            | Notice::Router { .. }
            | Notice::Actor { .. } => {}
        }
    }

    /// What is lost while nobody asks is not replaced, and no notice says so.
    pub(super) fn look_at_losses(&mut self, deployment: usize) {
        let now = self.recorders[deployment].now;
        let is_idle = now.queued == 0 && now.ongoing == 0;
        if is_idle && now.target > now.starting + now.running {
            self.read_target(deployment, "not replaced without requests");
        }
    }

    fn read_target(&mut self, deployment: usize, why: &'static str) {
        let id = &self.deployments[deployment].id;
        let Some(state) = &self.controller.state else { return };
        let details = state.application(&id.application, self.now);
        let target = details
            .as_ref()
            .and_then(|app| app.deployments.get(id.deployment.as_str()))
            .map(|one| one.target_num_replicas);
        if let Some(target) = target {
            self.recorders[deployment].target(self.now, target, why);
        }
    }
}

fn found(process: &Process) -> FoundReplica {
    FoundReplica {
        replica: process.replica.clone(),
        pid: process.pid,
        config: Some(Box::new((*process.config).clone())),
        gpus: Vec::new(),
        gang: process.gang.clone(),
        actor: None,
    }
}
