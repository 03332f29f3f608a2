//! A client of one socket, with its own small pool of connections.
//!
//! A connection serves one request at a time. It returns to the pool when the response body was
//! read to its end; dropped earlier, the connection is closed and the server sees the disconnect.
//! Where the client is [`Client::linked`], requests that meet share one, see [`crate::link`].

mod connection;
mod links;
mod open;
mod response;
#[cfg(test)]
mod tests;

pub use crate::wire::Outgoing;
pub use connection::Upgraded;
pub use open::{OpenRequest, Opening};
pub use response::ResponseBody;

use crate::body::{BodyError, BoxError, read_body};
use crate::lines::JsonLines;
use crate::link::Unanswered as Unlinked;
use crate::wire::{Head, Said};
use bytes::Bytes;
use connection::{Connection, Stream, Unanswered};
use http::{Method, Request, Response, StatusCode, header};
use links::{Links, suits};
use serde::{Serialize, de::DeserializeOwned};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpStream, UnixStream};

const MAX_IDLE: usize = 64;
/// Servers close a connection that has been idle for longer, and may do so while a request is on
/// its way.
const MAX_IDLE_TIME: Duration = Duration::from_secs(10);
const MAX_JSON_BYTES: usize = 64 << 20;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the request was not sent.
    #[error("failed to connect to {to}")]
    Connect {
        /// The socket.
        to: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke after the request may have been sent.
    #[error("the connection to {to} broke before the answer")]
    Broken {
        /// The socket.
        to: String,
        /// What broke.
        #[source]
        source: BoxError,
    },
    /// The answer's status is not 2xx.
    #[error("{to} answered {status}: {body}")]
    Status {
        /// The socket.
        to: String,
        /// The status.
        status: StatusCode,
        /// What it says.
        body: String,
    },
    /// The answer is not what was asked for.
    #[error("the answer of {to} is not the expected JSON")]
    Json {
        /// The socket.
        to: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Debug, Clone)]
enum Target {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// Connections that wait for their next request.
#[derive(Debug, Clone, Default)]
struct Idle(Arc<Mutex<Vec<(Connection, Instant)>>>);

impl Idle {
    /// One that the server has not closed, as far as is known.
    fn take(&self) -> Option<Connection> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (connection, since) = idle.pop()?;
            if since.elapsed() < MAX_IDLE_TIME && connection.is_alive() {
                return Some(connection);
            }
        }
    }

    fn put(&self, connection: Connection) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE && connection.is_clean() {
            idle.push((connection, Instant::now()));
        }
    }
}

/// Sends requests to one socket. Clones share the pool.
#[derive(Debug, Clone)]
pub struct Client {
    target: Arc<Target>,
    idle: Idle,
    authorization: Option<header::HeaderValue>,
    links: Option<Arc<Links>>,
}

impl Client {
    /// A client of a Unix socket. Connects when first used.
    pub fn unix(path: impl AsRef<Path>) -> Self {
        Self::new(Target::Unix(path.as_ref().to_owned()))
    }

    /// A client of a TCP address. Connects when first used.
    #[must_use]
    pub fn tcp(address: SocketAddr) -> Self {
        Self::new(Target::Tcp(address))
    }

    /// The same client, which sends this token with every request. One that is no header's value
    /// is not sent.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.authorization = header::HeaderValue::try_from(format!("Bearer {token}")).ok();
        self
    }

    /// The same client, whose requests share a connection where several are under way at once. One
    /// task writes and reads it, in the runtime of whoever sent the request that opened it.
    #[must_use]
    pub fn linked(mut self) -> Self {
        self.links = Some(Arc::default());
        self
    }

    fn new(target: Target) -> Self {
        Self { target: Arc::new(target), idle: Idle::default(), authorization: None, links: None }
    }

    /// Sends a request, as [`Client::exchange`] does.
    ///
    /// # Errors
    /// As [`Client::exchange`].
    ///
    /// # Cancel safety
    /// As [`Client::exchange`].
    pub async fn send(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<ResponseBody>, ClientError> {
        let (parts, body) = request.into_parts();
        self.exchange(Outgoing::new(&parts.method, &parts.uri, &parts.headers, &body)).await
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// [`ClientError::Connect`] when nothing was sent, [`ClientError::Broken`] when it may have
    /// been. Any status is an answer.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection, or tells the server by the link, so that it sees
    /// the disconnect.
    pub async fn exchange(
        &self,
        request: Outgoing<'_>,
    ) -> Result<Response<ResponseBody>, ClientError> {
        let entered = self.links.as_ref().map(|links| (links, links.enter()));
        let Some((links, (under_way, is_alone))) = entered else {
            return self.exchange_alone(request).await;
        };
        let link = (!is_alone && suits(&request)).then(|| links.link(self)).flatten();
        if let Some(link) = link {
            match link.exchange(&self.authorized(request)).await {
                Ok((head, body)) => {
                    return Ok(head.map(|()| ResponseBody::linked(body, under_way)));
                }
                // It has left meanwhile.
                Err(Unlinked::Unsent) => {}
                Err(Unlinked::Broken(error)) => return Err(self.broken(error)),
            }
        }
        let response = self.exchange_alone(request).await?;
        Ok(response.map(|body| body.under_way(under_way)))
    }

    /// Sends a request by a connection of its own.
    async fn exchange_alone(
        &self,
        request: Outgoing<'_>,
    ) -> Result<Response<ResponseBody>, ClientError> {
        let (said, mut connection) = self.reach(&request).await?;
        match connection.answered(request.method, said).await {
            Ok(head) => Ok(self.answer(head, connection)),
            Err(error) => Err(self.broken(error)),
        }
    }

    fn authorized<'a>(&'a self, request: Outgoing<'a>) -> Outgoing<'a> {
        Outgoing { authorization: self.authorization.as_ref(), ..request }
    }

    /// Sends a request by a connection that the server has not closed, and waits for what is said to it
    /// first.
    async fn reach(&self, request: &Outgoing<'_>) -> Result<(Said, Connection), ClientError> {
        let request = self.authorized(*request);
        while let Some(mut connection) = self.idle.take() {
            match connection.exchange(&request).await {
                Ok(said) => return Ok((said, connection)),
                // The server had closed it: the request never left.
                Err(Unanswered::Unsent(_)) => {}
                Err(Unanswered::Broken(error)) => return Err(self.broken(error)),
            }
        }
        let mut connection = self.connect().await?;
        match connection.exchange(&request).await {
            Ok(said) => Ok((said, connection)),
            Err(Unanswered::Unsent(source)) => Err(self.unreached(source)),
            Err(Unanswered::Broken(error)) => Err(self.broken(error)),
        }
    }

    fn answer(&self, head: Head, connection: Connection) -> Response<ResponseBody> {
        let back = head.keeps.then(|| self.idle.clone());
        head.response.map(|()| ResponseBody::new(connection, head.framing, back))
    }

    /// GETs a JSON value.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let response = self.checked(Method::GET, path, Bytes::new()).await?;
        self.parse(&self.bytes(response).await?)
    }

    /// Sends a JSON value and reads a JSON answer.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn call<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).expect("wire types have string keys only");
        self.ask(method, path, body.into()).await
    }

    /// Sends bytes and reads a JSON answer.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let response = self.checked(method, path, body).await?;
        self.parse(&self.bytes(response).await?)
    }

    /// Sends a JSON value and expects a 2xx answer whose body does not matter.
    ///
    /// # Errors
    /// Every [`ClientError`] but [`ClientError::Json`].
    pub async fn tell<B: Serialize + ?Sized>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<(), ClientError> {
        let body = serde_json::to_vec(body).expect("wire types have string keys only");
        let response = self.checked(method, path, body.into()).await?;
        self.bytes(response).await.map(drop)
    }

    /// Sends a text and expects a 2xx answer whose body does not matter.
    ///
    /// # Errors
    /// Every [`ClientError`] but [`ClientError::Json`].
    pub async fn tell_text(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<(), ClientError> {
        let response = self.checked(method, path, body.into()).await?;
        self.bytes(response).await.map(drop)
    }

    /// GETs a text.
    ///
    /// # Errors
    /// Every [`ClientError`] but [`ClientError::Json`].
    pub async fn get_text(&self, path: &str) -> Result<String, ClientError> {
        let response = self.checked(Method::GET, path, Bytes::new()).await?;
        Ok(String::from_utf8_lossy(&self.bytes(response).await?).into_owned())
    }

    /// GETs a body of lines.
    ///
    /// # Errors
    /// Every [`ClientError`] but [`ClientError::Json`].
    pub async fn lines<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<JsonLines<T, ResponseBody>, ClientError> {
        Ok(JsonLines::new(self.checked(Method::GET, path, Bytes::new()).await?.into_body()))
    }

    async fn checked(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<ResponseBody>, ClientError> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("internal paths are valid URIs");
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        let response = self.send(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = String::from_utf8_lossy(&self.bytes(response).await?).into_owned();
        Err(ClientError::Status { to: self.target.to_string(), status, body })
    }

    async fn bytes(&self, response: Response<ResponseBody>) -> Result<Bytes, ClientError> {
        read_body(response.into_body(), MAX_JSON_BYTES).await.map_err(|error| match error {
            BodyError::Broken(source) => self.broken(source),
            too_large @ BodyError::TooLarge { .. } => self.broken(too_large),
        })
    }

    fn parse<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(bytes)
            .map_err(|source| ClientError::Json { to: self.target.to_string(), source })
    }

    fn broken(&self, source: impl Into<BoxError>) -> ClientError {
        ClientError::Broken { to: self.target.to_string(), source: source.into() }
    }

    fn unreached(&self, source: std::io::Error) -> ClientError {
        ClientError::Connect { to: self.target.to_string(), source }
    }

    async fn connect(&self) -> Result<Connection, ClientError> {
        let stream = match &*self.target {
            Target::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
            Target::Tcp(address) => TcpStream::connect(address)
                .await
                .and_then(|stream| stream.set_nodelay(true).map(|()| Stream::Tcp(stream))),
        };
        stream.map(Connection::new).map_err(|source| self.unreached(source))
    }
}
