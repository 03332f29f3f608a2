//! A tokenizer's tokens, as bytes in a trie.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use llguidance::ParserFactory;
use toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};

use crate::limits;

/// The trie cannot hold longer tokens. The longest of known tokenizers are runs of blanks.
const TOKEN_BYTES: usize = 1000;

/// Sets of tokens for which one test may stand for a test of each: words, and what free text and
/// strings of JSON consist of. Each is a part of the next.
const SLICES: [&str; 5] = [
    "[a-z]{1,9}",
    " ?[a-z]{1,9}",
    r#"[^"\\\x00-\x1F\x7F<\[{]{1,10}"#,
    r#"[^"\\\x00-\x1F\x7F<\[{]{1,30}"#,
    r#"[^"\\\x00-\x1F\x7F]+"#,
];

/// Tokens that make no vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyError {
    /// A row of logits is too short for the tokens, or too long for the trie.
    #[error("{tokens} tokens do not fit into {vocab_size} logits")]
    Size {
        /// Number of tokens.
        tokens: usize,
        /// Length of a row of logits.
        vocab_size: usize,
    },
    /// No token, or one beyond the logits, is said to end the text.
    #[error("there is no end token within the vocabulary")]
    EndTokens,
    /// A failure of the trie's library.
    #[error("failed to index the vocabulary: {0}")]
    Index(String),
}

/// All tokens of a model. Made once for each, in some hundred milliseconds.
pub struct Vocabulary {
    pub(crate) factory: ParserFactory,
    /// Tokens with the bytes of an earlier one, and that one.
    pub(crate) aliases: HashMap<u32, u32>,
    pub(crate) end_tokens: Vec<u32>,
    vocab_size: usize,
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary").field("vocab_size", &self.vocab_size).finish_non_exhaustive()
    }
}

impl Vocabulary {
    /// Indexes tokens. `tokens[i]` has the bytes that token `i` adds to the text, and none if it
    /// is never part of a text: special tokens and holes. `vocab_size` is the length of a row of
    /// logits, which may be longer than the tokenizer.
    ///
    /// # Errors
    /// The sizes do not fit, or there is no end token.
    pub fn new(
        mut tokens: Vec<Vec<u8>>,
        end_tokens: &[u32],
        vocab_size: usize,
    ) -> Result<Self, VocabularyError> {
        // The trie has 24 bits for a token's id.
        if tokens.len() > vocab_size || vocab_size >= 0xFF_FFFF {
            return Err(VocabularyError::Size { tokens: tokens.len(), vocab_size });
        }
        if end_tokens.is_empty() || end_tokens.iter().any(|id| *id as usize >= vocab_size) {
            return Err(VocabularyError::EndTokens);
        }
        tokens.resize(vocab_size, Vec::new());
        for id in end_tokens {
            tokens[*id as usize].clear();
        }
        let aliases = take_unusable(&mut tokens);
        let index = |error: &dyn fmt::Display| VocabularyError::Index(error.to_string());
        let info = TokRxInfo::new(vocab_size as u32, end_tokens[0]);
        let trie = TokTrie::from(&info, &tokens).with_eos_tokens(end_tokens);
        let environment: TokEnv = Arc::new(Environment(trie));
        let slices = SLICES.map(str::to_owned);
        let mut factory =
            ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
                .map_err(|error| index(&error))?;
        factory.quiet();
        *factory.limits_mut() = limits::parser_limits();
        Ok(Self { factory, aliases, end_tokens: end_tokens.to_vec(), vocab_size })
    }

    /// Single bytes and an end: enough to know whether a wish can be honoured.
    pub(crate) fn bytes() -> Result<Self, VocabularyError> {
        Self::new((0..=255).map(|byte| vec![byte]).collect(), &[256], 257)
    }

    /// Length of a row of logits.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Length of a mask, in words of 32 bits.
    #[must_use]
    pub fn mask_words(&self) -> usize {
        self.vocab_size.div_ceil(32)
    }

    pub(crate) fn is_text(&self, token: u32) -> bool {
        let trie = self.factory.tok_env().tok_trie();
        (token as usize) < self.vocab_size && !trie.token(token).is_empty()
    }
}

/// Clears tokens that no text has and those that repeat another; the latter, with that one.
fn take_unusable(tokens: &mut [Vec<u8>]) -> HashMap<u32, u32> {
    let mut first: HashMap<Vec<u8>, u32> = HashMap::with_capacity(tokens.len());
    let mut aliases = HashMap::new();
    for (id, token) in tokens.iter_mut().enumerate() {
        // The byte 0xFF is in no UTF-8 text, and marks special tokens in the trie.
        if token.len() > TOKEN_BYTES || token.contains(&0xFF) {
            token.clear();
        }
        if token.is_empty() {
            continue;
        }
        match first.get(token) {
            Some(same) => {
                aliases.insert(id as u32, *same);
                token.clear();
            }
            None => {
                first.insert(token.clone(), id as u32);
            }
        }
    }
    aliases
}

/// What llguidance wants to know of a tokenizer. Text is never tokenized here: the model chooses
/// among all ways to write it.
struct Environment(TokTrie);

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.0.greedy_tokenize(bytes)
    }

    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ends_are_checked() {
        let tokens = || vec![b"a".to_vec(), b"b".to_vec()];
        let size = VocabularyError::Size { tokens: 2, vocab_size: 1 };
        assert_eq!(Vocabulary::new(tokens(), &[0], 1).unwrap_err(), size);
        assert_eq!(Vocabulary::new(tokens(), &[], 4).unwrap_err(), VocabularyError::EndTokens);
        assert_eq!(Vocabulary::new(tokens(), &[4], 4).unwrap_err(), VocabularyError::EndTokens);
        let vocabulary = Vocabulary::new(tokens(), &[3], 40).unwrap();
        assert_eq!((vocabulary.vocab_size(), vocabulary.mask_words()), (40, 2));
    }
}
