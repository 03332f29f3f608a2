//! Building a tokenizer from its files.
//!
//! Loading is on the cold-start path. The library's own reader takes the vocabulary through two
//! generic trees before it builds anything; here a `tokenizer.json` with a BPE model (all current
//! language models) is split without looking into it, and its vocabulary and merges are read on two
//! threads into the tables that are used and saved ([`crate::cache`]). The next start finds those and
//! reads nothing of it but for its hash. Other model kinds go through the library.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerImpl,
};
use tyndall_kernels::MappedFile;

use crate::cache::{self, CacheDirs, SourceHash, TokenizerCache};
use crate::config::{TokenizerConfig, invalid};
use crate::vocabulary::{BpeFlags, BpeImage, BpeSource, Vocabulary};
use crate::{TokenizerError, word_piece};

/// Below this many bytes of merges a second thread costs more than it saves.
const PARALLEL_BYTES: usize = 128 * 1024;

/// The special tokens of a bare vocabulary, where no file names others.
const GPT2_NAMED: [(&str, &str); 3] = [
    ("bos_token", "<|endoftext|>"),
    ("eos_token", "<|endoftext|>"),
    ("unk_token", "<|endoftext|>"),
];

/// The library's pipeline around a vocabulary.
pub(crate) type Inner = TokenizerImpl<
    Vocabulary,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// A tokenizer from its files, before what the configuration adds.
pub(crate) struct Loaded {
    pub(crate) inner: Inner,
    /// Whether it was built from `vocab.json` and `merges.txt`, which say nothing of BOS and EOS.
    pub(crate) is_bare: bool,
    /// The special tokens that there are where no file names others.
    pub(crate) named: &'static [(&'static str, &'static str)],
    /// Its compact form, if that should be saved.
    pub(crate) unsaved: Option<TokenizerCache>,
}

/// Reads whichever tokenizer files `dir` has, or what `cache` has of them.
pub(crate) fn load(
    dir: &Path,
    config: &TokenizerConfig,
    cache: Option<&CacheDirs>,
) -> Result<Loaded, TokenizerError> {
    let sources = Sources::open(dir)?;
    let (is_bare, named) = (sources.is_bare(), sources.named());
    let cache = cache.and_then(|dirs| Some((dirs, SourceHash::of(&sources.bytes())?)));
    let cached = cache.and_then(|(dirs, hash)| cache::find(dirs, hash));
    if let Some(inner) = cached.and_then(|image| from_image(image, config)) {
        return Ok(Loaded { inner, is_bare, named, unsaved: None });
    }
    let inner = match &sources {
        Sources::Json(json) => {
            let text = json.text()?;
            let mut inner =
                guarded(|| from_json(text)).map_err(|reason| invalid(&json.path, reason))?;
            configure(&mut inner, config);
            inner
        }
        Sources::Bare { vocab, merges } => around_bare(read_bare(vocab, merges)?, config),
        Sources::WordPiece(vocab) => {
            let text = vocab.text()?;
            guarded(|| word_piece::from_vocab(text, config))
                .map_err(|reason| invalid(&vocab.path, reason))?
        }
    };
    let unsaved = match (cache, inner.get_model()) {
        (Some((dirs, source)), Vocabulary::Bpe(image)) => {
            Some(TokenizerCache { image: image.clone(), source, dirs: dirs.clone() })
        }
        _ => None,
    };
    Ok(Loaded { inner, is_bare, named, unsaved })
}

/// The files that a tokenizer is made from.
enum Sources {
    Json(Source),
    Bare {
        vocab: Source,
        merges: Source,
    },
    /// A `vocab.txt`.
    WordPiece(Source),
}

struct Source {
    path: PathBuf,
    file: MappedFile,
}

impl Sources {
    fn open(dir: &Path) -> Result<Self, TokenizerError> {
        if let Some(json) = Source::open(dir.join("tokenizer.json"))? {
            return Ok(Self::Json(json));
        }
        let vocab = Source::open(dir.join("vocab.json"))?;
        let merges = Source::open(dir.join("merges.txt"))?;
        if let (Some(vocab), Some(merges)) = (vocab, merges) {
            return Ok(Self::Bare { vocab, merges });
        }
        if let Some(vocab) = Source::open(dir.join("vocab.txt"))? {
            return Ok(Self::WordPiece(vocab));
        }
        for name in ["tokenizer.model", "tekken.json", "spiece.model", "sentencepiece.bpe.model"] {
            let path = dir.join(name);
            if path.exists() {
                return Err(TokenizerError::UnsupportedFormat { path });
            }
        }
        Err(TokenizerError::Missing { dir: dir.to_owned() })
    }

    fn bytes(&self) -> Vec<&[u8]> {
        match self {
            Self::Json(json) => vec![json.file.bytes()],
            Self::Bare { vocab, merges } => vec![vocab.file.bytes(), merges.file.bytes()],
            Self::WordPiece(vocab) => vec![vocab.file.bytes()],
        }
    }

    fn is_bare(&self) -> bool {
        matches!(self, Self::Bare { .. })
    }

    fn named(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Json(_) => &[],
            Self::Bare { .. } => &GPT2_NAMED,
            Self::WordPiece(_) => &word_piece::NAMED,
        }
    }
}

impl Source {
    fn open(path: PathBuf) -> Result<Option<Self>, TokenizerError> {
        match MappedFile::open(&path) {
            Ok(file) => {
                // All of it is read at once; what fails here fails again where it is reported.
                drop(file.prefault(0..file.bytes().len()));
                Ok(Some(Self { path, file }))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(TokenizerError::Read { path, source }),
        }
    }

    fn text(&self) -> Result<&str, TokenizerError> {
        let text = std::str::from_utf8(self.file.bytes());
        text.map_err(|_| invalid(&self.path, "it is not UTF-8".to_owned()))
    }
}

/// The tokenizer around a saved vocabulary. Nothing where the saved parts are not as they should
/// be, which says that another program wrote them.
fn from_image(image: BpeImage, config: &TokenizerConfig) -> Option<Inner> {
    if image.flags().is_bare {
        return Some(around_bare(Vocabulary::Bpe(image), config));
    }
    let model = Vocabulary::Bpe(image.clone());
    let assembled = guarded(|| {
        let parts = image.parts().ok_or("the parts are no text")?;
        let parts: Parts<'_> = serde_json::from_str(parts).map_err(|error| error.to_string())?;
        assemble(model, &parts)
    });
    let mut inner = assembled.ok()?;
    configure(&mut inner, config);
    Some(inner)
}

fn configure(inner: &mut Inner, config: &TokenizerConfig) {
    // The class with its own idea of the leading space; others leave the file's as it is.
    let is_gpt2 = config.tokenizer_class.as_deref().is_some_and(|c| c.starts_with("GPT2Tokenizer"));
    if let (true, Some(add)) = (is_gpt2, config.add_prefix_space)
        && let Some(PreTokenizerWrapper::ByteLevel(byte_level)) = inner.get_pre_tokenizer()
    {
        let byte_level = byte_level.add_prefix_space(add);
        inner.with_pre_tokenizer(Some(byte_level));
    }
}

fn read_bare(vocab: &Source, merges: &Source) -> Result<Vocabulary, TokenizerError> {
    let (vocab_text, merges_text) = (vocab.text()?, merges.text()?);
    let read_vocab = || parse_vocab(vocab_text).map_err(|e| invalid(&vocab.path, e.to_string()));
    let read_merges = || parse_merge_lines(merges_text).map_err(|e| invalid(&merges.path, e));
    let (vocab, read) = both(merges_text.len(), read_vocab, read_merges);
    let flags = BpeFlags { is_bare: true, ..BpeFlags::default() };
    build_bpe(vocab?, read?, BpeRules { flags, ..BpeRules::default() }, "{}")
        .map_err(|reason| invalid(&merges.path, format!("it does not fit vocab.json: {reason}")))
}

fn around_bare(model: Vocabulary, config: &TokenizerConfig) -> Inner {
    let mut inner = Inner::new(model);
    let add_prefix_space = config.add_prefix_space.unwrap_or(false);
    let byte_level = ByteLevel::default().add_prefix_space(add_prefix_space);
    inner.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(ByteLevel::default()));
    inner
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
#[derive(Deserialize, Serialize)]
struct Parts<'a> {
    version: Option<String>,
    #[serde(borrow)]
    added_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow)]
    post_processor: Option<&'a RawValue>,
    #[serde(borrow)]
    decoder: Option<&'a RawValue>,
    /// Absent beside a saved vocabulary.
    #[serde(borrow)]
    model: Option<&'a RawValue>,
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
    let mut parts: Parts<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if let Some(version) = parts.version.take().filter(|version| version != "1.0") {
        return Err(format!("its version is {version:?} instead of \"1.0\""));
    }
    let model = parts.model.take().ok_or("it has no model")?.get();
    let model = if is_bpe(model) {
        let rest = serde_json::to_string(&parts).map_err(|error| error.to_string())?;
        parse_bpe(model, &rest)?
    } else {
        let model = serde_json::from_str(model).map_err(|error| format!("model: {error}"))?;
        Vocabulary::Library(Box::new(model))
    };
    assemble(model, &parts)
}

fn assemble(model: Vocabulary, parts: &Parts<'_>) -> Result<Inner, String> {
    let mut inner = Inner::new(model);
    let normalizer: Option<NormalizerWrapper> = part("normalizer", parts.normalizer)?;
    let pre_tokenizer: Option<PreTokenizerWrapper> = part("pre_tokenizer", parts.pre_tokenizer)?;
    let post_processor: Option<PostProcessorWrapper> =
        part("post_processor", parts.post_processor)?;
    let decoder: Option<DecoderWrapper> = part("decoder", parts.decoder)?;
    let added: Option<Vec<AddedToken>> = part("added_tokens", parts.added_tokens)?;
    inner.with_normalizer(normalizer).map_err(|error| error.to_string())?;
    inner
        .with_pre_tokenizer(pre_tokenizer)
        .with_post_processor(post_processor)
        .with_decoder(decoder);
    let added = added.unwrap_or_default();
    inner.add_tokens(added).map_err(|error| format!("added tokens: {error}"))?;
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

/// What a model says beside its vocabulary and merges.
#[derive(Default)]
struct BpeRules {
    unk_token: Option<String>,
    /// Absent when empty, like the suffix.
    prefix: Option<String>,
    suffix: Option<String>,
    flags: BpeFlags,
}

/// The BPE model; `rest` is what a saved one keeps of the tokenizer's other parts.
fn parse_bpe(model: &str, rest: &str) -> Result<Vocabulary, String> {
    let parts: BpeParts<'_> = serde_json::from_str(model).map_err(|e| format!("model: {e}"))?;
    let vocab = || parse_vocab(parts.vocab.get()).map_err(|error| format!("model.vocab: {error}"));
    let merges = || parse_merges(parts.merges.get()).map_err(|e| format!("model.merges: {e}"));
    let (vocab, merges) = both(parts.merges.get().len(), vocab, merges);
    let rules = BpeRules {
        unk_token: parts.unk_token,
        prefix: parts.continuing_subword_prefix.filter(|prefix| !prefix.is_empty()),
        suffix: parts.end_of_word_suffix.filter(|suffix| !suffix.is_empty()),
        flags: BpeFlags {
            fuse_unk: parts.fuse_unk.unwrap_or(false),
            byte_fallback: parts.byte_fallback.unwrap_or(false),
            ignore_merges: parts.ignore_merges.unwrap_or(false),
            is_bare: false,
        },
    };
    build_bpe(vocab?, merges?, rules, rest)
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
    vocab: Vocab,
    merges: Merges,
    rules: BpeRules,
    rest: &str,
) -> Result<Vocabulary, String> {
    if rules.prefix.is_none() && rules.suffix.is_none() {
        let (unk_token, flags) = (rules.unk_token.as_deref(), rules.flags);
        let source = BpeSource { vocab: &vocab, merges: &merges, unk_token, flags, parts: rest };
        if let Some(image) = BpeImage::build(&source) {
            return Ok(Vocabulary::Bpe(image));
        }
    }
    library_bpe(vocab, merges, rules).map(|bpe| Vocabulary::Library(Box::new(bpe.into())))
}

fn library_bpe(vocab: Vocab, merges: Merges, rules: BpeRules) -> Result<BPE, String> {
    // The builder writes merged tokens into a buffer as long as the longest token, unchecked.
    let longest = vocab.keys().map(String::len).max().unwrap_or(0);
    let prefix_len = rules.prefix.as_ref().map_or(0, String::len);
    let fits = |(a, b): &(String, String)| {
        b.len() >= prefix_len && a.len() + b.len() - prefix_len <= longest
    };
    if let Some((a, b)) = merges.iter().find(|merge| !fits(merge)) {
        return Err(format!("the merge of {a:?} and {b:?} gives no token of the vocabulary"));
    }
    let mut builder = BPE::builder()
        .fuse_unk(rules.flags.fuse_unk)
        .byte_fallback(rules.flags.byte_fallback)
        .ignore_merges(rules.flags.ignore_merges);
    if let Some(unk) = rules.unk_token {
        builder = builder.unk_token(unk);
    }
    if let Some(prefix) = rules.prefix {
        builder = builder.continuing_subword_prefix(prefix);
    }
    if let Some(suffix) = rules.suffix {
        builder = builder.end_of_word_suffix(suffix);
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
