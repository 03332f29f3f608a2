//! What the targets share: how an input of bytes becomes choices.
#![forbid(unsafe_code)]

/// Choices from the end of an input, so that its beginning stays text that a fuzzer can mutate.
#[derive(Debug)]
pub struct Choices<'a> {
    rest: &'a [u8],
}

impl<'a> Choices<'a> {
    /// All of an input.
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// A number below `most`; 0 when nothing is left.
    pub fn below(&mut self, most: usize) -> usize {
        let Some((last, rest)) = self.rest.split_last() else { return 0 };
        self.rest = rest;
        usize::from(*last) % most.max(1)
    }

    /// Either.
    pub fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    /// What is left, as text: bytes that are none are replaced.
    pub fn text(self) -> String {
        String::from_utf8_lossy(self.rest).into_owned()
    }

    /// What is left.
    pub fn bytes(self) -> &'a [u8] {
        self.rest
    }
}

/// Pieces of a text, cut where the choices say.
pub fn cut<'a>(text: &'a str, choices: &[u8]) -> Vec<&'a str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    for &length in choices.iter().cycle() {
        if rest.is_empty() || choices.is_empty() {
            break;
        }
        let mut end = (1 + usize::from(length % 9)).min(rest.len());
        while !rest.is_char_boundary(end) {
            end += 1;
        }
        let (piece, after) = rest.split_at(end);
        pieces.push(piece);
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(rest);
    }
    pieces
}
