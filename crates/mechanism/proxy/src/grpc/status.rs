//! How calls end: codes, and the headers that say them.
//!
//! Source: gRPC over HTTP/2, and Ray Serve for which failure has which code.

use crate::request_id::REQUEST_ID;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use tyndall_openai::ApiError;
use tyndall_router::{Refusal, SendErrorKind};
use tyndall_transport::{Body, empty};

/// What an answer is, whatever the client called its messages.
pub(crate) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// The metadata by which clients learn the id of their call, by Ray Serve's name.
pub(crate) const OWN_REQUEST_ID: HeaderName = HeaderName::from_static("request_id");

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Longer details are cut, as Ray Serve does: they have to fit into a head.
const MAX_DETAILS: usize = 4096;

/// A code of gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(u32);

impl Code {
    pub(crate) const OK: Self = Self(0);
    pub(crate) const CANCELLED: Self = Self(1);
    const INVALID_ARGUMENT: Self = Self(3);
    pub(crate) const DEADLINE_EXCEEDED: Self = Self(4);
    pub(crate) const NOT_FOUND: Self = Self(5);
    const PERMISSION_DENIED: Self = Self(7);
    pub(crate) const RESOURCE_EXHAUSTED: Self = Self(8);
    pub(crate) const UNIMPLEMENTED: Self = Self(12);
    pub(crate) const INTERNAL: Self = Self(13);
    pub(crate) const UNAVAILABLE: Self = Self(14);
    const UNAUTHENTICATED: Self = Self(16);
    const UNKNOWN: Self = Self(2);
    const MAX: u64 = 16;

    /// One that code has chosen.
    fn of(number: u64) -> Self {
        u32::try_from(number.min(Self::MAX + 1)).map_or(Self::UNKNOWN, |number| {
            if u64::from(number) > Self::MAX { Self::UNKNOWN } else { Self(number) }
        })
    }

    /// What an error of HTTP is here.
    fn of_http(status: u16) -> Self {
        match status {
            400 | 422 => Self::INVALID_ARGUMENT,
            401 => Self::UNAUTHENTICATED,
            403 => Self::PERMISSION_DENIED,
            404 => Self::NOT_FOUND,
            408 | 504 => Self::DEADLINE_EXCEEDED,
            413 | 429 => Self::RESOURCE_EXHAUSTED,
            499 => Self::CANCELLED,
            502 | 503 => Self::UNAVAILABLE,
            _ => Self::INTERNAL,
        }
    }

    /// The status that metrics count, which have one for all that is answered.
    pub(crate) fn http(self) -> u16 {
        match self {
            Self::OK => 200,
            Self::CANCELLED => 499,
            Self::INVALID_ARGUMENT => 400,
            Self::DEADLINE_EXCEEDED => 408,
            Self::NOT_FOUND => 404,
            Self::PERMISSION_DENIED => 403,
            Self::RESOURCE_EXHAUSTED => 429,
            Self::UNIMPLEMENTED => 501,
            Self::UNAVAILABLE => 503,
            Self::UNAUTHENTICATED => 401,
            _ => 500,
        }
    }
}

/// The end of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: Code,
    pub(crate) details: String,
    /// What the code of the application adds.
    metadata: Vec<(HeaderName, HeaderValue)>,
}

impl Status {
    pub(crate) fn new(code: Code, details: impl Into<String>) -> Self {
        Self { code, details: details.into(), metadata: Vec::new() }
    }

    pub(crate) fn ok() -> Self {
        Self::new(Code::OK, "")
    }

    /// Of a call that got no answer; `message` is what an HTTP client would be told.
    pub(crate) fn unsent(kind: &SendErrorKind, message: String) -> Self {
        let code = match kind {
            SendErrorKind::Refused(Refusal::Full { .. } | Refusal::TooLate { .. }) => {
                Code::RESOURCE_EXHAUSTED
            }
            SendErrorKind::Refused(Refusal::Unavailable(_)) => Code::UNAVAILABLE,
            SendErrorKind::TooLate(_) => Code::DEADLINE_EXCEEDED,
            SendErrorKind::Lost { .. } => Code::INTERNAL,
        };
        Self::new(code, message)
    }

    /// Of an answer that is none of gRPC: what answers knows nothing of it, or failed before.
    pub(crate) fn of_answer(status: StatusCode, text: &str) -> Self {
        match status.as_u16() {
            // A program that has other paths, and wonders about this one.
            200..=399 | 404 | 405 | 415 | 426 => Self::new(
                Code::UNIMPLEMENTED,
                "the application does not answer gRPC; its ingress must be a deployment in Python",
            ),
            other => Self::new(Code::of_http(other), text),
        }
    }

    /// As the code of the application says it, in JSON.
    pub(crate) fn told(json: &[u8]) -> Option<Self> {
        let told: Value = serde_json::from_slice(json).ok()?;
        let code = Code::of(told.get("code")?.as_u64()?);
        let mut status = Self::new(code, told.get("details")?.as_str()?);
        for pair in told.get("metadata")?.as_array()? {
            let (name, value) = (pair.get(0)?.as_str()?, pair.get(1)?.as_str()?);
            match (HeaderName::try_from(name), HeaderValue::from_str(value)) {
                (Ok(name), Ok(value)) if !is_of_status(&name) => {
                    status.metadata.push((name, value));
                }
                _ => tracing::warn!(name, "trailing metadata that cannot be sent is left out"),
            }
        }
        Some(status)
    }

    /// The trailers of an answer, or the head of one that is nothing but this.
    pub(crate) fn headers(&self, id: &HeaderValue) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.metadata {
            headers.append(name, value.clone());
        }
        headers.insert(GRPC_STATUS, self.code.0.into());
        if !self.details.is_empty() {
            headers.insert(GRPC_MESSAGE, encoded(&self.details));
        }
        headers.insert(OWN_REQUEST_ID, id.clone());
        headers
    }

    /// An answer without messages.
    pub(crate) fn into_response(self, id: &HeaderValue) -> Response<Body> {
        let mut response = empty(StatusCode::OK);
        *response.headers_mut() = self.headers(id);
        response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
        response
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        Self::new(Code::of_http(error.status), error.message)
    }
}

fn is_of_status(name: &HeaderName) -> bool {
    [&GRPC_STATUS, &GRPC_MESSAGE, &REQUEST_ID, &header::CONTENT_TYPE].contains(&name)
}

/// Details as a header may have them: all but printable ASCII as `%` and two digits.
fn encoded(details: &str) -> HeaderValue {
    let mut text = String::with_capacity(details.len());
    for (at, char) in details.char_indices() {
        if at + char.len_utf8() > MAX_DETAILS {
            break;
        }
        let mut bytes = [0; 4];
        for &byte in char.encode_utf8(&mut bytes).as_bytes() {
            match byte {
                b'%' => text.push_str("%25"),
                b' '..=b'~' => text.push(byte.into()),
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    HeaderValue::from_str(&text).expect("printable ASCII is a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: HeaderValue = HeaderValue::from_static("id-1");

    #[test]
    fn what_code_tells_becomes_trailers() {
        let json = r#"{"code": 10, "details": "50 % — no\n", "metadata": [
            ["key", "value"], ["key", "other"], ["data-bin", "AAE"], ["grpc-status", "0"], ["b d", "x"]]}"#;
        let headers = Status::told(json.as_bytes()).unwrap().headers(&ID);
        let all =
            |name| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all("grpc-status"), ["10"]);
        assert_eq!(all("grpc-message"), ["50 %25 %E2%80%94 no%0A"]);
        assert_eq!((all("key"), all("data-bin")), (vec!["value", "other"], vec!["AAE"]));
        assert_eq!((all("request_id"), headers.len()), (vec!["id-1"], 6));
        for (number, expected) in [("0", 0), ("16", 16), ("17", 2), ("99999999999", 2)] {
            let json = format!(r#"{{"code": {number}, "details": "", "metadata": []}}"#);
            assert_eq!(Status::told(json.as_bytes()).unwrap().code.0, expected);
        }
        for bad in ["", "{}", "[]", r#"{"code": -1, "details": "", "metadata": []}"#] {
            assert_eq!(Status::told(bad.as_bytes()), None);
        }
    }

    #[test]
    fn details_are_cut_between_characters() {
        let long = "é".repeat(MAX_DETAILS);
        assert_eq!(encoded(&long).len(), MAX_DETAILS * 3);
        assert_eq!(encoded(&format!("a{long}")).len(), 1 + (MAX_DETAILS / 2 - 1) * 6);
    }

    #[test]
    fn errors_of_http_have_codes() {
        let of = |status: u16| Status::of_answer(StatusCode::from_u16(status).unwrap(), "why");
        assert_eq!(of(503), Status::new(Code::UNAVAILABLE, "why"));
        assert_eq!(of(500), Status::new(Code::INTERNAL, "why"));
        assert_eq!((of(404).code, of(200).code), (Code::UNIMPLEMENTED, Code::UNIMPLEMENTED));
        for number in 0..=16 {
            let code = Code(number);
            assert!(code == Code::OK || code.http() >= 400);
        }
    }
}
