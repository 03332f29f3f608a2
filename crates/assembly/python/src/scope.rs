//! The scope of ASGI, of requests and of WebSockets.

use crate::request::Arrival;
use axum::extract::OriginalUri;
use http::{HeaderMap, HeaderName, Method, Uri, header, request};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Which protocol a scope is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Http,
    WebSocket,
}

/// The head of a request, as its client sent it.
pub(crate) struct Head {
    pub(crate) method: Method,
    /// With the prefix of the application.
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) arrival: Arrival,
}

impl Head {
    pub(crate) fn new(parts: request::Parts, arrival: Arrival) -> Self {
        let uri = match parts.extensions.get::<OriginalUri>() {
            Some(OriginalUri(uri)) => uri.clone(),
            None => parts.uri,
        };
        Self { method: parts.method, uri, headers: parts.headers, arrival }
    }

    fn text(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// What both protocols have; a scope of HTTP is whole.
    pub(crate) fn scope<'py>(&self, py: Python<'py>, kind: Kind) -> PyResult<Bound<'py, PyDict>> {
        let scope = PyDict::new(py);
        let asgi = PyDict::new(py);
        asgi.set_item(intern!(py, "version"), intern!(py, "3.0"))?;
        let forwarded = self.text(&FORWARDED_PROTO);
        match kind {
            Kind::Http => {
                asgi.set_item(intern!(py, "spec_version"), intern!(py, "2.3"))?;
                scope.set_item(intern!(py, "type"), intern!(py, "http"))?;
                scope.set_item(intern!(py, "method"), self.method.as_str())?;
                scope.set_item(intern!(py, "scheme"), forwarded.unwrap_or("http"))?;
            }
            Kind::WebSocket => {
                asgi.set_item(intern!(py, "spec_version"), intern!(py, "2.4"))?;
                scope.set_item(intern!(py, "type"), intern!(py, "websocket"))?;
                let is_secure = matches!(forwarded, Some("https" | "wss"));
                scope.set_item(intern!(py, "scheme"), if is_secure { "wss" } else { "ws" })?;
            }
        }
        let path = self.uri.path();
        let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
        let query = self.uri.query().unwrap_or_default().as_bytes();
        scope.set_item(intern!(py, "asgi"), asgi)?;
        scope.set_item(intern!(py, "http_version"), intern!(py, "1.1"))?;
        scope.set_item(intern!(py, "path"), &*decoded)?;
        scope.set_item(intern!(py, "raw_path"), PyBytes::new(py, path.as_bytes()))?;
        scope.set_item(intern!(py, "query_string"), PyBytes::new(py, query))?;
        scope.set_item(intern!(py, "root_path"), self.arrival.context.root_path.as_str())?;
        scope.set_item(intern!(py, "headers"), self.headers(py)?)?;
        let client = self.text(&FORWARDED_FOR).and_then(|list| list.split(',').next());
        scope.set_item(intern!(py, "client"), client.map(|host| (host.trim(), 0_u16)))?;
        let server = self.text(&header::HOST).map(|host| match host.rsplit_once(':') {
            Some((name, port)) => (name, port.parse::<u16>().ok()),
            None => (host, None),
        });
        scope.set_item(intern!(py, "server"), server)?;
        Ok(scope)
    }

    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for (name, value) in &self.headers {
            let name = PyBytes::new(py, name.as_str().as_bytes());
            list.append((name, PyBytes::new(py, value.as_bytes())))?;
        }
        Ok(list)
    }
}
