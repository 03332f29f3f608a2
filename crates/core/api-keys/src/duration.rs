//! Durations as OpenAI's headers have them.

use std::time::Duration;

/// A duration as Go writes it, rounded up to milliseconds: `0s`, `120ms`, `8.64s`, `6m0s`, `1h0m0s`.
#[must_use]
pub fn go_duration(duration: Duration) -> String {
    let ms = duration.as_nanos().div_ceil(1_000_000);
    if (1..1000).contains(&ms) {
        return format!("{ms}ms");
    }
    let (minutes, ms) = (ms / 60_000, ms % 60_000);
    let (hours, minutes) = (minutes / 60, minutes % 60);
    let fraction = match ms % 1000 {
        0 => String::new(),
        rest => format!(".{rest:03}").trim_end_matches('0').to_owned(),
    };
    let seconds = ms / 1000;
    match (hours, minutes) {
        (0, 0) => format!("{seconds}{fraction}s"),
        (0, _) => format!("{minutes}m{seconds}{fraction}s"),
        _ => format!("{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_by_go() {
        let check = |ns: u64, expected: &str| {
            assert_eq!(go_duration(Duration::from_nanos(ns)), expected);
        };
        check(0, "0s");
        check(1, "1ms");
        check(120_000_000, "120ms");
        check(999_999_999, "1s");
        check(8_640_000_000, "8.64s");
        check(59_999_000_001, "1m0s");
        check(360_000_000_000, "6m0s");
        check(3_600_500_000_000, "1h0m0.5s");
    }
}
