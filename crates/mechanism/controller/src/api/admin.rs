//! What people and tools ask: Ray Serve's paths, and ours beside them.

use super::details::Shape;
use super::{Answer, Api, HEALTHZ, busy, decoded, not_found, openapi, read, read_up_to};
use crate::code::receive;
use crate::logs::{self, LogRange};
use crate::models::ModelsSubmission;
use crate::service::{Message, Wanted};
use crate::store::{MAX_DAYS, StoredVersion};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use std::fmt::Display;
use std::net::SocketAddr;
use tokio::task::JoinError;
use tyndall_transport::{Body, RequestBody, empty, json, reachable, text};
use tyndall_types::protocol::ProcessInfo;
use tyndall_types::{ApplicationName, DeploymentId, DeploymentName, IdError};

const RAY_APPLICATIONS: &str = "/api/serve/applications/";
const APPLICATIONS: &str = "/api/tyndall/applications/";
const SCALE: &str = "/api/v1/applications/";
/// Of Ray's REST API, which Ray's own client checks.
const REST_VERSION: &str = "4";
/// The Ray whose shapes these are.
const RAY_VERSION: &str = "2.60.0";
const DEFAULT_EVENTS: u32 = 100;
const MAX_EVENTS: u32 = 10_000;
const DEFAULT_DAYS: u64 = 30;
/// Code is small; what is large is loaded by it.
const MAX_CODE_BYTES: usize = 128 << 20;

impl Api {
    pub(super) async fn public(&self, path: &str, request: Request<RequestBody>) -> Answer {
        let query = request.uri().query().unwrap_or_default().to_owned();
        // Both forms of a folder's path are taken.
        let folder = if path.ends_with('/') { path.to_owned() } else { format!("{path}/") };
        match (request.method().clone(), folder.as_str()) {
            (Method::GET, RAY_APPLICATIONS) => self.ray_details(&query).await,
            (Method::PUT, RAY_APPLICATIONS) => self.submit(&read(request).await?).await,
            (Method::DELETE, RAY_APPLICATIONS) => {
                self.try_ask(Message::DeleteAll).await?;
                Ok(empty(StatusCode::OK))
            }
            (Method::GET, APPLICATIONS) => self.details(Shape::Own).await,
            (Method::GET, "/api/ray/version/") => Ok(json(
                StatusCode::OK,
                &json!({
                    "version": REST_VERSION,
                    "ray_version": RAY_VERSION,
                    "ray_commit": "",
                    "session_name": format!("tyndall {}", env!("CARGO_PKG_VERSION")),
                }),
            )),
            (Method::GET, "/api/tyndall/controller-health/") => {
                Ok(json(StatusCode::OK, &self.ask(Message::Health).await?))
            }
            (Method::GET, "/api/tyndall/node/") => Ok(json(StatusCode::OK, &self.node().await?)),
            (Method::GET, "/api/tyndall/events/") => self.events(&query).await,
            (Method::GET, "/api/tyndall/usage/") => {
                Ok(json(StatusCode::OK, &self.try_ask(Message::Usage).await?))
            }
            (Method::GET, "/api/tyndall/keys/usage/") => self.key_usage(&query).await,
            (Method::GET, "/api/tyndall/logs/") => self.logs(&query).await,
            (Method::GET, "/openapi.json/") => Ok(json(StatusCode::OK, &openapi::document())),
            (Method::GET, "/metrics/") => self.metrics().await,
            (Method::GET, _) if path == HEALTHZ => Ok(text(StatusCode::OK, "ok\n")),
            (Method::POST, "/api/shutdown/") => self.shutdown().await,
            (method, _) => self.of_application(&method, path, request).await,
        }
    }

    /// Paths that name an application.
    async fn of_application(
        &self,
        method: &Method,
        path: &str,
        request: Request<RequestBody>,
    ) -> Answer {
        if let (&Method::POST, Some(rest)) = (method, path.strip_prefix(SCALE)) {
            let (application, rest) = rest.split_once("/deployments/").ok_or_else(not_found)?;
            let deployment = rest.strip_suffix("/scale").ok_or_else(not_found)?;
            return self.scale(application, deployment, &read(request).await?).await;
        }
        let under = |prefix| path.strip_prefix(prefix).filter(|name: &&str| !name.is_empty());
        if method == Method::DELETE {
            let name = under(APPLICATIONS).or_else(|| under(RAY_APPLICATIONS));
            let name = application(name.ok_or_else(not_found)?).map_err(bad)?;
            self.try_ask(|reply| Message::Delete { name, reply }).await?;
            return Ok(empty(StatusCode::OK));
        }
        let rest = under(APPLICATIONS).ok_or_else(not_found)?;
        if method == Method::PUT {
            let name = application(rest).map_err(bad)?;
            return self.deploy_one(name, request).await;
        }
        match (method, rest.rsplit_once('/')) {
            (&Method::GET, Some((name, "versions"))) => self.versions(name).await,
            (&Method::POST, Some((name, "rollback"))) => {
                self.roll_back(name, &read(request).await?).await
            }
            _ => Err(not_found()),
        }
    }

    async fn ray_details(&self, query: &str) -> Answer {
        let source = match parameter(query, "api_type").as_deref() {
            None => None,
            Some("imperative") => Some("imperative"),
            Some("declarative") => Some("declarative"),
            Some(other) => {
                let why = format!("api_type is {other:?}; use imperative or declarative");
                return Err(bad(why));
            }
        };
        self.details(Shape::Ray(source)).await
    }

    async fn submit(&self, body: &Bytes) -> Answer {
        let text = String::from_utf8(body.to_vec())
            .map_err(|_| bad("the body is no text; send YAML or JSON"))?;
        self.try_ask(|reply| Message::Submit { text, reply }).await?;
        Ok(empty(StatusCode::OK))
    }

    /// One application, of models or with its code. Decoding and writing are not done where others
    /// wait for it.
    async fn deploy_one(&self, name: ApplicationName, request: Request<RequestBody>) -> Answer {
        let body = if self.takes_code {
            read_up_to(MAX_CODE_BYTES, request).await?
        } else {
            read(request).await?
        };
        if let Some(submission) = ModelsSubmission::of(&body) {
            self.try_ask(|reply| Message::DeployModels { name, submission, reply }).await?;
            return Ok(json(StatusCode::OK, &json!({})));
        }
        if !self.takes_code {
            let why = "code is taken on the loopback only, unless the server has a token; set \
                       TYNDALL_ADMIN_TOKEN where it starts\n";
            return Err(text(StatusCode::FORBIDDEN, why));
        }
        let dir = self.code_dir.clone();
        let received = tokio::task::spawn_blocking(move || receive(&dir, &body)).await;
        let failed = |why: JoinError| text(StatusCode::INTERNAL_SERVER_ERROR, why.to_string());
        let received = received.map_err(failed)?;
        let (submission, received) =
            received.map_err(|refusal| text(refusal.status, refusal.reason))?;
        let submission = Box::new(submission);
        let deploy = |reply| Message::DeployCode { name, submission, received, reply };
        let version = self.try_ask(deploy).await?;
        let answer = version.map_or_else(|| json!({}), |version| json!({"version": version}));
        Ok(json(StatusCode::OK, &answer))
    }

    async fn scale(&self, application: &str, deployment: &str, body: &Bytes) -> Answer {
        let bad = |why: &str| json(StatusCode::BAD_REQUEST, &json!({"error": why}));
        let body: Value = serde_json::from_slice(body).map_err(|_| bad("Invalid JSON in body"))?;
        let target = body.get("target_num_replicas").and_then(Value::as_u64);
        let Some(target) = target.and_then(|target| u32::try_from(target).ok()) else {
            return Err(bad("target_num_replicas must be a whole number from 0 on"));
        };
        let unknown = || {
            json(StatusCode::NOT_FOUND, &json!({"error": "Application or Deployment not found"}))
        };
        let deployment = decoded(deployment).and_then(|name| DeploymentName::new(name).ok());
        let application = decoded(application).and_then(|name| ApplicationName::new(name).ok());
        let (Some(application), Some(deployment)) = (application, deployment) else {
            return Err(unknown());
        };
        let id = DeploymentId { application, deployment };
        match self.ask(|reply| Message::Scale { id, target, reply }).await? {
            Ok(()) => {
                let message =
                    "Scaling request received. Deployment will get scaled asynchronously.";
                Ok(json(StatusCode::OK, &json!({"message": message})))
            }
            Err(refusal) => Err(json(refusal.status, &json!({"error": refusal.reason}))),
        }
    }

    async fn versions(&self, name: &str) -> Answer {
        let name = application(name).map_err(bad)?;
        let versions = self.try_ask(|reply| Message::Versions { name, reply }).await?;
        let one = |version: &StoredVersion| {
            json!({
                "version": version.version,
                "deployed_at_s": version.deployed_at.as_secs_f64(),
                "is_proven": version.is_proven,
                "note": version.note.trim_start_matches([':', ' ']),
                "submitted": version.config.submitted,
                "deployments": version.config.deployments,
            })
        };
        Ok(json(StatusCode::OK, &versions.iter().map(one).collect::<Vec<_>>()))
    }

    async fn roll_back(&self, name: &str, body: &Bytes) -> Answer {
        let name = application(name).map_err(bad)?;
        let body: Value = match body.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(body).map_err(bad)?,
        };
        let to = match body.get("version") {
            None | Some(Value::Null) => None,
            Some(to) => Some(to.as_u64().ok_or_else(|| bad("version must be a whole number"))?),
        };
        let to = self.try_ask(|reply| Message::RollBack { name, to, reply }).await?;
        Ok(json(StatusCode::OK, &json!({"version": to})))
    }

    async fn events(&self, query: &str) -> Answer {
        let number = |name| parameter(query, name).and_then(|text| text.parse().ok());
        let limit = number("limit").and_then(|limit: i64| u32::try_from(limit).ok());
        let wanted = Wanted {
            application: parameter(query, "application"),
            after: number("after").unwrap_or(0),
            limit: limit.unwrap_or(DEFAULT_EVENTS).min(MAX_EVENTS),
        };
        let events = self.try_ask(|reply| Message::Events { wanted, reply }).await?;
        Ok(json(StatusCode::OK, &events))
    }

    async fn key_usage(&self, query: &str) -> Answer {
        let num_days = match parameter(query, "days").map(|text| text.parse()) {
            None => DEFAULT_DAYS,
            Some(Ok(days)) if (1..=MAX_DAYS).contains(&days) => days,
            Some(_) => {
                return Err(bad(format!("days must be a whole number from 1 to {MAX_DAYS}")));
            }
        };
        let usage = self.try_ask(|reply| Message::KeyUsages { num_days, reply }).await?;
        Ok(json(StatusCode::OK, &usage))
    }

    async fn logs(&self, query: &str) -> Answer {
        let Some(path) = self.log_file.clone() else {
            let why = "this server logs to its terminal; `tyndall start` keeps a log file";
            return Err(text(StatusCode::NOT_FOUND, why));
        };
        let number = |name| parameter(query, name).and_then(|text| text.parse::<u64>().ok());
        let wanted = LogRange { offset: number("offset"), lines: number("lines").unwrap_or(100) };
        let read = tokio::task::spawn_blocking(move || logs::read(&path, wanted)).await;
        let failed = |why: String| text(StatusCode::INTERNAL_SERVER_ERROR, why);
        let read = read.map_err(|error| failed(error.to_string()))?;
        let (lines, offset) = read.map_err(|error| failed(error.to_string()))?;
        Ok(json(StatusCode::OK, &json!({"text": lines, "offset": offset})))
    }

    /// Where programs of this machine reach clients' port and the node's sockets.
    async fn node(&self) -> Result<Value, Response<Body>> {
        let http = &self.instance.http;
        let address = http.host.parse().map(|host| SocketAddr::new(host, http.port));
        let address = address.map_or_else(
            |_| format!("{}:{}", http.host, http.port),
            |address| reachable(address).to_string(),
        );
        let asked = self.supervisor.get::<Vec<ProcessInfo>>("/-/processes");
        let processes = match tokio::time::timeout(super::ANSWER_TIMEOUT, asked).await {
            Ok(Ok(processes)) => processes,
            Ok(Err(error)) => return Err(text(StatusCode::BAD_GATEWAY, error.to_string())),
            Err(_) => return Err(busy()),
        };
        let process = |info: &ProcessInfo| {
            let state = match (info.waits, info.is_prepared) {
                (false, _) => "replica",
                (true, false) => "preparing",
                (true, true) => "prepared",
            };
            json!({"id": info.id, "pid": info.pid, "state": state})
        };
        Ok(json!({
            "url": format!("http://{address}"),
            "runtime_dir": self.runtime_dir.path(),
            "processes": processes.iter().map(process).collect::<Vec<_>>(),
        }))
    }

    async fn shutdown(&self) -> Answer {
        let told = self.supervisor.tell(Method::POST, "/-/shutdown", &());
        match tokio::time::timeout(super::ANSWER_TIMEOUT, told).await {
            Ok(Ok(())) => Ok(empty(StatusCode::ACCEPTED)),
            Ok(Err(error)) => Err(text(StatusCode::BAD_GATEWAY, error.to_string())),
            Err(_) => Err(busy()),
        }
    }
}

fn application(name: &str) -> Result<ApplicationName, IdError> {
    ApplicationName::new(decoded(name).unwrap_or_default())
}

fn bad(why: impl Display) -> Response<Body> {
    text(StatusCode::BAD_REQUEST, why.to_string())
}

/// The first value of a query's parameter.
fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).and_then(|(_, value)| decoded(value))
}
