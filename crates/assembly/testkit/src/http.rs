//! A blocking HTTP client for tests: any status is an answer.

use anyhow::{Context, Result};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::time::Duration;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as text.
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {:?}", self.text))
    }

    /// A header's value, or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A server-sent event stream that is being read; dropping it disconnects.
pub struct Stream {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    lines: std::io::Lines<BufReader<Box<dyn Read + Send + Sync>>>,
}

impl Iterator for Stream {
    type Item = String;

    /// The next event's data; none at the end, also at an abrupt one.
    fn next(&mut self) -> Option<String> {
        loop {
            let line = self.lines.next()?.ok()?;
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(data.to_owned());
            }
        }
    }
}

/// Every request on a connection of its own, so that a dropped one is a disconnect.
pub(crate) fn agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_idle_connections(0)
        .timeout_global(Some(Duration::from_secs(300)))
        .build()
        .into()
}

/// GETs any URL.
///
/// # Errors
/// When there is no whole answer.
pub fn get(url: &str) -> Result<Answer> {
    whole(agent().get(url).call()?)
}

pub(crate) fn whole(response: Response<Body>) -> Result<Answer> {
    let (head, mut body) = response.into_parts();
    let text = body.read_to_string().context("the answer broke off")?;
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, text })
}

pub(crate) fn stream(response: Response<Body>) -> Stream {
    let (head, body) = response.into_parts();
    let reader: Box<dyn Read + Send + Sync> = Box::new(body.into_reader());
    Stream {
        status: head.status.as_u16(),
        headers: head.headers,
        lines: BufReader::with_capacity(1, reader).lines(),
    }
}
