//! Frames and heads, whatever is in them.

use super::super::frame::{self, Frame, KINDS, Kind};
use super::super::head;
use crate::wire::Outgoing;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use proptest::prelude::*;

proptest! {
    #[test]
    fn frames_come_as_they_were_put(
        frames in proptest::collection::vec(
            (0..KINDS.len(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..5000)),
            0..20,
        ),
        cut in 1_usize..9000,
    ) {
        let mut out = BytesMut::new();
        for (at, id, payload) in &frames {
            frame::put(&mut out, KINDS[*at], *id, |out| out.extend_from_slice(payload));
        }
        let (mut buffer, mut came) = (BytesMut::new(), Vec::new());
        for piece in out.chunks(cut) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = frame::take(&mut buffer).unwrap() {
                came.push(frame);
            }
        }
        prop_assert!(buffer.is_empty());
        let put = frames.into_iter().map(|(at, id, payload)| Frame {
            kind: KINDS[at], id, payload: payload.into(),
        });
        prop_assert_eq!(came, put.collect::<Vec<_>>());
    }

    #[test]
    fn bytes_that_are_no_frames_are_refused_or_waited_for(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(frame)) = frame::take(&mut buffer) {
            drop(head::request(&frame.payload));
            drop(head::answer(&frame.payload));
            drop(head::trailers(&frame.payload));
        }
    }

    #[test]
    fn a_request_comes_as_it_was_sent(
        path in "/[a-z0-9/%]{0,20}(\\?[a-z=&]{0,10})?",
        headers in proptest::collection::vec(("x-[a-z]{1,10}", "[ -~]{0,30}"), 0..20),
        body in proptest::collection::vec(any::<u8>(), 0..3000),
    ) {
        let uri: Uri = path.parse().unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in &headers {
            let name = header::HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_str(value.trim()).unwrap());
        }
        let body = Bytes::from(body);
        let mut out = BytesMut::new();
        frame::put(&mut out, Kind::Request, 1, |out| {
            Outgoing::new(&Method::POST, &uri, &map, &body).encode(out);
            out.extend_from_slice(&body);
        });
        let frame = frame::take(&mut out).unwrap().unwrap();
        let (request, came) = head::request(&frame.payload).unwrap();
        prop_assert_eq!((request.method(), request.uri()), (&Method::POST, &uri));
        prop_assert_eq!(came, body.clone());
        map.insert(header::HOST, HeaderValue::from_static("localhost"));
        map.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        prop_assert_eq!(request.headers(), &map);
    }
}
