//! The items that an answer consists of.

use super::response::ResponsesHead;
use super::tools::ToolName;
use crate::TokenLogprob;
use crate::ids::digest;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

/// How the state of items and answers is called.
pub(super) const IN_PROGRESS: &str = "in_progress";
pub(super) const COMPLETED: &str = "completed";
pub(super) const INCOMPLETE: &str = "incomplete";

/// Before sealed thoughts, so that those of other servers are told apart.
const SEAL: &str = "tyndall.1.";

/// An item, whole or as far as it has come.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Item {
    Reasoning(String),
    Message {
        text: String,
        /// When asked for.
        logprobs: Vec<TokenLogprob>,
    },
    Call {
        /// Counts from 0.
        number: usize,
        tool: ToolName,
        /// JSON text, of which a custom tool's input is one field.
        arguments: String,
    },
}

impl Item {
    /// The id of an item in this place.
    pub(super) fn id(&self, head: &ResponsesHead, index: usize) -> String {
        let prefix = match self {
            Self::Reasoning(_) => "rs_",
            Self::Message { .. } => "msg_",
            Self::Call { tool, .. } if tool.custom => "ctc_",
            Self::Call { .. } => "fc_",
        };
        format!("{prefix}{}", digest(&(&head.id, prefix, index)))
    }

    /// As clients see it. One in progress is shown empty.
    pub(super) fn value(&self, head: &ResponsesHead, index: usize, status: &str) -> Value {
        let id = self.id(head, index);
        let begins = status == IN_PROGRESS;
        let content: Vec<Value> =
            if begins { Vec::new() } else { self.part().into_iter().collect() };
        match self {
            Self::Reasoning(text) => {
                let mut item = json!({
                    "id": id, "type": "reasoning", "summary": [], "content": content,
                    "status": status,
                });
                if head.shape.sealed && !begins {
                    item["encrypted_content"] = seal(text).into();
                }
                item
            }
            Self::Message { .. } => json!({
                "id": id, "type": "message", "status": status, "role": "assistant",
                "content": content,
            }),
            Self::Call { number, tool, arguments } => {
                let call_id = head.call_ids.prefixed("call_", &head.id, 0, *number);
                let (kind, field, text) = match tool.custom {
                    true => ("custom_tool_call", "input", input(arguments)),
                    false => ("function_call", "arguments", arguments.clone()),
                };
                let mut item = json!({
                    "id": id, "type": kind, "status": status, "call_id": call_id,
                    "name": tool.name, field: if begins { String::new() } else { text },
                });
                if let Some(namespace) = &tool.namespace {
                    item["namespace"] = namespace.as_str().into();
                }
                item
            }
        }
    }

    /// Its content has a part.
    pub(super) fn has_part(&self) -> bool {
        !matches!(self, Self::Call { .. })
    }

    /// The one part of its content; calls have none.
    pub(super) fn part(&self) -> Option<Value> {
        match self {
            Self::Reasoning(text) => Some(json!({"type": "reasoning_text", "text": text})),
            Self::Message { text, logprobs } => Some(json!({
                "type": "output_text", "text": text, "annotations": [], "logprobs": logprobs,
            })),
            Self::Call { .. } => None,
        }
    }
}

/// What a custom tool takes. Arguments that were cut off are told as they are.
pub(super) fn input(arguments: &str) -> String {
    let parsed: Option<Value> = serde_json::from_str(arguments).ok();
    let input = parsed.as_ref().and_then(|parsed| parsed.get("input")?.as_str());
    input.unwrap_or(arguments).to_owned()
}

/// Thoughts in a form that clients send back without looking at it. It keeps no secret.
pub(super) fn seal(thoughts: &str) -> String {
    format!("{SEAL}{}", BASE64_STANDARD.encode(thoughts))
}

/// The thoughts; none where another server sealed them.
pub(super) fn unseal(sealed: &str) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(sealed.strip_prefix(SEAL)?).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_open_again() {
        assert_eq!(unseal(&seal("hm, \u{e9}")).as_deref(), Some("hm, \u{e9}"));
        for other in ["", "gAAAAB", "tyndall.1.?", "tyndall.1./w=="] {
            assert_eq!(unseal(other), None, "{other}");
        }
    }

    #[test]
    fn inputs_of_custom_tools() {
        assert_eq!(input(r#"{"input": "a\nb"}"#), "a\nb");
        assert_eq!(input(r#"{"input": "a"#), r#"{"input": "a"#);
        assert_eq!(input(r#"{"x": 1}"#), r#"{"x": 1}"#);
    }
}
