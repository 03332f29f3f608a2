//! What code knows of the request and of the replica that it runs in.
//!
//! Both are task-local: they hold in the task of the request, and in the batch function of a
//! [`Batcher`](crate::Batcher). A task that you spawn yourself starts without them.

use crate::held::{HeldModels, ModelsOfPart};
use http::{HeaderMap, HeaderName};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::{Duration, Instant};
#[cfg(test)]
use tyndall_telemetry::ProgramLabels;
use tyndall_telemetry::ProgramMetrics;
pub use tyndall_types::protocol::GangContext;
use tyndall_types::protocol::JsonText;
use tyndall_types::{ApplicationName, HEADER_REQUEST_ID, ReplicaId};

/// Header that carries the id of a multiplexed model.
pub const HEADER_MULTIPLEXED_MODEL_ID: &str = "serve_multiplexed_model_id";

/// Header that carries the id of a session.
pub const HEADER_SESSION_ID: &str = "x-session-id";

/// Header that carries the time that a request has left, in seconds, by Ray's name.
pub const HEADER_TIMEOUT: &str = "x-request-timeout-seconds";

/// Header that carries the prefix at which an application is mounted.
pub const HEADER_ROOT_PATH: &str = "x-tyndall-root-path";

/// Names that are read once and not with every request.
const REQUEST_ID: HeaderName = HeaderName::from_static(HEADER_REQUEST_ID);
const MULTIPLEXED_MODEL_ID: HeaderName = HeaderName::from_static(HEADER_MULTIPLEXED_MODEL_ID);
/// The same, as proxies write it that let no underscore pass.
const DASHED_MODEL_ID: HeaderName = HeaderName::from_static("serve-multiplexed-model-id");
const SESSION_ID: HeaderName = HeaderName::from_static(HEADER_SESSION_ID);
const TIMEOUT: HeaderName = HeaderName::from_static(HEADER_TIMEOUT);
const ROOT_PATH: HeaderName = HeaderName::from_static(HEADER_ROOT_PATH);
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");

/// A request, as every deployment that takes part in it knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestContext {
    /// The same in all deployments that one request from outside reaches.
    pub request_id: String,
    /// The prefix at which the application is mounted; empty at the root, and where there is none.
    pub root_path: String,
    /// Which of a replica's models is asked for; empty is none. Calls made by the request do not
    /// inherit it.
    pub multiplexed_model_id: String,
    /// The session; empty is none.
    pub session_id: String,
    /// W3C trace context; empty is none.
    pub traceparent: String,
    /// W3C trace state; empty is none.
    pub tracestate: String,
    /// Calls made by the request end by then. Whoever made the request ends it itself.
    pub deadline: Option<Instant>,
}

impl RequestContext {
    /// Reads it from a request's headers; without a request id there, it gets one.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let text = |name: HeaderName| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let sent = text(REQUEST_ID);
        let model = Some(text(MULTIPLEXED_MODEL_ID)).filter(|model| !model.is_empty());
        Self {
            request_id: if sent.is_empty() { new_request_id() } else { sent },
            root_path: text(ROOT_PATH).trim_end_matches('/').to_owned(),
            multiplexed_model_id: model.unwrap_or_else(|| text(DASHED_MODEL_ID)),
            session_id: text(SESSION_ID),
            traceparent: text(TRACE_PARENT),
            tracestate: text(TRACE_STATE),
            deadline: time_left(headers).and_then(|left| Instant::now().checked_add(left)),
        }
    }

    /// Writes it to a request's headers; what cannot stand in a header is left out.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        let all = [
            (HEADER_REQUEST_ID, &self.request_id),
            (HEADER_ROOT_PATH, &self.root_path),
            (HEADER_MULTIPLEXED_MODEL_ID, &self.multiplexed_model_id),
            (HEADER_SESSION_ID, &self.session_id),
            ("traceparent", &self.traceparent),
            ("tracestate", &self.tracestate),
        ];
        for (name, value) in all {
            if let (false, Ok(value)) = (value.is_empty(), value.parse()) {
                headers.insert(http::HeaderName::from_static(name), value);
            }
        }
        if let Some(deadline) = self.deadline {
            // What is over has a last moment: a time of zero would mean no end.
            let left = deadline.saturating_duration_since(Instant::now());
            let left = left.max(Duration::from_millis(1)).as_secs_f64();
            if let Ok(value) = format!("{left:.3}").parse() {
                headers.insert(HEADER_TIMEOUT, value);
            }
        }
    }

    /// The context of a call that the current request makes; outside of one, a new request.
    pub(crate) fn child() -> Self {
        match request() {
            Some(parent) => Self { multiplexed_model_id: String::new(), ..(*parent).clone() },
            None => Self { request_id: new_request_id(), ..Self::default() },
        }
    }
}

/// What a request says; a time that is not above zero is none.
fn time_left(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let seconds = text.trim().parse::<f64>().ok().filter(|seconds| *seconds > 0.0)?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// The replica that code runs in.
#[derive(Debug, Clone)]
pub struct ReplicaContext {
    pub(crate) facts: Arc<ReplicaFacts>,
}

#[derive(Debug)]
pub(crate) struct ReplicaFacts {
    pub(crate) application: ApplicationName,
    pub(crate) deployment: String,
    pub(crate) replica_id: ReplicaId,
    pub(crate) max_ongoing_requests: u32,
    pub(crate) rank: u32,
    pub(crate) gang: Option<GangContext>,
    pub(crate) metrics: Arc<ProgramMetrics>,
    pub(crate) held: Arc<HeldModels>,
    pub(crate) metadata: Arc<Metadata>,
}

/// What a replica says of itself, once, to those who choose among replicas.
pub(crate) type Metadata = OnceLock<JsonText>;

impl ReplicaContext {
    /// The application's name.
    #[must_use]
    pub fn application(&self) -> &ApplicationName {
        &self.facts.application
    }

    /// The deployment's name in its application.
    #[must_use]
    pub fn deployment(&self) -> &str {
        &self.facts.deployment
    }

    /// Names this replica.
    #[must_use]
    pub fn replica_id(&self) -> &ReplicaId {
        &self.facts.replica_id
    }

    /// Requests that this replica works on at a time.
    #[must_use]
    pub fn max_ongoing_requests(&self) -> u32 {
        self.facts.max_ongoing_requests
    }

    /// For code that keeps models by itself: what it sets there is counted, and told to those who choose
    /// replicas for requests that name a model. A [`Multiplexed`](crate::Multiplexed) does so by itself.
    #[must_use]
    pub fn models_of_part(&self) -> ModelsOfPart {
        self.facts.held.part(&self.facts.metrics)
    }

    /// Says what the replica is to those who choose among replicas. What is said once holds, and only
    /// what is said before the start is done is told.
    pub fn set_metadata(&self, metadata: &serde_json::Value) {
        self.facts.metadata.get_or_init(|| metadata.into());
    }

    /// Its number among the replicas of the deployment: from 0, and below their number once a
    /// change of it is done. A replica that takes the place of a lost one gets its rank.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.facts.rank
    }

    /// Which replica of which gang it is; none where its deployment has no gangs.
    #[must_use]
    pub fn gang(&self) -> Option<&GangContext> {
        self.facts.gang.as_ref()
    }
}

#[cfg(test)]
impl ReplicaContext {
    /// One that tests put around code.
    pub(crate) fn of_tests() -> Self {
        let labels = ProgramLabels {
            application: "app".into(),
            deployment: "D".into(),
            replica: "r1".into(),
        };
        let facts = ReplicaFacts {
            application: ApplicationName::new("app").unwrap(),
            deployment: "D".into(),
            replica_id: ReplicaId::new("r1"),
            max_ongoing_requests: 8,
            rank: 0,
            gang: None,
            metrics: Arc::new(ProgramMetrics::new(labels)),
            held: Arc::default(),
            metadata: Arc::default(),
        };
        Self { facts: Arc::new(facts) }
    }
}

/// Both, as they hold in a task.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) request: Arc<RequestContext>,
    pub(crate) replica: Option<ReplicaContext>,
}

tokio::task_local! {
    static SCOPE: Scope;
}

impl Scope {
    /// What holds here.
    pub(crate) fn current() -> Option<Self> {
        SCOPE.try_with(Clone::clone).ok()
    }

    /// Runs `work` in it.
    pub(crate) fn run<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        SCOPE.scope(self, work)
    }

    /// Runs a poll in it.
    pub(crate) fn enter<T>(&self, poll: impl FnOnce() -> T) -> T {
        SCOPE.sync_scope(self.clone(), poll)
    }
}

/// Takes what holds here along into another task.
pub(crate) fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let scope = Scope::current();
    async move {
        match scope {
            Some(scope) => scope.run(work).await,
            None => work.await,
        }
    }
}

/// The request that the current task answers; absent outside of one.
#[must_use]
pub fn request() -> Option<Arc<RequestContext>> {
    SCOPE.try_with(|scope| scope.request.clone()).ok()
}

/// The replica that the current task runs in; absent outside of one.
#[must_use]
pub fn replica() -> Option<ReplicaContext> {
    SCOPE.try_with(|scope| scope.replica.clone()).ok().flatten()
}

/// The id of the current request's multiplexed model; empty when it names none. Inside a batch
/// function it is the id of all of its items.
#[must_use]
pub fn multiplexed_model_id() -> String {
    request().map(|request| request.multiplexed_model_id.clone()).unwrap_or_default()
}

/// An id for a request that came without one: unique in this process, and among processes by its
/// number and the time.
pub(crate) fn new_request_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{:x}-{:x}-{next:x}", since.as_nanos(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_carry_the_context() {
        let context = RequestContext {
            request_id: "r1".into(),
            root_path: "/search".into(),
            multiplexed_model_id: "m".into(),
            session_id: "s".into(),
            traceparent: "00-1".into(),
            tracestate: "a=b".into(),
            deadline: None,
        };
        let mut headers = HeaderMap::new();
        context.write_headers(&mut headers);
        assert_eq!(RequestContext::from_headers(&headers), context);
        let mut dashed = HeaderMap::new();
        dashed.insert("serve-multiplexed-model-id", "m".parse().unwrap());
        assert_eq!(RequestContext::from_headers(&dashed).multiplexed_model_id, "m");
        assert!(!RequestContext::from_headers(&dashed).request_id.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_that_is_left_is_passed_on() {
        let check = |left: i64, sent: &str| {
            let now = Instant::now() + Duration::from_secs(60);
            let shift = Duration::from_millis(left.unsigned_abs());
            let deadline = if left < 0 { now - shift } else { now + shift };
            let deadline = Some(deadline - Duration::from_secs(60));
            let mut headers = HeaderMap::new();
            RequestContext { deadline, ..RequestContext::default() }.write_headers(&mut headers);
            assert_eq!(headers[HEADER_TIMEOUT], sent);
            let read = RequestContext::from_headers(&headers).deadline.unwrap();
            assert!(left < 0 || Some(read) == deadline);
        };
        check(1500, "1.500");
        check(-7, "0.001");
        for endless in ["0", "-1", "soon", "NaN", ""] {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER_TIMEOUT, endless.parse().unwrap());
            assert_eq!(RequestContext::from_headers(&headers).deadline, None, "{endless}");
        }
    }

    #[tokio::test]
    async fn calls_inherit_the_request_but_not_its_model() {
        let request = RequestContext {
            request_id: "r1".into(),
            multiplexed_model_id: "m".into(),
            ..RequestContext::default()
        };
        let scope = Scope { request: request.into(), replica: None };
        let child = scope.run(async { RequestContext::child() }).await;
        assert_eq!((child.request_id.as_str(), child.multiplexed_model_id.as_str()), ("r1", ""));
        assert_ne!(RequestContext::child().request_id, RequestContext::child().request_id);
        assert!(request_outside());
    }

    fn request_outside() -> bool {
        request().is_none() && multiplexed_model_id().is_empty() && replica().is_none()
    }
}
