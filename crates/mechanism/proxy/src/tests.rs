//! A whole proxy over real sockets, between a fake controller and fake replicas.

mod browsers;
mod dialects;
mod fakes;
mod grpc;
mod keys;
mod openapi;
mod prefixes;
mod programs;
mod websockets;

use crate::timing::SERVER_TIMING;
use bytes::Bytes;
use fakes::{Behaviour, Node, Replica};
pub(crate) use fakes::{program, route, table};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tyndall_transport::{Client, ResponseBody, read_body};
use tyndall_types::protocol::{Backpressure, DeploymentRoute, Unavailable};

const PROMPT: &str = r#"{"prompt": "hi"}"#;
const STREAM: &str = r#"{"prompt": "hi", "stream": true}"#;

async fn post(client: &Client, path: &str, body: &str) -> Response<ResponseBody> {
    let request = Request::post(path).body(Bytes::from(body.to_owned())).unwrap();
    client.send(request).await.unwrap()
}

async fn get(client: &Client, path: &str) -> Response<ResponseBody> {
    client.send(Request::get(path).body(Bytes::new()).unwrap()).await.unwrap()
}

async fn body(response: Response<ResponseBody>) -> String {
    let bytes = read_body(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn json_body(response: Response<ResponseBody>) -> Value {
    serde_json::from_str(&body(response).await).unwrap()
}

#[tokio::test]
async fn a_cold_request_waits_is_reported_and_answered_by_the_replica_that_wakes() {
    let node = Node::start(route("demo")).await;
    let client = node.client.clone();
    let asked = tokio::spawn(async move { post(&client, "/generate", PROMPT).await });
    node.demand_is("demo", 1, 0).await;

    let replica = Replica::start(&node, "r0", Behaviour::Echo);
    node.edit(|demo| demo.replicas = vec![replica.route()]).await;
    let response = asked.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let timing = response.headers()[SERVER_TIMING].to_str().unwrap().to_owned();
    assert!(timing.starts_with("queue;dur=") && timing.contains("wake;dur="), "{timing}");
    assert!(timing.ends_with("prefill;dur=1.5, decode;dur=2.5"), "{timing}");
    assert_eq!(response.headers()["x-request-id"].len(), 32);
    assert_eq!(json_body(response).await["path"], "/generate");
    node.demand_is("demo", 0, 0).await;
}

#[tokio::test]
async fn the_queue_is_bounded_and_its_refusal_tells_when_to_come_back() {
    let node = Node::start(route("demo")).await;
    node.edit(|demo| demo.max_queued_requests = 2).await;
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let client = node.client.clone();
            tokio::spawn(async move { post(&client, "/generate", PROMPT).await })
        })
        .collect();
    node.demand_is("demo", 2, 0).await;
    let refused = post(&node.client, "/generate", PROMPT).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    let error = json_body(refused).await;
    assert!(error["error"].as_str().unwrap().contains("2 requests waiting"), "{error}");
    let refused = post(&node.client, "/v1/completions", PROMPT).await;
    assert_eq!(json_body(refused).await["error"]["code"], 503);

    let replica = Replica::start(&node, "r0", Behaviour::Echo);
    node.edit(|demo| demo.replicas = vec![replica.route()]).await;
    for request in waiting {
        assert_eq!(request.await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn how_models_refuse_and_time_out_can_be_chosen() {
    let node = Node::start(route("demo")).await;
    node.edit(|demo| {
        demo.max_queued_requests = 0;
        demo.backpressure = Backpressure { status_code: 429, retry_after_s: Some(7.0) };
    })
    .await;
    let refused = post(&node.client, "/v1/completions", PROMPT).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()[header::RETRY_AFTER], "7");
    assert_eq!(json_body(refused).await["error"]["code"], 429);
    node.edit(|demo| demo.max_queued_requests = 1).await;
    let request = Request::post("/generate").header("x-request-timeout-seconds", "0.05");
    let late = node.client.send(request.body(Bytes::from(PROMPT)).unwrap()).await.unwrap();
    assert_eq!(late.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(body(late).await.contains("0.05 s, which is this request's x-request-timeout"));
}

#[tokio::test]
async fn bad_requests_are_refused_without_any_demand() {
    let node = Node::start(route("org/demo")).await;
    for (path, sent, status, part) in [
        ("/generate", "", 400, "the body is empty"),
        ("/generate", "{", 400, "line 1 column 1"),
        ("/generate", r#"{"prompts": []}"#, 400, "must not be empty"),
        ("/generate", r#"{"prompt": "a", "generation_kwargs": {"top_p": NaN}}"#, 400, "NaN"),
        ("/v1/completions", r#"{"prompt": "a", "temperature": -1}"#, 400, "got -1"),
        ("/v1/completions", r#"{"prompt": "a", "model": "demoo"}"#, 404, "did you mean org/demo?"),
        ("/v1/chat/completions", r#"{"messages": 1}"#, 400, "messages must be a list"),
    ] {
        let response = post(&node.client, path, sent).await;
        assert_eq!(response.status().as_u16(), status, "{sent}");
        assert!(response.headers().contains_key("x-request-id"));
        let error = json_body(response).await;
        let openai = path != "/generate";
        let message = if openai { &error["error"]["message"] } else { &error["error"] };
        assert!(message.as_str().unwrap().contains(part), "{error}");
        assert!(!openai || error["error"]["code"] == status);
    }
    let large = vec![b' '; crate::app::MAX_BODY_BYTES + 1];
    let request = Request::post("/generate").body(large.into()).unwrap();
    // The answer may come while the body is still on its way, and close the connection.
    if let Ok(response) = node.client.send(request).await {
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
    assert!(node.never_reported_demand());
}

#[tokio::test]
async fn wrong_paths_and_methods_have_details() {
    let node = Node::start(route("demo")).await;
    let response = get(&node.client, "/nowhere").await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let told = json_body(response).await;
    assert_eq!((&told["detail"], &told["error"]["code"]), (&json!("Not Found"), &json!(404)));
    for (method, path, allow) in
        [(Method::GET, "/generate", "POST"), (Method::POST, "/healthz", "GET")]
    {
        let request = Request::builder().method(method).uri(path).body(Bytes::new()).unwrap();
        let response = node.client.send(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()[header::ALLOW], allow);
        let told = json_body(response).await;
        let phrase = json!("Method Not Allowed");
        assert_eq!((&told["detail"], &told["error"]["message"]), (&phrase, &phrase));
    }
}

#[tokio::test]
async fn pages_answer_without_waking_anything() {
    let node = Node::start(route("org/demo")).await;
    let health = get(&node.client, "/healthz").await;
    assert_eq!(body(health).await, r#"{"status":"ok","model":"org/demo"}"#);
    for path in ["/livez", "/readyz", "/health", "/version"] {
        assert_eq!(get(&node.client, path).await.status(), StatusCode::OK, "{path}");
    }
    let models = json_body(get(&node.client, "/v1/models").await).await;
    assert_eq!(models["data"][0]["id"], "org/demo");
    assert_eq!(models["data"][0]["max_model_len"], 512, "known before any replica is");
    for path in ["/v1/models/org/demo", "/v1/models/org--demo", "/v1/models/org%2Fdemo"] {
        assert_eq!(json_body(get(&node.client, path).await).await["id"], "org/demo", "{path}");
    }
    let missing = get(&node.client, "/v1/models/other").await;
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    assert_eq!(json_body(missing).await["error"]["param"], "model");
    assert!(node.never_reported_demand());
}

#[tokio::test]
async fn models_of_an_application_lie_below_its_prefix() {
    let node = Node::start_without_table().await;
    let replicas = ["r0", "r1"].map(|id| Replica::start(&node, id, Behaviour::Echo));
    let mounted = |n: usize, id: &str| DeploymentRoute {
        order: n as u64,
        route_prefix: Some(format!("/{id}")),
        replicas: vec![replicas[n].route()],
        ..route(id)
    };
    node.publish(table(1, vec![mounted(0, "a"), mounted(1, "b")]));
    for (path, sent, replica, replica_path) in [
        ("/b/v1/completions", PROMPT, "r1", "/v1/completions"),
        ("/b/generate", PROMPT, "r1", "/generate"),
        ("/generate", PROMPT, "r0", "/generate"),
        ("/v1/completions", r#"{"prompt": "hi", "model": "b"}"#, "r1", "/v1/completions"),
    ] {
        let answer = json_body(post(&node.client, path, sent).await).await;
        assert_eq!((&answer["replica"], &answer["path"]), (&json!(replica), &json!(replica_path)));
    }
    for (path, ids) in [("/v1/models", &["a", "b"][..]), ("/b/v1/models", &["b"])] {
        let models = json_body(get(&node.client, path).await).await;
        let found = models["data"].as_array().unwrap().iter().map(|model| model["id"].clone());
        assert_eq!(found.collect::<Vec<_>>(), ids, "{path}");
    }
    let health = body(get(&node.client, "/b/healthz").await).await;
    assert_eq!(health, r#"{"status":"ok","model":"b"}"#);
    let sent = r#"{"prompt": "hi", "model": "a"}"#;
    let unknown = post(&node.client, "/b/v1/completions", sent).await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    let unknown = body(get(&node.client, "/c/v1/models?x").await).await;
    let expected = "Path '/c/v1/models' not found. Ping http://.../-/routes for available routes.";
    assert_eq!(unknown, expected);
    let told = json_body(get(&node.client, "/v1/x").await).await;
    assert_eq!(told["detail"], "Not Found");
    let routes = body(get(&node.client, "/-/routes").await).await;
    assert_eq!(routes, r#"{"/a":"a","/b":"b"}"#);
    assert_eq!(body(get(&node.client, "/-/healthz").await).await, "success");
    assert!(body(get(&node.client, "/-/metrics").await).await.contains("tyndall_"));
}

#[tokio::test]
async fn before_the_first_table_nothing_is_ready() {
    let node = Node::start_without_table().await;
    assert_eq!(get(&node.client, "/livez").await.status(), StatusCode::OK);
    for path in ["/readyz", "/healthz", "/health", "/-/healthz", "/-/routes"] {
        let status = get(&node.client, path).await.status();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
    }
    let client = node.client.clone();
    let early = tokio::spawn(async move { get(&client, "/v1/models").await });
    node.publish(table(1, vec![route("demo")]));
    assert_eq!(early.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_request_that_loses_its_replica_before_the_first_byte_is_answered_by_another() {
    let node = Node::start(route("demo")).await;
    let dying = Replica::start(&node, "r0", Behaviour::Dies);
    node.edit(|demo| demo.replicas = vec![dying.route()]).await;
    let client = node.client.clone();
    let asked = tokio::spawn(async move { post(&client, "/generate", PROMPT).await });
    dying.was_asked().await;
    let good = Replica::start(&node, "r1", Behaviour::Echo);
    node.edit(|demo| demo.replicas = vec![good.route()]).await;
    let response = asked.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(json_body(response).await["replica"], "r1");
    node.demand_is("demo", 0, 0).await;
}

#[tokio::test]
async fn sockets_nobody_listens_on_and_replicas_that_drain_are_passed_by() {
    let node = Node::start(route("demo")).await;
    let draining = Replica::start(&node, "r0", Behaviour::NotStarted);
    let gone = Replica::start(&node, "r1", Behaviour::Echo);
    let gone_route = gone.route();
    gone.stop().await;
    let good = Replica::start(&node, "r2", Behaviour::Echo);
    node.edit(|demo| {
        demo.replicas = vec![draining.route(), gone_route, good.route()];
    })
    .await;
    for _ in 0..20 {
        let response = post(&node.client, "/v1/completions", PROMPT).await;
        assert_eq!(json_body(response).await["replica"], "r2");
    }
}

#[tokio::test]
async fn a_request_that_breaks_every_replica_is_given_up() {
    let node = Node::start(route("demo")).await;
    let start = |ids: [&str; 4]| ids.map(|id| Replica::start(&node, id, Behaviour::Dies));
    let replicas = start(["r0", "r1", "r2", "r3"]);
    node.edit(|demo| demo.replicas = replicas.iter().map(Replica::route).collect()).await;
    let response = post(&node.client, "/generate", PROMPT).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    let error = json_body(response).await;
    assert!(error["error"].as_str().unwrap().starts_with("3 replicas were lost"), "{error}");
    let asked: usize = replicas.iter().map(Replica::times_asked).sum();
    assert_eq!(asked, 3);
    let replicas = start(["r4", "r5", "r6", "r7"]);
    node.edit(|demo| demo.replicas = replicas.iter().map(Replica::route).collect()).await;
    let error = json_body(post(&node.client, "/v1/completions", STREAM).await).await;
    assert_eq!((&error["error"]["code"], &error["error"]["param"]), (&json!(502), &json!(null)));
}

#[tokio::test]
async fn a_stream_whose_replica_is_lost_ends_with_an_error_event() {
    let node = Node::start(route("demo")).await;
    let mut replica = Replica::start(&node, "r0", Behaviour::Streams);
    node.edit(|demo| demo.replicas = vec![replica.route()]).await;
    let client = node.client.clone();
    let asked = tokio::spawn(async move { post(&client, "/v1/completions", PROMPT).await });
    let stream = replica.next_stream().await;
    stream.send(Ok("data: {\"a\":1}\n\n".into())).await.unwrap();
    let mut response = asked.await.unwrap();
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "data: {\"a\":1}\n\n");
    node.demand_is("demo", 0, 1).await;
    // Half an event, then the end: the half is not passed on.
    stream.send(Ok("data: {\"b\"".into())).await.unwrap();
    stream.send(Err("killed".into())).await.unwrap();
    let rest = body(response).await;
    let events: Vec<&str> = rest.split_terminator("\n\n").collect();
    assert_eq!(events.len(), 2, "{rest}");
    let error: Value = serde_json::from_str(events[0].strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(error["error"]["code"], 502);
    assert_eq!(events[1], "data: [DONE]");
    node.demand_is("demo", 0, 0).await;
}

#[tokio::test]
async fn a_replica_lost_after_its_last_event_adds_no_second_end() {
    let node = Node::start(route("demo")).await;
    let mut replica = Replica::start(&node, "r0", Behaviour::Streams);
    node.edit(|demo| demo.replicas = vec![replica.route()]).await;
    let client = node.client.clone();
    let asked = tokio::spawn(async move { post(&client, "/v1/completions", STREAM).await });
    let stream = replica.next_stream().await;
    // The last event may come in pieces.
    stream.send(Ok("data: {\"a\":1}\n\ndata: [DO".into())).await.unwrap();
    let mut response = asked.await.unwrap();
    for (sent, expected) in [("NE]", "data: {\"a\":1}\n\n"), ("\n\n", "data: [DONE]\n\n")] {
        stream.send(Ok(sent.into())).await.unwrap();
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), expected);
    }
    stream.send(Err("killed".into())).await.unwrap();
    assert_eq!(body(response).await, "");
    node.demand_is("demo", 0, 0).await;
}

#[tokio::test]
async fn a_replica_that_falls_silent_midway_ends_its_streams() {
    let node = Node::start(route("demo")).await;
    let mut replica = Replica::start(&node, "r0", Behaviour::Streams);
    node.edit(|demo| {
        demo.request_timeout_s = 0.2;
        demo.replicas = vec![replica.route()];
    })
    .await;
    let client = node.client.clone();
    let asked = tokio::spawn(async move { post(&client, "/v1/completions", STREAM).await });
    let stream = replica.next_stream().await;
    stream.send(Ok("data: {\"a\":1}\n\n".into())).await.unwrap();
    let text = body(asked.await.unwrap()).await;
    assert!(text.contains("said nothing for 200ms"), "{text}");
    assert!(text.contains("502") && text.ends_with("\n\ndata: [DONE]\n\n"), "{text}");
    tokio::time::timeout(fakes::PATIENCE, stream.closed()).await.unwrap();
    node.demand_is("demo", 0, 0).await;
}

#[tokio::test]
async fn requests_of_a_deployment_that_is_deleted_learn_it() {
    let node = Node::start(route("demo")).await;
    let hanging = Replica::start(&node, "r1", Behaviour::Hangs);
    node.edit(|demo| demo.replicas = vec![hanging.route()]).await;
    let client = node.client.clone();
    let asked = tokio::spawn(async move { post(&client, "/generate", PROMPT).await });
    hanging.was_asked().await;
    node.publish(table(100, Vec::new()));
    let gone = async {
        while json_body(get(&node.client, "/v1/models").await).await["data"] != json!([]) {}
    };
    tokio::time::timeout(fakes::PATIENCE, gone).await.unwrap();
    // It comes back to a deployment that nobody updates any more.
    hanging.stop().await;
    let response = tokio::time::timeout(fakes::PATIENCE, asked).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(body(response).await.contains("was deleted"));
}

#[tokio::test]
async fn the_time_of_a_streams_end_comes_as_a_trailer_to_clients_that_take_one() {
    let node = Node::start(route("demo")).await;
    let mut replica = Replica::start(&node, "r0", Behaviour::Streams);
    node.edit(|demo| demo.replicas = vec![replica.route()]).await;
    let request = Request::post("/v1/completions").header("te", "trailers");
    let request = request.body(Bytes::from(PROMPT)).unwrap();
    let client = node.client.clone();
    let asked = tokio::spawn(async move { client.send(request).await.unwrap() });
    drop(replica.next_stream().await);
    let response = asked.await.unwrap();
    assert!(response.headers()[SERVER_TIMING].to_str().unwrap().starts_with("queue;dur="));
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()[SERVER_TIMING], "decode;dur=9.5");
}

#[tokio::test]
async fn a_permit_lasts_to_the_last_byte_and_wakes_the_next_in_line() {
    let node = Node::start(route("demo")).await;
    let mut replica = Replica::start(&node, "r0", Behaviour::Streams);
    node.edit(|demo| {
        demo.max_ongoing_requests = 1;
        demo.replicas = vec![replica.route()];
    })
    .await;
    let ask = || {
        let client = node.client.clone();
        tokio::spawn(async move { body(post(&client, "/v1/completions", PROMPT).await).await })
    };
    let first = ask();
    let stream = replica.next_stream().await;
    let second = ask();
    stream.send(Ok("data: 1\n\n".into())).await.unwrap();
    node.demand_is("demo", 1, 1).await;
    drop(stream);
    assert_eq!(first.await.unwrap(), "data: 1\n\n");
    drop(replica.next_stream().await);
    assert_eq!(second.await.unwrap(), "");
    node.demand_is("demo", 0, 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_place_back_and_cancels_the_work() {
    let node = Node::start(route("demo")).await;
    let mut replica = Replica::start(&node, "r0", Behaviour::Streams);
    node.edit(|demo| {
        demo.max_ongoing_requests = 1;
        demo.replicas = vec![replica.route()];
    })
    .await;
    let ask = || {
        let client = node.client.clone();
        tokio::spawn(async move {
            let mut response = post(&client, "/v1/completions", PROMPT).await;
            response.body_mut().frame().await;
            std::future::pending::<()>().await;
        })
    };
    let (streaming, stream) = (ask(), replica.next_stream().await);
    stream.send(Ok("data: 1\n\n".into())).await.unwrap();
    let queued = ask();
    node.demand_is("demo", 1, 1).await;
    queued.abort();
    node.demand_is("demo", 0, 1).await;
    streaming.abort();
    node.demand_is("demo", 0, 0).await;
    // The replica sees it too.
    tokio::time::timeout(fakes::PATIENCE, stream.closed()).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_does_not_begin_in_time_is_a_504() {
    let node = Node::start(route("demo")).await;
    node.edit(|demo| demo.request_timeout_s = 0.05).await;
    let response = post(&node.client, "/generate", PROMPT).await;
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(body(response).await.contains("request_timeout_s"));
    let replica = Replica::start(&node, "r0", Behaviour::Hangs);
    node.edit(|demo| demo.replicas = vec![replica.route()]).await;
    let response = post(&node.client, "/v1/completions", PROMPT).await;
    assert_eq!(json_body(response).await["error"]["type"], "TimeoutError");
    node.demand_is("demo", 0, 0).await;
}

#[tokio::test]
async fn when_no_replica_can_be_had_waiting_and_new_requests_learn_why() {
    let node = Node::start(route("demo")).await;
    let client = node.client.clone();
    let waiting = tokio::spawn(async move { post(&client, "/generate", PROMPT).await });
    node.demand_is("demo", 1, 0).await;
    node.edit(|demo| {
        demo.unavailable =
            Some(Unavailable { reason: "config.json is missing".into(), retry_after_s: 7.2 });
    })
    .await;
    let new = post(&node.client, "/generate", PROMPT).await;
    for response in [waiting.await.unwrap(), new] {
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "8");
        assert_eq!(json_body(response).await, json!({"error": "config.json is missing"}));
    }
    node.demand_is("demo", 0, 0).await;
}

#[tokio::test]
async fn traffic_goes_on_without_a_controller_and_a_new_one_hears_all_counts() {
    let mut node = Node::start(route("demo")).await;
    let mut replica = Replica::start(&node, "r0", Behaviour::Streams);
    node.edit(|demo| demo.replicas = vec![replica.route()]).await;
    let client = node.client.clone();
    let ask = || {
        let client = client.clone();
        tokio::spawn(async move { body(post(&client, "/v1/completions", PROMPT).await).await })
    };
    let (first, stream) = (ask(), replica.next_stream().await);
    node.demand_is("demo", 0, 1).await;
    node.stop_controller().await;
    let second = ask();
    drop(replica.next_stream().await);
    assert_eq!(second.await.unwrap(), "");
    node.start_controller();
    node.demand_is("demo", 0, 1).await;
    drop(stream);
    assert_eq!(first.await.unwrap(), "");
    node.demand_is("demo", 0, 0).await;
}

#[tokio::test]
async fn the_metrics_page_joins_all_processes_and_is_valid() {
    let node = Node::start(route("demo")).await;
    let replicas = ["r0", "r1"].map(|id| Replica::start(&node, id, Behaviour::Echo));
    node.edit(|demo| demo.replicas = replicas.iter().map(Replica::route).collect()).await;
    post(&node.client, "/generate", PROMPT).await;
    let response = get(&node.client, "/metrics").await;
    assert!(response.headers()[header::CONTENT_TYPE].to_str().unwrap().contains("version=0.0.4"));
    let page = body(response).await;
    let mut families = std::collections::HashSet::new();
    for line in page.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            assert!(families.insert(family.split(' ').next().unwrap()), "{line} twice");
        }
    }
    for line in [
        "fake_steps_total{replica=\"r0\"} 1",
        "fake_steps_total{replica=\"r1\"} 1",
        "fake_controller 1",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
    assert!(page.contains("tyndall_ongoing_requests{model=\"demo\"}"), "{page}");
}

#[tokio::test]
async fn what_outlasts_the_drain_is_told_so() {
    let mut node = Node::start_with_drain(std::time::Duration::from_millis(50)).await;
    node.publish(table(1, vec![route("demo")]));
    node.edit(|_| {}).await;
    let mut replica = Replica::start(&node, "r0", Behaviour::Streams);
    node.edit(|demo| {
        demo.max_ongoing_requests = 1;
        demo.replicas = vec![replica.route()];
    })
    .await;
    let client = node.client.clone();
    let asked = tokio::spawn(async move { post(&client, "/v1/completions", STREAM).await });
    let stream = replica.next_stream().await;
    stream.send(Ok("data: 1\n\n".into())).await.unwrap();
    let client = node.client.clone();
    let waiting = tokio::spawn(async move { post(&client, "/generate", PROMPT).await });
    node.demand_is("demo", 1, 1).await;
    let stopping = node.begin_stop();
    let refused = waiting.await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(body(refused).await.contains("shuts down"));
    let text = body(asked.await.unwrap()).await;
    assert!(text.contains("shut down in the middle"), "{text}");
    assert!(text.ends_with("\n\ndata: [DONE]\n\n"), "{text}");
    tokio::time::timeout(fakes::PATIENCE, stopping).await.unwrap().unwrap();
}

#[tokio::test]
async fn draining_answers_what_was_begun_and_takes_nothing_new() {
    let mut node = Node::start(route("demo")).await;
    let mut replica = Replica::start(&node, "r0", Behaviour::Streams);
    node.edit(|demo| demo.replicas = vec![replica.route()]).await;
    let client = node.client.clone();
    let asked =
        tokio::spawn(async move { body(post(&client, "/v1/completions", PROMPT).await).await });
    let stream = replica.next_stream().await;
    node.demand_is("demo", 0, 1).await;
    let stopping = node.begin_stop();
    node.refuses_connections().await;
    stream.send(Ok("data: 1\n\n".into())).await.unwrap();
    drop(stream);
    assert_eq!(asked.await.unwrap(), "data: 1\n\n");
    tokio::time::timeout(fakes::PATIENCE, stopping).await.unwrap().unwrap();
}
