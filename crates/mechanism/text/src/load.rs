//! Building a tokenizer from its files.
//!
//! Loading is on the cold-start path. The library's own reader takes the vocabulary through two
//! generic trees before it builds anything; here a `tokenizer.json` with a BPE model (all current
//! language models) is split without looking into it, and its vocabulary and merges are read
//! straight into their final maps, on two threads. Other model kinds go through the library.

use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Tokenizer as Inner,
};

use crate::TokenizerError;
use crate::config::{TokenizerConfig, invalid, read_optional};

/// Below this many bytes of merges a second thread costs more than it saves.
const PARALLEL_BYTES: usize = 128 * 1024;

/// A tokenizer from its files, before what the configuration adds.
pub(crate) struct Loaded {
    pub(crate) inner: Inner,
    /// Whether it was built from `vocab.json` and `merges.txt`, which say nothing of BOS and EOS.
    pub(crate) is_bare: bool,
}

/// Reads whichever tokenizer files `dir` has.
pub(crate) fn load(dir: &Path, config: &TokenizerConfig) -> Result<Loaded, TokenizerError> {
    let path = dir.join("tokenizer.json");
    if let Some(text) = read_optional(&path)? {
        let mut inner = guarded(|| from_json(&text)).map_err(|reason| invalid(&path, reason))?;
        // The class with its own idea of the leading space; others leave the file's as it is.
        let is_gpt2 =
            config.tokenizer_class.as_deref().is_some_and(|c| c.starts_with("GPT2Tokenizer"));
        if let (true, Some(add)) = (is_gpt2, config.add_prefix_space)
            && let Some(PreTokenizerWrapper::ByteLevel(byte_level)) = inner.get_pre_tokenizer()
        {
            let byte_level = byte_level.add_prefix_space(add);
            inner.with_pre_tokenizer(Some(byte_level));
        }
        return Ok(Loaded { inner, is_bare: false });
    }
    let (vocab_path, merges_path) = (dir.join("vocab.json"), dir.join("merges.txt"));
    if let (Some(vocab), Some(merges)) = (read_optional(&vocab_path)?, read_optional(&merges_path)?)
    {
        let parse_vocab = || parse_vocab(&vocab).map_err(|e| invalid(&vocab_path, e.to_string()));
        let parse_merges = || parse_merge_lines(&merges).map_err(|e| invalid(&merges_path, e));
        let (vocab, merges) = both(merges.len(), parse_vocab, parse_merges);
        let (vocab, merges) = (vocab?, merges?);
        let bpe = build_bpe(BPE::builder(), vocab, merges, 0).map_err(|reason| {
            invalid(&merges_path, format!("it does not fit vocab.json: {reason}"))
        })?;
        let mut inner = Inner::new(ModelWrapper::BPE(bpe));
        let add_prefix_space = config.add_prefix_space.unwrap_or(false);
        let byte_level = ByteLevel::default().add_prefix_space(add_prefix_space);
        inner.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(ByteLevel::default()));
        return Ok(Loaded { inner, is_bare: true });
    }
    for name in ["tokenizer.model", "tekken.json", "spiece.model"] {
        let path = dir.join(name);
        if path.exists() {
            return Err(TokenizerError::UnsupportedFormat { path });
        }
    }
    Err(TokenizerError::Missing { dir: dir.to_owned() })
}

/// Runs the library where a file's rules can make it panic: its readers let some through that its
/// use of them does not expect, such as a character table that is too short.
pub(crate) fn guarded<T>(act: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    // What `act` leaves half done is dropped with its error, or not changed by it at all.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).unwrap_or_else(|_| {
        Err("the tokenizer's rules are damaged: download the model again".to_owned())
    })
}

/// The parts of a `tokenizer.json`; truncation and padding are the caller's business, not ours.
///
/// The library's readers of the small parts panic on text that is no JSON. Taken as raw values
/// they are known to be JSON before those readers see them.
#[derive(Deserialize)]
struct Parts<'a> {
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(borrow)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow)]
    post_processor: Option<&'a RawValue>,
    #[serde(borrow)]
    decoder: Option<&'a RawValue>,
    #[serde(borrow)]
    model: &'a RawValue,
}

#[derive(Deserialize)]
struct BpeParts<'a> {
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    #[serde(borrow)]
    vocab: &'a RawValue,
    #[serde(borrow)]
    merges: &'a RawValue,
}

fn from_json(text: &str) -> Result<Inner, String> {
    let parts: Parts<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if let Some(version) = parts.version.filter(|version| version != "1.0") {
        return Err(format!("its version is {version:?} instead of \"1.0\""));
    }
    let model = if is_bpe(parts.model.get()) {
        ModelWrapper::BPE(parse_bpe(parts.model.get())?)
    } else {
        serde_json::from_str(parts.model.get()).map_err(|error| format!("model: {error}"))?
    };
    let mut inner = Inner::new(model);
    let normalizer: Option<NormalizerWrapper> = part("normalizer", parts.normalizer)?;
    let pre_tokenizer: Option<PreTokenizerWrapper> = part("pre_tokenizer", parts.pre_tokenizer)?;
    let post_processor: Option<PostProcessorWrapper> =
        part("post_processor", parts.post_processor)?;
    let decoder: Option<DecoderWrapper> = part("decoder", parts.decoder)?;
    inner.with_normalizer(normalizer).map_err(|error| error.to_string())?;
    inner
        .with_pre_tokenizer(pre_tokenizer)
        .with_post_processor(post_processor)
        .with_decoder(decoder);
    inner.add_tokens(parts.added_tokens).map_err(|error| format!("added tokens: {error}"))?;
    Ok(inner)
}

fn part<T: for<'de> Deserialize<'de>>(
    name: &str,
    json: Option<&RawValue>,
) -> Result<Option<T>, String> {
    let Some(json) = json else { return Ok(None) };
    serde_json::from_str(json.get()).map_err(|error| format!("{name}: {error}"))
}

/// The type stands at the head of the model; where it does not, the slow path finds it.
fn is_bpe(model: &str) -> bool {
    let head = &model.as_bytes()[..model.len().min(512)];
    let has = |needle: &[u8]| head.windows(needle.len()).any(|window| window == needle);
    has(b"\"type\": \"BPE\"") || has(b"\"type\":\"BPE\"")
}

fn parse_bpe(model: &str) -> Result<BPE, String> {
    let parts: BpeParts<'_> = serde_json::from_str(model).map_err(|e| format!("model: {e}"))?;
    let vocab = || parse_vocab(parts.vocab.get()).map_err(|error| format!("model.vocab: {error}"));
    let merges = || parse_merges(parts.merges.get()).map_err(|e| format!("model.merges: {e}"));
    let (vocab, merges) = both(parts.merges.get().len(), vocab, merges);
    let (vocab, merges) = (vocab?, merges?);
    let mut builder = BPE::builder()
        .fuse_unk(parts.fuse_unk.unwrap_or(false))
        .byte_fallback(parts.byte_fallback.unwrap_or(false))
        .ignore_merges(parts.ignore_merges.unwrap_or(false));
    if let Some(unk) = parts.unk_token {
        builder = builder.unk_token(unk);
    }
    let prefix = parts.continuing_subword_prefix.unwrap_or_default();
    let prefix_len = prefix.len();
    if !prefix.is_empty() {
        builder = builder.continuing_subword_prefix(prefix);
    }
    if let Some(suffix) = parts.end_of_word_suffix.filter(|suffix| !suffix.is_empty()) {
        builder = builder.end_of_word_suffix(suffix);
    }
    build_bpe(builder, vocab, merges, prefix_len)
}

/// Does both, side by side if the second has many bytes to read.
fn both<A, B: Send>(bytes: usize, a: impl FnOnce() -> A, b: impl FnOnce() -> B + Send) -> (A, B) {
    if bytes < PARALLEL_BYTES {
        return (a(), b());
    }
    std::thread::scope(|scope| {
        let b = scope.spawn(b);
        let a = a();
        (a, b.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn build_bpe(
    builder: tokenizers::models::bpe::BpeBuilder,
    vocab: Vocab,
    merges: Merges,
    prefix_len: usize,
) -> Result<BPE, String> {
    // The builder writes merged tokens into a buffer as long as the longest token, unchecked.
    let longest = vocab.keys().map(String::len).max().unwrap_or(0);
    let fits = |(a, b): &(String, String)| {
        b.len() >= prefix_len && a.len() + b.len() - prefix_len <= longest
    };
    if let Some((a, b)) = merges.iter().find(|merge| !fits(merge)) {
        return Err(format!("the merge of {a:?} and {b:?} gives no token of the vocabulary"));
    }
    builder.vocab_and_merges(vocab, merges).build().map_err(|error| error.to_string())
}

fn parse_vocab(json: &str) -> Result<Vocab, serde_json::Error> {
    struct Seed(usize);
    impl<'de> DeserializeSeed<'de> for Seed {
        type Value = Vocab;
        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vocab, D::Error> {
            deserializer.deserialize_map(self)
        }
    }
    impl<'de> Visitor<'de> for Seed {
        type Value = Vocab;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of token ids")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
            let mut vocab = Vocab::with_capacity(self.0);
            while let Some((token, id)) = map.next_entry()? {
                vocab.insert(token, id);
            }
            Ok(vocab)
        }
    }
    // Entries take some 16 bytes of compact JSON: a good guess saves growing the map.
    let seed = Seed(json.len() / 16);
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let vocab = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(vocab)
}

/// Merges as JSON: `"a b"` or `["a", "b"]`.
fn parse_merges(json: &str) -> Result<Merges, serde_json::Error> {
    struct Merge(String, String);
    impl<'de> Deserialize<'de> for Merge {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(MergeVisitor)
        }
    }
    struct MergeVisitor;
    impl<'de> Visitor<'de> for MergeVisitor {
        type Value = Merge;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("two tokens")
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Merge, E> {
            let (a, b) = split_merge(text).map_err(E::custom)?;
            Ok(Merge(a.to_owned(), b.to_owned()))
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
            let mut next =
                || seq.next_element()?.ok_or_else(|| A::Error::custom("a token is missing"));
            let merge = Merge(next()?, next()?);
            match seq.next_element::<serde::de::IgnoredAny>()? {
                None => Ok(merge),
                Some(_) => Err(A::Error::custom("a merge of more than two tokens")),
            }
        }
    }
    struct List(Merges);
    impl<'de> Deserialize<'de> for List {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_seq(ListVisitor)
        }
    }
    struct ListVisitor;
    impl<'de> Visitor<'de> for ListVisitor {
        type Value = List;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of merges")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List, A::Error> {
            let mut merges = Vec::with_capacity(seq.size_hint().unwrap_or(0));
            while let Some(Merge(a, b)) = seq.next_element()? {
                merges.push((a, b));
            }
            Ok(List(merges))
        }
    }
    serde_json::from_str::<List>(json).map(|list| list.0)
}

/// Merges as lines of `merges.txt`, after an optional `#version` line.
fn parse_merge_lines(text: &str) -> Result<Merges, String> {
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with("#version"));
    let parse = |(at, line): (usize, &str)| match split_merge(line) {
        Ok((a, b)) => Ok((a.to_owned(), b.to_owned())),
        Err(reason) => Err(format!("line {}: {reason}", at + 1)),
    };
    lines.map(parse).collect()
}

fn split_merge(text: &str) -> Result<(&str, &str), String> {
    match text.split_once(' ') {
        Some((a, b)) if !a.is_empty() && !b.is_empty() && !b.contains(' ') => Ok((a, b)),
        _ => Err(format!("{text:?} is not a pair of tokens")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_are_read_in_both_notations() {
        let expected = vec![("a".to_owned(), "b".to_owned()), ("ab".to_owned(), "c".to_owned())];
        assert_eq!(parse_merges(r#"["a b",["ab","c"]]"#).unwrap(), expected);
        assert_eq!(parse_merge_lines("#version: 0.2\na b\nab c\n").unwrap(), expected);
        for broken in [r#"["ab"]"#, r#"["a b c"]"#, r#"[["a"]]"#, r#"[["a","b","c"]]"#, "{}", "[1]"]
        {
            assert!(parse_merges(broken).is_err(), "{broken}");
        }
        assert!(parse_merge_lines("a b\n\nab\n").unwrap_err().starts_with("line 3"));
    }

    #[test]
    fn both_sides_are_read_on_one_thread_or_two() {
        for bytes in [0, PARALLEL_BYTES] {
            let merges = || parse_merge_lines("a b");
            let (vocab, merges) = both(bytes, || parse_vocab(r#"{"a": 1}"#), merges);
            assert_eq!((vocab.unwrap().len(), merges.unwrap().len()), (1, 1));
        }
    }

    #[test]
    fn impossible_merges_are_refused() {
        let check = |merges: &str, reason: &str| {
            let json = format!(
                r#"{{"version":"1.0","model":{{"type":"BPE","vocab":{{"a":0,"b":1}},"merges":{merges}}}}}"#
            );
            let error = from_json(&json).map(drop).unwrap_err();
            assert!(error.contains(reason), "{error}");
        };
        check(r#"["a b"]"#, "gives no token");
        check(r#"["a bbbbbbbbb"]"#, "gives no token");
        check(r#"[["c",""]]"#, "out of");
        check("7", "merges");
    }

    #[test]
    fn rules_that_make_the_library_panic_are_errors() {
        // A normaliser whose table is empty passes the library's reader.
        let json = |added: &str| {
            format!(
                r#"{{"version":"1.0","added_tokens":[{added}],
                    "normalizer":{{"type":"Precompiled","precompiled_charsmap":"AAAAAA=="}},
                    "model":{{"type":"BPE","vocab":{{"a":0}},"merges":[]}}}}"#
            )
        };
        let dir = tempfile::tempdir().unwrap();
        let load = |added: &str| {
            std::fs::write(dir.path().join("tokenizer.json"), json(added)).unwrap();
            crate::Tokenizer::load(dir.path())
        };
        let error = load("").unwrap().encode("a", true).unwrap_err();
        assert!(matches!(error, TokenizerError::Encode { .. }), "{error}");
        let added = r#"{"id":1,"content":"b","single_word":false,"lstrip":false,"rstrip":false,
                        "normalized":true,"special":false}"#;
        assert!(load(added).unwrap_err().to_string().contains("tokenizer.json"));
    }

    #[test]
    fn a_model_without_its_type_takes_the_slow_path() {
        let json = r#"{"version":"1.0","model":{"vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}"#;
        let inner = from_json(json).unwrap();
        assert_eq!(inner.encode_fast("ab", false).unwrap().get_ids(), [2]);
        assert!(
            from_json(r#"{"version":"2.0","model":{}}"#).map(drop).unwrap_err().contains("2.0")
        );
    }
}
