//! Requests with and without API keys.

use super::fakes::{Behaviour, Node, PATIENCE, Replica};
use super::{PROMPT, STREAM, body, json_body, program, route, table};
use crate::KeySources;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;
use tyndall_api_keys::{Key, KeyName, Limits, ModelPattern};
use tyndall_transport::{Client, ResponseBody};
use tyndall_types::HEADER_USAGE;
use tyndall_types::protocol::{DeploymentRoute, KeyUsage};

fn key(name: &str, limits: Limits) -> Key {
    Key { limits, ..Key::unlimited(KeyName::new(name).unwrap(), name) }
}

fn keys(keys: Vec<Key>) -> KeySources {
    KeySources { file: None, keys }
}

/// A request with the key of this name.
async fn ask(node: &Node, key: &str, path: &str, sent: &str) -> Response<ResponseBody> {
    let method = if sent.is_empty() { Method::GET } else { Method::POST };
    let request = Request::builder().method(method).uri(path).header("x-api-key", key);
    let request = request.body(Bytes::from(sent.to_owned())).unwrap();
    Client::tcp(node.address).send(request).await.unwrap()
}

async fn with_replica(keys: KeySources, behaviour: Behaviour) -> (Node, Replica) {
    let node = Node::start_with_keys(route("demo"), keys).await;
    let replica = Replica::start(&node, "r0", behaviour);
    node.edit(|demo| demo.replicas = vec![replica.route()]).await;
    (node, replica)
}

fn used(name: &str, counts: [u64; 5]) -> KeyUsage {
    let [requests, refused, prompt_tokens, cached_tokens, completion_tokens] = counts;
    let name = name.to_owned();
    KeyUsage { name, requests, refused, prompt_tokens, cached_tokens, completion_tokens }
}

#[tokio::test]
async fn without_a_key_models_and_programs_are_closed_and_pages_open() {
    let node = Node::start_with_keys(route("demo"), keys(vec![])).await;
    let mounted = DeploymentRoute { route_prefix: Some("/p".to_owned()), ..program("app#d") };
    node.publish(table(9, vec![route("demo"), mounted]));
    let message = "this server wants an API key that it knows";
    for (path, sent) in [
        ("/v1/models", ""),
        ("/v1/models/demo", ""),
        ("/v1/completions", "{"),
        ("/v1/chat/completions", "{}"),
        ("/v1/unknown", ""),
        ("/unknown", ""),
        ("/generate", PROMPT),
    ] {
        for wrong in ["", "roo", "Root"] {
            let refused = ask(&node, wrong, path, sent).await;
            assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{path} {wrong:?}");
            assert_eq!(refused.headers()[header::WWW_AUTHENTICATE], "Bearer");
            let error = json_body(refused).await;
            let is_generate = path == "/generate";
            let told = if is_generate { &error["error"] } else { &error["error"]["message"] };
            assert!(told.as_str().unwrap().starts_with(message), "{error}");
            assert!(is_generate || error["error"]["type"] == "AuthenticationError");
        }
    }
    let closed = async {
        // Until the table has come it leads nowhere.
        loop {
            let refused = ask(&node, "wrong", "/p/x", "").await;
            if refused.status() != StatusCode::NOT_FOUND {
                return refused;
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, closed).await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert!(body(refused).await.starts_with(message));
    for path in ["/healthz", "/livez", "/readyz", "/health", "/version", "/metrics", "/-/routes"] {
        assert_eq!(ask(&node, "", path, "").await.status(), StatusCode::OK, "{path}");
    }
    assert_eq!(ask(&node, "root", "/v1/models", "").await.status(), StatusCode::OK);
    let page = body(ask(&node, "", "/metrics", "").await).await;
    assert!(page.contains("\ntyndall_requests_unauthorized_total "), "{page}");
}

#[tokio::test]
async fn a_key_sees_its_models_only() {
    let models = Some(vec![ModelPattern::new("org/*").unwrap()]);
    let few = Key { models, ..key("few", Limits::default()) };
    let none = Key {
        models: Some(vec![ModelPattern::new("x").unwrap()]),
        ..key("none", Limits::default())
    };
    let node = Node::start_with_keys(route("demo"), keys(vec![few, none])).await;
    let replica = Replica::start(&node, "r0", Behaviour::Echo);
    let with =
        |id: &str, order| DeploymentRoute { order, replicas: vec![replica.route()], ..route(id) };
    let mounted =
        DeploymentRoute { route_prefix: Some("/p".to_owned()), order: 5, ..program("app#d") };
    node.publish(table(9, vec![with("demo", 1), with("org/a", 2), mounted]));
    node.edit(|_| {}).await;
    for (key, ids) in [("root", &["demo", "org/a"][..]), ("few", &["org/a"]), ("none", &[])] {
        let models = json_body(ask(&node, key, "/v1/models", "").await).await;
        let found = models["data"].as_array().unwrap().iter().map(|model| model["id"].clone());
        assert_eq!(found.collect::<Vec<_>>(), ids, "{key}");
    }
    let asks = |model: &str| json!({"prompt": "hi", "model": model}).to_string();
    for (key, path, sent, status, part) in [
        ("few", "/v1/completions", asks("org/a"), 200, ""),
        // The only one that there is for it, and the first.
        ("few", "/v1/completions", PROMPT.to_owned(), 200, ""),
        ("few", "/generate", PROMPT.to_owned(), 200, ""),
        ("few", "/v1/completions", asks("demo"), 403, "the key few may not use the model \\\"demo"),
        ("few", "/v1/models/demo", String::new(), 403, "the key few may not use"),
        ("few", "/v1/completions", asks("dem"), 404, "this server has org/a"),
        ("few", "/p/x", String::new(), 403, "may not use the model \"app\""),
        ("none", "/generate", PROMPT.to_owned(), 403, "the key none may not use"),
        ("root", "/v1/completions", PROMPT.to_owned(), 400, "demo, org/a"),
    ] {
        let answer = ask(&node, key, path, &sent).await;
        assert_eq!(answer.status().as_u16(), status, "{key} {path} {sent}");
        let told = body(answer).await;
        assert!(told.contains(part) && (status != 404 || !told.contains("demo")), "{told}");
        assert!(status != 403 || path != "/v1/completions" || told.contains("PermissionDenied"));
    }
    // Looking for a model is not counted.
    node.usage_is(&used("few", [6, 2, 21, 6, 9])).await;
}

#[tokio::test]
async fn limits_refuse_with_the_time_to_come_back() {
    let requests = Limits { requests_per_minute: Some(1), ..Limits::default() };
    let tokens = Limits { tokens_per_minute: Some(1), ..Limits::default() };
    let sources = keys(vec![key("requests", requests), key("tokens", tokens)]);
    let (node, _replica) = with_replica(sources, Behaviour::Echo).await;
    for (key, what, after) in [("requests", "requests", "60"), ("tokens", "tokens", "600")] {
        let names =
            ["limit", "remaining", "reset"].map(|word| format!("x-ratelimit-{word}-{what}"));
        let told = |answer: &Response<ResponseBody>| {
            names.each_ref().map(|name| answer.headers()[name].to_str().unwrap().to_owned())
        };
        let answer = ask(&node, key, "/v1/completions", PROMPT).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(told(&answer)[0], "1");
        assert!(!answer.headers().contains_key(HEADER_USAGE));
        assert_eq!(json_body(answer).await["path"], "/v1/completions");
        let refused = ask(&node, key, "/v1/completions", PROMPT).await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        let retry_after: u64 =
            refused.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
        assert!(retry_after > 0 && retry_after <= after.parse().unwrap(), "{retry_after}");
        let [limit, remaining, reset] = told(&refused);
        assert_eq!((limit.as_str(), remaining.as_str()), ("1", "0"));
        assert!(reset.ends_with('s'), "{reset}");
        let error = json_body(refused).await;
        assert_eq!(
            (&error["error"]["code"], &error["error"]["type"]),
            (&json!(429), &json!("RateLimitError"))
        );
        // What no model works for has no limit.
        assert_eq!(ask(&node, key, "/v1/models", "").await.status(), StatusCode::OK);
        node.usage_is(&used(key, [1, 1, 7, 2, 3])).await;
    }
    let free = ask(&node, "root", "/v1/completions", PROMPT).await;
    assert!(free.headers().keys().all(|name| !name.as_str().starts_with("x-ratelimit")));
    let page = body(ask(&node, "", "/metrics", "").await).await;
    for line in [
        "tyndall_api_key_requests_total{api_key=\"tokens\"} 1",
        "tyndall_api_key_completion_tokens_total{api_key=\"tokens\"} 3",
        "tyndall_api_key_requests_refused_total{api_key=\"requests\",reason=\"limit\"} 1",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
}

#[tokio::test]
async fn a_stream_is_charged_for_what_was_read_of_it() {
    let one = Limits { max_concurrent: Some(1), ..Limits::default() };
    let (node, mut replica) = with_replica(keys(vec![key("one", one)]), Behaviour::Streams).await;
    let node = Arc::new(node);
    let begin = |node: &Arc<Node>| {
        let node = node.clone();
        tokio::spawn(async move { ask(&node, "one", "/v1/completions", STREAM).await })
    };
    let (asked, stream) = (begin(&node), replica.next_stream().await);
    // In pieces, and two events at once.
    for sent in [": usa", "ge 2\ndata: 1\n\n: usage 5\nda", "ta: 2\n\n"] {
        stream.send(Ok(sent.into())).await.unwrap();
    }
    let mut cut = asked.await.unwrap();
    assert!(!cut.headers().contains_key(HEADER_USAGE));
    for expected in ["data: 1\n\n", "data: 2\n\n"] {
        let frame = cut.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), expected);
    }
    let refused = ask(&node, "one", "/v1/completions", STREAM).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(body(refused).await.contains("has 1 requests at work already"));
    drop(cut);
    tokio::time::timeout(PATIENCE, stream.closed()).await.unwrap();
    node.usage_is(&used("one", [1, 1, 7, 0, 5])).await;

    // Read to its end, the trailer has the last word.
    let (asked, stream) = (begin(&node), replica.next_stream().await);
    stream.send(Ok(": usage 4\ndata: 1\n\n".into())).await.unwrap();
    drop(stream);
    let whole = asked.await.unwrap().into_body().collect().await.unwrap();
    assert!(whole.trailers().is_none_or(|trailers| !trailers.contains_key(HEADER_USAGE)));
    assert_eq!(whole.to_bytes(), "data: 1\n\n");
    node.usage_is(&used("one", [2, 1, 14, 2, 35])).await;
}

#[tokio::test]
async fn what_is_not_reported_at_the_end_is_reported_then() {
    let (mut node, _replica) =
        with_replica(keys(vec![key("late", Limits::default())]), Behaviour::Echo).await;
    for _ in 0..3 {
        let answer: Value = json_body(ask(&node, "late", "/generate", PROMPT).await).await;
        assert_eq!(answer["replica"], "r0");
    }
    let stopping = node.begin_stop();
    tokio::time::timeout(PATIENCE, stopping).await.unwrap().unwrap();
    node.usage_is(&used("late", [3, 0, 21, 6, 9])).await;
}
