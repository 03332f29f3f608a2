//! Which multiplexed models a replica has, for those who send it requests and for its metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tyndall_telemetry::{ModelMetrics, ProgramMetrics};
use tyndall_types::protocol::MAX_TOLD_MODELS;

/// A longer id is not told of: requests for it go where there is room.
const MAX_ID_BYTES: usize = 256;

/// The models of all parts of a replica's code.
#[derive(Debug)]
pub(crate) struct HeldModels {
    parts: Mutex<Parts>,
    /// The ids of all, sorted.
    ids: watch::Sender<Vec<String>>,
}

#[derive(Debug, Default)]
struct Parts {
    next: u64,
    ids: BTreeMap<u64, Vec<String>>,
}

impl Default for HeldModels {
    fn default() -> Self {
        Self { parts: Mutex::default(), ids: watch::Sender::new(Vec::new()) }
    }
}

impl HeldModels {
    /// A part, whose models are counted in `metrics` too.
    pub(crate) fn part(self: &Arc<Self>, metrics: &ProgramMetrics) -> ModelsOfPart {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.next += 1;
        let ids = Arc::<Mutex<Vec<String>>>::default();
        let shown = Arc::downgrade(&ids);
        let metrics = metrics.models(move || match shown.upgrade() {
            Some(ids) => ids.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            None => Vec::new(),
        });
        ModelsOfPart { of: self.clone(), part: parts.next, ids, metrics }
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.ids.borrow().clone()
    }

    /// The ids now, and every change of them but for their order.
    pub(crate) fn watch(&self) -> watch::Receiver<Vec<String>> {
        self.ids.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<u64, Vec<String>>)) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut parts.ids);
        let mut all: Vec<String> = parts.ids.values().flatten().cloned().collect();
        all.sort_unstable();
        all.dedup();
        all.truncate(MAX_TOLD_MODELS);
        self.ids.send_if_modified(|ids| {
            let is_new = *ids != all;
            *ids = all;
            is_new
        });
    }
}

/// The models of one part of a replica's code; dropping it means that it has none any more.
#[derive(Debug)]
pub struct ModelsOfPart {
    of: Arc<HeldModels>,
    part: u64,
    /// All of them, however many are told of.
    ids: Arc<Mutex<Vec<String>>>,
    metrics: ModelMetrics,
}

impl ModelsOfPart {
    /// It has the models of these ids now, loaded or being loaded, the ones that were used last at the
    /// end.
    pub fn set<'a>(&self, ids: impl DoubleEndedIterator<Item = &'a str>) {
        let all: Vec<String> = ids.map(str::to_owned).collect();
        let ids = all
            .iter()
            .map(String::as_str)
            .rev()
            .filter(|id| id.len() <= MAX_ID_BYTES)
            .take(MAX_TOLD_MODELS);
        let ids: Vec<String> = ids.map(str::to_owned).collect();
        self.of.change(|parts| drop(parts.insert(self.part, ids)));
        *self.ids.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }

    /// Somebody asked for a model.
    pub fn asked(&self) {
        self.metrics.asked();
    }

    /// A model was loaded.
    pub fn loaded(&self, took: Duration) {
        self.metrics.loaded(took);
    }

    /// A model was unloaded.
    pub fn unloaded(&self, took: Duration) {
        self.metrics.unloaded(took);
    }
}

impl Drop for ModelsOfPart {
    fn drop(&mut self) {
        self.of.change(|parts| drop(parts.remove(&self.part)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tyndall_telemetry::ProgramLabels;

    const LABELS: &str = "application=\"app\",deployment=\"D\",replica=\"r\"";

    #[test]
    fn the_models_of_all_parts_are_told_and_no_more_than_may_be() {
        let held = Arc::new(HeldModels::default());
        let metrics = ProgramMetrics::new(ProgramLabels {
            application: "app".to_owned(),
            deployment: "D".to_owned(),
            replica: "r".to_owned(),
        });
        let counts = |count: usize| {
            let line = format!("ray_serve_num_multiplexed_models{{{LABELS}}} {count}");
            metrics.render(0).lines().any(|one| one == line)
        };
        let mut told = held.watch();
        let [one, other] = [held.part(&metrics), held.part(&metrics)];
        one.set(["b", "a"].into_iter());
        other.set(["a", "c"].into_iter());
        assert_eq!(held.ids(), ["a", "b", "c"]);
        assert!(counts(4), "each part has its own");
        assert!(told.has_changed().unwrap());
        told.mark_unchanged();
        one.set(["a", "b"].into_iter());
        assert!(!told.has_changed().unwrap(), "the order says nothing");
        drop(other);
        assert_eq!(*told.borrow_and_update(), ["a", "b"]);
        let long = "x".repeat(MAX_ID_BYTES + 1);
        let many: Vec<String> = (0..MAX_TOLD_MODELS + 5).map(|n| format!("{n:04}")).collect();
        one.set(many.iter().map(String::as_str).chain([long.as_str()]));
        let ids = held.ids();
        assert_eq!((ids.len(), ids[0].as_str()), (MAX_TOLD_MODELS, "0005"), "the last used stay");
        assert!(
            counts(MAX_TOLD_MODELS + 6),
            "all are counted, and those of a part that is gone are not"
        );
    }
}
