//! The methods of a deployment by name, from JSON to JSON.

use crate::deployment::Deployment;
use crate::error::{Error, Result};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// The name of [`Deployment::call`] among the methods.
pub(crate) const CALL: &str = "call";

/// The name of [`Deployment::stream`] among the methods.
pub(crate) const STREAM: &str = "stream";

type CallFn<D> = Arc<dyn Fn(Arc<D>, Bytes) -> BoxFuture<'static, Result<Bytes>> + Send + Sync>;
type StreamFn<D> = Arc<dyn Fn(Arc<D>, Bytes) -> BoxStream<'static, Result<Bytes>> + Send + Sync>;

enum Method<D> {
    Call(CallFn<D>),
    Stream(StreamFn<D>),
}

/// Further methods of a deployment, by name.
///
/// ```
/// # use tyndall::{Deployment, Methods, ReplicaContext, Result};
/// # use std::sync::Arc;
/// # struct Ranker;
/// impl Ranker {
///     async fn rerank(&self, words: Vec<String>) -> Result<Vec<usize>> {
///         Ok(words.iter().map(String::len).collect())
///     }
/// }
///
/// # impl Deployment for Ranker {
/// #     type Init = ();
/// #     type Request = ();
/// #     type Response = ();
/// #     async fn start(_: (), _: ReplicaContext) -> Result<Self> { Ok(Self) }
/// #     async fn call(&self, _: ()) -> Result<()> { Ok(()) }
/// fn methods() -> Methods<Self> {
///     Methods::new()
///         .call("rerank", |this: Arc<Self>, words| async move { this.rerank(words).await })
/// }
/// # }
/// ```
pub struct Methods<D> {
    by_name: BTreeMap<String, Method<D>>,
}

impl<D> Default for Methods<D> {
    fn default() -> Self {
        Self { by_name: BTreeMap::new() }
    }
}

impl<D> std::fmt::Debug for Methods<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}

impl<D: Send + Sync + 'static> Methods<D> {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a method that gives one response. `call` and `stream` are the deployment's own: a
    /// method of such a name is never reached.
    #[must_use]
    pub fn call<Q, R, F, Fut>(mut self, name: impl Into<String>, method: F) -> Self
    where
        Q: DeserializeOwned,
        R: Serialize,
        F: Fn(Arc<D>, Q) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R>> + Send + 'static,
    {
        let erased = move |this: Arc<D>, body: Bytes| {
            let working = parse(&body).map(|request| method(this, request));
            async move { write(&working?.await?) }.boxed()
        };
        self.by_name.insert(name.into(), Method::Call(Arc::new(erased)));
        self
    }

    /// Adds a method that gives a stream.
    #[must_use]
    pub fn stream<Q, R, F, S>(mut self, name: impl Into<String>, method: F) -> Self
    where
        Q: DeserializeOwned,
        R: Serialize,
        F: Fn(Arc<D>, Q) -> S + Send + Sync + 'static,
        S: Stream<Item = Result<R>> + Send + 'static,
    {
        let erased = move |this: Arc<D>, body: Bytes| match parse(&body) {
            Ok(request) => method(this, request).map(|item| write(&item?)).boxed(),
            Err(error) => failed(error),
        };
        self.by_name.insert(name.into(), Method::Stream(Arc::new(erased)));
        self
    }
}

impl<D: Deployment> Methods<D> {
    /// The deployment's further methods, and the two that each has.
    pub(crate) fn of() -> Self {
        D::methods()
            .call(CALL, |this: Arc<D>, request| async move { this.call(request).await })
            .stream(STREAM, |this: Arc<D>, request| this.stream(request))
    }

    /// Calls a method that gives one response. A panic in it is an error.
    pub(crate) fn invoke(
        &self,
        this: &Arc<D>,
        name: &str,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes>> {
        let method = match self.by_name.get(name) {
            Some(Method::Call(method)) => method.clone(),
            Some(Method::Stream(_)) => {
                return std::future::ready(Err(Error::invalid_request(format!(
                    "Method '{name}' returned a generator. You must use `handle.stream(request)` \
                     to call generators on a deployment."
                ))))
                .boxed();
            }
            None => return std::future::ready(Err(self.unknown(name))).boxed(),
        };
        let this = this.clone();
        let work = async move { method(this, body).await };
        let caught = AssertUnwindSafe(work).catch_unwind();
        caught.map(|done| done.unwrap_or_else(|panic| Err(Error::panicked(&*panic)))).boxed()
    }

    /// Calls a method that gives a stream. A panic in it is an error, and the stream's end.
    pub(crate) fn invoke_stream(
        &self,
        this: &Arc<D>,
        name: &str,
        body: Bytes,
    ) -> BoxStream<'static, Result<Bytes>> {
        let method = match self.by_name.get(name) {
            Some(Method::Stream(method)) => method.clone(),
            Some(Method::Call(_)) => {
                return failed(Error::invalid_request(format!(
                    "Method '{name}' did not return a generator. Call it with remote()"
                )));
            }
            None => return failed(self.unknown(name)),
        };
        let this = this.clone();
        // The method is called at the first poll, where its context is at hand.
        let work = stream::once(async move { method(this, body) }).flatten();
        AssertUnwindSafe(work)
            .catch_unwind()
            .map(|item| item.unwrap_or_else(|panic| Err(Error::panicked(&*panic))))
            .boxed()
    }

    fn unknown(&self, name: &str) -> Error {
        let known: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
        Error::invalid_request(format!(
            "Tried to call a method '{name}' that does not exist. Available methods: {known:?}."
        ))
    }
}

fn failed<T: Send + 'static>(error: Error) -> BoxStream<'static, Result<T>> {
    stream::iter([Err(error)]).boxed()
}

/// JSON → a request.
fn parse<Q: DeserializeOwned>(body: &[u8]) -> Result<Q> {
    serde_json::from_slice(body).map_err(|error| {
        Error::invalid_request(format!(
            "the body is not a request of this method: {error}; send what its request type says"
        ))
    })
}

/// A response → JSON.
pub(crate) fn write<R: Serialize>(response: &R) -> Result<Bytes> {
    let json = serde_json::to_vec(response).map_err(|error| {
        Error::user(format!("the response cannot be JSON: {error}; use string keys in maps"))
    })?;
    Ok(json.into())
}
