//! Deployments whose code is in another language: what a binding to that language needs.
//!
//! The process belongs to the language: its program says its deployments as
//! [`Described`](crate::Described) by its own means, and for `role replica` it calls [`replica`]
//! on a thread beside its own. From there this library carries sockets, admission, health, draining
//! and the calls to other deployments; a [`Foreign`] carries out what arrives.

use crate::caller::Caller;
use crate::context::{self, ReplicaContext, RequestContext, Scope};
use crate::error::Result;
pub use crate::held::ModelsOfPart;
use crate::program;
pub use crate::program::ReplicaStart;
use crate::servant::Servant;
use crate::websocket::Handshake;
use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use tyndall_types::ApplicationName;
use tyndall_types::protocol::RuntimeDir;

/// A replica's value, in another language. Bodies and items are in
/// [`Encoding::Opaque`](crate::Encoding::Opaque).
///
/// Whoever ends a call drops its future, or its stream: the code of the call is to be cancelled
/// then.
pub trait Foreign: Send + Sync + 'static {
    /// Calls a method that gives one response.
    fn call(
        &self,
        method: &str,
        body: Bytes,
        request: RequestContext,
    ) -> BoxFuture<'static, Result<Bytes>>;

    /// Calls a method that gives a stream.
    fn stream(
        &self,
        method: &str,
        body: Bytes,
        request: RequestContext,
    ) -> BoxStream<'static, Result<Bytes>>;

    /// Answers HTTP. The prefix of the application is off the path;
    /// [`OriginalUri`](axum::extract::OriginalUri) has the whole.
    fn http(&self, request: Request, context: RequestContext) -> BoxFuture<'static, Response>;

    /// Answers a handshake of WebSockets, which is off the request. An answer that
    /// [`Handshake::accept`] did not make refuses it. Once it is accepted, nobody drops anything
    /// when the client goes away: the [`Receiver`](crate::websocket::Receiver) says so.
    fn websocket(
        &self,
        request: Request,
        handshake: Handshake,
        context: RequestContext,
    ) -> BoxFuture<'static, Response>;

    /// Takes a new `user_config`.
    fn reconfigure(&self, user_config: Value) -> BoxFuture<'_, Result<()>>;

    /// Whether it is well.
    fn check_health(&self) -> BoxFuture<'_, Result<()>>;

    /// Metrics that the code keeps by itself, as a page of Prometheus's text form. It becomes part of
    /// the replica's page.
    fn metrics(&self) -> BoxFuture<'_, String> {
        std::future::ready(String::new()).boxed()
    }

    /// Called once when the replica begins to end: no request comes any more, and those that it has go
    /// on.
    fn leave(&self) {}

    /// Called once at an orderly end, after the last request.
    fn stop(&self) -> BoxFuture<'_, ()>;
}

/// Is a replica until it is told to end; `words` are those after the program's name.
///
/// # Errors
/// One line for standard error, or nothing where the log or the controller has been told.
pub fn replica<F>(words: impl Iterator<Item = String>, start: F) -> Result<(), Option<String>>
where
    F: FnOnce(ReplicaStart) -> BoxFuture<'static, Result<Arc<dyn Foreign>>> + Send + 'static,
{
    program::replica(words, move |started: ReplicaStart| {
        let own = started.context.clone();
        let starting = start(started);
        async move { Ok(Arc::new(Adapter::new(starting.await?, own)) as Arc<dyn Servant>) }.boxed()
    })
}

/// The way from a process that is no replica to the deployments of a server of the same user.
///
/// # Panics
/// Outside of a tokio runtime, in which the links to the controller then live.
#[must_use]
pub fn connect(runtime_dir: PathBuf, name: &str, application: ApplicationName) -> Arc<dyn Caller> {
    let routes = program::Routes::outside(&RuntimeDir(runtime_dir), name, application);
    let routes = Arc::new(routes);
    tokio::spawn(routes.clone().run());
    routes.connected();
    routes
}

/// What holds where code of the language runs that Rust knows nothing of: the replica, if there is
/// one.
#[derive(Debug, Clone, Default)]
pub struct Scoped {
    replica: Option<ReplicaContext>,
}

impl Scoped {
    /// In a replica.
    #[must_use]
    pub fn of_replica(replica: ReplicaContext) -> Self {
        Self { replica: Some(replica) }
    }

    /// Which replica; none outside of one.
    #[must_use]
    pub fn replica(&self) -> Option<&ReplicaContext> {
        self.replica.as_ref()
    }

    /// Does something there, outside of requests.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        self.scope(Arc::default()).enter(work)
    }

    /// Does something there, for a request.
    pub fn run<F: Future>(
        &self,
        request: Arc<RequestContext>,
        work: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        self.scope(request).run(work)
    }

    fn scope(&self, request: Arc<RequestContext>) -> Scope {
        Scope { request, replica: self.replica.clone() }
    }
}

/// A [`Foreign`] as the life of a replica has it.
pub(crate) struct Adapter {
    this: Arc<dyn Foreign>,
    scoped: Scoped,
    router: Router,
}

impl Adapter {
    pub(crate) fn new(this: Arc<dyn Foreign>, context: ReplicaContext) -> Self {
        let answering = this.clone();
        let router = Router::new().fallback(move |mut request: Request| {
            let context = context::request().map(|context| (*context).clone());
            let context = context.unwrap_or_default();
            match Handshake::take(&mut request) {
                None => answering.http(request, context),
                Some(Ok(handshake)) => answering.websocket(request, handshake, context),
                Some(Err(refused)) => std::future::ready(refused).boxed(),
            }
        });
        Self { this, scoped: Scoped::of_replica(context), router }
    }
}

impl Servant for Adapter {
    fn call(
        &self,
        method: &str,
        body: Bytes,
        request: RequestContext,
    ) -> BoxFuture<'static, Result<Bytes>> {
        self.this.call(method, body, request)
    }

    fn stream(
        &self,
        method: &str,
        body: Bytes,
        request: RequestContext,
    ) -> BoxStream<'static, Result<Bytes>> {
        self.this.stream(method, body, request)
    }

    fn router(&self) -> Router {
        self.router.clone()
    }

    fn scope(&self, request: RequestContext) -> Scope {
        self.scoped.scope(Arc::new(request))
    }

    fn reconfigure(&self, user_config: Value) -> BoxFuture<'_, Result<()>> {
        self.this.reconfigure(user_config)
    }

    fn check_health(&self) -> BoxFuture<'_, Result<()>> {
        self.this.check_health()
    }

    fn metrics(&self) -> BoxFuture<'_, String> {
        self.this.metrics()
    }

    fn leave(&self) {
        self.this.leave();
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        self.this.stop()
    }
}
