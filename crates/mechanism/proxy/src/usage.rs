//! What replicas tell of usage, taken out of answers: clients never see it.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, header};
use tyndall_types::{HEADER_USAGE, TokenUsage, USAGE_NOTE};

/// [`HEADER_USAGE`], read once.
pub(crate) const USAGE: HeaderName = HeaderName::from_static(HEADER_USAGE);

/// Takes the usage out of the head of an answer, and the announcement of its trailer.
pub(crate) fn take_from_head(headers: &mut HeaderMap) -> Option<TokenUsage> {
    hide_trailer(headers);
    take(headers)
}

/// Takes the usage out of headers or trailers.
pub(crate) fn take(headers: &mut HeaderMap) -> Option<TokenUsage> {
    let told = headers.remove(USAGE)?;
    let usage = told.to_str().ok().and_then(|text| text.parse().ok());
    if usage.is_none() {
        tracing::warn!(?told, "a replica told a usage that is none");
    }
    usage
}

fn hide_trailer(headers: &mut HeaderMap) {
    let names = headers.get(header::TRAILER).and_then(|names| names.to_str().ok());
    let Some(names) = names.filter(|names| names.contains(HEADER_USAGE)) else { return };
    let is_other = |name: &&str| !name.eq_ignore_ascii_case(HEADER_USAGE);
    let others: Vec<&str> = names.split(',').map(str::trim).filter(is_other).collect();
    match others.join(", ").parse() {
        Ok(names) if !others.is_empty() => drop(headers.insert(header::TRAILER, names)),
        Ok(_) | Err(_) => drop(headers.remove(header::TRAILER)),
    }
}

/// Takes the notes out of whole events; answers the last one, tokens of completions so far.
pub(crate) fn take_notes(mut events: Bytes) -> (Bytes, Option<u64>) {
    let mut last = take_note(&mut events);
    let Some(next) = next_note(&events) else { return (events, last) };
    // Several events at once: what is between notes is joined.
    let mut rest = BytesMut::with_capacity(events.len());
    let mut next = Some(next);
    while let Some(place) = next {
        rest.extend_from_slice(&events.split_to(place));
        match take_note(&mut events) {
            Some(note) => last = Some(note),
            None => break,
        }
        next = next_note(&events);
    }
    rest.extend_from_slice(&events);
    (rest.freeze(), last)
}

/// The note that stands at the begin.
fn take_note(events: &mut Bytes) -> Option<u64> {
    let note = events.strip_prefix(USAGE_NOTE.as_bytes())?;
    let length = note.iter().position(|byte| *byte == b'\n')?;
    let count = std::str::from_utf8(&note[..length]).ok()?.parse().ok()?;
    events.advance(USAGE_NOTE.len() + length + 1);
    Some(count)
}

/// Where the next event with a note begins. Inside of an event there is no empty line.
fn next_note(events: &[u8]) -> Option<usize> {
    let ends = events.windows(2).enumerate().filter(|(_, pair)| *pair == b"\n\n");
    let mut begins = ends.map(|(place, _)| place + 2);
    begins.find(|begin| events[*begin..].starts_with(USAGE_NOTE.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn notes_are_taken_out_of_events() {
        let check = |events: &'static str, expected: &str, last: Option<u64>| {
            let (left, told) = take_notes(Bytes::from_static(events.as_bytes()));
            assert_eq!((std::str::from_utf8(&left).unwrap(), told), (expected, last), "{events:?}");
        };
        check("", "", None);
        check("data: 1\n\n", "data: 1\n\n", None);
        check(": usage 7\ndata: 1\n\n", "data: 1\n\n", Some(7));
        check(
            ": usage 7\ndata: 1\n\ndata: 2\n\n: usage 9\nevent: x\ndata: 3\n\ndata: [DONE]\n\n",
            "data: 1\n\ndata: 2\n\nevent: x\ndata: 3\n\ndata: [DONE]\n\n",
            Some(9),
        );
        check("data: 1\n\n: usage 8\ndata: 2\n\n", "data: 1\n\ndata: 2\n\n", Some(8));
        // Comments of others stay.
        check(": usage x\ndata: 1\n\n: ping\n\n", ": usage x\ndata: 1\n\n: ping\n\n", None);
        check("data: \": usage 7\"\n\n", "data: \": usage 7\"\n\n", None);
    }

    #[test]
    fn heads_do_not_show_usage() {
        let check = |trailer: Option<&'static str>, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(USAGE, HeaderValue::from_static("prompt=3, cached=1, completion=2"));
            if let Some(trailer) = trailer {
                headers.insert(header::TRAILER, HeaderValue::from_static(trailer));
            }
            let usage = TokenUsage { prompt: 3, cached: 1, completion: 2 };
            assert_eq!(take_from_head(&mut headers), Some(usage));
            let left = headers.get(header::TRAILER).map(|names| names.to_str().unwrap());
            assert_eq!((left, headers.len()), (expected, usize::from(expected.is_some())));
        };
        check(None, None);
        check(Some("server-timing, x-tyndall-usage"), Some("server-timing"));
        check(Some("x-tyndall-usage"), None);
        check(Some("x-checksum"), Some("x-checksum"));
        let mut broken = HeaderMap::new();
        broken.insert(USAGE, HeaderValue::from_static("many"));
        assert_eq!((take(&mut broken), broken.len()), (None, 0));
    }
}
