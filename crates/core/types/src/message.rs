//! What a model's answer consists of, in no API's words.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A function that a model may call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// Unique in a request.
    pub name: String,
    /// For the model.
    pub description: Option<String>,
    /// JSON schema of the arguments, an object; one without properties where the client sent none.
    pub parameters: Value,
    /// Arguments must follow the schema, also where the model decides whether to call.
    pub strict: bool,
}

/// Which tools a model calls.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ToolChoice {
    /// None; its text is text.
    #[default]
    None,
    /// As it likes.
    Auto,
    /// At least one.
    Required,
    /// This one, once.
    Named(String),
}

/// What an answer goes on with. The text that surrounds its parts in the model's own format, such as
/// `<think>` or `<tool_call>`, is in none of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageDelta {
    /// Text before the answer, for those who want to follow the thoughts.
    Reasoning(String),
    /// Text of the answer.
    Content(String),
    /// A call begins.
    ToolCall {
        /// Counts from 0; the next one begins when this one is complete.
        index: u32,
        /// The function's name, whole.
        name: String,
    },
    /// The call's arguments go on: all fragments of an index together are one JSON object.
    Arguments {
        /// Of the call.
        index: u32,
        /// A part of the JSON text, not empty.
        fragment: String,
    },
}

/// What text is possible at all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum StructuredOutput {
    /// JSON that a schema describes.
    Json {
        /// JSON schema, draft 2020-12.
        schema: Value,
        /// No white space between tokens of JSON.
        compact: bool,
    },
    /// Any JSON object.
    JsonObject,
    /// A regular expression matches the whole text.
    Regex(String),
    /// One of these strings.
    Choice(Vec<String>),
    /// A context-free grammar: Lark's syntax, or EBNF as of llama.cpp (`root ::= …`).
    Grammar(String),
    /// Free text in which a trigger begins a structure that must then be completed.
    StructuralTag {
        /// What can be begun.
        structures: Vec<Structure>,
        /// Each structure's `begin` starts with one of these.
        triggers: Vec<String>,
    },
}

/// A piece of structured text inside of free text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Structure {
    /// Text before it.
    pub begin: String,
    /// JSON schema of it.
    pub schema: Value,
    /// Text after it.
    pub end: String,
}
