//! Headers that mean something to the proxy itself.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::time::Duration;

/// Headers that concern one connection only.
const HOP_BY_HOP: [HeaderName; 8] = [
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
const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-seconds");

/// Longest time limit; only keeps the arithmetic of time in its range.
const MAX_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Removes what concerns one connection only, also what `connection` names.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> =
        tokens(headers, &header::CONNECTION).filter_map(|name| name.parse().ok()).collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
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
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TimeLimit {
    /// Seconds; absent is as long as it takes.
    pub(crate) seconds: Option<f64>,
    /// Whether the request says so, and not its deployment.
    pub(crate) is_requests_own: bool,
}

impl TimeLimit {
    /// A request's own limit goes before its deployment's; one that is not above zero is none, and
    /// one that is no number does not count.
    pub(crate) fn of(headers: &HeaderMap, configured_s: f64) -> Self {
        let sent = headers.get(TIMEOUT).and_then(|value| value.to_str().ok());
        let own = sent.and_then(|sent| sent.trim().parse::<f64>().ok()).filter(|s| !s.is_nan());
        let seconds = Some(own.unwrap_or(configured_s)).filter(|seconds| *seconds > 0.0);
        Self { seconds, is_requests_own: own.is_some() }
    }

    pub(crate) fn duration(self) -> Option<Duration> {
        let seconds = self.seconds?;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(MAX_LIMIT).min(MAX_LIMIT))
    }
}

/// Whether the client wants to go on with web sockets.
pub(crate) fn wants_websocket(headers: &HeaderMap) -> bool {
    tokens(headers, &header::UPGRADE).any(|protocol| protocol.eq_ignore_ascii_case("websocket"))
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
                headers.insert(TIMEOUT, HeaderValue::from_str(sent).unwrap());
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
        let endless = TimeLimit { seconds: Some(f64::INFINITY), is_requests_own: true };
        assert_eq!(endless.duration(), Some(MAX_LIMIT));
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
        assert!(takes_trailers(&headers) && wants_websocket(&headers));
        strip(&mut headers);
        assert!(!takes_trailers(&headers) && !wants_websocket(&headers));
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["set-cookie", "x-other"]);
        assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
    }
}
