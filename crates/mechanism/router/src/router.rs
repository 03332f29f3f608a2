//! The state of a router.

use crate::changes::Changes;
use crate::deployment::Deployment;
use crate::links;
use crate::models::Models;
use crate::mounts::{Mount, Scope};
use crate::table::Table;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::{Notify, watch};
use tyndall_telemetry::ProxyMetrics;
use tyndall_transport::Client;
use tyndall_types::DeploymentId;
use tyndall_types::protocol::{Demand, RouteTable};

/// The deployments of a node and the ways to them, as the controller tells.
#[derive(Debug)]
pub struct Router {
    controller: Client,
    id: String,
    table: RwLock<Table>,
    /// Held while a table is applied: the next one waits.
    applying: Mutex<()>,
    has_table: watch::Sender<bool>,
    was_populated: AtomicBool,
    changes: Arc<Changes>,
}

impl Router {
    /// A router that knows nothing yet; `id` names it to the controller, among all routers of the
    /// node. [`Router::run`] keeps it informed.
    #[must_use]
    pub fn new(controller: Client, id: impl Into<String>) -> Self {
        let id = id.into();
        Self {
            controller,
            table: RwLock::default(),
            applying: Mutex::new(()),
            has_table: watch::Sender::new(false),
            was_populated: AtomicBool::new(false),
            changes: Arc::new(Changes {
                caller: format!("{id}-{:x}", seed()),
                demand: Notify::new(),
                queued: Notify::new(),
                busy: Mutex::default(),
                metrics: Arc::new(ProxyMetrics::new()),
            }),
            id,
        }
    }

    /// Keeps both links to the controller: route tables come down one, counts go up the other.
    /// Never ends by itself.
    ///
    /// # Cancel safety
    /// Dropping the future closes the links; requests go on with what is known.
    pub async fn run(&self) {
        tokio::select! {
            () = links::follow_routes(self, &self.controller, &self.id) => {}
            () = links::push_demand(self, &self.controller, &self.id) => {}
        }
    }

    /// What the controller is asked with.
    #[must_use]
    pub fn controller(&self) -> &Client {
        &self.controller
    }

    /// What this router counts.
    #[must_use]
    pub fn metrics(&self) -> &Arc<ProxyMetrics> {
        &self.changes.metrics
    }

    /// The metrics page of this router, with the counts as they are now.
    #[must_use]
    pub fn metrics_page(&self) -> String {
        self.deployments().iter().for_each(|deployment| deployment.show());
        self.metrics().render()
    }

    /// Whether a table came.
    #[must_use]
    pub fn has_table(&self) -> bool {
        *self.has_table.borrow()
    }

    /// Resolves when the first table has come.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ready(&self) {
        let mut has_table = self.has_table.subscribe();
        // The sender lives as long as self.
        drop(has_table.wait_for(|has| *has).await);
    }

    /// A deployment by its id.
    #[must_use]
    pub fn deployment(&self, id: &DeploymentId) -> Option<Arc<Deployment>> {
        self.table().get(id).cloned()
    }

    /// A deployment by its id, as soon as a table has it.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn find(&self, id: &DeploymentId) -> Arc<Deployment> {
        let mut tables = self.has_table.subscribe();
        loop {
            if let Some(deployment) = self.deployment(id) {
                return deployment;
            }
            // The sender lives as long as self, and tells of every table.
            drop(tables.changed().await);
        }
    }

    /// All deployments, in no order.
    #[must_use]
    pub fn deployments(&self) -> Vec<Arc<Deployment>> {
        self.table().deployments().cloned().collect()
    }

    /// The application that a path belongs to: the longest route prefix that matches, by Ray
    /// Serve's rule.
    #[must_use]
    pub fn mount(&self, path: &str) -> Option<Mount> {
        self.table().mounts().longest(path)
    }

    /// All applications that take requests from outside, sorted by their route prefix.
    #[must_use]
    pub fn mounts(&self) -> Vec<Mount> {
        self.table().mounts().all()
    }

    /// Whether there ever was an application that takes requests from outside.
    #[must_use]
    pub fn was_populated(&self) -> bool {
        self.was_populated.load(Ordering::Relaxed)
    }

    /// Looks at the models that requests from outside may ask for.
    pub fn with_models<R>(&self, scope: &Scope, look: impl FnOnce(&Models) -> R) -> R {
        let table = self.table();
        match scope {
            Scope::Everywhere => look(table.models()),
            Scope::Prefix(prefix) => match table.mounts().models(prefix) {
                Some(models) => look(models),
                None => look(&Models::default()),
            },
        }
    }

    /// Takes a new table, or what changed in it: deployments that stay keep their requests, those
    /// that are gone fail the ones that wait.
    pub fn apply(&self, change: RouteTable) {
        let _one_at_a_time = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = if change.is_complete {
            let named: HashSet<&DeploymentId> =
                change.deployments.iter().map(|route| &route.deployment).collect();
            self.table().ids().filter(|id| !named.contains(id)).cloned().collect()
        } else {
            change.removed
        };
        // Requests find their deployments meanwhile: the table is locked only to be changed.
        let mut placed = Vec::with_capacity(change.deployments.len());
        for route in change.deployments {
            let known = self.table().get(&route.deployment).cloned();
            let deployment = match known {
                Some(deployment) => {
                    deployment.update(route.clone());
                    deployment
                }
                None => Arc::new(Deployment::new(route.clone(), seed(), self.changes.clone())),
            };
            placed.push((deployment, route));
        }
        let gone: Vec<_> = {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            for (deployment, route) in placed {
                table.set(deployment, &route);
            }
            let gone = removed.iter().filter_map(|id| table.remove(id)).collect();
            if !table.mounts().is_empty() {
                self.was_populated.store(true, Ordering::Relaxed);
            }
            gone
        };
        for deployment in &gone {
            deployment.retire();
        }
        self.forget(&gone);
        self.has_table.send_replace(true);
    }

    /// The series of deployments that are gone go with them, unless one that stays has their label.
    fn forget(&self, gone: &[Arc<Deployment>]) {
        if gone.is_empty() {
            return;
        }
        let labels: HashSet<_> = self.table().deployments().map(|stays| stays.label()).collect();
        for label in gone.iter().map(|deployment| deployment.label()) {
            if !labels.contains(&label) {
                self.metrics().forget(&label);
            }
        }
    }

    /// The load now: every deployment with a count above zero.
    #[must_use]
    pub fn demand(&self) -> Vec<Demand> {
        self.changes.loads()
    }

    /// Resolves when a count changed since it last did.
    pub(crate) async fn demand_changed(&self) {
        self.changes.demand.notified().await;
    }

    /// Resolves when the count of those that wait changed since it last did.
    pub(crate) async fn queued_changed(&self) {
        self.changes.queued.notified().await;
    }

    /// Makes [`Router::demand_changed`] resolve, so that the controller hears all counts.
    pub(crate) fn repeat_demand(&self) {
        self.changes.demand.notify_one();
    }

    /// Not to be held while anything is awaited.
    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number that differs from process to process and call to call.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::route;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use tyndall_routing::{Flow, Wish};
    use tyndall_types::protocol::DeploymentRoute;

    fn table(routes: Vec<DeploymentRoute>) -> RouteTable {
        let deployments = routes.into_iter().map(Arc::new).collect();
        RouteTable { version: 1, is_complete: true, deployments, removed: Vec::new() }
    }

    fn delta(routes: Vec<DeploymentRoute>, removed: &[&str]) -> RouteTable {
        let removed = removed.iter().map(|id| DeploymentId::try_from((*id).to_owned()).unwrap());
        RouteTable { is_complete: false, removed: removed.collect(), ..table(routes) }
    }

    fn numbered(model: &str, order: u64) -> DeploymentRoute {
        DeploymentRoute { order, ..route(model) }
    }

    fn unlinked() -> Router {
        Router::new(Client::unix("/nowhere"), "test")
    }

    fn find(router: &Router, name: &str) -> Option<Arc<Deployment>> {
        router.with_models(&Scope::Everywhere, |models| models.find(name).cloned())
    }

    fn models(router: &Router) -> Vec<String> {
        router.with_models(&Scope::Everywhere, |models| {
            models.iter().map(|found| found.id().to_string()).collect()
        })
    }

    #[test]
    fn deployments_outlive_tables_that_name_them() {
        let router = unlinked();
        router.apply(table(vec![numbered("a", 1), numbered("b", 2)]));
        let before = find(&router, "a").unwrap();
        assert_eq!(models(&router), ["a", "b"]);
        router.apply(table(vec![numbered("b", 2), numbered("a", 3)]));
        assert_eq!(models(&router), ["b", "a"]);
        router.apply(delta(vec![numbered("c", 4)], &["b", "unknown"]));
        assert_eq!(models(&router), ["a", "c"]);
        assert!(Arc::ptr_eq(&before, &find(&router, "a").unwrap()));
        router.apply(table(Vec::new()));
        assert!(models(&router).is_empty() && router.has_table());
    }

    #[tokio::test]
    async fn who_looks_for_a_deployment_waits_for_its_table() {
        let router = unlinked();
        let id = DeploymentId::try_from("b".to_owned()).unwrap();
        let apply = async {
            router.apply(table(vec![route("a")]));
            tokio::task::yield_now().await;
            router.apply(delta(vec![route("b")], &[]));
        };
        let (found, ()) = tokio::join!(router.find(&id), apply);
        assert_eq!(*found.id(), id);
    }

    #[test]
    fn the_load_of_a_deployment_that_is_gone_is_nobodys() {
        let router = unlinked();
        router.apply(table(vec![route("a")]));
        let old = find(&router, "a").unwrap();
        let waiting = old.enter(Flow::default(), Wish::Any, None).unwrap();
        assert_eq!(router.demand().len(), 1);
        router.apply(delta(Vec::new(), &["a"]));
        assert_eq!(router.demand(), []);
        router.apply(delta(vec![route("a")], &[]));
        let next = find(&router, "a").unwrap();
        let _waiting = next.enter(Flow::default(), Wish::Any, None).unwrap();
        drop(waiting);
        assert_eq!(router.demand()[0].queued, 1);
        assert!(old.enter(Flow::default(), Wish::Any, None).is_err());
    }

    #[test]
    fn a_deployment_that_is_gone_takes_its_series_along() {
        let router = unlinked();
        let of = |name: &str, model: &str| {
            let mut route = route(name);
            route.model.as_mut().unwrap().id = model.to_owned();
            route
        };
        let routes = vec![of("a", "m"), of("b", "m"), of("c", "other")];
        router.apply(table(routes));
        let enter = |name: &str| {
            let id = DeploymentId::try_from(name.to_owned()).unwrap();
            router.deployment(&id).unwrap().enter(Flow::default(), Wish::Any, None).unwrap()
        };
        let waiting = ["a", "b", "c"].map(enter);
        let has = |model: &str| {
            let series = format!("tyndall_queued_requests{{model=\"{model}\"}}");
            router.metrics_page().contains(&series)
        };
        assert!(has("m") && has("other"));
        router.apply(delta(Vec::new(), &["a"]));
        assert!(has("m"), "another deployment serves the model");
        router.apply(delta(Vec::new(), &["b"]));
        assert!(!has("m") && has("other"));
        drop(waiting);
        assert!(!has("m") && has("other"), "what ends later makes no series");
    }

    #[test]
    fn the_longest_prefix_that_matches_wins() {
        let router = unlinked();
        let mounted = |prefix: &str| DeploymentRoute {
            route_prefix: Some(prefix.to_owned()),
            ..route(&format!("app{}#d", prefix.len()))
        };
        let check = |path: &str, expected: Option<&str>| {
            let found = router.mount(path).map(|mount| mount.prefix.to_string());
            assert_eq!(found.as_deref(), expected, "{path}");
        };
        router.apply(table(["/hello", "/hello/a/b", "/dir/", "/é"].map(mounted).to_vec()));
        for (path, expected) in [
            ("/hello", Some("/hello")),
            ("/hello/", Some("/hello")),
            ("/hello/a", Some("/hello")),
            ("/hello/a/b", Some("/hello/a/b")),
            ("/hello/a/b/c", Some("/hello/a/b")),
            ("/hello/a/bc", Some("/hello")),
            ("/helloo", None),
            ("/dir/x", Some("/dir/")),
            ("/dir/", Some("/dir/")),
            ("/dir", None),
            ("/é/x", Some("/é")),
            ("/ééééééééé", None),
            ("/", None),
            ("", None),
            ("*", None),
        ] {
            check(path, expected);
        }
        // Later and shorter does not win; what nothing else takes goes to the root.
        router.apply(delta(vec![mounted("/")], &[]));
        for (path, expected) in
            [("/", "/"), ("/helloo", "/"), ("/hello/a", "/hello"), ("/dir", "/")]
        {
            check(path, Some(expected));
        }
        check("*", None);
        let prefixes: Vec<_> =
            router.mounts().into_iter().map(|mount| mount.prefix.to_string()).collect();
        assert_eq!(prefixes, ["/", "/dir/", "/hello", "/hello/a/b", "/é"]);
    }

    #[test]
    fn a_deployment_without_a_prefix_is_not_found_from_outside() {
        let router = unlinked();
        let inner = DeploymentRoute { route_prefix: None, ..route("inner") };
        router.apply(table(vec![inner.clone()]));
        assert!(router.mount("/").is_none() && models(&router).is_empty());
        assert!(router.has_table() && !router.was_populated());
        assert!(router.deployment(&inner.deployment).is_some());
        router.apply(delta(vec![route("inner")], &[]));
        assert!(router.was_populated() && models(&router) == ["inner"]);
        router.apply(delta(vec![inner], &[]));
        assert!(router.was_populated() && models(&router).is_empty());
    }

    fn some_route() -> impl Strategy<Value = DeploymentRoute> {
        let model = prop::option::of(prop::sample::select(vec!["x", "y", "d1", "z"]));
        let prefix = prop::option::of(prop::sample::select(vec!["/", "/p", "/p/q"]));
        let place = (0u64..4, prefix, any::<bool>());
        (0usize..4, model, place).prop_map(|(name, model, (order, prefix, is_ingress))| {
            let mut route = numbered(["d0", "d1", "app#d2", "app#d3"][name], order);
            match model {
                Some(id) => route.model.as_mut().unwrap().id = id.to_owned(),
                None => route.model = None,
            }
            route.route_prefix = prefix.map(str::to_owned);
            route.is_ingress = is_ingress;
            route
        })
    }

    /// All that can be asked of a table.
    fn answers(router: &Router) -> impl PartialEq + std::fmt::Debug + use<> {
        let mut found: Vec<Vec<String>> = Vec::new();
        for scope in ["/", "/p", "/p/q", ""] {
            let scope = match scope {
                "" => Scope::Everywhere,
                prefix => Scope::Prefix(prefix.to_owned()),
            };
            found.push(router.with_models(&scope, |models| {
                models.iter().map(|found| found.id().to_string()).collect()
            }));
            let names = ["x", "y", "z", "d0", "d1", "app#d2", "app#d3"];
            found.push(router.with_models(&scope, |models| {
                let find = |name| models.find(name).map(|found| found.id().to_string());
                names.into_iter().map(|name| format!("{:?}", find(name))).collect()
            }));
        }
        let named = |mount: Mount| (mount.prefix.to_string(), mount.ingress.id().to_string());
        let mut mounts: Vec<_> = router.mounts().into_iter().map(named).collect();
        mounts.extend(["/", "/p/x", "/p/q"].into_iter().filter_map(|p| router.mount(p)).map(named));
        let mut routes: Vec<_> =
            router.deployments().iter().map(|found| (*found.route()).clone()).collect();
        routes.sort_by_key(|route| route.deployment.clone());
        (found, mounts, routes)
    }

    proptest! {
        #[test]
        fn changes_one_by_one_lead_to_the_same_table_as_all_at_once(
            changes in prop::collection::vec(
                (
                    prop::collection::vec(some_route(), 0..3),
                    prop::collection::vec(prop::sample::select(vec!["d0", "d1", "app#d2"]), 0..2),
                    prop::bool::weighted(0.1),
                ),
                0..12,
            )
        ) {
            let stepwise = unlinked();
            let mut model = BTreeMap::new();
            for (mut routes, mut removed, is_complete) in changes {
                // Each is named once.
                routes.sort_by_key(|route| route.deployment.clone());
                routes.dedup_by_key(|route| route.deployment.clone());
                if is_complete {
                    model.clear();
                }
                removed.retain(|id| routes.iter().all(|r| r.deployment.to_string() != *id));
                for id in removed.iter().filter(|_| !is_complete) {
                    model.remove(*id);
                }
                model.extend(routes.iter().map(|r| (r.deployment.to_string(), r.clone())));
                stepwise.apply(RouteTable { is_complete, ..delta(routes, &removed) });
            }
            let at_once = unlinked();
            at_once.apply(table(model.into_values().collect()));
            prop_assert_eq!(answers(&stepwise), answers(&at_once));
        }
    }
}
