//! `Server-Timing` as the replica knows it, in milliseconds; the proxy adds its own phases.

use crate::text_stream::Times;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Header and trailer name.
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// All phases of an answer that is whole.
pub(crate) fn whole(times: Times) -> HeaderValue {
    value(&format!(
        "queue;dur={:.1}, prefill;dur={:.1}, decode;dur={:.1}",
        times.queue_s * 1e3,
        times.prefill_s * 1e3,
        times.decode_s * 1e3
    ))
}

/// What is known at the first token of a stream.
pub(crate) fn first_token(seconds: f64) -> HeaderValue {
    value(&format!("prefill;dur={:.1}", seconds * 1e3))
}

/// What is known at the end of a stream.
pub(crate) fn trailer(decode_s: f64) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(SERVER_TIMING, value(&format!("decode;dur={:.1}", decode_s * 1e3)));
    trailers
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("numbers are header values")
}
