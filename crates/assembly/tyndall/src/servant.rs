//! A replica's value without its type.

use crate::context::{ReplicaContext, RequestContext, Scope};
use crate::deployment::Deployment;
use crate::error::{Error, Result};
use crate::methods::Methods;
use axum::Router;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, Stream, StreamExt};
use serde_json::Value;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// What a replica does, whatever deployment it is of. Requests are JSON, and so are responses.
pub(crate) trait Servant: Send + Sync + 'static {
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

    /// Answers HTTP.
    fn router(&self) -> Router;

    /// What holds in a request.
    fn scope(&self, request: RequestContext) -> Scope;

    /// [`Deployment::reconfigure`].
    fn reconfigure(&self, user_config: Value) -> BoxFuture<'_, Result<()>>;

    /// [`Deployment::check_health`].
    fn check_health(&self) -> BoxFuture<'_, Result<()>>;

    /// A page of metrics of its own, which may be empty.
    fn metrics(&self) -> BoxFuture<'_, String> {
        std::future::ready(String::new()).boxed()
    }

    /// The replica begins to end.
    fn leave(&self) {}

    /// [`Deployment::stop`].
    fn stop(&self) -> BoxFuture<'_, ()>;
}

/// A deployment's value, its methods and its context.
struct Host<D> {
    this: Arc<D>,
    methods: Methods<D>,
    router: Router,
    context: ReplicaContext,
}

/// Starts a replica's value, with its `user_config` if there is one, and checks its health.
pub(crate) async fn start<D: Deployment>(
    init: D::Init,
    context: ReplicaContext,
    user_config: Value,
) -> Result<Arc<dyn Servant>> {
    let scope = Scope { request: Arc::default(), replica: Some(context.clone()) };
    let work = async {
        let this = D::start(init, context.clone()).await?;
        if !user_config.is_null() {
            this.reconfigure(user_config).await?;
        }
        this.check_health().await?;
        let this = Arc::new(this);
        Ok((this.clone(), this.router()))
    };
    let started = AssertUnwindSafe(scope.run(work)).catch_unwind().await;
    let (this, router) = started.unwrap_or_else(|panic| Err(Error::panicked(&*panic)))?;
    Ok(Arc::new(Host { this, methods: Methods::of(), router, context }))
}

impl<D: Deployment> Servant for Host<D> {
    fn call(
        &self,
        method: &str,
        body: Bytes,
        request: RequestContext,
    ) -> BoxFuture<'static, Result<Bytes>> {
        self.scope(request).run(self.methods.invoke(&self.this, method, body)).boxed()
    }

    fn stream(
        &self,
        method: &str,
        body: Bytes,
        request: RequestContext,
    ) -> BoxStream<'static, Result<Bytes>> {
        let items = self.methods.invoke_stream(&self.this, method, body);
        Scoped { items, scope: self.scope(request) }.boxed()
    }

    fn router(&self) -> Router {
        self.router.clone()
    }

    fn scope(&self, request: RequestContext) -> Scope {
        Scope { request: Arc::new(request), replica: Some(self.context.clone()) }
    }

    fn reconfigure(&self, user_config: Value) -> BoxFuture<'_, Result<()>> {
        let scope = self.scope(RequestContext::default());
        let work = AssertUnwindSafe(scope.run(self.this.reconfigure(user_config))).catch_unwind();
        work.map(|done| done.unwrap_or_else(|panic| Err(Error::panicked(&*panic)))).boxed()
    }

    fn check_health(&self) -> BoxFuture<'_, Result<()>> {
        let scope = self.scope(RequestContext::default());
        let work = AssertUnwindSafe(scope.run(self.this.check_health())).catch_unwind();
        work.map(|done| done.unwrap_or_else(|panic| Err(Error::panicked(&*panic)))).boxed()
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        let scope = self.scope(RequestContext::default());
        let work = AssertUnwindSafe(scope.run(self.this.stop())).catch_unwind();
        work.map(|done| {
            if let Err(panic) = done {
                tracing::error!(error = %Error::panicked(&*panic), "failed to stop the deployment");
            }
        })
        .boxed()
    }
}

/// A stream that is polled in its request's scope.
struct Scoped {
    items: BoxStream<'static, Result<Bytes>>,
    scope: Scope,
}

impl Stream for Scoped {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { items, scope } = &mut *self;
        scope.enter(|| items.poll_next_unpin(cx))
    }
}
