//! Connections that leave HTTP: after an answer of 101 their bytes belong to another protocol.
//!
//! A server's connection is over when its socket is dropped, by whoever has it then. Until then it
//! counts among those that a drain waits for, and keeps what its [`ConnectionLife`] was given.

use crate::body::BoxError;
use http::Request;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};

type Kept = Box<dyn Any + Send>;

/// The life of a client's connection. It is among the extensions of requests that want to leave
/// HTTP.
#[derive(Debug, Clone, Default)]
pub struct ConnectionLife {
    /// Gone when the connection is.
    kept: Arc<Mutex<Option<Vec<Kept>>>>,
}

impl ConnectionLife {
    /// The life of a connection, and what ends it by being dropped.
    pub(crate) fn begin() -> (Self, ConnectionEnd) {
        let life = Self { kept: Arc::new(Mutex::new(Some(Vec::new()))) };
        (life.clone(), ConnectionEnd(life))
    }

    /// Keeps something until the connection is closed; drops it at once if it is closed already.
    pub fn keep(&self, what: impl Send + 'static) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = &mut *kept {
            kept.push(Box::new(what));
        }
    }
}

/// Lies beside a connection's socket, wherever that goes.
#[derive(Debug)]
pub(crate) struct ConnectionEnd(ConnectionLife);

impl Drop for ConnectionEnd {
    fn drop(&mut self) {
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Not under the lock: what is kept may look at the connection when it is dropped.
        drop(kept);
    }
}

/// A request's way out of HTTP: it is to be answered with 101.
#[derive(Debug)]
pub struct Upgrade(OnUpgrade);

impl Upgrade {
    /// Takes it off a request. Without an answer of 101 it leads nowhere.
    pub fn of<B>(request: &mut Request<B>) -> Self {
        Self(hyper::upgrade::on(request))
    }

    /// The client's bytes, once it has been answered.
    ///
    /// # Errors
    /// When the client went away before, or was answered otherwise.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn stream(
        self,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static, BoxError> {
        Ok(TokioIo::new(self.0.await?))
    }
}
