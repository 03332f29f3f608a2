//! What requests share: the router, the keys, and how far the proxy's end has come.

use crate::access::{Access, KeySources};
use crate::caller::Caller;
use crate::kept::Kept;
use crate::tally::Tally;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tyndall_openai::ApiError;
use tyndall_router::{Deployment, Models, Router, Scope};
use tyndall_telemetry::ProxyMetrics;
use tyndall_transport::Client;
use tyndall_types::protocol::{ModelRoute, ModelTask};

/// How long a request waits for the first route table of a proxy that has just started.
const FIRST_TABLE: Duration = Duration::from_secs(5);

/// The state of a proxy.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) router: Router,
    /// Answers that later requests can go on from.
    pub(crate) kept: Kept,
    pub(crate) access: Access,
    pub(crate) tally: Arc<Tally>,
    /// True when the drain time is over: everything ends.
    is_cut: watch::Sender<bool>,
    is_draining: AtomicBool,
}

impl Shared {
    pub(crate) fn new(controller: Client, id: String, keys: KeySources) -> Self {
        let tally = Arc::new(Tally::new(&id));
        let router = Router::new(controller, id);
        Self {
            access: Access::new(keys, router.metrics().clone(), tally.clone()),
            tally,
            router,
            kept: Kept::default(),
            is_cut: watch::Sender::new(false),
            is_draining: AtomicBool::new(false),
        }
    }

    pub(crate) fn metrics(&self) -> &Arc<ProxyMetrics> {
        self.router.metrics()
    }

    /// The deployment that serves a model; without a name the only one that the caller may use.
    pub(crate) fn find(
        &self,
        scope: &Scope,
        model: Option<&str>,
        caller: &Caller,
    ) -> Result<Arc<Deployment>, ApiError> {
        self.router.with_models(scope, |models| find(models, model, caller))
    }

    /// The model that was deployed first of those that write text and that the caller may use, which
    /// `/generate` means; where none writes text, the first one.
    pub(crate) fn first(
        &self,
        scope: &Scope,
        caller: &Caller,
    ) -> Result<Arc<Deployment>, ApiError> {
        self.router.with_models(scope, |models| {
            let allowed = || models.iter().filter(|model| caller.may_use(model));
            match allowed().find(|model| writes(model)).or_else(|| allowed().next()) {
                Some(first) => Ok(first.clone()),
                None => Err(none_of(models, caller)),
            }
        })
    }

    /// Waits for the first table.
    pub(crate) async fn first_table(&self) -> Result<(), ApiError> {
        tokio::select! {
            () = self.router.ready() => Ok(()),
            () = self.is_cut() => Err(shuts_down()),
            () = tokio::time::sleep(FIRST_TABLE) => Err(ApiError::unavailable(
                "the proxy has no routes yet: its controller does not answer; try again",
            )),
        }
    }

    /// Nothing new is to come.
    pub(crate) fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// The drain time is over.
    pub(crate) fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// True when the drain time is over.
    pub(crate) fn cut_signal(&self) -> watch::Receiver<bool> {
        self.is_cut.subscribe()
    }

    /// Resolves when the drain time is over.
    pub(crate) fn is_cut(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut is_cut = self.is_cut.subscribe();
        async move { drop(is_cut.wait_for(|is_cut| *is_cut).await) }
    }
}

fn find(models: &Models, name: Option<&str>, caller: &Caller) -> Result<Arc<Deployment>, ApiError> {
    let mut allowed = models.iter().filter(|model| caller.may_use(model));
    let Some(name) = name else {
        return match (allowed.next(), allowed.next()) {
            (Some(only), None) => Ok(only.clone()),
            (None, _) => Err(none_of(models, caller)),
            (Some(_), Some(_)) => Err(ApiError::missing_model(&known(models, caller))),
        };
    };
    match models.find(name) {
        Some(deployment) if caller.may_use(deployment) => Ok(deployment.clone()),
        Some(_) => Err(caller.forbidden(name)),
        None => match known(models, caller) {
            known if known.is_empty() => Err(none_of(models, caller)),
            known => Err(ApiError::unknown_model(name, &known)),
        },
    }
}

/// The models that a caller may use.
fn known(models: &Models, caller: &Caller) -> Vec<String> {
    models.iter().filter(|model| caller.may_use(model)).flat_map(|model| names(model)).collect()
}

/// The names of a deployment's model, the public id first.
fn names(deployment: &Deployment) -> Vec<String> {
    let route = deployment.route();
    let model = route.model.iter();
    model.flat_map(|model| std::iter::once(&model.id).chain(&model.aliases)).cloned().collect()
}

/// A caller may use none of these.
fn none_of(models: &Models, caller: &Caller) -> ApiError {
    match models.first().and_then(|first| model_id(first)) {
        Some(first) => caller.forbidden(&first),
        None => no_model(),
    }
}

/// Whether a model writes text.
pub(crate) fn writes(deployment: &Deployment) -> bool {
    let is_writer = |model: &ModelRoute| model.task == ModelTask::Generate;
    deployment.route().model.as_ref().is_some_and(is_writer)
}

/// The public id of a deployment's model.
pub(crate) fn model_id(deployment: &Deployment) -> Option<String> {
    deployment.route().model.as_ref().map(|model| model.id.clone())
}

/// The drain time is over.
pub(crate) fn shuts_down() -> ApiError {
    ApiError::unavailable("the server shuts down before it could answer")
}

/// There is no model at all.
pub(crate) fn no_model() -> ApiError {
    ApiError::unknown_model::<&str>("", &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{route, table};
    use tyndall_types::protocol::DeploymentRoute;

    fn unlinked() -> Shared {
        Shared::new(Client::unix("/nowhere"), "test".to_owned(), KeySources::default())
    }

    #[test]
    fn models_are_found_by_id_by_name_or_by_being_alone() {
        let shared = unlinked();
        let anybody = &Caller::default();
        shared.router.apply(table(1, vec![route("a")]));
        assert_eq!(shared.find(&Scope::Everywhere, None, anybody).unwrap().id().to_string(), "a");
        let mut b = DeploymentRoute { order: 2, ..route("b") };
        b.model.as_mut().unwrap().id = "org/b".to_owned();
        shared.router.apply(table(1, vec![route("a"), b.clone()]));
        for asked in ["b", "org/b"] {
            assert_eq!(
                shared.find(&Scope::Everywhere, Some(asked), anybody).unwrap().id().to_string(),
                "b"
            );
        }
        let mut c = DeploymentRoute { order: 3, ..route("c") };
        c.model.as_mut().unwrap().aliases = vec!["gpt-4o".to_owned()];
        shared.router.apply(table(2, vec![c]));
        let found = shared.find(&Scope::Everywhere, Some("gpt-4o"), anybody).unwrap();
        assert_eq!(found.id().to_string(), "c");
        let error = shared.find(&Scope::Everywhere, Some("gpt-4"), anybody).unwrap_err();
        assert!(error.message.ends_with("did you mean gpt-4o?"), "{}", error.message);
        shared.router.apply(table(3, vec![route("a"), b]));
        let message = shared.find(&Scope::Everywhere, None, anybody).unwrap_err().message;
        assert_eq!(message, "model is missing; this server has a, org/b");
        assert_eq!(shared.find(&Scope::Everywhere, Some("c"), anybody).unwrap_err().status, 404);
        assert_eq!(unlinked().find(&Scope::Everywhere, None, anybody).unwrap_err().status, 404);
    }
}
