//! The routes of each API: errors in its words, streams that end as it ends them, kept answers.

use super::fakes::{Behaviour, Node, Replica, route};
use super::{body, get, json_body, post};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tyndall_transport::Client;
use tyndall_types::protocol::ModelTask;

const MESSAGES: &str =
    r#"{"model": "demo", "max_tokens": 5, "messages": [{"role": "user", "content": "a"}]}"#;

async fn ask(client: &Client, method: Method, path: &str) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri(path).body(Bytes::new()).unwrap();
    let response = client.send(request).await.unwrap();
    (response.status(), json_body(response).await)
}

#[tokio::test]
async fn errors_come_in_the_words_of_each_api() {
    let node = Node::start(route("demo")).await;
    for (path, sent, status, pointer, part) in [
        ("/v1/messages", "{}", 400, "/error/message", "max_tokens"),
        ("/v1/messages", &MESSAGES.replace("demo", "other"), 404, "/error/message", "\"other\""),
        ("/v1/messages/count_tokens", "{}", 400, "/error/message", "messages"),
        ("/v1/responses", "{}", 400, "/error/message", "input"),
        (
            "/v1/responses",
            r#"{"input": "a", "previous_response_id": "resp_x"}"#,
            404,
            "/error/message",
            "resp_x",
        ),
        ("/tokenize", "{}", 400, "/error/message", "prompt"),
        ("/detokenize", "{}", 400, "/error/message", "tokens"),
        (
            "/v1/completions",
            r#"{"prompt": "a", "structured_outputs": {"json": {"$ref": "https://x"}}}"#,
            400,
            "/error/message",
            "$ref",
        ),
    ] {
        let response = post(&node.client, path, sent).await;
        assert_eq!(response.status().as_u16(), status, "{path} {sent}");
        let error = json_body(response).await;
        let message = error.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        assert!(message.contains(part), "{error}");
        let is_anthropic = path.starts_with("/v1/messages");
        assert_eq!(error.get("type").is_some(), is_anthropic, "{error}");
    }
    assert!(node.never_reported_demand());
}

#[tokio::test]
async fn each_route_reaches_the_replica_as_it_is() {
    let node = Node::start(route("demo")).await;
    let replica = Replica::start(&node, "r0", Behaviour::Echo);
    node.edit(|demo| demo.replicas = vec![replica.route()]).await;
    for (path, sent) in [
        ("/v1/messages", MESSAGES),
        ("/v1/messages/count_tokens", MESSAGES),
        ("/v1/responses", r#"{"input": "a"}"#),
        ("/tokenize", r#"{"prompt": "a"}"#),
        ("/detokenize", r#"{"tokens": [1]}"#),
    ] {
        let answer = json_body(post(&node.client, path, sent).await).await;
        assert_eq!(answer["path"], path);
        assert_eq!(answer["sent"], serde_json::from_str::<Value>(sent).unwrap());
    }
}

#[tokio::test]
async fn a_lost_stream_ends_as_its_api_ends_one() {
    for (path, sent, first, last) in [
        ("/v1/messages", MESSAGES, "event: message_start\ndata: {}\n\n", "event: error\n"),
        (
            "/v1/responses",
            r#"{"input": "a"}"#,
            "event: response.created\ndata: {\"sequence_number\":4}\n\n",
            "event: error\ndata: {\"type\":\"error\",\"code\":\"BadGatewayError\"",
        ),
    ] {
        let node = Node::start(route("demo")).await;
        let mut replica = Replica::start(&node, "r0", Behaviour::Streams);
        node.edit(|demo| demo.replicas = vec![replica.route()]).await;
        let client = node.client.clone();
        let asked = tokio::spawn(async move { post(&client, path, sent).await });
        let stream = replica.next_stream().await;
        stream.send(Ok(first.into())).await.unwrap();
        let response = asked.await.unwrap();
        stream.send(Err("killed".into())).await.unwrap();
        let text = body(response).await;
        let rest = text.strip_prefix(first).unwrap();
        assert!(rest.starts_with(last) && rest.matches("\n\n").count() == 1, "{rest}");
        assert_eq!(rest.contains("\"sequence_number\":5"), path == "/v1/responses");
    }
}

#[tokio::test]
async fn an_answer_is_kept_and_goes_before_the_next_input() {
    let node = Node::start(route("demo")).await;
    let mut replica = Replica::start(&node, "r0", Behaviour::Streams);
    node.edit(|demo| demo.replicas = vec![replica.route()]).await;
    let client = node.client.clone();
    let first = tokio::spawn(async move {
        post(&client, "/v1/responses", r#"{"input": "one", "stream": true}"#).await
    });
    let stream = replica.next_stream().await;
    let output = json!([{"type": "message", "id": "msg_1", "role": "assistant",
        "content": [{"type": "output_text", "text": "two"}]}]);
    let response = json!({"id": "resp_1", "object": "response", "output": output});
    let event = json!({"type": "response.completed", "response": response, "sequence_number": 9});
    stream.send(Ok(format!("event: response.completed\ndata: {event}\n\n").into())).await.unwrap();
    drop(stream);
    assert!(body(first.await.unwrap()).await.contains("resp_1"));

    let (status, kept) = ask(&node.client, Method::GET, "/v1/responses/resp_1").await;
    assert_eq!((status, &kept), (StatusCode::OK, &response));
    let items = "/v1/responses/resp_1/input_items?order=asc&limit=5";
    let (status, items) = ask(&node.client, Method::GET, items).await;
    assert_eq!((status, items["data"].as_array().unwrap().len()), (StatusCode::OK, 1));
    let (status, _) =
        ask(&node.client, Method::GET, "/v1/responses/resp_1/input_items?limit=0").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);

    let echo = Replica::start(&node, "r1", Behaviour::Echo);
    node.edit(|demo| demo.replicas = vec![echo.route()]).await;
    let next = r#"{"input": "three", "previous_response_id": "resp_1"}"#;
    let sent = json_body(post(&node.client, "/v1/responses", next).await).await;
    let input = sent["sent"]["input"].as_array().unwrap();
    assert_eq!(input.len(), 3, "{sent}");
    assert_eq!((&input[1], &sent["sent"]["previous_response_id"]), (&output[0], &json!("resp_1")));

    let (status, gone) = ask(&node.client, Method::DELETE, "/v1/responses/resp_1").await;
    assert_eq!((status, &gone["deleted"]), (StatusCode::OK, &json!(true)));
    let (status, _) = ask(&node.client, Method::GET, "/v1/responses/resp_1").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_model_gets_only_what_it_is_for_and_the_rest_wakes_none() {
    let mut encoder = route("org/encoder");
    encoder.model.as_mut().unwrap().task = ModelTask::Embed;
    let node = Node::start(encoder).await;
    for (path, sent) in [
        ("/v1/chat/completions", r#"{"messages": [{"role": "user", "content": "x"}]}"#),
        ("/v1/completions", r#"{"prompt": "x"}"#),
        ("/classify", r#"{"input": "x"}"#),
        ("/generate", r#"{"prompt": "x"}"#),
    ] {
        let refused = post(&node.client, path, sent).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{path}");
        let error = body(refused).await;
        assert!(error.contains("task; it has /v1/embeddings"), "{path}: {error}");
    }
    assert_eq!(get(&node.client, "/").await.status(), StatusCode::NOT_FOUND, "nobody to chat with");
    node.demand_is("org/encoder", 0, 0).await;

    let replica = Replica::start(&node, "r0", Behaviour::Echo);
    node.edit(|encoder| encoder.replicas = vec![replica.route()]).await;
    let pair = r#"{"queries": "a", "documents": ["b"]}"#;
    let ranked = r#"{"query": "a", "documents": ["b"]}"#;
    for (path, sent, expected) in [
        ("/v1/embeddings", r#"{"input": "x", "model": "org/encoder"}"#, "/v1/embeddings"),
        ("/score", pair, "/v1/score"),
        ("/v1/score", pair, "/v1/score"),
        ("/rerank", ranked, "/v1/rerank"),
        ("/v2/rerank", ranked, "/v1/rerank"),
        ("/tokenize", r#"{"prompt": "x"}"#, "/tokenize"),
    ] {
        let answer = post(&node.client, path, sent).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        assert_eq!(json_body(answer).await["path"], expected);
    }
    let refused = post(&node.client, "/v1/embeddings", r#"{"input": []}"#).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
}
