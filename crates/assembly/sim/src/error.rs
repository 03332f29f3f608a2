//! Why a simulation could not be run.

use std::path::PathBuf;

/// One line of cause, and one of cure where it is known.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The config file cannot be used.
    #[error("the config file cannot be used: {0}")]
    Config(String),
    /// A line of the trace is wrong.
    #[error("line {line} of the trace: {message}")]
    Trace {
        /// From 1; the header is the first.
        line: usize,
        /// What is wrong with it, and what is accepted.
        message: String,
    },
    /// A generator of a trace is wrong.
    #[error("{text:?} is not a usable generator of a trace: {message}")]
    Generator {
        /// What was written.
        text: String,
        /// What is accepted.
        message: String,
    },
    /// A fault is wrong.
    #[error("{text:?} is not a usable fault: {message}")]
    Faults {
        /// What was written.
        text: String,
        /// What is accepted.
        message: String,
    },
    /// A number is wrong.
    #[error("{text:?} is not usable for {option}: {message}")]
    Option {
        /// Of which option.
        option: &'static str,
        /// What was written.
        text: String,
        /// What is accepted.
        message: String,
    },
    /// A file could not be read or written.
    #[error("failed to {verb} {}", path.display())]
    File {
        /// `read` or `write`.
        verb: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The summary could not be written.
    #[error("failed to write the summary")]
    Output(#[source] std::io::Error),
}
