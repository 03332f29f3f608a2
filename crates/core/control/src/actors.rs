//! Actors of deployments: one object each, in a process of its own, that all replicas of a version share.
//!
//! 1. Those of a version are started when it is deployed, and no replica of it before they are ready.
//! 2. They stay while the version is wanted or has a replica, at zero replicas too: what they know is
//!    of the user, and nobody else has it.
//! 3. One that ends unasked is started again, after a back-off; replicas that are there serve on.
//! 4. One of an unproven version that fails too often is the end of that version.
//!
//! Each has a process of its own, so that one that crashes, hangs or fills its memory takes no other
//! with it, and each may have its own environment. A new controller takes over those that run: what
//! they know outlives it. It asks them, as it asks replicas, whether they are ready.

use crate::Instant;
use crate::deployment::Deployment;
use crate::event::{Action, Event, FoundActor, Notice};
use crate::ledger::{Need, Shortage};
use crate::policies::program;
use crate::sidecar::{Failure, Sidecar, SidecarConfig};
use crate::state::{Context, Outbox, State};
use crate::status::StatusEvent;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tyndall_types::protocol::{
    ActorDetails, DeploymentActor, DeploymentConfig, ReplicaReport, ReplicaStatus,
};
use tyndall_types::{DeploymentId, ReplicaId, ReplicaState};

const ROLE: &str = "actor";
/// Failures of one actor after which an unproven version is given up, as of a replica.
const MAX_FAILURES: u32 = 3;
/// Between two looks at whether an actor answers, and how many in a row may fail, as in Ray.
const CHECK_PERIOD: Duration = Duration::from_secs(10);
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
const UNHEALTHY_CHECKS: u32 = 3;
/// One that was found is asked this often until it answers.
const PROBE_PERIOD: Duration = Duration::from_millis(500);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The actors of a deployment, by its version and by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Actors {
    versions: BTreeMap<u64, BTreeMap<String, Actor>>,
}

#[derive(Debug, Clone, Default)]
struct Actor {
    process: Sidecar,
    need: Need,
    /// When to ask it for its status.
    probe_at: Option<Instant>,
    failed_checks: u32,
    /// Failed starts and early deaths since its version was deployed, or since it ran for long.
    num_failures: u32,
    /// It was told that it fails.
    is_in_trouble: bool,
}

impl Actors {
    pub(crate) fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    fn all(&self) -> impl Iterator<Item = &Actor> {
        self.versions.values().flat_map(BTreeMap::values)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Actor> {
        self.versions.values_mut().flat_map(BTreeMap::values_mut)
    }

    /// When something is due if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.all().flat_map(|one| [one.process.deadline(), one.probe_at]).flatten().min()
    }

    /// What happened before is forgotten: failures may have had a cause that is gone.
    pub(crate) fn forgive(&mut self) {
        for actor in self.all_mut() {
            actor.num_failures = 0;
            actor.process.forgive();
        }
    }

    fn are_ready(&self, version: u64) -> bool {
        self.missing(version).next().is_none()
    }

    /// Those of this version that are not ready, by name.
    fn missing(&self, version: u64) -> impl Iterator<Item = &str> {
        let of = self.versions.get(&version).into_iter().flatten();
        of.filter(|(_, one)| one.process.ready().is_none()).map(|(name, _)| name.as_str())
    }

    /// As others see them.
    pub(crate) fn details(&self, now: Instant) -> Vec<ActorDetails> {
        let of_version = |(version, actors): (&u64, &BTreeMap<String, Actor>)| {
            let one = |(name, actor): (&String, &Actor)| actor.details(name, *version, now);
            actors.iter().map(one).collect::<Vec<_>>()
        };
        self.versions.iter().flat_map(of_version).collect()
    }

    /// Why none of them can be had until then.
    pub(crate) fn hopeless(&self, version: u64, now: Instant) -> Option<(Instant, &str)> {
        let of = self.versions.get(&version)?.values();
        of.filter_map(|actor| actor.process.hopeless(now)).max_by_key(|(at, _)| *at)
    }
}

impl Actor {
    fn details(&self, name: &str, version: u64, now: Instant) -> ActorDetails {
        let mut details = self.process.details(name, version, now);
        // One that was started is asked only once it has told that it is ready.
        if details.state == ReplicaState::Starting && self.probe_at.is_some() {
            details.state = ReplicaState::Recovering;
        }
        details
    }

    fn report(&mut self, id: &ReplicaId, report: ReplicaReport, now: Instant) {
        let is_new = self.process.is_another_after(|process| process.report(id, report));
        if is_new {
            (self.probe_at, self.failed_checks) = (Some(now.saturating_add(CHECK_PERIOD)), 0);
        }
    }

    /// It was asked for its status: one that was found is asked until it is ready, others now and
    /// then whether they still answer.
    fn probed(&mut self, id: &ReplicaId, status: Option<&ReplicaStatus>, now: Instant) {
        let is_good = status.is_some_and(|status| status.state == ReplicaState::Running);
        if self.process.ready() != Some(id) {
            if is_good {
                let phases = Default::default();
                self.report(id, ReplicaReport::Ready { phases, card: None }, now);
            }
            return;
        }
        self.probe_at = Some(now.saturating_add(CHECK_PERIOD));
        self.failed_checks = if is_good { 0 } else { self.failed_checks + 1 };
        if self.failed_checks >= UNHEALTHY_CHECKS {
            let timeout_s = CHECK_TIMEOUT.as_secs();
            self.process.end(
                &format!(
                    "it did not answer {UNHEALTHY_CHECKS} health checks in a row, each within \
                     {timeout_s} s; its async methods must give up the loop"
                ),
                now,
            );
        }
    }

    fn expire(&mut self, cx: &mut Context<'_>) {
        if self.probe_at.is_none_or(|at| at > cx.now) {
            return;
        }
        let is_ready = self.process.ready().is_some();
        // One that is ready is asked again after its answer.
        self.probe_at = (!is_ready).then(|| cx.now.saturating_add(PROBE_PERIOD));
        let Some(id) = self.process.current() else {
            self.probe_at = None;
            return;
        };
        let timeout = if is_ready { CHECK_TIMEOUT } else { PROBE_TIMEOUT };
        cx.out.rest.push(Action::Probe { replica: id.clone(), timeout });
    }

    /// Starts and ends what is due; what is missing for it.
    fn attend(&mut self, may_start: bool, cx: &mut Context<'_>) -> Option<Shortage> {
        self.process.tidy(cx.now, cx.out);
        if !may_start || !self.process.is_due(cx.now) {
            return None;
        }
        let shortage = cx.ledger.shortage(&self.need, 1);
        if shortage.is_none() {
            let id = self.process.next_id(cx.ids);
            let gpus = cx.ledger.take(id.clone(), self.need.clone());
            cx.out.born.push(id.clone());
            self.process.start(id, gpus, cx.now, cx.out);
        }
        shortage
    }
}

impl Deployment {
    /// All actors of the version that is wanted are ready.
    pub(crate) fn has_actors(&self) -> bool {
        let is_known = self.actors.versions.contains_key(&self.version);
        (is_known || self.config.deployment_actors.is_empty())
            && self.actors.are_ready(self.version)
    }

    /// Which actors replicas wait for; empty where they wait for none, or where it is told already why.
    pub(crate) fn waits_for_actors(&self) -> String {
        let missing: Vec<&str> = self.actors.missing(self.version).collect();
        if self.is_deleting || missing.is_empty() || !self.message.is_empty() {
            return String::new();
        }
        let are = if missing.len() == 1 { "" } else { "s" };
        format!("replicas wait for the deployment actor{are} {}", missing.join(", "))
    }

    /// From now on there are those of the version that is wanted.
    fn want_actors(&mut self) {
        if self.is_deleting || self.config.deployment_actors.is_empty() {
            return;
        }
        let actors = self.actors.versions.entry(self.version).or_default();
        for config in &self.config.deployment_actors {
            // One that is on its way out, because the deployment was deleted, has another beside it.
            if actors.get(&config.name).is_some_and(|one| one.process.is_wanted()) {
                continue;
            }
            if let Some(wanted) = sidecar(&self.config, config) {
                let actor = actors.entry(config.name.clone()).or_default();
                actor.need = Need::of_actor(config);
                actor.process.want(Some(wanted));
            }
        }
    }

    /// Brings actors nearer to what is wanted; what is missing for one that replicas wait for.
    pub(crate) fn attend_actors(&mut self, cx: &mut Context<'_>) -> Option<Shortage> {
        self.want_actors();
        if self.actors.is_empty() {
            return None;
        }
        let mut needed: BTreeSet<u64> = self.replicas.iter().map(|one| one.version).collect();
        if !self.is_deleting {
            needed.insert(self.version);
        }
        // Where the older version serves, or nobody asks, only a new deploy tries again.
        let is_over = self.is_given_up && (self.is_rolling() || !self.is_busy());
        let mut missing = None;
        let mut actors = std::mem::take(&mut self.actors);
        for (version, of_version) in &mut actors.versions {
            let is_current = *version == self.version && !self.is_deleting;
            for (name, actor) in &mut *of_version {
                if !needed.contains(version) {
                    actor.process.release();
                }
                let shortage = actor.attend(cx.can_start && !(is_current && is_over), cx);
                missing = missing.or(shortage.filter(|_| is_current));
                if let Some(failure) = actor.process.take_failure() {
                    self.actor_failed((name, is_current), actor, failure, cx);
                } else if actor.is_in_trouble && actor.process.ready().is_some() {
                    actor.is_in_trouble = false;
                    let deployment = self.config.id.clone();
                    let (actor, trouble) = (name.clone(), String::new());
                    cx.notice(Notice::Actor { deployment, actor, trouble });
                }
            }
            of_version.retain(|_, actor| !actor.process.is_over());
        }
        actors.versions.retain(|_, actors| !actors.is_empty());
        self.actors = actors;
        missing
    }

    fn actor_failed(
        &mut self,
        (name, is_current): (&str, bool),
        actor: &mut Actor,
        failure: Failure,
        cx: &mut Context<'_>,
    ) {
        actor.probe_at = None;
        actor.is_in_trouble = true;
        let Failure { was_ready, times, reason } = failure;
        // What ran for long did not die of its start.
        let before = if was_ready && times <= 1 { 0 } else { actor.num_failures };
        actor.num_failures = before.saturating_add(1);
        let trouble = match was_ready {
            true => format!("the deployment actor {name:?} was lost: {reason}"),
            false => {
                format!("the deployment actor {name:?} failed to start, {times} in a row: {reason}")
            }
        };
        let limit = self.config.max_constructor_retry_count.clamp(1, MAX_FAILURES);
        let is_unproven = !self.was_ready || self.is_rolling();
        if is_current && is_unproven && actor.num_failures >= limit {
            self.is_given_up = true;
            self.moved(StatusEvent::ActorsFailed, trouble.clone());
        } else if is_current && (was_ready || self.was_ready) {
            self.moved(StatusEvent::Died, trouble.clone());
        } else if is_current {
            self.message.clone_from(&trouble);
        }
        let (deployment, actor) = (self.config.id.clone(), name.to_owned());
        cx.notice(Notice::Actor { deployment, actor, trouble });
    }

    /// Asks those whose time has come whether they are there.
    pub(crate) fn expire_actors(&mut self, cx: &mut Context<'_>) {
        for actor in self.actors.all_mut() {
            actor.expire(cx);
        }
    }

    /// Takes over the process of an actor that a controller before this one had started: what it
    /// takes of the machine; none where it is of no use.
    fn adopt_actor(
        &mut self,
        (id, pid): (&ReplicaId, u32),
        found: &FoundActor,
        now: Instant,
    ) -> Option<Need> {
        self.want_actors();
        if found.code_version != self.config.code_version {
            // It ends with the replicas of its version, and is not started again.
            let name = format!("{} of {}", found.actor, found.code_version);
            let old = self.actors.versions.entry(0).or_default().entry(name).or_default();
            if old.process.current().is_some() {
                return None;
            }
            old.process.adopt(id.clone(), pid, None, now);
            return Some(Need::default());
        }
        let actor = self.actors.versions.get_mut(&self.version)?.get_mut(&found.actor)?;
        if actor.process.current().is_some() {
            return None;
        }
        let timeout = crate::seconds(self.config.startup_timeout_s);
        actor.process.adopt(id.clone(), pid, Some(now.saturating_add(timeout)), now);
        actor.probe_at = Some(now);
        Some(actor.need.clone())
    }
}

impl State {
    /// Takes an event of an actor; none for one of any other process.
    pub(crate) fn actor_event(
        &mut self,
        event: &Event,
        now: Instant,
        out: &mut Outbox,
    ) -> Option<BTreeSet<DeploymentId>> {
        let (Event::ProcessStarted { replica: id, .. }
        | Event::StartRefused { replica: id, .. }
        | Event::ProcessExited { replica: id, .. }
        | Event::Report { replica: id, .. }
        | Event::Probed { replica: id, .. }) = event
        else {
            return None;
        };
        let home = self.homes.get(id)?.clone();
        let deployment = self.deployments.get_mut(&home)?;
        let actor = deployment.actors.all_mut().find(|one| one.process.knows(id))?;
        match event {
            Event::Report { report, .. } => actor.report(id, report.clone(), now),
            Event::Probed { status, .. } => actor.probed(id, status.as_ref(), now),
            Event::StartRefused { reason, .. } => {
                actor.process.gone(id, false, reason, now);
                out.gone.push(id.clone());
            }
            Event::ProcessExited { exit, .. } => {
                actor.process.gone(id, exit.signal.is_some(), &format!("it {exit}"), now);
                out.gone.push(id.clone());
            }
            Event::ProcessStarted { pid, .. } => actor.process.started(id, *pid),
            _ => {}
        }
        self.forget_gone(out);
        Some(BTreeSet::from([home]))
    }

    /// Takes over an actor's process that was found; false where it is of no use.
    pub(crate) fn adopt_actor(
        &mut self,
        (id, pid): (&ReplicaId, u32),
        found: &FoundActor,
        gpus: &[String],
        now: Instant,
    ) -> bool {
        let home = self.deployments.get_mut(&found.deployment).filter(|one| !one.is_deleting);
        let Some(need) = home.and_then(|home| home.adopt_actor((id, pid), found, now)) else {
            return false;
        };
        self.ledger.restore(id.clone(), need, gpus);
        self.homes.insert(id.clone(), found.deployment.clone());
        true
    }
}

/// The process of an actor: that of its deployment's code, with its variables and its own.
fn sidecar(deployment: &DeploymentConfig, actor: &DeploymentActor) -> Option<SidecarConfig> {
    let program = program(deployment)?;
    let DeploymentId { application, deployment: name } = &deployment.id;
    let mut env_vars = deployment.env_vars.clone();
    env_vars.extend(actor.env_vars.clone());
    for (variable, value) in [
        ("APP_NAME", application.as_str()),
        ("NAME", name.as_str()),
        ("ACTOR_NAME", &actor.name),
        ("CODE_VERSION", &deployment.code_version),
    ] {
        env_vars.insert(format!("RAY_SERVE_INTERNAL_DEPLOYMENT_{variable}"), value.to_owned());
    }
    Some(SidecarConfig {
        role: ROLE,
        program: program.clone(),
        env_vars,
        told: json!({
            "application": application,
            "deployment": name,
            "code_version": deployment.code_version,
            "args": program.init["args"],
            "actor": actor,
        }),
        outlasts_replicas: true,
        startup_timeout_s: deployment.startup_timeout_s,
        identity: serde_json::Value::Null,
    })
}
