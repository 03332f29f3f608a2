//! Server-sent events out of pieces of a body.

/// Longest event that is kept; a server that sends more sends no tokens.
const MAX_EVENT: usize = 16 << 20;

/// What is left of the pieces so far.
#[derive(Debug, Default)]
pub(crate) struct Events {
    buffer: Vec<u8>,
}

impl Events {
    /// Takes a piece and hands each whole event's data to `event`.
    pub(crate) fn feed(&mut self, piece: &[u8], mut event: impl FnMut(&str)) {
        self.buffer.extend_from_slice(piece);
        let mut start = 0;
        while let Some((length, rest)) = blank_line(&self.buffer[start..]) {
            if let Some(data) = data(&self.buffer[start..start + length]) {
                event(&data);
            }
            start += rest;
        }
        self.buffer.drain(..start);
        if self.buffer.len() > MAX_EVENT {
            self.buffer.clear();
        }
    }
}

/// Where the first event ends, and where the next one begins.
fn blank_line(bytes: &[u8]) -> Option<(usize, usize)> {
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    ends.into_iter().find_map(|(at, _)| match bytes.get(at + 1..)? {
        [b'\n', ..] => Some((at, at + 2)),
        [b'\r', b'\n', ..] => Some((at, at + 3)),
        _ => None,
    })
}

/// The `data` lines of an event, joined.
fn data(event: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(event);
    // The last line has lost its line feed, so that a carriage return before it is left.
    let lines = text.lines().map(|line| line.strip_suffix('\r').unwrap_or(line));
    let lines = lines.filter_map(|line| line.strip_prefix("data:"));
    let lines: Vec<&str> = lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(pieces: &[&[u8]]) -> Vec<String> {
        let (mut events, mut found) = (Events::default(), Vec::new());
        for piece in pieces {
            events.feed(piece, |data| found.push(data.to_owned()));
        }
        found
    }

    #[test]
    fn events_are_separated_by_blank_lines() {
        let text = b"data: a\n\n: comment\n\nevent: x\ndata:b\ndata: c\n\ndata: d\r\n\r\ndata: cut";
        assert_eq!(all(&[text]), ["a", "b\nc", "d"]);
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            data in prop::collection::vec("[a-zé]{0,8}", 0..8),
            cut in 0usize..100,
        ) {
            let text: String = data.iter().map(|data| format!("data: {data}\n\n")).collect();
            let (left, right) = text.as_bytes().split_at(cut.min(text.len()));
            prop_assert_eq!(all(&[left, right]), data);
        }

        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            all(&[&bytes]);
        }
    }
}
