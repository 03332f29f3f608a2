//! Clients that ask without pause and look at every word of the answer.

use super::outcome::{App, Asked, Came};
use crate::random::Random;
use crate::serve::sse::Events;
use crate::{MAX_ANSWER, headers};
use crate::{error::BenchError, url::Url};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tyndall_transport::{Client, ResponseBody, read_body};
use tyndall_types::with_causes;

/// Of the server, which ends a request that has no answer by then.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Without an end by then, the server has forgotten a request.
const DEADLINE: Duration = Duration::from_secs(60);
/// Before a client that was not answered asks again.
const AFTER_FAILURE: Duration = Duration::from_millis(20);
/// The longest pause of who asks the application that sleeps.
const MAX_PAUSE_S: f64 = 1.5;
const PROMPT: &str = "Write a haiku about rain.";
const MAX_TOKENS: u32 = 24;
/// Characters of an unexpected answer that are kept.
const MAX_KEPT: usize = 300;
/// Answers that are kept; more than an hour of them.
const MAX_ASKED: usize = 1 << 22;

/// What all clients share.
#[derive(Debug)]
pub(super) struct Load {
    url: Url,
    headers: HeaderMap,
    /// The text of every answer; empty until it is known.
    expected: String,
    is_over: AtomicBool,
    asked: Mutex<Vec<Asked>>,
}

impl Load {
    /// Asks each application once, to know what it answers.
    pub(super) async fn new(url: &Url) -> Result<Self, BenchError> {
        let headers = headers::of(url, &[])?;
        let mut load = Self {
            url: url.clone(),
            headers,
            expected: String::new(),
            is_over: AtomicBool::new(false),
            asked: Mutex::default(),
        };
        let client = url.client();
        let mut texts = Vec::new();
        for app in [App::Steady, App::Sleepy] {
            let body = body(app, false).to_string();
            let path = format!("/{}/v1/completions", app.name());
            let answer = crate::exchange(url, Method::POST, &path, &load.headers, &body).await;
            let unanswered = |why| BenchError::new(format!("{} did not answer: {why}", app.name()));
            texts.push(text_of(&answer.map_err(unanswered)?));
        }
        match texts.as_slice() {
            [Some(one), Some(other)] if one == other && !one.is_empty() => {
                one.clone_into(&mut load.expected)
            }
            _ => return Err(BenchError::new(format!("the first answers differ: {texts:?}"))),
        }
        drop(client);
        Ok(load)
    }

    /// No request is begun any more.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// What became of all requests, in the order in which they ended.
    pub(super) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn keep(&self, asked: Asked) {
        let mut all = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < MAX_ASKED || asked.came != Came::Answered {
            all.push(asked);
        }
    }
}

/// Asks until it is over. Who asks the application that sleeps pauses, so that it can.
pub(super) async fn keep_asking(load: Arc<Load>, app: App, mut random: Random) {
    let client = load.url.client();
    let mut is_stream = false;
    while !load.is_over.load(Ordering::SeqCst) {
        is_stream = !is_stream;
        let start = Instant::now();
        let came = tokio::time::timeout(DEADLINE, ask(&client, &load, app, is_stream)).await;
        let came = came.unwrap_or(Came::Late);
        let is_answered = came == Came::Answered;
        load.keep(Asked { app, is_stream, start, end: Instant::now(), came });
        if app == App::Sleepy {
            tokio::time::sleep(Duration::from_secs_f64(random.unit() * MAX_PAUSE_S)).await;
        } else if !is_answered {
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }
}

fn body(app: App, is_stream: bool) -> Value {
    json!({
        "model": app.name(), "prompt": PROMPT, "temperature": 0, "max_tokens": MAX_TOKENS,
        "ignore_eos": true, "stream": is_stream,
    })
}

async fn ask(client: &Client, load: &Load, app: App, is_stream: bool) -> Came {
    let mut request = Request::new(Bytes::from(body(app, is_stream).to_string()));
    *request.method_mut() = Method::POST;
    let path = format!("/{}/v1/completions", app.name());
    *request.uri_mut() = path.parse().expect("a name makes a path");
    *request.headers_mut() = load.headers.clone();
    let json = header::HeaderValue::from_static("application/json");
    request.headers_mut().insert(header::CONTENT_TYPE, json);
    let response = match client.send(request).await {
        Ok(response) => response,
        Err(error) => return Came::Disconnected(with_causes(error.to_string(), &error)),
    };
    let (head, body) = response.into_parts();
    if head.status == StatusCode::OK && is_stream {
        return stream(body, &load.expected).await;
    }
    let body = match read_body(body, MAX_ANSWER).await {
        Ok(body) => body,
        Err(error) => return Came::Disconnected(with_causes(error.to_string(), &error)),
    };
    match head.status {
        StatusCode::OK => match text_of(&body) {
            Some(text) if text == load.expected => Came::Answered,
            _ => Came::Wrong(kept(&String::from_utf8_lossy(&body))),
        },
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
            if head.headers.contains_key(header::RETRY_AFTER) =>
        {
            Came::Refused
        }
        status => Came::Status(status.as_u16(), kept(&String::from_utf8_lossy(&body))),
    }
}

/// Reads a stream to its end.
async fn stream(mut body: ResponseBody, expected: &str) -> Came {
    let (mut events, mut seen) = (Events::default(), Stream::default());
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                if let Some(data) = frame.data_ref() {
                    events.feed(data, |event| seen.take(event));
                }
            }
            Err(error) => return Came::Disconnected(with_causes(error.to_string(), &error)),
        }
    }
    seen.came(expected)
}

/// What the events of a stream said.
#[derive(Debug, Default)]
struct Stream {
    text: String,
    error: Option<String>,
    is_ended: bool,
    /// Something came that has no place there.
    odd: Option<String>,
}

impl Stream {
    fn take(&mut self, event: &str) {
        if self.is_ended {
            self.odd = Some(format!("after the terminal event: {}", kept(event)));
            return;
        }
        if event == "[DONE]" {
            self.is_ended = true;
            return;
        }
        let json: Value = serde_json::from_str(event).unwrap_or_default();
        if json.get("error").is_some() && self.error.is_none() {
            self.error = Some(kept(event));
        } else if let Some(text) = json["choices"][0]["text"].as_str() {
            self.text.push_str(text);
        } else {
            self.odd = Some(kept(event));
        }
    }

    fn came(self, expected: &str) -> Came {
        let Self { text, error, is_ended, odd } = self;
        match (odd, error) {
            (Some(odd), _) => Came::Wrong(odd),
            (None, _) if !is_ended => {
                Came::Wrong(format!("no terminal event after {:?}", kept(&text)))
            }
            (None, Some(_)) if !expected.starts_with(&text) => Came::Wrong(kept(&text)),
            (None, Some(error)) => Came::ErrorEvent(error),
            (None, None) if text != expected => Came::Wrong(kept(&text)),
            (None, None) => Came::Answered,
        }
    }
}

/// The text of a whole answer.
fn text_of(body: &[u8]) -> Option<String> {
    let json: Value = serde_json::from_slice(body).ok()?;
    json["choices"][0]["text"].as_str().map(str::to_owned)
}

fn kept(text: &str) -> String {
    text.trim().chars().take(MAX_KEPT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_read_to_their_last_event() {
        let check = |events: &[&str], expected: fn(&Came) -> bool| {
            let mut stream = Stream::default();
            events.iter().for_each(|event| stream.take(event));
            let came = stream.came("ab");
            assert!(expected(&came), "{events:?} {came:?}");
        };
        let (a, b) = (r#"{"choices": [{"text": "a"}]}"#, r#"{"choices": [{"text": "b"}]}"#);
        let error = r#"{"error": {"message": "lost"}}"#;
        let is_wrong: fn(&Came) -> bool = |came| matches!(came, Came::Wrong(_));
        check(&[a, b, "[DONE]"], |came| *came == Came::Answered);
        check(&[a, error, "[DONE]"], |came| matches!(came, Came::ErrorEvent(_)));
        for events in [
            &[a, b][..],
            &[a, error],
            &[a, "[DONE]"],
            &[b, a, "[DONE]"],
            &[b, error, "[DONE]"],
            &[a, b, "[DONE]", "[DONE]"],
            &["{}", a, b, "[DONE]"],
            &[a, error, error, "[DONE]"],
            &[],
        ] {
            check(events, is_wrong);
        }
        assert_eq!(text_of(a.as_bytes()).as_deref(), Some("a"));
        assert_eq!(text_of(b"{}"), None);
    }
}
