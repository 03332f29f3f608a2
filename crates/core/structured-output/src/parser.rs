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

pub(crate) struct Parser(TokenParser);

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
            let mut parser = Self(parser.map_err(|error| one_line(&format!("{error:#}")))?);
            parser.0.start_without_prompt();
            if let Some(warning) = parser.0.grammar_warnings().into_iter().next() {
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
        Self(self.0.deep_clone())
    }

    pub(crate) fn mask(&mut self) -> Result<SimpleVob, MatchError> {
        if self.is_complete() {
            return Ok(self.0.token_env.tok_trie().eos_token_set());
        }
        catch_unwind(AssertUnwindSafe(|| self.0.compute_mask())).map_err(failure)
    }

    pub(crate) fn consume(&mut self, token: u32) -> Result<(), MatchError> {
        let parser = &mut self.0;
        catch_unwind(AssertUnwindSafe(|| {
            parser.consume_token(token)?;
            parser.check_stop()
        }))
        .map(drop)
        .map_err(failure)
    }

    pub(crate) fn num_valid(&mut self, tokens: &[u32]) -> Result<usize, MatchError> {
        catch_unwind(AssertUnwindSafe(|| self.0.validate_tokens_raw(tokens))).map_err(failure)
    }

    pub(crate) fn rollback(&mut self, num_tokens: usize) -> Result<(), MatchError> {
        catch_unwind(AssertUnwindSafe(|| self.0.rollback(num_tokens))).map_err(failure)
    }

    pub(crate) fn is_accepting(&mut self) -> Result<bool, MatchError> {
        catch_unwind(AssertUnwindSafe(|| Ok(self.0.is_accepting()))).map_err(failure)
    }

    /// Whether the grammar allows nothing more.
    pub(crate) fn is_complete(&self) -> bool {
        self.0.stop_reason() == StopReason::NoExtension
    }

    /// Back at the start of the text, with all that was learned of the grammar. None after a
    /// failure, or if that is so much that a later text could meet its limit.
    pub(crate) fn at_start(mut self, max_states: usize) -> Option<Self> {
        let healthy = self.0.stop_reason().is_ok();
        let fresh = healthy && self.rollback(self.0.num_tokens()).is_ok();
        (fresh && self.0.parser.lexer_stats().num_states <= max_states).then_some(self)
    }

    /// About how much memory its automata take.
    pub(crate) fn num_bytes(&self) -> usize {
        self.0.parser.lexer_stats().num_bytes
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
