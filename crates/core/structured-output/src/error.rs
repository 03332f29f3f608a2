//! Why a wish for structured text cannot be honoured.

use std::fmt;

/// Which part of a wish is at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// All of it.
    Whole,
    /// A keyword of a JSON schema, as a JSON pointer such as `/properties/a/multipleOf`.
    Pointer(String),
    /// A place in a grammar, both counted from 1.
    Line {
        /// The line.
        line: usize,
        /// The character of the line.
        column: usize,
    },
    /// A character of a regular expression, counted from 1.
    Character(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Pointer(pointer) if pointer.is_empty() => write!(f, "at the schema's root: "),
            Self::Pointer(pointer) => write!(f, "at {pointer}: "),
            Self::Line { line, column } => write!(f, "line {line}, column {column}: "),
            Self::Character(index) => write!(f, "character {index} of the pattern: "),
        }
    }
}

/// A wish that cannot be honoured; always the client's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}{cause}; {cure}")]
pub struct StructuredOutputError {
    /// What is at fault.
    pub place: Place,
    /// What is wrong, in one line.
    pub cause: String,
    /// What to do, in one line.
    pub cure: String,
}

impl StructuredOutputError {
    pub(crate) fn new(place: Place, cause: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { place, cause: cause.into(), cure: cure.into() }
    }

    pub(crate) fn whole(cause: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::new(Place::Whole, cause, cure)
    }

    /// A keyword of a schema, by its pointer.
    pub(crate) fn keyword(at: &str, cause: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::new(Place::Pointer(at.to_owned()), cause, cure)
    }

    /// The same error of a schema that lies at `at` in what the client sent.
    pub(crate) fn below(mut self, at: &str) -> Self {
        match &mut self.place {
            Place::Pointer(pointer) => pointer.insert_str(0, at),
            Place::Whole => self.place = Place::Pointer(at.to_owned()),
            // A pattern's characters and a grammar's lines are counted in their own text.
            Place::Line { .. } | Place::Character(_) => {
                self.cause = format!("{}{}", self.place, self.cause);
                self.place = Place::Pointer(at.to_owned());
            }
        }
        self
    }
}

/// Why the next tokens of a sequence are not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatchError {
    /// An end token was accepted before: there is no next token.
    #[error("the text is complete; take no token after its end")]
    Ended,
    /// The token is not possible here.
    #[error("token {0} does not fit the text so far; sample by the mask")]
    Impossible(u32),
    /// What comes next costs more than a step may.
    #[error("the constraint is too complex to follow: {0}; use a simpler one")]
    TooComplex(String),
    /// No token of the vocabulary leads on.
    #[error("no token of the model's vocabulary continues the text; use another constraint")]
    NoToken,
}
