//! The URLs that load is sent to.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use tyndall_transport::Client;

/// An `http` URL whose host was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    authority: String,
    address: SocketAddr,
    /// Starts with `/`, or is empty.
    path: String,
}

impl Url {
    /// A client of its host, with connections of its own.
    pub(crate) fn client(&self) -> Client {
        Client::tcp(self.address)
    }

    /// Where its host is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port that was found.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The value of the `host` header.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Path and query, at least `/`.
    pub(crate) fn path(&self) -> &str {
        if self.path.is_empty() { "/" } else { &self.path }
    }

    /// The path of a route of an OpenAI-compatible server; the URL may end in `/v1` or not.
    pub(crate) fn route(&self, route: &str) -> String {
        let base = self.path.trim_end_matches('/');
        match route.strip_prefix("/v1") {
            Some(rest) if base.ends_with("/v1") => format!("{base}{rest}"),
            _ => format!("{}{route}", base.strip_suffix("/v1").unwrap_or(base)),
        }
    }

    /// The load goes to this machine.
    pub(crate) fn is_local(&self) -> bool {
        self.address.ip().is_loopback()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            return Err(format!(
                "{text:?} wants TLS, whose cost would be in every figure; name the http URL of \
                 the server itself"
            ));
        }
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
        let is_plain = |c: char| c.is_ascii_graphic() && !"\"<>\\^`{|}#".contains(c);
        if authority.is_empty() || authority.contains('@') || !rest.chars().all(is_plain) {
            return Err(format!("{text:?} is no URL; one looks like http://127.0.0.1:8000"));
        }
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(host, port)| !port.contains(']') && !host.is_empty());
        let with_port = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        let address = with_port.to_socket_addrs().ok().and_then(|mut found| found.next());
        let address = address.ok_or_else(|| {
            format!("the host of {text:?} was not found; one looks like http://127.0.0.1:8000")
        })?;
        Ok(Self { authority: authority.to_owned(), address, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn urls_are_taken_apart() {
        for (text, address, path) in [
            ("http://127.0.0.1:8000", "127.0.0.1:8000", "/"),
            ("http://127.0.0.1/a?b=c", "127.0.0.1:80", "/a?b=c"),
            ("127.0.0.1:9?x", "127.0.0.1:9", "/?x"),
            ("http://[::1]:7/x", "[::1]:7", "/x"),
            ("http://[::1]", "[::1]:80", "/"),
        ] {
            assert_eq!((url(text).address.to_string().as_str(), url(text).path()), (address, path));
        }
        for bad in ["", "http://", "https://127.0.0.1", "http://a b", "http://u@127.0.0.1", "x:y"] {
            assert!(bad.parse::<Url>().is_err(), "{bad}");
        }
        assert!(url("127.0.0.1:9").is_local());
    }

    #[test]
    fn the_version_is_said_once() {
        for base in ["http://127.0.0.1:1", "http://127.0.0.1:1/", "http://127.0.0.1:1/v1/"] {
            assert_eq!(url(base).route("/v1/models"), "/v1/models");
            assert_eq!(url(base).route("/generate"), "/generate");
        }
        assert_eq!(url("http://127.0.0.1:1/api/v1").route("/v1/models"), "/api/v1/models");
        assert_eq!(url("http://127.0.0.1:1/api").route("/v1/models"), "/api/v1/models");
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_makes_a_path(path in "[ -~]{0,30}") {
            if let Ok(url) = format!("http://127.0.0.1:1/{path}").parse::<Url>() {
                prop_assert!(url.path().parse::<http::Uri>().is_ok(), "{}", url.path());
            }
        }
    }
}
