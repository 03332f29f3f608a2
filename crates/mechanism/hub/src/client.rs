//! The hub's HTTP API, one request at a time.
//!
//! Redirects are followed here and not by the HTTP library, for two reasons: the headers that
//! describe a file come with the first answer, not with the storage server's, and the token must
//! go to the endpoint's own origin only.

use crate::error::HubError;
use crate::id::{ModelId, Revision, is_commit};
use crate::options::HubOptions;
use std::path::Path;
use std::time::Duration;
use ureq::http::{HeaderMap, Method, Response, Uri, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

const MAX_REDIRECTS: usize = 10;
const MAX_INFO_BYTES: u64 = 64 << 20;

/// Why a request has no usable answer.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// Trying again may help.
    Transient {
        reason: String,
        /// The status, when there was an answer at all.
        status: Option<u16>,
        /// The server's wish.
        retry_after: Option<Duration>,
    },
    /// Nobody is there: no such host, or the connection was refused.
    Unreachable(String),
    /// Trying again cannot help.
    Fatal(HubError),
}

/// A repository at one commit.
pub(crate) struct RepositoryInfo {
    pub(crate) commit: String,
    pub(crate) files: Vec<String>,
}

/// What the hub says of a file before it is downloaded.
pub(crate) struct FileInfo {
    /// Names the blob, and is its hash when it looks like one.
    pub(crate) etag: String,
    pub(crate) size_bytes: Option<u64>,
}

/// A file's bytes on their way.
pub(crate) struct Transfer {
    /// The first byte that comes; 0 when the server ignores ranges.
    pub(crate) from_byte: u64,
    pub(crate) body: Body,
}

/// Talks to one endpoint about one repository.
pub(crate) struct HubClient<'a> {
    agent: Agent,
    options: &'a HubOptions,
    id: &'a ModelId,
}

impl<'a> HubClient<'a> {
    /// A client with its own connections.
    ///
    /// # Errors
    /// When the bundle of trusted authorities cannot be used.
    pub(crate) fn new(options: &'a HubOptions, id: &'a ModelId) -> Result<Self, HubError> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .accept_encoding("identity")
            .user_agent(concat!("tyndall/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(Duration::from_secs(15)))
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(options.stall_timeout))
            .timeout_per_read(Some(options.stall_timeout));
        if !options.use_system_proxy {
            config = config.proxy(None);
        }
        if let Some(path) = &options.ca_bundle {
            let roots = trusted(path)?;
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(Self { agent: config.build().new_agent(), options, id })
    }

    /// The commit and the files of a revision.
    pub(crate) fn info(&self, revision: &Revision) -> Result<RepositoryInfo, RequestError> {
        #[derive(serde::Deserialize)]
        struct Info {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(serde::Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let (endpoint, id) = (&self.options.endpoint, self.id);
        let url = format!("{endpoint}/api/models/{id}/revision/{}", revision.url_part());
        let mut response = self.follow(&Method::GET, &url, 0)?;
        if response.status() != 200 {
            return Err(self.refusal(&url, revision.as_str(), &response));
        }
        let bytes = response
            .body_mut()
            .with_config()
            .limit(MAX_INFO_BYTES)
            .read_to_vec()
            .map_err(classify)?;
        let bad =
            |reason: String| RequestError::Fatal(HubError::BadAnswer { url: url.clone(), reason });
        let info: Info = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if !is_commit(&info.sha) {
            return Err(bad(format!("{:?} is no commit", info.sha)));
        }
        let files = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        Ok(RepositoryInfo { commit: info.sha, files })
    }

    /// Etag and size of a file.
    pub(crate) fn file_info(&self, commit: &str, file: &str) -> Result<FileInfo, RequestError> {
        let url = self.file_url(commit, file);
        let mut next = url.clone();
        let mut size_bytes = None;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&Method::HEAD, &next, 0)?;
            let headers = response.headers();
            let status = response.status();
            if !status.is_success() && !status.is_redirection() {
                return Err(self.refusal(&url, commit, &response));
            }
            size_bytes = size_bytes.or_else(|| number(headers, "x-linked-size"));
            let etag = text(headers, "x-linked-etag").or_else(|| {
                // A redirect's own etag describes the redirect unless nothing else ever comes.
                status.is_success().then(|| text(headers, "etag")).flatten()
            });
            if let Some(etag) = etag {
                let etag = clean_etag(etag).ok_or_else(|| {
                    let reason = format!("{etag:?} cannot name a file");
                    RequestError::Fatal(HubError::BadAnswer { url: url.clone(), reason })
                })?;
                let own_size = || number(headers, "content-length").filter(|_| status.is_success());
                return Ok(FileInfo { etag, size_bytes: size_bytes.or_else(own_size) });
            }
            if !status.is_redirection() {
                let reason = "it has no etag".to_owned();
                return Err(RequestError::Fatal(HubError::BadAnswer { url, reason }));
            }
            next = redirect_target(&next, headers)?;
        }
        Err(too_many_redirects(url))
    }

    /// Starts to receive a file from a byte on.
    pub(crate) fn open(
        &self,
        commit: &str,
        file: &str,
        from_byte: u64,
    ) -> Result<Transfer, RequestError> {
        let url = self.file_url(commit, file);
        let response = self.follow(&Method::GET, &url, from_byte)?;
        let from_byte = match response.status().as_u16() {
            200 => 0,
            206 => match range_start(response.headers()) {
                Some(start) if start == from_byte => start,
                _ => return Err(transient("the server sent another range than asked for")),
            },
            416 => return Err(transient("the server has no such range")),
            _ => return Err(self.refusal(&url, commit, &response)),
        };
        Ok(Transfer { from_byte, body: response.into_body() })
    }

    fn file_url(&self, commit: &str, file: &str) -> String {
        let (endpoint, id) = (&self.options.endpoint, self.id);
        let file: Vec<String> = file.split('/').map(percent_encode).collect();
        format!("{endpoint}/{id}/resolve/{commit}/{}", file.join("/"))
    }

    fn follow(
        &self,
        method: &Method,
        url: &str,
        from_byte: u64,
    ) -> Result<Response<Body>, RequestError> {
        let mut next = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(method, &next, from_byte)?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            next = redirect_target(&next, response.headers())?;
        }
        Err(too_many_redirects(url.to_owned()))
    }

    fn send(
        &self,
        method: &Method,
        url: &str,
        from_byte: u64,
    ) -> Result<Response<Body>, RequestError> {
        let mut request =
            if method == Method::HEAD { self.agent.head(url) } else { self.agent.get(url) };
        if from_byte > 0 {
            request = request.header(header::RANGE, format!("bytes={from_byte}-"));
        }
        if let Some(token) = &self.options.token
            && same_origin(url, &self.options.endpoint)
        {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request.call().map_err(classify)
    }

    /// Maps a status that is neither success nor redirect.
    fn refusal(&self, url: &str, revision: &str, response: &Response<Body>) -> RequestError {
        let (status, headers) = (response.status().as_u16(), response.headers());
        let id = self.id.to_string();
        let endpoint = self.options.endpoint.clone();
        let with_token = self.options.token.is_some();
        let fatal = match (status, text(headers, "x-error-code")) {
            (401 | 403, Some("GatedRepo")) => HubError::Gated { id, endpoint, with_token },
            (404, Some("RevisionNotFound")) => {
                HubError::NoRevision { id, revision: revision.to_owned() }
            }
            (401 | 403 | 404, Some("RepoNotFound")) | (401, None) if !with_token => {
                HubError::NotFound { id, endpoint, with_token }
            }
            (401 | 403, None) => HubError::TokenRefused { id, endpoint },
            (401 | 403 | 404, _) => HubError::NotFound { id, endpoint, with_token },
            (408 | 429 | 500..=599, _) => {
                let retry_after = number(headers, "retry-after").map(Duration::from_secs);
                let reason = format!("the server answered {status}");
                return RequestError::Transient { reason, status: Some(status), retry_after };
            }
            _ => HubError::Status { url: url.to_owned(), status },
        };
        RequestError::Fatal(fatal)
    }
}

fn trusted(path: &Path) -> Result<RootCerts, HubError> {
    let pem = std::fs::read(path).map_err(|e| HubError::io("read", path, e))?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            Ok(_) | Err(_) => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(HubError::NoCertificates { path: path.to_owned() });
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

fn transient(reason: impl Into<String>) -> RequestError {
    RequestError::Transient { reason: reason.into(), status: None, retry_after: None }
}

fn too_many_redirects(url: String) -> RequestError {
    let reason = format!("more than {MAX_REDIRECTS} redirects");
    RequestError::Fatal(HubError::BadAnswer { url, reason })
}

/// What a failed request means: is anybody there, and may it go better next time?
pub(crate) fn classify(error: ureq::Error) -> RequestError {
    match error {
        ureq::Error::HostNotFound => RequestError::Unreachable("host not found".to_owned()),
        ureq::Error::ConnectionFailed => RequestError::Unreachable("no connection".to_owned()),
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            RequestError::Unreachable("connection refused".to_owned())
        }
        ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => {
            RequestError::Unreachable("no connection in time".to_owned())
        }
        // The standard library has no kind for it, only this text.
        ureq::Error::Io(error) if error.to_string().contains("failed to lookup address") => {
            RequestError::Unreachable("its name cannot be looked up".to_owned())
        }
        ureq::Error::Io(error) => transient(error.to_string()),
        other => transient(other.to_string()),
    }
}

fn redirect_target(from: &str, headers: &HeaderMap) -> Result<String, RequestError> {
    let bad = |reason: &str| {
        let (url, reason) = (from.to_owned(), reason.to_owned());
        RequestError::Fatal(HubError::BadAnswer { url, reason })
    };
    let location = text(headers, "location").ok_or_else(|| bad("a redirect to nowhere"))?;
    let base: Uri = from.parse().map_err(|_| bad("no valid URL"))?;
    let (Some(scheme), Some(authority)) = (base.scheme_str(), base.authority()) else {
        return Err(bad("a relative URL"));
    };
    let target = if scheme_of(location).is_some() {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let is_protected = |url: &str| scheme_of(url).is_some_and(|s| s.eq_ignore_ascii_case("https"));
    if is_protected(from) && !is_protected(&target) {
        return Err(bad("a redirect from https to an unprotected address"));
    }
    Ok(target)
}

/// The scheme of an absolute URL; a query may hold another URL, and that is none.
fn scheme_of(url: &str) -> Option<&str> {
    let (scheme, _) = url.split_once("://")?;
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    (!scheme.is_empty() && scheme.chars().all(is_scheme)).then_some(scheme)
}

fn same_origin(a: &str, b: &str) -> bool {
    let origin = |url: &str| -> Option<(String, String)> {
        let uri: Uri = url.parse().ok()?;
        Some((
            uri.scheme_str()?.to_ascii_lowercase(),
            uri.authority()?.as_str().to_ascii_lowercase(),
        ))
    };
    origin(a).is_some_and(|a| Some(a) == origin(b))
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name)?.trim().parse().ok()
}

fn range_start(headers: &HeaderMap) -> Option<u64> {
    text(headers, "content-range")?.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// The etag without quotes and weakness mark, when it is fit to be a file name.
fn clean_etag(etag: &str) -> Option<String> {
    let etag = etag.trim().trim_start_matches("W/").trim_matches('"');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let good =
        (1..=128).contains(&etag.len()) && !etag.starts_with('.') && etag.chars().all(is_plain);
    good.then(|| etag.to_owned())
}

fn percent_encode(part: &str) -> String {
    use std::fmt::Write as _;
    part.bytes().fold(String::with_capacity(part.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"._-~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a string cannot fail");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_resolve_against_where_they_came_from() {
        let check = |from: &str, location: &str, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert("location", location.parse().unwrap());
            assert_eq!(redirect_target(from, &headers).ok().as_deref(), expected, "{location}");
        };
        check("http://a:1/x/y", "/z?q=1", Some("http://a:1/z?q=1"));
        check("http://a:1/x/y", "z", Some("http://a:1/x/z"));
        check("http://a:1/x/y", "//b/z", Some("http://b/z"));
        check("http://a:1/x/y", "https://c/z", Some("https://c/z"));
        check("http://a:1/x/y", "HTTPS://c/z", Some("HTTPS://c/z"));
        check("http://a:1/x/y", "/z?to=https://c/z", Some("http://a:1/z?to=https://c/z"));
        check("https://a/x", "/z?to=http://c/z", Some("https://a/z?to=http://c/z"));
        check("https://a/x", "http://a/x", None);
        check("https://a/x", "ftp://a/x", None);
        assert!(redirect_target("http://a/x", &HeaderMap::new()).is_err());
    }

    #[test]
    fn the_token_belongs_to_one_origin() {
        assert!(same_origin("http://Hub:80/x", "http://hub:80"));
        assert!(!same_origin("http://hub:81/x", "http://hub:80"));
        assert!(!same_origin("https://hub/x", "http://hub"));
        assert!(!same_origin("http://hub.evil/x", "http://hub"));
    }

    #[test]
    fn etags_become_file_names_or_nothing() {
        assert_eq!(clean_etag("W/\"abc\"").as_deref(), Some("abc"));
        for bad in ["", "\"\"", "../x", "a/b", ".a", "a b"] {
            assert_eq!(clean_etag(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn file_names_are_encoded() {
        assert_eq!(percent_encode("a b+ü.json"), "a%20b%2B%C3%BC.json");
    }
}
