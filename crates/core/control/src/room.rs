//! Many models on one machine: who gives way when memory is short.
//!
//! A deployment that needs a replica which does not fit waits. Others give way for it, as few as
//! make enough room, in this order: those without requests before those with, lower priority first,
//! then the one that was used longest ago. Nobody gives way that is pinned, has a higher priority,
//! must keep a minimum of replicas, or woke less than its `min_residency_s` ago. Models that are asked
//! for in alternation take turns instead of waking for each request: a turn is [`TURNS_PER_WAKE`]
//! times as long as its wake took, so that waking takes a fifth of the time at most. One that is
//! busy stays for its turn, and for [`TURN`] at least; one that was used less than [`TURN`] ago stays
//! for its turn too, because the next request may be on its way.

use crate::Instant;
use crate::deployment::Deployment;
use crate::event::{Action, Notice};
use crate::replica::Replica;
use crate::seconds;
use crate::state::{Outbox, State};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;
use tyndall_types::DeploymentId;

/// How long a busy deployment stays at least while others wait for its memory, and how long one that
/// is not counts as used.
const TURN: Duration = Duration::from_secs(5);
/// Nobody waits for a turn longer than this.
const LONGEST_TURN: Duration = Duration::from_secs(30);
/// The length of a turn, in times of waking.
const TURNS_PER_WAKE: u32 = 4;

/// A deployment that may give way.
#[derive(Debug)]
struct Candidate {
    id: DeploymentId,
    is_busy: bool,
    priority: i32,
    used_at: Instant,
    bytes: u64,
}

impl State {
    /// Lets others give way for those that wait; returns them. What is freed is there when the
    /// processes have ended.
    pub(crate) fn make_room(&mut self, now: Instant, out: &mut Outbox) -> BTreeSet<DeploymentId> {
        self.room_deadline = None;
        let mut evicted = BTreeSet::new();
        // One at a time: what the first one frees must not be promised to the second.
        if let Some((since, id)) = self.first_waiting() {
            for victim in self.victims(&id, since, now) {
                self.evict(&victim, &id, now, out);
                evicted.insert(victim);
            }
        }
        evicted
    }

    /// Who shall try next to take what was given back; `tried` have just tried. The first in line
    /// is not overtaken by those behind it, or large models would wait for ever.
    pub(crate) fn next_waiting(&mut self, tried: &BTreeSet<DeploymentId>) -> Option<DeploymentId> {
        if !self.has_freed {
            return None;
        }
        let first = self.first_waiting().map(|(_, id)| id).filter(|id| !tried.contains(id));
        self.has_freed = first.is_some();
        first
    }

    /// The first in line, and since when it waits: higher priorities go before lower ones.
    fn first_waiting(&self) -> Option<(Instant, DeploymentId)> {
        let place = |id: &DeploymentId| {
            let deployment = self.deployments.get(id)?;
            let (since, shortage) = deployment.blocked.as_ref()?;
            let priority = Reverse(deployment.config.residency.priority);
            (!shortage.is_final()).then(|| (priority, *since, id.clone()))
        };
        self.waiting.iter().filter_map(place).min().map(|(_, since, id)| (since, id))
    }

    /// Who gives way for a deployment: as few as make enough room; none when there is not enough,
    /// or when what is on its way out is enough.
    fn victims(
        &mut self,
        wanting: &DeploymentId,
        since: Instant,
        now: Instant,
    ) -> Vec<DeploymentId> {
        let Some(deployment) = self.deployments.get(wanting) else { return Vec::new() };
        let Some((_, shortage)) = &deployment.blocked else { return Vec::new() };
        if shortage.what != "memory" {
            return Vec::new();
        }
        let priority = deployment.config.residency.priority;
        let missing = (shortage.needed - shortage.free).max(0.0) as u64;
        let leaving: u64 = self
            .residents()
            .flat_map(|(_, d)| d.replicas.iter().filter(|replica| !replica.is_active()))
            .map(|replica| self.ledger.memory_of(&replica.id))
            .sum();
        let mut missing = missing.saturating_sub(leaving);
        if missing == 0 {
            return Vec::new();
        }
        let mut candidates = Vec::new();
        let mut next: Option<Instant> = None;
        for (id, other) in self.residents() {
            if id == wanting || other.config.residency.priority > priority {
                continue;
            }
            let Some(from) = other.gives_way_from(since) else { continue };
            if from > now {
                next = Some(next.map_or(from, |at| at.min(from)));
                continue;
            }
            let active = other.replicas.iter().filter(|replica| replica.is_active());
            candidates.push(Candidate {
                id: id.clone(),
                is_busy: other.is_busy(),
                priority: other.config.residency.priority,
                used_at: other.used_at,
                bytes: active.map(|replica| self.ledger.memory_of(&replica.id)).sum(),
            });
        }
        candidates.sort_by_key(|c| (c.is_busy, c.priority, c.used_at));
        let mut victims = Vec::new();
        for candidate in candidates.into_iter().filter(|candidate| candidate.bytes > 0) {
            if missing == 0 {
                break;
            }
            missing = missing.saturating_sub(candidate.bytes);
            victims.push(candidate.id);
        }
        if missing > 0 {
            self.room_deadline = next;
            return Vec::new();
        }
        victims
    }

    fn residents(&self) -> impl Iterator<Item = (&DeploymentId, &Deployment)> {
        self.resident.iter().filter_map(|id| Some((id, &**self.deployments.get(id)?)))
    }

    fn evict(&mut self, id: &DeploymentId, by: &DeploymentId, now: Instant, out: &mut Outbox) {
        let (deployment, mut cx) = self.deployment(id, now, out);
        let Some(deployment) = deployment else { return };
        deployment.scaler.set_target(0);
        deployment.gave_way_to = Some(by.clone());
        let reason = format!("gave way to {by}");
        deployment.stop_beyond(0, Replica::is_active, &reason, &mut cx);
        let notice = Notice::Evicted { deployment: id.clone(), by: by.clone() };
        out.rest.push(Action::Notice(notice));
    }
}

impl Deployment {
    /// From when on it gives way to one that has waited since `since`; never where it is pinned,
    /// fixed, on its way, or has nothing to give.
    fn gives_way_from(&self, since: Instant) -> Option<Instant> {
        let is_fixed = self.config.residency.is_pinned
            || self.config.num_replicas.or(self.set_replicas).is_some_and(|number| number > 0)
            || self.config.autoscaling.min_replicas > 0;
        let running = self.replicas.iter().filter(|replica| replica.is_running());
        let youngest = running.max_by_key(|replica| replica.since)?;
        if is_fixed || self.is_deleting {
            return None;
        }
        let stay = seconds(self.config.residency.min_residency_s);
        let turn = youngest.took.saturating_mul(TURNS_PER_WAKE).min(LONGEST_TURN);
        let had_turn = if self.is_busy() {
            youngest.since.max(since).saturating_add(turn.max(TURN))
        } else {
            youngest.since.saturating_add(turn).min(self.used_at.saturating_add(TURN))
        };
        Some(had_turn.max(youngest.since.saturating_add(stay)))
    }
}
