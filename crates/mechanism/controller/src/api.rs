//! The controller's HTTP: `controller.sock` for the node, the admin port for people and tools.

use crate::service::{Message, Routes};
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tyndall_control::Event;
use tyndall_telemetry::exposition;
use tyndall_transport::{
    Body, Client, Handler, LineSender, empty, json, line_channel, read_body, text,
};
use tyndall_types::protocol::{DemandReport, DeploymentConfig, ReplicaReport};
use tyndall_types::{DeploymentName, ReplicaId};

const MAX_BODY_BYTES: usize = 4 << 20;
/// Bodies are small and come from this machine.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The service answers at once; if not, it is ill.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

const APPLICATIONS: &str = "/api/serve/applications/";

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
    pub(crate) routes: watch::Receiver<Routes>,
    pub(crate) supervisor: Client,
    pub(crate) scope: Scope,
}

type Answer = Result<Response<Body>, Response<Body>>;

impl Handler for Api {
    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if is_foreign(&request) {
            let why = "pages of other origins may not change anything here\n";
            return text(StatusCode::FORBIDDEN, why);
        }
        let answered = match self.scope {
            Scope::Node if path.starts_with("/-/") => self.internal(&path, request).await,
            Scope::Node | Scope::Admin => self.public(&path, request.method()).await,
        };
        answered.unwrap_or_else(|refusal| refusal)
    }
}

impl Api {
    async fn public(&self, path: &str, method: &Method) -> Answer {
        match (method, path) {
            (&Method::GET, "/-/healthz") => Ok(text(StatusCode::OK, "ok\n")),
            (&Method::GET, "/metrics") => self.metrics().await,
            (&Method::GET, APPLICATIONS | "/api/serve/applications") => {
                Ok(json(StatusCode::OK, &self.ask(Message::Details).await?))
            }
            (&Method::POST, "/api/shutdown") => self.shutdown().await,
            (&Method::DELETE, path) => match path.strip_prefix(APPLICATIONS) {
                Some(name) if !name.is_empty() => self.delete(name).await,
                Some(_) | None => Err(not_found()),
            },
            _ => Err(not_found()),
        }
    }

    async fn internal(&self, path: &str, request: Request<Incoming>) -> Answer {
        let between =
            |prefix, suffix| path.strip_prefix(prefix)?.strip_suffix(suffix).map(str::to_owned);
        match *request.method() {
            Method::GET if path == "/-/metrics" => self.metrics().await,
            Method::GET => match between("/-/proxies/", "/routes") {
                Some(proxy) => self.routes(proxy).await,
                None => self.public(path, &Method::GET).await,
            },
            Method::POST => {
                if let Some(proxy) = between("/-/proxies/", "/demand") {
                    let report: DemandReport = parse(request).await?;
                    self.tell(Message::Event(Event::Demand { proxy, report })).await?;
                    Ok(empty(StatusCode::NO_CONTENT))
                } else if let Some(replica) = between("/-/replicas/", "/report") {
                    let report: ReplicaReport = parse(request).await?;
                    self.report(ReplicaId::new(replica), report).await
                } else {
                    Err(not_found())
                }
            }
            Method::PUT => match path.strip_prefix("/-/deployments/") {
                Some(name) => self.deploy(name, parse(request).await?).await,
                None => Err(not_found()),
            },
            _ => Err(not_found()),
        }
    }

    async fn metrics(&self) -> Answer {
        let mut page = text(StatusCode::OK, self.ask(Message::Metrics).await?);
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

    async fn deploy(&self, name: &str, config: DeploymentConfig) -> Answer {
        let refusal = |why: String| text(StatusCode::BAD_REQUEST, why);
        let scaling = &config.autoscaling;
        if decoded(name).as_deref() != Some(config.name.as_str()) {
            let body = config.name.as_str();
            return Err(refusal(format!("the path names {name:?}, the body {body:?}")));
        }
        if scaling.max_replicas == 0 || scaling.max_replicas < scaling.min_replicas {
            return Err(refusal(
                "max_replicas must be at least 1 and at least min_replicas".into(),
            ));
        }
        if scaling.target_ongoing_requests.is_nan() || scaling.target_ongoing_requests <= 0.0 {
            return Err(refusal("target_ongoing_requests must be above 0".into()));
        }
        let config = Box::new(config);
        match self.ask(|reply| Message::Deploy { config, reply }).await? {
            Ok(()) => Ok(empty(StatusCode::NO_CONTENT)),
            Err(error) => Err(text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
        }
    }

    async fn delete(&self, name: &str) -> Answer {
        let name = decoded(name).unwrap_or_default();
        let known = match DeploymentName::new(name.as_str()) {
            Ok(name) => match self.ask(|reply| Message::Delete { name, reply }).await? {
                Ok(()) => return Ok(empty(StatusCode::OK)),
                Err(known) => known,
            },
            Err(error) => return Err(text(StatusCode::BAD_REQUEST, error.to_string())),
        };
        let known: Vec<&str> = known.iter().map(DeploymentName::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let message = format!("no application {name}; there are: {known}");
        Err(text(StatusCode::NOT_FOUND, message))
    }

    async fn shutdown(&self) -> Answer {
        let told = self.supervisor.tell(Method::POST, "/-/shutdown", &());
        match tokio::time::timeout(ANSWER_TIMEOUT, told).await {
            Ok(Ok(())) => Ok(empty(StatusCode::ACCEPTED)),
            Ok(Err(error)) => Err(text(StatusCode::BAD_GATEWAY, error.to_string())),
            Err(_) => Err(busy()),
        }
    }

    async fn routes(&self, proxy: String) -> Answer {
        let name = proxy.clone();
        let connection = self.ask(|reply| Message::ProxyConnected { proxy: name, reply }).await?;
        let (lines, body) = line_channel(2);
        let (routes, messages) = (self.routes.clone(), self.messages.clone());
        tokio::spawn(async move {
            send_routes(&lines, routes).await;
            // Nobody is left to hear it when the controller ends.
            drop(messages.send(Message::ProxyGone { proxy, connection }).await);
        });
        Ok(Response::new(body))
    }

    /// Asks the service something.
    async fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, Response<Body>> {
        let (reply, answer) = oneshot::channel();
        self.tell(message(reply)).await?;
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }

    async fn tell(&self, message: Message) -> Result<(), Response<Body>> {
        match self.messages.send_timeout(message, ANSWER_TIMEOUT).await {
            Ok(()) => Ok(()),
            Err(_) => Err(busy()),
        }
    }
}

/// Sends each route table that is the newest when the reader is ready for it.
async fn send_routes(lines: &LineSender, mut routes: watch::Receiver<Routes>) {
    loop {
        let table = routes.borrow_and_update().clone();
        if let Some(table) = table
            && !lines.send(&*table).await
        {
            return;
        }
        tokio::select! {
            () = lines.closed() => return,
            changed = routes.changed() => if changed.is_err() { return },
        }
    }
}

async fn parse<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Response<Body>> {
    let read = read_body(request.into_body(), MAX_BODY_BYTES);
    let bad = |why: String| text(StatusCode::BAD_REQUEST, why);
    let bytes = match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return Err(bad(error.to_string())),
        Err(_) => return Err(empty(StatusCode::REQUEST_TIMEOUT)),
    };
    serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))
}

fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "no such route\n")
}

fn busy() -> Response<Body> {
    text(StatusCode::SERVICE_UNAVAILABLE, "the controller does not answer; try again\n")
}

/// True for a request that would change something and comes from a web page of another origin:
/// the admin port needs no key on the loopback, so a browser there must not lend its hand.
fn is_foreign<B>(request: &Request<B>) -> bool {
    let host = request.headers().get(header::HOST).map(|host| host.as_bytes());
    let is_own = |origin: &header::HeaderValue| {
        let origin = origin.as_bytes();
        let scheme_end = origin.windows(3).position(|part| part == b"://");
        scheme_end.map(|at| &origin[at + 3..]) == host
    };
    let origin = request.headers().get(header::ORIGIN);
    request.method() != Method::GET && origin.is_some_and(|origin| !is_own(origin))
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
        let check = |method: Method, origin: Option<&str>, expected: bool| {
            let mut request = Request::builder().method(method).header("host", "127.0.0.1:8265");
            if let Some(origin) = origin {
                request = request.header("origin", origin);
            }
            assert_eq!(is_foreign(&request.body(()).unwrap()), expected, "{origin:?}");
        };
        check(Method::POST, None, false);
        check(Method::POST, Some("http://127.0.0.1:8265"), false);
        check(Method::GET, Some("http://evil.example"), false);
        for origin in ["http://evil.example", "http://127.0.0.1", "null", ""] {
            check(Method::POST, Some(origin), true);
            check(Method::DELETE, Some(origin), true);
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
