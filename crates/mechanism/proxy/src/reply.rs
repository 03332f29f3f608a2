//! The one table from what went wrong to status, headers and body.

use crate::deployment::{Refusal, Waits};
use crate::timing::{SERVER_TIMING, server_timing};
use http::{HeaderValue, Method, Response, StatusCode, header};
use serde_json::json;
use tyndall_openai::ApiError;
use tyndall_transport::{Body, BodyError, json as json_response};

/// In whose words an error is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `{"error": "…"}`.
    Generate,
    /// `{"error": {…}}`.
    OpenAi,
}

/// A request that ends with an error of the proxy's own.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: ApiError,
    /// Seconds until the same request may succeed.
    pub(crate) retry_after_s: Option<f64>,
    /// How long it waited, when it did.
    pub(crate) waits: Option<Waits>,
}

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Self {
        let retry_after_s = (error.status == 503).then_some(1.0);
        Self { error, retry_after_s, waits: None }
    }
}

impl Failed {
    pub(crate) fn refused(refusal: Refusal, model: &str) -> Self {
        match refusal {
            Refusal::Full { max_queued } => ApiError::unavailable(format!(
                "{model} has {max_queued} requests waiting already, as many as \
                 max_queued_requests allows; try again later"
            ))
            .into(),
            Refusal::Unavailable(unavailable) => Self {
                error: ApiError::unavailable(unavailable.reason),
                retry_after_s: Some(unavailable.retry_after_s),
                waits: None,
            },
        }
    }

    pub(crate) fn after(mut self, waits: Waits) -> Self {
        self.waits = Some(waits);
        self
    }

    pub(crate) fn into_response(self, dialect: Dialect) -> Response<Body> {
        let status = StatusCode::from_u16(self.error.status).expect("api errors have statuses");
        let mut response = match dialect {
            Dialect::Generate => json_response(status, &self.error.generate_body()),
            Dialect::OpenAi => json_response(status, &self.error.openai_body()),
        };
        if let Some(seconds) = self.retry_after_s {
            // Whole seconds, and never zero, which clients read as "at once".
            let seconds = seconds.clamp(1.0, 86_400.0).ceil() as u64;
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(waits) = self.waits {
            response.headers_mut().insert(SERVER_TIMING, server_timing(waits, None));
        }
        response
    }
}

/// What a body that was not read means for the client.
pub(crate) fn unread(error: &BodyError) -> ApiError {
    match error {
        BodyError::TooLarge { .. } => ApiError::too_large(error.to_string()),
        BodyError::Broken(_) => ApiError::malformed("", "the body ended early"),
    }
}

/// 404 for a path that leads nowhere.
pub(crate) fn not_found() -> Response<Body> {
    json_response(StatusCode::NOT_FOUND, &json!({"detail": "Not Found"}))
}

/// 405 with the method that would do.
pub(crate) fn method_not_allowed(allowed: &Method) -> Response<Body> {
    let mut response =
        json_response(StatusCode::METHOD_NOT_ALLOWED, &json!({"detail": "Method Not Allowed"}));
    let allowed = HeaderValue::from_str(allowed.as_str()).expect("a method is a header value");
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}
