//! Which applications are wanted, where they came from, and where they are mounted.

use std::collections::{BTreeMap, BTreeSet};
use tyndall_types::ApplicationName;
use tyndall_types::protocol::{ApplicationConfig, ApplicationSource};

/// Where an application came from, and where it is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Origin {
    pub(crate) source: ApplicationSource,
    pub(crate) route_prefix: Option<String>,
    /// Models are told apart by their ids, so any number of them may be mounted at one place.
    pub(crate) is_models: bool,
}

impl Origin {
    pub(crate) fn of(config: &ApplicationConfig) -> Self {
        Self {
            source: config.source,
            route_prefix: config.route_prefix.clone(),
            is_models: config.deployments.iter().all(|one| one.workload.model().is_some()),
        }
    }
}

/// The origins of all applications, by name and by place.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    by_name: BTreeMap<ApplicationName, Origin>,
    by_place: BTreeMap<String, BTreeSet<ApplicationName>>,
}

impl Origins {
    pub(crate) fn insert(&mut self, name: ApplicationName, origin: Origin) {
        self.remove(&name);
        if let Some(place) = &origin.route_prefix {
            self.by_place.entry(place.clone()).or_default().insert(name.clone());
        }
        self.by_name.insert(name, origin);
    }

    pub(crate) fn remove(&mut self, name: &ApplicationName) {
        let Some(place) = self.by_name.remove(name).and_then(|origin| origin.route_prefix) else {
            return;
        };
        if let Some(names) = self.by_place.get_mut(&place) {
            names.remove(name);
            if names.is_empty() {
                self.by_place.remove(&place);
            }
        }
    }

    pub(crate) fn get(&self, name: &ApplicationName) -> Option<&Origin> {
        self.by_name.get(name)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ApplicationName, &Origin)> {
        self.by_name.iter()
    }

    /// The applications that are mounted at a place.
    pub(crate) fn at(&self, place: &str) -> impl Iterator<Item = (&ApplicationName, &Origin)> {
        let names = self.by_place.get(place).into_iter().flatten();
        names.filter_map(|name| self.by_name.get_key_value(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_their_applications() {
        let name = |name: &str| ApplicationName::new(name).unwrap();
        let mounted = |place: Option<&str>| Origin {
            route_prefix: place.map(str::to_owned),
            ..Origin::default()
        };
        let mut origins = Origins::default();
        let at = |origins: &Origins, place: &str| -> Vec<String> {
            origins.at(place).map(|(name, _)| name.to_string()).collect()
        };
        origins.insert(name("a"), mounted(Some("/x")));
        origins.insert(name("b"), mounted(Some("/x")));
        origins.insert(name("c"), mounted(None));
        assert_eq!(at(&origins, "/x"), ["a", "b"]);
        origins.insert(name("a"), mounted(Some("/y")));
        assert_eq!((at(&origins, "/x"), at(&origins, "/y")), (vec!["b".into()], vec!["a".into()]));
        origins.remove(&name("a"));
        origins.remove(&name("a"));
        origins.insert(name("b"), mounted(None));
        assert!(origins.by_place.is_empty());
        assert_eq!(origins.len(), 2);
    }
}
