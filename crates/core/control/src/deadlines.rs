//! Who must be looked at when.

use crate::Instant;
use std::collections::{BTreeMap, BTreeSet};
use tyndall_types::DeploymentId;

/// The next deadline of each deployment, and the nearest of all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deadlines {
    of: BTreeMap<DeploymentId, Instant>,
    ordered: BTreeSet<(Instant, DeploymentId)>,
}

impl Deadlines {
    pub(crate) fn set(&mut self, id: &DeploymentId, at: Option<Instant>) {
        let before = match at {
            Some(at) => self.of.insert(id.clone(), at),
            None => self.of.remove(id),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.ordered.remove(&(before, id.clone()));
        }
        if let Some(at) = at {
            self.ordered.insert((at, id.clone()));
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.ordered.first().map(|(at, _)| *at)
    }

    /// Those whose deadline has come.
    pub(crate) fn due(&self, now: Instant) -> BTreeSet<DeploymentId> {
        self.ordered.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| id.clone()).collect()
    }
}
