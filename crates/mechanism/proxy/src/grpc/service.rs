//! `ray.serve.RayServeAPIService`: what every server answers by itself, as Ray Serve does.

use crate::grpc::status::{CONTENT_TYPE, Code, Status};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use std::convert::Infallible;
use tyndall_transport::Body;

/// The beginning of its methods' paths.
pub(super) const PREFIX: &str = "/ray.serve.RayServeAPIService/";

/// What every server answers.
pub(super) enum Method {
    ListApplications,
    Healthz,
}

impl Method {
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            "ListApplications" => Some(Self::ListApplications),
            "Healthz" => Some(Self::Healthz),
            _ => None,
        }
    }

    /// Its answer, which is complete also where the server takes no calls: the status says so.
    pub(super) fn answer(
        &self,
        applications: &[String],
        refuses: Option<&str>,
        id: &HeaderValue,
    ) -> Response<Body> {
        let healthy = refuses.unwrap_or("success");
        let texts = match self {
            Self::ListApplications => applications,
            Self::Healthz => &[healthy.to_owned()],
        };
        let status = match refuses {
            None => Status::ok(),
            Some(why) => Status::new(Code::UNAVAILABLE, why),
        };
        let frames = [Frame::data(message(texts)), Frame::trailers(status.headers(id))];
        let frames = futures_util::stream::iter(frames.map(Ok::<_, Infallible>));
        let body = StreamBody::new(frames).map_err(|never| match never {}).boxed_unsync();
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
        response
    }
}

/// A message whose first field is these texts, one or repeated.
fn message(texts: &[String]) -> Bytes {
    /// Field 1, of a length.
    const FIELD: u8 = 1 << 3 | 2;
    let mut content = BytesMut::new();
    for text in texts {
        content.put_u8(FIELD);
        let mut length = text.len();
        while length >= 0x80 {
            content.put_u8(length as u8 | 0x80);
            length >>= 7;
        }
        content.put_u8(length as u8);
        content.put_slice(text.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(5 + content.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(content.len()).unwrap_or(u32::MAX));
    frame.put_slice(&content);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_protocol_buffers_have_them() {
        assert_eq!(&message(&["success".into()])[..], b"\0\0\0\0\x09\x0a\x07success");
        let long = "x".repeat(300);
        let encoded = message(&["a".into(), long.clone()]);
        assert_eq!(&encoded[..11], b"\0\0\0\x01\x32\x0a\x01a\x0a\xac\x02");
        assert_eq!(&encoded[11..], long.as_bytes());
        assert_eq!(&message(&[])[..], &[0; 5]);
    }
}
