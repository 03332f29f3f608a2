//! What is wrong with a file, and where.

use super::node::Node;
use std::fmt;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// It can, but something in it has no effect or not the one that was meant.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file of a model where it stands; absent is the file itself.
    pub file: Option<String>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Where in the configuration; empty is all of it.
    pub path: String,
    /// The cause.
    pub message: String,
    /// What to do, where the message does not say it.
    pub cure: Option<String>,
    /// How bad it is.
    pub severity: Severity,
}

impl Problem {
    pub(super) fn error(node: &Node, path: &str, message: impl Into<String>) -> Self {
        Self {
            file: node.file.as_deref().map(str::to_owned),
            line: node.line,
            column: node.column,
            path: path.to_owned(),
            message: message.into(),
            cure: None,
            severity: Severity::Error,
        }
    }

    pub(super) fn warning(node: &Node, path: &str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(node, path, message) }
    }

    pub(super) fn with_cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }
}

/// `line:column: path: message`, then the cure on a line of its own. What stands in a model's file
/// begins with that file's name.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
        }
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        self.cure.as_ref().map_or(Ok(()), |cure| write!(f, "\n  help: {cure}"))
    }
}

/// The path of a field inside `path`.
pub(super) fn inside(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}
