//! Frames as bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io::{Error, ErrorKind, Result};

const HEADER_BYTES: usize = 13;
/// Heads may be long; data is cut into pieces.
const MAX_PAYLOAD: usize = 1 << 20;
/// Longer requests have a connection of their own, on which nobody waits for them.
const MAX_REQUEST: usize = 64 << 10;
/// Payloads up to so many bytes are copied, so that the buffer that they came in is used again.
const MAX_COPIED: usize = 2 << 10;

/// Whether a request of this size goes over a link.
pub(crate) fn fits(head_bytes: usize, body_bytes: usize) -> bool {
    head_bytes.saturating_add(body_bytes) <= MAX_REQUEST
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Cancel,
    Credit,
    Whole,
    Head,
    Data,
    End,
    Fail,
    Refused,
    Leave,
}

/// By their number on the wire.
pub(super) const KINDS: [Kind; 10] = [
    Kind::Request,
    Kind::Cancel,
    Kind::Credit,
    Kind::Whole,
    Kind::Head,
    Kind::Data,
    Kind::End,
    Kind::Fail,
    Kind::Refused,
    Kind::Leave,
];

/// One frame, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) id: u64,
    pub(super) payload: Bytes,
}

/// Writes a frame whose payload `fill` appends.
pub(super) fn put(out: &mut BytesMut, kind: Kind, id: u64, fill: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_u32(0);
    out.put_u8(kind as u8);
    out.put_u64(id);
    fill(out);
    let length = out.len() - at - HEADER_BYTES;
    // Who puts it bounds it.
    let length = u32::try_from(length).expect("payloads are small");
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Takes a frame off the buffer, once all of it is there.
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Frame>> {
    let Some((mut header, rest)) = buffer.split_at_checked(HEADER_BYTES) else { return Ok(None) };
    let length = header.get_u32() as usize;
    let kind = usize::from(header.get_u8());
    let id = header.get_u64();
    let Some(&kind) = KINDS.get(kind) else {
        return Err(broken(format!("a frame of kind {kind}")));
    };
    if length > MAX_PAYLOAD {
        return Err(broken(format!("a frame of {length} bytes")));
    }
    if rest.len() < length {
        buffer.reserve(HEADER_BYTES + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    let payload = if length <= MAX_COPIED {
        let copy = Bytes::copy_from_slice(&buffer[..length]);
        buffer.advance(length);
        copy
    } else {
        buffer.split_to(length).freeze()
    };
    Ok(Some(Frame { kind, id, payload }))
}

/// The peer does not keep to the protocol.
pub(super) fn broken(what: impl Into<crate::BoxError>) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}
