//! Gangs: replicas of a deployment that start, stop and fail together, such as the processes among
//! which a model is cut up.
//!
//! - Numbers of replicas are whole numbers of gangs; what is none is rounded up.
//! - All members are asked for at once, and only where the machine has room for all of them. Each is
//!   told the ids of all.
//! - A gang that loses a member, because that did not start, died or is ill, ends as a whole. That is one
//!   failure, whatever happens to the others meanwhile; another gang takes its place.
//! - Only a gang whose members are all ready counts as a start that went well and as one that replaces
//!   an older one; what ends before that is a failed start.
//! - Whoever stops replicas stops whole gangs, and none where that would be too many.
//! - A gang that a new controller does not find whole ends too.
//!
//! As in Ray, a member takes requests as soon as it is ready itself: members that need each other
//! meet in their constructors, and are ready together.
//!
//! A replica without a gang is a gang of its own in all of this.

use crate::deployment::Deployment;
use crate::ledger::Shortage;
use crate::replica::{Input, Replica};
use crate::state::Context;
use std::collections::HashMap;
use std::sync::Arc;
use tyndall_types::protocol::GangContext;
use tyndall_types::{ReplicaId, ReplicaState};

/// A replica that is to be started, and its gang, if it has one.
pub(crate) type Member = (ReplicaId, Option<Arc<GangContext>>);

impl Deployment {
    /// Replicas that start together.
    pub(crate) fn gang_size(&self) -> usize {
        self.config.gang_size() as usize
    }

    /// The `nth` of the gangs that are started now.
    pub(crate) fn new_gang(&self, nth: usize, cx: &mut Context<'_>) -> Vec<Member> {
        let id = self.id();
        let ids: Vec<ReplicaId> =
            (0..self.gang_size()).map(|_| cx.ids.next(&id.deployment)).collect();
        if self.config.gang_scheduling.is_none() {
            return ids.into_iter().map(|id| (id, None)).collect();
        }
        let gang_id = cx.ids.next_gang();
        let pg_name = format!("SERVE_GANG::{}_{}_{nth}_{gang_id}", id.application, id.deployment);
        let member = |(rank, id): (u32, &ReplicaId)| {
            let gang = GangContext {
                gang_id: gang_id.clone(),
                rank,
                world_size: self.config.gang_size(),
                member_replica_ids: ids.clone(),
                pg_name: pg_name.clone(),
            };
            (id.clone(), Some(Arc::new(gang)))
        };
        (0..).zip(&ids).map(member).collect()
    }

    /// The places of these replicas, those of a gang together.
    pub(crate) fn gangs(&self, is_counted: impl Fn(&Replica) -> bool) -> Vec<Vec<usize>> {
        let mut gangs: Vec<Vec<usize>> = Vec::new();
        let mut known: HashMap<&str, usize> = HashMap::new();
        for (index, replica) in self.replicas.iter().enumerate().filter(|(_, r)| is_counted(r)) {
            let next = gangs.len();
            let place = match &replica.gang {
                Some(gang) => *known.entry(&gang.gang_id).or_insert(next),
                None => next,
            };
            if place == next {
                gangs.push(Vec::new());
            }
            gangs[place].push(index);
        }
        gangs
    }

    /// Whether this holds for all of the replica's gang.
    pub(crate) fn is_whole(&self, index: usize, holds: impl Fn(&Replica) -> bool) -> bool {
        let replica = &self.replicas[index];
        let Some(gang) = &replica.gang else { return holds(replica) };
        self.count(|one| one.is_of(gang) && holds(one)) >= gang.world_size as usize
    }

    /// Those of these replicas whose gangs take requests as a whole.
    pub(crate) fn num_ready(&self, is_counted: impl Fn(&Replica) -> bool) -> usize {
        if !self.has_gangs() {
            return self.count(|replica| is_counted(replica) && replica.is_running());
        }
        let gangs = self.gangs(is_counted).into_iter();
        gangs
            .filter(|gang| self.is_whole(gang[0], Replica::is_running))
            .map(|gang| gang.len())
            .sum()
    }

    /// Whether a replica of its gang, or itself, takes requests.
    pub(crate) fn has_running_member(&self, replica: &Replica) -> bool {
        match &replica.gang {
            Some(gang) => self.count(|one| one.is_of(gang) && one.is_running()) > 0,
            None => replica.is_running(),
        }
    }

    /// Whether a replica of its gang, or itself, has not been ready yet.
    pub(crate) fn has_starting_member(&self, replica: &Replica) -> bool {
        let is_starting = |one: &Replica| one.state == ReplicaState::Starting;
        match &replica.gang {
            Some(gang) => self.count(|one| one.is_of(gang) && is_starting(one)) > 0,
            None => is_starting(replica),
        }
    }

    /// The size of the largest gang among these replicas, at least 1.
    pub(crate) fn largest_gang(&self, is_counted: impl Fn(&Replica) -> bool) -> usize {
        let counted = self.replicas.iter().filter(|replica| is_counted(replica));
        counted.map(|replica| replica.gang_size() as usize).max().unwrap_or(1)
    }

    /// Ends what is left of gangs that are not whole any more.
    pub(crate) fn end_broken_gangs(&mut self, cx: &mut Context<'_>) {
        if !self.has_gangs() {
            return;
        }
        for members in self.gangs(Replica::is_active) {
            let Some(gang) = self.replicas[members[0]].gang.clone() else { continue };
            if members.len() < gang.world_size as usize {
                let reason = self.why_broken(&gang);
                // Stopping removes nothing from the list, so the indices stay valid.
                for index in members {
                    self.feed(index, Input::GangBroken, &reason, cx);
                }
            }
        }
    }

    fn why_broken(&self, gang: &GangContext) -> String {
        let is_member = |id: &ReplicaId| gang.member_replica_ids.contains(id);
        let ending = self.replicas.iter().filter(|replica| !replica.is_active());
        let ending = ending.map(|replica| (&replica.id, &replica.end_reason));
        let dead = self.dead.iter().map(|dead| (&dead.replica_id, &dead.reason));
        let first = ending.chain(dead).find(|(id, why)| is_member(id) && !why.is_empty());
        match first {
            Some((id, why)) => format!("its gang ends as a whole, because {id} was lost: {why}"),
            None => "its gang ends as a whole: a new controller did not find all of it".to_owned(),
        }
    }

    fn has_gangs(&self) -> bool {
        self.replicas.iter().any(|replica| replica.gang.is_some())
    }

    /// Who is short of what.
    pub(crate) fn told(&self, shortage: &Shortage) -> String {
        match self.gang_size() {
            1 => shortage.to_string(),
            size => format!("a gang of {size} {shortage}"),
        }
    }
}

impl Replica {
    pub(crate) fn is_of(&self, gang: &GangContext) -> bool {
        self.gang.as_ref().is_some_and(|own| own.gang_id == gang.gang_id)
    }

    /// Replicas that start and end with it, itself among them.
    pub(crate) fn gang_size(&self) -> u32 {
        self.gang.as_ref().map_or(1, |gang| gang.world_size)
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> String {
        match self.gang_size() {
            1 => "a replica".to_owned(),
            size => format!("a replica of a gang of {size}"),
        }
    }
}
