//! The HTTP edge: admission, queueing, replica choice, retries.
//!
//! Life of a request: 1. its body is read and checked, so that bad input wakes no model; 2. it
//! takes a place in its deployment's bounded queue, and the controller is told at once; 3. it gets
//! a permit for a replica that has room; 4. it is sent there; until the first byte comes back a
//! lost replica only means another one; 5. the answer streams through a body that holds the
//! permit, which ends with the last byte or with the client's disconnect.
//!
//! What the proxy knows of the node is the last [`RouteTable`](tyndall_types::protocol::RouteTable)
//! it read. Without a controller it goes on with that table and reconnects.
//!
//! Nothing here polls: requests are woken by route tables and by permits that come free.
#![forbid(unsafe_code)]

mod answer;
mod app;
mod body;
mod control;
mod deployment;
mod forward;
mod pages;
mod reply;
mod request_id;
mod shared;
mod timing;

#[cfg(test)]
mod tests;

use app::App;
use shared::Shared;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tyndall_transport::{Client, Listener, ServeOptions, serve};
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
    let shared = Arc::new(Shared::new());
    let app = App::new(shared.clone(), controller.clone());
    let drain = options.drain.saturating_add(LAST_WORDS);
    let serve_options = ServeOptions { drain, ..ServeOptions::default() };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let end = async {
        shutdown.await;
        drop(stop);
        tokio::time::sleep(options.drain).await;
        shared.cut();
        std::future::pending().await
    };
    // Both links are needed while requests drain; neither ever ends by itself.
    let cut = tokio::select! {
        cut = serve(options.listener, app, serve_options, async { drop(stopped.await) }) => cut,
        () = end => 0,
        () = control::follow_routes(&shared, &controller, &options.id) => 0,
        () = control::push_demand(&shared, &controller, &options.id) => 0,
    };
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
