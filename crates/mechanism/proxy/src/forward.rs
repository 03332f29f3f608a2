//! A valid request's way to a replica: wait, send, and again elsewhere when nothing came back.

use crate::answer::answer;
use crate::body::Served;
use crate::deployment::{Deployment, Permit, Refusal, Waits};
use crate::reply::Failed;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tyndall_openai::ApiError;
use tyndall_routing::{Failure, Progress, Retry, retry};
use tyndall_telemetry::ProxyMetrics;
use tyndall_transport::{Body, ClientError, ResponseBody};
use tyndall_types::{HEADER_NOT_STARTED, HEADER_REQUEST_ID};

/// Before a replica that failed a request may have it again, when there is no other.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Client headers that a replica gets.
const PASSED_ON: [HeaderName; 4] = [
    header::ACCEPT,
    header::USER_AGENT,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// A request that was read and checked.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) path: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) request_id: HeaderValue,
    pub(crate) body: Bytes,
    pub(crate) arrived: Instant,
}

impl Call {
    fn request(&self) -> Request<Bytes> {
        let mut request = Request::post(self.path.clone())
            .body(self.body.clone())
            .expect("a path that was received can be sent");
        let headers = request.headers_mut();
        for name in PASSED_ON {
            if let Some(value) = self.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(HEADER_REQUEST_ID, self.request_id.clone());
        request
    }
}

/// What came of one try.
enum Tried {
    Answered(Response<ResponseBody>, Permit),
    Failed(Failure, Permit, String),
}

/// Gets the call answered.
///
/// # Cancel safety
/// Dropping the future gives back the place or the permit and closes the connection to the
/// replica, so that its work is cancelled.
pub(crate) async fn forward(
    deployment: &Arc<Deployment>,
    call: &Call,
    metrics: &Arc<ProxyMetrics>,
) -> Result<Response<Body>, Failed> {
    let route = deployment.route();
    let model = route.model_id.as_str();
    let limit = Duration::try_from_secs_f64(route.request_timeout_s).unwrap_or(MAX_LIMIT);
    let limit = limit.min(MAX_LIMIT);
    let deadline = call.arrived + limit;
    let refused = |refusal: Refusal| {
        metrics.refused(model, refusal.word());
        Failed::refused(refusal, model)
    };

    let mut waiting = deployment.enter().map_err(refused)?;
    let mut waits = Waits::default();
    let mut progress = Progress::default();
    let mut avoid = Vec::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let forgive_after = (!avoid.is_empty()).then_some(pause);
        let permit = timeout_at(deadline, waiting.permit(forgive_after)).await;
        let waited = waiting.waits();
        waits.add(waited);
        let permit = match permit {
            Ok(Ok(permit)) => permit,
            Ok(Err(refusal)) => return Err(refused(refusal).after(waits)),
            Err(_) => {
                return Err(too_late(route.request_timeout_s, "it waited for a replica", waits));
            }
        };
        metrics.waited(model, waited.queue, waited.wake);
        let Ok(tried) = timeout_at(deadline, send(call, permit)).await else {
            return Err(too_late(route.request_timeout_s, "the replica was at work", waits));
        };
        let (failure, permit, reason) = match tried {
            Tried::Answered(response, permit) => {
                let served = Served { permit, model: model.to_owned(), metrics: metrics.clone() };
                return Ok(answer(response, served, waits, limit));
            }
            Tried::Failed(failure, permit, reason) => (failure, permit, reason),
        };
        progress.broken_attempts += u32::from(failure == Failure::Broken);
        progress.past_deadline = Instant::now() >= deadline;
        let replica = permit.replica().clone();
        tracing::debug!(model, %replica, reason, ?failure, "a replica did not take a request");
        if progress.past_deadline {
            return Err(too_late(route.request_timeout_s, "the last replica was lost", waits));
        }
        if retry(failure, progress) == Retry::No {
            return Err(lost(progress, &reason).after(waits));
        }
        metrics.retried(model, word(failure));
        avoid.push(replica);
        waiting = permit.come_back(avoid.clone());
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// Longest time limit; only keeps the arithmetic of time in its range.
const MAX_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);

async fn send(call: &Call, permit: Permit) -> Tried {
    match permit.client().send(call.request()).await {
        Ok(response) => match response.headers().get(HEADER_NOT_STARTED) {
            None => Tried::Answered(response, permit),
            Some(reason) => {
                let reason = String::from_utf8_lossy(reason.as_bytes()).into_owned();
                Tried::Failed(Failure::NotStarted, permit, reason)
            }
        },
        Err(error) => {
            let failure = match &error {
                ClientError::Connect { .. } => Failure::Connect,
                ClientError::Broken { .. }
                | ClientError::Status { .. }
                | ClientError::Json { .. } => Failure::Broken,
            };
            Tried::Failed(failure, permit, error.to_string())
        }
    }
}

fn word(failure: Failure) -> &'static str {
    match failure {
        Failure::Connect => "connect",
        Failure::NotStarted => "not_started",
        Failure::Broken => "broken",
        Failure::Answered(_) => "answered",
    }
}

fn too_late(limit_s: f64, what: &str, waits: Waits) -> Failed {
    Failed::from(ApiError::timeout(format!(
        "no answer within {limit_s} s, which is this deployment's request_timeout_s: {what}"
    )))
    .after(waits)
}

/// No `Retry-After`: a request that ends every replica it meets is better not sent again.
fn lost(progress: Progress, reason: &str) -> Failed {
    tracing::warn!(reason, attempts = progress.broken_attempts, "a request is given up");
    ApiError::replica_lost(format!(
        "{} replicas were lost while they worked on this request; it is not tried again",
        progress.broken_attempts
    ))
    .into()
}
