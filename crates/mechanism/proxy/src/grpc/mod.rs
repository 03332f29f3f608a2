//! The gRPC edge: a port of its own, for calls to the ingress deployments of programs.
//!
//! A call is a request like one of HTTP to its program, with the same queue, replicas and retries. Its
//! path leads to no application: the metadata `application` names one, where there are several.
//!
//! - One whose client has told everything when it begins is a POST, and can be sent to another replica
//!   while no answer has begun and none can have started it. The answer is the messages, and one more
//!   that says how the call ended ([`frames`]).
//! - One whose client goes on is a WebSocket between proxy and replica, with a message for each of
//!   either side, and [`INPUT_ENDS`] when the client has told everything.
//!
//! Which of both it is says nothing of the method: replicas take both for each.

mod answer;
mod frames;
mod service;
mod status;

use crate::answer::answer;
use crate::body::{AnswerLimit, Observer, Served};
use crate::caller::Caller;
use crate::headers::strip;
use crate::program::{MODEL_ID, OF_GRPC};
use crate::reply::Failed;
use crate::request_id::{REQUEST_ID, is_harmless, request_id};
use crate::shared::Shared;
use crate::tunnel;
use answer::{Answer, Bounds};
use bytes::Bytes;
use frames::Input;
use http::request::Parts;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use service::Method as OwnMethod;
use status::{Code, OWN_REQUEST_ID, Status};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tyndall_router::{Answer as Sent, Call, Flow, Mount};
use tyndall_transport::{Body, Handler, Peer, RequestBody, empty, read_body};

/// What a replica calls its answer.
pub(crate) const ANSWER_TYPE: &str = "application/x-tyndall-grpc";
/// The text among a client's messages that is none.
const INPUT_ENDS: &str = "end";
/// What metrics call all of it.
const HANDLER: &str = "grpc";

static APPLICATION: HeaderName = HeaderName::from_static("application");
static TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
static MODEL: HeaderName = HeaderName::from_static("multiplexed_model_id");
static SESSION: HeaderName = HeaderName::from_static("session_id");
/// How messages are compressed.
static ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
static SESSION_ID: HeaderName = HeaderName::from_static("x-session-id");
static PEER: HeaderName = HeaderName::from_static("x-tyndall-peer");
/// Of a handshake; the key is no secret, and the same for all.
static HANDSHAKE: [(HeaderName, HeaderValue); 2] = [
    (header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
    (header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("dHluZGFsbCBzcGVha3MgZw==")),
];
/// Details that are no message, and may be long.
const MAX_TEXT_BYTES: usize = 64 << 10;
const PING: &str =
    "Ping /ray.serve.RayServeAPIService/ListApplications for available applications.";

/// Answers every call of the port.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    shared: Arc<Shared>,
    /// How long a call may take, where the server says so.
    limit: Option<Duration>,
}

impl Handler for Calls {
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
        let kind = request.headers().get(header::CONTENT_TYPE);
        if request.method() != Method::POST || !kind.is_some_and(is_grpc) {
            return empty(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        let own = request.headers().get(&OWN_REQUEST_ID).filter(|id| is_harmless(id.as_bytes()));
        let id = own.cloned().unwrap_or_else(|| request_id(request.headers()));
        let mut observer = Some(Observer {
            metrics: self.shared.metrics().clone(),
            handler: HANDLER,
            method: Method::POST,
            started: std::time::Instant::now(),
            status: 499,
        });
        match self.answer(request, &id, &mut observer).await {
            Ok(response) => response,
            Err(status) => {
                observer.iter_mut().for_each(|observer| observer.status = status.code.http());
                status.into_response(&id)
            }
        }
    }
}

impl Calls {
    pub(crate) fn new(shared: Arc<Shared>, limit: Option<Duration>) -> Self {
        Self { shared, limit }
    }

    async fn answer(
        &self,
        request: Request<RequestBody>,
        id: &HeaderValue,
        observer: &mut Option<Observer>,
    ) -> Result<Response<Body>, Status> {
        let (mut parts, body) = request.into_parts();
        if let Some(name) = parts.uri.path().strip_prefix(service::PREFIX) {
            let method = OwnMethod::of(name).ok_or_else(|| unknown(parts.uri.path()))?;
            return Ok(self.own(&method, id, observer.take()));
        }
        let arrived = Instant::now();
        if !self.shared.router.has_table() {
            self.shared.first_table().await?;
        }
        let caller = self.identify(&mut parts.headers)?;
        let mount = self.find(&parts.headers)?;
        let application = mount.ingress.id().application.as_str();
        if !caller.may_use_named(application) {
            return Err(caller.forbidden(application).into());
        }
        let limit = limit(&parts.headers, self.limit);
        let late = limit.map(|limit| {
            let details = format!("Request timed out after {:?}s.", limit.as_secs_f64());
            (arrived + limit, Status::new(Code::DEADLINE_EXCEEDED, details))
        });
        let bounds = Bounds { until: late.clone(), is_cut: self.shared.cut_signal() };
        let called = Called { shared: &self.shared, mount: &mount, id, arrived };
        let called = called.answer(parts, body, caller, bounds);
        let response = match late {
            None => called.await,
            Some((until, status)) => timeout_at(until, called).await.unwrap_or(Err(status)),
        };
        let (answer, encoding) = response?;
        Ok(answer.into_response(encoding, observer.take()))
    }

    /// What needs no application.
    fn own(
        &self,
        method: &OwnMethod,
        id: &HeaderValue,
        observer: Option<Observer>,
    ) -> Response<Body> {
        let mounts = self.shared.router.mounts();
        let names: Vec<String> =
            mounts.iter().map(|mount| mount.ingress.id().application.to_string()).collect();
        let refuses = match () {
            () if self.shared.is_draining() => Some("This node is being drained."),
            () if !self.shared.router.has_table() => Some("This node has no applications yet."),
            () => None,
        };
        observer.into_iter().for_each(|mut observer| {
            observer.status = if refuses.is_some() { Code::UNAVAILABLE.http() } else { 200 };
        });
        method.answer(&names, refuses, id)
    }

    /// Whose call it is; nobody's where no keys are wanted.
    fn identify(&self, headers: &mut HeaderMap) -> Result<Caller, Status> {
        let access = &self.shared.access;
        if access.is_open() {
            return Ok(Caller::default());
        }
        let holder = access.identify(headers).ok_or_else(|| access.unauthorized())?;
        let grant = access.admit(&holder).map_err(|failed| Status::from(failed.error))?;
        Ok(Caller::new(holder, Some(grant)))
    }

    /// The application that is meant: the one that is named, or the only one.
    fn find(&self, headers: &HeaderMap) -> Result<Mount, Status> {
        let named = headers.get(&APPLICATION).and_then(|name| name.to_str().ok());
        let mut mounts = self.shared.router.mounts();
        let name = |mount: &Mount| mount.ingress.id().application.to_string();
        let mount = match named {
            None if mounts.len() == 1 => mounts.pop(),
            None => {
                let details = format!("Application metadata not set. {PING}");
                return Err(Status::new(Code::NOT_FOUND, details));
            }
            Some(named) => mounts.into_iter().find(|mount| name(mount) == named),
        };
        let mount = mount.ok_or_else(|| {
            let named = named.unwrap_or_default();
            Status::new(Code::NOT_FOUND, format!("Application '{named}' not found. {PING}"))
        })?;
        if mount.ingress.route().model.is_some() {
            let details = "the application serves models, which answer HTTP; send requests there";
            return Err(Status::new(Code::UNIMPLEMENTED, details));
        }
        Ok(mount)
    }
}

/// A call to an application.
struct Called<'a> {
    shared: &'a Shared,
    mount: &'a Mount,
    id: &'a HeaderValue,
    arrived: Instant,
}

impl Called<'_> {
    /// The answer, and how its messages are compressed.
    ///
    /// # Cancel safety
    /// Dropping the future gives back the place or the permit, and cancels what the replica does.
    async fn answer(
        self,
        parts: Parts,
        body: RequestBody,
        caller: Caller,
        bounds: Bounds,
    ) -> Result<(Answer, Option<HeaderValue>), Status> {
        let input = Input::begin(body).await?;
        let call = self.call(parts, &input, caller.flow());
        let sent = self.send(call).await?;
        let encoding = sent.response.headers().get(&ENCODING).cloned();
        let answer = match input {
            Input::Whole(_) if is_answer(&sent) => {
                let served = Served {
                    label: self.mount.ingress.label(),
                    stream: None,
                    metrics: self.shared.metrics().clone(),
                    is_cut: self.shared.cut_signal(),
                    // The answer has bounds of its own, and says so when it is over.
                    limit: AnswerLimit::None,
                    grant: caller.into_grant(),
                };
                Answer::of_body(answer(sent, served).into_body(), self.id.clone(), bounds)
            }
            Input::Open { begun, rest }
                if sent.response.status() == StatusCode::SWITCHING_PROTOCOLS =>
            {
                let lost = || Status::new(Code::INTERNAL, "the replica left in its handshake");
                let replica = sent.response.into_body().upgrade().ok_or_else(lost)?;
                let told = (begun, rest);
                Answer::of_socket(replica, told, self.id.clone(), bounds).await
            }
            Input::Whole(_) | Input::Open { .. } => return Err(refused(sent).await),
        };
        Ok((answer, encoding))
    }

    async fn send(&self, mut call: Call) -> Result<Sent, Status> {
        let ingress = &self.mount.ingress;
        let seconds = ingress.route().request_timeout_s;
        let limit = crate::headers::TimeLimit::of(&HeaderMap::new(), seconds);
        call.deadline = limit.until_answer().map(|limit| self.arrived + limit);
        tokio::select! {
            sent = ingress.send(&call) => sent.map_err(|error| {
                let kind = error.kind.clone();
                let failed = Failed::unsent_to_program(error, self.id, &limit);
                Status::unsent(&kind, failed.error.message)
            }),
            () = self.shared.is_cut() => Err(crate::shared::shuts_down().into()),
        }
    }

    /// As a replica gets it.
    fn call(&self, parts: Parts, input: &Input, flow: Flow) -> Call {
        let mut headers = parts.headers;
        strip(&mut headers);
        for name in [&TIMEOUT, &header::CONTENT_TYPE, &header::CONTENT_LENGTH, &PEER] {
            headers.remove(name);
        }
        headers.insert(REQUEST_ID, self.id.clone());
        headers.insert(&OF_GRPC, HeaderValue::from_static("1"));
        let application = self.mount.ingress.id().application.as_str();
        headers.insert(&APPLICATION, HeaderValue::from_str(application).expect("names are ASCII"));
        if let Some(authority) = parts.uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            headers.insert(header::HOST, host);
        }
        if let Some(Peer(address)) = parts.extensions.get::<Peer>() {
            // As gRPC writes it, with brackets as they stand in a URI.
            let (ip, port) = (address.ip(), address.port());
            let peer = match ip {
                IpAddr::V4(ip) => format!("ipv4:{ip}:{port}"),
                IpAddr::V6(ip) => format!("ipv6:%5B{ip}%5D:{port}"),
            };
            let peer = HeaderValue::try_from(peer).expect("an address is a header value");
            headers.insert(&PEER, peer);
        }
        let model = headers.get(&MODEL).filter(|model| !model.is_empty()).cloned();
        let session = headers.get(&SESSION).cloned();
        model.iter().for_each(|model| drop(headers.insert(&MODEL_ID[0], model.clone())));
        session.into_iter().for_each(|session| drop(headers.insert(&SESSION_ID, session)));
        let (method, body) = match input {
            Input::Whole(body) => {
                headers.insert(header::CONTENT_LENGTH, body.len().into());
                (Method::POST, body.clone())
            }
            Input::Open { .. } => {
                tunnel::set_hop(&mut headers);
                headers.extend(HANDSHAKE.iter().cloned().map(|(name, value)| (Some(name), value)));
                (Method::GET, Bytes::new())
            }
        };
        Call {
            runs_once: true,
            method,
            uri: parts.uri.path_and_query().cloned().map(Uri::from).unwrap_or_default(),
            headers,
            body,
            deadline: None,
            flow,
            model: model.and_then(|model| model.to_str().ok().map(Arc::from)),
            has_arguments: false,
            prefix: None,
        }
    }
}

fn is_answer(sent: &Sent) -> bool {
    let kind = sent.response.headers().get(header::CONTENT_TYPE);
    sent.response.status() == StatusCode::OK && kind.is_some_and(|kind| kind == ANSWER_TYPE)
}

/// What an answer that is none of gRPC says.
async fn refused(sent: Sent) -> Status {
    let (parts, body) = sent.response.into_parts();
    let text = match read_body(body, MAX_TEXT_BYTES).await {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) => error.to_string(),
    };
    Status::of_answer(parts.status, &text)
}

fn unknown(path: &str) -> Status {
    Status::new(Code::UNIMPLEMENTED, format!("there is no method {path}"))
}

/// How long a call may take: what the client says, and what the server does.
fn limit(headers: &HeaderMap, of_server: Option<Duration>) -> Option<Duration> {
    let own = headers.get(&TIMEOUT).and_then(|text| timeout(text.to_str().ok()?));
    own.into_iter().chain(of_server).min()
}

/// A time of gRPC: up to eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = &text[..text.len() - unit.len_utf8()];
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number)?;
    Some(match unit {
        'H' => Duration::from_secs(number * 3600),
        'M' => Duration::from_secs(number * 60),
        'S' => Duration::from_secs(number),
        'm' => Duration::from_millis(number),
        'u' => Duration::from_micros(number),
        'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_limit_counts() {
        let of = |sent: Option<&'static str>, server_s: Option<u64>| {
            let sent = sent.map(|sent| (TIMEOUT.clone(), HeaderValue::from_static(sent)));
            limit(&sent.into_iter().collect(), server_s.map(Duration::from_secs))
        };
        assert_eq!(of(None, None), None);
        assert_eq!(of(None, Some(5)), Some(Duration::from_secs(5)));
        assert_eq!(of(Some("7S"), Some(5)), Some(Duration::from_secs(5)));
        assert_eq!(of(Some("250m"), Some(5)), Some(Duration::from_millis(250)));
        assert_eq!(of(Some("2H"), None), Some(Duration::from_secs(7200)));
        assert_eq!(of(Some("99999999n"), None), Some(Duration::from_nanos(99_999_999)));
        for unusable in ["", "S", "5", "5s", "-1S", "1.5S", "123456789S", "+1S"] {
            assert_eq!(of(Some(unusable), Some(5)), Some(Duration::from_secs(5)), "{unusable}");
        }
    }
}
