//! What browsers are told where a page of another origin uses the routes of models.
//!
//! Browsers keep answers from pages of other origins unless an answer says that they may read it,
//! and ask before they send what no form could. Nobody is let in by default: a server on loopback
//! can be reached by every page that its user opens. Programs speak for themselves.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use tyndall_transport::{Body, empty, text};
use tyndall_types::{Allowed, CorsConfig};

/// Headers of answers that pages may read, beside those that they always may.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, server-timing, retry-after, x-ratelimit-limit-requests, \
     x-ratelimit-limit-tokens, x-ratelimit-remaining-requests, x-ratelimit-remaining-tokens, \
     x-ratelimit-reset-requests, x-ratelimit-reset-tokens",
);

const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");
const ANY: HeaderValue = HeaderValue::from_static("*");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// The rules of a proxy; without a configuration no other origin is let in.
#[derive(Debug)]
pub(crate) struct Cors(pub(crate) Option<CorsConfig>);

/// What the rules say of one request.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// The answer, where a browser only asks whether a page may.
    pub(crate) preflight: Option<Response<Body>>,
    /// What every answer tells the browser, an error too.
    pub(crate) headers: HeaderMap,
}

impl Cors {
    /// Judges a request by its method and its headers.
    pub(crate) fn judge(&self, method: &Method, sent: &HeaderMap) -> Verdict {
        let asked = sent.get(header::ACCESS_CONTROL_REQUEST_METHOD);
        let asked = asked.filter(|_| method == Method::OPTIONS);
        let origin = sent.get(header::ORIGIN);
        let headers = self.0.as_ref().map(|rules| origin_headers(rules, origin));
        let headers = headers.unwrap_or_default();
        let (Some(origin), Some(asked)) = (origin, asked) else {
            return Verdict { preflight: None, headers };
        };
        let is_let_in = headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        let preflight = match &self.0 {
            Some(rules) if is_let_in => preflight(rules, asked, sent),
            _ => refusal(origin),
        };
        Verdict { preflight: Some(preflight), headers }
    }
}

/// Whether this origin may read the answer, and what of it.
fn origin_headers(rules: &CorsConfig, origin: Option<&HeaderValue>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let is_same_for_all = rules.origins == Allowed::Any;
    if !is_same_for_all {
        // Also for those that are not let in: what a cache keeps must not be taken for others.
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
    }
    let Some(origin) = origin else { return headers };
    if !origin.to_str().is_ok_and(|origin| rules.origins.has(origin)) {
        return headers;
    }
    let allowed = if is_same_for_all { ANY } else { origin.clone() };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed.clone());
    headers.insert(TIMING_ALLOW_ORIGIN, allowed);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    if rules.credentials {
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
    }
    headers
}

/// What a page may send. `*` in these headers would leave `authorization` out, so that what was
/// asked for is said again.
fn preflight(rules: &CorsConfig, method: &HeaderValue, sent: &HeaderMap) -> Response<Body> {
    let mut response = empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    let asked = sent.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
    for (name, allowed, asked) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, &rules.methods, Some(method)),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, &rules.headers, asked),
    ] {
        let value = match allowed {
            Allowed::Any => asked.cloned(),
            Allowed::Only(names) => HeaderValue::try_from(names.join(", ")).ok(),
        };
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, rules.max_age_s.into());
    response
}

/// Browsers show it among the requests of a page, where its author looks for the reason.
fn refusal(origin: &HeaderValue) -> Response<Body> {
    let origin = String::from_utf8_lossy(origin.as_bytes());
    let message = format!(
        "pages of {origin} may not use this server; start it with --cors-origins {origin} to let \
         them in\n"
    );
    text(StatusCode::FORBIDDEN, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(names: &[&str]) -> Allowed {
        Allowed::Only(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn rules(origins: Allowed) -> CorsConfig {
        CorsConfig {
            origins,
            methods: Allowed::Any,
            headers: Allowed::Any,
            credentials: false,
            max_age_s: 600,
        }
    }

    /// Status of the preflight's answer, and all headers that a browser looks at.
    fn judge(cors: &Cors, method: Method, sent: &[(&'static str, &'static str)]) -> String {
        let sent = sent
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let verdict = cors.judge(&method, &sent.collect());
        let (status, own) = match verdict.preflight {
            Some(answer) => (answer.status().as_str().to_owned(), answer.headers().clone()),
            None => ("-".to_owned(), HeaderMap::new()),
        };
        let told = own.iter().chain(&verdict.headers).filter_map(|(name, value)| {
            let name = name.as_str();
            let short = name.strip_prefix("access-control-").unwrap_or(name);
            let is_told = name == "vary" || name.starts_with("timing") || short != name;
            let value = if value == EXPOSED { "…" } else { value.to_str().unwrap() };
            is_told.then(|| format!(" {short}={value}"))
        });
        status + &told.collect::<String>()
    }

    #[test]
    fn browsers_are_told_what_the_rules_say() {
        const A: (&str, &str) = ("origin", "https://a.example");
        const B: (&str, &str) = ("origin", "https://b.example");
        const POST: (&str, &str) = ("access-control-request-method", "POST");
        const KEY: (&str, &str) = ("access-control-request-headers", "authorization,content-type");
        let off = Cors(None);
        let any = Cors(Some(rules(Allowed::Any)));
        let one = Cors(Some(rules(only(&["https://a.example"]))));
        let strict = Cors(Some(CorsConfig {
            methods: only(&["GET", "POST"]),
            headers: only(&["content-type"]),
            credentials: true,
            max_age_s: 5,
            ..rules(only(&["https://a.example", "https://b.example"]))
        }));
        let (asks, sends) = (Method::OPTIONS, Method::POST);
        for (cors, method, sent, expected) in [
            (&off, &sends, &[A][..], "-"),
            (&off, &asks, &[A, POST], "403"),
            (&off, &asks, &[POST], "-"),
            (&off, &asks, &[A], "-"),
            (&any, &sends, &[], "-"),
            (&any, &sends, &[A], "- allow-origin=* timing-allow-origin=* expose-headers=…"),
            (
                &any,
                &asks,
                &[A, POST, KEY],
                "204 allow-methods=POST allow-headers=authorization,content-type max-age=600 \
                 allow-origin=* timing-allow-origin=* expose-headers=…",
            ),
            (&one, &sends, &[], "- vary=origin"),
            (&one, &sends, &[B], "- vary=origin"),
            (&one, &asks, &[B, POST], "403 vary=origin"),
            (
                &one,
                &sends,
                &[A],
                "- vary=origin allow-origin=https://a.example \
                 timing-allow-origin=https://a.example expose-headers=…",
            ),
            (
                &strict,
                &asks,
                &[B, POST, KEY],
                "204 allow-methods=GET, POST allow-headers=content-type max-age=5 vary=origin \
                 allow-origin=https://b.example timing-allow-origin=https://b.example \
                 expose-headers=… allow-credentials=true",
            ),
        ] {
            assert_eq!(judge(cors, method.clone(), sent), expected, "{method} {sent:?}");
        }
    }

    #[tokio::test]
    async fn a_refusal_says_how_to_let_a_page_in() {
        use http_body_util::BodyExt;
        let origin = HeaderValue::from_static("http://localhost:3000");
        let body = refusal(&origin).into_body().collect().await.unwrap().to_bytes();
        let expected = "pages of http://localhost:3000 may not use this server; start it with \
                        --cors-origins http://localhost:3000 to let them in\n";
        assert_eq!(body, expected);
    }
}
