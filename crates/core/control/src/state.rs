//! Everything that the control core knows, and the one function that changes it.

use crate::Instant;
use crate::deployment::Deployment;
use crate::event::{Action, Event, FoundReplica, Notice};
use crate::replica::{Input, Replica};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tyndall_types::protocol::{DemandReport, ReplicaStatus, RuntimeDir};
use tyndall_types::{DeploymentName, ReplicaId, ReplicaState};

/// A proxy that reports load must read the route table by then.
const PROXY_GRACE: Duration = Duration::from_secs(10);
/// A new controller waits so long for found replicas before it publishes routes without them.
const RECOVERY_HOLD: Duration = Duration::from_secs(2);
/// What a process that belongs to no deployment gets to end in.
const STRAY_GRACE: Duration = Duration::from_secs(5);

/// The state of the control core.
#[derive(Debug, Clone)]
pub struct State {
    pub(crate) runtime_dir: RuntimeDir,
    pub(crate) deployments: BTreeMap<DeploymentName, Deployment>,
    /// Which deployment a replica belongs to.
    homes: BTreeMap<ReplicaId, DeploymentName>,
    proxies: BTreeMap<String, Proxy>,
    ids: Ids,
    num_deployed: u64,
    pub(crate) routes_version: u64,
    snapshot_seen: bool,
    /// The route table may be shown.
    pub(crate) is_open: bool,
    hold_until: Option<Instant>,
}

#[derive(Debug, Clone, Default)]
struct Proxy {
    is_connected: bool,
    last_sequence: Option<u64>,
    /// Requests queued and ongoing.
    demand: BTreeMap<DeploymentName, (u32, u32)>,
    /// It must be connected by then.
    expires_at: Option<Instant>,
}

/// What deciding needs and makes.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) can_start: bool,
    pub(crate) ids: &'a mut Ids,
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
}

impl State {
    /// An empty state. `seed_ms` makes replica ids unique: Unix milliseconds at the controller's
    /// start, so that no two controllers of a machine have the same.
    #[must_use]
    pub fn new(runtime_dir: RuntimeDir, seed_ms: u64) -> Self {
        Self {
            runtime_dir,
            deployments: BTreeMap::new(),
            homes: BTreeMap::new(),
            proxies: BTreeMap::new(),
            ids: Ids { next: seed_ms },
            num_deployed: 0,
            routes_version: seed_ms,
            snapshot_seen: false,
            is_open: false,
            hold_until: None,
        }
    }

    /// Takes an event and returns what is to be done, in this order.
    pub fn apply(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut out = Outbox::default();
        let touched = self.take(event, now, &mut out);
        let mut is_dirty = false;
        for name in touched {
            is_dirty |= self.reconcile(&name, now, &mut out);
        }
        if !self.is_open && self.snapshot_seen && self.may_open(now) {
            self.is_open = true;
            self.hold_until = None;
            is_dirty = true;
        }
        let mut actions = out.starts;
        if is_dirty && self.is_open {
            self.routes_version += 1;
            actions.push(Action::Publish);
        }
        actions.append(&mut out.rest);
        actions
    }

    /// When [`Event::DeadlinePassed`] is due if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let deployments = self.deployments.values().filter_map(Deployment::deadline);
        let proxies = self.proxies.values().filter_map(|proxy| proxy.expires_at);
        deployments.chain(proxies).chain(self.hold_until).min()
    }

    /// True for a replica whose process may run.
    #[must_use]
    pub fn knows(&self, replica: &ReplicaId) -> bool {
        self.homes.contains_key(replica)
    }

    /// The deployments that are wanted, in the order they were deployed.
    #[must_use]
    pub fn deployment_names(&self) -> Vec<DeploymentName> {
        let wanted = self.deployments.values().filter(|deployment| !deployment.is_deleting);
        let mut ordered: Vec<_> =
            wanted.map(|deployment| (deployment.order, deployment.name().clone())).collect();
        ordered.sort();
        ordered.into_iter().map(|(_, name)| name).collect()
    }

    /// Takes the event in; returns the deployments that it concerns.
    fn take(&mut self, event: Event, now: Instant, out: &mut Outbox) -> BTreeSet<DeploymentName> {
        match event {
            Event::Deploy { config, deployed_at } => {
                let name = config.name.clone();
                if let Some(deployment) = self.deployments.get_mut(&name) {
                    deployment.configure(*config, deployed_at);
                } else {
                    self.num_deployed += 1;
                    let deployment = Deployment::new(*config, self.num_deployed, deployed_at);
                    self.deployments.insert(name.clone(), deployment);
                }
                BTreeSet::from([name])
            }
            Event::Delete(name) => {
                if let Some(deployment) = self.deployments.get_mut(&name) {
                    deployment.delete();
                }
                BTreeSet::from([name])
            }
            Event::ProxyConnected(proxy) => self.proxy_connected(proxy),
            Event::Demand { proxy, report } => self.demand(proxy, report, now),
            Event::ProxyGone(proxy) => self
                .proxies
                .remove(&proxy)
                .map_or_else(BTreeSet::new, |proxy| proxy.demand.into_keys().collect()),
            Event::Snapshot(found) => self.snapshot(found, now, out),
            Event::ProcessStarted { replica, pid } => {
                self.with(&replica, now, out, |deployment, index, _| {
                    deployment.replicas[index].pid = Some(pid);
                })
            }
            Event::StartRefused { replica, reason } => {
                self.with(&replica, now, out, |deployment, index, cx| {
                    deployment.feed(index, Input::Exited, &reason, cx);
                })
            }
            Event::ProcessExited { replica, exit } => {
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
            Event::Report { replica, report } => {
                self.with(&replica, now, out, |deployment, index, cx| {
                    deployment.report(index, report, cx);
                })
            }
            Event::Probed { replica, status } => {
                self.with(&replica, now, out, |deployment, index, cx| {
                    probed(deployment, index, status, cx);
                })
            }
            Event::DeadlinePassed => self.expire(now, out),
        }
    }

    /// Lets `change` work on a known replica and its deployment.
    fn with(
        &mut self,
        replica: &ReplicaId,
        now: Instant,
        out: &mut Outbox,
        change: impl FnOnce(&mut Deployment, usize, &mut Context<'_>),
    ) -> BTreeSet<DeploymentName> {
        let Some(name) = self.homes.get(replica) else { return BTreeSet::new() };
        let deployment = self.deployments.get_mut(name).expect("a home is a known deployment");
        let at = |r: &Replica| r.id == *replica;
        let index = deployment.replicas.iter().position(at).expect("a home holds its replicas");
        let mut cx = Context { now, can_start: false, ids: &mut self.ids, out };
        change(deployment, index, &mut cx);
        BTreeSet::from([name.clone()])
    }

    fn proxy_connected(&mut self, id: String) -> BTreeSet<DeploymentName> {
        let proxy = self.proxies.entry(id).or_default();
        proxy.expires_at = None;
        if !proxy.is_connected {
            proxy.is_connected = true;
            return BTreeSet::new();
        }
        // Another process of the same name: its counts and sequence start anew.
        let old = std::mem::replace(proxy, Proxy { is_connected: true, ..Proxy::default() });
        old.demand.into_keys().collect()
    }

    fn demand(
        &mut self,
        id: String,
        report: DemandReport,
        now: Instant,
    ) -> BTreeSet<DeploymentName> {
        let proxy = self.proxies.entry(id).or_default();
        if proxy.last_sequence.is_some_and(|last| report.sequence <= last) {
            return BTreeSet::new();
        }
        if !proxy.is_connected && proxy.expires_at.is_none() {
            proxy.expires_at = Some(now.saturating_add(PROXY_GRACE));
        }
        proxy.last_sequence = Some(report.sequence);
        let mut touched: BTreeSet<_> = std::mem::take(&mut proxy.demand).into_keys().collect();
        for demand in report.deployments {
            touched.insert(demand.deployment.clone());
            proxy.demand.insert(demand.deployment, (demand.queued, demand.ongoing));
        }
        touched
    }

    fn snapshot(
        &mut self,
        found: Vec<FoundReplica>,
        now: Instant,
        out: &mut Outbox,
    ) -> BTreeSet<DeploymentName> {
        for FoundReplica { replica, pid, config } in found {
            if self.knows(&replica) {
                continue;
            }
            let home = config
                .and_then(|config| Some((self.deployments.get_mut(&config.name)?, config)))
                .filter(|(deployment, _)| !deployment.is_deleting);
            let Some((deployment, config)) = home else {
                out.rest.push(Action::Stop { replica, grace: STRAY_GRACE });
                continue;
            };
            let is_current = deployment.config.model == config.model;
            let timeout_s = deployment.config.startup_timeout_s;
            deployment
                .adopt(Replica::recovering(replica.clone(), pid, 0, timeout_s, now), is_current);
            self.homes.insert(replica, config.name.clone());
            self.hold_until = Some(now.saturating_add(RECOVERY_HOLD));
        }
        self.snapshot_seen = true;
        self.expire(now, out)
    }

    fn expire(&mut self, now: Instant, out: &mut Outbox) -> BTreeSet<DeploymentName> {
        self.proxies.retain(|_, proxy| proxy.expires_at.is_none_or(|at| at > now));
        for deployment in self.deployments.values_mut() {
            let mut cx = Context { now, can_start: false, ids: &mut self.ids, out };
            deployment.expire(&mut cx);
        }
        self.deployments.keys().cloned().collect()
    }

    /// Reconciles one deployment; true when its route changed.
    fn reconcile(&mut self, name: &DeploymentName, now: Instant, out: &mut Outbox) -> bool {
        let loads = self.proxies.values().filter_map(|proxy| proxy.demand.get(name));
        let (queued, ongoing) = loads.fold((0_u32, 0_u32), |sum, load| {
            (sum.0.saturating_add(load.0), sum.1.saturating_add(load.1))
        });
        let Some(deployment) = self.deployments.get_mut(name) else { return false };
        (deployment.queued, deployment.ongoing) = (queued, ongoing);
        let can_start = self.snapshot_seen;
        deployment.reconcile(&mut Context { now, can_start, ids: &mut self.ids, out });
        for replica in &deployment.replicas {
            if !self.homes.contains_key(&replica.id) {
                self.homes.insert(replica.id.clone(), name.clone());
            }
        }
        // Few leave at a time, and only then is the whole map looked at.
        if out.rest.iter().any(|a| matches!(a, Action::Notice(Notice::Exited { .. }))) {
            let is_here = |id: &ReplicaId| deployment.replicas.iter().any(|r| r.id == *id);
            self.homes.retain(|id, home| home != name || is_here(id));
        }
        let route = deployment.route_now(&self.runtime_dir);
        let changed = route != deployment.route;
        deployment.route = route;
        if deployment.is_gone() {
            self.deployments.remove(name);
            out.rest.push(Action::Forget(name.clone()));
        }
        changed
    }

    fn may_open(&self, now: Instant) -> bool {
        let is_recovering = |replica: &Replica| replica.state == ReplicaState::Recovering;
        self.hold_until.is_some_and(|at| at <= now)
            || self.deployments.values().all(|deployment| deployment.count(is_recovering) == 0)
    }
}

fn probed(
    deployment: &mut Deployment,
    index: usize,
    status: Option<ReplicaStatus>,
    cx: &mut Context<'_>,
) {
    let Some(status) = status else { return };
    match (status.state, status.card) {
        (ReplicaState::Running | ReplicaState::Updating, Some(card)) => {
            deployment.ready(index, None, card, cx);
        }
        (ReplicaState::Stopping | ReplicaState::Stopped, _) => {
            deployment.feed(index, Input::Unwanted, "it says that it is stopping", cx);
        }
        // It is on its way and will report; until then it is asked again.
        (ReplicaState::Running | ReplicaState::Updating, None)
        | (ReplicaState::Starting | ReplicaState::Recovering, _) => {}
    }
}

/// Makes replica ids.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    next: u64,
}

impl Ids {
    /// The deployment's name, made safe for a file name and short enough for a socket's path, and
    /// eight characters: start time plus counter, scrambled by a bijection of 40 bits, so that no
    /// two are equal in 34 years unless more than one a millisecond is made.
    pub(crate) fn next(&mut self, name: &DeploymentName) -> ReplicaId {
        const SCRAMBLE: u64 = 0x9E_3779_B97F;
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let value = self.next.wrapping_mul(SCRAMBLE);
        self.next += 1;
        let base = name.as_str().rsplit('/').find(|part| !part.is_empty()).unwrap_or("replica");
        let mut id: String = base.chars().take(40).collect();
        id.push('-');
        for shift in (0..8).rev() {
            let digit = usize::try_from((value >> (5 * shift)) & 31).expect("five bits");
            id.push(char::from(DIGITS[digit]));
        }
        ReplicaId::new(id)
    }
}
