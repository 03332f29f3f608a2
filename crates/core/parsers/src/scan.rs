//! Where markers are in text that is not complete yet.

/// What a machine did with the text that it was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Read so many bytes; show it the rest.
    Go(usize),
    /// Read so many bytes; the rest means something only with more text behind it.
    Wait(usize),
    /// Read so many bytes; what it reads is complete.
    Done(usize),
    /// Read so many bytes; what comes then does not fit.
    Fail(usize),
}

/// What a search for markers found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Marker `which` begins at byte `at`.
    Marker {
        /// Position of its first byte.
        at: usize,
        /// Its index among the markers.
        which: usize,
    },
    /// No marker before byte `at`; what is there may be the begin of one.
    Partial {
        /// Position of its first byte.
        at: usize,
    },
    /// No marker and no begin of one.
    Nothing,
}

/// Markers to search for at once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Markers {
    all: Vec<&'static str>,
    first_bytes: Vec<u8>,
}

impl Markers {
    pub(crate) fn new(markers: impl IntoIterator<Item = &'static str>) -> Self {
        let all: Vec<&'static str> = markers.into_iter().collect();
        let mut first_bytes: Vec<u8> =
            all.iter().filter_map(|marker| marker.bytes().next()).collect();
        first_bytes.sort_unstable();
        first_bytes.dedup();
        Self { all, first_bytes }
    }

    /// The first marker in the text. Of markers at one place the first of the list is meant.
    /// At the `last` text a begin of a marker is none.
    pub(crate) fn find(&self, text: &str, last: bool) -> Found {
        let bytes = text.as_bytes();
        let mut from = 0;
        while let Some(offset) = self.next_candidate(&bytes[from..]) {
            let at = from + offset;
            match self.at(&bytes[at..], last) {
                Found::Marker { which, .. } => return Found::Marker { at, which },
                Found::Partial { .. } => return Found::Partial { at },
                Found::Nothing => from = at + 1,
            }
        }
        Found::Nothing
    }

    /// Whether a marker begins right here; positions in the answer are 0.
    pub(crate) fn starts(&self, text: &str, last: bool) -> Found {
        self.at(text.as_bytes(), last)
    }

    /// Length of a marker in bytes.
    pub(crate) fn len_of(&self, which: usize) -> usize {
        self.all[which].len()
    }

    fn next_candidate(&self, bytes: &[u8]) -> Option<usize> {
        match *self.first_bytes.as_slice() {
            [] => None,
            [only] => bytes.iter().position(|byte| *byte == only),
            [one, two] => bytes.iter().position(|byte| *byte == one || *byte == two),
            _ => bytes.iter().position(|byte| self.first_bytes.contains(byte)),
        }
    }

    fn at(&self, bytes: &[u8], last: bool) -> Found {
        if let Some(which) = self.all.iter().position(|marker| bytes.starts_with(marker.as_bytes()))
        {
            return Found::Marker { at: 0, which };
        }
        let is_partial = |marker: &&str| marker.as_bytes().starts_with(bytes);
        if !last && !bytes.is_empty() && self.all.iter().any(is_partial) {
            return Found::Partial { at: 0 };
        }
        Found::Nothing
    }
}

/// The first place of one marker, as [`Markers::find`].
pub(crate) fn find_one(marker: &str, text: &str, last: bool) -> Found {
    if let Some(at) = text.find(marker) {
        return Found::Marker { at, which: 0 };
    }
    let (marker, bytes) = (marker.as_bytes(), text.as_bytes());
    let longest = if last { 0 } else { bytes.len().min(marker.len()) };
    let begun = (1..=longest).rev().find(|len| bytes.ends_with(&marker[..*len]));
    begun.map_or(Found::Nothing, |len| Found::Partial { at: bytes.len() - len })
}

/// Bytes of white space that the text begins with.
pub(crate) fn leading_space(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_marker_or_its_begin() {
        let markers = Markers::new(["<tool_call>", "</think>", "[TOOL_CALLS]"]);
        let check = |text: &str, last: bool, expected: Found| {
            assert_eq!(markers.find(text, last), expected, "{text:?} {last}");
        };
        check("plain", false, Found::Nothing);
        check("a <b> <tool_call>x", false, Found::Marker { at: 6, which: 0 });
        check("</think><tool_call>", false, Found::Marker { at: 0, which: 1 });
        check("x <<tool", false, Found::Partial { at: 3 });
        check("x <<tool", true, Found::Nothing);
        check("é[TOOL_CALLS", false, Found::Partial { at: 2 });
        check("<</think>", true, Found::Marker { at: 1, which: 1 });
    }
}
