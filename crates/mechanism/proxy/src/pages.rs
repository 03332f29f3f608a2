//! Answers that concern no single model: health, models, metrics.

use crate::reply::{Dialect, Failed};
use crate::shared::Shared;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderValue, Request, Response, StatusCode, header};
use serde_json::json;
use std::time::Duration;
use tyndall_openai::{ApiError, ModelCardView, ModelList};
use tyndall_telemetry::exposition;
use tyndall_transport::{Body, Client, empty, json as json_response, read_body, text};

const METRICS_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_PAGE_BYTES: usize = 8 << 20;

/// The seeds' health route: it answers for the first model without waking it.
pub(crate) fn healthz(shared: &Shared) -> Response<Body> {
    let first = shared.table().deployments.first().map(|first| first.route().model_id.clone());
    if shared.has_table() {
        json_response(StatusCode::OK, &json!({"status": "ok", "model": first}))
    } else {
        let starting = json!({"status": "starting", "model": null});
        json_response(StatusCode::SERVICE_UNAVAILABLE, &starting)
    }
}

/// The process serves.
pub(crate) fn livez() -> Response<Body> {
    text(StatusCode::OK, "ok\n")
}

/// The process knows its routes.
pub(crate) fn readyz(shared: &Shared) -> Response<Body> {
    if shared.has_table() {
        text(StatusCode::OK, "ok\n")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, "no routes yet\n")
    }
}

/// As OpenAI-compatible servers have it: no body.
pub(crate) fn health(shared: &Shared) -> Response<Body> {
    empty(if shared.has_table() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE })
}

pub(crate) fn version() -> Response<Body> {
    json_response(StatusCode::OK, &json!({"version": env!("CARGO_PKG_VERSION")}))
}

pub(crate) async fn models(shared: &Shared) -> Response<Body> {
    match shared.first_table().await {
        Err(error) => Failed::from(error).into_response(Dialect::OpenAi),
        Ok(table) => {
            let data = table.deployments.iter().map(|deployment| card(&deployment.route()));
            json_response(StatusCode::OK, &ModelList { object: "list", data: data.collect() })
        }
    }
}

/// One model; `--` in the path may stand for the `/` of its id.
pub(crate) async fn model(shared: &Shared, id: &str) -> Response<Body> {
    let id = id.replace("%2F", "/").replace("%2f", "/");
    let found = shared.first_table().await.and_then(|table| {
        let slashed = id.replace("--", "/");
        let found =
            table.find(Some(&id)).or_else(|error| table.find(Some(&slashed)).or(Err(error)));
        found.map(|deployment| card(&deployment.route()))
    });
    match found {
        Ok(card) => json_response(StatusCode::OK, &card),
        Err(error) => Failed::from(error).into_response(Dialect::OpenAi),
    }
}

fn card(route: &tyndall_types::protocol::DeploymentRoute) -> ModelCardView {
    ModelCardView::base(&route.model_id, route.created_s, route.max_model_len)
}

/// This process's metrics, the controller's and those of every running replica, as one page. A
/// process that does not answer in time is left out.
pub(crate) async fn metrics(shared: &Shared, controller: &Client) -> Response<Body> {
    let mut clients = vec![controller.clone()];
    for deployment in &shared.table().deployments {
        clients.extend(deployment.clients());
    }
    let others = join_all(clients.iter().map(page)).await;
    let own = shared.metrics().render();
    let pages = std::iter::once(own.as_str()).chain(others.iter().flatten().map(String::as_str));
    let mut response = text(StatusCode::OK, exposition::merge(pages));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(exposition::CONTENT_TYPE));
    response
}

async fn page(client: &Client) -> Option<String> {
    let request = Request::get("/-/metrics").body(Bytes::new()).expect("a constant request");
    let fetched = async {
        let response = client.send(request).await.ok()?;
        if !response.status().is_success() {
            return None;
        }
        let body = read_body(response.into_body(), MAX_PAGE_BYTES).await.ok()?;
        String::from_utf8(body.to_vec()).ok()
    };
    tokio::time::timeout(METRICS_TIMEOUT, fetched).await.unwrap_or(None)
}

/// The first deployment, which `/generate` means.
pub(crate) fn no_model() -> ApiError {
    ApiError::unknown_model::<&str>("", &[])
}
