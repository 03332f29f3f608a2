//! Applications by where they are mounted.

use crate::deployment::Deployment;
use crate::models::{Models, Names};
use crate::table::Key;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// An application that takes requests from outside.
#[derive(Debug, Clone)]
pub struct Mount {
    /// Its route prefix.
    pub prefix: Arc<str>,
    /// The deployment that requests go to; its id names the application.
    pub ingress: Arc<Deployment>,
}

/// Whose models are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Those of all applications.
    Everywhere,
    /// Those of the application that is mounted here.
    Prefix(String),
}

/// All that is mounted. While two applications have one prefix, as when one replaces the other,
/// the older one's ingress has it, and the models are those of both.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    /// By length first: a path is compared once for each length that occurs.
    by_length: BTreeMap<usize, HashMap<Arc<str>, Mounted>>,
}

#[derive(Debug, Default)]
struct Mounted {
    /// By their keys; more than one only while one application replaces another.
    ingresses: Vec<(Key, Arc<Deployment>)>,
    models: Models,
}

impl Mounts {
    /// The application with the longest prefix that matches, by Ray Serve's rule: a prefix is
    /// followed by `/` or by nothing, unless it ends with `/`.
    pub(crate) fn longest(&self, path: &str) -> Option<Mount> {
        self.by_length.range(..=path.len()).rev().find_map(|(&length, mounted)| {
            let (head, tail) = path.split_at_checked(length)?;
            if !(head.ends_with('/') || tail.is_empty() || tail.starts_with('/')) {
                return None;
            }
            let (prefix, mounted) = mounted.get_key_value(head)?;
            mounted.mount(prefix)
        })
    }

    /// All of them, sorted by prefix.
    pub(crate) fn all(&self) -> Vec<Mount> {
        let all = self.by_length.values().flatten();
        let mut all: Vec<_> = all.filter_map(|(prefix, mounted)| mounted.mount(prefix)).collect();
        all.sort_by(|a, b| a.prefix.cmp(&b.prefix));
        all
    }

    /// Whether nothing takes requests from outside.
    pub(crate) fn is_empty(&self) -> bool {
        let mut all = self.by_length.values().flat_map(HashMap::values);
        all.all(|mounted| mounted.ingresses.is_empty())
    }

    pub(crate) fn models(&self, prefix: &str) -> Option<&Models> {
        Some(&self.by_length.get(&prefix.len())?.get(prefix)?.models)
    }

    pub(crate) fn insert(&mut self, prefix: &Arc<str>, key: &Key, deployment: &Arc<Deployment>) {
        let ingresses = &mut self.mounted(prefix).ingresses;
        let place = ingresses.partition_point(|(other, _)| other < key);
        ingresses.reserve_exact(1);
        ingresses.insert(place, (key.clone(), deployment.clone()));
    }

    pub(crate) fn insert_model(
        &mut self,
        prefix: &Arc<str>,
        key: &Key,
        names: &Names,
        deployment: &Arc<Deployment>,
    ) {
        self.mounted(prefix).models.insert(key, names, deployment);
    }

    pub(crate) fn remove(&mut self, prefix: &str, key: &Key) {
        let Some(of_length) = self.by_length.get_mut(&prefix.len()) else { return };
        let Some(mounted) = of_length.get_mut(prefix) else { return };
        mounted.ingresses.retain(|(other, _)| other != key);
        mounted.models.remove(key);
        if mounted.ingresses.is_empty() && mounted.models.is_empty() {
            of_length.remove(prefix);
        }
        if of_length.is_empty() {
            self.by_length.remove(&prefix.len());
        }
    }

    fn mounted(&mut self, prefix: &Arc<str>) -> &mut Mounted {
        let of_length = self.by_length.entry(prefix.len()).or_default();
        of_length.entry(prefix.clone()).or_default()
    }
}

impl Mounted {
    fn mount(&self, prefix: &Arc<str>) -> Option<Mount> {
        let (_, ingress) = self.ingresses.first()?;
        Some(Mount { prefix: prefix.clone(), ingress: ingress.clone() })
    }
}
