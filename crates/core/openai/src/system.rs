//! System prompts, in whatever dialect they come: kept the same from turn to turn, so that the
//! prefix cache finds them, and in places where every template takes them.

use serde_json::{Value, json};
use std::borrow::Cow;

/// Claude Code begins its system prompt with a line that says who pays, with a hash that differs
/// from request to request. No model needs it.
const BILLING_HEADER: &str = "x-anthropic-billing-header:";

/// Between a system prompt and what comes to it later.
const GAP: &str = "\n\n";

/// A system prompt without the lines that are there for the bill. Each dialect's reader calls it.
#[must_use]
pub fn without_billing_header(text: &str) -> Cow<'_, str> {
    if !text.contains(BILLING_HEADER) {
        return Cow::Borrowed(text);
    }
    text.split_inclusive('\n').filter(|line| !line.starts_with(BILLING_HEADER)).collect()
}

/// Takes the lines for the bill out of a message, if it is a system message.
pub(crate) fn clean(message: &mut Value) {
    let without = |text: &mut String| {
        if let Cow::Owned(cleaned) = without_billing_header(text) {
            *text = cleaned;
        }
    };
    if !is_system(message) {
        return;
    }
    match message.get_mut("content") {
        Some(Value::String(text)) => without(text),
        Some(Value::Array(parts)) => {
            for part in parts {
                match part {
                    Value::String(text) => without(text),
                    part => {
                        if let Some(Value::String(text)) = part.get_mut("text") {
                            without(text);
                        }
                    }
                }
            }
        }
        _ => {}
    }
}

/// Puts system messages where every template takes them. Those that lead become one; those that
/// come later become the end of the message before them, or the beginning of the next one where
/// the assistant spoke before them. Only the end of a conversation ever changes, so that each turn's
/// prompt goes on where the last one ended. Calls stay next to their results.
///
/// The content of system messages is a string here.
pub(crate) fn settle(messages: Vec<Value>) -> Vec<Value> {
    let mut settled: Vec<Value> = Vec::with_capacity(messages.len());
    let mut held = String::new();
    for mut message in messages {
        if is_system(&message) {
            let text = message["content"].as_str().unwrap_or_default();
            match settled.last_mut() {
                _ if text.is_empty() => {}
                None => settled.push(json!({"role": "system", "content": text})),
                Some(last) if is_system(last) => append(last, text),
                Some(last) if role(last) != "assistant" && held.is_empty() => append(last, text),
                Some(_) => join(&mut held, text),
            }
            continue;
        }
        if !held.is_empty() && role(&message) != "tool" {
            if role(&message) == "user" && settled.last().is_some_and(|m| role(m) == "assistant") {
                prepend(&mut message, &std::mem::take(&mut held));
            } else {
                release(&mut settled, &mut held);
            }
        }
        settled.push(message);
    }
    release(&mut settled, &mut held);
    settled
}

/// What is held back goes to the end of the conversation.
fn release(settled: &mut Vec<Value>, held: &mut String) {
    if held.is_empty() {
        return;
    }
    let text = std::mem::take(held);
    match settled.last_mut() {
        Some(last) if role(last) != "assistant" => append(last, &text),
        _ => settled.push(json!({"role": "user", "content": text})),
    }
}

fn role(message: &Value) -> &str {
    message.get("role").and_then(Value::as_str).unwrap_or_default()
}

fn is_system(message: &Value) -> bool {
    ["system", "developer"].contains(&role(message))
}

fn join(text: &mut String, more: &str) {
    if !text.is_empty() {
        text.push_str(GAP);
    }
    text.push_str(more);
}

fn append(message: &mut Value, more: &str) {
    if let Some(Value::String(text)) = text_at(message, false) {
        join(text, more);
    }
}

fn prepend(message: &mut Value, first: &str) {
    if let Some(Value::String(text)) = text_at(message, true) {
        let mut joined = first.to_owned();
        if !text.is_empty() {
            join(&mut joined, text);
        }
        *text = joined;
    }
}

/// The text with which a message begins or ends: its content, or that of a part.
fn text_at(message: &mut Value, first: bool) -> Option<&mut Value> {
    match message.get_mut("content")? {
        Value::Array(parts) => {
            let part = if first { parts.first_mut() } else { parts.last_mut() };
            part?.get_mut("text")
        }
        text => Some(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_billing_header_goes() {
        let check = |text: &str, expected: &str| {
            assert_eq!(without_billing_header(text), expected);
        };
        check("You are x.", "You are x.");
        check("x-anthropic-billing-header: cc_version=2.1; cch=1f0a;", "");
        check("x-anthropic-billing-header: cch=1;\nYou are x.\n", "You are x.\n");
        check("See x-anthropic-billing-header: here", "See x-anthropic-billing-header: here");
        let mut message = json!({"role": "system", "content": [
            {"type": "text", "text": "x-anthropic-billing-header: a"}, "x-anthropic-billing-header:",
        ]});
        clean(&mut message);
        assert_eq!(message["content"], json!([{"type": "text", "text": ""}, ""]));
        let user = json!({"role": "user", "content": "x-anthropic-billing-header: a"});
        let mut same = user.clone();
        clean(&mut same);
        assert_eq!(same, user);
    }

    /// Messages as `s:text u:text a:text t:text`.
    fn check(messages: &str, expected: &str) {
        let roles =
            [("s", "system"), ("d", "developer"), ("u", "user"), ("a", "assistant"), ("t", "tool")];
        let message = |word: &str| {
            let (short, text) = word.split_once(':').unwrap();
            let role = roles.iter().find(|(key, _)| *key == short).unwrap().1;
            json!({"role": role, "content": text})
        };
        let settled = settle(messages.split(' ').map(message).collect());
        let shown: Vec<String> = settled
            .iter()
            .map(|message| {
                let text = message["content"].as_str().unwrap().replace(GAP, "+");
                format!("{}:{text}", &role(message)[..1])
            })
            .collect();
        assert_eq!(shown.join(" "), expected, "{messages}");
    }

    #[test]
    fn system_messages_settle() {
        check("s:1 u:2", "s:1 u:2");
        check("s:1 d:2 s: u:3", "s:1+2 u:3");
        check("u:1 s:2 a:3", "u:1+2 a:3");
        check("u:1 a:2 s:3 s:4 u:5", "u:1 a:2 u:3+4+5");
        check("u:1 a:2 s:3", "u:1 a:2 u:3");
        check("u:1 a:2 s:3 a:4", "u:1 a:2 u:3 a:4");
        check("u:1 a:2 s:3 t:4 t:5 u:6", "u:1 a:2 t:4 t:5+3 u:6");
        check("u:1 a:2 t:3 d:4 a:5", "u:1 a:2 t:3+4 a:5");
        check("u:1 a:2 s:3 t:4", "u:1 a:2 t:4+3");
    }

    #[test]
    fn parts_take_text_in() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let settled = settle(vec![
            json!({"role": "user", "content": parts}),
            json!({"role": "system", "content": "s"}),
        ]);
        assert_eq!(settled[0]["content"][1]["text"], "b\n\ns");
    }
}
