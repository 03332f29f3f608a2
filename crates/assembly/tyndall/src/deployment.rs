//! What a deployment is: a type of yours, one value of which lives in each replica.

use crate::application::Bound;
use crate::context::ReplicaContext;
use crate::error::{Error, Result};
use crate::methods::Methods;
use crate::options::DeploymentOptions;
use axum::Router;
use futures_util::{Stream, stream};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::future::Future;
use std::sync::Arc;

/// A deployment: a type of yours, one value of which lives in each of its replicas.
///
/// Life of that value: 1. [`start`](Self::start) makes it; 2. [`reconfigure`](Self::reconfigure)
/// gets the `user_config`, if there is one; 3. [`check_health`](Self::check_health) must pass once
/// before the replica takes requests; 4. calls and HTTP requests come in, at most
/// `max_ongoing_requests` at a time, all through `&self`; 5. the replica is told to end, finishes
/// what it has, and [`stop`](Self::stop) is called.
///
/// A caller that goes away drops the future of its call, wherever it waits; so `call` must be safe
/// to drop at any `await`. A panic is an error of that call, not the end of the replica. Work that
/// computes for long belongs on `tokio::task::spawn_blocking`: the replica has as many threads as
/// CPUs, one by default, and the calls beside it wait. Where it has one, the runtime is one of the
/// current thread, on which `block_in_place` panics.
///
/// ```
/// use tyndall::{Deployment, ReplicaContext, Result};
///
/// struct Double;
///
/// impl Deployment for Double {
///     type Init = ();
///     type Request = f64;
///     type Response = f64;
///
///     async fn start(_init: (), _context: ReplicaContext) -> Result<Self> {
///         Ok(Self)
///     }
///
///     async fn call(&self, request: f64) -> Result<f64> {
///         Ok(request * 2.0)
///     }
/// }
/// ```
pub trait Deployment: Sized + Send + Sync + 'static {
    /// What a replica is made from; it may hold [`Handle`](crate::Handle)s of other deployments.
    /// It reaches the replica's process as JSON.
    type Init: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What a call takes.
    type Request: Serialize + DeserializeOwned + Send + 'static;
    /// What a call gives; also each item of a stream.
    type Response: Serialize + DeserializeOwned + Send + 'static;

    /// Makes a replica's value.
    ///
    /// # Errors
    /// Any: the replica ends and is started again, `max_constructor_retry_count` times in a row.
    fn start(
        init: Self::Init,
        context: ReplicaContext,
    ) -> impl Future<Output = Result<Self>> + Send;

    /// Answers a call.
    ///
    /// # Errors
    /// Reaches the caller as it is; see [`Error::user`].
    fn call(&self, request: Self::Request) -> impl Future<Output = Result<Self::Response>> + Send;

    /// Answers a call of [`Handle::stream`](crate::Handle::stream), item by item.
    fn stream(
        self: Arc<Self>,
        _request: Self::Request,
    ) -> impl Stream<Item = Result<Self::Response>> + Send + 'static {
        stream::iter([Err(Error::invalid_request(
            "Method 'stream' did not return a generator. The deployment streams nothing; call it \
             with remote()",
        ))])
    }

    /// Further methods, which [`Handle::method`](crate::Handle::method) calls by name.
    #[must_use]
    fn methods() -> Methods<Self> {
        Methods::new()
    }

    /// Answers HTTP, when this deployment is the ingress. By default the body is the request of
    /// [`call`](Self::call), and its response the answer: see
    /// [`http::default_router`](crate::http::default_router).
    fn router(self: Arc<Self>) -> Router {
        crate::http::default_router(self)
    }

    /// Takes the option `user_config`: after the start if there is one, and whenever it changes,
    /// while calls go on.
    ///
    /// # Errors
    /// By default any `user_config` is refused; one that is refused at the start fails the start.
    fn reconfigure(&self, _user_config: Value) -> impl Future<Output = Result<()>> + Send {
        async {
            Err(Error::user(
                "user_config is set, but the deployment has no `reconfigure`; add it, or leave \
                 user_config out",
            ))
        }
    }

    /// Called before the replica takes requests, and every `health_check_period_s`.
    ///
    /// # Errors
    /// Any: after three in a row the replica is replaced.
    fn check_health(&self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// Called once at an orderly end, after the last request.
    fn stop(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Its options where nothing else is said: the type's name, and Ray's defaults.
    #[must_use]
    fn options() -> DeploymentOptions {
        DeploymentOptions::new(short_name(std::any::type_name::<Self>()))
    }

    /// Puts it into an application, with [`Self::options`]. Each call makes another deployment.
    #[must_use]
    fn bind(init: Self::Init) -> Bound<Self> {
        Self::bind_with(Self::options(), init)
    }

    /// Puts it into an application with these options. Each call makes another deployment.
    #[must_use]
    fn bind_with(options: DeploymentOptions, init: Self::Init) -> Bound<Self> {
        Bound::new(options, init)
    }
}

/// The type's own name, without its path and its parameters.
fn short_name(path: &str) -> &str {
    let path = path.split('<').next().unwrap_or(path);
    path.rsplit("::").next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::short_name;

    #[test]
    fn types_give_their_own_name() {
        for (path, name) in [("a::b::Echo", "Echo"), ("Echo", "Echo"), ("a::E<b::C<d::F>>", "E")] {
            assert_eq!(short_name(path), name);
        }
    }
}
