//! From vocabulary entries to bytes.
//!
//! A vocabulary stores tokens as strings in one of two disguises. *Byte-level* models write each
//! byte as one printable character. *SentencePiece* models write a space as `▁` and, where a
//! character has no token, each of its bytes as `<0xNN>`. Both undo to plain bytes, which makes
//! decoding a concatenation. Any other disguise is left to the tokenizer's own decoder.

use std::sync::OnceLock;

use serde_json::Value;
use tokenizers::DecoderWrapper;

/// How the vocabulary's strings turn back into text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pieces {
    /// One character per byte.
    ByteLevel,
    /// Spaces as a visible character, unknown characters as byte tokens.
    SentencePiece { space: char, byte_fallback: bool, lead: Lead },
    /// Whatever the tokenizer's decoder does.
    Other,
}

/// What decoding takes away at the very start of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lead {
    /// Up to so many spaces.
    Spaces(usize),
    /// Every space mark of the first token.
    FirstToken,
}

impl Pieces {
    /// Recognises the decoder of a tokenizer by its serialised form.
    pub(crate) fn of(decoder: Option<&DecoderWrapper>) -> Self {
        let Some(json) = decoder.and_then(|decoder| serde_json::to_value(decoder).ok()) else {
            return Self::Other;
        };
        let steps = match json.get("decoders").and_then(Value::as_array) {
            Some(steps) => steps.as_slice(),
            None => std::slice::from_ref(&json),
        };
        Self::of_steps(steps).unwrap_or(Self::Other)
    }

    fn of_steps(steps: &[Value]) -> Option<Self> {
        let kind = |step: &Value| step.get("type").and_then(Value::as_str).map(str::to_owned);
        let mut kinds = steps.iter().map(|step| kind(step).unwrap_or_default());
        let first = steps.first()?;
        match (kinds.next()?.as_str(), steps.len()) {
            ("ByteLevel", 1) => return Some(Self::ByteLevel),
            ("Metaspace", 1) => {
                let space = first.get("replacement")?.as_str()?.chars().next()?;
                let scheme = first.get("prepend_scheme").and_then(Value::as_str);
                let lead = if scheme == Some("never") { Lead::Spaces(0) } else { Lead::FirstToken };
                return Some(Self::SentencePiece { space, byte_fallback: false, lead });
            }
            ("Replace", _) => {}
            _ => return None,
        }
        let mut pattern = first.get("pattern")?.get("String")?.as_str()?.chars();
        let (space, None) = (pattern.next()?, pattern.next()) else { return None };
        if first.get("content")?.as_str()? != " " {
            return None;
        }
        let (mut byte_fallback, mut fused, mut lead) = (false, false, 0);
        for (kind, step) in kinds.zip(&steps[1..]) {
            match kind.as_str() {
                "ByteFallback" if !fused => byte_fallback = true,
                "Fuse" => fused = true,
                "Strip" if fused && lead == 0 => {
                    if step.get("content")?.as_str()? != " " || step.get("stop")?.as_u64()? != 0 {
                        return None;
                    }
                    lead = usize::try_from(step.get("start")?.as_u64()?).ok()?;
                }
                _ => return None,
            }
        }
        Some(Self::SentencePiece { space, byte_fallback, lead: Lead::Spaces(lead) })
    }

    /// Appends the bytes that `token` stands for.
    pub(crate) fn append(&self, token: &str, out: &mut Vec<u8>) {
        match self {
            Self::ByteLevel => append_byte_level(token, out),
            Self::SentencePiece { space, byte_fallback, .. } => {
                match byte_fallback.then(|| byte_token(token)).flatten() {
                    Some(byte) => out.push(byte),
                    None => {
                        let mut utf8 = [0; 4];
                        for char in token.chars() {
                            let char = if char == *space { ' ' } else { char };
                            out.extend_from_slice(char.encode_utf8(&mut utf8).as_bytes());
                        }
                    }
                }
            }
            Self::Other => out.extend_from_slice(token.as_bytes()),
        }
    }
}

/// A token with any character outside the byte alphabet is literal text (an added token).
fn append_byte_level(token: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for char in token.chars() {
        match byte_of(char) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

/// The characters that stand for bytes in byte-level vocabularies.
pub(crate) fn byte_chars() -> &'static [char; 256] {
    static TABLE: OnceLock<[char; 256]> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = ['\0'; 256];
        for char in (0..0x144).filter_map(char::from_u32) {
            if let Some(byte) = byte_of(char) {
                table[usize::from(byte)] = char;
            }
        }
        table
    })
}

/// The byte of a token written `<0xNN>`.
fn byte_token(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}

/// The byte that a character of the byte-level alphabet stands for.
///
/// Printable Latin-1 characters stand for themselves; the 68 other bytes take, in order, the
/// characters from U+0100 on.
fn byte_of(char: char) -> Option<u8> {
    static TABLE: OnceLock<[Option<u8>; 0x144]> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut table = [None; 0x144];
        let mut next = 0x100;
        for byte in 0..=u8::MAX {
            let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
            let at = if printable { usize::from(byte) } else { next };
            next += usize::from(!printable);
            table[at] = Some(byte);
        }
        table
    });
    table.get(char as usize).copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &Pieces, token: &str, expected: &[u8]) {
        let mut out = Vec::new();
        pieces.append(token, &mut out);
        assert_eq!(out, expected, "{token:?}");
    }

    #[test]
    fn byte_level_tokens_give_their_bytes() {
        check(&Pieces::ByteLevel, "ĠtheĊ", b" the\n");
        check(&Pieces::ByteLevel, "Ã¤", "ä".as_bytes());
        check(&Pieces::ByteLevel, "Ń", &[0xad]);
        check(&Pieces::ByteLevel, "two words", b"two words");
        let all: usize =
            (0..0x144).filter(|&c| char::from_u32(c).and_then(byte_of).is_some()).count();
        assert_eq!(all, 256);
    }

    #[test]
    fn sentencepiece_tokens_give_spaces_and_bytes() {
        let with = |byte_fallback| Pieces::SentencePiece {
            space: '▁',
            byte_fallback,
            lead: Lead::Spaces(1),
        };
        check(&with(true), "▁the", b" the");
        check(&with(true), "<0xE4>", &[0xe4]);
        check(&with(true), "<0xE4", b"<0xE4");
        check(&with(false), "<0xE4>", b"<0xE4>");
    }

    #[test]
    fn decoders_are_recognised() {
        let check = |json: &str, expected: Pieces| {
            let decoder: DecoderWrapper = serde_json::from_str(json).unwrap();
            assert_eq!(Pieces::of(Some(&decoder)), expected, "{json}");
        };
        let byte_level =
            r#"{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}"#;
        check(byte_level, Pieces::ByteLevel);
        check(&format!(r#"{{"type":"Sequence","decoders":[{byte_level}]}}"#), Pieces::ByteLevel);
        let replace = r#"{"type":"Replace","pattern":{"String":"▁"},"content":" "}"#;
        let tail = r#"{"type":"ByteFallback"},{"type":"Fuse"}"#;
        let strip = r#"{"type":"Strip","content":" ","start":1,"stop":0}"#;
        let piece =
            |byte_fallback, lead| Pieces::SentencePiece { space: '▁', byte_fallback, lead };
        check(
            &format!(r#"{{"type":"Sequence","decoders":[{replace},{tail},{strip}]}}"#),
            piece(true, Lead::Spaces(1)),
        );
        check(
            &format!(r#"{{"type":"Sequence","decoders":[{replace},{tail}]}}"#),
            piece(true, Lead::Spaces(0)),
        );
        check(
            r#"{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}"#,
            piece(false, Lead::FirstToken),
        );
        check(&format!(r#"{{"type":"Sequence","decoders":[{replace},{strip}]}}"#), Pieces::Other);
        check(r#"{"type":"WordPiece","prefix":"'##","cleanup":false}"#, Pieces::Other);
        assert_eq!(Pieces::of(None), Pieces::Other);
    }
}
