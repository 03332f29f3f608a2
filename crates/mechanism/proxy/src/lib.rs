//! The HTTP edge: dialects, validation, pages, and what clients learn of failures.
//!
//! Life of a request: 1. its path leads to an application, of models or a program; 2. its body is
//! read and, for models, checked, so that bad input wakes no model; 3. the
//! [`Router`](tyndall_router::Router) queues it, chooses a replica and sends it there, again when
//! one is lost before the first byte; 4. the answer streams through a body that holds the permit,
//! which ends with the last byte or with the client's disconnect. WebSockets go the same way up to
//! the answer to their handshake, and on through a tunnel. Calls of gRPC to programs come by a port
//! of their own and go the same way too: see `grpc`.
#![forbid(unsafe_code)]

mod access;
mod answer;
mod app;
mod body;
mod caller;
mod chat;
mod checked;
mod cors;
mod forward;
mod grant;
mod grpc;
mod headers;
mod kept;
mod pages;
mod program;
mod reply;
mod request_id;
mod shared;
mod stream;
mod tally;
mod target;
mod timing;
mod tunnel;
mod usage;

#[cfg(test)]
mod tests;

pub use access::KeySources;

use app::App;
use cors::Cors;
use futures_util::FutureExt;
use grpc::Calls;
use shared::Shared;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tyndall_transport::{Client, Listener, Protocol, ServeOptions, serve};
use tyndall_types::CorsConfig;
use tyndall_types::protocol::RuntimeDir;

/// When the drain time is over, what is left is told so; clients have it by then.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a proxy is started with.
#[derive(Debug)]
pub struct ProxyOptions {
    /// Where the controller's and the replicas' sockets are.
    pub runtime_dir: RuntimeDir,
    /// Names this proxy to the controller.
    pub id: String,
    /// The public listener.
    pub listener: Listener,
    /// How long requests may go on after SIGTERM.
    pub drain: Duration,
    /// Which pages of other origins may use the routes of models; absent is none.
    pub cors: Option<CorsConfig>,
    /// Who may send requests.
    pub keys: KeySources,
    /// Where and how gRPC is served; absent is not at all.
    pub grpc: Option<GrpcOptions>,
}

/// The gRPC edge.
#[derive(Debug)]
pub struct GrpcOptions {
    /// Its listener.
    pub listener: Listener,
    /// How long a call may take; absent is as long as its client waits.
    pub request_timeout: Option<Duration>,
}

/// Why a proxy does not run.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The system refuses a signal handler.
    #[error("failed to listen for signals")]
    Signal(#[source] std::io::Error),
}

/// Serves until SIGTERM or SIGINT, then drains; a second signal ends at once.
///
/// # Errors
/// [`ProxyError`], before anything is served.
///
/// # Cancel safety
/// Dropping the future cuts every connection.
pub async fn run(options: ProxyOptions) -> Result<(), ProxyError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ProxyError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ProxyError::Signal)?;
    let (first, told) = tokio::sync::oneshot::channel::<()>();
    let second = async {
        either(&mut terminate, &mut interrupt).await;
        tracing::info!("draining");
        drop(first);
        either(&mut terminate, &mut interrupt).await;
    };
    tokio::select! {
        () = run_until(options, async { drop(told.await) }) => {}
        () = second => tracing::warn!("second signal: ending without drain"),
    }
    Ok(())
}

/// Serves until `shutdown` resolves, then drains. Requests that are not answered when the drain time
/// is over fail with 503, streams end with an error event.
///
/// # Cancel safety
/// Dropping the future cuts every connection.
pub async fn run_until(options: ProxyOptions, shutdown: impl Future<Output = ()>) {
    let controller = Client::unix(options.runtime_dir.controller_socket());
    let shared = Arc::new(Shared::new(controller, options.id, options.keys));
    let app = App::new(shared.clone(), Cors(options.cors));
    let drain = options.drain.saturating_add(LAST_WORDS);
    let serve_options = ServeOptions { drain, ..ServeOptions::default() };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async { drop(stopped.await) }.shared();
    let of_http = serve(options.listener, app, serve_options, stopped.clone());
    let of_grpc = async {
        let Some(GrpcOptions { listener, request_timeout }) = options.grpc else { return 0 };
        let calls = Calls::new(shared.clone(), request_timeout);
        let serve_options = ServeOptions { protocol: Protocol::Http2, ..serve_options };
        serve(listener, calls, serve_options, stopped.clone()).await
    };
    let both = async {
        let (http, grpc) = tokio::join!(of_http, of_grpc);
        http + grpc
    };
    let end = async {
        shutdown.await;
        shared.drain();
        drop(stop);
        tokio::time::sleep(options.drain).await;
        shared.cut();
        std::future::pending().await
    };
    // The links to the controller are needed while requests drain; they never end by themselves.
    let cut = tokio::select! {
        cut = both => cut,
        () = end => 0,
        () = shared.router.run() => 0,
        () = shared.tally.push(shared.router.controller()) => 0,
    };
    shared.tally.push_last(shared.router.controller()).await;
    if cut > 0 {
        tracing::warn!(connections = cut, "clients did not take the end of their answers");
    }
}

async fn either(a: &mut Signal, b: &mut Signal) {
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
    }
}
