//! `Server-Timing`: where the time of a request went, in milliseconds. The phases are disjoint:
//! what waiting was spent without a running replica is `wake` and not `queue`.

use http::{HeaderName, HeaderValue};
use std::fmt::Write;
use std::time::Duration;
use tyndall_router::Waits;

/// Header and trailer name.
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Of a request that waited for nothing, as most do.
const NO_WAITS: HeaderValue = HeaderValue::from_static("queue;dur=0.0, wake;dur=0.0");

/// Joins the proxy's phases with those that the replica sent; its `queue` and `wake` add to ours.
///
/// Of a wake, the replica knows the phases `wake.…` since its process began, up to the moment when
/// the engine got the request; those that the request waited for follow `wake`, whose parts they
/// are. The way between proxy and replica is in none.
pub(crate) fn server_timing(waits: Waits, from_replica: Option<&HeaderValue>) -> HeaderValue {
    if from_replica.is_none() && is_none(waits.queue) && is_none(waits.wake) {
        return NO_WAITS;
    }
    let from_replica = from_replica.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (mut queue_ms, mut wake_ms) = (millis(waits.queue), millis(waits.wake));
    // Who found a running replica did not wait for it, though it may be its first request.
    let is_woken = !waits.wake.is_zero();
    let (mut phases, mut rest) = (Vec::new(), String::new());
    for metric in from_replica.split(',').map(str::trim).filter(|metric| !metric.is_empty()) {
        let timed = metric.split_once(";dur=");
        match timed.and_then(|(name, dur)| Some((name, dur.parse::<f64>().ok()?))) {
            Some(("queue", ms)) => queue_ms += ms,
            Some(("wake", ms)) => wake_ms += if is_woken { ms } else { 0.0 },
            Some((name, ms)) if name.starts_with("wake.") => phases.push((name, ms)),
            _ => write!(rest, ", {metric}").expect("writing to a string does not fail"),
        }
    }
    let mut line = String::with_capacity(64 + rest.len());
    line.push_str("queue;dur=");
    push_ms(&mut line, queue_ms);
    line.push_str(", wake;dur=");
    push_ms(&mut line, wake_ms);
    if is_woken {
        for (name, ms) in parts(wake_ms, phases) {
            write!(line, ", {name};dur={ms:.1}").expect("writing to a string does not fail");
        }
    }
    HeaderValue::from_str(&(line + &rest)).unwrap_or(HeaderValue::from_static("queue"))
}

/// The phases that a wake consists of, its last ones: a request may come when some are over. What
/// comes before all of them is `wake.spawn`.
fn parts(wake_ms: f64, phases: Vec<(&str, f64)>) -> Vec<(&str, f64)> {
    if phases.is_empty() {
        return phases;
    }
    let mut left = wake_ms;
    let mut parts: Vec<(&str, f64)> = Vec::with_capacity(phases.len() + 1);
    for (name, ms) in phases.into_iter().rev() {
        let ms = ms.min(left).max(0.0);
        left -= ms;
        parts.push((name, ms));
    }
    parts.push(("wake.spawn", left));
    parts.retain(|(_, ms)| *ms > 0.0);
    parts.reverse();
    parts
}

/// Whether it is told as nothing.
fn is_none(wait: Duration) -> bool {
    wait < Duration::from_micros(50)
}

/// With one digit behind the point.
fn push_ms(line: &mut String, ms: f64) {
    write!(line, "{ms:.1}").expect("writing to a string does not fail");
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
        let short = Waits { queue: Duration::from_micros(49), wake: Duration::ZERO };
        assert_eq!(server_timing(short, None), "queue;dur=0.0, wake;dur=0.0");
        let replica = HeaderValue::from_static("queue;dur=2.0, prefill;dur=10.5, decode;dur=7.0");
        assert_eq!(
            server_timing(waits, Some(&replica)),
            "queue;dur=3.2, wake;dur=300.0, prefill;dur=10.5, decode;dur=7.0"
        );
    }

    #[test]
    fn the_phases_of_a_wake_add_up_to_it() {
        let check = |wake_ms: u64, from_replica: &'static str, expected: &str| {
            let waits = Waits { queue: Duration::ZERO, wake: Duration::from_millis(wake_ms) };
            let from_replica = HeaderValue::from_static(from_replica);
            assert_eq!(server_timing(waits, Some(&from_replica)), expected);
        };
        let phases = "prefill;dur=5.0, wake;dur=2.0, wake.process;dur=10.0, wake.weights;dur=50.0, \
            wake.handover;dur=8.0";
        // All of it, and 14 ms before the process ran.
        check(
            80,
            phases,
            "queue;dur=0.0, wake;dur=82.0, wake.spawn;dur=14.0, wake.process;dur=10.0, \
             wake.weights;dur=50.0, wake.handover;dur=8.0, prefill;dur=5.0",
        );
        // It came while the weights were read.
        check(
            20,
            phases,
            "queue;dur=0.0, wake;dur=22.0, wake.weights;dur=14.0, wake.handover;dur=8.0, \
             prefill;dur=5.0",
        );
        // It waited for no wake.
        check(0, phases, "queue;dur=0.0, wake;dur=0.0, prefill;dur=5.0");
        check(9, "wake.a;dur=NaN", "queue;dur=0.0, wake;dur=9.0, wake.a;dur=9.0");
        check(
            9,
            "wake.a;dur=-1, wake.b;dur=x",
            "queue;dur=0.0, wake;dur=9.0, wake.spawn;dur=9.0, wake.b;dur=x",
        );
    }
}
