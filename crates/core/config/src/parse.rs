//! Texts to values. The error of each parser is what it accepts, in words.

use core::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

pub(crate) fn whole(range: RangeInclusive<u32>) -> impl Fn(&str) -> Result<u32, String> {
    move |text| {
        let accepted = || format!("a whole number from {} to {}", range.start(), range.end());
        text.parse().ok().filter(|n| range.contains(n)).ok_or_else(accepted)
    }
}

/// A whole number, or nothing for `auto`.
pub(crate) fn auto_or(range: RangeInclusive<u32>) -> impl Fn(&str) -> Result<Option<u32>, String> {
    let whole = whole(range);
    move |text| match text {
        "auto" => Ok(None),
        _ => whole(text).map(Some).map_err(|accepted| format!("auto or {accepted}")),
    }
}

pub(crate) fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "a port from 0 to 65535, where 0 takes any free one".to_owned())
}

pub(crate) fn number(range: RangeInclusive<f64>) -> impl Fn(&str) -> Result<f64, String> {
    move |text| {
        let accepted = || format!("a number from {} to {}", range.start(), range.end());
        text.parse().ok().filter(|n| range.contains(n)).ok_or_else(accepted)
    }
}

/// Whether `auto` was said.
pub(crate) fn auto_or_off(text: &str) -> Result<bool, String> {
    match text {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => Err("auto or off".to_owned()),
    }
}

/// Seconds, also as `90s`, `2m` or `1.5h`; at most 30 days.
///
/// # Errors
/// What is accepted, in words.
pub fn parse_seconds(text: &str) -> Result<f64, String> {
    let (digits, unit_s) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1.0),
        Some(b'm') => (&text[..text.len() - 1], 60.0),
        Some(b'h') => (&text[..text.len() - 1], 3600.0),
        _ => (text, 1.0),
    };
    let seconds = digits.parse::<f64>().ok().map(|n| n * unit_s);
    seconds
        .filter(|s| (0.0..=2_592_000.0).contains(s))
        .ok_or_else(|| "a time from 0 to 30 days, such as 60, 90s, 2m or 1.5h".to_owned())
}

pub(crate) fn positive_seconds(text: &str) -> Result<f64, String> {
    let accepted = "a time above 0 and up to 30 days, such as 60, 90s, 2m or 1.5h";
    parse_seconds(text).ok().filter(|s| *s > 0.0).ok_or_else(|| accepted.to_owned())
}

/// Bytes: `8GiB` and `8G` are powers of 1024, `8GB` of 1000.
///
/// # Errors
/// What is accepted, in words.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let accepted = || "a size above 0, such as 512MiB, 8G or 8000000000".to_owned();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let unit_bytes: f64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024f64.powi(2),
        "g" | "gib" => 1024f64.powi(3),
        "t" | "tib" => 1024f64.powi(4),
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return Err(accepted()),
    };
    let bytes = digits.trim().parse::<f64>().map_err(|_| accepted())? * unit_bytes;
    if (1.0..=2f64.powi(53)).contains(&bytes) { Ok(bytes as u64) } else { Err(accepted()) }
}

/// A size for people, in the largest unit that keeps it above one.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// Tokens, by vLLM's suffixes: `4k` is 4000 and takes decimals, `4K` is 4096 and does not.
pub(crate) fn tokens(text: &str) -> Result<u32, String> {
    let accepted = || "a number of tokens from 1 to 100000000, such as 4096, 4k or 4K".to_owned();
    let unit: u64 = match text.as_bytes().last() {
        Some(b'k') => 1000,
        Some(b'm') => 1_000_000,
        Some(b'K') => 1 << 10,
        Some(b'M') => 1 << 20,
        _ => 1,
    };
    let digits = if unit == 1 { text } else { &text[..text.len() - 1] };
    let tokens = if unit.is_multiple_of(10) {
        digits.parse::<f64>().ok().map(|n| n * unit as f64)
    } else {
        digits.parse::<u32>().ok().map(|n| f64::from(n) * unit as f64)
    };
    tokens.filter(|n| (1.0..=1e8).contains(n)).map(|n| n as u32).ok_or_else(accepted)
}

pub(crate) fn host(text: &str) -> Result<IpAddr, String> {
    if text == "localhost" {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    text.parse().map_err(|_| "an IP address such as 127.0.0.1, ::1 or 0.0.0.0".to_owned())
}

/// Keys of clients, which can stand in a header.
pub(crate) fn api_keys(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<String> = text.split(',').map(|key| key.trim().to_owned()).collect();
    let is_key = |key: &String| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    let accepted = "a key, or several with commas between, without spaces and of visible ASCII \
                    letters";
    if keys.iter().all(is_key) { Ok(keys) } else { Err(accepted.to_owned()) }
}

pub(crate) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "" | "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("one of 1, true, 0 and false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_take_units() {
        let check = |text: &str, expected: Option<f64>| {
            assert_eq!(parse_seconds(text).ok(), expected, "{text:?}");
        };
        check("60", Some(60.0));
        check("90s", Some(90.0));
        check("1.5h", Some(5400.0));
        check("0", Some(0.0));
        for bad in ["", "s", "-1", "NaN", "inf", "1d", "999999999", "1 0"] {
            check(bad, None);
        }
        assert!(positive_seconds("0").is_err());
    }

    #[test]
    fn bytes_take_both_kinds_of_units() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(parse_bytes(text).ok(), expected, "{text:?}");
        };
        check("1024", Some(1024));
        check("512MiB", Some(512 << 20));
        check("1.5g", Some(3 << 29));
        check("8 GB", Some(8_000_000_000));
        for bad in ["", "0", "-1", "G", "8X", "NaN", "1e99"] {
            check(bad, None);
        }
        assert_eq!(human_bytes(3 << 29), "1.5 GiB");
        assert_eq!(human_bytes(7), "7 B");
    }

    #[test]
    fn tokens_follow_the_suffix_rules() {
        let check = |text: &str, expected: Option<u32>| {
            assert_eq!(tokens(text).ok(), expected, "{text:?}");
        };
        check("4096", Some(4096));
        check("4k", Some(4000));
        check("25.6k", Some(25_600));
        check("4K", Some(4096));
        for bad in ["", "k", "0", "-4", "2.5K", "NaN", "nank", "9999M"] {
            check(bad, None);
        }
    }

    #[test]
    fn hosts_are_addresses() {
        assert!(host("localhost").unwrap().is_loopback());
        assert!(host("::1").unwrap().is_loopback());
        assert!(!host("0.0.0.0").unwrap().is_loopback());
        assert!(host("example.org").is_err());
    }
}
