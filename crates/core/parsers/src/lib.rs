//! A model's raw text in; reasoning, content and calls of tools out, while it comes.
//!
//! A [`MessageParser`] knows the family's forms, [`ToolFormat`] and [`ReasoningFormat`], which have
//! the names that vLLM's parsers have or are found by [`Family`]. What holds for all of them:
//!
//! - How the text is cut changes nothing: joined deltas are the same for every way to cut it. Text
//!   that may be the begin of a marker is held back until it is clear what it is.
//! - The text around the parts, such as `<think>` or `<tool_call>`, is in none of them.
//! - Reasoning is everything between its markers and content everything behind them, white space
//!   included: vLLM's parsers for `<think>` strip neither the line break behind `<think>` nor the
//!   blank line behind `</think>`, and so it is here. A second end marker is left out.
//! - White space is content unless a call is all that comes behind it: what stands alone before or
//!   after calls is dropped. Where vLLM's parsers still disagree on the space that ends content
//!   before a call, it stays: it was given out before the call was seen.
//! - A call is given out as soon as its name is sure and its arguments begin; its arguments follow
//!   as they come. All fragments together are the JSON text as the model wrote it. Where a form
//!   writes arguments as tags or as Python, they are turned into JSON, by the tool's schema where
//!   the text has no types.
//! - A text that looks like a call and turns out to be none is content, with its markers: nothing
//!   is lost. If that turns out after the call was given out, its arguments stop where they stopped
//!   to be JSON, and what follows is content. A call that the text breaks off in stays broken off.
//! - As in vLLM, a call whose name is not among the tools is given out like any other: the client
//!   decides. [`ToolChoice::Required`](tyndall_types::ToolChoice::Required) and
//!   [`Named`](tyndall_types::ToolChoice::Named) are held by the grammar that [`call_schema`] is
//!   for, and their text is JSON whatever the family's form.
//!
//! Nothing is read twice: the work for a piece of text depends on the piece alone, except for the
//! few bytes that may begin a marker.
#![forbid(unsafe_code)]

mod answer;
mod calls;
mod detect;
mod envelope;
mod grammars;
mod harmony;
mod json;
mod names;
mod output;
mod parser;
mod python;
mod reasoning;
mod scan;
mod schema;
mod span;
mod values;

pub use detect::Family;
pub use names::{ReasoningFormat, ToolFormat, UnknownParser};
pub use parser::{MessageParser, ParserOptions};
pub use schema::{call_schema, call_structure};
pub use span::Beginning;

/// Special tokens that must reach the parser as text although special tokens are left out of text
/// otherwise. Those that a tokenizer does not have as tokens come as text anyway.
#[must_use]
pub fn markers(
    reasoning: Option<ReasoningFormat>,
    format: Option<ToolFormat>,
) -> Vec<&'static str> {
    let mut markers = Vec::new();
    if reasoning == Some(ReasoningFormat::Harmony) || format == Some(ToolFormat::Harmony) {
        markers.extend_from_slice(harmony::MARKERS);
    }
    if let Some(marks) = reasoning.and_then(ReasoningFormat::marks) {
        markers.extend(marks.start.iter().chain(marks.end).chain(marks.noise));
    }
    if let Some(format) = format {
        markers.extend(grammars::call_markers(format));
    }
    markers.sort_unstable();
    markers.dedup();
    markers
}
