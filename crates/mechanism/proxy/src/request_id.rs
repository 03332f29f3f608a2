//! Request ids: the client's own, when it is harmless, else a new one.

use http::{HeaderMap, HeaderName, HeaderValue};
use std::hash::{BuildHasher, Hasher, RandomState};
use tyndall_types::HEADER_REQUEST_ID;

/// [`HEADER_REQUEST_ID`], read once.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static(HEADER_REQUEST_ID);

const MAX_LEN: usize = 128;

/// The id of a request. The client's is taken when it can stand in a header, a log line and a JSON
/// string as it is.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    match headers.get(REQUEST_ID) {
        Some(sent) if is_harmless(sent.as_bytes()) => sent.clone(),
        _ => fresh(),
    }
}

/// Whether it can be taken as it is.
pub(crate) fn is_harmless(id: &[u8]) -> bool {
    let ok = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
    (1..=MAX_LEN).contains(&id.len()) && id.iter().all(ok)
}

fn fresh() -> HeaderValue {
    let random = || RandomState::new().build_hasher().finish();
    let random = u128::from(random()) << 64 | u128::from(random());
    let mut id = [0; 32];
    for (at, digit) in id.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(random >> (4 * at)) as usize & 0xf];
    }
    HeaderValue::from_bytes(&id).expect("hexadecimal is a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_ids_are_kept_and_others_replaced() {
        let of = |sent: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER_REQUEST_ID, HeaderValue::from_str(sent).unwrap());
            request_id(&headers)
        };
        assert_eq!(of("a-B_9.x:1"), "a-B_9.x:1");
        for sent in ["", "a b", "\"x\"", "é", &"x".repeat(129)] {
            assert_eq!(of(sent).len(), 32, "{sent}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
