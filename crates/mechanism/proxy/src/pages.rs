//! Answers that concern no single model: health, models, metrics.

use crate::caller::Caller;
use crate::reply::{Dialect, Failed};
use crate::shared::{Shared, model_id, no_model};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderValue, Request, Response, StatusCode, header};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tyndall_openai::{ModelCardView, ModelList};
use tyndall_router::{Deployment, Models, Scope};
use tyndall_telemetry::exposition;
use tyndall_transport::{Body, Client, empty, json as json_response, read_body, text};
use tyndall_types::protocol::DeploymentRoute;

const METRICS_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_PAGE_BYTES: usize = 8 << 20;

/// The seeds' health route: it answers for the first model without waking it.
pub(crate) fn healthz(shared: &Shared, scope: &Scope) -> Response<Body> {
    let first = shared.first(scope, &Caller::default()).ok().and_then(|first| model_id(&first));
    if shared.router.has_table() {
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
    if shared.router.has_table() {
        text(StatusCode::OK, "ok\n")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, "no routes yet\n")
    }
}

/// As OpenAI-compatible servers have it: no body.
pub(crate) fn health(shared: &Shared) -> Response<Body> {
    empty(if shared.router.has_table() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE })
}

pub(crate) fn version() -> Response<Body> {
    json_response(StatusCode::OK, &json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// What these routes take and answer.
pub(crate) fn openapi(shared: &Shared, scope: &Scope) -> Response<Body> {
    let prefix = match scope {
        Scope::Everywhere => "/",
        Scope::Prefix(prefix) => prefix.trim_end_matches('/'),
    };
    json_response(StatusCode::OK, &tyndall_openai::openapi(prefix, !shared.access.is_open()))
}

/// Ray Serve's health route: whether there is anything to serve.
pub(crate) fn node_health(shared: &Shared) -> Response<Body> {
    match unhealthy(shared) {
        None => text(StatusCode::OK, "success"),
        Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

/// Which application is mounted where.
pub(crate) fn routes(shared: &Shared) -> Response<Body> {
    if let Some(why) = unhealthy(shared) {
        return text(StatusCode::SERVICE_UNAVAILABLE, why);
    }
    let mounts = shared.router.mounts().into_iter();
    let routes: serde_json::Map<_, _> = mounts
        .map(|mount| (mount.prefix.to_string(), mount.ingress.id().application.as_str().into()))
        .collect();
    json_response(StatusCode::OK, &routes)
}

/// Ray Serve's words for a proxy that is not to get requests.
fn unhealthy(shared: &Shared) -> Option<&'static str> {
    if shared.is_draining() {
        Some("This node is being drained.")
    } else if !shared.router.was_populated() {
        Some("Route table is not populated yet.")
    } else {
        None
    }
}

/// The models that a caller may use.
pub(crate) fn models(shared: &Shared, scope: &Scope, caller: &Caller) -> Response<Body> {
    let all = |models: &Models| -> Vec<_> {
        let allowed = models.iter().filter(|model| caller.may_use(model));
        allowed.flat_map(|model| cards(&model.route())).collect()
    };
    let data = shared.router.with_models(scope, all);
    json_response(StatusCode::OK, &ModelList { object: "list", data })
}

/// One model; `--` in the path may stand for the `/` of its id.
pub(crate) fn model(shared: &Shared, scope: &Scope, id: &str, caller: &Caller) -> Response<Body> {
    let id = id.replace("%2F", "/").replace("%2f", "/");
    let slashed = id.replace("--", "/");
    let find = |id: &str| shared.find(scope, Some(id), caller);
    let found = find(&id).or_else(|error| find(&slashed).or(Err(error)));
    let card = |found: Arc<Deployment>| {
        let cards = cards(&found.route());
        let asked = cards.iter().find(|card| card.id == id || card.id == slashed);
        asked.or(cards.first()).cloned().ok_or_else(no_model)
    };
    match found.and_then(card) {
        Ok(card) => json_response(StatusCode::OK, &card),
        Err(error) => Failed::from(error).into_response(Dialect::OpenAi),
    }
}

/// One for each name of the model, as in vLLM.
fn cards(route: &DeploymentRoute) -> Vec<ModelCardView> {
    let Some(model) = &route.model else { return Vec::new() };
    let base = ModelCardView::base(&model.id, model.created_s, model.max_model_len);
    let alias = |name: &String| ModelCardView { id: name.clone(), ..base.clone() };
    let aliases: Vec<_> = model.aliases.iter().map(alias).collect();
    std::iter::once(base).chain(aliases).collect()
}

/// This process's metrics, the controller's and those of every running replica, as one page. A
/// process that does not answer in time is left out.
pub(crate) async fn metrics(shared: &Shared) -> Response<Body> {
    let mut clients = vec![shared.router.controller().clone()];
    let deployments = shared.router.deployments();
    clients.extend(deployments.iter().flat_map(|deployment| deployment.clients()));
    let others = join_all(clients.iter().map(page)).await;
    let own = shared.router.metrics_page();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{program, route, table};
    use http_body_util::BodyExt;
    use tyndall_types::protocol::DeploymentRoute;

    #[tokio::test]
    async fn a_node_is_healthy_from_its_first_application_until_it_drains() {
        let shared = Shared::new(Client::unix("/nowhere"), "test".to_owned(), Default::default());
        let check = async |status: u16, health: &str, routes: &str| {
            for (response, expected) in
                [(node_health(&shared), health), (super::routes(&shared), routes)]
            {
                assert_eq!(response.status().as_u16(), status);
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, expected.as_bytes());
            }
        };
        let empty = "Route table is not populated yet.";
        check(503, empty, empty).await;
        let inner = DeploymentRoute { route_prefix: None, ..program("inner#d") };
        shared.router.apply(table(1, vec![inner.clone()]));
        check(503, empty, empty).await;
        let mounted = DeploymentRoute { route_prefix: Some("/p".to_owned()), ..program("app#d") };
        shared.router.apply(table(2, vec![route("m"), mounted, inner]));
        check(200, "success", r#"{"/":"m","/p":"app"}"#).await;
        shared.router.apply(table(3, Vec::new()));
        check(200, "success", "{}").await;
        shared.drain();
        check(503, "This node is being drained.", "This node is being drained.").await;
    }
}
