//! The deployments of the route table and the ways to find one, changed in place: what a change
//! costs does not depend on how many deployments there are.

use crate::deployment::Deployment;
use crate::models::{Models, Names};
use crate::mounts::Mounts;
use std::collections::HashMap;
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
    prefix: Option<Arc<str>>,
    is_ingress: bool,
    /// The names of its model, the public id first; empty of a program.
    names: Names,
}

impl Place {
    fn of(route: &DeploymentRoute) -> Self {
        Self {
            order: route.order,
            prefix: route.route_prefix.as_deref().map(Arc::from),
            is_ingress: route.is_ingress,
            names: match &route.model {
                Some(model) => {
                    let aliases = model.aliases.iter().map(String::as_str);
                    std::iter::once(model.id.as_str()).chain(aliases).map(Arc::from).collect()
                }
                None => Names::default(),
            },
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
            if !place.names.is_empty() {
                self.models.insert(&key, &place.names, &deployment);
                self.mounts.insert_model(prefix, &key, &place.names, &deployment);
            }
        }
        self.deployments.insert(key.1, Listed { deployment, place });
    }

    pub(crate) fn remove(&mut self, id: &DeploymentId) -> Option<Arc<Deployment>> {
        let Listed { deployment, place } = self.deployments.remove(id)?;
        let key = (place.order, id.clone());
        if let Some(prefix) = &place.prefix {
            self.mounts.remove(prefix, &key);
            self.models.remove(&key);
        }
        Some(deployment)
    }
}
