//! What goes wrong between a caller and a deployment, by Ray Serve's names.
//!
//! An [`Error`] crosses processes as a JSON object with its `kind`; one table here gives each kind
//! its HTTP status.

use crate::context::RequestContext;
use axum::response::IntoResponse;
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tyndall_transport::BoxError;
use tyndall_types::with_causes;

/// What this library's calls end with.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// [`Error::kind`] of a request whose client went away.
pub(crate) const CANCELLED: &str = "RequestCancelled";

/// Marks an answer that says an error, with its [`Error::kind`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failed(pub(crate) &'static str);

/// Why a call has no answer, or an application cannot be built.
///
/// Source of names and texts: Ray Serve `serve/exceptions.py`.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Error {
    /// Too many requests wait already.
    #[error(
        "Request dropped due to backpressure (num_queued_requests={num_queued_requests}, \
         max_queued_requests={max_queued_requests})."
    )]
    BackPressure {
        /// Requests that waited.
        num_queued_requests: u32,
        /// The bound.
        max_queued_requests: u32,
        /// 503 or 429, as the deployment has it.
        status_code: u16,
        /// Value of `Retry-After`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<f64>,
    },
    /// The deployment has no replica and will not have one soon.
    #[error("{deployment} is unavailable because {reason}")]
    DeploymentUnavailable {
        /// Which.
        deployment: String,
        /// One line of cause and one of cure.
        reason: String,
        /// Value of `Retry-After`, where another try may go better.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<f64>,
    },
    /// The replica that had the request is gone.
    #[error("{message}")]
    ReplicaUnavailable {
        /// What happened.
        message: String,
    },
    /// The request was cancelled.
    #[error("Request {request_id} was cancelled.")]
    RequestCancelled {
        /// Which.
        request_id: String,
    },
    /// The time of the call is over.
    #[error("Request {request_id} timed out after {timeout_s}s.")]
    Timeout {
        /// Which.
        request_id: String,
        /// The time it had.
        timeout_s: f64,
    },
    /// The deployment's own code failed.
    #[error("{message}")]
    UserError {
        /// What it says, with its causes.
        message: String,
        /// The exception itself, in base64, where caller and callee are code of a language that can
        /// hand one on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exception: Option<String>,
    },
    /// The call does not fit the deployment: a body that is not a request, a method that does not
    /// exist.
    #[error("{message}")]
    InvalidRequest {
        /// One line of cause and one of cure.
        message: String,
    },
    /// Options or an application that cannot be.
    #[error("{message}")]
    InvalidOptions {
        /// One line of cause and one of cure.
        message: String,
    },
}

impl Error {
    /// An error of a deployment's own code: a text, or any error, of which the causes are kept as
    /// text.
    #[must_use]
    pub fn user(error: impl Into<BoxError>) -> Self {
        let error = error.into();
        Self::UserError { message: with_causes(error.to_string(), error.as_ref()), exception: None }
    }

    /// A request that the deployment cannot take.
    #[must_use]
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::InvalidRequest { message: message.into() }
    }

    /// Options that cannot be.
    pub(crate) fn options(message: impl Into<String>) -> Self {
        Self::InvalidOptions { message: message.into() }
    }

    /// The time of a call is over that was begun then.
    pub(crate) fn timeout(context: &RequestContext, begun: Instant) -> Self {
        let limit = context.deadline.unwrap_or(begun).saturating_duration_since(begun);
        // The call was begun a moment after its time was set.
        let timeout_s = (limit.as_secs_f64() * 1e3).round() / 1e3;
        Self::Timeout { request_id: context.request_id.clone(), timeout_s }
    }

    /// A panic of a deployment's code.
    pub(crate) fn panicked(payload: &(dyn std::any::Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        let text = text.unwrap_or_else(|| "no message".to_owned());
        Self::user(format!("the deployment panicked: {text}"))
    }

    /// The variant's name, for metrics.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::BackPressure { .. } => "BackPressure",
            Self::DeploymentUnavailable { .. } => "DeploymentUnavailable",
            Self::ReplicaUnavailable { .. } => "ReplicaUnavailable",
            Self::RequestCancelled { .. } => CANCELLED,
            Self::Timeout { .. } => "Timeout",
            Self::UserError { .. } => "UserError",
            Self::InvalidRequest { .. } => "InvalidRequest",
            Self::InvalidOptions { .. } => "InvalidOptions",
        }
    }

    /// The status of an HTTP answer with this error.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BackPressure { status_code, .. } => {
                StatusCode::from_u16(*status_code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
            }
            Self::DeploymentUnavailable { .. } | Self::ReplicaUnavailable { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::RequestCancelled { .. } => {
                StatusCode::from_u16(499).expect("499 lies within the statuses of HTTP")
            }
            Self::Timeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::InvalidRequest { .. } => StatusCode::BAD_REQUEST,
            Self::UserError { .. } | Self::InvalidOptions { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// Seconds that a client shall wait before the next try, rounded up.
    pub(crate) fn retry_after(&self) -> Option<HeaderValue> {
        let (Self::BackPressure { retry_after_s, .. }
        | Self::DeploymentUnavailable { retry_after_s, .. }) = self
        else {
            return None;
        };
        HeaderValue::from_str(&format!("{:.0}", (*retry_after_s)?.ceil())).ok()
    }
}

/// For handlers of a router. What the deployment's own code says goes to the log, not to clients,
/// who read `Internal Server Error`.
impl IntoResponse for Error {
    fn into_response(self) -> axum::response::Response {
        let (status, failed) = (self.status(), Failed(self.kind()));
        let body = match &self {
            Self::UserError { message, .. } | Self::InvalidOptions { message } => {
                tracing::error!(error = message, "a request failed");
                "Internal Server Error".to_owned()
            }
            shown => shown.to_string(),
        };
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        let mut response = (status, [(header::CONTENT_TYPE, kind)], body).into_response();
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response.extensions_mut().insert(failed);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind, with its status.
    fn all() -> [(Error, u16); 8] {
        [
            (
                Error::BackPressure {
                    num_queued_requests: 3,
                    max_queued_requests: 3,
                    status_code: 503,
                    retry_after_s: Some(6.5),
                },
                503,
            ),
            (
                Error::DeploymentUnavailable {
                    deployment: "A".into(),
                    reason: "it failed".into(),
                    retry_after_s: Some(1.0),
                },
                503,
            ),
            (Error::ReplicaUnavailable { message: "gone".into() }, 503),
            (Error::RequestCancelled { request_id: "r".into() }, 499),
            (Error::Timeout { request_id: "r".into(), timeout_s: 0.5 }, 408),
            (Error::user("no"), 500),
            (Error::invalid_request("what"), 400),
            (Error::options("bad"), 500),
        ]
    }

    #[test]
    fn errors_cross_processes_with_their_kind() {
        for (error, status) in all() {
            let text = serde_json::to_string(&error).unwrap();
            assert_eq!(serde_json::from_str::<Error>(&text).unwrap(), error, "{text}");
            assert_eq!(error.status().as_u16(), status, "{text}");
        }
    }

    #[test]
    fn the_docs_have_every_kind_with_its_status() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/rust.md");
        let docs = std::fs::read_to_string(path).unwrap();
        for (error, status) in all() {
            let shown = format!("{error:?}");
            let kind = shown.split(' ').next().unwrap();
            assert_eq!(error.kind(), kind);
            let row = format!("| `{kind}` | {status} | ");
            assert!(docs.lines().any(|line| line.starts_with(&row)), "docs/rust.md lacks {row}");
        }
    }

    #[test]
    fn answers_say_as_much_as_ray_says() {
        let full = Error::BackPressure {
            num_queued_requests: 1,
            max_queued_requests: 1,
            status_code: 429,
            retry_after_s: Some(6.2),
        };
        assert_eq!(full.status(), StatusCode::TOO_MANY_REQUESTS);
        let text = full.to_string();
        assert!(text.starts_with("Request dropped due to backpressure (num_queued_requests=1"));
        assert_eq!(full.into_response().headers()[header::RETRY_AFTER], "7");
        let unavailable = Error::DeploymentUnavailable {
            deployment: "A".into(),
            reason: "it failed".into(),
            retry_after_s: Some(0.2),
        };
        assert_eq!(unavailable.into_response().headers()[header::RETRY_AFTER], "1");
        assert!(Error::user("x").into_response().headers().get(header::RETRY_AFTER).is_none());
    }

    #[test]
    fn causes_are_kept_as_text() {
        let cause = std::io::Error::other("disk");
        let error = tyndall_transport::BodyError::Broken(cause.into());
        assert_eq!(Error::user(error).to_string(), "the body ended early: disk");
    }
}
