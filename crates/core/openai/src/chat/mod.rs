//! `POST /v1/chat/completions`.

mod messages;
mod request;
mod response;
mod tools;
mod writer;

pub use request::{ChatRequest, parse_chat};
pub use response::{ChatLogprobs, ChatResponse};
pub use writer::{CallIds, ChatHead, ChatWriter, chat_response};
