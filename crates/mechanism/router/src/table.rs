//! The deployments of the route table and the ways to find one, changed in place: what a change
//! costs does not depend on how many deployments there are.

use crate::deployment::Deployment;
use crate::mounts::Mounts;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tyndall_types::DeploymentId;
use tyndall_types::protocol::DeploymentRoute;

/// Sorts deployments by their age; the id decides between equals.
pub(crate) type Key = (u64, DeploymentId);

/// All deployments.
#[derive(Debug, Default)]
pub(crate) struct Table {
    deployments: HashMap<DeploymentId, Listed>,
    models: Models,
    mounts: Mounts,
}

/// A deployment and where it stands in the indexes.
#[derive(Debug)]
struct Listed {
    deployment: Arc<Deployment>,
    place: Place,
}

/// What of a route the indexes are made from.
#[derive(Debug, Clone, PartialEq)]
struct Place {
    order: u64,
    /// Absent where no request comes from outside.
    prefix: Option<String>,
    is_ingress: bool,
    model: Option<String>,
}

impl Place {
    fn of(route: &DeploymentRoute) -> Self {
        Self {
            order: route.order,
            prefix: route.route_prefix.clone(),
            is_ingress: route.is_ingress,
            model: route.model.as_ref().map(|model| model.id.clone()),
        }
    }
}

impl Table {
    pub(crate) fn get(&self, id: &DeploymentId) -> Option<&Arc<Deployment>> {
        self.deployments.get(id).map(|listed| &listed.deployment)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &DeploymentId> {
        self.deployments.keys()
    }

    pub(crate) fn deployments(&self) -> impl Iterator<Item = &Arc<Deployment>> {
        self.deployments.values().map(|listed| &listed.deployment)
    }

    /// All models that requests from outside may ask for.
    pub(crate) fn models(&self) -> &Models {
        &self.models
    }

    pub(crate) fn mounts(&self) -> &Mounts {
        &self.mounts
    }

    /// Puts a deployment where its route belongs, whether it is new or has changed.
    pub(crate) fn set(&mut self, deployment: Arc<Deployment>, route: &DeploymentRoute) {
        let place = Place::of(route);
        match self.deployments.get(deployment.id()) {
            Some(listed) if listed.place == place => return,
            Some(_) => drop(self.remove(&deployment.id().clone())),
            None => {}
        }
        let key = (place.order, deployment.id().clone());
        if let Some(prefix) = &place.prefix {
            if place.is_ingress {
                self.mounts.insert(prefix, &key, &deployment);
            }
            if let Some(model) = &place.model {
                self.models.insert(&key, model, &deployment);
                self.mounts.insert_model(prefix, &key, model, &deployment);
            }
        }
        self.deployments.insert(key.1, Listed { deployment, place });
    }

    pub(crate) fn remove(&mut self, id: &DeploymentId) -> Option<Arc<Deployment>> {
        let Listed { deployment, place } = self.deployments.remove(id)?;
        let key = (place.order, id.clone());
        if let Some(prefix) = &place.prefix {
            self.mounts.remove(prefix, &key, place.model.as_deref());
            if let Some(model) = &place.model {
                self.models.remove(&key, model);
            }
        }
        Some(deployment)
    }
}

/// Deployments of models, the oldest first.
#[derive(Debug, Default)]
pub struct Models {
    in_order: BTreeMap<Key, Arc<Deployment>>,
    by_model: HashMap<String, BTreeSet<Key>>,
    by_name: HashMap<String, Key>,
}

impl Models {
    /// The one that was deployed first.
    #[must_use]
    pub fn first(&self) -> Option<&Arc<Deployment>> {
        self.in_order.values().next()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.in_order.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.in_order.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Deployment>> {
        self.in_order.values()
    }

    /// Finds a deployment by its model's id, else by its own; the oldest of several.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<Deployment>> {
        let by_model = self.by_model.get(name).and_then(|keys| keys.first());
        self.in_order.get(by_model.or_else(|| self.by_name.get(name))?)
    }

    pub(crate) fn insert(&mut self, key: &Key, model: &str, deployment: &Arc<Deployment>) {
        self.in_order.insert(key.clone(), deployment.clone());
        self.by_model.entry(model.to_owned()).or_default().insert(key.clone());
        self.by_name.insert(key.1.to_string(), key.clone());
    }

    pub(crate) fn remove(&mut self, key: &Key, model: &str) {
        self.in_order.remove(key);
        self.by_name.remove(&key.1.to_string());
        if let Some(keys) = self.by_model.get_mut(model) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_model.remove(model);
            }
        }
    }
}
