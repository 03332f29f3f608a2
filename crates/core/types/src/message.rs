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
///
/// It is compiled by `tyndall-structured-output`, which says what of it can be enforced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum StructuredOutput {
    /// JSON that a schema describes.
    Json {
        /// JSON schema, draft 2020-12.
        schema: Value,
        /// No white space between tokens of JSON.
        compact: bool,
        /// Objects have only the properties that the schema names, where it says nothing of others
        /// and is not put together from several.
        closed: bool,
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
    /// What a format describes.
    Format(Format),
}

/// Text of several parts, as in a structural tag of the newer form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Format {
    /// This text.
    ConstString(String),
    /// JSON that a schema describes.
    JsonSchema(Value),
    /// Any text, up to the end of the tag around it; without these strings.
    AnyText {
        /// They do not occur.
        excludes: Vec<String>,
    },
    /// A context-free grammar, as in [`StructuredOutput::Grammar`].
    Grammar(String),
    /// A regular expression.
    Regex(String),
    /// One after the other.
    Sequence(Vec<Format>),
    /// One of them.
    Or(Vec<Format>),
    /// Text between a begin and an end.
    Tag(Tag),
    /// Free text in which a trigger begins a tag that must then be completed.
    TriggeredTags {
        /// Each tag's `begin` starts with one of these.
        triggers: Vec<String>,
        /// What can be begun.
        tags: Vec<Tag>,
        /// There is a tag.
        at_least_one: bool,
        /// The first tag is all.
        stop_after_first: bool,
        /// They do not occur in the free text.
        excludes: Vec<String>,
    },
    /// Tags with a separator between them.
    TagsWithSeparator {
        /// Which tags.
        tags: Vec<Tag>,
        /// Between two of them.
        separator: String,
        /// There is a tag.
        at_least_one: bool,
        /// The first tag is all.
        stop_after_first: bool,
    },
}

/// Text between a begin and an end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tag {
    /// Text before the content.
    pub begin: String,
    /// What is between.
    pub content: Box<Format>,
    /// Text behind it: one of these.
    pub end: Vec<String>,
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
