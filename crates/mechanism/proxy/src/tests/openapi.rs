//! The document at `/openapi.json` against the routes.

use super::fakes::{Node, route};
use super::{json_body, program, table};
use crate::KeySources;
use crate::target::{PATHS, Route};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde_json::Value;
use std::collections::BTreeSet;
use tyndall_api_keys::{Key, KeyName};
use tyndall_transport::{Client, ResponseBody};
use tyndall_types::protocol::DeploymentRoute;

/// The routes that name something.
const NAMING: [&str; 3] =
    ["/v1/models/{id}", "/v1/responses/{id}", "/v1/responses/{id}/input_items"];

#[test]
fn the_document_has_every_route_with_its_methods() {
    let document = tyndall_openai::openapi("/", false);
    let paths = document["paths"].as_object().unwrap();
    for (path, operations) in paths {
        let named = path.replace("{id}", "x");
        let route = Route::of(&named).unwrap_or_else(|| panic!("{path} is not served"));
        let said: BTreeSet<String> =
            operations.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        let served = route.methods().iter().map(Method::to_string).collect();
        assert_eq!(said, served, "{path}");
    }
    let served = PATHS.iter().map(|(path, _)| *path).chain(NAMING);
    let missing: Vec<&str> = served.filter(|path| !paths.contains_key(*path)).collect();
    assert!(missing.is_empty(), "the document does not have {missing:?}");
}

async fn get(node: &Node, path: &str) -> Response<ResponseBody> {
    let request = Request::get(path).body(Bytes::new()).unwrap();
    Client::tcp(node.address).send(request).await.unwrap()
}

async fn document(node: &Node, path: &str) -> Value {
    let response = get(node, path).await;
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    json_body(response).await
}

#[tokio::test]
async fn it_says_where_the_routes_are_and_whether_keys_are_wanted() {
    let node = Node::start(route("demo")).await;
    let at = |prefix: &str, route: DeploymentRoute| DeploymentRoute {
        route_prefix: Some(prefix.to_owned()),
        ..route
    };
    node.publish(table(9, vec![at("/m", route("demo")), at("/p", program("app#d"))]));
    let everywhere = document(&node, "/openapi.json").await;
    assert_eq!(everywhere["servers"][0]["url"], "/");
    assert!(everywhere.get("security").is_none());
    assert_eq!(document(&node, "/m/openapi.json").await["servers"][0]["url"], "/m");

    let key = Key::unlimited(KeyName::new("k").unwrap(), "secret");
    let keys = KeySources { file: None, keys: vec![key] };
    let node = Node::start_with_keys(route("demo"), keys).await;
    let document = document(&node, "/openapi.json").await;
    assert!(document["components"]["securitySchemes"].get("x-api-key").is_some());
}
