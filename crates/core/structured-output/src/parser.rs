//! llguidance's parser, whose panics are errors.

use std::panic::AssertUnwindSafe;

use llguidance::TokenParser;
use llguidance::api::{StopReason, TopLevelGrammar};
use llguidance::panic_utils::catch_unwind;
use toktrie::SimpleVob;

use crate::error::MatchError;
use crate::limits;
use crate::vocabulary::Vocabulary;

/// How llguidance says that no token leads on.
const NO_TOKEN: &str = "NoExtensionBias";

pub(crate) struct Parser {
    inner: TokenParser,
    /// A failure is for good: what was half done is never continued.
    failed: Option<MatchError>,
}

impl Parser {
    /// The parser of a grammar, whose first mask is known to be there.
    ///
    /// # Errors
    /// A message of one line, with a place in the grammar before it where there is one.
    pub(crate) fn new(vocabulary: &Vocabulary, text: &str) -> Result<Self, String> {
        // Grammars are read recursively; the caller's stack may be a small one.
        stacker::grow(limits::STACK_BYTES, || {
            let grammar = TopLevelGrammar::from_lark(text.to_owned());
            let parser = vocabulary.factory.create_parser(grammar);
            let inner = parser.map_err(|error| one_line(&format!("{error:#}")))?;
            let mut parser = Self { inner, failed: None };
            parser.inner.start_without_prompt();
            if let Some(warning) = parser.inner.grammar_warnings().into_iter().next() {
                return Err(one_line(&warning));
            }
            match parser.mask() {
                Ok(_) => Ok(parser),
                Err(MatchError::NoToken) => Err("unsatisfiable: no text fits".to_owned()),
                Err(error) => Err(one_line(&error.to_string())),
            }
        })
    }

    /// A parser in the same state that shares nothing with this one.
    pub(crate) fn deep_clone(&self) -> Self {
        Self { inner: self.inner.deep_clone(), failed: self.failed.clone() }
    }

    pub(crate) fn mask(&mut self) -> Result<SimpleVob, MatchError> {
        if self.is_complete() {
            return Ok(self.inner.token_env.tok_trie().eos_token_set());
        }
        let inner = &mut self.inner;
        let result = catch_unwind(AssertUnwindSafe(|| inner.compute_mask()));
        self.settled(result.map_err(failure))
    }

    pub(crate) fn consume(&mut self, token: u32) -> Result<(), MatchError> {
        let inner = &mut self.inner;
        let result = catch_unwind(AssertUnwindSafe(|| {
            inner.consume_token(token)?;
            inner.check_stop()
        }));
        self.settled(result.map(drop).map_err(failure))
    }

    pub(crate) fn num_valid(&mut self, tokens: &[u32]) -> Result<usize, MatchError> {
        let inner = &mut self.inner;
        let result = catch_unwind(AssertUnwindSafe(|| inner.validate_tokens_raw(tokens)));
        self.settled(result.map_err(failure))
    }

    pub(crate) fn rollback(&mut self, num_tokens: usize) -> Result<(), MatchError> {
        let inner = &mut self.inner;
        let result = catch_unwind(AssertUnwindSafe(|| inner.rollback(num_tokens)));
        self.settled(result.map_err(failure))
    }

    pub(crate) fn is_accepting(&mut self) -> Result<bool, MatchError> {
        let inner = &mut self.inner;
        let result = catch_unwind(AssertUnwindSafe(|| Ok(inner.is_accepting())));
        self.settled(result.map_err(failure))
    }

    /// Whether the grammar allows nothing more.
    pub(crate) fn is_complete(&self) -> bool {
        self.failed.is_none() && self.inner.stop_reason() == StopReason::NoExtension
    }

    /// Back at the start of the text, with all that was learned of the grammar. None after a
    /// failure, or if that is so much that a later text could meet its limit.
    pub(crate) fn at_start(mut self, max_states: usize) -> Option<Self> {
        let fresh = self.failed.is_none() && self.rollback(self.inner.num_tokens()).is_ok();
        (fresh && self.inner.parser.lexer_stats().num_states <= max_states).then_some(self)
    }

    /// About how much memory its automata take.
    pub(crate) fn num_bytes(&self) -> usize {
        self.inner.parser.lexer_stats().num_bytes
    }

    /// The result of a call, or the failure before it.
    fn settled<T>(&mut self, result: Result<T, MatchError>) -> Result<T, MatchError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        // Where no token leads on, the text can still be taken back.
        if let Err(error @ MatchError::TooComplex(_)) = &result {
            self.failed = Some(error.clone());
        }
        result
    }
}

fn failure(error: impl std::fmt::Display) -> MatchError {
    match one_line(&error.to_string()) {
        message if message.starts_with(NO_TOKEN) => MatchError::NoToken,
        message => MatchError::TooComplex(message),
    }
}

/// The first line of a library's message, which may go on with its state.
fn one_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().chars().take(300).collect()
}
