//! Headers of requests, as flags spell them.

use crate::error::BenchError;
use crate::url::Url;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// A header that was given on the command line.
pub(crate) type Header = (HeaderName, HeaderValue);

/// Reads `name: value`.
///
/// # Errors
/// It is not of that form.
pub(crate) fn parse(text: &str) -> Result<Header, String> {
    let parsed = text.split_once(':').and_then(|(name, value)| {
        let name: HeaderName = name.trim().parse().ok()?;
        Some((name, value.trim().parse().ok()?))
    });
    parsed.ok_or_else(|| format!("{text:?} is no header; one looks like 'name: value'"))
}

/// The given headers, and the host of the URL where they name none.
pub(crate) fn of(url: &Url, given: &[Header]) -> Result<HeaderMap, BenchError> {
    let mut headers = HeaderMap::new();
    let host = HeaderValue::from_str(url.authority());
    let host = host.map_err(|error| BenchError::of("the URL's host is no header", &error))?;
    headers.insert(header::HOST, host);
    for (name, value) in given {
        headers.insert(name, value.clone());
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read() {
        let (name, value) = parse("Authorization: Bearer a:b").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("authorization", "Bearer a:b"));
        for bad in ["", "a", "a b: c", ": x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let headers = of(&"http://127.0.0.1:1".parse().unwrap(), &[(name, value)]).unwrap();
        assert_eq!(headers["host"], "127.0.0.1:1");
        assert_eq!(headers.len(), 2);
    }
}
