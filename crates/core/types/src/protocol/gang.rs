//! Replicas that start and end together.

use crate::ReplicaId;
use serde::{Deserialize, Serialize};

/// How replicas of a deployment form gangs, in Ray's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GangScheduling {
    /// Replicas of a gang, at least 1. Numbers of replicas are whole multiples of it.
    pub gang_size: u32,
    /// How the replicas of a gang lie on nodes; one machine is one node.
    #[serde(default)]
    pub gang_placement_strategy: GangPlacementStrategy,
    /// What becomes of a gang that loses a replica.
    #[serde(default)]
    pub runtime_failure_policy: GangFailurePolicy,
}

impl GangScheduling {
    /// What of these numbers of replicas, by the names of their options, is no multiple of the size of a
    /// gang: a line of cause and one of cure.
    pub fn misfit<'a>(
        &self,
        numbers: impl IntoIterator<Item = (&'a str, Option<u32>)>,
    ) -> Option<String> {
        let gang_size = self.gang_size;
        let is_misfit = |count: &u32| !count.is_multiple_of(gang_size);
        let found = numbers.into_iter().find_map(|(name, n)| Some((name, n.filter(is_misfit)?)));
        found.map(|(name, count)| {
            format!(
                "{name} ({count}) must be a multiple of gang_size ({gang_size})\nchoose a multiple \
                 of it"
            )
        })
    }
}

/// How the replicas of a gang lie on nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum GangPlacementStrategy {
    /// On as few as possible.
    #[default]
    Pack,
    /// On as many as possible.
    Spread,
}

/// What becomes of a gang that loses a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum GangFailurePolicy {
    /// All of its replicas end, and another gang takes its place.
    #[default]
    RestartGang,
}

/// Which replica of which gang one is; handed to its process when it starts, and the same for as
/// long as it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GangContext {
    /// Names the gang; no two have the same.
    pub gang_id: String,
    /// Its number in the gang, from 0 on.
    pub rank: u32,
    /// Replicas of the gang.
    pub world_size: u32,
    /// All of them, in the order of their ranks.
    pub member_replica_ids: Vec<ReplicaId>,
    /// What Ray would call the gang's placement group.
    pub pg_name: String,
}
