//! The replicas of a deployment: what each has, and who may have one more.

use crate::affinity::{Standing, choose_for_model};
use crate::choose;
use crate::prefix::{Prefix, Prefixes};
use std::sync::Arc;
use tyndall_types::ReplicaId;
use tyndall_types::protocol::PrefixAffinity;

/// What a request asks of its replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Wish {
    /// Any will do.
    #[default]
    Any,
    /// One that has the model of this id, if it can be.
    Model(Arc<str>),
    /// One that had a prompt with the same beginning, if it can be at once.
    Prefix(Prefix),
    /// One of the first of these ranks that has a free one; no other will do.
    Ranked(Arc<[Vec<ReplicaId>]>),
    /// It is not known yet: until [`Dispatcher::decide`](crate::Dispatcher::decide) none will do.
    Undecided,
}

impl Wish {
    /// As it is for a request that comes back: its ranks are of before a replica failed it.
    #[must_use]
    pub fn anew(&self) -> Self {
        match self {
            Self::Ranked(_) => Self::Undecided,
            Self::Any | Self::Model(_) | Self::Prefix(_) | Self::Undecided => self.clone(),
        }
    }

    fn model(&self) -> Option<&Arc<str>> {
        match self {
            Self::Model(model) => Some(model),
            Self::Any | Self::Prefix(_) | Self::Ranked(_) | Self::Undecided => None,
        }
    }
}

/// A replica of a route table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub id: ReplicaId,
    /// The models that it says it has, loaded or being loaded.
    pub models: Vec<String>,
}

impl From<ReplicaId> for Listed {
    fn from(id: ReplicaId) -> Self {
        Self { id, models: Vec::new() }
    }
}

#[derive(Debug)]
struct Replica {
    id: ReplicaId,
    ongoing: u32,
    /// In the last route table; one that is not takes nothing new and is forgotten at zero.
    listed: bool,
    /// A connection to it broke: its process may be gone.
    suspect: bool,
    /// As it said last.
    models: Vec<String>,
    /// The models of the requests that it has, and how many there are for each: it has them, or is
    /// about to, whatever it said last.
    asked_for: Vec<(Arc<str>, u32)>,
}

impl Replica {
    fn takes_requests(&self) -> bool {
        self.listed && !self.suspect
    }

    fn standing(&self, model: &Arc<str>) -> Standing {
        let is_told = |id: &str| self.models.iter().any(|told| told == id);
        let untold = self.asked_for.iter().filter(|(id, _)| !is_told(id));
        Standing {
            ongoing: self.ongoing,
            num_models: self.models.len() + untold.count(),
            has_model: is_told(model) || self.asked_for.iter().any(|(id, _)| id == model),
        }
    }

    fn begin(&mut self, wish: &Wish) {
        self.ongoing += 1;
        let Some(model) = wish.model() else { return };
        match self.asked_for.iter_mut().find(|(id, _)| id == model) {
            Some((_, count)) => *count += 1,
            None => self.asked_for.push((model.clone(), 1)),
        }
    }

    fn end(&mut self, wish: &Wish) {
        self.ongoing = self.ongoing.saturating_sub(1);
        let Some(model) = wish.model() else { return };
        if let Some(at) = self.asked_for.iter().position(|(id, _)| id == model) {
            self.asked_for[at].1 -= 1;
            if self.asked_for[at].1 == 0 {
                self.asked_for.swap_remove(at);
            }
        }
    }
}

/// All replicas of one deployment.
#[derive(Debug)]
pub(crate) struct Pool {
    max_ongoing: u32,
    replicas: Vec<Replica>,
    prefixes: Prefixes,
    seed: u64,
}

impl Pool {
    pub(crate) fn new(max_ongoing: u32, seed: u64) -> Self {
        let (replicas, prefixes) = (Vec::new(), Prefixes::default());
        Self { max_ongoing: max_ongoing.max(1), replicas, prefixes, seed }
    }

    pub(crate) fn update(&mut self, listed: impl Iterator<Item = Listed>, max_ongoing: u32) {
        self.max_ongoing = max_ongoing.max(1);
        for replica in &mut self.replicas {
            replica.listed = false;
        }
        for Listed { id, models } in listed {
            match self.get(&id) {
                Some(replica) => (replica.listed, replica.models) = (true, models),
                None => self.replicas.push(Replica {
                    id,
                    ongoing: 0,
                    listed: true,
                    suspect: false,
                    models,
                    asked_for: Vec::new(),
                }),
            }
        }
        self.forget();
    }

    pub(crate) fn set_prefix_affinity(&mut self, affinity: PrefixAffinity) {
        self.prefixes.set(affinity);
    }

    /// Gives the request to a replica that it may have, but for those that it avoids.
    pub(crate) fn assign(
        &mut self,
        wish: &Wish,
        takes_any: bool,
        avoid: &[ReplicaId],
    ) -> Option<ReplicaId> {
        let may_have =
            |replica: &&Replica| replica.takes_requests() && !avoid.contains(&replica.id);
        let may_have = |replica| Some(replica).filter(may_have);
        let choose_of = |is_one: &dyn Fn(usize, &Replica) -> bool| {
            let ongoing = |(index, replica)| {
                let found = may_have(replica).filter(|replica: &&Replica| is_one(index, replica));
                found.map(|replica| replica.ongoing)
            };
            let ongoing: Vec<Option<u32>> = self.replicas.iter().enumerate().map(ongoing).collect();
            choose(&ongoing, self.max_ongoing, self.seed)
        };
        let any = || choose_of(&|_, _| true);
        let pick = match wish {
            Wish::Any => any(),
            Wish::Prefix(prefix) => {
                let load = |replica| may_have(replica).map(|it: &Replica| (&it.id, it.ongoing));
                let loads: Vec<_> = self.replicas.iter().map(load).collect();
                let preferred = self.prefixes.prefer(prefix, &loads);
                choose_of(&|index, _| preferred[index]).or_else(any)
            }
            Wish::Model(model) => {
                let standing =
                    |replica| may_have(replica).map(|replica: &Replica| replica.standing(model));
                let standings: Vec<Option<Standing>> = self.replicas.iter().map(standing).collect();
                choose_for_model(&standings, self.max_ongoing, takes_any, self.seed)
            }
            Wish::Ranked(ranks) => {
                let of_rank = |rank: &Vec<ReplicaId>| choose_of(&|_, it| rank.contains(&it.id));
                ranks.iter().find_map(of_rank)
            }
            Wish::Undecided => None,
        }?;
        self.seed = self.seed.wrapping_add(1);
        let replica = &mut self.replicas[pick];
        replica.begin(wish);
        if let Wish::Prefix(prefix) = wish {
            self.prefixes.took(prefix, &replica.id);
        }
        Some(replica.id.clone())
    }

    /// Gives each listed replica one request more, however many it has.
    pub(crate) fn give_all(&mut self) -> Vec<ReplicaId> {
        let listed = self.replicas.iter_mut().filter(|replica| replica.listed);
        listed
            .map(|replica| {
                replica.begin(&Wish::Any);
                replica.id.clone()
            })
            .collect()
    }

    /// A request that was assigned to it has ended there.
    pub(crate) fn end(&mut self, id: &ReplicaId, wish: &Wish) {
        if let Some(replica) = self.get(id) {
            replica.end(wish);
        }
        self.forget();
    }

    /// As [`Dispatcher::suspect`](crate::Dispatcher::suspect).
    pub(crate) fn suspect(&mut self, id: &ReplicaId) -> bool {
        self.get(id).is_some_and(|replica| !std::mem::replace(&mut replica.suspect, true))
    }

    pub(crate) fn trust(&mut self, id: &ReplicaId) {
        if let Some(replica) = self.get(id) {
            replica.suspect = false;
        }
    }

    pub(crate) fn ongoing(&self) -> u32 {
        self.replicas.iter().map(|replica| replica.ongoing).sum()
    }

    pub(crate) fn num_listed(&self) -> usize {
        self.replicas.iter().filter(|replica| replica.listed).count()
    }

    pub(crate) fn has_room(&self) -> bool {
        let has_room =
            |replica: &Replica| replica.takes_requests() && replica.ongoing < self.max_ongoing;
        self.replicas.iter().any(has_room)
    }

    /// Requests for which there is room.
    pub(crate) fn room(&self) -> u64 {
        let takes = self.replicas.iter().filter(|replica| replica.takes_requests());
        takes.map(|replica| u64::from(self.max_ongoing.saturating_sub(replica.ongoing))).sum()
    }

    /// Those that have requests, and how many.
    pub(crate) fn loads(&self) -> impl Iterator<Item = (&ReplicaId, u32)> {
        let loads = self.replicas.iter().map(|replica| (&replica.id, replica.ongoing));
        loads.filter(|(_, ongoing)| *ongoing > 0)
    }

    fn get(&mut self, id: &ReplicaId) -> Option<&mut Replica> {
        self.replicas.iter_mut().find(|replica| replica.id == *id)
    }

    fn forget(&mut self) {
        let before = self.replicas.len();
        self.replicas.retain(|replica| replica.listed || replica.ongoing > 0);
        if self.replicas.len() < before {
            self.prefixes.keep(|id| self.replicas.iter().any(|replica| replica.id == *id));
        }
    }
}
