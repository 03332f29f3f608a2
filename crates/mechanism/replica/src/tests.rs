//! A replica's routes over a real socket, with a runner that spells the alphabet; then the whole
//! process with a tiny model.

mod alphabet;
mod encoder;
mod process;
mod scripted;
mod tokenizer_files;

use crate::served::Served;
use alphabet::{Alphabet, Replica};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tyndall_transport::{Client, ResponseBody, read_body};
use tyndall_types::protocol::ReplicaStatus;
use tyndall_types::{HEADER_USAGE, TokenUsage, USAGE_NOTE};

/// No wait of a test is longer.
const PATIENCE: Duration = Duration::from_secs(30);

async fn post(client: &Client, path: &str, body: &Value) -> Response<ResponseBody> {
    let request = Request::post(path)
        .header("x-request-id", "r1")
        .header("te", "trailers")
        .body(Bytes::from(body.to_string()))
        .unwrap();
    tokio::time::timeout(PATIENCE, client.send(request)).await.unwrap().unwrap()
}

async fn json_of(response: Response<ResponseBody>) -> Value {
    let bytes = read_body(response.into_body(), 1 << 20).await.unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// The answer to a request that is to succeed.
async fn ask(client: &Client, path: &str, body: Value) -> Value {
    let response = post(client, path, &body).await;
    let status = response.status();
    let answer = json_of(response).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

/// The events of a stream without their `data: `, and its trailers.
async fn events(response: Response<ResponseBody>) -> (Vec<String>, http::HeaderMap) {
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let text = String::from_utf8(collected.to_bytes().to_vec()).unwrap();
    let events = text.split_terminator("\n\n");
    (events.map(|event| event.strip_prefix("data: ").unwrap().to_owned()).collect(), trailers)
}

fn parsed(events: &[String]) -> Vec<Value> {
    let (done, rest) = events.split_last().unwrap();
    assert_eq!(done, "[DONE]");
    rest.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

async fn status(client: &Client) -> ReplicaStatus {
    client.get("/-/status").await.unwrap()
}

#[tokio::test]
async fn generate_answers_all_prompts_in_order() {
    let replica = Replica::start(Alphabet::open());
    let body = json!({"prompts": ["a", "x", "m"], "generation_kwargs": {"max_new_tokens": 4}});
    let response = post(&replica.client, "/generate", &body).await;
    let timing = response.headers()["server-timing"].to_str().unwrap().to_owned();
    for phase in ["queue;dur=", "prefill;dur=", "decode;dur="] {
        assert!(timing.contains(phase), "{timing}");
    }
    let text = read_body(response.into_body(), 1 << 20).await.unwrap();
    assert_eq!(
        text,
        r#"{"model":"org/alphabet","prompts":["a","x","m"],"completions":["bcde","yz","nopq"],"generation_kwargs":{"max_new_tokens":4,"temperature":0.0,"top_p":1.0}}"#
    );
}

#[tokio::test]
async fn generate_strips_leading_space_only() {
    let replica = Replica::start(Alphabet::open());
    // After '.' the alphabet says " a".
    let body = json!({"prompt": "x.", "generation_kwargs": {"max_new_tokens": 3}});
    assert_eq!(ask(&replica.client, "/generate", body).await["completions"], json!(["ab"]));
}

#[tokio::test]
async fn completions_have_usage_reasons_and_indices() {
    let replica = Replica::start(Alphabet::open());
    let body = json!({"prompt": ["a", [100]], "max_tokens": 3, "n": 2, "temperature": 1});
    let answer = ask(&replica.client, "/v1/completions", body).await;
    let choices = answer["choices"].as_array().unwrap();
    let texts: Vec<&str> = choices.iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["bcd", "bcd", "bcd", "bcd"]);
    assert_eq!(choices[3]["index"], 3);
    assert_eq!(choices[0]["finish_reason"], "length");
    assert_eq!(choices[0]["logprobs"], Value::Null);
    // One token each, and the special one before the text.
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
    assert_eq!(answer["usage"]["completion_tokens"], 12);
    assert_eq!((&answer["id"], &answer["object"]), (&json!("cmpl-r1"), &json!("text_completion")));

    let answer = ask(&replica.client, "/v1/completions", json!({"prompt": "x"})).await;
    assert_eq!(answer["choices"][0]["text"], "yz");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["choices"][0]["stop_reason"], Value::Null);
    assert_eq!(answer["usage"]["completion_tokens"], 3);
}

#[tokio::test]
async fn stop_strings_end_the_text_before_them_or_after() {
    let replica = Replica::start(Alphabet::open());
    let body = json!({"prompt": "a", "stop": ["fg", "zz"]});
    let answer = ask(&replica.client, "/v1/completions", body).await;
    assert_eq!(answer["choices"][0]["text"], "bcde");
    assert_eq!(answer["choices"][0]["stop_reason"], "fg");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let body = json!({"prompt": "a", "stop": "fg", "include_stop_str_in_output": true});
    let answer = ask(&replica.client, "/v1/completions", body).await;
    assert_eq!(answer["choices"][0]["text"], "bcdefg");
    let body = json!({"prompt": "a", "stop": "c", "min_tokens": 3, "max_tokens": 5});
    let answer = ask(&replica.client, "/v1/completions", body).await;
    assert_eq!(answer["choices"][0]["text"], "bcdef");
    let body = json!({"prompt": "a", "stop_token_ids": [alphabet::id('d')]});
    let answer = ask(&replica.client, "/v1/completions", body).await;
    assert_eq!(answer["choices"][0]["text"], "bc");
    assert_eq!(answer["choices"][0]["stop_reason"], alphabet::id('d'));
}

#[tokio::test]
async fn logprobs_stand_beside_their_tokens() {
    let replica = Replica::start(Alphabet::open());
    let body = json!({"prompt": "a", "max_tokens": 2, "logprobs": 1});
    let answer = ask(&replica.client, "/v1/completions", body).await;
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!(
        (&logprobs["tokens"], &logprobs["text_offset"]),
        (&json!(["b", "c"]), &json!([0, 1]))
    );
    assert!(logprobs["top_logprobs"][0]["b"].as_f64().unwrap() <= 0.0);

    let body = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 2,
        "logprobs": true, "top_logprobs": 2});
    let answer = ask(&replica.client, "/v1/chat/completions", body).await;
    let content = &answer["choices"][0]["logprobs"]["content"];
    assert_eq!((&content[0]["token"], &content[0]["bytes"]), (&json!("b"), &json!([98])));
    assert_eq!(content[1]["top_logprobs"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_token_that_ends_an_answer_is_listed_though_it_is_no_text() {
    let replica = Replica::start(Alphabet::open());
    let body = json!({"prompt": "x", "logprobs": 1, "return_token_ids": true});
    let answer = ask(&replica.client, "/v1/completions", body).await;
    let choice = &answer["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("yz"), &json!("stop")));
    let logprobs = &choice["logprobs"];
    assert_eq!(
        (&logprobs["tokens"], &logprobs["text_offset"]),
        (&json!(["y", "z", "</s>"]), &json!([0, 1, 2]))
    );
    assert_eq!(choice["token_ids"].as_array().unwrap().len(), 3);
    assert_eq!(answer["usage"]["completion_tokens"], 3);

    let body = json!({"messages": [{"role": "user", "content": "a"}], "logprobs": true,
        "stop_token_ids": [alphabet::id('d')]});
    let answer = ask(&replica.client, "/v1/chat/completions", body).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["content"], "bc");
    assert_eq!(choice["logprobs"]["content"][2]["token"], "d");
}

#[tokio::test]
async fn chat_uses_the_template_and_answers_as_the_assistant() {
    let replica = Replica::start(Alphabet::open());
    let body = json!({"messages": [{"role": "user", "content": "go to w"}], "model": "any"});
    let answer = ask(&replica.client, "/v1/chat/completions", body).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "xyz");
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    assert_eq!(answer["object"], "chat.completion");
    let refused = json!({"messages": [{"role": "system", "content": "only"}]});
    let response = post(&replica.client, "/v1/chat/completions", &refused).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(json_of(response).await["error"]["message"], "a user must speak");
}

#[tokio::test]
async fn what_was_used_is_told_beside_the_answer() {
    let replica = Replica::start(Alphabet::open());
    let ask = async |path, body: &Value, wants_notes: bool| {
        let mut request = Request::post(path).header("te", "trailers");
        if wants_notes {
            request = request.header(HEADER_USAGE, "notes");
        }
        let request = request.body(Bytes::from(body.to_string())).unwrap();
        replica.client.send(request).await.unwrap()
    };
    let of = |headers: &http::HeaderMap| -> TokenUsage {
        headers[HEADER_USAGE].to_str().unwrap().parse().unwrap()
    };
    let body = json!({"prompt": "uvw", "temperature": 0.5});
    let whole = ask("/v1/completions", &body, false).await;
    let told = of(whole.headers());
    let used = json_of(whole).await["usage"].clone();
    assert_eq!(
        json!([told.prompt, told.completion]),
        json!([used["prompt_tokens"], used["completion_tokens"]])
    );
    assert!(told.prompt > 0 && told.completion > 0);
    let generated = ask("/generate", &json!({"prompt": "uvw"}), false).await;
    assert_eq!(of(generated.headers()).prompt, told.prompt);

    let body = json!({"prompt": "uvw", "temperature": 0.5, "stream": true});
    for wants_notes in [false, true] {
        let stream = ask("/v1/completions", &body, wants_notes).await;
        assert_eq!(
            of(stream.headers()),
            TokenUsage { prompt: told.prompt, ..TokenUsage::default() }
        );
        let collected = stream.into_body().collect().await.unwrap();
        assert_eq!(of(collected.trailers().unwrap()), told);
        let text = String::from_utf8(collected.to_bytes().to_vec()).unwrap();
        let notes: Vec<u64> =
            text.lines().filter_map(|line| line.strip_prefix(USAGE_NOTE)?.parse().ok()).collect();
        assert!(notes.is_sorted() && text.ends_with("\n\ndata: [DONE]\n\n"), "{text}");
        assert_eq!(notes.last().copied(), wants_notes.then_some(told.completion));
    }
}

#[tokio::test]
async fn a_chat_stream_has_role_text_end_usage_and_done() {
    let replica = Replica::start(Alphabet::open());
    let body = json!({"messages": [{"role": "user", "content": "w"}], "stream": true, "n": 2,
        "temperature": 0.5, "stream_options": {"include_usage": true}});
    let response = post(&replica.client, "/v1/chat/completions", &body).await;
    assert!(response.headers()["server-timing"].to_str().unwrap().starts_with("prefill;dur="));
    let (events, trailers) = events(response).await;
    assert!(trailers["server-timing"].to_str().unwrap().starts_with("decode;dur="));
    let chunks = parsed(&events);
    for (index, chunk) in chunks[..2].iter().enumerate() {
        assert_eq!(
            chunk["choices"][0],
            json!({"index": index, "delta": {"role": "assistant", "content": ""},
                "logprobs": null, "finish_reason": null})
        );
    }
    for index in 0..2 {
        let of = chunks.iter().flat_map(|c| c["choices"].as_array().unwrap());
        let of: Vec<&Value> = of.filter(|choice| choice["index"] == index).collect();
        let text: String = of.iter().filter_map(|c| c["delta"]["content"].as_str()).collect();
        assert_eq!(text, "xyz");
        let last = of.last().unwrap();
        assert_eq!((&last["delta"], &last["finish_reason"]), (&json!({}), &json!("stop")));
        assert_eq!(of.iter().filter(|c| !c["finish_reason"].is_null()).count(), 1);
    }
    let usage = chunks.last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 8);
    assert!(chunks.iter().all(|chunk| chunk["id"] == "chatcmpl-r1"));
}

#[tokio::test]
async fn a_completion_stream_holds_back_what_may_become_a_stop_string() {
    let replica = Replica::start(Alphabet::open());
    let body = json!({"prompt": "a", "stream": true, "stop": ["defgh"], "logprobs": 0,
        "stream_options": {"continuous_usage_stats": true}});
    let response = post(&replica.client, "/v1/completions", &body).await;
    let chunks = parsed(&events(response).await.0);
    let text: String = chunks.iter().map(|c| c["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(text, "bc");
    let last = &chunks.last().unwrap()["choices"][0];
    assert_eq!((&last["finish_reason"], &last["stop_reason"]), (&json!("stop"), &json!("defgh")));
    let counts: Vec<u64> =
        chunks.iter().map(|c| c["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert!(counts.is_sorted() && *counts.last().unwrap() == 7, "{counts:?}");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_both_numbers() {
    let replica = Replica::start(Alphabet::open());
    for (path, body) in [
        ("/generate", json!({"prompt": "a".repeat(alphabet::CONTEXT)})),
        ("/v1/completions", json!({"prompt": "a".repeat(alphabet::CONTEXT), "stream": true})),
    ] {
        let response = post(&replica.client, path, &body).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let error = json_of(response).await.to_string();
        assert!(error.contains("64 tokens") && error.contains("has 65"), "{error}");
    }
    let body = json!({"prompt": "a", "logit_bias": {"304": 1}});
    let response = post(&replica.client, "/v1/completions", &body).await;
    assert!(json_of(response).await.to_string().contains("token ids below 304, got 304"));
    let body = json!({"prompt": "a", "max_tokens": 1_000_000});
    assert_eq!(
        ask(&replica.client, "/v1/completions", body).await["choices"][0]["text"]
            .as_str()
            .unwrap()
            .len(),
        25
    );
}

#[tokio::test]
async fn a_client_that_leaves_stops_the_engines_work() {
    let (runner, gate) = Alphabet::gated();
    let replica = Replica::start(runner);
    gate.allow(2);
    let body = json!({"prompt": ".", "stream": true, "max_tokens": 50, "ignore_eos": true});
    let mut response = post(&replica.client, "/v1/completions", &body).await;
    response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(status(&replica.client).await.ongoing, 1);
    drop(response);
    gate.open();
    let settled = async {
        while replica.ready.engine.stats().running > 0 || status(&replica.client).await.ongoing > 0
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.unwrap();
    let page = Served::Generator(replica.ready.clone()).metrics_page();
    assert!(page.contains("finished_reason=\"abort\""), "{page}");
}

#[tokio::test]
async fn a_full_engine_starts_nothing_of_a_request() {
    let (runner, gate) = Alphabet::gated();
    let replica = Replica::start(runner);
    // More than wait and run together.
    let prompts = vec!["a"; (alphabet::MAX_WAITING + alphabet::MAX_NUM_SEQS) as usize + 1];
    let response = post(&replica.client, "/generate", &json!({"prompts": prompts})).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["x-tyndall-not-started"], "full");
    assert!(json_of(response).await["error"].as_str().unwrap().contains("full"));
    gate.open();
    // What was submitted of it is dropped before the next step.
    let emptied = async {
        while replica.ready.engine.stats().waiting > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, emptied).await.unwrap();
    let body = json!({"prompt": "x"});
    assert_eq!(ask(&replica.client, "/generate", body).await["completions"], json!(["yz"]));
}

#[tokio::test]
async fn a_replica_that_starts_or_drains_says_that_it_did_not_begin() {
    let replica = Replica::starting();
    assert_eq!(status(&replica.client).await.state.as_str(), "STARTING");
    let body = json!({"prompt": "x"});
    let response = post(&replica.client, "/v1/completions", &body).await;
    assert_eq!(response.headers()["x-tyndall-not-started"], "starting");
    let replica = Replica::start(Alphabet::open());
    assert_eq!(status(&replica.client).await.state.as_str(), "RUNNING");
    replica.app.set_stopping();
    assert_eq!(status(&replica.client).await.state.as_str(), "STOPPING");
    let response = post(&replica.client, "/v1/completions", &body).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["x-tyndall-not-started"], "draining");
}

#[tokio::test]
async fn a_replica_whose_engine_hangs_says_so() {
    let (runner, gate) = Alphabet::gated();
    let replica = Replica::start(runner);
    assert_eq!(status(&replica.client).await.step_age_s, None);
    let client = replica.client.clone();
    let submitted = Instant::now();
    let asked =
        tokio::spawn(async move { ask(&client, "/generate", json!({"prompt": "x"})).await });
    let older_than = async |least_s: f64| loop {
        if let Some(age_s) = status(&replica.client).await.step_age_s
            && age_s > least_s
        {
            return age_s;
        }
        tokio::task::yield_now().await;
    };
    let grown = async { older_than(older_than(0.0).await + 0.05).await };
    let age_s = tokio::time::timeout(PATIENCE, grown).await.unwrap();
    assert!(age_s <= submitted.elapsed().as_secs_f64());
    gate.open();
    asked.await.unwrap();
    let rested = async {
        while status(&replica.client).await.step_age_s.is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, rested).await.unwrap();
}

#[tokio::test]
async fn a_busy_engine_stays_young() {
    let (runner, gate) = Alphabet::gated();
    let replica = Replica::start(runner);
    let body = json!({"prompt": ".", "stream": true, "max_tokens": 40, "ignore_eos": true});
    let mut allowed = Instant::now();
    gate.allow(1);
    let mut response = post(&replica.client, "/v1/completions", &body).await;
    for _ in 0..20 {
        // The token of the step that was allowed last; the next one waits.
        response.body_mut().frame().await.unwrap().unwrap();
        let age_s = status(&replica.client).await.step_age_s.unwrap();
        let since_s = allowed.elapsed().as_secs_f64();
        assert!(age_s <= since_s, "{age_s} s, and a step was allowed {since_s} s ago");
        allowed = Instant::now();
        gate.allow(1);
    }
}

#[tokio::test]
async fn a_model_takes_any_user_config() {
    let replica = Replica::start(Alphabet::open());
    let response = post(&replica.client, "/-/reconfigure", &json!({"threshold": 0.5})).await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert_eq!(
        ask(&replica.client, "/generate", json!({"prompt": "x"})).await["model"],
        "org/alphabet"
    );
}

#[tokio::test]
async fn an_engine_that_fails_is_a_500_before_and_an_event_after_the_first_byte() {
    let replica = Replica::start(Alphabet::failing_at('a'));
    let body = json!({"prompt": "a", "stream": true});
    let response = post(&replica.client, "/v1/completions", &body).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(json_of(response).await["error"]["type"], "InternalServerError");

    let (runner, gate) = Alphabet::gated();
    let replica = Replica::start(runner.and_failing_at('c'));
    gate.allow(1);
    let mut response = post(&replica.client, "/v1/completions", &body).await;
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"data: {"));
    gate.open();
    let (events, _) = events(response).await;
    let chunks = parsed(&events);
    assert_eq!(chunks.last().unwrap()["error"]["code"], 500);
}

#[tokio::test]
async fn what_leaves_no_token_is_the_fault_of_the_request() {
    let replica = Replica::start(Alphabet::open());
    let all: Vec<u32> = (0..alphabet::VOCAB as u32).collect();
    let body = json!({"prompt": "a", "min_tokens": 1, "stop_token_ids": all});
    let response = post(&replica.client, "/v1/completions", &body).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let error = &json_of(response).await["error"];
    assert_eq!(error["type"], "BadRequestError");
    assert!(error["message"].as_str().unwrap().contains("no token is possible"), "{error}");
}

#[tokio::test]
async fn a_stream_joined_is_the_whole_answer() {
    let replica = Replica::start(Alphabet::open());
    for (prompt, fields) in [
        ("a", json!({"max_tokens": 30})),
        ("a", json!({"stop": ["ij", "h", "cdefghijkl"]})),
        ("a", json!({"stop": ["xyzz", "yz"], "max_tokens": 30})),
        ("p", json!({"stop": ["stu"], "include_stop_str_in_output": true})),
        ("x.", json!({"min_tokens": 4, "max_tokens": 6, "stop": " "})),
        ("a", json!({"stop_token_ids": [alphabet::id('k')], "include_stop_str_in_output": true})),
    ] {
        let mut body = fields;
        body["prompt"] = prompt.into();
        let whole = ask(&replica.client, "/v1/completions", body.clone()).await;
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
        let response = post(&replica.client, "/v1/completions", &body).await;
        let chunks = parsed(&events(response).await.0);
        let choices: Vec<&Value> =
            chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()).collect();
        let text: String = choices.iter().map(|c| c["text"].as_str().unwrap()).collect();
        let (last, expected) = (choices.last().unwrap(), &whole["choices"][0]);
        assert_eq!(expected["text"], text, "{body}");
        assert_eq!(last["finish_reason"], expected["finish_reason"], "{body}");
        assert_eq!(
            last.get("stop_reason").unwrap_or(&Value::Null),
            &expected["stop_reason"],
            "{body}"
        );
        let tokens = |usage: &Value| usage["completion_tokens"].clone();
        assert_eq!(tokens(&chunks.last().unwrap()["usage"]), tokens(&whole["usage"]), "{body}");
    }
}
