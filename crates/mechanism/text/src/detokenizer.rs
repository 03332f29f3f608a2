//! Text from tokens as they are generated.
//!
//! Where tokens stand for bytes (see [`Pieces`]) each token's bytes join a stream, and what is
//! complete UTF-8 comes out at once; at most three bytes wait. That costs time in proportion to
//! the token alone.
//!
//! Other vocabularies decode a token by its neighbours, so a short window is decoded instead: the
//! tokens of the last portion of text and those since. The text of the window without the new
//! tokens is a prefix of its text with them, the remainder is new. When it ends in the middle of a
//! character, which shows as U+FFFD, the new tokens wait for the next one. Text that comes out
//! moves the window on, so it stays a few tokens long.

use crate::Tokenizer;
use crate::pieces::Pieces;
use crate::tokenizer::TextStart;
use std::sync::Arc;

/// The tail of a prompt that can still hold an incomplete character or decides about spaces.
const CONTEXT_TOKENS: usize = 8;
/// More new tokens than any character needs: text that still looks incomplete is malformed.
const MAX_WAITING_TOKENS: usize = 16;

/// Turns generated token ids into text, portion by portion.
///
/// The portions joined are what [`Tokenizer::decode`] gives for the prompt and the output
/// together, without what it gives for the prompt. No portion ends within a character.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    skip_special: bool,
    /// Special tokens that are shown all the same.
    shown: Arc<[u32]>,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    Stream { start: TextStart, utf8: Utf8Stream, bytes: Vec<u8> },
    Window { ids: Vec<u32>, read: usize, text: String },
}

impl Detokenizer {
    /// Starts after a prompt. Only its ends are looked at, so its length does not matter.
    #[must_use]
    pub fn new(tokenizer: &Tokenizer, prompt_ids: &[u32], skip_special: bool) -> Self {
        let context = &prompt_ids[prompt_ids.len().saturating_sub(CONTEXT_TOKENS)..];
        let state = if *tokenizer.pieces() == Pieces::Other {
            let text = tokenizer.library_decode(context, skip_special);
            State::Window { ids: context.to_vec(), read: context.len(), text }
        } else {
            let mut start = TextStart::new(tokenizer.pieces());
            let mut bytes = Vec::new();
            for &id in prompt_ids {
                if start.is_over() {
                    break;
                }
                tokenizer.append_piece(id, skip_special, &mut start, &mut bytes);
            }
            bytes.clear();
            let mut utf8 = Utf8Stream::new(tokenizer.pieces());
            let mut inside = start.clone();
            for &id in context {
                tokenizer.append_piece(id, skip_special, &mut inside, &mut bytes);
            }
            utf8.push(&bytes, &mut String::new());
            State::Stream { start, utf8, bytes }
        };
        Self { tokenizer: tokenizer.clone(), skip_special, shown: Arc::default(), state }
    }

    /// Shows these special tokens although others are skipped. Vocabularies whose tokens do not
    /// stand for bytes of their own then show all of them.
    #[must_use]
    pub fn showing(mut self, ids: Arc<[u32]>) -> Self {
        if matches!(self.state, State::Window { .. }) && !ids.is_empty() {
            self.skip_special = false;
        }
        self.shown = ids;
        self
    }

    /// Takes the next token and gives the text that it completes, maybe empty.
    pub fn push(&mut self, id: u32) -> String {
        let mut out = String::new();
        match &mut self.state {
            State::Stream { start, utf8, bytes } => {
                bytes.clear();
                let skip_special = self.skip_special && !self.shown.contains(&id);
                self.tokenizer.append_piece(id, skip_special, start, bytes);
                utf8.push(bytes, &mut out);
            }
            State::Window { ids, read, text } => {
                ids.push(id);
                let now = self.tokenizer.library_decode(ids, self.skip_special);
                let is_open = now.ends_with(char::REPLACEMENT_CHARACTER)
                    && ids.len() - *read < MAX_WAITING_TOKENS;
                if !is_open && let Some(new) = now.get(text.len()..).filter(|new| !new.is_empty()) {
                    out.push_str(new);
                    ids.drain(..*read);
                    *read = ids.len();
                    *text = self.tokenizer.library_decode(ids, self.skip_special);
                }
            }
        }
        out
    }

    /// The output has ended: what remains, with U+FFFD for a character that was cut off.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        match &mut self.state {
            State::Stream { utf8, .. } => utf8.finish(&mut out),
            State::Window { ids, read, text } => {
                let now = self.tokenizer.library_decode(ids, self.skip_special);
                out.push_str(now.get(text.len()..).unwrap_or_default());
                *read = ids.len();
                *text = now;
            }
        }
        out
    }
}

/// Lossy UTF-8 decoding of bytes that arrive in portions.
#[derive(Debug, Clone)]
pub(crate) struct Utf8Stream {
    /// The beginning of a character, at most three bytes between two calls.
    open: Vec<u8>,
    /// U+FFFD for each malformed byte, instead of one for each malformed sequence.
    per_byte: bool,
}

impl Utf8Stream {
    /// Malformed bytes are counted as the library does for such vocabularies.
    pub(crate) fn new(pieces: &Pieces) -> Self {
        Self { open: Vec::new(), per_byte: matches!(pieces, Pieces::SentencePiece { .. }) }
    }

    /// Appends the characters that `bytes` complete to `out`.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut String) {
        if self.open.is_empty()
            && let Ok(text) = std::str::from_utf8(bytes)
        {
            out.push_str(text);
            return;
        }
        self.open.extend_from_slice(bytes);
        let mut used = 0;
        for chunk in self.open.utf8_chunks() {
            out.push_str(chunk.valid());
            used += chunk.valid().len();
            let invalid = chunk.invalid();
            let is_last = used + invalid.len() == self.open.len();
            if is_last && is_incomplete(invalid) {
                break;
            }
            used += invalid.len();
            replace(invalid, self.per_byte, out);
        }
        self.open.drain(..used);
    }

    /// Appends U+FFFD for a character that never became complete.
    pub(crate) fn finish(&mut self, out: &mut String) {
        replace(&self.open, self.per_byte, out);
        self.open.clear();
    }
}

fn replace(invalid: &[u8], per_byte: bool, out: &mut String) {
    let count = if per_byte { invalid.len() } else { usize::from(!invalid.is_empty()) };
    out.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, count));
}

/// Whether more bytes could make a character of these.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests;
