//! A valid request's way to a model's replica and back.

use crate::answer::answer;
use crate::body::{AnswerLimit, Served};
use crate::grant::Grant;
use crate::headers::{TE_TRAILERS, TimeLimit};
use crate::reply::Failed;
use crate::request_id::REQUEST_ID;
use crate::shared::{Shared, model_id};
use crate::stream::EventStream;
use crate::usage::USAGE;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Uri, header};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tyndall_router::{Call, Deployment, Prefix};
use tyndall_transport::Body;

/// Client headers that a model's replica gets.
const PASSED_ON: [HeaderName; 4] = [
    header::ACCEPT,
    header::USER_AGENT,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// A request for text that was read and checked.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) path: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) request_id: HeaderValue,
    pub(crate) body: Bytes,
    pub(crate) arrived: Instant,
    /// How the answer ends where it is a stream.
    pub(crate) stream: EventStream,
    pub(crate) grant: Option<Grant>,
    /// The beginning of its text, where replicas are chosen by it.
    pub(crate) prefix: Option<Prefix>,
}

impl Asked {
    /// As it is sent, and whose it is.
    fn call(self, limit: Option<Duration>) -> (Call, Option<Grant>) {
        let mut headers = HeaderMap::new();
        for name in PASSED_ON {
            if let Some(value) = self.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::TE, TE_TRAILERS);
        headers.insert(REQUEST_ID, self.request_id);
        if self.grant.is_some() {
            headers.insert(USAGE, HeaderValue::from_static("notes"));
        }
        let call = Call {
            method: Method::POST,
            uri: self.path,
            headers,
            body: self.body,
            deadline: limit.map(|limit| self.arrived + limit),
            // A generation has no effect outside its answer.
            runs_once: false,
            model: None,
            has_arguments: false,
            prefix: self.prefix,
            flow: self.grant.as_ref().map(Grant::flow).unwrap_or_default(),
        };
        (call, self.grant)
    }
}

/// Gets a request for text answered.
///
/// # Cancel safety
/// Dropping the future gives back the place or the permit and closes the connection to the
/// replica, so that its work is cancelled.
pub(crate) async fn forward(
    shared: &Shared,
    deployment: &Arc<Deployment>,
    asked: Asked,
) -> Result<Response<Body>, Failed> {
    let model = model_id(deployment).unwrap_or_default();
    let limit = TimeLimit::of(&asked.headers, deployment.route().request_timeout_s);
    let stream = asked.stream;
    let (call, grant) = asked.call(limit.until_answer());
    match deployment.send(&call).await {
        Ok(sent) => {
            let served = Served {
                label: deployment.label(),
                stream: Some(stream),
                metrics: shared.metrics().clone(),
                is_cut: shared.cut_signal(),
                limit: limit.duration().map_or(AnswerLimit::None, AnswerLimit::Silence),
                grant,
            };
            Ok(answer(sent, served))
        }
        Err(error) => Err(Failed::unsent(error, &model, &limit)),
    }
}
