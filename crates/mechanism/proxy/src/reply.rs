//! The one table from what went wrong to status, headers and body.

use crate::headers::TimeLimit;
use crate::timing::{SERVER_TIMING, server_timing};
use http::{HeaderValue, Method, Response, StatusCode, header};
use serde_json::{Value, json};
use std::time::Duration;
use tyndall_openai::ApiError;
use tyndall_router::{Refusal, SendError, SendErrorKind, Waits};
use tyndall_transport::{Body, BodyError, json as json_response, text};
use tyndall_types::protocol::{Backpressure, Unavailable, retry_after_s};

/// In whose words an error is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `{"error": "…"}`.
    Generate,
    /// `{"error": {…}}`.
    OpenAi,
    /// `{"type": "error", "error": {…}}`.
    Anthropic,
    /// The message alone.
    Text,
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
    /// A request for text that got no answer.
    pub(crate) fn unsent(error: SendError, model: &str, limit: &TimeLimit) -> Self {
        let failed = match error.kind {
            SendErrorKind::Refused(refusal) => Self::refused(refusal, model, limit),
            SendErrorKind::TooLate(what) => {
                ApiError::timeout(format!("no answer within {limit}: {what}")).into()
            }
            // No `Retry-After`: a request that ends every replica it meets is better not sent
            // again.
            SendErrorKind::Lost { broken_attempts, .. } => ApiError::replica_lost(format!(
                "{broken_attempts} replicas were lost while they worked on this request; it is \
                 not tried again"
            ))
            .into(),
        };
        Self { waits: error.waits, ..failed }
    }

    /// A request to a program that got no answer, in Ray Serve's words.
    pub(crate) fn unsent_to_program(error: SendError, id: &HeaderValue, limit: &TimeLimit) -> Self {
        let id = String::from_utf8_lossy(id.as_bytes());
        let failed = match error.kind {
            SendErrorKind::Refused(Refusal::Full { max_queued, backpressure }) => {
                let message = format!(
                    "Request dropped due to backpressure (num_queued_requests={max_queued}, \
                     max_queued_requests={max_queued})."
                );
                Self::full(message, backpressure)
            }
            SendErrorKind::Refused(Refusal::TooLate {
                expected,
                queued,
                max_queued,
                backpressure,
            }) => {
                let message = format!(
                    "Request dropped due to backpressure (num_queued_requests={queued}, \
                     max_queued_requests={max_queued}): {}.",
                    too_late(expected, limit)
                );
                Self::full(message, come_again(backpressure, expected, limit))
            }
            SendErrorKind::Refused(Refusal::Unavailable(why)) => Self::unavailable(why),
            SendErrorKind::TooLate(_) => {
                // As Python writes it: with a fraction, be it zero.
                let seconds = limit.until_answer().unwrap_or_default().as_secs_f64();
                ApiError::request_timeout(format!("Request {id} timed out after {seconds:?}s."))
                    .into()
            }
            SendErrorKind::Lost { .. } => ApiError::internal(format!(
                "the replica was lost while it worked on request {id}, which is not tried again"
            ))
            .into(),
        };
        Self { waits: error.waits, ..failed }
    }

    fn refused(refusal: Refusal, model: &str, limit: &TimeLimit) -> Self {
        match refusal {
            Refusal::Full { max_queued, backpressure } => {
                let message = format!(
                    "{model} has {max_queued} requests waiting already, as many as \
                     max_queued_requests allows; try again later"
                );
                Self::full(message, backpressure)
            }
            Refusal::TooLate { expected, queued, backpressure, .. } => {
                let late = too_late(expected, limit);
                let message =
                    format!("{model} has {queued} requests waiting: {late}; try again later");
                Self::full(message, come_again(backpressure, expected, limit))
            }
            Refusal::Unavailable(why) => Self::unavailable(why),
        }
    }

    fn full(message: String, backpressure: Backpressure) -> Self {
        let error = match backpressure.status_code {
            429 => ApiError { status: 429, kind: "RateLimitError", message, param: None },
            _ => ApiError::unavailable(message),
        };
        let retry_after_s = Some(backpressure.retry_after_s.unwrap_or(1.0));
        Self { error, retry_after_s, waits: None }
    }

    fn unavailable(why: Unavailable) -> Self {
        let error = ApiError::unavailable(why.reason);
        Self { error, retry_after_s: Some(why.retry_after_s), waits: None }
    }

    pub(crate) fn into_response(self, dialect: Dialect) -> Response<Body> {
        let status = StatusCode::from_u16(self.error.status).expect("api errors have statuses");
        let is_unauthorized = self.error.status == 401;
        let mut response = match dialect {
            Dialect::Generate => json_response(status, &self.error.generate_body()),
            Dialect::OpenAi => json_response(status, &self.error.openai_body()),
            Dialect::Anthropic => json_response(status, &self.error.anthropic_body()),
            Dialect::Text => text(status, self.error.message),
        };
        if let Some(seconds) = self.retry_after_s {
            let seconds = retry_after_s(seconds).ceil() as u64;
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if is_unauthorized {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        if let Some(waits) = self.waits {
            response.headers_mut().insert(SERVER_TIMING, server_timing(waits, None));
        }
        response
    }
}

fn too_late(expected: Duration, limit: &TimeLimit) -> String {
    let expected = expected.as_secs_f64();
    format!("an answer is expected after {expected:.1} s, too late for {limit}")
}

/// When as much work is done as would have been too much, unless the deployment has its own say.
fn come_again(backpressure: Backpressure, expected: Duration, limit: &TimeLimit) -> Backpressure {
    let beyond = expected.saturating_sub(limit.until_answer().unwrap_or_default()).as_secs_f64();
    let retry_after_s = backpressure.retry_after_s.or(Some(beyond.max(1.0)));
    Backpressure { retry_after_s, ..backpressure }
}

/// What a body that was not read means for the client.
pub(crate) fn unread(error: &BodyError) -> ApiError {
    match error {
        BodyError::TooLarge { .. } => ApiError::too_large(error.to_string()),
        BodyError::Broken(_) => ApiError::malformed("", "the body ended early"),
    }
}

/// 404 for a path where no application is, in Ray Serve's words.
pub(crate) fn no_path(path: &str) -> Response<Body> {
    let message =
        format!("Path '{path}' not found. Ping http://.../-/routes for available routes.");
    text(StatusCode::NOT_FOUND, message)
}

/// 404 for a path that models do not have.
pub(crate) fn not_found() -> Response<Body> {
    json_response(StatusCode::NOT_FOUND, &detail(StatusCode::NOT_FOUND))
}

/// What is known of a request before its API is: in the words of the plain example, and for clients of
/// OpenAI's API, which look for an error, in theirs.
fn detail(status: StatusCode) -> Value {
    let phrase = status.canonical_reason().unwrap_or_default();
    json!({"detail": phrase, "error": {
        "message": phrase, "type": phrase, "param": null, "code": status.as_u16(),
    }})
}

/// 405 with the methods that would do.
pub(crate) fn method_not_allowed(allowed: &[Method]) -> Response<Body> {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    let mut response = json_response(status, &detail(status));
    let allowed: Vec<&str> = allowed.iter().map(Method::as_str).collect();
    let allowed = HeaderValue::from_str(&allowed.join(", ")).expect("methods are a header value");
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    #[test]
    fn who_would_wait_too_long_is_told_when_to_come_again() {
        let limit = TimeLimit::of(&HeaderMap::new(), 10.0);
        let late = |backpressure| SendError {
            kind: SendErrorKind::Refused(Refusal::TooLate {
                expected: Duration::from_millis(17_500),
                queued: 40,
                max_queued: 100,
                backpressure,
            }),
            waits: None,
        };
        let told = Failed::unsent(late(Backpressure::default()), "demo", &limit);
        let expected = "demo has 40 requests waiting: an answer is expected after 17.5 s, too late \
                        for 10 s, which is this deployment's request_timeout_s; try again later";
        assert_eq!(told.error.message, expected);
        let response = told.into_response(Dialect::OpenAi);
        assert_eq!(
            (response.status().as_u16(), &response.headers()["retry-after"]),
            (503, &"8".parse().unwrap())
        );
        let own = Backpressure { status_code: 429, retry_after_s: Some(2.0) };
        let id = HeaderValue::from_static("id");
        let told = Failed::unsent_to_program(late(own), &id, &limit);
        let begin = "Request dropped due to backpressure (num_queued_requests=40, \
                     max_queued_requests=100): an answer is expected";
        assert!(told.error.message.starts_with(begin), "{}", told.error.message);
        let response = told.into_response(Dialect::Text);
        assert_eq!(
            (response.status().as_u16(), &response.headers()["retry-after"]),
            (429, &"2".parse().unwrap())
        );
    }
}
