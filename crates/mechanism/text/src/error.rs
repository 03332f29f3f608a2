//! What can be wrong with a model's text files, and with a conversation.

use std::path::PathBuf;

/// A tokenizer that cannot be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// None of the known tokenizer files exists.
    #[error(
        "no tokenizer in {}: neither tokenizer.json nor vocab.json with merges.txt nor vocab.txt; \
         download the model again with its tokenizer files", dir.display()
    )]
    Missing {
        /// The model directory.
        dir: PathBuf,
    },
    /// There is a tokenizer, in a format that is not read here.
    #[error(
        "{} is a format that is not supported; write a tokenizer.json beside it, for example with \
         transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)", path.display()
    )]
    UnsupportedFormat {
        /// The file that was found.
        path: PathBuf,
    },
    /// A file exists and cannot be read.
    #[error("failed to read {}; check its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file's content is broken.
    #[error("{} is broken: {reason}; download it again", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The first thing that is wrong in it.
        reason: String,
    },
    /// The text cannot be turned into tokens.
    #[error("failed to encode the text: {reason}")]
    Encode {
        /// What the tokenizer says.
        reason: String,
    },
}

/// A conversation that cannot be turned into a prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The model has no chat template.
    #[error(
        "the model has no chat template; add a chat_template.jinja to its directory, \
         or send a plain prompt to /v1/completions"
    )]
    NoTemplate,
    /// The model has several templates, none of which applies.
    #[error("the model has several chat templates and none is named \"default\": {names}")]
    NoDefault {
        /// Their names, separated by commas.
        names: String,
    },
    /// There is nothing to render.
    #[error("messages must not be empty")]
    EmptyConversation,
    /// A message is not an object.
    #[error("messages[{index}] must be an object")]
    InvalidMessage {
        /// Its place in the conversation, from 0.
        index: usize,
    },
    /// A content part is not text.
    #[error(
        "messages[{index}] has a content part of type \"{kind}\", but the model takes only text"
    )]
    UnsupportedContent {
        /// The message's place in the conversation, from 0.
        index: usize,
        /// The part's type.
        kind: String,
    },
    /// Two ways to end the prompt that exclude each other.
    #[error("continue_final_message and add_generation_prompt exclude each other; send only one")]
    ConflictingEnd,
    /// The final message cannot be continued.
    #[error("continue_final_message is set, but {reason}")]
    Continue {
        /// What stands against it.
        reason: &'static str,
    },
    /// The template refused the conversation; the words are its own.
    #[error("{message}")]
    Raised {
        /// What the template said.
        message: String,
    },
    /// The template did not come to an end.
    #[error("the chat template ran too long and was stopped; shorten the conversation")]
    OutOfFuel,
    /// The template itself is broken.
    #[error("the chat template is broken: {reason}")]
    Syntax {
        /// What and where.
        reason: String,
    },
    /// The template does not get along with this conversation.
    #[error("the chat template failed: {reason}")]
    Render {
        /// What and where.
        reason: String,
    },
}

impl TemplateError {
    /// Whether another request could do better (a 400); else the model's files are at fault.
    #[must_use]
    pub fn is_client_error(&self) -> bool {
        !matches!(self, Self::Syntax { .. } | Self::NoDefault { .. })
    }
}
