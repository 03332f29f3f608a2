//! A BPE vocabulary as one block of bytes that is used where it lies.
//!
//! All numbers are little-endian `u32`:
//!
//! | part | content |
//! |---|---|
//! | magic | 8 bytes, with the format's version |
//! | source | 32 bytes: hash of the files that this was made from |
//! | checksum | 32 bytes: hash of all that follows |
//! | header | [`HEADER_WORDS`] numbers: the sizes below, flags, the unknown token |
//! | parts | JSON: what the library builds the tokenizer's other parts from |
//! | ends | per id, where its text ends; an id without a token has none |
//! | texts | all tokens in the order of their ids |
//! | slots | hash table of ids, by text |
//! | merges | left id, right id, made id, in the order of their ranks |
//! | merge slots | hash table of ranks, by left and right id |
//!
//! What a slot holds is one more than the number, 0 is free. Tables are open-addressed; no key lies
//! more than [`MAX_PROBES`] slots from its own, so that every look-up ends soon, also in a block that
//! somebody damaged. Nothing here trusts a number that it reads: one out of range finds nothing.

use std::sync::Arc;

use tokenizers::models::bpe::{Merges, Vocab};
use tyndall_kernels::MappedFile;

/// Changes with the format or with what is computed from the sources.
const MAGIC: [u8; 8] = *b"tydtok\x00\x01";
const SOURCE_AT: usize = MAGIC.len();
const CHECKSUM_AT: usize = SOURCE_AT + 32;
const CHECKED_AT: usize = CHECKSUM_AT + 32;
const HEADER_WORDS: usize = 8;
const PARTS_AT: usize = CHECKED_AT + HEADER_WORDS * 4;

/// More ids than any model has; bounds memory.
const MAX_IDS: usize = 1 << 22;
/// A vocabulary that hashes worse than this stays with the library.
const MAX_PROBES: usize = 64;

/// Where the bytes of an image are.
#[derive(Debug, Clone)]
pub(crate) enum ImageBytes {
    Mapped(Arc<MappedFile>),
    Owned(Arc<[u8]>),
}

impl ImageBytes {
    pub(crate) fn get(&self) -> &[u8] {
        match self {
            Self::Mapped(file) => file.bytes(),
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Rules of a BPE model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct BpeFlags {
    /// A run of unknown characters is one unknown token.
    pub(crate) fuse_unk: bool,
    /// Unknown characters are written as their bytes where those have tokens.
    pub(crate) byte_fallback: bool,
    /// A word that is a token is that token, whatever the merges say.
    pub(crate) ignore_merges: bool,
    /// The tokenizer comes from `vocab.json` and `merges.txt`.
    pub(crate) is_bare: bool,
}

impl BpeFlags {
    fn to_bits(self) -> u32 {
        let Self { fuse_unk, byte_fallback, ignore_merges, is_bare } = self;
        let bits = [fuse_unk, byte_fallback, ignore_merges, is_bare];
        bits.iter().rev().fold(0, |bits, &bit| bits << 1 | u32::from(bit))
    }

    fn from_bits(bits: u32) -> Self {
        let bit = |at: u32| bits >> at & 1 == 1;
        Self { fuse_unk: bit(0), byte_fallback: bit(1), ignore_merges: bit(2), is_bare: bit(3) }
    }
}

/// What an image is made from.
pub(crate) struct BpeSource<'a> {
    pub(crate) vocab: &'a Vocab,
    pub(crate) merges: &'a Merges,
    pub(crate) unk_token: Option<&'a str>,
    pub(crate) flags: BpeFlags,
    /// JSON for whoever builds the rest of the tokenizer.
    pub(crate) parts: &'a str,
}

/// A BPE vocabulary on its bytes. A clone shares them.
#[derive(Clone)]
pub(crate) struct BpeImage {
    bytes: ImageBytes,
    layout: Layout,
}

impl std::fmt::Debug for BpeImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BpeImage").field("layout", &self.layout).finish_non_exhaustive()
    }
}

/// Where each part begins, in bytes; all within the block.
#[derive(Debug, Clone, Copy)]
struct Layout {
    num_ids: u32,
    num_tokens: u32,
    num_merges: u32,
    /// Powers of two.
    num_slots: u32,
    num_merge_slots: u32,
    flags: BpeFlags,
    unknown: Option<u32>,
    ends: usize,
    texts: usize,
    slots: usize,
    merges: usize,
    merge_slots: usize,
}

impl BpeImage {
    /// The tables of a vocabulary, or nothing where the library has to do it: rules that are not
    /// known here, numbers out of the ordinary, and merges that are wrong, which it refuses.
    pub(crate) fn build(source: &BpeSource<'_>) -> Option<Self> {
        let BpeSource { vocab, merges, .. } = *source;
        let num_ids = vocab.values().max().map_or(0, |&id| id as usize + 1);
        if num_ids > MAX_IDS || num_ids > 4 * vocab.len() + 1024 || merges.len() > MAX_IDS {
            return None;
        }
        let mut texts: Vec<Option<&str>> = vec![None; num_ids];
        for (text, &id) in vocab {
            // Two texts of one id would leave it to chance which one is meant.
            if text.is_empty() || texts[id as usize].replace(text).is_some() {
                return None;
            }
        }
        let unknown = match source.unk_token {
            None => 0,
            Some(token) => vocab.get(token)? + 1,
        };
        let slots = string_slots(&texts)?;
        let made = merges.iter().map(|(a, b)| {
            let text = format!("{a}{b}");
            Some([*vocab.get(a)?, *vocab.get(b)?, *vocab.get(text.as_str())?])
        });
        let made: Vec<[u32; 3]> = made.collect::<Option<_>>()?;
        let merge_slots = merge_slots(&made)?;

        let num_texts_bytes = texts.iter().flatten().map(|text| text.len()).sum::<usize>();
        let header = [
            num_ids,
            vocab.len(),
            made.len(),
            slots.len(),
            merge_slots.len(),
            source.parts.len(),
            num_texts_bytes,
        ];
        let mut bytes = vec![0; CHECKED_AT];
        bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
        for number in header {
            put(&mut bytes, u32::try_from(number).ok()?);
        }
        // Flags in the low half, so that the header stays at its size.
        put(&mut bytes, source.flags.to_bits() | unknown << 4);
        bytes.extend_from_slice(source.parts.as_bytes());
        let mut end = 0;
        for text in &texts {
            end += text.map_or(0, str::len);
            put(&mut bytes, u32::try_from(end).ok()?);
        }
        texts.iter().flatten().for_each(|text| bytes.extend_from_slice(text.as_bytes()));
        slots
            .iter()
            .chain(made.as_flattened())
            .chain(&merge_slots)
            .for_each(|&n| put(&mut bytes, n));
        Self::on(ImageBytes::Owned(bytes.into()))
    }

    /// The tables in a block of bytes, if its parts fit together. Its content is not looked at: see
    /// [`checksum`].
    pub(crate) fn on(bytes: ImageBytes) -> Option<Self> {
        let block = bytes.get();
        if !block.starts_with(&MAGIC) {
            return None;
        }
        let number = |at: usize| word(block, CHECKED_AT + at * 4);
        let bits = number(7)?;
        let part = |start: usize, count: u32, size: usize| {
            start.checked_add((count as usize).checked_mul(size)?)
        };
        let (num_ids, num_merges) = (number(0)?, number(2)?);
        let (num_slots, num_merge_slots) = (number(3)?, number(4)?);
        if !num_slots.is_power_of_two() || !num_merge_slots.is_power_of_two() {
            return None;
        }
        let ends = part(PARTS_AT, number(5)?, 1)?;
        let texts = part(ends, num_ids, 4)?;
        let slots = part(texts, number(6)?, 1)?;
        let merges = part(slots, num_slots, 4)?;
        let merge_slots = part(merges, num_merges, 12)?;
        let end = part(merge_slots, num_merge_slots, 4)?;
        let layout = Layout {
            num_ids,
            num_tokens: number(1)?,
            num_merges,
            num_slots,
            num_merge_slots,
            flags: BpeFlags::from_bits(bits),
            unknown: (bits >> 4).checked_sub(1),
            ends,
            texts,
            slots,
            merges,
            merge_slots,
        };
        (end == block.len()).then_some(Self { bytes, layout })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get()
    }

    /// What the tokenizer's other parts are built from.
    pub(crate) fn parts(&self) -> Option<&str> {
        std::str::from_utf8(self.bytes().get(PARTS_AT..self.layout.ends)?).ok()
    }

    pub(crate) fn flags(&self) -> BpeFlags {
        self.layout.flags
    }

    /// The token of a character that has none, if such characters are not left out.
    pub(crate) fn unknown(&self) -> Option<u32> {
        self.layout.unknown
    }

    /// One more than the largest id.
    pub(crate) fn num_ids(&self) -> u32 {
        self.layout.num_ids
    }

    /// Entries of the vocabulary; ids may have gaps.
    pub(crate) fn num_tokens(&self) -> u32 {
        self.layout.num_tokens
    }

    /// The token of an id.
    pub(crate) fn token(&self, id: u32) -> Option<&str> {
        let text = std::str::from_utf8(self.text(id)?).ok()?;
        (!text.is_empty()).then_some(text)
    }

    /// The id of a token.
    pub(crate) fn id_of(&self, text: &[u8]) -> Option<u32> {
        let Layout { num_slots, slots, .. } = self.layout;
        self.probe(slots, num_slots, string_hash(text), |id| {
            (self.text(id) == Some(text)).then_some(id)
        })
    }

    /// The rank of a pair, lower first, and the token that it makes.
    pub(crate) fn merge(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let Layout { num_merge_slots, merge_slots, merges, num_merges, .. } = self.layout;
        self.probe(merge_slots, num_merge_slots, pair_hash(left, right), |rank| {
            let at = merges + rank as usize * 12;
            let entry = self.bytes().get(at..at + 12).filter(|_| rank < num_merges)?;
            (word(entry, 0)? == left && word(entry, 4)? == right).then_some((rank, word(entry, 8)?))
        })
    }

    /// The tokens of a character's bytes, if the rules want that and all of them have one.
    pub(crate) fn byte_tokens(&self, bytes: &[u8]) -> Option<[u32; 4]> {
        if !self.layout.flags.byte_fallback {
            return None;
        }
        let mut ids = [0; 4];
        for (id, byte) in ids.iter_mut().zip(bytes) {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            let [high, low] = [byte >> 4, byte & 15].map(|half| HEX[usize::from(half)]);
            *id = self.id_of(&[b'<', b'0', b'x', high, low, b'>'])?;
        }
        Some(ids)
    }

    fn text(&self, id: u32) -> Option<&[u8]> {
        let Layout { num_ids, ends, texts, slots, .. } = self.layout;
        if id >= num_ids {
            return None;
        }
        let block = self.bytes();
        let at = ends + id as usize * 4;
        let start = if id == 0 { 0 } else { word(block, at - 4)? };
        block.get(texts..slots)?.get(start as usize..word(block, at)? as usize)
    }

    /// The first number on the way from `hash` that `accept` takes.
    fn probe<T>(
        &self,
        table: usize,
        num_slots: u32,
        hash: u32,
        accept: impl Fn(u32) -> Option<T>,
    ) -> Option<T> {
        let block = self.bytes();
        for step in 0..MAX_PROBES as u32 {
            let slot = hash.wrapping_add(step) & (num_slots - 1);
            let number = word(block, table + slot as usize * 4)?.checked_sub(1)?;
            if let Some(found) = accept(number) {
                return Some(found);
            }
        }
        None
    }
}

/// What the block says that it was made from, and whether it holds what was written into it.
pub(crate) fn checksum(block: &[u8]) -> Option<([u8; 32], bool)> {
    let source = block.get(SOURCE_AT..CHECKSUM_AT)?.try_into().ok()?;
    let expected = block.get(CHECKSUM_AT..CHECKED_AT)?;
    Some((source, blake3::hash(block.get(CHECKED_AT..)?).as_bytes() == expected))
}

/// The two halves of a file of `image` that says that it was made from `source`.
pub(crate) fn signed<'a>(image: &'a BpeImage, source: &[u8; 32]) -> (Vec<u8>, &'a [u8]) {
    let checked = &image.bytes()[CHECKED_AT..];
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(source);
    head.extend_from_slice(blake3::hash(checked).as_bytes());
    (head, checked)
}

fn put(bytes: &mut Vec<u8>, number: u32) {
    bytes.extend_from_slice(&number.to_le_bytes());
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*word))
}

/// The table of ids by text; nothing if too many texts crowd one place.
fn string_slots(texts: &[Option<&str>]) -> Option<Vec<u32>> {
    let count = texts.iter().flatten().count();
    let present = texts.iter().zip(1u32..);
    let present = present.filter_map(|(text, id)| Some((id, string_hash((*text)?.as_bytes()))));
    fill(count, present)
}

/// The table of ranks by pair, of which the last counts.
fn merge_slots(merges: &[[u32; 3]]) -> Option<Vec<u32>> {
    let mut slots = vec![0u32; num_slots(merges.len())];
    let mask = slots.len() - 1;
    for (rank, &[left, right, _]) in (1u32..).zip(merges) {
        let start = pair_hash(left, right) as usize;
        let is_free_or_same = |slot: &usize| match slots[*slot] {
            0 => true,
            other => merges[other as usize - 1][..2] == [left, right],
        };
        let mut way = (0..MAX_PROBES).map(|step| (start + step) & mask);
        let slot = way.find(is_free_or_same)?;
        slots[slot] = rank;
    }
    Some(slots)
}

fn fill(count: usize, entries: impl Iterator<Item = (u32, u32)>) -> Option<Vec<u32>> {
    let mut slots = vec![0u32; num_slots(count)];
    let mask = slots.len() - 1;
    for (number, hash) in entries {
        let mut way = (0..MAX_PROBES).map(|step| (hash as usize + step) & mask);
        let slot = way.find(|&slot| slots[slot] == 0)?;
        slots[slot] = number;
    }
    Some(slots)
}

/// At most two thirds full.
fn num_slots(count: usize) -> usize {
    (count + count / 2 + 1).next_power_of_two()
}

const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

fn string_hash(text: &[u8]) -> u32 {
    let mut hash = text.len() as u64;
    for chunk in text.chunks(8) {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        hash = fold(hash ^ u64::from_le_bytes(bytes));
    }
    (hash >> 32) as u32
}

fn pair_hash(left: u32, right: u32) -> u32 {
    (fold(u64::from(left) << 32 | u64::from(right)) >> 32) as u32
}

/// Both halves of a wide product, so that every bit counts.
fn fold(value: u64) -> u64 {
    let wide = u128::from(value ^ MIX) * u128::from(MIX.rotate_left(17) | 1);
    ((wide >> 64) as u64 ^ wide as u64).wrapping_mul(MIX)
}
