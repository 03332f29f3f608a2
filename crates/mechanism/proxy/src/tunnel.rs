//! WebSockets: a handshake on its way to a program, and the bytes of both sides after it.
//!
//! The handshake is a request like any other, up to the answer; with a 101 the connection of the
//! client and that to the replica become a tunnel, which is not looked into. It ends when either
//! side ends, or when the drain time of the proxy is over, but never for being idle.

use crate::grant::Grant;
use crate::headers::{strip, tokens};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, copy, split};
use tokio::sync::watch;
use tokio::time::timeout;
use tyndall_router::{Answer, ReplicaStream};
use tyndall_transport::{Body, Upgrade, empty};

/// Metrics count handshakes under this method, as Ray Serve does.
pub(crate) const METHOD: &str = "WS";

/// When one side has ended, the other has so long to take what was said last and to end too.
const LAST_WORDS: Duration = Duration::from_secs(5);

const CONNECTION: HeaderValue = HeaderValue::from_static("Upgrade");
const UPGRADE: HeaderValue = HeaderValue::from_static("websocket");

/// Whether the client wants to go on with WebSockets.
pub(crate) fn wants_websocket(method: &Method, headers: &HeaderMap) -> bool {
    let has = |name, word| tokens(headers, &name).any(|token| token.eq_ignore_ascii_case(word));
    *method == Method::GET
        && has(header::CONNECTION, "upgrade")
        && has(header::UPGRADE, "websocket")
}

/// Headers of a handshake to the next hop, or of its answer, instead of those of the one before.
pub(crate) fn set_hop(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, CONNECTION);
    headers.insert(header::UPGRADE, UPGRADE);
}

/// Whose tunnel it is, and what may end it.
pub(crate) struct Tunnelled {
    pub(crate) upgrade: Upgrade,
    /// True when everything ends.
    pub(crate) is_cut: watch::Receiver<bool>,
    /// Whose key it was asked with, where keys are wanted.
    pub(crate) grant: Option<Grant>,
}

/// The client's answer to a handshake that the replica has accepted, after which the tunnel is open.
/// None where the replica's connection cannot become one.
pub(crate) fn accept(sent: Answer, tunnelled: Tunnelled) -> Option<Response<Body>> {
    let (mut parts, body) = sent.response.into_parts();
    let replica = body.upgrade()?;
    tokio::spawn(run(replica, tunnelled));
    strip(&mut parts.headers);
    set_hop(&mut parts.headers);
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    *response.headers_mut() = parts.headers;
    Some(response)
}

async fn run(replica: ReplicaStream, tunnelled: Tunnelled) {
    let Tunnelled { upgrade, mut is_cut, grant } = tunnelled;
    // A client that went away meanwhile has no stream: dropping the replica's tells it.
    match upgrade.stream().await {
        Ok(client) => tokio::select! {
            () = join(client, replica) => {}
            _ = is_cut.wait_for(|is_cut| *is_cut) => {}
        },
        Err(error) => tracing::debug!(%error, "a client left during its handshake"),
    }
    drop(grant);
}

/// Passes bytes on until both sides have ended, or one has and the other had its time.
async fn join(client: impl AsyncRead + AsyncWrite, replica: ReplicaStream) {
    let (from_client, to_client) = split(client);
    let (from_replica, to_replica) = split(replica);
    let (mut up, mut down) =
        (Box::pin(pass(from_client, to_replica)), Box::pin(pass(from_replica, to_client)));
    let is_late = tokio::select! {
        () = &mut up => timeout(LAST_WORDS, down).await.is_err(),
        () = &mut down => timeout(LAST_WORDS, up).await.is_err(),
    };
    if is_late {
        tracing::debug!("one side of a tunnel did not end after the other");
    }
}

/// An end, orderly or not, is passed on as one: neither side needs to know more.
async fn pass<R: AsyncRead, W: AsyncWrite>(mut from: ReadHalf<R>, mut to: WriteHalf<W>) {
    let passed = copy(&mut from, &mut to).await.map(drop);
    if let Err(error) = passed.and(to.shutdown().await) {
        tracing::debug!(%error, "a tunnel broke");
    }
}
