//! Headers that mean something to the proxy itself.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::fmt;
use std::time::Duration;

/// Headers that concern one connection only.
static HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TE,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// By which a client sets the time limit of its request, by Ray Serve's name.
static TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-seconds");

/// By which clients tell when they go away if no answer has begun, and in which part of a second:
/// the SDKs of OpenAI and of Anthropic, and Envoy for whoever stands before it.
static PATIENCE: [(HeaderName, f64); 3] = [
    (HeaderName::from_static("x-stainless-read-timeout"), 1.0),
    (HeaderName::from_static("x-stainless-timeout"), 1.0),
    (HeaderName::from_static("x-envoy-expected-rq-timeout-ms"), 1e-3),
];

/// Longest time limit; only keeps the arithmetic of time in its range.
const MAX_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Removes what concerns one connection only, also what `connection` names.
pub(crate) fn strip(headers: &mut HeaderMap) {
    if !has_any(headers, &HOP_BY_HOP) {
        return;
    }
    let named: Vec<HeaderName> =
        tokens(headers, &header::CONNECTION).filter_map(|name| name.parse().ok()).collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Whether one of these is there. Where most often none is, a look at what is there takes less time
/// than a search for each.
pub(crate) fn has_any(headers: &HeaderMap, names: &[HeaderName]) -> bool {
    headers.keys().any(|name| names.contains(name))
}

/// The words of a header that is a list.
pub(crate) fn tokens<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> + use<'a> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// How long a request may take.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TimeLimit {
    /// Seconds; absent is as long as it takes.
    pub(crate) seconds: Option<f64>,
    /// Whether the request says so, and not its deployment.
    pub(crate) is_requests_own: bool,
    /// After so many seconds without an answer the client goes away, as this header says; only
    /// where that is before the limit.
    pub(crate) patience: Option<(f64, HeaderName)>,
}

impl TimeLimit {
    /// A request's own limit goes before its deployment's; one that is not above zero is none, and
    /// one that is no number does not count.
    pub(crate) fn of(headers: &HeaderMap, configured_s: f64) -> Self {
        let is_limit = |name: &HeaderName| {
            *name == TIMEOUT || PATIENCE.iter().any(|(patience, _)| patience == name)
        };
        let has_some = headers.keys().any(is_limit);
        let number = |name: &HeaderName| {
            let sent = has_some.then(|| headers.get(name))??.to_str().ok()?;
            sent.trim().parse::<f64>().ok().filter(|sent| !sent.is_nan())
        };
        let own = number(&TIMEOUT);
        let seconds = Some(own.unwrap_or(configured_s)).filter(|seconds| *seconds > 0.0);
        let limit = seconds.unwrap_or(f64::INFINITY);
        let patience = PATIENCE.iter().filter_map(|(name, unit)| {
            let seconds = number(name)? * unit;
            (0.0 < seconds && seconds < limit).then(|| (seconds, name.clone()))
        });
        let patience = patience.min_by(|(a, _), (b, _)| a.total_cmp(b));
        Self { seconds, is_requests_own: own.is_some(), patience }
    }

    /// How long an answer may take.
    pub(crate) fn duration(&self) -> Option<Duration> {
        self.seconds.map(duration)
    }

    /// How long it may take until an answer begins.
    pub(crate) fn until_answer(&self) -> Option<Duration> {
        let patience = self.patience.as_ref().map(|(seconds, _)| *seconds);
        patience.or(self.seconds).map(duration)
    }
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(MAX_LIMIT).min(MAX_LIMIT)
}

impl fmt::Display for TimeLimit {
    /// The time until an answer must begin, and who says so.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.until_answer().unwrap_or_default().as_secs_f64();
        match &self.patience {
            Some((_, name)) => write!(f, "{seconds} s, which is this request's {name}"),
            None if self.is_requests_own => {
                write!(f, "{seconds} s, which is this request's {TIMEOUT}")
            }
            None => write!(f, "{seconds} s, which is this deployment's request_timeout_s"),
        }
    }
}

/// Whether the sender takes trailers.
pub(crate) fn takes_trailers(headers: &HeaderMap) -> bool {
    tokens(headers, &header::TE).any(|coding| coding.eq_ignore_ascii_case("trailers"))
}

/// What keeps trailers coming from the next hop.
pub(crate) const TE_TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_set_its_own_time_limit() {
        let check = |sent: Option<&str>, configured_s: f64, expected: Option<f64>| {
            let mut headers = HeaderMap::new();
            if let Some(sent) = sent {
                headers.insert(TIMEOUT.clone(), HeaderValue::from_str(sent).unwrap());
            }
            assert_eq!(TimeLimit::of(&headers, configured_s).seconds, expected, "{sent:?}");
        };
        check(None, 5.0, Some(5.0));
        check(None, -1.0, None);
        check(None, f64::NAN, None);
        check(Some("0.5"), 5.0, Some(0.5));
        check(Some(" 7 "), -1.0, Some(7.0));
        check(Some("0"), 5.0, None);
        check(Some("-3"), 5.0, None);
        for unusable in ["", "soon", "nan", "1,2"] {
            check(Some(unusable), 5.0, Some(5.0));
        }
        check(Some("inf"), 5.0, Some(f64::INFINITY));
        assert_eq!(duration(f64::INFINITY), MAX_LIMIT);
    }

    #[test]
    fn what_clients_tell_of_their_patience_counts_until_the_answer_begins() {
        let check = |sent: &[(&'static str, &'static str)], until_answer: f64, told: &str| {
            let sent = sent.iter().map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            });
            let limit = TimeLimit::of(&sent.collect(), 60.0);
            assert_eq!(limit.until_answer(), Some(duration(until_answer)));
            assert_eq!(limit.to_string(), told);
            assert!(limit.duration() >= limit.until_answer());
        };
        let ours = "60 s, which is this deployment's request_timeout_s";
        check(&[], 60.0, ours);
        check(
            &[("x-stainless-timeout", "600"), ("x-stainless-read-timeout", "NOT_GIVEN")],
            60.0,
            ours,
        );
        check(
            &[("x-stainless-timeout", "0"), ("x-envoy-expected-rq-timeout-ms", "-1")],
            60.0,
            ours,
        );
        let openai = "20.5 s, which is this request's x-stainless-read-timeout";
        check(&[("x-stainless-read-timeout", "20.5")], 20.5, openai);
        let envoy = [("x-stainless-timeout", "30"), ("x-envoy-expected-rq-timeout-ms", "15000")];
        check(&envoy, 15.0, "15 s, which is this request's x-envoy-expected-rq-timeout-ms");
        let own = [("x-request-timeout-seconds", "5"), ("x-stainless-timeout", "30")];
        check(&own, 5.0, "5 s, which is this request's x-request-timeout-seconds");
    }

    #[test]
    fn what_concerns_one_connection_is_removed() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Mine"),
            ("connection", "upgrade"),
            ("keep-alive", "timeout=5"),
            ("x-mine", "1"),
            ("te", "gzip, Trailers"),
            ("upgrade", "h2c, WebSocket"),
            ("x-other", "1"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        assert!(takes_trailers(&headers));
        strip(&mut headers);
        assert!(!takes_trailers(&headers));
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["set-cookie", "x-other"]);
        assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
    }
}
