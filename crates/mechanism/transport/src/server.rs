//! Servers: accept, serve HTTP/1.1, or HTTP/2 (`http2`), drain.
//!
//! Life cycle: 1. accept until `shutdown` resolves; 2. nobody finds the socket any more, but who is
//! connected may go on: see [`ServeOptions::linger`]; 3. drop the listener, tell every connection
//! to end after the request it is in; 4. wait for them, at most the drain time; 5. cut the rest.
//!
//! A connection that left HTTP is waited for too; it is for whoever has its bytes to cut it.

use crate::body::{Body, RequestBody, flushed};
use crate::heads::Heads;
use crate::http2;
use crate::link::{self, PROTOCOL};
use crate::stall::StallGuard;
use crate::upgrade::ConnectionLife;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustix::net::SocketFlags;
use std::convert::Infallible;
use std::future::Future;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// What a deadline can be reckoned with.
const FOREVER: Duration = Duration::from_hours(24 * 365);

/// A connection that nobody has taken for so long is taken by a listener that stands by.
const LATE: Duration = Duration::from_millis(500);

/// After so long the system's news of those who had found the socket have come.
const NOTICED: Duration = Duration::from_millis(5);

/// Answers one request. Dropped when the client goes away before the answer is complete.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Answers.
    fn handle(&self, request: Request<RequestBody>) -> impl Future<Output = Response<Body>> + Send;
}

/// Where connections come from.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
    /// What another listener of a Unix socket has left for half a second. In the type of streams,
    /// because the one of listeners cannot wait without taking what comes.
    Standby(UnixStream),
}

impl Listener {
    /// A second listener of this Unix socket, on the runtime that this is called on. It takes
    /// connections that have waited for half a second, as where code holds up the thread that this
    /// one is on.
    ///
    /// # Errors
    /// When it is no Unix socket, or the system has no more descriptors.
    pub fn standby(&self) -> std::io::Result<Self> {
        let Self::Unix(listener) = self else { return Err(ErrorKind::Unsupported.into()) };
        let socket = std::os::unix::net::UnixStream::from(listener.as_fd().try_clone_to_owned()?);
        Ok(Self::Standby(UnixStream::from_std(socket)?))
    }

    /// A listening TCP socket that came from elsewhere.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn of_tcp(socket: OwnedFd) -> std::io::Result<Self> {
        let listener = std::net::TcpListener::from(socket);
        listener.local_addr()?;
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(TcpListener::from_std(listener)?))
    }

    /// Listens on a Unix socket; a stale file of that name is replaced.
    ///
    /// # Errors
    /// When the path cannot be bound: too long, or the directory is missing.
    pub fn bind_unix(path: &Path) -> std::io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        Ok(Self::Unix(UnixListener::bind(path)?))
    }

    /// The address of a TCP listener.
    #[must_use]
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) | Self::Standby(_) => None,
        }
    }

    /// Nobody who looks for a Unix socket finds this one any more; who has found it is accepted.
    fn hide(&self) {
        let Self::Unix(listener) = self else { return };
        let address = listener.local_addr().ok();
        if let Some(path) = address.as_ref().and_then(|address| address.as_pathname())
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::debug!(%error, ?path, "the socket is gone already");
        }
    }

    async fn accept(&self) -> std::io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Tokens are small and must not wait for each other.
                stream.set_nodelay(true)?;
                Ok(Accepted::Tcp(stream))
            }
            Self::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
            Self::Standby(socket) => loop {
                socket.readable().await?;
                sleep(LATE).await;
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                let accept = || Ok(rustix::net::accept_with(socket, flags)?);
                match socket.try_io(Interest::READABLE, accept) {
                    Ok(accepted) => {
                        let stream = std::os::unix::net::UnixStream::from(accepted);
                        return Ok(Accepted::Unix(UnixStream::from_std(stream)?));
                    }
                    // The other has taken it.
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            },
        }
    }
}

/// Where a listener is reached from this machine: one that listens everywhere also does on the
/// loopback.
#[must_use]
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// A client's connection.
enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What is spoken on the connections of a TCP listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.1, and what requests upgrade to.
    #[default]
    Http1,
    /// HTTP/2 from the first byte, as gRPC has it.
    Http2,
}

/// Bounds of a server.
#[derive(Debug, Clone, Copy)]
pub struct ServeOptions {
    /// How long requests may go on after the shutdown signal.
    pub drain: Duration,
    /// How long of that time idle connections are left for their clients to close. A server that
    /// closes first may do so while a request is on its way, of which nobody can say then whether
    /// it was begun. For servers whose clients learn by other ways that they shall leave, and whose
    /// handler refuses what still comes.
    pub linger: Duration,
    /// Connections at a time; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// A client must have sent its request's head by then.
    pub header_timeout: Duration,
    /// A client that takes nothing of its answer for so long is cut.
    pub write_timeout: Duration,
    /// What clients speak.
    pub protocol: Protocol,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(20),
            linger: Duration::ZERO,
            max_connections: 16_384,
            header_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            protocol: Protocol::Http1,
        }
    }
}

impl ServeOptions {
    /// Those of a replica, which routers leave because the controller tells them.
    #[must_use]
    pub fn of_replica(drain: Duration) -> Self {
        Self { drain, linger: Duration::from_secs(1), ..Self::default() }
    }
}

/// Serves until `shutdown` resolves, then drains. Returns the number of connections that were cut
/// because the drain time was over.
///
/// # Cancel safety
/// Dropping the future cuts every connection.
pub async fn serve<H: Handler>(
    listener: Listener,
    handler: H,
    options: ServeOptions,
    shutdown: impl Future<Output = ()>,
) -> usize {
    let (stop, stopped) = watch::channel(false);
    let mut server = Server { listener, handler, options, stopped, connections: JoinSet::new() };
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = server.turn() => {}
        }
    }
    let end = Instant::now() + options.drain.min(FOREVER);
    if !options.linger.is_zero() {
        // Those that stay longer are told to go.
        drop(timeout_at(end.min(Instant::now() + options.linger), server.are_gone()).await);
    }
    let mut connections = server.close();
    stop.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout_at(end, drained).await.is_ok() {
        return 0;
    }
    let cut = connections.len();
    connections.shutdown().await;
    cut
}

struct Server<H> {
    listener: Listener,
    handler: H,
    options: ServeOptions,
    stopped: watch::Receiver<bool>,
    connections: JoinSet<()>,
}

impl<H: Handler> Server<H> {
    /// Waits until a connection comes or ends.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn turn(&mut self) {
        let has_room = self.connections.len() < self.options.max_connections;
        tokio::select! {
            _ = self.connections.join_next(), if !self.connections.is_empty() => {}
            accepted = self.listener.accept(), if has_room => match accepted {
                Ok(accepted) => {
                    let (handler, stopped) = (self.handler.clone(), self.stopped.clone());
                    accepted.serve(&mut self.connections, handler, self.options, stopped);
                }
                Err(error) => {
                    // Out of descriptors, or the client was gone already: neither may end the
                    // server nor keep a core busy.
                    tracing::warn!(%error, "failed to accept a connection");
                    sleep(Duration::from_millis(20)).await;
                }
            },
        }
    }

    /// Hides from new clients, and waits until those that are connected, or about to be, are gone.
    async fn are_gone(&mut self) {
        self.listener.hide();
        let noticed = Instant::now() + NOTICED;
        while !self.connections.is_empty() || Instant::now() < noticed {
            let is_empty = self.connections.is_empty();
            tokio::select! {
                () = self.turn() => {}
                () = sleep_until(noticed), if is_empty => {}
            }
        }
    }

    /// Nobody connects any more; who is connected goes on.
    fn close(self) -> JoinSet<()> {
        self.connections
    }
}

impl Accepted {
    fn serve<H: Handler>(
        self,
        connections: &mut JoinSet<()>,
        handler: H,
        options: ServeOptions,
        stopped: watch::Receiver<bool>,
    ) {
        let mut protocol = Builder::new();
        // Done here, see `heads`.
        protocol.header_read_timeout(None);
        match self {
            Self::Tcp(io) if options.protocol == Protocol::Http2 => {
                connections.spawn(http2::connection(io, handler, options, stopped));
            }
            Self::Tcp(io) => {
                let links = None;
                connections.spawn(connection(io, protocol, handler, options, stopped, links));
            }
            Self::Unix(io) => {
                // Who passes an answer on to the outside dates it.
                protocol.auto_date_header(false);
                // Only the node's own processes are here.
                let links = Some(Links::default());
                connections.spawn(connection(io, protocol, handler, options, stopped, links));
            }
        }
    }
}

/// Where a connection's way out of HTTP lies when it is to be a link.
#[derive(Debug, Clone, Default)]
struct Links(Arc<Mutex<Option<OnUpgrade>>>);

impl Links {
    /// Answers a request for a link; nothing when it is none.
    fn accept<B>(&self, request: &mut Request<B>) -> Option<Response<Body>> {
        if *request.headers().get(header::UPGRADE)? != PROTOCOL {
            return None;
        }
        *self.lock() = Some(hyper::upgrade::on(request));
        let mut response = crate::empty(StatusCode::SWITCHING_PROTOCOLS);
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
        Some(response)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<OnUpgrade>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connection<H: Handler>(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    protocol: Builder,
    handler: H,
    options: ServeOptions,
    mut stopped: watch::Receiver<bool>,
    links: Option<Links>,
) {
    let (life, end) = ConnectionLife::begin();
    let (open, closed) = oneshot::channel::<()>();
    life.keep(open);
    let heads = Heads::new();
    let io = TokioIo::new(StallGuard::new(io, options.write_timeout, heads.clone(), end));
    let (linked, links_of) = (handler.clone(), links.clone());
    let heads_of = heads.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let answering = heads_of.came();
        let handler = handler.clone();
        let mut link = None;
        if request.headers().contains_key(header::UPGRADE) {
            link = links_of.as_ref().and_then(|links| links.accept(&mut request));
            request.extensions_mut().insert(life.clone());
        }
        async move {
            let response = match link {
                Some(accepted) => accepted,
                None => handler.handle(request.map(RequestBody::incoming)).await,
            };
            Ok::<_, Infallible>(response.map(|body| flushed(body, answering)))
        }
    });
    let mut connection = Box::pin(protocol.serve_connection(io, service).with_upgrades());
    let stop = async {
        drop(stopped.wait_for(|stop| *stop).await);
    };
    let run = async {
        tokio::select! {
            biased;
            result = &mut connection => result,
            () = stop => {
                connection.as_mut().graceful_shutdown();
                connection.as_mut().await
            }
        }
    };
    tokio::select! {
        biased;
        result = run => if let Err(error) = result {
            tracing::debug!(%error, "connection ended early");
        },
        () = heads.are_late(options.header_timeout) => {
            tracing::debug!("no request came on a connection");
        }
    }
    drop(connection);
    let upgrade = links.and_then(|links| links.lock().take());
    if let Some(upgrade) = upgrade
        && let Ok(stream) = upgrade.await
        && let Err(error) = link::serve(TokioIo::new(stream), linked, stopped).await
    {
        tracing::debug!(%error, "a link ended early");
    }
    // Nothing is sent: this resolves when whoever has the socket drops it.
    drop(closed.await);
}
