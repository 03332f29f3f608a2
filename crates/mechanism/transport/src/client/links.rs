//! Which requests of a client go over a link: those that meet others under way.
//!
//! A request that is alone has a connection of its own, where no task stands between it and its
//! answer. The first two that meet have theirs, too, while a link is opened.

use super::Client;
use crate::link::{Link, PROTOCOL, fits};
use crate::wire::{Outgoing, Said, header_bytes};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After so long a link that could not be opened is asked for again.
const PAUSE: Duration = Duration::from_secs(1);
/// Requests with more headers have a connection of their own.
const MAX_HEADERS: usize = 90;

/// The link of a client, and what is under way.
#[derive(Debug, Default)]
pub(super) struct Links {
    under_way: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    None,
    /// It could not be opened then.
    Failed(Instant),
    Opening,
    Open(Arc<Link>),
    /// The server knows none.
    Unknown,
}

/// A request under way, up to the end of its answer.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Links>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Links {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        let before = std::mem::replace(&mut *self.lock(), state);
        // Not under the lock: a link that goes takes its leave.
        drop(before);
    }

    /// One more is under way; whether it is alone.
    pub(super) fn enter(self: &Arc<Self>) -> (UnderWay, bool) {
        let others = self.under_way.fetch_add(1, Ordering::Relaxed);
        (UnderWay(self.clone()), others == 0)
    }

    /// The link, if there is one. Otherwise one is opened, unless that is known to be in vain.
    pub(super) fn link(self: &Arc<Self>, client: &Client) -> Option<Arc<Link>> {
        let mut state = self.lock();
        match &*state {
            State::Open(link) if link.is_open() => return Some(link.clone()),
            State::Failed(since) if since.elapsed() < PAUSE => return None,
            State::Opening | State::Unknown => return None,
            State::None | State::Failed(_) | State::Open(_) => {}
        }
        let before = std::mem::replace(&mut *state, State::Opening);
        drop(state);
        drop(before);
        let (opening, client) = (Opening(self.clone()), client.clone());
        tokio::spawn(async move {
            let stream = match client.switch().await {
                Switched::Link(stream) => stream,
                Switched::Refused => return opening.done(State::Unknown),
                Switched::Failed => return opening.done(State::Failed(Instant::now())),
            };
            // Neither is to keep the link: it ends with the client.
            drop(client);
            let (link, drive) = Link::new(stream);
            opening.done(State::Open(Arc::new(link)));
            drive.await;
        });
        None
    }
}

/// Lets the next request try again when the task that opens a link is dropped.
struct Opening(Arc<Links>);

impl Opening {
    fn done(self, state: State) {
        self.0.set(state);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if matches!(*state, State::Opening) {
            *state = State::None;
        }
    }
}

/// Whether a request can go over a link.
pub(super) fn suits(request: &Outgoing<'_>) -> bool {
    let headers = request.headers;
    let path = request.uri.path_and_query().map_or(1, |target| target.as_str().len());
    headers.len() <= MAX_HEADERS
        && fits(header_bytes(headers) + path, request.body.len())
        && !headers.contains_key(header::UPGRADE)
        && !headers.contains_key(header::EXPECT)
}

#[cfg(test)]
impl Client {
    pub(crate) fn has_link(&self) -> bool {
        self.links.as_ref().is_some_and(|links| matches!(&*links.lock(), State::Open(_)))
    }
}

/// What came of asking for a link.
enum Switched {
    Link(super::Upgraded),
    Refused,
    Failed,
}

impl Client {
    async fn switch(&self) -> Switched {
        let headers = HeaderMap::from_iter([
            (header::CONNECTION, HeaderValue::from_static("upgrade")),
            (header::UPGRADE, HeaderValue::from_static(PROTOCOL)),
        ]);
        let (method, uri, no_body) = (Method::GET, Uri::from_static("/"), Bytes::new());
        let request = self.authorized(Outgoing::new(&method, &uri, &headers, &no_body));
        let Ok(mut connection) = self.connect().await else { return Switched::Failed };
        match connection.exchange(&request).await {
            Ok(Said::Answer(head)) if head.response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                connection.upgrade().map_or(Switched::Failed, Switched::Link)
            }
            Ok(_) => Switched::Refused,
            Err(_) => Switched::Failed,
        }
    }
}
