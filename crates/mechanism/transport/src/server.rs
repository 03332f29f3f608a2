//! Servers: accept, serve HTTP/1.1, drain.
//!
//! Life cycle: 1. accept until `shutdown` resolves; 2. drop the listener, tell every connection to
//! end after the request it is in; 3. wait for them, at most the drain time; 4. cut the rest.

use crate::body::Body;
use crate::stall::StallGuard;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Answers one request. Dropped when the client goes away before the answer is complete.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Answers.
    fn handle(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;
}

/// Where connections come from.
#[derive(Debug)]
pub enum Listener {
    /// A TCP port.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl Listener {
    /// Takes over the listening TCP socket that a parent process passed as standard input, so that
    /// the port stays open, and clients wait instead of failing, while this process is replaced.
    /// Standard input is empty afterwards, so that dropping the listener closes the socket.
    ///
    /// # Errors
    /// When standard input is no listening TCP socket.
    pub fn from_stdin() -> std::io::Result<Self> {
        let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
        let listener = std::net::TcpListener::from(socket);
        listener.local_addr()?;
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(TcpListener::from_std(listener)?))
    }

    /// Listens on a Unix socket; a stale file of that name is replaced.
    ///
    /// # Errors
    /// When the path cannot be bound: too long, or the directory is missing.
    pub fn bind_unix(path: &Path) -> std::io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        Ok(Self::Unix(UnixListener::bind(path)?))
    }

    /// The address of a TCP listener.
    #[must_use]
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
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

/// Bounds of a server.
#[derive(Debug, Clone, Copy)]
pub struct ServeOptions {
    /// How long requests may go on after the shutdown signal.
    pub drain: Duration,
    /// Connections at a time; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// A client must have sent its request's head by then.
    pub header_timeout: Duration,
    /// A client that takes nothing of its answer for so long is cut.
    pub write_timeout: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(20),
            max_connections: 16_384,
            header_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
        }
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
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let has_room = connections.len() < options.max_connections;
        tokio::select! {
            () = &mut shutdown => break,
            _ = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if has_room => match accepted {
                Ok(accepted) => {
                    accepted.serve(&mut connections, handler.clone(), options, stopped.clone());
                }
                Err(error) => {
                    // Out of descriptors, or the client was gone already: neither may end the
                    // server nor keep a core busy.
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            },
        }
    }
    drop(listener);
    stop.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(options.drain, drained).await.is_ok() {
        return 0;
    }
    let cut = connections.len();
    connections.shutdown().await;
    cut
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
        protocol.timer(TokioTimer::new()).header_read_timeout(options.header_timeout);
        match self {
            Self::Tcp(io) => {
                connections.spawn(connection(io, protocol, handler, options, stopped));
            }
            Self::Unix(io) => {
                // Who passes an answer on to the outside dates it.
                protocol.auto_date_header(false);
                connections.spawn(connection(io, protocol, handler, options, stopped));
            }
        }
    }
}

async fn connection<H: Handler>(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    protocol: Builder,
    handler: H,
    options: ServeOptions,
    mut stopped: watch::Receiver<bool>,
) {
    let service = service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.handle(request).await) }
    });
    let io = TokioIo::new(StallGuard::new(io, options.write_timeout));
    let connection = protocol.serve_connection(io, service);
    tokio::pin!(connection);
    let stop = async {
        drop(stopped.wait_for(|stop| *stop).await);
    };
    let result = tokio::select! {
        biased;
        result = &mut connection => result,
        () = stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended early");
    }
}
