//! The constraint of one sequence.

use std::fmt;
use std::sync::Arc;

use llguidance::api::StopReason;

use crate::error::MatchError;
use crate::vocabulary::Vocabulary;

/// Follows a sequence and says which tokens are possible next.
///
/// A step is [`Matcher::mask`], sampling, [`Matcher::accept`]. The mask is never wider than the
/// constraint: what cannot be followed any more is an error. Both calls are work for the thread
/// that samples; they take some ten microseconds as a rule and a few milliseconds at worst.
pub struct Matcher {
    inner: llguidance::Matcher,
    vocabulary: Arc<Vocabulary>,
    mask: Vec<u32>,
    /// `mask` is that of the text so far.
    is_current: bool,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// No end token was accepted.
    Open,
    /// One was, and llguidance counts it as a token.
    Counted,
    /// One was, after llguidance had stopped by itself.
    Uncounted,
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher").field("vocabulary", &self.vocabulary).finish_non_exhaustive()
    }
}

impl Matcher {
    pub(crate) fn new(inner: llguidance::Matcher, vocabulary: Arc<Vocabulary>) -> Self {
        Self { inner, vocabulary, mask: Vec::new(), is_current: false, end: End::Open }
    }

    /// The tokens that are possible next: bit `i % 32` of word `i / 32` for token `i`, in
    /// [`Vocabulary::mask_words`] words. At least one is set. End tokens are possible where the
    /// text may end, and only they where it must.
    ///
    /// # Errors
    /// The text has ended, no token leads on, or a step's limits do not suffice.
    pub fn mask(&mut self) -> Result<&[u32], MatchError> {
        if self.end != End::Open {
            return Err(MatchError::Ended);
        }
        if !self.is_current {
            let computed = self.inner.compute_mask_or_eos();
            self.mask = computed.map_err(|error| self.failure(&error))?.into();
            self.mask.resize(self.vocabulary.mask_words(), 0);
            for (alias, first) in &self.vocabulary.aliases {
                if bit(&self.mask, *first) {
                    self.mask[*alias as usize / 32] |= 1 << (alias % 32);
                }
            }
            if self.mask.iter().all(|word| *word == 0) {
                return Err(MatchError::NoToken);
            }
            self.is_current = true;
        }
        Ok(&self.mask)
    }

    /// Appends a token to the text. After an error of kind [`MatchError::Impossible`] the text is
    /// as before.
    ///
    /// # Errors
    /// The token is not possible, the text has ended, or a step's limits do not suffice.
    pub fn accept(&mut self, token: u32) -> Result<(), MatchError> {
        if self.end != End::Open {
            return Err(MatchError::Ended);
        }
        if self.vocabulary.end_tokens.contains(&token) {
            return self.accept_end(token);
        }
        let first = self.vocabulary.aliases.get(&token).copied().unwrap_or(token);
        let possible = self.vocabulary.is_text(first)
            && match self.is_current {
                true => bit(&self.mask, token),
                false => self.valid_prefix(&[first])? == 1,
            };
        if !possible {
            return Err(MatchError::Impossible(token));
        }
        self.is_current = false;
        self.inner.consume_token(first).map_err(|error| self.failure(&error))
    }

    fn accept_end(&mut self, token: u32) -> Result<(), MatchError> {
        if !self.can_end() {
            return Err(MatchError::Impossible(token));
        }
        self.end = End::Uncounted;
        if !self.inner.is_stopped() {
            self.inner.consume_token(token).map_err(|error| self.failure(&error))?;
            self.end = End::Counted;
        }
        Ok(())
    }

    /// How many of the tokens can be accepted, one after the other; end tokens are not counted.
    ///
    /// # Errors
    /// A step's limits do not suffice.
    pub fn valid_prefix(&mut self, tokens: &[u32]) -> Result<usize, MatchError> {
        let known = |token: &&u32| self.vocabulary.is_text(self.first(**token));
        let firsts: Vec<u32> = tokens.iter().take_while(known).map(|t| self.first(*t)).collect();
        if self.end != End::Open || self.inner.is_stopped() {
            return Ok(0);
        }
        self.inner.validate_tokens(&firsts).map_err(|error| self.failure(&error))
    }

    /// Takes back the last tokens, at most all.
    ///
    /// # Errors
    /// The constraint failed before.
    pub fn rollback(&mut self, num_tokens: usize) -> Result<(), MatchError> {
        if num_tokens == 0 {
            return Ok(());
        }
        let counted = num_tokens - usize::from(self.end == End::Uncounted);
        self.end = End::Open;
        self.is_current = false;
        self.inner.rollback(counted).map_err(|error| self.failure(&error))
    }

    /// Whether the text is complete as it is, so that an end token is possible.
    pub fn can_end(&mut self) -> bool {
        self.is_complete() || self.inner.is_accepting().unwrap_or(false)
    }

    /// Whether no text can follow: an end token was accepted, or is all that is possible.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.end != End::Open || self.inner.stop_reason() == StopReason::NoExtension
    }

    fn first(&self, token: u32) -> u32 {
        self.vocabulary.aliases.get(&token).copied().unwrap_or(token)
    }

    fn failure(&self, error: &dyn fmt::Display) -> MatchError {
        match one_line(&error.to_string()) {
            message if message.starts_with(NO_TOKEN) => MatchError::NoToken,
            message => MatchError::TooComplex(message),
        }
    }
}

/// How llguidance says that no token leads on.
pub(crate) const NO_TOKEN: &str = "NoExtensionBias";

fn bit(mask: &[u32], token: u32) -> bool {
    mask.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
}

/// The first line of a library's message, which may go on with its state.
pub(crate) fn one_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().chars().take(300).collect()
}
