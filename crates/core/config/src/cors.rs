//! The settings about pages of other origins.

use crate::error::ConfigError;
use crate::origin::Reader;
use crate::parse;
use tyndall_types::{Allowed, CorsConfig};

const ORIGINS: &str = "* or origins between commas, each a scheme and a host without a path, such \
                       as https://a.example or http://localhost:3000";
const METHODS: &str = "* or methods between commas, such as GET,POST";
const HEADERS: &str = "* or names of headers between commas, such as authorization,content-type";

/// Absent where no other origin is let in.
pub(crate) fn cors(reader: &mut Reader<'_>) -> Result<Option<CorsConfig>, ConfigError> {
    let origins = reader.read_optional("cors_origins", list(origin, ORIGINS))?;
    let upper = |text: &str| token(text).then(|| text.to_ascii_uppercase());
    let lower = |text: &str| token(text).then(|| text.to_ascii_lowercase());
    let methods = reader.read("cors_methods", list(upper, METHODS))?.value;
    let headers = reader.read("cors_headers", list(lower, HEADERS))?.value;
    let credentials = reader.read("cors_credentials", parse::switch)?;
    let max_age_s = reader.read("cors_max_age", parse::parse_seconds)?.value as u32;
    let Some(origins) = origins else { return Ok(None) };
    if credentials.value && origins == Allowed::Any {
        let from = crate::resolve::from("cors_credentials", credentials.origin);
        return Err(ConfigError::CredentialsForAll { from });
    }
    let credentials = credentials.value;
    Ok(Some(CorsConfig { origins, methods, headers, credentials, max_age_s }))
}

/// `*` or texts between commas; a list in JSON too, as vLLM takes them.
fn list(
    read: impl Fn(&str) -> Option<String>,
    accepted: &'static str,
) -> impl Fn(&str) -> Result<Allowed, String> {
    move |text| {
        let items: Vec<String> = if text.starts_with('[') {
            serde_json::from_str(text).map_err(|_| accepted.to_owned())?
        } else {
            text.split(',').map(str::to_owned).collect()
        };
        if items.iter().any(|item| item.trim() == "*") {
            return Ok(Allowed::Any);
        }
        let items: Option<Vec<String>> = items.iter().map(|item| read(item.trim())).collect();
        let items = items.filter(|items| !items.is_empty());
        items.map(Allowed::Only).ok_or_else(|| accepted.to_owned())
    }
}

/// An origin as browsers spell it: in lower case, without the port that the scheme has anyway.
/// `null` is what files and sandboxed frames call themselves.
fn origin(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    if text == "null" {
        return Some(text);
    }
    let (scheme, host) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let is_host = host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
    let own_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let host = host.strip_suffix(own_port).unwrap_or(host);
    (is_scheme && is_host).then(|| format!("{scheme}://{host}"))
}

/// A name as HTTP has them.
fn token(text: &str) -> bool {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(is_token)
}

#[cfg(test)]
mod tests {
    use crate::{RawSettings, resolve};
    use tyndall_types::{Allowed, CorsConfig};

    fn cors(flags: &[(&str, &str)]) -> Result<Option<CorsConfig>, String> {
        let mut raw = RawSettings::default();
        for (key, value) in flags {
            raw.set(key, *value).unwrap();
        }
        resolve(&raw, &Default::default()).map(|c| c.cors).map_err(|error| error.to_string())
    }

    #[test]
    fn nobody_is_let_in_by_default_and_lists_are_spelled_as_browsers_do() {
        assert_eq!(cors(&[("cors_methods", "GET")]), Ok(None));
        let only = |names: &[&str]| Allowed::Only(names.iter().map(|n| (*n).to_owned()).collect());
        let origins = "https://A.example:443, http://localhost:3000,null";
        let expected = CorsConfig {
            origins: only(&["https://a.example", "http://localhost:3000", "null"]),
            methods: only(&["GET", "POST"]),
            headers: only(&["x-mine"]),
            credentials: true,
            max_age_s: 120,
        };
        let flags = [
            ("cors_origins", origins),
            ("cors_methods", "get,POST"),
            ("cors_headers", "X-Mine"),
            ("cors_credentials", "true"),
            ("cors_max_age", "2m"),
        ];
        assert_eq!(cors(&flags), Ok(Some(expected)));
        let all = cors(&[("cors_origins", "*")]).unwrap().unwrap();
        assert_eq!((all.origins, all.methods, all.max_age_s), (Allowed::Any, Allowed::Any, 600));
    }

    #[test]
    fn origins_are_checked() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(super::origin(text).as_deref(), expected, "{text}");
        };
        check("http://a:80", Some("http://a"));
        check("https://a:80", Some("https://a:80"));
        check("http://[::1]:3000", Some("http://[::1]:3000"));
        check("chrome-extension://abcdef", Some("chrome-extension://abcdef"));
        for bad in ["", "a.example", "http://", "http://a/", "http://a/b", "http://u@a", "://a"] {
            check(bad, None);
        }
        for (text, expected) in [
            (r#"["*"]"#, Ok(Allowed::Any)),
            (r#"["http://a"]"#, Ok(Allowed::Only(vec!["http://a".to_owned()]))),
        ] {
            let found = cors(&[("cors_origins", text)]).map(|cors| cors.unwrap().origins);
            assert_eq!(found, expected);
        }
        for bad in ["http://a,", "[]", "[1]", "[", "http://*.a"] {
            let error = cors(&[("cors_origins", bad)]).unwrap_err();
            assert!(error.starts_with("--cors-origins is ") && error.contains("without a path"));
        }
    }

    #[test]
    fn logins_are_for_sites_that_are_named() {
        let error = cors(&[("cors_origins", "*"), ("cors_credentials", "true")]).unwrap_err();
        let expected = "--cors-credentials with every origin let in would let any site act with \
                        the logins of its visitors";
        assert_eq!(error, expected);
    }
}
