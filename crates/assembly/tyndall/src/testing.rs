//! Local testing mode: an application in this process, without sockets.
//!
//! ```
//! # use tyndall::{Application, Deployment, ReplicaContext, Result};
//! # struct Echo;
//! # impl Deployment for Echo {
//! #     type Init = ();
//! #     type Request = String;
//! #     type Response = String;
//! #     async fn start(_: (), _: ReplicaContext) -> Result<Self> { Ok(Self) }
//! #     async fn call(&self, request: String) -> Result<String> { Ok(request) }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! let local = tyndall::testing::start(&Echo::bind(()).into()).await?;
//! assert_eq!(local.handle::<Echo>().remote("hello".into()).await?, "hello");
//! # local.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! Each deployment has one replica. Requests and responses go through JSON as they do between
//! processes, and `max_ongoing_requests`, `max_queued_requests` and `user_config` hold.

use crate::application::{Application, Built};
use crate::caller::{AnswerKind, Call, Caller, Part, Reservation};
use crate::context::{ReplicaContext, ReplicaFacts, RequestContext};
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::http;
use crate::kept::Kept;
use crate::servant::Servant;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tyndall_telemetry::{ProgramLabels, ProgramMetrics};
use tyndall_types::protocol::{DeploymentConfig, ProgramConfig};
use tyndall_types::{ApplicationName, ReplicaId};

/// Starts an application in this process: each deployment after those that it calls.
///
/// # Errors
/// [`Error::InvalidOptions`], or what a deployment's start failed with.
///
/// # Cancel safety
/// Dropping the future drops what was started.
pub async fn start(application: &Application) -> Result<Local> {
    let built = application.build()?;
    let application = ApplicationName::new("default").expect("the word is a usable name");
    let local = Local {
        ingress: built.ingress().name.clone(),
        replicas: Arc::default(),
        stop_order: callers_first(&built),
    };
    for part in built.callees_first() {
        let program = ProgramConfig {
            executable: std::path::PathBuf::new(),
            deployment: part.name.clone(),
            init: Value::Null,
            ..ProgramConfig::default()
        };
        let mut config = part.options().resolve(&application, program)?;
        let facts = ReplicaFacts {
            held: Arc::default(),
            metadata: Arc::default(),
            application: application.clone(),
            deployment: part.name.clone(),
            replica_id: ReplicaId::new(format!("local-{}", part.name)),
            max_ongoing_requests: config.max_ongoing_requests,
            rank: 0,
            gang: None,
            metrics: Arc::new(metrics(&application, &part.name)),
        };
        let context = ReplicaContext { facts: Arc::new(facts) };
        let user_config = std::mem::take(&mut config.user_config);
        let caller = Arc::new(local.caller());
        let servant = part.start(part.init.clone(), caller, context, user_config).await?;
        let replica = Replica { servant, admission: Admission::new(&config) };
        local.replicas.insert(part.name.clone(), Arc::new(replica));
    }
    Ok(local)
}

/// Nobody reads them; what runs here counts as it does in a replica.
fn metrics(application: &ApplicationName, deployment: &str) -> ProgramMetrics {
    ProgramMetrics::new(ProgramLabels {
        application: application.to_string(),
        deployment: deployment.to_owned(),
        replica: format!("local-{deployment}"),
    })
}

/// A place among those that work.
impl http::Held for OwnedSemaphorePermit {}

fn callers_first(built: &Built) -> Vec<String> {
    let mut names: Vec<String> = built.callees_first().map(|part| part.name.clone()).collect();
    names.reverse();
    names
}

/// An application that runs in this process. Dropping it ends it at once.
pub struct Local {
    ingress: String,
    replicas: Arc<Replicas>,
    stop_order: Vec<String>,
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Local").field(&self.ingress).finish()
    }
}

impl Local {
    /// A handle of the ingress, which is a `D`; it works as long as the application runs.
    #[must_use]
    pub fn handle<D>(&self) -> Handle<D> {
        self.handle_of(self.ingress.clone())
    }

    /// A handle of a deployment by its name in the application.
    #[must_use]
    pub fn handle_of<D>(&self, deployment: impl Into<String>) -> Handle<D> {
        Handle::connected(deployment.into(), Arc::new(self.caller()))
    }

    /// Answers an HTTP request as the ingress does. Dropping the answer cancels what works for it.
    pub async fn http(&self, request: Request) -> Response {
        let found = self.replicas.find(&self.ingress);
        let admitted = async {
            let replica = found?;
            let slot = replica.admission.enter().await?;
            Ok::<_, Error>((replica, slot))
        };
        match admitted.await {
            Ok((replica, slot)) => {
                let context = RequestContext::from_headers(request.headers());
                let scope = replica.servant.scope(context);
                http::serve(replica.servant.router(), request, scope, slot).await
            }
            Err(error) => error.into_response(),
        }
    }

    /// Hands a deployment another `user_config`.
    ///
    /// # Errors
    /// What the deployment says, or that there is none of that name.
    pub async fn reconfigure(&self, deployment: &str, user_config: Value) -> Result<()> {
        self.replicas.find(deployment)?.servant.reconfigure(user_config).await
    }

    /// Asks a deployment for its health.
    ///
    /// # Errors
    /// What the deployment says, or that there is none of that name.
    pub async fn check_health(&self, deployment: &str) -> Result<()> {
        self.replicas.find(deployment)?.servant.check_health().await
    }

    /// Waits for the requests of each deployment and stops it, callers before those that they call.
    pub async fn shutdown(self) {
        for name in &self.stop_order {
            if let Ok(replica) = self.replicas.find(name) {
                replica.admission.drain().await;
                replica.servant.stop().await;
            }
        }
    }

    fn caller(&self) -> LocalCaller {
        LocalCaller { replicas: Arc::downgrade(&self.replicas) }
    }
}

/// The replicas of the process, by deployment.
#[derive(Default)]
struct Replicas(RwLock<HashMap<String, Arc<Replica>>>);

impl Replicas {
    fn insert(&self, deployment: String, replica: Arc<Replica>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(deployment, replica);
    }

    fn find(&self, deployment: &str) -> Result<Arc<Replica>> {
        let replicas = self.0.read().unwrap_or_else(PoisonError::into_inner);
        replicas.get(deployment).cloned().ok_or_else(|| Error::DeploymentUnavailable {
            deployment: deployment.to_owned(),
            reason: "it is not part of the application".to_owned(),
            retry_after_s: None,
        })
    }
}

struct Replica {
    servant: Arc<dyn Servant>,
    admission: Admission,
}

/// Calls the deployments of this process. It does not keep them: they hold handles that hold it.
struct LocalCaller {
    replicas: Weak<Replicas>,
}

impl LocalCaller {
    fn find(&self, deployment: &str) -> Result<Arc<Replica>> {
        let Some(replicas) = self.replicas.upgrade() else {
            return Err(Error::DeploymentUnavailable {
                deployment: deployment.to_owned(),
                reason: "the application has ended".to_owned(),
                retry_after_s: None,
            });
        };
        replicas.find(deployment)
    }
}

impl Caller for LocalCaller {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes>> {
        let found = self.find(&call.deployment);
        async move {
            let replica = found?;
            let _slot = replica.admission.enter().await?;
            replica.servant.call(&call.method, call.body, call.context).await
        }
        .boxed()
    }

    fn stream(&self, call: Call) -> BoxStream<'static, Result<Bytes>> {
        let found = self.find(&call.deployment);
        let calling = async move {
            let entered = async {
                let replica = found?;
                let slot = replica.admission.enter().await?;
                Ok::<_, Error>((replica, slot))
            };
            match entered.await {
                Ok((replica, slot)) => items(&replica, slot, call),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        stream::once(calling).flatten().boxed()
    }

    fn reserve(
        &self,
        call: Call,
        _: AnswerKind,
    ) -> BoxFuture<'static, Result<Box<dyn Reservation>>> {
        let found = self.find(&call.deployment);
        async move {
            let replica = found?;
            let slot = replica.admission.enter().await?;
            let slot = Kept::until(call.context.deadline, slot);
            let id = format!("local-{}", call.deployment);
            let reserved = Reserved { id, replica, slot, call, begun: Instant::now() };
            Ok(Box::new(reserved) as Box<dyn Reservation>)
        }
        .boxed()
    }

    fn broadcast(&self, call: Call) -> BoxFuture<'static, Result<Vec<Part>>> {
        let found = self.find(&call.deployment);
        async move {
            let replica = found?;
            let part = async move {
                let _slot = replica.admission.enter_in_turn().await;
                Some(replica.servant.call(&call.method, call.body, call.context).await)
            };
            Ok(vec![part.boxed()])
        }
        .boxed()
    }
}

/// The items of a call; the slot is given back with the last one.
fn items(
    replica: &Replica,
    slot: OwnedSemaphorePermit,
    call: Call,
) -> BoxStream<'static, Result<Bytes>> {
    let items = replica.servant.stream(&call.method, call.body, call.context);
    stream::unfold((items, slot), |(mut items, slot)| async move {
        Some((items.next().await?, (items, slot)))
    })
    .boxed()
}

/// A slot that is kept for a call.
struct Reserved {
    id: String,
    replica: Arc<Replica>,
    slot: Kept<OwnedSemaphorePermit>,
    call: Call,
    begun: Instant,
}

impl Reserved {
    fn slot(&self) -> Result<OwnedSemaphorePermit> {
        self.slot.take().ok_or_else(|| Error::timeout(&self.call.context, self.begun))
    }
}

impl Reservation for Reserved {
    fn replica(&self) -> &str {
        &self.id
    }

    fn call(self: Box<Self>, body: Bytes) -> BoxFuture<'static, Result<Bytes>> {
        async move {
            let _slot = self.slot()?;
            let Self { replica, call, .. } = *self;
            replica.servant.call(&call.method, body, call.context).await
        }
        .boxed()
    }

    fn stream(self: Box<Self>, body: Bytes) -> BoxStream<'static, Result<Bytes>> {
        match self.slot() {
            Ok(slot) => {
                let Self { replica, call, .. } = *self;
                items(&replica, slot, Call { body, ..call })
            }
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }
}

/// Who may work, and who may wait.
struct Admission {
    slots: Arc<Semaphore>,
    max_ongoing: u32,
    queued: AtomicU32,
    max_queued: u32,
    status_code: u16,
    retry_after_s: Option<f64>,
}

/// A request that waits.
struct Queued<'a>(&'a AtomicU32);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    fn new(config: &DeploymentConfig) -> Self {
        // A semaphore has fewer places than a u32 on a small machine, and none has so many requests.
        let max_ongoing = config.max_ongoing_requests.min(1 << 28);
        Self {
            slots: Arc::new(Semaphore::new(max_ongoing as usize)),
            max_ongoing,
            queued: AtomicU32::new(0),
            max_queued: config.max_queued_requests,
            status_code: config.backpressure.status_code,
            retry_after_s: config.backpressure.retry_after_s,
        }
    }

    /// Waits for a slot, in the order of arrival.
    async fn enter(&self) -> Result<OwnedSemaphorePermit> {
        if let Ok(slot) = self.slots.clone().try_acquire_owned() {
            return Ok(slot);
        }
        let before = self.queued.fetch_add(1, Ordering::Relaxed);
        let _queued = Queued(&self.queued);
        if before >= self.max_queued {
            return Err(Error::BackPressure {
                num_queued_requests: before,
                max_queued_requests: self.max_queued,
                status_code: self.status_code,
                retry_after_s: self.retry_after_s,
            });
        }
        Ok(self.enter_in_turn().await)
    }

    /// Waits for a slot, however many do.
    async fn enter_in_turn(&self) -> OwnedSemaphorePermit {
        self.slots.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Waits for all slots.
    async fn drain(&self) {
        drop(self.slots.acquire_many(self.max_ongoing).await);
    }
}
