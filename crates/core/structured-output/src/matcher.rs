//! The constraint of one sequence.

use std::fmt;

use crate::compiler::Origin;
use crate::error::MatchError;
use crate::parser::Parser;

/// Follows a sequence and says which tokens are possible next.
///
/// A step is [`Matcher::mask`], sampling, [`Matcher::accept`]. The mask is never wider than the
/// constraint: what cannot be followed any more is an error. Both calls are work for the thread
/// that samples: ten microseconds as a rule, and some milliseconds where most of a vocabulary's
/// tokens have to be tried one by one, as for the first text of a grammar.
pub struct Matcher {
    /// There until it is dropped.
    parser: Option<Parser>,
    origin: Origin,
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
        f.debug_struct("Matcher").finish_non_exhaustive()
    }
}

impl Drop for Matcher {
    fn drop(&mut self) {
        if let Some(parser) = self.parser.take() {
            self.origin.learn(parser);
        }
    }
}

impl Matcher {
    pub(crate) fn new(parser: Parser, origin: Origin) -> Self {
        let parser = Some(parser);
        Self { parser, origin, mask: Vec::new(), is_current: false, end: End::Open }
    }

    /// The tokens that are possible next: bit `i % 32` of word `i / 32` for token `i`, in
    /// [`Vocabulary::mask_words`](crate::Vocabulary::mask_words) words. At least one is set. End
    /// tokens are possible where the text may end, and only they where it must.
    ///
    /// # Errors
    /// The text has ended, no token leads on, or a step's limits do not suffice.
    pub fn mask(&mut self) -> Result<&[u32], MatchError> {
        if self.end != End::Open {
            return Err(MatchError::Ended);
        }
        if !self.is_current {
            let vocabulary = self.origin.vocabulary();
            let parser = self.parser.as_mut().ok_or(MatchError::Ended)?;
            self.mask = parser.mask()?.into();
            self.mask.resize(vocabulary.mask_words(), 0);
            for (alias, first) in &vocabulary.aliases {
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
        if self.origin.vocabulary().end_tokens.contains(&token) {
            return self.accept_end(token);
        }
        let first = self.first(token);
        let possible = match self.is_current {
            true => bit(&self.mask, token),
            false => self.valid_prefix(&[first])? == 1,
        };
        if !possible {
            return Err(MatchError::Impossible(token));
        }
        self.is_current = false;
        self.parser()?.consume(first)
    }

    fn accept_end(&mut self, token: u32) -> Result<(), MatchError> {
        if !self.can_end() {
            return Err(MatchError::Impossible(token));
        }
        self.end = End::Uncounted;
        if !self.parser()?.is_complete() {
            self.parser()?.consume(token)?;
            self.end = End::Counted;
        }
        Ok(())
    }

    /// How many of the tokens can be accepted, one after the other; end tokens are not counted.
    ///
    /// # Errors
    /// A step's limits do not suffice.
    pub fn valid_prefix(&mut self, tokens: &[u32]) -> Result<usize, MatchError> {
        if self.is_complete() {
            return Ok(0);
        }
        let firsts: Vec<u32> = tokens
            .iter()
            .map(|token| self.first(*token))
            .take_while(|token| self.origin.vocabulary().is_text(*token))
            .collect();
        self.parser()?.num_valid(&firsts)
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
        self.parser()?.rollback(counted)
    }

    /// Whether the text is complete as it is, so that an end token is possible.
    pub fn can_end(&mut self) -> bool {
        self.is_complete() || self.parser().and_then(Parser::is_accepting).unwrap_or(false)
    }

    /// Whether no text can follow: an end token was accepted, or is all that is possible.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.end != End::Open || self.parser.as_ref().is_none_or(Parser::is_complete)
    }

    fn first(&self, token: u32) -> u32 {
        self.origin.vocabulary().aliases.get(&token).copied().unwrap_or(token)
    }

    fn parser(&mut self) -> Result<&mut Parser, MatchError> {
        self.parser.as_mut().ok_or(MatchError::Ended)
    }
}

fn bit(mask: &[u32], token: u32) -> bool {
    mask.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
}
