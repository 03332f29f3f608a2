//! A client of one socket, with its own small pool of connections.
//!
//! A connection serves one request at a time. It returns to the pool when the response body was
//! read to its end; dropped earlier, the connection is closed and the server sees the disconnect.

use crate::body::{BodyError, BoxError, read_body};
use crate::lines::JsonLines;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::net::{TcpStream, UnixStream};

const MAX_IDLE: usize = 64;
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

type Sender = SendRequest<Full<Bytes>>;
type Idle = Arc<Mutex<Vec<Sender>>>;

/// Sends requests to one socket. Clones share the pool.
#[derive(Debug, Clone)]
pub struct Client {
    target: Target,
    idle: Idle,
    authorization: Option<header::HeaderValue>,
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

    fn new(target: Target) -> Self {
        Self { target, idle: Idle::default(), authorization: None }
    }

    /// Sends a request. The URI is the path alone; a `host` header is added where missing.
    ///
    /// # Errors
    /// [`ClientError::Connect`] when nothing was sent, [`ClientError::Broken`] when it may have
    /// been. Any status is an answer.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection, so the server sees the disconnect.
    pub async fn send(
        &self,
        mut request: Request<Bytes>,
    ) -> Result<Response<ResponseBody>, ClientError> {
        request
            .headers_mut()
            .entry(header::HOST)
            .or_insert(header::HeaderValue::from_static("localhost"));
        if let Some(authorization) = &self.authorization {
            let entry = request.headers_mut().entry(header::AUTHORIZATION);
            entry.or_insert_with(|| authorization.clone());
        }
        loop {
            let reused = self.take_idle();
            let is_reused = reused.is_some();
            let mut sender = match reused {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            match sender.try_send_request(request.map(Full::new)).await {
                Ok(response) => {
                    let idle = self.idle.clone();
                    return Ok(response
                        .map(|incoming| ResponseBody { incoming, back: Some((sender, idle)) }));
                }
                Err(mut error) => match (is_reused, error.take_message()) {
                    // A kept connection had been closed by the server: the request never left.
                    (true, Some(unsent)) => request = restore(unsent),
                    (_, unsent) => {
                        drop(unsent);
                        return Err(self.broken(error.into_error()));
                    }
                },
            }
        }
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
        let response = self.checked(method, path, body.into()).await?;
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

    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        let ready = idle.iter().rposition(Sender::is_ready)?;
        Some(idle.swap_remove(ready))
    }

    async fn connect(&self) -> Result<Sender, ClientError> {
        let connect = |source| ClientError::Connect { to: self.target.to_string(), source };
        match &self.target {
            Target::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(connect)?;
                self.open(TokioIo::new(stream)).await
            }
            Target::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(connect)?;
                stream.set_nodelay(true).map_err(connect)?;
                self.open(TokioIo::new(stream)).await
            }
        }
    }

    async fn open<I>(&self, io: I) -> Result<Sender, ClientError>
    where
        I: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    {
        let (sender, connection) = handshake(io).await.map_err(|error| self.broken(error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "connection ended early");
            }
        });
        Ok(sender)
    }
}

fn restore(request: Request<Full<Bytes>>) -> Request<Bytes> {
    request.map(|mut body| {
        // A body that never left is whole and ready.
        match Pin::new(&mut body).poll_frame(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            Poll::Ready(_) | Poll::Pending => Bytes::new(),
        }
    })
}

/// The body of an answer. Dropping it before its end closes the connection.
#[derive(Debug)]
pub struct ResponseBody {
    incoming: Incoming,
    back: Option<(Sender, Idle)>,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        if matches!(polled, Poll::Ready(None)) {
            self.give_back();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.incoming.size_hint()
    }
}

impl ResponseBody {
    fn give_back(&mut self) {
        if let Some((sender, idle)) = self.back.take() {
            let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < MAX_IDLE && !sender.is_closed() {
                idle.push(sender);
            }
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // A body of known length is over without a last empty poll.
        if self.incoming.is_end_stream() {
            self.give_back();
        }
    }
}
