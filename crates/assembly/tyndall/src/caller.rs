//! The edge between a handle and the replicas of its deployment.
//!
//! A [`Handle`](crate::Handle) knows a deployment's name; a [`Caller`] carries its calls there. A
//! process has one: in local testing mode the deployments of the process itself, in a replica the
//! router to other processes. It comes to the handles while the replica's `init` is read.

use crate::context::RequestContext;
use crate::error::Result;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use std::sync::Arc;
use tyndall_types::ApplicationName;

/// How requests and responses are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// JSON, as everything in Rust.
    #[default]
    Json,
    /// Bytes that only the two deployments understand, which are code of one language.
    Opaque,
    /// JSON of OpenAI's API, for a deployment that is a model: the method is a path such as
    /// `/v1/chat/completions`.
    Model,
}

/// One call of a deployment.
#[derive(Debug, Clone)]
pub struct Call {
    /// Another application than the caller's.
    pub application: Option<ApplicationName>,
    /// The deployment's name in its application.
    pub deployment: String,
    /// Which of its methods: `call`, `stream`, or one of [`Methods`](crate::Methods).
    pub method: String,
    /// The request.
    pub body: Bytes,
    /// How it is written, and the responses shall be.
    pub encoding: Encoding,
    /// What the deployment shall know of the request.
    pub context: RequestContext,
}

/// Carries calls to replicas.
///
/// Both kinds of calls are cancelled when what was returned is dropped: a call that waits for a
/// replica never reaches one, and one that has begun is dropped there.
pub trait Caller: Send + Sync + 'static {
    /// A handle was read that calls by this: calls may come.
    fn connected(&self) {}

    /// Calls a method that gives one response, in the call's encoding.
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes>>;

    /// Calls a method that gives a stream of responses, in the call's encoding. An error is its last
    /// item.
    fn stream(&self, call: Call) -> BoxStream<'static, Result<Bytes>>;

    /// Has a replica keep a place for a call, for one response or for a stream. The body says what it
    /// is chosen for; the one that is sent comes with the reservation. The place ends with the call's
    /// deadline.
    fn reserve(
        &self,
        call: Call,
        answer: AnswerKind,
    ) -> BoxFuture<'static, Result<Box<dyn Reservation>>>;

    /// Calls a method of all replicas that run, also of those that are full, which take it in its turn.
    /// The calls begin when the parts are polled; dropping a part cancels its call.
    ///
    /// # Errors
    /// [`Error::DeploymentUnavailable`](crate::Error::DeploymentUnavailable) where none runs.
    fn broadcast(&self, call: Call) -> BoxFuture<'static, Result<Vec<Part>>>;
}

/// What a call gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// One response.
    Response,
    /// A stream of them.
    Stream,
}

/// One replica's response to a broadcast; none of one that ends and has not begun it.
pub type Part = BoxFuture<'static, Option<Result<Bytes>>>;

/// A place that a replica keeps for a call. Dropping it gives the place back.
pub trait Reservation: Send + Sync + 'static {
    /// Which replica.
    fn replica(&self) -> &str;

    /// What the replica said of itself when it started; null where it said nothing.
    fn metadata(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Makes the call, which was reserved for one response.
    ///
    /// # Errors
    /// Those of [`Caller::call`]; the call goes to no other replica.
    fn call(self: Box<Self>, body: Bytes) -> BoxFuture<'static, Result<Bytes>>;

    /// Makes the call, which was reserved for a stream.
    fn stream(self: Box<Self>, body: Bytes) -> BoxStream<'static, Result<Bytes>>;
}

tokio::task_local! {
    static CALLER: Arc<dyn Caller>;
}

/// Reads a value whose handles shall call by `caller`.
pub(crate) fn connected<T>(caller: Arc<dyn Caller>, read: impl FnOnce() -> T) -> T {
    CALLER.sync_scope(caller, read)
}

/// The caller for a handle that is being read.
pub(crate) fn current() -> Option<Arc<dyn Caller>> {
    let caller = CALLER.try_with(Clone::clone).ok();
    caller.inspect(|caller| caller.connected())
}
