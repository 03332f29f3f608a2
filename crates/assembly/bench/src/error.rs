//! How a benchmark fails: one line of cause, one of cure.

use std::error::Error;
use std::fmt;
use tyndall_types::with_causes;

/// A benchmark that gave no figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchError {
    cause: String,
    cure: Option<String>,
}

impl BenchError {
    pub(crate) fn new(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), cure: None }
    }

    /// From an error, with its own causes, after what failed.
    pub(crate) fn of(what: &str, error: &dyn Error) -> Self {
        Self::new(format!("{what}: {}", with_causes(error.to_string(), error)))
    }

    pub(crate) fn with_cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    /// What to do about it, where that is known.
    #[must_use]
    pub fn cure(&self) -> Option<&str> {
        self.cure.as_deref()
    }
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl Error for BenchError {}
