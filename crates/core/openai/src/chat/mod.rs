//! `POST /v1/chat/completions`.

mod messages;
mod request;
mod response;
mod tools;
mod writer;

pub(crate) use messages::{ROLES, TEXT_PARTS, part_text, text_only};
pub use request::{ChatRequest, parse_chat};
pub(crate) use request::{EFFORTS, reasoning_effort, template_kwargs};
pub use response::{ChatLogprobs, ChatResponse};
pub use writer::{ChatHead, ChatWriter, chat_response};
