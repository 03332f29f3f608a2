//! Deployments of models, found by name, in a form that costs little where there are few: each
//! route prefix has its own.

use crate::deployment::Deployment;
use crate::table::Key;
use std::collections::HashMap;
use std::sync::Arc;
use tyndall_types::DeploymentId;

/// So many are looked through one by one.
const MAX_UNINDEXED: usize = 8;

/// The names of a model, the public id first.
pub(crate) type Names = Arc<[Arc<str>]>;

/// Deployments of models, the oldest first.
#[derive(Debug, Default)]
pub struct Models {
    /// By their keys.
    sorted: Vec<Entry>,
    /// Where there are many.
    index: Option<Box<Index>>,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    names: Names,
    deployment: Arc<Deployment>,
}

impl Entry {
    fn model(&self) -> Option<&Arc<str>> {
        self.names.first()
    }

    fn aliases(&self) -> &[Arc<str>] {
        self.names.get(1..).unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Index {
    /// The oldest of each model.
    by_model: HashMap<Arc<str>, Key>,
    /// The oldest of each further name.
    by_alias: HashMap<Arc<str>, Key>,
    /// The ages of all.
    by_id: HashMap<DeploymentId, u64>,
}

impl Index {
    fn of(sorted: &[Entry]) -> Box<Self> {
        let mut index = Self::default();
        sorted.iter().for_each(|entry| index.insert(entry));
        Box::new(index)
    }

    fn insert(&mut self, entry: &Entry) {
        let note = |index: &mut HashMap<Arc<str>, Key>, name: &Arc<str>| {
            let oldest = index.entry(name.clone()).or_insert_with(|| entry.key.clone());
            if entry.key < *oldest {
                *oldest = entry.key.clone();
            }
        };
        entry.model().into_iter().for_each(|model| note(&mut self.by_model, model));
        entry.aliases().iter().for_each(|alias| note(&mut self.by_alias, alias));
        self.by_id.insert(entry.key.1.clone(), entry.key.0);
    }
}

impl Models {
    /// The one that was deployed first.
    #[must_use]
    pub fn first(&self) -> Option<&Arc<Deployment>> {
        self.iter().next()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Deployment>> {
        self.sorted.iter().map(|entry| &entry.deployment)
    }

    /// Finds a deployment by its model's id, else by a further name of it, else by its own id; the
    /// oldest of several.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<Deployment>> {
        let entry = match &self.index {
            Some(index) => match index.by_model.get(name).or_else(|| index.by_alias.get(name)) {
                Some(key) => self.get(key),
                None => {
                    let id = DeploymentId::try_from(name.to_owned()).ok()?;
                    let order = *index.by_id.get(&id)?;
                    self.get(&(order, id))
                }
            },
            None => {
                let is_name = |found: &Arc<str>| &**found == name;
                let mut all = self.sorted.iter();
                let found = all.find(|entry| entry.model().is_some_and(is_name));
                let mut all = self.sorted.iter();
                let found = found.or_else(|| all.find(|entry| entry.aliases().iter().any(is_name)));
                found.or_else(|| {
                    let id = DeploymentId::try_from(name.to_owned()).ok()?;
                    self.sorted.iter().find(|entry| entry.key.1 == id)
                })
            }
        };
        entry.map(|entry| &entry.deployment)
    }

    pub(crate) fn insert(&mut self, key: &Key, names: &Names, deployment: &Arc<Deployment>) {
        let entry =
            Entry { key: key.clone(), names: names.clone(), deployment: deployment.clone() };
        if let Some(index) = &mut self.index {
            index.insert(&entry);
        }
        if self.sorted.len() < MAX_UNINDEXED {
            self.sorted.reserve_exact(1);
        }
        match self.place(key) {
            Ok(place) => self.sorted[place] = entry,
            Err(place) => self.sorted.insert(place, entry),
        }
        if self.index.is_none() && self.sorted.len() > MAX_UNINDEXED {
            self.index = Some(Index::of(&self.sorted));
        }
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        let Ok(place) = self.place(key) else { return };
        let removed = self.sorted.remove(place);
        let Some(index) = &mut self.index else { return };
        index.by_id.remove(&key.1);
        if let Some(model) = removed.model().filter(|model| index.by_model.get(*model) == Some(key))
        {
            index.by_model.remove(model);
            if let Some(next) = self.sorted.iter().find(|entry| entry.model() == Some(model)) {
                index.by_model.insert(model.clone(), next.key.clone());
            }
        }
        for alias in removed.aliases() {
            if index.by_alias.get(alias) == Some(key) {
                index.by_alias.remove(alias);
                if let Some(next) = self.sorted.iter().find(|entry| entry.aliases().contains(alias))
                {
                    index.by_alias.insert(alias.clone(), next.key.clone());
                }
            }
        }
        if self.sorted.len() <= MAX_UNINDEXED {
            self.index = None;
            self.sorted.shrink_to_fit();
        }
    }

    fn place(&self, key: &Key) -> Result<usize, usize> {
        self.sorted.binary_search_by(|entry| entry.key.cmp(key))
    }

    fn get(&self, key: &Key) -> Option<&Entry> {
        self.place(key).ok().map(|place| &self.sorted[place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{id, made};
    use proptest::prelude::*;

    proptest! {
        /// Names of models, some of which are ids of other deployments.
        #[test]
        fn many_are_found_as_few_are(
            steps in prop::collection::vec(
                (any::<bool>(), 0usize..16, 0u64..3, 0usize..8, prop::option::of(0usize..8)),
                0..60,
            ),
        ) {
            let mut models = Models::default();
            let mut listed: Vec<(Key, String, Option<String>)> = Vec::new();
            for (is_new, name, order, model, alias) in steps {
                let name = id(&format!("d{name}"));
                if let Some(place) = listed.iter().position(|((_, id), ..)| *id == name) {
                    models.remove(&listed.remove(place).0);
                }
                if is_new {
                    let (key, model) = ((order, name.clone()), format!("d{model}"));
                    let alias = alias.map(|alias| format!("d{alias}"));
                    let names = std::iter::once(&model).chain(&alias);
                    let names = names.map(|name| Arc::from(name.as_str())).collect();
                    models.insert(&key, &names, &made(&name));
                    listed.push((key, model, alias));
                }
                listed.sort();
                let in_order: Vec<_> = models.iter().map(|found| found.id().clone()).collect();
                prop_assert_eq!(&in_order, &listed.iter().map(|l| l.0.1.clone()).collect::<Vec<_>>());
                for asked in (0..16).map(|n| format!("d{n}")) {
                    let by_model = listed.iter().find(|(_, model, _)| *model == asked);
                    let by_alias =
                        || listed.iter().find(|(.., alias)| alias.as_ref() == Some(&asked));
                    let by_id = || listed.iter().find(|((_, id), ..)| id.to_string() == asked);
                    let expected = by_model.or_else(by_alias).or_else(by_id);
                    let expected = expected.map(|((_, id), ..)| id);
                    prop_assert_eq!(models.find(&asked).map(|found| found.id()), expected);
                }
            }
        }
    }
}
