//! Deployments in Rust: serve, compose, batch and multiplex them.
//!
//! It does for Rust what Ray Serve does for Python, by Ray's names. A [`Deployment`] is a type of
//! yours, one value of which lives in each replica. Deployments that call each other by
//! [`Handle`]s make an [`Application`]; its ingress takes requests from outside. A program that
//! hands its application to [`main`] can be served: its replicas are processes of the program.
//!
//! ```
//! use tyndall::{Application, Deployment, Handle, ReplicaContext, Result};
//!
//! /// Counts the words of a text.
//! struct Counter;
//!
//! impl Deployment for Counter {
//!     type Init = ();
//!     type Request = String;
//!     type Response = usize;
//!
//!     async fn start(_init: (), _context: ReplicaContext) -> Result<Self> {
//!         Ok(Self)
//!     }
//!
//!     async fn call(&self, text: String) -> Result<usize> {
//!         Ok(text.split_whitespace().count())
//!     }
//! }
//!
//! /// Says which of two texts is longer.
//! struct Longer {
//!     counter: Handle<Counter>,
//! }
//!
//! impl Deployment for Longer {
//!     type Init = Handle<Counter>;
//!     type Request = (String, String);
//!     type Response = String;
//!
//!     async fn start(counter: Handle<Counter>, _context: ReplicaContext) -> Result<Self> {
//!         Ok(Self { counter })
//!     }
//!
//!     async fn call(&self, (a, b): (String, String)) -> Result<String> {
//!         // Both calls begin before the first is awaited.
//!         let (count_a, count_b) = (self.counter.remote(a), self.counter.remote(b));
//!         Ok(if count_a.await? > count_b.await? { "the first" } else { "the second" }.to_owned())
//!     }
//! }
//!
//! fn app() -> Result<Application> {
//!     let counter = Counter::bind_with(Counter::options().num_replicas(2), ());
//!     Ok(Application::new(Longer::bind(counter.handle())))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! // A program's `main` is `tyndall::main(app)`. A test needs no processes:
//! let local = tyndall::testing::start(&app()?).await?;
//! let longer = local.handle::<Longer>();
//! assert_eq!(longer.remote(("one two".into(), "one".into())).await?, "the first");
//! # local.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! The repository's `docs/rust.md` is a guide to all of it; its code is tested as this page's is.
//!
//! | for | see |
//! |---|---|
//! | replicas, queues, health, updates | [`DeploymentOptions`] |
//! | HTTP with routes of your own, streams | [`Deployment::router`], [`http`] |
//! | calls with a time limit, of a session, of a model | [`CallOptions`] |
//! | single calls in, one call with all of them | [`Batcher`], [`StreamBatcher`] |
//! | many models in one replica | [`Multiplexed`] |
//! | the request and the replica that code runs in | [`context`] |
//! | tests without processes | [`testing`] |
//! | what runs a program | [`main`], [`Described`], [`wire`] |
//! | a binding to another language | [`foreign`], [`websocket`] |
#![forbid(unsafe_code)]

mod application;
mod batching;
mod caller;
pub mod context;
mod deployment;
mod described;
mod error;
pub mod foreign;
mod handle;
mod held;
pub mod http;
mod kept;
mod methods;
mod model_call;
mod multiplex;
mod options;
mod program;
mod selection;
mod servant;
pub mod testing;
pub mod websocket;
pub mod wire;

pub use application::{Application, Bound};
pub use axum;
pub use batching::{BatchOptions, Batcher, StreamBatcher};
pub use caller::{AnswerKind, Call, Caller, Encoding, Part, Reservation};
pub use context::{ReplicaContext, RequestContext};
pub use deployment::Deployment;
pub use described::{Described, DescribedDeployment, ProgramInit};
pub use error::{Error, Result};
pub use handle::{CallOptions, Handle, MethodHandle, Response, ResponseStream};
pub use methods::Methods;
pub use multiplex::Multiplexed;
pub use options::{
    ActorOptions, Auto, AutoscalingOptions, BackpressureOptions, DeploymentOptions, GangOptions,
    NO_LIMIT, NumReplicas, RuntimeEnv,
};
pub use program::{Builder, main};
pub use selection::ReplicaSelection;

/// The code of the guide, as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../../docs/rust.md")]
struct Guide;
