//! Everything that the control core knows, and the one function that changes it.

use crate::Instant;
use crate::application::{Application, Fallback};
use crate::deadlines::Deadlines;
use crate::demand::Proxies;
use crate::deployment::Deployment;
use crate::event::{Action, Event, FoundReplica, Notice};
use crate::ids::Ids;
use crate::ledger::{Ledger, Need};
use crate::policies::Policies;
use crate::replica::{Birth, Input, Replica};
use crate::routers::Routers;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tyndall_autoscaling::CapacityDirection;
use tyndall_types::protocol::{ReplicaStatus, RuntimeDir};
use tyndall_types::{ApplicationName, DeploymentId, ReplicaId, ReplicaState};

/// A new controller waits so long for found replicas before it publishes routes without them.
const RECOVERY_HOLD: Duration = Duration::from_secs(2);
/// What a process that belongs to no deployment gets to end in.
const STRAY_GRACE: Duration = Duration::from_secs(5);

/// Departures from the route table that are remembered; who is further behind gets all of it.
const MAX_UNROUTED: usize = 1024;

/// The state of the control core.
#[derive(Debug, Clone)]
pub struct State {
    pub(crate) runtime_dir: RuntimeDir,
    pub(crate) applications: BTreeMap<ApplicationName, Application>,
    /// Boxed, because a map keeps room for more than it has.
    pub(crate) deployments: BTreeMap<DeploymentId, Box<Deployment>>,
    /// Which deployment a replica belongs to.
    pub(crate) homes: BTreeMap<ReplicaId, DeploymentId>,
    pub(crate) proxies: Proxies,
    pub(crate) ledger: Ledger,
    /// Deployments with replicas that do not fit beside what runs.
    pub(crate) waiting: BTreeSet<DeploymentId>,
    /// Deployments with replicas.
    pub(crate) resident: BTreeSet<DeploymentId>,
    /// Something that they may wait for was given back.
    pub(crate) has_freed: bool,
    /// When one of them may push another out.
    pub(crate) room_deadline: Option<Instant>,
    pub(crate) target_capacity: Option<f64>,
    pub(crate) direction: Option<CapacityDirection>,
    pub(crate) routes_version: u64,
    /// The deployments in the route table, by the version in which they last changed.
    pub(crate) routed: BTreeMap<u64, DeploymentId>,
    /// The newest deployments that left the route table, by its version then.
    pub(crate) unrouted: VecDeque<(u64, DeploymentId)>,
    /// Departures up to this version are no longer remembered.
    pub(crate) unrouted_before: u64,
    /// The route table may be shown.
    pub(crate) is_open: bool,
    pub(crate) num_deployed: u64,
    /// Of applications that have some in Python.
    pub(crate) policies: BTreeMap<ApplicationName, Policies>,
    /// Of applications that have some in Python.
    pub(crate) routers: BTreeMap<ApplicationName, Routers>,
    /// Applications whose policies or routers must be looked at.
    pub(crate) unattended: BTreeSet<ApplicationName>,
    pub(crate) ids: Ids,
    deadlines: Deadlines,
    snapshot_seen: bool,
    hold_until: Option<Instant>,
}

/// What deciding needs and makes.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) can_start: bool,
    pub(crate) target_capacity: Option<f64>,
    pub(crate) direction: Option<CapacityDirection>,
    pub(crate) ids: &'a mut Ids,
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) out: &'a mut Outbox,
}

impl Context<'_> {
    pub(crate) fn notice(&mut self, notice: Notice) {
        self.out.rest.push(Action::Notice(notice));
    }
}

/// Actions, by when they go out: starts first, because somebody waits for them; then the routes,
/// so that a replica has left them before it is stopped.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) starts: Vec<Action>,
    pub(crate) rest: Vec<Action>,
    /// Replicas that are new.
    pub(crate) born: Vec<ReplicaId>,
    /// Replicas whose process is gone.
    pub(crate) gone: Vec<ReplicaId>,
}

impl State {
    /// An empty state. `seed_ms` makes replica ids unique: Unix milliseconds at the controller's
    /// start, so that no two controllers of a machine have the same.
    #[must_use]
    pub fn new(runtime_dir: RuntimeDir, seed_ms: u64) -> Self {
        Self {
            runtime_dir,
            applications: BTreeMap::new(),
            deployments: BTreeMap::new(),
            homes: BTreeMap::new(),
            proxies: Proxies::default(),
            ledger: Ledger::default(),
            waiting: BTreeSet::new(),
            resident: BTreeSet::new(),
            has_freed: false,
            room_deadline: None,
            target_capacity: None,
            direction: None,
            routes_version: seed_ms,
            routed: BTreeMap::new(),
            unrouted: VecDeque::new(),
            unrouted_before: 0,
            is_open: false,
            num_deployed: 0,
            policies: BTreeMap::new(),
            routers: BTreeMap::new(),
            unattended: BTreeSet::new(),
            ids: Ids::new(seed_ms),
            deadlines: Deadlines::default(),
            snapshot_seen: false,
            hold_until: None,
        }
    }

    /// Takes an event and returns what is to be done, in this order.
    pub fn apply(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut out = Outbox::default();
        let mut touched = self.take(event, now, &mut out);
        let mut is_dirty = false;
        loop {
            while !touched.is_empty() {
                touched = self.with_policies(touched, now);
                if !self.policies.is_empty() {
                    self.unattended.extend(touched.iter().map(|id| id.application.clone()));
                }
                for id in &touched {
                    is_dirty |= self.reconcile(id, now, &mut out);
                }
                touched = self.after(&touched, now, &mut out);
            }
            touched = self.attend(now, self.snapshot_seen, &mut out);
            if touched.is_empty() {
                break;
            }
        }
        if !self.is_open && self.snapshot_seen && self.may_open(now) {
            self.is_open = true;
            self.hold_until = None;
            is_dirty = true;
        }
        let mut actions = out.starts;
        if is_dirty && self.is_open {
            actions.push(Action::Publish);
        }
        actions.append(&mut out.rest);
        actions
    }

    /// When [`Event::DeadlinePassed`] is due if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let others = [self.proxies.deadline(), self.hold_until, self.room_deadline];
        let policies = self.policies.values().filter_map(Policies::deadline);
        let routers = self.routers.values().filter_map(Routers::deadline);
        let of_sidecars = policies.chain(routers);
        others.into_iter().flatten().chain(self.deadlines.next()).chain(of_sidecars).min()
    }

    /// True for a replica, or a process beside the replicas, that may run.
    #[must_use]
    pub fn knows(&self, replica: &ReplicaId) -> bool {
        self.homes.contains_key(replica) || self.is_sidecar(replica)
    }

    /// The applications that are wanted.
    #[must_use]
    pub fn application_names(&self) -> Vec<ApplicationName> {
        let wanted = self.applications.iter().filter(|(_, application)| !application.is_deleting);
        wanted.map(|(name, _)| name.clone()).collect()
    }

    /// Takes the event in; returns the deployments that it concerns.
    fn take(&mut self, event: Event, now: Instant, out: &mut Outbox) -> BTreeSet<DeploymentId> {
        match event {
            Event::Building { application, source, at } => {
                self.building(application, source, at);
                BTreeSet::new()
            }
            Event::BuildFailed { application, reason } => {
                self.build_failed(&application, reason);
                BTreeSet::new()
            }
            Event::Deploy { config, version, deployed_at, fallback } => {
                self.deploy(config, version, deployed_at, fallback)
            }
            Event::Delete(name) => self.delete(&name),
            Event::TargetCapacity { capacity, direction } => {
                self.direction = direction.or_else(|| self.capacity_direction(capacity));
                self.target_capacity = capacity;
                self.deployments.keys().cloned().collect()
            }
            Event::Scale { deployment, target } => {
                if let Some(deployment) = self.deployments.get_mut(&deployment) {
                    deployment.set_replicas = Some(target);
                }
                BTreeSet::from([deployment])
            }
            Event::Capacity(capacity) => {
                self.ledger.set_capacity(capacity);
                self.waiting.clone()
            }
            Event::ProxyConnected(proxy) => self.proxies.connected(proxy),
            Event::Demand { proxy, report } => self.proxies.report(proxy, report, now),
            Event::ProxyGone(proxy) => self.proxies.gone(&proxy),
            Event::Snapshot(found) => self.snapshot(found, now, out),
            Event::DeadlinePassed => self.expire(now, out),
            Event::PolicyAnswered { process, deployment, outcome } => {
                self.policy_answered(&process, deployment, outcome, now, out)
            }
            Event::ProcessStarted { .. }
            | Event::Prepared { .. }
            | Event::StartRefused { .. }
            | Event::ProcessExited { .. }
            | Event::Report { .. }
            | Event::Reconfigured { .. }
            | Event::Probed { .. } => {
                let of_other = self.waiting_event(&event, now, out);
                match of_other.or_else(|| self.actor_event(&event, now, out)) {
                    Some(touched) => touched,
                    None => self.replica_event(event, now, out),
                }
            }
        }
    }

    fn replica_event(
        &mut self,
        event: Event,
        now: Instant,
        out: &mut Outbox,
    ) -> BTreeSet<DeploymentId> {
        match event {
            Event::ProcessStarted { replica, pid } => {
                self.with(&replica, now, out, |deployment, index, cx| {
                    deployment.process_started(index, pid, cx);
                })
            }
            Event::StartRefused { replica, reason } => {
                if self.with_sidecar(&replica, |one| one.gone(&replica, false, &reason, now)) {
                    return BTreeSet::new();
                }
                self.with(&replica, now, out, |deployment, index, cx| {
                    deployment.feed(index, Input::Exited, &reason, cx);
                })
            }
            Event::ProcessExited { replica, exit } => {
                let (was_killed, how) = (exit.signal.is_some(), format!("it {exit}"));
                if self.with_sidecar(&replica, |one| one.gone(&replica, was_killed, &how, now)) {
                    return BTreeSet::new();
                }
                self.with(&replica, now, out, |deployment, index, cx| {
                    let was_ready = deployment.replicas[index].is_running();
                    let reason = if was_ready {
                        format!("its process {exit}")
                    } else {
                        format!("its process {exit} before it was ready; the log says why")
                    };
                    deployment.replicas[index].was_killed = exit.signal.is_some();
                    deployment.feed(index, Input::Exited, &reason, cx);
                })
            }
            Event::Report { replica, report } if self.is_sidecar(&replica) => {
                self.report_of_sidecar(&replica, report);
                BTreeSet::new()
            }
            Event::Report { replica, report } => {
                self.with(&replica, now, out, |deployment, index, cx| {
                    deployment.report(index, report, cx);
                })
            }
            Event::Reconfigured { replica, refusal } => {
                self.with(&replica, now, out, |deployment, index, cx| match refusal {
                    None => deployment.ready(index, None, None, cx),
                    Some(reason) => {
                        let reason = format!("it did not take its new user_config: {reason}");
                        deployment.feed(index, Input::Failed, &reason, cx);
                    }
                })
            }
            Event::Probed { replica, status } => {
                self.with(&replica, now, out, |deployment, index, cx| {
                    probed(deployment, index, status, cx);
                })
            }
            _ => BTreeSet::new(),
        }
    }

    /// Changes a replica that is known; nothing happens for one that is not.
    fn with(
        &mut self,
        replica: &ReplicaId,
        now: Instant,
        out: &mut Outbox,
        change: impl FnOnce(&mut Deployment, usize, &mut Context<'_>),
    ) -> BTreeSet<DeploymentId> {
        let Some(id) = self.homes.get(replica).cloned() else { return BTreeSet::new() };
        let (deployment, mut cx) = self.deployment(&id, now, out);
        let deployment = deployment.expect("a home is a known deployment");
        let at = |r: &Replica| r.id == *replica;
        let index = deployment.replicas.iter().position(at).expect("a home holds its replicas");
        change(deployment, index, &mut cx);
        self.forget_gone(out);
        BTreeSet::from([id])
    }

    /// A deployment with all that deciding about it needs.
    pub(crate) fn deployment<'a>(
        &'a mut self,
        id: &DeploymentId,
        now: Instant,
        out: &'a mut Outbox,
    ) -> (Option<&'a mut Deployment>, Context<'a>) {
        let cx = Context {
            now,
            can_start: self.snapshot_seen,
            target_capacity: self.target_capacity,
            direction: self.direction,
            ids: &mut self.ids,
            ledger: &mut self.ledger,
            out,
        };
        (self.deployments.get_mut(id).map(Box::as_mut), cx)
    }

    fn snapshot(
        &mut self,
        found: Vec<FoundReplica>,
        now: Instant,
        out: &mut Outbox,
    ) -> BTreeSet<DeploymentId> {
        for FoundReplica { replica, pid, config, gpus, gang, actor } in found {
            if self.knows(&replica) {
                continue;
            }
            if actor.is_some_and(|actor| self.adopt_actor((&replica, pid), &actor, &gpus, now)) {
                continue;
            }
            let home = config
                .and_then(|config| Some((self.deployments.get_mut(&config.id)?, config)))
                .filter(|(deployment, _)| !deployment.is_deleting);
            let Some((deployment, config)) = home else {
                out.rest.push(Action::Stop { replica, grace: STRAY_GRACE });
                continue;
            };
            self.ledger.restore(replica.clone(), Need::of(&config), &gpus);
            let config = Arc::new(*config);
            let id = config.id.clone();
            let birth = Birth { id: replica.clone(), rank: 0, version: 0, config, gang };
            deployment.adopt(birth, pid, now);
            self.homes.insert(replica, id);
            self.hold_until = Some(now.saturating_add(RECOVERY_HOLD));
        }
        self.snapshot_seen = true;
        self.unattended.extend(self.policies.keys().chain(self.routers.keys()).cloned());
        let all: BTreeSet<DeploymentId> = self.deployments.keys().cloned().collect();
        self.look(&all, now, out);
        all
    }

    fn expire(&mut self, now: Instant, out: &mut Outbox) -> BTreeSet<DeploymentId> {
        let mut touched = self.proxies.expire(now);
        self.unattended.extend(self.due_policies(now));
        self.unattended.extend(self.due_routers(now));
        let due = self.deadlines.due(now);
        self.look(&due, now, out);
        touched.extend(due);
        if self.room_deadline.is_some_and(|at| at <= now) {
            self.room_deadline = None;
            touched.extend(self.waiting.iter().cloned());
        }
        touched
    }

    /// Lets deployments act on deadlines that have come.
    fn look(&mut self, due: &BTreeSet<DeploymentId>, now: Instant, out: &mut Outbox) {
        for id in due {
            let (deployment, mut cx) = self.deployment(id, now, out);
            if let Some(deployment) = deployment {
                deployment.expire(&mut cx);
            }
        }
        self.forget_gone(out);
    }

    /// Reconciles one deployment; true when its route changed.
    fn reconcile(&mut self, id: &DeploymentId, now: Instant, out: &mut Outbox) -> bool {
        let load = self.proxies.load(id);
        let waiting = &self.waiting;
        let Some(known) = self.deployments.get_mut(id) else { return false };
        known.gave_way_to = known.gave_way_to.take().filter(|by| waiting.contains(by));
        let (deployment, mut cx) = self.deployment(id, now, out);
        let Some(deployment) = deployment else { return false };
        deployment.set_load(load, now);
        deployment.reconcile(&mut cx);
        let deadline = deployment.deadline();
        let (is_blocked, is_resident) =
            (deployment.blocked.is_some(), !deployment.replicas.is_empty());
        note(&mut self.waiting, id, is_blocked);
        note(&mut self.resident, id, is_resident);
        for replica in out.born.drain(..) {
            self.homes.insert(replica, id.clone());
        }
        self.forget_gone(out);
        self.deadlines.set(id, deadline);
        self.reroute(id)
    }

    /// Takes the deployment's route into the table; true when it is another.
    fn reroute(&mut self, id: &DeploymentId) -> bool {
        let Some(deployment) = self.deployments.get_mut(id) else { return false };
        let route = deployment.route_now(&self.runtime_dir);
        if route.as_ref() == deployment.route.as_ref().map(|(_, route)| &**route) {
            return false;
        }
        self.routes_version += 1;
        if let Some((before, _)) = &deployment.route {
            self.routed.remove(before);
        }
        match route {
            Some(route) => {
                self.routed.insert(self.routes_version, id.clone());
                deployment.route = Some((self.routes_version, Arc::new(route)));
            }
            None => {
                deployment.route = None;
                self.unrouted.push_back((self.routes_version, id.clone()));
                if self.unrouted.len() > MAX_UNROUTED
                    && let Some((version, _)) = self.unrouted.pop_front()
                {
                    self.unrouted_before = version;
                }
            }
        }
        true
    }

    /// What follows from what was done: deployments that must be looked at once more.
    fn after(
        &mut self,
        touched: &BTreeSet<DeploymentId>,
        now: Instant,
        out: &mut Outbox,
    ) -> BTreeSet<DeploymentId> {
        let mut again = BTreeSet::new();
        let applications: BTreeSet<&ApplicationName> =
            touched.iter().map(|id| &id.application).collect();
        for name in applications {
            again.extend(self.review(name, out));
        }
        for id in touched {
            if self.deployments.get(id).is_some_and(|deployment| deployment.is_gone()) {
                self.deployments.remove(id);
                self.deadlines.set(id, None);
                self.waiting.remove(id);
                self.resident.remove(id);
                out.rest.push(Action::Forget(id.clone()));
            }
        }
        for name in touched.iter().map(|id| &id.application) {
            self.forget_application(name);
        }
        match self.next_waiting(touched) {
            Some(id) => again.extend([id]),
            None => again.extend(self.make_room(now, out)),
        }
        again
    }

    pub(crate) fn forget_gone(&mut self, out: &mut Outbox) {
        for replica in out.gone.drain(..) {
            self.homes.remove(&replica);
            self.ledger.release(&replica);
            self.has_freed = true;
        }
    }

    fn may_open(&self, now: Instant) -> bool {
        let is_recovering = |replica: &Replica| replica.state == ReplicaState::Recovering;
        self.hold_until.is_some_and(|at| at <= now)
            || self.deployments.values().all(|deployment| deployment.count(is_recovering) == 0)
    }

    /// Which way it goes to another capacity; absent at all of it.
    #[must_use]
    pub fn capacity_direction(&self, capacity: Option<f64>) -> Option<CapacityDirection> {
        match (self.target_capacity, capacity) {
            (_, None) => None,
            (None, Some(_)) => Some(CapacityDirection::Down),
            (Some(before), Some(now)) if now > before => Some(CapacityDirection::Up),
            (Some(before), Some(now)) if now < before => Some(CapacityDirection::Down),
            (Some(_), Some(_)) => self.direction,
        }
    }

    /// Restores what an application can go back to.
    pub(crate) fn set_fallback(&mut self, name: &ApplicationName, fallback: Option<Fallback>) {
        if let Some(application) = self.applications.get_mut(name)
            && fallback.is_some()
        {
            application.good = fallback;
        }
    }
}

fn note(set: &mut BTreeSet<DeploymentId>, id: &DeploymentId, is_in: bool) {
    if !is_in {
        set.remove(id);
    } else if !set.contains(id) {
        set.insert(id.clone());
    }
}

fn probed(
    deployment: &mut Deployment,
    index: usize,
    status: Option<ReplicaStatus>,
    cx: &mut Context<'_>,
) {
    if let Some(status) = &status {
        let replica = &mut deployment.replicas[index];
        replica.take_models(status.models.clone());
        replica.metadata = status.metadata.clone();
    }
    if deployment.replicas[index].is_running() {
        checked(deployment, index, status, cx);
        return;
    }
    let Some(status) = status else { return };
    match status.state {
        ReplicaState::Running | ReplicaState::Updating => {
            deployment.ready(index, None, status.card, cx);
        }
        ReplicaState::Stopping | ReplicaState::Stopped => {
            deployment.feed(index, Input::Unwanted, "it says that it is stopping", cx);
        }
        // It is on its way and will report; until then it is asked again.
        ReplicaState::Starting | ReplicaState::Recovering => {}
    }
}

/// A health check of a running replica. Busy is not dead: what counts is that its engine goes on
/// finishing steps.
fn checked(
    deployment: &mut Deployment,
    index: usize,
    status: Option<ReplicaStatus>,
    cx: &mut Context<'_>,
) {
    let replica = &mut deployment.replicas[index];
    let timeout_s = replica.config.health_check.timeout_s;
    let stuck_s = status.as_ref().and_then(|status| status.step_age_s);
    let stuck_s = stuck_s.filter(|age_s| *age_s > timeout_s);
    let is_good = stuck_s.is_none()
        && status.is_some_and(|status| {
            matches!(status.state, ReplicaState::Running | ReplicaState::Updating)
        });
    if !replica.checked(is_good, cx.now) && stuck_s.is_none() {
        return;
    }
    let times = replica.failed_checks;
    let reason = match stuck_s {
        Some(age_s) => format!("its engine has not finished a step for {age_s:.0} s"),
        None => format!(
            "{times} health checks in a row failed or took longer than {timeout_s} s; the log says \
             what they met; mend it, or raise health_check_timeout_s if it was only slow"
        ),
    };
    deployment.feed(index, Input::Failed, &reason, cx);
}
