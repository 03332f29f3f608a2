//! `POST /v1/messages` and `POST /v1/messages/count_tokens`, Anthropic's API.

mod messages;
mod request;
mod response;
mod writer;

pub(crate) use request::MIN_BUDGET_TOKENS;
pub use request::{parse_count_tokens, parse_messages};
pub use response::{ContentBlock, CountTokensResponse, MessagesResponse, MessagesUsage};
pub use writer::{MessagesHead, MessagesWriter, messages_response};
