//! The chat page at `/`: one file, nothing to load, and a policy under which a browser runs nothing
//! but its own script, asks nobody but this server, and takes no text for markup.

use crate::shared::writes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use sha2::{Digest, Sha256};
use std::sync::LazyLock;
use tyndall_router::{Mount, Router, Scope};
use tyndall_transport::{Body, text};

/// Where the page is.
pub(crate) const PATH: &str = "/";

/// The method by which it is asked for.
pub(crate) const METHOD: Method = Method::GET;

macro_rules! style {
    () => {
        include_str!("chat/chat.css")
    };
}

macro_rules! script {
    () => {
        concat!(
            "\"use strict\";\n",
            include_str!("chat/markdown.js"),
            include_str!("chat/stream.js"),
            include_str!("chat/answer.js"),
            include_str!("chat/chat.js"),
        )
    };
}

const PAGE: &str = concat!(
    "<!doctype html>\n<html lang=\"en\">\n<head>\n",
    include_str!("chat/head.html"),
    "<style>",
    style!(),
    "</style>\n</head>\n<body>\n",
    include_str!("chat/body.html"),
    "<script>",
    script!(),
    "</script>\n</body>\n</html>\n",
);

static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        hash(script!()),
        hash(style!()),
    );
    HeaderValue::try_from(policy).expect("words and base64 are header values")
});

/// Whether the page is there, with what is mounted at the path: where a model that writes is, and
/// no program that has `/` itself.
pub(crate) fn is_shown(path: &str, mount: Option<&Mount>, router: &Router) -> bool {
    let is_free = || mount.is_none_or(|root| root.ingress.route().model.is_some());
    let has_models = || {
        router.with_models(&Scope::Everywhere, |models| models.iter().any(|model| writes(model)))
    };
    path == PATH && is_free() && has_models()
}

/// The page.
pub(crate) fn page() -> Response<Body> {
    let mut response = text(StatusCode::OK, PAGE);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands between the only two of these.
    fn between<'a>(open: &str, close: &str) -> &'a str {
        assert_eq!((PAGE.matches(open).count(), PAGE.matches(close).count()), (1, 1), "{open}");
        PAGE.split_once(open).unwrap().1.split_once(close).unwrap().0
    }

    #[test]
    fn the_policy_is_that_of_the_page_and_the_page_loads_nothing() {
        let response = page();
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        for text in [between("<script>", "</script>"), between("<style>", "</style>")] {
            let hash = STANDARD.encode(Sha256::digest(text));
            assert!(policy.contains(&format!("'sha256-{hash}'")), "{policy}");
        }
        for loads in [" src=", "<link rel=\"stylesheet", "@import", "url(", "innerHTML", "eval("] {
            assert!(!PAGE.contains(loads), "{loads}");
        }
        for attribute in [" style=", " onclick=", " onload="] {
            assert!(!PAGE.contains(attribute), "the policy forbids {attribute}");
        }
    }
}
