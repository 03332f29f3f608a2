//! Connections of HTTP/2, each with many requests at a time.
//!
//! Whether a client reads its answers is a matter of each answer's window, so that one that waits
//! holds up no other; whether it is there at all, pings tell.

use crate::body::RequestBody;
use crate::server::{Handler, ServeOptions};
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Requests at a time on a connection; a client opens another one for more, or waits.
const MAX_STREAMS: u32 = 1024;

/// What the metadata of a request may take.
const MAX_HEAD_BYTES: u32 = 64 << 10;

/// After so long without a word a client is asked whether it is there; to say so it has as long as to
/// go on reading an answer.
const SILENCE: Duration = Duration::from_secs(20);

/// Where a request comes from, among its extensions.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

pub(crate) async fn connection<H: Handler>(
    io: TcpStream,
    handler: H,
    options: ServeOptions,
    mut stopped: watch::Receiver<bool>,
) {
    let peer = io.peer_addr().ok();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let handler = handler.clone();
        if let Some(peer) = peer {
            request.extensions_mut().insert(Peer(peer));
        }
        async move {
            let answer = handler.handle(request.map(RequestBody::incoming)).await;
            Ok::<_, Infallible>(answer)
        }
    });
    let mut protocol = Builder::new(TokioExecutor::new());
    protocol
        .timer(TokioTimer::new())
        .keep_alive_interval(SILENCE)
        .keep_alive_timeout(options.write_timeout)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES);
    let mut connection = std::pin::pin!(protocol.serve_connection(TokioIo::new(io), service));
    let stop = async {
        drop(stopped.wait_for(|stop| *stop).await);
    };
    let served = tokio::select! {
        biased;
        served = &mut connection => served,
        () = stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended early");
    }
}
