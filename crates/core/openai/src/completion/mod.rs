//! `POST /v1/completions`.

mod request;
mod response;
mod writer;

pub use request::{CompletionRequest, Prompt, parse_completion};
pub(crate) use request::{model, prompts};
pub use response::{CompletionChoice, CompletionLogprobs, CompletionResponse};
pub use writer::{CompletionHead, CompletionWriter, PromptDetails, completion_response};
