//! The routes of models that read texts, with tiny random ones.

use super::process::Process;
use super::{ask, json_of, post};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::StatusCode;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tyndall_transport::Client;
use tyndall_types::protocol::ReplicaReport;

/// A checkpoint with a tokenizer of fewer tokens than it has rows for.
fn checkpoint(name: &'static str) -> impl FnOnce(&Path) -> PathBuf {
    move |dir| {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let to = dir.join("model");
        copy(&crates.join("model/tests/encoder-fixtures").join(name), &to);
        copy(&crates.join("text/tests/fixtures/pairs/xlmr"), &to);
        to
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

async fn started(name: &'static str) -> Process {
    let mut process = Process::start(checkpoint(name));
    match process.report().await {
        ReplicaReport::Ready { card: Some(card), .. } => {
            assert_eq!(
                (card.num_kv_blocks, card.max_model_len),
                (0, 70 - 2 * u32::from(name.starts_with("xlmr")))
            );
        }
        other => panic!("{name}: {other:?}"),
    }
    process
}

async fn refused(client: &Client, path: &str, body: Value, part: &str) {
    let response = post(client, path, &body).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{body}");
    let error = json_of(response).await["error"]["message"].as_str().unwrap().to_owned();
    assert!(error.contains(part), "{error}");
}

fn vectors(answer: &Value) -> Vec<Vec<f32>> {
    let vector = |one: &Value| serde_json::from_value(one["embedding"].clone()).unwrap();
    answer["data"].as_array().unwrap().iter().map(vector).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[tokio::test]
async fn embeddings_are_normalised_and_the_same_in_every_form() {
    let process = started("bert-mean-f32").await;
    let client = &process.client;
    let answer = ask(client, "/v1/embeddings", json!({"input": ["a b c", "hello"]})).await;
    assert_eq!((&answer["object"], &answer["id"]), (&json!("list"), &json!("embd-r1")));
    let both = vectors(&answer);
    assert_eq!(both.iter().map(Vec::len).collect::<Vec<_>>(), [48, 48]);
    assert!(both.iter().all(|vector| (dot(vector, vector) - 1.0).abs() < 1e-5));
    let one = ask(client, "/v1/embeddings", json!({"input": "hello"})).await;
    assert_eq!(vectors(&one)[0], both[1], "alone and beside another");
    let tokens = ask(client, "/tokenize", json!({"prompt": "hello"})).await["tokens"].clone();
    let by_tokens = ask(client, "/v1/embeddings", json!({"input": [tokens]})).await;
    assert_eq!(vectors(&by_tokens)[0], both[1], "as tokens");
    assert_eq!(one["usage"]["prompt_tokens"], tokens.as_array().unwrap().len());
    let base64 = json!({"input": "hello", "encoding_format": "base64"});
    let base64 = ask(client, "/v1/embeddings", base64).await;
    let bytes = BASE64_STANDARD.decode(base64["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let floats: Vec<f32> =
        bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    assert_eq!(floats, both[1]);
    let raw = json!({"input": "hello", "use_activation": false});
    let raw = vectors(&ask(client, "/v1/embeddings", raw).await).remove(0);
    let length = dot(&raw, &raw).sqrt();
    assert!((dot(&raw, &both[1]) - length).abs() < 1e-3 && (length - 1.0).abs() > 1e-2);
    let text = ask(client, "/detokenize", json!({"tokens": tokens})).await["prompt"].clone();
    assert!(text.as_str().unwrap().contains("hello"), "{text}");
}

#[tokio::test]
async fn texts_of_embeddings_are_compared() {
    let process = started("bert-mean-f32").await;
    let client = &process.client;
    let texts = ["a b c", "hello", "see the sea"];
    let vectors = vectors(&ask(client, "/v1/embeddings", json!({"input": texts})).await);
    let score = json!({"text_1": texts[0], "text_2": [texts[1], texts[2], texts[0]]});
    let score = ask(client, "/v1/score", score).await;
    let expected = [dot(&vectors[0], &vectors[1]), dot(&vectors[0], &vectors[2]), 1.0];
    for (found, expected) in score["data"].as_array().unwrap().iter().zip(expected) {
        let found = found["score"].as_f64().unwrap() as f32;
        assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
    }
    let rerank = json!({"query": texts[0], "documents": texts, "top_n": 2});
    let rerank = ask(client, "/v1/rerank", rerank).await;
    let results = rerank["results"].as_array().unwrap();
    assert_eq!((results.len(), &results[0]["index"]), (2, &json!(0)));
    assert_eq!(results[0]["document"]["text"], texts[0]);
}

#[tokio::test]
async fn pairs_are_scored_and_texts_classified() {
    let process = started("xlmr-reranker-f16").await;
    let client = &process.client;
    let pair = json!({"queries": "a b", "documents": ["c", "hello there"]});
    let scores = ask(client, "/v1/score", pair.clone()).await;
    let mut raw = pair.clone();
    raw["use_activation"] = false.into();
    let raw = ask(client, "/v1/score", raw).await;
    for (score, raw) in
        scores["data"].as_array().unwrap().iter().zip(raw["data"].as_array().unwrap())
    {
        let (score, raw) = (score["score"].as_f64().unwrap(), raw["score"].as_f64().unwrap());
        assert!((score - 1.0 / (1.0 + (-raw).exp())).abs() < 1e-6, "{score} of {raw}");
    }
    let rerank = json!({"query": "a b", "documents": ["c", "hello there"]});
    let rerank = ask(client, "/v1/rerank", rerank).await;
    let best = rerank["results"][0]["index"].as_u64().unwrap() as usize;
    assert_eq!(rerank["results"][0]["relevance_score"], scores["data"][best]["score"]);
    let one = ask(client, "/classify", json!({"input": "a b"})).await;
    assert_eq!(
        (&one["data"][0]["num_classes"], &one["data"][0]["label"]),
        (&json!(1), &json!("LABEL_0"))
    );

    let process = started("bert-classifier-f32").await;
    let classes = ask(&process.client, "/classify", json!({"input": ["a b", "hello"]})).await;
    for class in classes["data"].as_array().unwrap() {
        let probs: Vec<f64> = serde_json::from_value(class["probs"].clone()).unwrap();
        assert!((probs.iter().sum::<f64>() - 1.0).abs() < 1e-5 && probs.len() == 3, "{probs:?}");
        let best = (0..3).max_by(|a, b| probs[*a].total_cmp(&probs[*b])).unwrap();
        assert_eq!(class["label"], format!("LABEL_{best}"));
    }
    refused(
        &process.client,
        "/v1/score",
        pair,
        "does not support the 'score' task; it has /classify",
    )
    .await;
}

#[tokio::test]
async fn what_the_model_cannot_do_is_refused() {
    let process = started("bert-mean-f32").await;
    let client = &process.client;
    let long = "a ".repeat(200);
    refused(
        client,
        "/v1/embeddings",
        json!({"input": [long, "a"]}),
        "at most 70 tokens and input[0] has 2",
    )
    .await;
    let cut = json!({"input": [long], "truncate_prompt_tokens": -1});
    assert_eq!(ask(client, "/v1/embeddings", cut).await["usage"]["prompt_tokens"], 70);
    let cut = json!({"input": [long], "truncate_prompt_tokens": 7});
    assert_eq!(ask(client, "/v1/embeddings", cut).await["usage"]["prompt_tokens"], 7);
    refused(
        client,
        "/v1/embeddings",
        json!({"input": [[119], [120]]}),
        "input[1] cannot be read: token 120",
    )
    .await;
    refused(
        client,
        "/v1/embeddings",
        json!({"input": "a", "dimensions": 4}),
        "dimensions must be 48: the model was not trained",
    )
    .await;
    refused(
        client,
        "/v1/embeddings",
        json!({"messages": [{"role": "user", "content": "x"}]}),
        "chat template",
    )
    .await;
    refused(client, "/classify", json!({"input": "a"}), "does not support the 'classify' task")
        .await;
    let chat = json!({"messages": [{"role": "user", "content": "x"}]});
    refused(client, "/v1/chat/completions", chat, "does not support the 'generate' task").await;
}

#[tokio::test]
async fn requests_beside_each_other_and_gone_clients_are_counted() {
    let process = started("bert-mean-f32").await;
    let client = &process.client;
    let asked = (0..16).map(|i| {
        let client = client.clone();
        let texts: Vec<String> = (0..1 + i % 4).map(|j| format!("text {i} {j}")).collect();
        tokio::spawn(async move {
            let answer = ask(&client, "/v1/embeddings", json!({"input": texts})).await;
            assert_eq!(answer["data"].as_array().unwrap().len(), texts.len());
        })
    });
    for asked in asked.collect::<Vec<_>>() {
        asked.await.unwrap();
    }
    let response = post(client, "/v1/embeddings", &json!({"input": "a"})).await;
    let timing = response.headers()["server-timing"].to_str().unwrap();
    assert!(timing.contains("queue;dur=") && timing.contains("prefill;dur="), "{timing}");
    let used: tyndall_types::TokenUsage =
        response.headers()[tyndall_types::HEADER_USAGE].to_str().unwrap().parse().unwrap();
    assert_eq!(used.completion, 0);
    assert!(used.prompt > 0);
    assert!(process.end().await.is_ok());
}
