//! Conversations with a model that says what it is told to, unless something keeps it from it.

use super::alphabet::{END, Replica, VOCAB, ready_for};
use super::tokenizer_files::FIRST_BYTE;
use super::{ask, events, json_of, parsed, post};
use crate::family::ParserNames;
use http::StatusCode;
use serde_json::{Value, json};
use std::collections::HashMap;
use tyndall_model::{Runner, StepBatch, StepError};

const CONTEXT: u32 = 600;

/// Says its text byte by byte, then ends; what is impossible gives way to the token next to it.
struct Script {
    text: &'static [u8],
    /// Tokens of each prompt, by the sequence's first block.
    prompts: HashMap<u32, u32>,
}

impl Runner for Script {
    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn step(&mut self, batch: &StepBatch<'_>, logits: &mut Vec<f32>) -> Result<(), StepError> {
        logits.clear();
        for seq in batch.seqs {
            let prompt = self.prompts.entry(seq.block_table[0]).or_insert(seq.context_len);
            if seq.num_tokens > 1 {
                *prompt = seq.context_len;
            }
            let said = (seq.context_len - *prompt) as usize;
            let next = self.text.get(said).map_or(END, |byte| FIRST_BYTE + u32::from(*byte));
            for _ in 0..seq.num_logits {
                let near = |id: usize| -(id.abs_diff(next as usize) as f32);
                logits.extend((0..VOCAB).map(near));
            }
        }
        Ok(())
    }
}

fn replica(text: &'static str, tools: &'static str, reasoning: Option<&'static str>) -> Replica {
    let script = Script { text: text.as_bytes(), prompts: HashMap::new() };
    let names = ParserNames { tools: Some(tools), reasoning };
    Replica::serving(|tokenizer| ready_for(script, tokenizer, CONTEXT, names))
}

fn request(content: &str, more: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": content}], "temperature": 0,
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {
            "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
            "additionalProperties": false}}}]});
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    body
}

const THINKS_AND_CALLS: &str = "<think>hm</think>Let me see. \
    <tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 12}}\n</tool_call>";

#[tokio::test]
async fn thoughts_content_and_calls_are_told_apart() {
    let replica = replica(THINKS_AND_CALLS, "hermes", Some("deepseek_r1"));
    let whole = ask(&replica.client, "/v1/chat/completions", request("q1", json!({}))).await;
    let choice = &whole["choices"][0];
    let message = &choice["message"];
    assert_eq!(
        (&message["reasoning"], &message["reasoning_content"]),
        (&json!("hm"), &json!("hm"))
    );
    assert_eq!(
        (&message["content"], &choice["finish_reason"]),
        (&json!("Let me see. "), &json!("tool_calls"))
    );
    let call = &message["tool_calls"][0];
    assert_eq!(call["function"], json!({"name": "add", "arguments": "{\"a\": 12}"}));
    // `<think>`, the two letters; the rest of the end marker's tokens count as thoughts too.
    let usage = &whole["usage"];
    assert_eq!(usage["completion_tokens"], THINKS_AND_CALLS.len() + 1);
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], "<think>hm</think".len());

    let stream = request("q2", json!({"stream": true, "stream_options": {"include_usage": true}}));
    let response = post(&replica.client, "/v1/chat/completions", &stream).await;
    let chunks = parsed(&events(response).await.0);
    let deltas: Vec<&Value> = chunks.iter().filter_map(|c| c.pointer("/choices/0/delta")).collect();
    let joined =
        |name: &str| -> String { deltas.iter().filter_map(|delta| delta[name].as_str()).collect() };
    assert_eq!(
        (joined("reasoning_content").as_str(), joined("content").as_str()),
        ("hm", "Let me see. ")
    );
    let calls = deltas.iter().filter_map(|delta| delta["tool_calls"][0]["function"].as_object());
    let arguments: String = calls.filter_map(|call| call["arguments"].as_str()).collect();
    assert_eq!(arguments, "{\"a\": 12}");
    let finish: Vec<_> =
        chunks.iter().filter_map(|c| c["choices"][0]["finish_reason"].as_str()).collect();
    assert_eq!(finish, ["tool_calls"]);
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], usage["completion_tokens"]);
}

#[tokio::test]
async fn a_call_that_is_asked_for_is_made_whatever_the_model_wants() {
    let replica = replica("I would rather not.", "hermes", None);
    let check = async |choice: Value, reason: &str, content: &str| {
        let body = request(
            content,
            json!({"tool_choice": choice, "max_tokens": 200,
            "parallel_tool_calls": false}),
        );
        let whole = ask(&replica.client, "/v1/chat/completions", body).await;
        let choice = &whole["choices"][0];
        assert_eq!(choice["finish_reason"], reason, "{whole}");
        let call = &choice["message"]["tool_calls"][0]["function"];
        assert_eq!(call["name"], "add");
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments["a"].is_number(), "{arguments}");
    };
    check(json!("required"), "tool_calls", "q1").await;
    check(json!({"type": "function", "function": {"name": "add"}}), "stop", "q2").await;
}

#[tokio::test]
async fn an_answer_keeps_to_its_structure_and_thoughts_are_free() {
    let replica = replica("<think>{[</think>no", "hermes", Some("deepseek_r1"));
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "boolean"}}});
    let body = json!({"messages": [{"role": "user", "content": "q1"}], "response_format": format,
        "temperature": 0});
    let whole = ask(&replica.client, "/v1/chat/completions", body).await;
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["reasoning"], "{[");
    let content = message["content"].as_str().unwrap();
    assert!(["true", "false"].contains(&content.trim()), "{content}");

    let body = json!({"prompt": "q2", "structured_outputs": {"choice": ["yes", "maybe"]}});
    let whole = ask(&replica.client, "/v1/completions", body).await;
    let text = whole["choices"][0]["text"].as_str().unwrap();
    assert!(["yes", "maybe"].contains(&text), "{text}");
}

#[tokio::test]
async fn a_budget_ends_thoughts() {
    let replica = replica("<think>on and on and on and on", "hermes", Some("deepseek_r1"));
    let body = json!({"messages": [{"role": "user", "content": "q"}], "temperature": 0,
        "thinking_token_budget": 12, "max_tokens": 40});
    let whole = ask(&replica.client, "/v1/chat/completions", body).await;
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["reasoning"], "on an");
    assert!(message["content"].is_string());
}

#[tokio::test]
async fn a_structure_that_cannot_be_kept_is_refused() {
    let replica = replica("x", "hermes", None);
    let schema = json!({"type": "object", "properties": {"a": {"$ref": "https://elsewhere"}}});
    let body = json!({"prompt": "q", "structured_outputs": {"json": schema}});
    let response = post(&replica.client, "/v1/completions", &body).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let message = json_of(response).await["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("/properties/a/$ref"), "{message}");
}

#[tokio::test]
async fn prompts_are_echoed_and_scored() {
    let replica = replica("xyz", "hermes", None);
    let body = json!({"prompt": "ab", "echo": true, "logprobs": 1, "max_tokens": 2,
        "temperature": 0});
    let whole = ask(&replica.client, "/v1/completions", body).await;
    let choice = &whole["choices"][0];
    assert_eq!(choice["text"], "abxy");
    let logprobs = &choice["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["<s>", "a", "b", "x", "y"]));
    assert_eq!(logprobs["token_logprobs"][0], Value::Null);
    assert!(logprobs["token_logprobs"][1].as_f64().unwrap() < -1.0);
    assert_eq!(logprobs["top_logprobs"][0], Value::Null);

    let body = json!({"prompt": "cd", "echo": true, "logprobs": 0, "max_tokens": 0});
    let whole = ask(&replica.client, "/v1/completions", body).await;
    let choice = &whole["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("cd"), &json!("length")));
    assert_eq!(choice["logprobs"]["tokens"].as_array().unwrap().len(), 3);
    assert_eq!(whole["usage"]["completion_tokens"], 0);

    let body = json!({"messages": [{"role": "user", "content": "e"}], "prompt_logprobs": 1,
        "return_token_ids": true, "max_tokens": 1, "temperature": 0});
    let whole = ask(&replica.client, "/v1/chat/completions", body).await;
    let prompt = whole["prompt_logprobs"].as_array().unwrap();
    assert_eq!((prompt.len(), &prompt[0]), (2, &Value::Null));
    let own = &prompt[1][(FIRST_BYTE + u32::from(b'e')).to_string()];
    assert_eq!(own["decoded_token"], "e");
    assert_eq!(whole["prompt_token_ids"], json!([1, FIRST_BYTE + u32::from(b'e')]));
    assert_eq!(whole["choices"][0]["token_ids"], json!([FIRST_BYTE + u32::from(b'x')]));
}

#[tokio::test]
async fn circles_and_bad_words() {
    let replica = replica("xyxyxyxyxyxyxyxy", "hermes", None);
    let body = json!({"prompt": "q1", "max_tokens": 30, "temperature": 0,
        "repetition_detection": {"max_pattern_size": 3, "min_count": 3}});
    let whole = ask(&replica.client, "/v1/completions", body).await;
    let choice = &whole["choices"][0];
    assert_eq!(
        (&choice["text"], &choice["finish_reason"]),
        (&json!("xyxyxy"), &json!("repetition"))
    );
    assert_eq!(choice["stop_reason"], "repetition_detected");
    let body = json!({"prompt": "q2", "max_tokens": 4, "temperature": 0, "bad_words": ["yx"]});
    let whole = ask(&replica.client, "/v1/completions", body).await;
    assert!(!whole["choices"][0]["text"].as_str().unwrap().contains("yx"));
}
