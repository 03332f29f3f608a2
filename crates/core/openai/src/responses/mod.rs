//! `POST /v1/responses`, OpenAI's newer API.
//!
//! 1. The front end puts what a `previous_response_id` stands for before the new input:
//!    [`expand_input`].
//! 2. [`parse_responses`] makes a conversation of the items, and keeps what the answer repeats of
//!    the request: a [`ResponseShape`].
//! 3. [`responses_response`] or a [`ResponsesWriter`] puts the answer into items.
//! 4. The front end keeps the answer with its input: [`StoredResponse`], [`ResponseStore`].

mod input;
mod items;
mod request;
mod response;
mod shape;
mod store;
mod tools;
mod writer;

pub use request::{ResponsesRequest, parse_responses};
pub use response::{ResponsesHead, responses_response};
pub use shape::ResponseShape;
pub use store::{ItemOrder, ResponseStore, StoredResponse, expand_input, finished_response};
pub use writer::ResponsesWriter;
