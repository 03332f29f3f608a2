//! The controller's HTTP: `controller.sock` for the node, the admin port for people and tools.

mod admin;
mod details;
mod openapi;

use crate::metrics::ControllerMetrics;
use crate::ray::Instance;
use crate::service::{Message, Reply};
use crate::submissions::Refusal;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinError;
use tyndall_control::Event;
use tyndall_telemetry::exposition;
use tyndall_transport::{
    Body, BodyError, Client, Handler, LineSender, RequestBody, empty, line_channel, read_body, text,
};
use tyndall_types::ReplicaId;
use tyndall_types::protocol::{
    ApplicationConfig, DemandReport, KeyUsageReport, ReplicaReport, RuntimeDir,
};

const MAX_BODY_BYTES: usize = 4 << 20;
/// Bodies are small and come from this machine.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The service answers at once; if not, it is ill.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

const HEALTHZ: &str = "/-/healthz";

/// Which requests are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Those of the node's own processes, and all others.
    Node,
    /// The public ones.
    Admin,
}

#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) messages: mpsc::Sender<Message>,
    /// Counts changes of the route table.
    pub(crate) routes: watch::Receiver<u64>,
    pub(crate) supervisor: Client,
    pub(crate) instance: Arc<Instance>,
    /// Where the logs of the node go.
    pub(crate) log_file: Option<Arc<PathBuf>>,
    pub(crate) metrics: Arc<ControllerMetrics>,
    /// Where the sockets of the node lie.
    pub(crate) runtime_dir: RuntimeDir,
    /// Where code of applications is kept.
    pub(crate) code_dir: Arc<PathBuf>,
    /// Whether applications may bring code: not from whoever can reach the port over a network.
    pub(crate) takes_code: bool,
    /// What the admin port asks for.
    pub(crate) token: Option<Arc<str>>,
    pub(crate) scope: Scope,
}

type Answer = Result<Response<Body>, Response<Body>>;

impl Handler for Api {
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if is_foreign(&request) {
            let why = "pages of other origins may not change anything here\n";
            return text(StatusCode::FORBIDDEN, why);
        }
        let answered = match self.scope {
            Scope::Node if path.starts_with("/-/") => self.internal(&path, request).await,
            Scope::Admin if path != HEALTHZ && !self.may_enter(&request) => Err(unauthorized()),
            Scope::Node | Scope::Admin => self.public(&path, request).await,
        };
        answered.unwrap_or_else(|refusal| refusal)
    }
}

impl Api {
    async fn internal(&self, path: &str, request: Request<RequestBody>) -> Answer {
        let between =
            |prefix, suffix| path.strip_prefix(prefix)?.strip_suffix(suffix).map(str::to_owned);
        match *request.method() {
            Method::GET if path == "/-/metrics" => self.metrics().await,
            Method::GET => match between("/-/proxies/", "/routes") {
                Some(proxy) => self.routes(proxy).await,
                None => self.public(path, request).await,
            },
            Method::POST => {
                if let Some(proxy) = between("/-/proxies/", "/demand") {
                    let report: DemandReport = parse(request).await?;
                    self.tell(Message::Event(Event::Demand { proxy, report })).await?;
                    Ok(empty(StatusCode::NO_CONTENT))
                } else if let Some(proxy) = between("/-/proxies/", "/usage") {
                    let report: KeyUsageReport = parse(request).await?;
                    self.try_ask(|reply| Message::KeyUsage { proxy, report, reply }).await?;
                    Ok(empty(StatusCode::NO_CONTENT))
                } else if let Some(replica) = between("/-/replicas/", "/report") {
                    let report: ReplicaReport = parse(request).await?;
                    self.report(ReplicaId::new(replica), report).await
                } else {
                    Err(not_found())
                }
            }
            Method::PUT => match path.strip_prefix("/-/applications/") {
                Some(name) => self.deploy(name, parse(request).await?).await,
                None => Err(not_found()),
            },
            _ => Err(not_found()),
        }
    }

    async fn metrics(&self) -> Answer {
        let metrics = self.metrics.clone();
        let states = self.ask(Message::ReplicaStates).await?;
        let page = tokio::task::spawn_blocking(move || metrics.render(&states)).await;
        let failed = |error: JoinError| text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
        let mut page = text(StatusCode::OK, page.map_err(failed)?);
        let kind = header::HeaderValue::from_static(exposition::CONTENT_TYPE);
        page.headers_mut().insert(header::CONTENT_TYPE, kind);
        Ok(page)
    }

    async fn report(&self, replica: ReplicaId, report: ReplicaReport) -> Answer {
        let id = replica.clone();
        if self.ask(|reply| Message::Report { replica, report, reply }).await? {
            Ok(empty(StatusCode::NO_CONTENT))
        } else {
            Err(text(StatusCode::NOT_FOUND, format!("no replica {id}")))
        }
    }

    async fn deploy(&self, name: &str, config: ApplicationConfig) -> Answer {
        if decoded(name).as_deref() != Some(config.name.as_str()) {
            let why = format!("the path names {name:?}, the body {:?}", config.name.as_str());
            return Err(text(StatusCode::BAD_REQUEST, why));
        }
        let config = Arc::new(config);
        self.try_ask(|reply| Message::Deploy { config, reply }).await?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    async fn routes(&self, proxy: String) -> Answer {
        let name = proxy.clone();
        let connection = self.ask(|reply| Message::ProxyConnected { proxy: name, reply }).await?;
        let (lines, body) = line_channel(2);
        let api = self.clone();
        tokio::spawn(async move {
            api.send_routes(&lines).await;
            // Nobody is left to hear it when the controller ends.
            drop(api.messages.send(Message::ProxyGone { proxy, connection }).await);
        });
        Ok(Response::new(body))
    }

    /// Sends the whole route table, and then what changed since, whenever the reader is ready.
    async fn send_routes(&self, lines: &LineSender) {
        let mut changes = self.routes.clone();
        let mut since = None;
        loop {
            changes.borrow_and_update();
            let Ok(table) = self.ask(|reply| Message::Routes { since, reply }).await else {
                return;
            };
            if let Some(table) = table.filter(|table| since != Some(table.version)) {
                since = Some(table.version);
                if !lines.send(&table).await {
                    return;
                }
            }
            tokio::select! {
                () = lines.closed() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Asks the service something.
    pub(crate) async fn ask<T>(
        &self,
        message: impl FnOnce(Reply<T>) -> Message,
    ) -> Result<T, Response<Body>> {
        let (reply, answer) = oneshot::channel();
        self.tell(message(reply)).await?;
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }

    /// Asks the service something that it may refuse.
    pub(crate) async fn try_ask<T>(
        &self,
        message: impl FnOnce(Reply<Result<T, Refusal>>) -> Message,
    ) -> Result<T, Response<Body>> {
        let answer = self.ask(message).await?;
        answer.map_err(|refusal| text(refusal.status, refusal.reason))
    }

    async fn tell(&self, message: Message) -> Result<(), Response<Body>> {
        match self.messages.send_timeout(message, ANSWER_TIMEOUT).await {
            Ok(()) => Ok(()),
            Err(_) => Err(busy()),
        }
    }

    /// Whether the request brings the token that is asked for. How long the comparison takes says
    /// nothing of where they differ.
    fn may_enter<B>(&self, request: &Request<B>) -> bool {
        let Some(token) = &self.token else { return true };
        let header = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let given = header.and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default();
        let token = token.as_bytes();
        let differences = token
            .iter()
            .enumerate()
            .fold(0, |sum, (i, byte)| sum | (byte ^ given.get(i).copied().unwrap_or_default()));
        differences == 0 && given.len() == token.len()
    }
}

async fn parse<T: DeserializeOwned>(request: Request<RequestBody>) -> Result<T, Response<Body>> {
    let bytes = read(request).await?;
    serde_json::from_slice(&bytes).map_err(|error| text(StatusCode::BAD_REQUEST, error.to_string()))
}

async fn read(request: Request<RequestBody>) -> Result<Bytes, Response<Body>> {
    read_up_to(MAX_BODY_BYTES, request).await
}

async fn read_up_to(
    limit_bytes: usize,
    request: Request<RequestBody>,
) -> Result<Bytes, Response<Body>> {
    let read = read_body(request.into_body(), limit_bytes);
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error @ BodyError::TooLarge { .. })) => {
            Err(text(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()))
        }
        Ok(Err(error)) => Err(text(StatusCode::BAD_REQUEST, error.to_string())),
        Err(_) => Err(empty(StatusCode::REQUEST_TIMEOUT)),
    }
}

fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "no such route\n")
}

fn unauthorized() -> Response<Body> {
    let why = "the admin API wants its token; send it as Authorization: Bearer TOKEN\n";
    let mut response = text(StatusCode::UNAUTHORIZED, why);
    let scheme = header::HeaderValue::from_static("Bearer");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    response
}

fn busy() -> Response<Body> {
    text(StatusCode::SERVICE_UNAVAILABLE, "the controller does not answer; try again\n")
}

/// True for a request that would change something and comes from a web page of another origin:
/// the admin port needs no key on the loopback, so a browser there must not lend its hand. A page
/// of this server is one whose host is an address or `localhost`: any other name can be made to
/// mean this machine by whoever owns it.
fn is_foreign<B>(request: &Request<B>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let is_own = |origin: &header::HeaderValue| {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        origin.is_some_and(|(_, origin)| Some(origin) == host && is_address(origin))
    };
    let origin = request.headers().get(header::ORIGIN);
    request.method() != Method::GET && origin.is_some_and(|origin| !is_own(origin))
}

/// Whether this host, with or without its port, is an address or `localhost`.
fn is_address(host: &str) -> bool {
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let name =
        host.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(host, |(name, _)| name);
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name == "localhost" || address.parse::<IpAddr>().is_ok()
}

/// Undoes percent-encoding; none when it is broken.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let value = digit(rest.next()?)? * 16 + digit(rest.next()?)?;
            bytes.push(u8::try_from(value).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_origins_may_only_read() {
        let at = |host: &str, method: Method, origin: Option<&str>, expected: bool| {
            let mut request = Request::builder().method(method).header("host", host);
            if let Some(origin) = origin {
                request = request.header("origin", origin);
            }
            assert_eq!(is_foreign(&request.body(()).unwrap()), expected, "{origin:?}");
        };
        let check =
            |method, origin: Option<&str>, expected| at("127.0.0.1:8265", method, origin, expected);
        check(Method::POST, None, false);
        check(Method::POST, Some("http://127.0.0.1:8265"), false);
        check(Method::GET, Some("http://evil.example"), false);
        for origin in ["http://evil.example", "http://127.0.0.1", "null", ""] {
            check(Method::POST, Some(origin), true);
            check(Method::DELETE, Some(origin), true);
        }
        for host in ["localhost:8265", "[::1]:8265", "10.0.0.7", "[fe80::1]"] {
            at(host, Method::PUT, Some(&format!("http://{host}")), false);
        }
        // A name that was made to mean this machine after its page was loaded.
        for host in ["evil.example:8265", "evil.example", "127.0.0.1.evil.example", "1:8265", ""] {
            at(host, Method::PUT, Some(&format!("http://{host}")), true);
        }
    }

    #[test]
    fn percent_encoding_is_undone() {
        let cases = [
            ("demo", Some("demo")),
            ("facebook%2Fopt-125m", Some("facebook/opt-125m")),
            ("a%2", None),
            ("a%zz", None),
            ("%ff", None),
        ];
        for (text, expected) in cases {
            assert_eq!(decoded(text).as_deref(), expected, "{text}");
        }
    }
}
