//! One request, and when its tokens came.

use super::sse::Events;
use super::workload::Planned;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tyndall_transport::{Client, ResponseBody, read_body};
use tyndall_types::with_causes;

/// Most of an answer that is no stream.
const MAX_ANSWER: usize = 64 << 20;

/// Which route is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Api {
    /// `POST /v1/completions`, streamed.
    Completions,
    /// `POST /v1/chat/completions`, streamed.
    Chat,
    /// `POST /generate`, answered at once: end-to-end latency only.
    Generate,
}

impl Api {
    pub(crate) fn route(self) -> &'static str {
        match self {
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
            Self::Generate => "/generate",
        }
    }
}

/// What every request has in common.
#[derive(Debug, Clone)]
pub(crate) struct Asking {
    pub(crate) client: Client,
    pub(crate) api: Api,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) model: String,
    pub(crate) temperature: f64,
    pub(crate) ignore_eos: bool,
    pub(crate) timeout: Duration,
}

/// A request that was answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answered {
    /// Seconds from the beginning of the run to each piece of text, the first token's first.
    pub(crate) tokens_at_s: Vec<f64>,
    /// No piece had text, though tokens were made: the times are those of what came instead.
    pub(crate) is_silent: bool,
    /// As the server counted them.
    pub(crate) usage: Usage,
    /// Words of an answer that came as a whole.
    pub(crate) num_words: Option<u32>,
}

/// How a request went.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    /// Seconds from the beginning of the run.
    pub(crate) sent_at_s: f64,
    /// Seconds from the beginning of the run to the end of the request.
    pub(crate) ended_at_s: f64,
    /// Words of the prompt.
    pub(crate) prompt_len: u32,
    /// Tokens that were asked for.
    pub(crate) output_len: u32,
    /// What came, or why nothing did.
    pub(crate) result: Result<Answered, String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: Option<u32>,
    pub(crate) completion_tokens: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
struct Choice {
    text: Option<String>,
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
}

impl Asking {
    /// Sends a request and reads its answer to the end; `start` is the beginning of the run.
    pub(crate) async fn ask(&self, planned: &Planned, start: Instant) -> Outcome {
        let sent_at_s = start.elapsed().as_secs_f64();
        let answer = tokio::time::timeout(self.timeout, self.answer(planned, start)).await;
        let late = || format!("no whole answer within {} s", self.timeout.as_secs_f64());
        Outcome {
            sent_at_s,
            ended_at_s: start.elapsed().as_secs_f64(),
            prompt_len: planned.prompt_len,
            output_len: planned.output_len,
            result: answer.unwrap_or_else(|_| Err(late())),
        }
    }

    async fn answer(&self, planned: &Planned, start: Instant) -> Result<Answered, String> {
        let mut request = Request::new(Bytes::from(self.body(planned).to_string()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() =
            self.path.parse().map_err(|error| format!("{}: {error}", self.path))?;
        *request.headers_mut() = self.headers.clone();
        let json = header::HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        let response = self.client.send(request).await;
        let response = response.map_err(|error| with_causes(error.to_string(), &error))?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(refusal(status, response.into_body()).await);
        }
        match self.api {
            Api::Generate => whole(response.into_body(), start).await,
            Api::Completions | Api::Chat => streamed(response.into_body(), start).await,
        }
    }

    fn body(&self, planned: &Planned) -> Value {
        let (model, prompt, most) = (&self.model, &planned.prompt, planned.output_len);
        let mut body = match self.api {
            Api::Completions => json!({"model": model, "prompt": prompt, "max_tokens": most}),
            Api::Chat => json!({
                "model": model,
                "messages": [{"role": "user", "content": prompt}],
                "max_completion_tokens": most,
            }),
            Api::Generate => {
                let mut kwargs = json!({
                    "max_new_tokens": most, "temperature": self.temperature,
                    "do_sample": self.temperature > 0.0,
                });
                if self.ignore_eos {
                    kwargs["min_new_tokens"] = most.into();
                }
                return json!({"prompt": prompt, "generation_kwargs": kwargs});
            }
        };
        body["temperature"] = self.temperature.into();
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
        if self.ignore_eos {
            body["ignore_eos"] = true.into();
        }
        body
    }
}

/// What a server says of a request that it does not answer.
async fn refusal(status: StatusCode, body: ResponseBody) -> String {
    let said = read_body(body, MAX_ANSWER).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&said).into_owned();
    let value: Value = serde_json::from_str(&said).unwrap_or_default();
    let message = ["/error/message", "/message", "/error", "/detail"]
        .iter()
        .find_map(|place| value.pointer(place)?.as_str().map(str::to_owned));
    let message = message.unwrap_or_else(|| said.trim().chars().take(200).collect());
    format!("status {}: {message}", status.as_u16())
}

/// An answer in one piece.
async fn whole(body: ResponseBody, start: Instant) -> Result<Answered, String> {
    let body = read_body(body, MAX_ANSWER).await;
    let body = body.map_err(|error| with_causes(error.to_string(), &error))?;
    let at_s = start.elapsed().as_secs_f64();
    let answer: Value = serde_json::from_slice(&body)
        .map_err(|error| format!("the answer is not JSON: {error}"))?;
    let texts = answer["completions"].as_array().ok_or("the answer has no completions")?;
    let words = texts.iter().filter_map(Value::as_str).flat_map(str::split_whitespace).count();
    let usage = serde_json::from_value(answer["usage"].clone()).unwrap_or_default();
    let num_words = Some(words as u32);
    Ok(Answered { tokens_at_s: vec![at_s], is_silent: false, usage, num_words })
}

/// A stream of events; it must end by saying so.
async fn streamed(mut body: ResponseBody, start: Instant) -> Result<Answered, String> {
    let mut read = Reading::default();
    let mut events = Events::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("the stream broke off: {error}"))?;
        let Some(piece) = frame.data_ref() else { continue };
        let at_s = start.elapsed().as_secs_f64();
        events.feed(piece, |data| read.event(data, at_s));
    }
    read.end()
}

/// What a stream said so far.
#[derive(Debug, Default)]
struct Reading {
    tokens_at_s: Vec<f64>,
    /// Every chunk with a choice, whatever is in it.
    choices_at_s: Vec<f64>,
    /// The usage.
    usage_at_s: Option<f64>,
    usage: Usage,
    is_done: bool,
    problem: Option<String>,
}

impl Reading {
    fn event(&mut self, data: &str, at_s: f64) {
        if data.trim() == "[DONE]" {
            self.is_done = true;
            return;
        }
        let chunk: Chunk = match serde_json::from_str(data) {
            Ok(chunk) => chunk,
            Err(error) => {
                self.problem.get_or_insert_with(|| format!("an event is not as expected: {error}"));
                return;
            }
        };
        if let Some(error) = chunk.error {
            let message =
                error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned);
            self.problem.get_or_insert_with(|| format!("the stream ended in an error: {message}"));
        }
        if let Some(usage) = chunk.usage {
            (self.usage, self.usage_at_s) = (usage, Some(at_s));
        }
        if let Some(choice) = chunk.choices.first() {
            self.choices_at_s.push(at_s);
            if choice.is_token() {
                self.tokens_at_s.push(at_s);
            }
        }
    }

    fn end(self) -> Result<Answered, String> {
        match self.problem {
            Some(problem) => Err(problem),
            None if !self.is_done => Err("the stream ended without [DONE]".to_owned()),
            None => {
                let usage = self.usage;
                let is_silent = self.tokens_at_s.is_empty();
                let tokens_at_s = match is_silent {
                    false => self.tokens_at_s,
                    // Special tokens and parts of characters have no text.
                    true if usage.completion_tokens > Some(0) => match self.choices_at_s.len() {
                        0 => self.usage_at_s.into_iter().collect(),
                        _ => self.choices_at_s,
                    },
                    true => return Err("the stream has no token".to_owned()),
                };
                Ok(Answered { tokens_at_s, is_silent, usage, num_words: None })
            }
        }
    }
}

impl Choice {
    /// Something was generated. A completion's piece may have no text yet, when the token is a part
    /// of a character; a chat's first piece has a role only and is no token.
    fn is_token(&self) -> bool {
        let has = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        match &self.delta {
            Some(delta) => {
                has(&delta.content) || has(&delta.reasoning_content) || has(&delta.reasoning)
            }
            None => has(&self.text) || self.text.is_some() && self.finish_reason.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(events: &[&str]) -> Result<Answered, String> {
        let mut reading = Reading::default();
        for (index, data) in events.iter().enumerate() {
            reading.event(data, index as f64);
        }
        reading.end()
    }

    #[test]
    fn pieces_with_tokens_are_counted() {
        let completion = read(&[
            r#"{"choices": [{"text": "a", "finish_reason": null}]}"#,
            r#"{"choices": [{"text": "", "finish_reason": null}]}"#,
            r#"{"choices": [{"text": "", "finish_reason": "length"}], "usage": null}"#,
            r#"{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}"#,
            "[DONE]",
        ]);
        let completion = completion.unwrap();
        assert_eq!(completion.tokens_at_s, [0.0, 1.0]);
        assert_eq!(completion.usage.completion_tokens, Some(2));
        let chat = read(&[
            r#"{"choices": [{"delta": {"role": "assistant", "content": ""}}]}"#,
            r#"{"choices": [{"delta": {"reasoning_content": "hm"}}]}"#,
            r#"{"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}"#,
            "[DONE]",
        ]);
        assert_eq!(chat.unwrap().tokens_at_s, [1.0, 2.0]);
    }

    #[test]
    fn tokens_without_text_are_counted_by_the_usage() {
        let usage = r#"{"choices": [], "usage": {"completion_tokens": 5}}"#;
        let role = r#"{"choices": [{"delta": {"role": "assistant", "content": ""}}]}"#;
        let finish = r#"{"choices": [{"delta": {}, "finish_reason": "length"}]}"#;
        let whole = r#"{"choices": [{"text": "", "finish_reason": "length"}]}"#;
        for (events, times) in [
            (vec![role, finish, usage, "[DONE]"], vec![0.0, 1.0]),
            (vec![whole, usage, "[DONE]"], vec![0.0]),
            (vec![usage, "[DONE]"], vec![0.0]),
        ] {
            let answered = read(&events).unwrap();
            assert!(answered.is_silent);
            assert_eq!((answered.tokens_at_s, answered.usage.completion_tokens), (times, Some(5)));
        }
    }

    #[test]
    fn streams_that_fail_say_why() {
        let token = r#"{"choices": [{"text": "a"}]}"#;
        for (events, part) in [
            (vec![token], "without [DONE]"),
            (vec!["[DONE]"], "no token"),
            (vec![r#"{"choices": [], "usage": {"completion_tokens": 0}}"#, "[DONE]"], "no token"),
            (vec![token, "{", "[DONE]"], "not as expected"),
            (vec![token, r#"{"error": {"message": "lost"}}"#, "[DONE]"], "error: lost"),
        ] {
            let error = read(&events).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
