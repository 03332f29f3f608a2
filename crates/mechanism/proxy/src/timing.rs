//! `Server-Timing`: where the time of a request went, in milliseconds. The phases are disjoint:
//! what waiting was spent without a running replica is `wake` and not `queue`.

use crate::deployment::Waits;
use http::HeaderValue;
use std::fmt::Write;
use std::time::Duration;

/// Header and trailer name.
pub(crate) const SERVER_TIMING: &str = "server-timing";

/// Joins the proxy's phases with those that the replica sent; its `queue` adds to ours.
pub(crate) fn server_timing(waits: Waits, from_replica: Option<&HeaderValue>) -> HeaderValue {
    let from_replica = from_replica.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut queue_ms = millis(waits.queue);
    let mut rest = String::new();
    for metric in from_replica.split(',').map(str::trim).filter(|metric| !metric.is_empty()) {
        match metric.strip_prefix("queue;dur=").and_then(|dur| dur.parse::<f64>().ok()) {
            Some(queued) => queue_ms += queued,
            None => write!(rest, ", {metric}").expect("writing to a string does not fail"),
        }
    }
    let line = format!("queue;dur={queue_ms:.1}, wake;dur={:.1}{rest}", millis(waits.wake));
    HeaderValue::from_str(&line).unwrap_or(HeaderValue::from_static("queue"))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_of_both_hops_are_joined() {
        let waits = Waits { queue: Duration::from_micros(1_240), wake: Duration::from_millis(300) };
        assert_eq!(server_timing(waits, None), "queue;dur=1.2, wake;dur=300.0");
        let replica = HeaderValue::from_static("queue;dur=2.0, prefill;dur=10.5, decode;dur=7.0");
        assert_eq!(
            server_timing(waits, Some(&replica)),
            "queue;dur=3.2, wake;dur=300.0, prefill;dur=10.5, decode;dur=7.0"
        );
    }
}
