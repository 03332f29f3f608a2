//! Answers of `/v1/responses` that are kept, so that later requests can go on from them.
//!
//! They are kept in this process, so many and so large together, and for as long as it runs; each for
//! whoever has the key with which it was asked for.

use crate::reply::Dialect;
use crate::stream::split;
use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tyndall_openai::{
    ApiError, ItemOrder, ResponseStore, StoredResponse, expand_input, finished_response,
};
use tyndall_transport::{Body, BoxError, RequestBody, json as json_response};

const MAX_RESPONSES: usize = 1024;
const MAX_BYTES: usize = 64 << 20;

/// Items of a page where a request does not say.
const DEFAULT_LIMIT: usize = 20;

/// The answers that are kept.
#[derive(Debug, Clone)]
pub(crate) struct Kept(Arc<Mutex<ResponseStore>>);

impl Default for Kept {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(ResponseStore::new(MAX_RESPONSES, MAX_BYTES))))
    }
}

/// A request for a response, with all that it goes on from.
#[derive(Debug)]
pub(crate) struct Expanded {
    /// For the replica.
    pub(crate) body: Bytes,
    /// Where the answer is to be kept.
    keep: Option<Keep>,
}

/// What is needed to keep an answer.
#[derive(Debug)]
pub(crate) struct Keep {
    owner: String,
    /// The body for the replica.
    request: Map<String, Value>,
}

impl Kept {
    /// Puts what a valid body goes on from in front of its input.
    ///
    /// # Errors
    /// 404 where that is not kept.
    pub(crate) fn expand(&self, owner: &str, body: Bytes) -> Result<Expanded, ApiError> {
        let Ok(Value::Object(object)) = serde_json::from_slice(&body) else {
            return Ok(Expanded { body, keep: None });
        };
        let is_kept = object.get("store").is_none_or(|store| *store != Value::Bool(false));
        let keep = |request| is_kept.then(|| Keep { owner: owner.to_owned(), request });
        let Some(id) = object.get("previous_response_id").and_then(Value::as_str) else {
            return Ok(Expanded { body, keep: keep(object) });
        };
        let previous = self.get(owner, id)?;
        let object = expand_input(object, &previous)?;
        let body = Value::Object(object.clone()).to_string().into();
        Ok(Expanded { body, keep: keep(object) })
    }

    /// Keeps the answer to a request when it passes.
    pub(crate) fn keeping(&self, keep: Option<Keep>, response: Response<Body>) -> Response<Body> {
        let Some(keep) = keep.filter(|_| response.status() == StatusCode::OK) else {
            return response;
        };
        let headers = response.headers().get(http::header::CONTENT_TYPE);
        let is_stream =
            headers.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        response.map(|inner| {
            let (kept, whole) = (self.clone(), BytesMut::new());
            Keeping { inner, kept, keep: Some(keep), is_stream, whole }.boxed_unsync()
        })
    }

    /// Answers for an answer that is kept: itself, its end, or its input.
    pub(crate) fn answer(
        &self,
        owner: &str,
        id: &str,
        is_input: bool,
        request: &Request<RequestBody>,
    ) -> Response<Body> {
        let answered = match (request.method(), is_input) {
            (&Method::DELETE, _) => self.delete(owner, id),
            (_, false) => self.get(owner, id).map(|stored| stored.response.clone()),
            (_, true) => self.input(owner, id, request.uri().query().unwrap_or_default()),
        };
        match answered {
            Ok(value) => json_response(StatusCode::OK, &value),
            Err(error) => crate::reply::Failed::from(error).into_response(Dialect::OpenAi),
        }
    }

    fn get(&self, owner: &str, id: &str) -> Result<Arc<StoredResponse>, ApiError> {
        self.store().get(&owned(owner, id)).ok_or_else(|| ApiError::unknown_response(id))
    }

    fn delete(&self, owner: &str, id: &str) -> Result<Value, ApiError> {
        match self.store().remove(&owned(owner, id)) {
            true => Ok(json!({"id": id, "object": "response", "deleted": true})),
            false => Err(ApiError::unknown_response(id)),
        }
    }

    fn input(&self, owner: &str, id: &str, query: &str) -> Result<Value, ApiError> {
        let stored = self.get(owner, id)?;
        let value = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next_back()
        };
        let order = match value("order") {
            None | Some("desc") => ItemOrder::Descending,
            Some("asc") => ItemOrder::Ascending,
            Some(other) => {
                let message = format!("order must be asc or desc, got {other:?}");
                return Err(ApiError::invalid("order", message));
            }
        };
        let limit = match value("limit") {
            None => DEFAULT_LIMIT,
            Some(text) => match text.parse() {
                Ok(limit) if (1..=100).contains(&limit) => limit,
                _ => {
                    let message = format!("limit must be between 1 and 100, got {text:?}");
                    return Err(ApiError::invalid("limit", message));
                }
            },
        };
        Ok(stored.list_input(order, value("after"), limit))
    }

    fn put(&self, keep: &Keep, response: Value) {
        let Some(id) = response.get("id").and_then(Value::as_str).map(str::to_owned) else {
            return;
        };
        // A request that was answered has a valid input.
        if let Ok(stored) = StoredResponse::new(&keep.request, response)
            && !self.store().put(&owned(&keep.owner, &id), stored)
        {
            tracing::warn!(id, "a response is too large to be kept");
        }
    }

    fn store(&self) -> MutexGuard<'_, ResponseStore> {
        // Every change of the store is whole before anything in it can fail.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The id under which an answer is kept: whoever has another key does not find it.
fn owned(owner: &str, id: &str) -> String {
    format!("{owner}/{id}")
}

impl Expanded {
    /// The body for the replica, and what is needed to keep the answer.
    pub(crate) fn into_parts(self) -> (Bytes, Option<Keep>) {
        (self.body, self.keep)
    }
}

/// An answer on its way to the client, which is kept before its last byte is passed on.
struct Keeping {
    inner: Body,
    kept: Kept,
    /// Until it is kept.
    keep: Option<Keep>,
    is_stream: bool,
    /// An answer that is no stream, so far.
    whole: BytesMut,
}

impl Keeping {
    fn pass(&mut self, data: &[u8]) {
        let Some(keep) = &self.keep else { return };
        let finished = if self.is_stream {
            split(data).filter_map(|event| std::str::from_utf8(event).ok()).find_map(finished)
        } else {
            if self.whole.len() + data.len() > MAX_BYTES {
                self.keep = None;
                return;
            }
            self.whole.extend_from_slice(data);
            match self.inner.is_end_stream() {
                true => serde_json::from_slice(&self.whole).ok(),
                false => None,
            }
        };
        if let Some(response) = finished {
            self.kept.put(keep, response);
            self.keep = None;
        }
    }
}

/// The response that an event ends with.
fn finished(event: &str) -> Option<Value> {
    let (name, data) = event.strip_prefix("event: ")?.split_once("\ndata: ")?;
    finished_response(name, data.trim_end())
}

impl HttpBody for Keeping {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &polled
            && let Some(data) = frame.data_ref()
        {
            let data = data.clone();
            self.pass(&data);
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
