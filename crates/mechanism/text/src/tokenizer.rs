//! The tokenizer of a model directory.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use tokenizers::AddedToken;

use crate::cache::{CacheDirs, TokenizerCache};
use crate::config::{TokenizerConfig, read_object};
use crate::detokenizer::Utf8Stream;
use crate::fast::FastPath;
use crate::load::Inner;
use crate::pieces::{Lead, Pieces};
use crate::template::{ChatInput, ChatTemplate, load_template};
use crate::{TemplateError, TokenizerError, load};

/// Turns text into token ids and back, with everything the model directory says about it.
///
/// A clone is cheap and shares the vocabulary; all methods may run on many threads at once.
///
/// Which files count and how they combine follows transformers 5: `tokenizer.json` is taken as it
/// is, `vocab.json` with `merges.txt` is a GPT-2 tokenizer, `vocab.txt` BERT's; the tokens that the configuration
/// files add or mark as special are added on top; a `tokenizer.json` decides itself whether BOS is
/// put in front, and `add_bos_token` decides for the bare files (OPT models without that key get
/// it too). Truncation and padding that a file asks for are ignored.
#[derive(Clone)]
pub struct Tokenizer {
    shared: Arc<Shared>,
    template: Option<Arc<ChatTemplate>>,
}

struct Shared {
    inner: Inner,
    /// For most texts of most tokenizers.
    fast: OnceLock<Option<FastPath>>,
    pieces: Pieces,
    added: HashMap<u32, AddedToken>,
    /// Named special tokens and their ids.
    named: Vec<(String, String, Option<u32>)>,
    eos_token_ids: Vec<u32>,
    special_token_ids: Vec<u32>,
    /// Put around the text where no post-processor does it.
    prefix: Option<u32>,
    suffix: Option<u32>,
    vocab_size: usize,
    model_max_length: Option<u64>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.shared.vocab_size)
            .field("pieces", &self.shared.pieces)
            .field("named", &self.shared.named)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads the tokenizer and the chat template of a model directory.
    ///
    /// # Errors
    /// No tokenizer there, or a file that is unreadable or broken; each names the file. A chat
    /// template's syntax is looked at only when it is first used.
    pub fn load(dir: &Path) -> Result<Self, TokenizerError> {
        Self::load_from(dir, None).map(|(tokenizer, _)| tokenizer)
    }

    /// [`load`](Self::load), in a few milliseconds where a compact form was saved: beside the model
    /// or in `user_cache`. Where there was none, it comes with the tokenizer, to be saved when nothing
    /// is in a hurry. Small tokenizers and unusual kinds have none.
    ///
    /// # Errors
    /// As [`load`](Self::load). A saved form that cannot be used is as good as none.
    pub fn load_cached(
        dir: &Path,
        user_cache: Option<&Path>,
    ) -> Result<(Self, Option<TokenizerCache>), TokenizerError> {
        Self::load_from(dir, Some(&CacheDirs::new(dir, user_cache)))
    }

    fn load_from(
        dir: &Path,
        cache: Option<&CacheDirs>,
    ) -> Result<(Self, Option<TokenizerCache>), TokenizerError> {
        let mut config = TokenizerConfig::load(dir)?;
        let load::Loaded { mut inner, is_bare, named, unsaved } = load::load(dir, &config, cache)?;
        let template_source = config.chat_template.take();
        named.iter().for_each(|(name, token)| config.set_default(name, token));
        let mut add_bos = false;
        if is_bare {
            add_bos = match config.add_bos_token {
                Some(add) => add,
                None => is_opt(dir)?,
            };
        }
        load::guarded(|| add_configured_tokens(&mut inner, &config))
            .map_err(|reason| crate::config::invalid(&dir.join("tokenizer_config.json"), reason))?;
        let shared = Shared::new(inner, &config, add_bos, is_bare);
        let variables = shared.named.iter().map(|(name, text, _)| (name.clone(), text.clone()));
        let template = load_template(dir, template_source, variables.collect())?;
        Ok((Self { shared: Arc::new(shared), template: template.map(Arc::new) }, unsaved))
    }

    /// The same tokenizer with another chat template, given as its source.
    #[must_use]
    pub fn with_chat_template(&self, source: &str) -> Self {
        let variables =
            self.shared.named.iter().map(|(name, text, _)| (name.clone(), text.clone()));
        let template = ChatTemplate::new(source, variables.collect());
        Self { shared: Arc::clone(&self.shared), template: Some(Arc::new(template)) }
    }

    /// The ids of `text`; with `add_special_tokens` as the model wants a prompt to begin and end.
    ///
    /// Special tokens written out in `text` become those tokens, as in transformers: text from
    /// outside can contain `<|im_end|>` or `</s>`. A rendered chat already has its special tokens
    /// and is encoded without adding any.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`]: the vocabulary has neither a token nor an unknown token for a
    /// character.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        let shared = &*self.shared;
        let mut ids = load::guarded(|| shared.encode(text, add_special_tokens))
            .map_err(|reason| TokenizerError::Encode { reason })?;
        if add_special_tokens {
            shared.prefix.into_iter().for_each(|id| ids.insert(0, id));
            ids.extend(shared.suffix);
        }
        Ok(ids)
    }

    /// The text of `ids`; with `skip_special` without special tokens. Unknown ids give nothing.
    ///
    /// Bytes that are no UTF-8 give U+FFFD. Where transformers replaces a whole run of byte tokens
    /// as soon as one of them is malformed, the well-formed characters of the run are kept here,
    /// so that this is exactly what a [`Detokenizer`](crate::Detokenizer) gives in portions.
    #[must_use]
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        if self.shared.pieces == Pieces::Other {
            return self.library_decode(ids, skip_special);
        }
        let mut text = TextStart::new(&self.shared.pieces);
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        let mut utf8 = Utf8Stream::new(&self.shared.pieces);
        for &id in ids {
            self.append_piece(id, skip_special, &mut text, &mut bytes);
        }
        let mut out = String::with_capacity(bytes.len());
        utf8.push(&bytes, &mut out);
        utf8.finish(&mut out);
        out
    }

    /// The text of one token, lossy where it is no whole character; empty for unknown ids.
    #[must_use]
    pub fn token_text(&self, id: u32) -> String {
        String::from_utf8_lossy(&self.token_bytes(id).unwrap_or_default()).into_owned()
    }

    /// The bytes that one token adds to the text, with its leading space; absent for unknown ids.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.shared.pieces.append(&self.shared.piece(id)?, &mut bytes);
        Some(bytes)
    }

    /// The id of a token by its entry in the vocabulary.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.shared.inner.token_to_id(token)
    }

    /// Whether `id` is a special token, which `skip_special` leaves out.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.shared.added.get(&id).is_some_and(|token| token.special)
    }

    /// The ids of all special tokens, ascending.
    #[must_use]
    pub fn special_token_ids(&self) -> &[u32] {
        &self.shared.special_token_ids
    }

    /// One more than the largest token id.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.shared.vocab_size
    }

    /// The longest input in tokens that the tokenizer's configuration allows, if it says so.
    #[must_use]
    pub fn model_max_length(&self) -> Option<u64> {
        self.shared.model_max_length
    }

    /// The text of a named special token: `bos_token`, `eos_token`, `pad_token`, `unk_token`, ….
    #[must_use]
    pub fn named_token(&self, name: &str) -> Option<&str> {
        self.shared.named(name).map(|(_, text, _)| text.as_str())
    }

    /// The id of a named special token.
    #[must_use]
    pub fn named_token_id(&self, name: &str) -> Option<u32> {
        self.shared.named(name)?.2
    }

    /// The text of the token that begins a sequence.
    #[must_use]
    pub fn bos_token(&self) -> Option<&str> {
        self.named_token("bos_token")
    }

    /// The id of the token that begins a sequence.
    #[must_use]
    pub fn bos_token_id(&self) -> Option<u32> {
        self.named_token_id("bos_token")
    }

    /// The text of the token that ends a sequence.
    #[must_use]
    pub fn eos_token(&self) -> Option<&str> {
        self.named_token("eos_token")
    }

    /// The tokenizer's own end tokens, none or one; a generation config can name more.
    #[must_use]
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.shared.eos_token_ids
    }

    /// The chat template, if the model has one.
    #[must_use]
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.template.as_deref()
    }

    /// The prompt for a conversation.
    ///
    /// # Errors
    /// [`TemplateError::NoTemplate`], and what [`ChatTemplate::render`] says.
    pub fn render_chat(&self, input: &ChatInput) -> Result<String, TemplateError> {
        self.chat_template().ok_or(TemplateError::NoTemplate)?.render(input)
    }

    /// The same tokenizer as if its decoder were not understood.
    #[cfg(test)]
    pub(crate) fn decoding_by_library(&self) -> Self {
        let shared = &*self.shared;
        let shared = Shared {
            inner: shared.inner.clone(),
            fast: OnceLock::new(),
            pieces: Pieces::Other,
            added: shared.added.clone(),
            named: shared.named.clone(),
            eos_token_ids: shared.eos_token_ids.clone(),
            special_token_ids: shared.special_token_ids.clone(),
            ..*shared
        };
        Self { shared: Arc::new(shared), template: None }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.shared.inner
    }

    /// The tokens before and behind a text that no post-processor adds.
    pub(crate) fn around(&self) -> (Option<u32>, Option<u32>) {
        (self.shared.prefix, self.shared.suffix)
    }

    pub(crate) fn pieces(&self) -> &Pieces {
        &self.shared.pieces
    }

    /// Appends what token `id` adds to a text that has begun with `start`; false if it is left out.
    pub(crate) fn append_piece(
        &self,
        id: u32,
        skip_special: bool,
        start: &mut TextStart,
        out: &mut Vec<u8>,
    ) -> bool {
        if skip_special && self.is_special(id) {
            return false;
        }
        let Some(piece) = self.shared.piece(id) else { return false };
        let from = out.len();
        self.shared.pieces.append(&piece, out);
        start.strip(out, from);
        true
    }

    /// Decoding by the library, for vocabularies that [`Pieces`] does not know.
    pub(crate) fn library_decode(&self, ids: &[u32], skip_special: bool) -> String {
        // Decoders fail only on malformed state of their own; nothing is the best text then.
        self.shared.inner.decode(ids, skip_special).unwrap_or_default()
    }
}

/// What decoding still has to take away from the start of the text.
#[derive(Debug, Clone)]
pub(crate) struct TextStart(Option<Lead>);

impl TextStart {
    pub(crate) fn new(pieces: &Pieces) -> Self {
        match pieces {
            Pieces::SentencePiece { lead: Lead::Spaces(0), .. } => Self(None),
            Pieces::SentencePiece { lead, .. } => Self(Some(*lead)),
            Pieces::ByteLevel | Pieces::Other => Self(None),
        }
    }

    /// Whether the start of the text lies behind.
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_none()
    }

    /// Strips what belongs to the start from the token at `out[from..]`.
    fn strip(&mut self, out: &mut Vec<u8>, from: usize) {
        match self.0 {
            None => {}
            Some(Lead::FirstToken) => {
                let mut at = 0;
                out.retain(|&byte| {
                    at += 1;
                    at <= from || byte != b' '
                });
                self.0 = None;
            }
            Some(Lead::Spaces(left)) => {
                let token = &out[from..];
                let spaces = token.iter().take(left).take_while(|&&byte| byte == b' ').count();
                let is_over = spaces < token.len() || spaces == left;
                self.0 = if is_over { None } else { Some(Lead::Spaces(left - spaces)) };
                out.drain(from..from + spaces);
            }
        }
    }
}

impl Shared {
    fn new(inner: Inner, config: &TokenizerConfig, add_bos: bool, is_bare: bool) -> Self {
        let added: HashMap<u32, AddedToken> =
            inner.get_added_tokens_decoder().into_iter().collect();
        let named: Vec<_> = config
            .named
            .iter()
            .map(|(name, token)| {
                (name.clone(), token.content.clone(), inner.token_to_id(&token.content))
            })
            .collect();
        let id_of =
            |name: &str| named.iter().find(|(key, ..)| key == name).and_then(|entry| entry.2);
        let add_eos = is_bare && config.add_eos_token == Some(true);
        let mut special: Vec<u32> =
            added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        special.sort_unstable();
        let largest_added = added.keys().max().map_or(0, |&id| id as usize + 1);
        Self {
            pieces: Pieces::of(inner.get_decoder()),
            eos_token_ids: id_of("eos_token").into_iter().collect(),
            special_token_ids: special,
            prefix: id_of("bos_token").filter(|_| add_bos),
            suffix: id_of("eos_token").filter(|_| add_eos),
            vocab_size: inner.get_vocab_size(false).max(largest_added),
            model_max_length: config.model_max_length,
            added,
            named,
            inner,
            fast: OnceLock::new(),
        }
    }

    /// Without what no post-processor adds.
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, String> {
        let fast = self.fast.get_or_init(|| FastPath::of(&self.inner)).as_ref();
        let model = self.inner.get_model();
        if let Some(ids) = fast.and_then(|fast| fast.encode(model, text, add_special_tokens)) {
            return ids;
        }
        let encoding = self.inner.encode_fast(text, add_special_tokens);
        encoding.map(|encoding| encoding.get_ids().to_vec()).map_err(|error| error.to_string())
    }

    fn piece(&self, id: u32) -> Option<String> {
        let added = self.inner.get_added_vocabulary().simple_id_to_token(id);
        added.or_else(|| tokenizers::Model::id_to_token(self.inner.get_model(), id))
    }

    fn named(&self, name: &str) -> Option<&(String, String, Option<u32>)> {
        self.named.iter().find(|(key, ..)| key == name)
    }
}

/// OPT begins every prompt with BOS, also where its configuration does not say so.
fn is_opt(dir: &Path) -> Result<bool, TokenizerError> {
    let config = read_object(&dir.join("config.json"))?.unwrap_or_default();
    Ok(config.get("model_type").and_then(Value::as_str) == Some("opt"))
}

/// Adds the tokens of the configuration that the tokenizer does not know as added tokens yet.
fn add_configured_tokens(inner: &mut Inner, config: &TokenizerConfig) -> Result<(), String> {
    let known = inner.get_added_tokens_decoder();
    let mut missing: Vec<AddedToken> = Vec::new();
    let is_named = |content: &str| config.named.iter().any(|(_, token)| token.content == content);
    let is_special =
        |content: &str| is_named(content) || config.extra.iter().any(|t| t.content == content);
    for (_, token) in &config.added {
        let mut token = token.clone();
        if is_special(&token.content) && !token.special {
            token.special = true;
        }
        if !known.values().any(|other| *other == token) {
            missing.push(token);
        }
    }
    for token in config.named.iter().map(|(_, token)| token).chain(&config.extra) {
        if missing.iter().any(|other| other.content == token.content) {
            continue;
        }
        match known.values().find(|other| other.content == token.content) {
            Some(other) if other.special => {}
            Some(other) => missing.push(AddedToken { special: true, ..other.clone() }),
            None => missing.push(token.clone()),
        }
    }
    if !missing.is_empty() {
        inner.add_tokens(missing).map_err(|error| error.to_string())?;
    }
    Ok(())
}
