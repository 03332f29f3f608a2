//! From a text to ids without the library, for byte-level tokenizers of the usual shape.
//!
//! The library makes objects of each word, with its places in three forms of the text; nobody here
//! asks for those, and they are most of the time that a long prompt takes. So where a tokenizer is
//! made of parts that are known (no normaliser or NFC, splits by expressions, bytes as characters,
//! plain added tokens), the text is cut here by the same expressions, and a word that was there
//! before has its tokens copied. Anything else is the library's.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, MatchKind};
use onig::Regex;
use serde_json::Value;
use tokenizers::{Encoding, Model, PostProcessor, Token};
use unicode_normalization::{IsNormalized, is_nfc_quick};

use crate::load::{Inner, guarded};
use crate::pieces::byte_chars;
use crate::vocabulary::Vocabulary;

/// How the library's byte-level splitter cuts words, as GPT-2 does.
const GPT2_WORDS: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Longer words are not remembered: they seldom come again.
const MAX_REMEMBERED_BYTES: usize = 64;

/// A tokenizer whose every part is known.
pub(crate) struct FastPath {
    /// Each cuts what the one before left.
    cuts: Vec<Regex>,
    /// Added tokens: those that are found before the text is normalised, and those after.
    added: [Option<Added>; 2],
    wants_nfc: bool,
    /// What the post-processor puts before and behind a text.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
}

/// Added tokens and their ids.
struct Added {
    automaton: AhoCorasick,
    ids: Vec<u32>,
}

impl FastPath {
    /// None where a part is another than is known here.
    pub(crate) fn of(inner: &Inner) -> Option<Self> {
        if inner.get_added_vocabulary().get_encode_special_tokens() {
            return None;
        }
        let wants_nfc = match inner.get_normalizer() {
            None => false,
            Some(normalizer) if serde_json::to_value(normalizer).ok()?["type"] == "NFC" => true,
            Some(_) => return None,
        };
        let pre_tokenizer = serde_json::to_value(inner.get_pre_tokenizer()?).ok()?;
        let cuts = expressions(&pre_tokenizer)?.into_iter().map(Regex::new);
        let (prefix, suffix) = around(inner)?;
        Some(Self {
            cuts: cuts.collect::<Result<_, _>>().ok()?,
            added: [Added::of(inner, false)?, Added::of(inner, true)?],
            wants_nfc,
            prefix,
            suffix,
        })
    }

    /// The ids of `text`; none where it takes the library after all.
    ///
    /// # Errors
    /// As of the library.
    pub(crate) fn encode(
        &self,
        model: &Vocabulary,
        text: &str,
        add_special_tokens: bool,
    ) -> Option<Result<Vec<u32>, String>> {
        let mut writer = Writer {
            path: self,
            model,
            ids: Vec::with_capacity(text.len() / 4 + 8),
            known: HashMap::new(),
            word: String::new(),
        };
        if add_special_tokens {
            writer.ids.extend(&self.prefix);
        }
        let mut is_ours = true;
        let written = each(&self.added[0], text, &mut |part| match part {
            Part::Token(id) => {
                writer.ids.push(id);
                Ok(())
            }
            Part::Text(part) => {
                if self.wants_nfc && is_nfc_quick(part.chars()) != IsNormalized::Yes {
                    is_ours = false;
                }
                if !is_ours {
                    return Ok(());
                }
                each(&self.added[1], part, &mut |part| match part {
                    Part::Token(id) => {
                        writer.ids.push(id);
                        Ok(())
                    }
                    Part::Text(part) => writer.cut(part, 0),
                })
            }
        });
        if !is_ours {
            return None;
        }
        if add_special_tokens {
            writer.ids.extend(&self.suffix);
        }
        Some(written.map(|()| writer.ids))
    }
}

/// A part of a text.
enum Part<'a> {
    Token(u32),
    /// Not empty.
    Text(&'a str),
}

/// Cuts a text at added tokens; the longest of those that begin at the first place wins, as with the
/// library.
fn each<'a>(
    added: &Option<Added>,
    text: &'a str,
    take: &mut impl FnMut(Part<'a>) -> Result<(), String>,
) -> Result<(), String> {
    let mut at = 0;
    if let Some(added) = added {
        for found in added.automaton.find_iter(text) {
            if at < found.start() {
                take(Part::Text(&text[at..found.start()]))?;
            }
            take(Part::Token(added.ids[found.pattern().as_usize()]))?;
            at = found.end();
        }
    }
    if at < text.len() { take(Part::Text(&text[at..])) } else { Ok(()) }
}

/// Ids as they are found.
struct Writer<'a> {
    path: &'a FastPath,
    model: &'a Vocabulary,
    ids: Vec<u32>,
    /// Where among the ids a word that came before has its own, and how many.
    known: HashMap<&'a str, (usize, usize)>,
    /// A word, its bytes as characters.
    word: String,
}

impl<'a> Writer<'a> {
    /// Cuts by the expressions from `level` on, then writes the words.
    fn cut(&mut self, text: &'a str, level: usize) -> Result<(), String> {
        let Some(cut) = self.path.cuts.get(level) else { return self.word(text) };
        let mut at = 0;
        for (start, end) in cut.find_iter(text) {
            if at < start {
                self.cut(&text[at..start], level + 1)?;
            }
            if start < end {
                self.cut(&text[start..end], level + 1)?;
            }
            at = end;
        }
        if at < text.len() { self.cut(&text[at..], level + 1) } else { Ok(()) }
    }

    fn word(&mut self, word: &'a str) -> Result<(), String> {
        if let Some(&(at, len)) = self.known.get(word) {
            self.ids.extend_from_within(at..at + len);
            return Ok(());
        }
        let chars = byte_chars();
        self.word.clear();
        self.word.extend(word.bytes().map(|byte| chars[usize::from(byte)]));
        let at = self.ids.len();
        let tokens = self.model.tokenize(&self.word).map_err(|error| error.to_string())?;
        self.ids.extend(tokens.iter().map(|token| token.id));
        if word.len() <= MAX_REMEMBERED_BYTES {
            self.known.insert(word, (at, self.ids.len() - at));
        }
        Ok(())
    }
}

/// The expressions of a pre-tokenizer that ends in bytes as characters.
fn expressions(pre_tokenizer: &Value) -> Option<Vec<&str>> {
    let steps = match pre_tokenizer["pretokenizers"].as_array() {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(pre_tokenizer),
    };
    let (last, splits) = steps.split_last()?;
    let mut found = Vec::new();
    for split in splits {
        let is_known =
            split["type"] == "Split" && split["behavior"] == "Isolated" && split["invert"] != true;
        found.push(split["pattern"]["Regex"].as_str().filter(|_| is_known)?);
    }
    if last["type"] != "ByteLevel" || last["add_prefix_space"] != false {
        return None;
    }
    if last["use_regex"] != false {
        found.push(GPT2_WORDS);
    }
    Some(found)
}

impl Added {
    /// The tokens that are found in normalised text, or those that are found before; none at all
    /// where one has rules that are not known here.
    fn of(inner: &Inner, normalized: bool) -> Option<Option<Self>> {
        let mut tokens: Vec<(u32, String)> = Vec::new();
        for (id, token) in inner.get_added_tokens_decoder() {
            if token.single_word || token.lstrip || token.rstrip || token.content.is_empty() {
                return None;
            }
            // A normaliser may change these.
            if token.normalized && !token.content.is_ascii() {
                return None;
            }
            if token.normalized == normalized {
                tokens.push((id, token.content));
            }
        }
        if tokens.is_empty() {
            return Some(None);
        }
        tokens.sort_unstable();
        let texts = tokens.iter().map(|(_, text)| text.as_str());
        let mut builder = AhoCorasick::builder();
        let automaton = builder.match_kind(MatchKind::LeftmostLongest).build(texts).ok()?;
        Some(Some(Self { automaton, ids: tokens.into_iter().map(|(id, _)| id).collect() }))
    }
}

/// What the post-processor puts before and behind a text, whatever it is.
fn around(inner: &Inner) -> Option<(Vec<u32>, Vec<u32>)> {
    let Some(processor) = inner.get_post_processor() else { return Some(Default::default()) };
    let text = Encoding::from_tokens(vec![Token::new(u32::MAX, String::new(), (0, 0))], 0);
    // The library panics where a template names a token that it does not have.
    let process = || processor.process(text, None, true).map_err(|error| error.to_string());
    let processed = guarded(process).ok()?;
    let ids = processed.get_ids();
    let at = ids.iter().position(|id| *id == u32::MAX)?;
    Some((ids[..at].to_vec(), ids[at + 1..].to_vec()))
}

#[cfg(test)]
mod tests;
