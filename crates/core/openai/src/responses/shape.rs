//! What an answer repeats of its request, and how the request wants it.

use super::tools::{ToolName, ToolNames};
use serde_json::Value;

/// How an answer looks. A request has it ready for the writer of its answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ResponseShape {
    /// An object of what the answer repeats.
    pub(super) echo: Value,
    /// The tools by their names.
    pub(super) names: ToolNames,
    /// Log-probabilities are told.
    pub(super) logprobs: bool,
    /// The thoughts are told.
    pub(super) reasoning: bool,
    /// The thoughts are also told in a form that clients that keep nothing else send back.
    pub(super) sealed: bool,
}

impl ResponseShape {
    /// The tool that the model calls so, as the client knows it.
    pub(super) fn tool(&self, shown: &str) -> ToolName {
        self.names.by_shown(shown).cloned().unwrap_or_else(|| ToolName {
            shown: shown.to_owned(),
            name: shown.to_owned(),
            namespace: None,
            custom: false,
        })
    }
}
