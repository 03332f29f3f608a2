//! Handles: the client side of calls between deployments.

use crate::application::{self, Node};
use crate::caller::{self, Call, Caller, Encoding};
use crate::context::RequestContext;
use crate::deployment::Deployment;
use crate::error::{Error, Result};
use crate::methods::{CALL, STREAM, write};
use crate::selection::{self, ReplicaSelection};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, stream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// Options of a handle's calls.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CallOptions {
    /// Seconds from the call to its whole answer; by default there is no end but that of the
    /// request that calls. A call that takes longer is cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<f64>,
    /// Which of a replica's models is meant. The choice of the replica does not depend on it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub multiplexed_model_id: String,
    /// The session that the callee is told. The choice of the replica does not depend on it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub session_id: String,
}

/// Calls a deployment.
///
/// It comes from [`Bound::handle`](crate::Bound::handle), goes into the `Init` of the deployment
/// that calls, and works when that deployment's replica has started: as JSON it is the name alone,
/// `{"deployment": "Ranker"}`. Clones are cheap.
pub struct Handle<D> {
    target: Target,
    options: CallOptions,
    deployment: PhantomData<fn() -> D>,
}

#[derive(Clone)]
pub(crate) enum Target {
    /// In an application that is being built.
    Bound(Arc<Node>),
    /// In a replica.
    Connected { deployment: String, caller: Arc<dyn Caller> },
    /// Read outside of a replica.
    Unconnected { deployment: String },
}

/// A handle as JSON.
#[derive(Serialize, Deserialize)]
struct Written {
    deployment: String,
    #[serde(default, skip_serializing_if = "is_default")]
    options: CallOptions,
}

fn is_default(options: &CallOptions) -> bool {
    *options == CallOptions::default()
}

impl<D> Clone for Handle<D> {
    fn clone(&self) -> Self {
        let (target, options) = (self.target.clone(), self.options.clone());
        Self { target, options, deployment: PhantomData }
    }
}

impl<D> fmt::Debug for Handle<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.target.name()).finish()
    }
}

impl<D> Handle<D> {
    pub(crate) fn bound(node: Arc<Node>) -> Self {
        Self::new(Target::Bound(node))
    }

    pub(crate) fn connected(deployment: String, caller: Arc<dyn Caller>) -> Self {
        Self::new(Target::Connected { deployment, caller })
    }

    fn new(target: Target) -> Self {
        Self { target, options: CallOptions::default(), deployment: PhantomData }
    }

    /// A handle with these options; this one stays as it is.
    #[must_use]
    pub fn options(&self, options: CallOptions) -> Self {
        Self { options, ..self.clone() }
    }

    /// The name of the deployment; before the application is built the one that was given.
    #[must_use]
    pub fn deployment_name(&self) -> &str {
        self.target.name()
    }

    /// One of the deployment's further [`Methods`](crate::Methods), which takes a `Q` and gives an
    /// `R`.
    #[must_use]
    pub fn method<Q, R>(&self, name: impl Into<String>) -> MethodHandle<Q, R> {
        MethodHandle {
            target: self.target.clone(),
            options: self.options.clone(),
            method: name.into(),
            kinds: PhantomData,
        }
    }
}

impl<D: Deployment> Handle<D> {
    /// Calls [`Deployment::call`]. The call begins at once; dropping the response cancels it.
    pub fn remote(&self, request: D::Request) -> Response<D::Response> {
        begin(&self.target, &self.options, CALL, &request)
    }

    /// Calls [`Deployment::stream`]. The call begins when the stream is first polled; dropping the
    /// stream cancels it.
    pub fn stream(&self, request: D::Request) -> ResponseStream<D::Response> {
        begin_stream(&self.target, &self.options, STREAM, &request)
    }

    /// Chooses a replica for one [`Deployment::call`], which keeps a place for it.
    ///
    /// # Errors
    /// What a call ends with that gets no replica.
    ///
    /// # Cancel safety
    /// Dropping the future gives the place back.
    pub async fn choose_replica(&self) -> Result<ReplicaSelection<D::Request, D::Response>> {
        selection::choose(&self.target, &self.options, CALL).await
    }

    /// Calls [`Deployment::call`] of every replica that runs, and gives what each has answered, in no
    /// order. Replicas that are full take it in its turn; no replica is woken.
    ///
    /// # Errors
    /// [`Error::DeploymentUnavailable`] where no replica runs; a call that fails is one of the answers.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the calls.
    pub async fn broadcast(&self, request: D::Request) -> Result<Vec<Result<D::Response>>> {
        selection::broadcast(&self.target, &self.options, CALL, &request).await
    }
}

/// A method of a deployment, by name.
pub struct MethodHandle<Q, R> {
    target: Target,
    options: CallOptions,
    method: String,
    kinds: PhantomData<fn(Q) -> R>,
}

impl<Q, R> fmt::Debug for MethodHandle<Q, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MethodHandle").field(&self.target.name()).field(&self.method).finish()
    }
}

impl<Q: Serialize, R: DeserializeOwned + Send + 'static> MethodHandle<Q, R> {
    /// As [`Handle::remote`].
    pub fn remote(&self, request: Q) -> Response<R> {
        begin(&self.target, &self.options, &self.method, &request)
    }

    /// As [`Handle::stream`].
    pub fn stream(&self, request: Q) -> ResponseStream<R> {
        begin_stream(&self.target, &self.options, &self.method, &request)
    }

    /// As [`Handle::choose_replica`].
    ///
    /// # Errors
    /// As [`Handle::choose_replica`].
    pub async fn choose_replica(&self) -> Result<ReplicaSelection<Q, R>> {
        selection::choose(&self.target, &self.options, &self.method).await
    }

    /// As [`Handle::broadcast`].
    ///
    /// # Errors
    /// As [`Handle::broadcast`].
    pub async fn broadcast(&self, request: Q) -> Result<Vec<Result<R>>> {
        selection::broadcast(&self.target, &self.options, &self.method, &request).await
    }
}

impl Target {
    fn name(&self) -> &str {
        match self {
            Self::Bound(node) => node.given_name(),
            Self::Connected { deployment, .. } | Self::Unconnected { deployment } => deployment,
        }
    }

    /// What is called, and how.
    pub(crate) fn prepare<Q: Serialize>(
        &self,
        options: &CallOptions,
        method: &str,
        request: &Q,
    ) -> Result<(Arc<dyn Caller>, Call)> {
        let Self::Connected { deployment, caller } = self else {
            return Err(Error::invalid_request(format!(
                "the handle of {:?} calls nobody: it works inside a replica that got it with its \
                 `init`",
                self.name()
            )));
        };
        let mut context = RequestContext::child();
        context.multiplexed_model_id.clone_from(&options.multiplexed_model_id);
        if !options.session_id.is_empty() {
            context.session_id.clone_from(&options.session_id);
        }
        let own = limit(options).and_then(|limit| Instant::now().checked_add(limit));
        context.deadline = own.into_iter().chain(context.deadline).min();
        let (deployment, method) = (deployment.clone(), method.to_owned());
        let call = Call {
            application: None,
            deployment,
            method,
            body: write(request)?,
            encoding: Encoding::Json,
            context,
        };
        Ok((caller.clone(), call))
    }
}

fn begin<Q: Serialize, R: DeserializeOwned + Send + 'static>(
    target: &Target,
    options: &CallOptions,
    method: &str,
    request: &Q,
) -> Response<R> {
    let (caller, call) = match target.prepare(options, method, request) {
        Ok(prepared) => prepared,
        Err(error) => return Response::failed(error),
    };
    let context = call.context.clone();
    spawn(&context, || caller.call(call))
}

/// The response of a call that begins now.
pub(crate) fn spawn<R: DeserializeOwned + Send + 'static>(
    context: &RequestContext,
    begin: impl FnOnce() -> BoxFuture<'static, Result<Bytes>>,
) -> Response<R> {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return Response::failed(Error::invalid_request(
            "a handle was called outside of a tokio runtime; call it in an async function",
        ));
    };
    let request_id = context.request_id.clone();
    let (end, calling) = (End::of(context), begin());
    let task = runtime.spawn(async move { read(&end.or(calling).await??) });
    Response { request_id, state: State::Running(task) }
}

fn begin_stream<Q: Serialize, R: DeserializeOwned + Send + 'static>(
    target: &Target,
    options: &CallOptions,
    method: &str,
    request: &Q,
) -> ResponseStream<R> {
    let (caller, call) = match target.prepare(options, method, request) {
        Ok(prepared) => prepared,
        Err(error) => return ResponseStream { items: stream::iter([Err(error)]).boxed() },
    };
    let end = End::of(&call.context);
    let calling = stream::once(async move { caller.stream(call) }).flatten().boxed();
    let items = stream::unfold(Some((calling, end)), async |state| {
        let (mut items, end) = state?;
        let next = end.or(items.next()).await.unwrap_or_else(|late| Some(Err(late)));
        let item = next?.and_then(|json| read(&json));
        // An error is the last item.
        let rest = item.is_ok().then_some((items, end));
        Some((item, rest))
    });
    ResponseStream { items: items.boxed() }
}

fn limit(options: &CallOptions) -> Option<Duration> {
    // What is too large to be a time never comes.
    options.timeout_s.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok())
}

/// When a call ends, answered or not.
pub(crate) struct End {
    begun: Instant,
    context: RequestContext,
}

impl End {
    pub(crate) fn of(context: &RequestContext) -> Self {
        Self { begun: Instant::now(), context: context.clone() }
    }

    pub(crate) async fn or<F: Future>(&self, work: F) -> Result<F::Output> {
        let Some(deadline) = self.context.deadline else { return Ok(work.await) };
        let late = |_| Error::timeout(&self.context, self.begun);
        timeout_at(deadline, work).await.map_err(late)
    }
}

pub(crate) fn read<R: DeserializeOwned>(json: &Bytes) -> Result<R> {
    serde_json::from_slice(json).map_err(|error| {
        Error::invalid_request(format!(
            "the answer is not what the caller expects: {error}; make the response types equal"
        ))
    })
}

/// The response of a call; `await` it. Dropping it cancels the call.
#[derive(Debug)]
#[must_use = "dropping a response cancels its call"]
pub struct Response<R> {
    request_id: String,
    state: State<R>,
}

#[derive(Debug)]
enum State<R> {
    Running(JoinHandle<Result<R>>),
    Failed(Option<Error>),
}

impl<R> Response<R> {
    pub(crate) fn failed(error: Error) -> Self {
        Self { request_id: String::new(), state: State::Failed(Some(error)) }
    }

    /// The id of the request that the call is part of.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Cancels the call, unless it is over: awaiting it then gives [`Error::RequestCancelled`].
    pub fn cancel(&self) {
        if let State::Running(task) = &self.state {
            task.abort();
        }
    }
}

impl<R> Future for Response<R> {
    type Output = Result<R>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<R>> {
        let this = self.get_mut();
        let done = match &mut this.state {
            State::Running(task) => ready!(Pin::new(task).poll(cx)),
            State::Failed(error) => {
                return Poll::Ready(Err(error.take().expect("a response is awaited once")));
            }
        };
        Poll::Ready(done.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => Err(Error::panicked(&*panic)),
            Err(_) => Err(Error::RequestCancelled { request_id: this.request_id.clone() }),
        }))
    }
}

impl<R> Drop for Response<R> {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// The responses of a call that streams; the first error is its last item. Dropping it cancels the
/// call.
#[must_use = "a stream does nothing until it is polled"]
pub struct ResponseStream<R> {
    items: BoxStream<'static, Result<R>>,
}

impl<R> fmt::Debug for ResponseStream<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseStream")
    }
}

impl<R> Stream for ResponseStream<R> {
    type Item = Result<R>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_next_unpin(cx)
    }
}

impl<D> Serialize for Handle<D> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let deployment = match &self.target {
            Target::Bound(node) => application::visit(node).map_err(serde::ser::Error::custom)?,
            Target::Connected { deployment, .. } | Target::Unconnected { deployment } => {
                deployment.clone()
            }
        };
        Written { deployment, options: self.options.clone() }.serialize(serializer)
    }
}

impl<'de, D> Deserialize<'de> for Handle<D> {
    fn deserialize<De: Deserializer<'de>>(deserializer: De) -> Result<Self, De::Error> {
        let Written { deployment, options } = Written::deserialize(deserializer)?;
        let target = match caller::current() {
            Some(caller) => Target::Connected { deployment, caller },
            None => Target::Unconnected { deployment },
        };
        Ok(Self { target, options, deployment: PhantomData })
    }
}
