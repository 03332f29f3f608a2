//! `Server-Timing` as the replica knows it, in milliseconds; the proxy adds its own phases.

use crate::phases::Awaited;
use crate::text_stream::Times;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Instant;
use tyndall_openai::Usage;
use tyndall_types::{HEADER_USAGE, TokenUsage};

/// Header and trailer name.
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Header and trailer name of what was used.
pub(crate) const USAGE: HeaderName = HeaderName::from_static(HEADER_USAGE);

/// When a request went to the engine, and the wake that it waited for until then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Submitted<'a> {
    pub(crate) at: Instant,
    pub(crate) awaited: Option<&'a Awaited>,
}

impl Submitted<'_> {
    /// All phases of an answer that is whole.
    pub(crate) fn whole(self, times: Times) -> HeaderValue {
        self.and_wake(&format!(
            "queue;dur={:.1}, prefill;dur={:.1}, decode;dur={:.1}",
            times.queue_s * 1e3,
            times.prefill_s * 1e3,
            times.decode_s * 1e3
        ))
    }

    /// What is known at the first token of a stream.
    pub(crate) fn first_token(self, seconds: f64) -> HeaderValue {
        self.and_wake(&format!("prefill;dur={:.1}", seconds * 1e3))
    }

    fn and_wake(self, phases: &str) -> HeaderValue {
        match self.awaited {
            Some(awaited) => value(&format!("{phases}, {}", awaited.entries(self.at))),
            None => value(phases),
        }
    }
}

/// What is known at the end of a stream.
pub(crate) fn trailer(decode_s: f64) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(SERVER_TIMING, value(&format!("decode;dur={:.1}", decode_s * 1e3)));
    trailers
}

/// What a request used, for the proxy.
pub(crate) fn usage(usage: Usage) -> HeaderValue {
    let cached = usage.prompt_tokens_details.map_or(0, |details| details.cached_tokens);
    let usage = TokenUsage {
        prompt: usage.prompt_tokens.into(),
        cached: cached.into(),
        completion: usage.completion_tokens.into(),
    };
    value(&usage.to_string())
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("numbers are header values")
}
