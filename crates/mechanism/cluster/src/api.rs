//! The supervisor's socket: see the table in `tyndall_types::protocol`.

use crate::processes::{Kind, Processes, SpawnError};
use http::{Method, Request, Response, StatusCode};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tyndall_transport::{Body, Handler, RequestBody, empty, json, line_channel, read_body, text};
use tyndall_types::protocol::{ProcessSpec, StopProcess};

const MAX_BODY_BYTES: usize = 4 << 20;

#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) processes: Processes,
    /// Notified when the node shall end.
    pub(crate) shutdown: Arc<Notify>,
}

impl Handler for Api {
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::POST, "/-/processes") => match parse(request).await {
                Ok(spec) => self.spawn(spec),
                Err(response) => response,
            },
            (&Method::GET, "/-/processes") => json(StatusCode::OK, &self.processes.replicas()),
            (&Method::GET, "/-/events") => self.events(),
            (&Method::POST, "/-/shutdown") => {
                self.shutdown.notify_one();
                empty(StatusCode::ACCEPTED)
            }
            (&Method::POST, path) => {
                let id = path.strip_prefix("/-/processes/").and_then(|p| p.strip_suffix("/stop"));
                let Some(id) = id else { return empty(StatusCode::NOT_FOUND) };
                match parse(request).await {
                    Ok(stop) => self.stop(id, &stop),
                    Err(response) => response,
                }
            }
            _ => empty(StatusCode::NOT_FOUND),
        }
    }
}

impl Api {
    fn spawn(&self, spec: ProcessSpec) -> Response<Body> {
        let kind = match &spec {
            one if one.waits => Kind::Waiting,
            one if one.outlasts_replicas => Kind::Shared,
            _ => Kind::Replica,
        };
        match self.processes.spawn(spec, kind, None) {
            Ok(info) => json(StatusCode::OK, &info),
            Err(error) => {
                let status = match error {
                    SpawnError::Exists { .. } => StatusCode::CONFLICT,
                    SpawnError::ShuttingDown | SpawnError::TooMany { .. } => {
                        StatusCode::SERVICE_UNAVAILABLE
                    }
                    SpawnError::System { .. } => StatusCode::INTERNAL_SERVER_ERROR,
                };
                text(status, error.to_string())
            }
        }
    }

    fn stop(&self, id: &str, stop: &StopProcess) -> Response<Body> {
        let is_replica = self.processes.replicas().iter().any(|info| info.id == id);
        let grace = Duration::try_from_secs_f64(stop.grace_s.max(0.0)).unwrap_or(Duration::MAX);
        if is_replica && self.processes.stop(id, grace) {
            empty(StatusCode::ACCEPTED)
        } else {
            text(StatusCode::NOT_FOUND, format!("no process {id}"))
        }
    }

    fn events(&self) -> Response<Body> {
        let (snapshot, mut events) = self.processes.subscribe();
        let (lines, body) = line_channel(64);
        tokio::spawn(async move {
            if !lines.send(&snapshot).await {
                return;
            }
            loop {
                tokio::select! {
                    () = lines.closed() => return,
                    event = events.recv() => match event {
                        Ok(event) if lines.send(&event).await => {}
                        // Too far behind, or gone: the end of the stream says so.
                        Ok(_) | Err(_) => return,
                    },
                }
            }
        });
        Response::new(body)
    }
}

async fn parse<T: DeserializeOwned>(request: Request<RequestBody>) -> Result<T, Response<Body>> {
    let bytes = read_body(request.into_body(), MAX_BODY_BYTES)
        .await
        .map_err(|error| text(StatusCode::BAD_REQUEST, error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| text(StatusCode::BAD_REQUEST, error.to_string()))
}
