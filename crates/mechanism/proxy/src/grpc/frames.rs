//! Messages on the wire: a byte of flags, four of length, the message.
//!
//! What a replica answers has one more at its end, which is marked and says how the call ended: the
//! HTTP/1.1 between proxy and replica needs no trailers then.

use crate::grpc::status::{Code, Status};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::time::timeout;
use tyndall_transport::RequestBody;

const HEAD_BYTES: usize = 5;
/// Of a replica's last message.
const END: u8 = 0x80;
/// How a call ends is told in less.
const MAX_END_BYTES: usize = 1 << 20;
/// Of all messages of a call that has told them, and of each other one: as bodies of HTTP.
pub(crate) const MAX_BYTES: usize = crate::app::MAX_BODY_BYTES;

/// A client that has told its only message says so within this time, as it says both at once. Who
/// takes longer is taken for one that goes on, which is no fault.
const GRACE: Duration = Duration::from_millis(5);
/// The rest of a message that was begun has to come within this time.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a client has told when its call begins.
pub(crate) enum Input {
    /// Everything.
    Whole(Bytes),
    /// Not everything.
    Open { begun: BytesMut, rest: RequestBody },
}

impl Input {
    /// Waits for the first message, and for the end if that is near.
    pub(crate) async fn begin(mut body: RequestBody) -> Result<Self, Status> {
        let mut begun = BytesMut::new();
        loop {
            if http_body::Body::is_end_stream(&body) {
                return Self::whole(begun.freeze());
            }
            let read = match num_whole(&begun)? {
                // One that has several is a stream.
                (2.., _) => return Ok(Self::Open { begun, rest: body }),
                (_, 0) => match timeout(GRACE, body.frame()).await {
                    Ok(read) => read,
                    Err(_) => return Ok(Self::Open { begun, rest: body }),
                },
                _ => timeout(MESSAGE_TIMEOUT, body.frame()).await.map_err(|_| {
                    let waited_s = MESSAGE_TIMEOUT.as_secs();
                    let details = format!("the message did not arrive within {waited_s} s");
                    Status::new(Code::DEADLINE_EXCEEDED, details)
                })?,
            };
            let Some(frame) = read else { return Self::whole(begun.freeze()) };
            let left = "the client left before it had told its message";
            let frame = frame.map_err(|_| Status::new(Code::CANCELLED, left))?;
            let Ok(data) = frame.into_data() else { continue };
            if begun.is_empty() && http_body::Body::is_end_stream(&body) {
                return Self::whole(data);
            }
            begun.extend_from_slice(&data);
        }
    }

    fn whole(told: Bytes) -> Result<Self, Status> {
        match num_whole(&told)? {
            (_, 0) => Ok(Self::Whole(told)),
            _ => Err(Status::new(Code::INTERNAL, "the input ends in the midst of a message")),
        }
    }
}

/// How many messages are there whole, and how many bytes of the next one.
fn num_whole(mut bytes: &[u8]) -> Result<(usize, usize), Status> {
    let mut num = 0;
    while let Some(length) = length_of_first(bytes)? {
        let Some(rest) = bytes.get(length..) else { break };
        bytes = rest;
        num += 1;
    }
    Ok((num, bytes.len()))
}

/// Flags and length of a message, of whose head there may be less.
fn head(bytes: &[u8]) -> Option<(u8, usize)> {
    let &[flags, a, b, c, d] = bytes.first_chunk::<HEAD_BYTES>()?;
    Some((flags, u32::from_be_bytes([a, b, c, d]) as usize))
}

/// Of the first message with its head; nothing while that is not there.
fn length_of_first(bytes: &[u8]) -> Result<Option<usize>, Status> {
    let Some((_, length)) = head(bytes) else { return Ok(None) };
    if length > MAX_BYTES {
        let details = format!("a message of {length} bytes is larger than {MAX_BYTES} bytes");
        return Err(Status::new(Code::RESOURCE_EXHAUSTED, details));
    }
    Ok(Some(HEAD_BYTES + length))
}

/// The first message, if it is there whole.
pub(crate) fn take_first(bytes: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    match length_of_first(bytes)? {
        Some(length) if bytes.len() >= length => Ok(Some(bytes.split_to(length).freeze())),
        Some(_) | None => Ok(None),
    }
}

/// A message of a replica.
#[derive(Debug, PartialEq)]
pub(crate) enum Told {
    /// For the client, or a part of it.
    Data(Bytes),
    End(Status),
}

/// One that came whole.
pub(crate) fn told(frame: Bytes) -> Option<Told> {
    match frame.first()? {
        &flags if flags & END == 0 => Some(Told::Data(frame)),
        _ => Status::told(frame.get(HEAD_BYTES..)?).map(Told::End),
    }
}

/// Takes a replica's bytes apart, and passes on messages while they come.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    /// The beginning of a head, or of the end.
    kept: BytesMut,
    /// Bytes that are still to come of a message.
    left: usize,
    is_end: bool,
}

impl Splitter {
    /// What comes next of these bytes; `Err` is what no replica says.
    pub(crate) fn next(&mut self, bytes: &mut Bytes) -> Result<Option<Told>, ()> {
        if self.left == 0 && !self.is_end {
            let missing = (HEAD_BYTES - self.kept.len()).min(bytes.len());
            self.kept.extend_from_slice(&bytes.split_to(missing));
            let Some((flags, length)) = head(&self.kept) else { return Ok(None) };
            self.left = length;
            let head = self.kept.split().freeze();
            if flags & END == 0 {
                return Ok(Some(Told::Data(head)));
            }
            if !(1..=MAX_END_BYTES).contains(&self.left) {
                return Err(());
            }
            self.is_end = true;
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        if self.left == 0 {
            // There is more behind the end.
            return Err(());
        }
        let part = bytes.split_to(self.left.min(bytes.len()));
        self.left -= part.len();
        if !self.is_end {
            return Ok(Some(Told::Data(part)));
        }
        self.kept.extend_from_slice(&part);
        if self.left > 0 {
            return Ok(None);
        }
        Status::told(&self.kept.split()).map(|status| Some(Told::End(status))).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(flags: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&[flags], &length[..], content].concat()
    }

    #[test]
    fn what_a_replica_tells_is_the_same_however_it_is_cut() {
        let end = br#"{"code": 0, "details": "", "metadata": []}"#;
        let messages = [frame(0, b"first"), frame(1, b""), frame(0, &[7; 300])].concat();
        let all = [messages.clone(), frame(END, end)].concat();
        for size in 1..all.len() {
            let (mut splitter, mut passed, mut ends) = (Splitter::default(), Vec::new(), 0);
            for part in all.chunks(size) {
                let mut part = Bytes::copy_from_slice(part);
                while let Some(told) = splitter.next(&mut part).unwrap() {
                    match told {
                        Told::Data(data) => passed.extend_from_slice(&data),
                        Told::End(status) => {
                            assert_eq!(status, Status::ok());
                            ends += 1;
                        }
                    }
                }
                assert!(part.is_empty());
            }
            assert_eq!((passed == messages, ends), (true, 1), "{size}");
            let mut more = Bytes::from_static(b"x");
            assert!(splitter.next(&mut more).is_err());
        }
    }

    #[test]
    fn what_no_replica_says_is_an_error() {
        for bytes in [frame(END, b"{}"), frame(END, b""), [END, 255, 255, 255, 255].to_vec()] {
            let (mut splitter, mut bytes) = (Splitter::default(), Bytes::from(bytes));
            let told = loop {
                match splitter.next(&mut bytes) {
                    Ok(Some(_)) => {}
                    other => break other,
                }
            };
            assert_eq!(told, Err(()));
        }
    }

    #[test]
    fn messages_of_clients_are_counted_and_taken() {
        let mut bytes =
            BytesMut::from(&[frame(0, b"ab"), frame(0, b""), vec![0, 0, 0]].concat()[..]);
        assert_eq!(num_whole(&bytes), Ok((2, 3)));
        assert_eq!(take_first(&mut bytes).unwrap().unwrap(), frame(0, b"ab"));
        assert_eq!(take_first(&mut bytes).unwrap().unwrap(), frame(0, b""));
        assert_eq!(take_first(&mut bytes), Ok(None));
        let large = Status::new(
            Code::RESOURCE_EXHAUSTED,
            "a message of 4294967295 bytes is larger than 33554432 bytes",
        );
        assert_eq!(num_whole(&[0, 255, 255, 255, 255]), Err(large));
    }
}
