//! Byte pair encoding of one word, token for token as the library does it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tokenizers::Token;

use super::image::BpeImage;

const NONE: usize = usize::MAX;

/// A piece of the word, in a list linked by places.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    prev: usize,
    next: usize,
    /// Swallowed by the piece before it.
    is_gone: bool,
}

/// The tokens of `word`.
pub(super) fn tokenize(image: &BpeImage, word: &str) -> Vec<Token> {
    if image.flags().ignore_merges
        && let Some(id) = image.id_of(word.as_bytes())
    {
        return vec![token(id)];
    }
    let mut symbols = split(image, word);
    merge(image, &mut symbols);
    symbols.iter().filter(|symbol| !symbol.is_gone).map(|symbol| token(symbol.id)).collect()
}

fn token(id: u32) -> Token {
    Token::new(id, String::new(), (0, 0))
}

/// One piece per character; unknown ones as their bytes, as the unknown token, or not at all.
fn split(image: &BpeImage, word: &str) -> Vec<Symbol> {
    let mut symbols = Vec::with_capacity(word.len());
    let mut add = |id| {
        let at = symbols.len();
        symbols.push(Symbol { id, prev: at.wrapping_sub(1), next: at + 1, is_gone: false });
    };
    // The unknown token stands back until a known character comes, so that a run can be one. Byte
    // tokens do not flush it: the library has it after them, and so it is here.
    let mut unknown: Option<u32> = None;
    let mut utf8 = [0; 4];
    for char in word.chars() {
        let bytes = char.encode_utf8(&mut utf8).as_bytes();
        if let Some(id) = image.id_of(bytes) {
            if let Some(unknown) = unknown.take() {
                add(unknown);
            }
            add(id);
            continue;
        }
        if let Some(ids) = image.byte_tokens(bytes) {
            ids.into_iter().take(bytes.len()).for_each(&mut add);
            continue;
        }
        if let Some(id) = image.unknown() {
            if let Some(before) = unknown
                && !image.flags().fuse_unk
            {
                add(before);
            }
            unknown = Some(id);
        }
    }
    if let Some(unknown) = unknown {
        add(unknown);
    }
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }
    symbols
}

/// Merges pairs by rank, then from the left.
///
/// A pair may have changed since it was queued. Like the library, an old entry still counts if the
/// pair that stands there now makes the same token.
fn merge(image: &BpeImage, symbols: &mut [Symbol]) {
    let mut queue = BinaryHeap::with_capacity(symbols.len());
    for (at, pair) in symbols.windows(2).enumerate() {
        if let Some((rank, id)) = image.merge(pair[0].id, pair[1].id) {
            queue.push(Reverse((rank, at, id)));
        }
    }
    while let Some(Reverse((_, at, id))) = queue.pop() {
        let left = symbols[at];
        if left.is_gone || left.next == NONE {
            continue;
        }
        let right = symbols[left.next];
        if image.merge(left.id, right.id).is_none_or(|(_, made)| made != id) {
            continue;
        }
        symbols[left.next].is_gone = true;
        symbols[at].id = id;
        symbols[at].next = right.next;
        if right.next != NONE {
            symbols[right.next].prev = at;
            if let Some((rank, made)) = image.merge(id, symbols[right.next].id) {
                queue.push(Reverse((rank, at, made)));
            }
        }
        if left.prev != NONE
            && let Some((rank, made)) = image.merge(symbols[left.prev].id, id)
        {
            queue.push(Reverse((rank, left.prev, made)));
        }
    }
}
