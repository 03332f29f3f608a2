//! `instructions` and `input`, as conversations of `/v1/chat/completions`.
//!
//! What the assistant said, thought and called between two other items becomes one message, with
//! thoughts from the content of reasoning items or from what they were sealed in; their summaries
//! are for people. System messages settle as [`settle`] says.

use super::items::unseal;
use super::tools::shown_name;
use crate::ApiError;
use crate::chat::part_text;
use crate::fields::{shown, wrong};
use crate::system::{settle, without_billing_header};
use serde_json::{Map, Value, json};

/// `input` as a list of items: a string is one message of the user.
pub(super) fn items(input: Option<&Value>) -> Result<Vec<Value>, ApiError> {
    match input {
        None | Some(Value::Null) => {
            Err(ApiError::malformed("input", "input is missing; send a string or a list of items"))
        }
        Some(Value::String(text)) => Ok(vec![json!({
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": text}],
        })]),
        Some(Value::Array(items)) => Ok(items.clone()),
        other => Err(wrong("input", "a string or a list of items", other)),
    }
}

/// The conversation that the instructions and the items are.
pub(super) fn messages(
    instructions: Option<&str>,
    items: &[Value],
) -> Result<Vec<Value>, ApiError> {
    let mut conversation = Conversation::default();
    if let Some(instructions) = instructions {
        conversation.say("system", without_billing_header(instructions).into());
    }
    for (i, item) in items.iter().enumerate() {
        conversation.add(&format!("input[{i}]"), item)?;
    }
    conversation.end_turn();
    let messages = settle(conversation.messages);
    if messages.is_empty() {
        return Err(ApiError::invalid("input", "input must not be empty"));
    }
    Ok(messages)
}

#[derive(Default)]
struct Conversation {
    messages: Vec<Value>,
    turn: Turn,
}

/// What the assistant did since others spoke.
#[derive(Default)]
struct Turn {
    reasoning: Option<String>,
    content: Option<String>,
    calls: Vec<Value>,
}

impl Conversation {
    fn add(&mut self, path: &str, item: &Value) -> Result<(), ApiError> {
        let Value::Object(object) = item else {
            return Err(wrong(path, "an item, an object", Some(item)));
        };
        let kind = object.get("type").and_then(Value::as_str);
        match kind {
            Some("message") => self.message(path, object)?,
            None if says_no_type(object) => self.message(path, object)?,
            Some("reasoning") => {
                if let Some(text) = thoughts(path, object)? {
                    join(&mut self.turn.reasoning, &text);
                }
            }
            Some("function_call") => {
                let arguments = string(path, object, "arguments")?;
                self.call(path, object, arguments.to_owned())?;
            }
            Some("custom_tool_call") => {
                let input = string(path, object, "input")?;
                self.call(path, object, json!({"input": input}).to_string())?;
            }
            Some("function_call_output" | "custom_tool_call_output") => {
                let id = string(path, object, "call_id")?;
                let content = output(path, object)?;
                self.end_turn();
                let role = "tool";
                self.messages.push(json!({"role": role, "tool_call_id": id, "content": content}));
            }
            Some("item_reference") => {
                return Err(ApiError::invalid(
                    &format!("{path}.type"),
                    format!(
                        "{path} refers to another item; send the item itself, or \
                         previous_response_id"
                    ),
                ));
            }
            _ => {
                let kind = shown(object.get("type").unwrap_or(&Value::Null));
                let path = format!("{path}.type");
                let message = format!("{path} {kind} is not supported; leave the item out");
                return Err(ApiError::invalid(&path, message));
            }
        }
        Ok(())
    }

    fn message(&mut self, path: &str, object: &Map<String, Value>) -> Result<(), ApiError> {
        let texts = texts(&format!("{path}.content"), object.get("content"))?;
        match object.get("role").and_then(Value::as_str) {
            Some("assistant") => join(&mut self.turn.content, &texts.concat()),
            Some("system" | "developer") => {
                self.say("system", without_billing_header(&texts.join("\n")).into());
            }
            Some("user") => {
                let content = match texts.as_slice() {
                    [] => Value::from(""),
                    [text] => Value::from(*text),
                    texts => {
                        texts.iter().map(|text| json!({"type": "text", "text": text})).collect()
                    }
                };
                self.say("user", content);
            }
            _ => {
                let path = format!("{path}.role");
                return Err(wrong(
                    &path,
                    "user, assistant, system or developer",
                    object.get("role"),
                ));
            }
        }
        Ok(())
    }

    fn say(&mut self, role: &str, content: Value) {
        self.end_turn();
        self.messages.push(json!({"role": role, "content": content}));
    }

    fn call(
        &mut self,
        path: &str,
        object: &Map<String, Value>,
        arguments: String,
    ) -> Result<(), ApiError> {
        let namespace = object.get("namespace").and_then(Value::as_str);
        let name = shown_name(string(path, object, "name")?, namespace);
        self.turn.calls.push(json!({
            "id": string(path, object, "call_id")?,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }));
        Ok(())
    }

    fn end_turn(&mut self) {
        let Turn { reasoning, content, calls } = std::mem::take(&mut self.turn);
        if reasoning.is_none() && content.is_none() && calls.is_empty() {
            return;
        }
        let content = content.or_else(|| calls.is_empty().then(String::new));
        let mut message = json!({"role": "assistant", "content": content});
        if let Some(reasoning) = reasoning {
            message["reasoning"] = reasoning.into();
        }
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        self.messages.push(message);
    }
}

/// A message may do without a type.
fn says_no_type(object: &Map<String, Value>) -> bool {
    object.get("type").is_none_or(Value::is_null) && object.contains_key("role")
}

fn join(text: &mut Option<String>, more: &str) {
    match text {
        None => *text = Some(more.to_owned()),
        Some(text) => {
            text.push('\n');
            text.push_str(more);
        }
    }
}

/// What a reasoning item tells of the thoughts, if it tells anything.
fn thoughts(path: &str, object: &Map<String, Value>) -> Result<Option<String>, ApiError> {
    let path = format!("{path}.content");
    match object.get("content") {
        Some(Value::Array(parts)) if !parts.is_empty() => {
            let text = |(i, part): (usize, &Value)| {
                let text = part.get("text").and_then(Value::as_str);
                text.map(str::to_owned).ok_or_else(|| {
                    let expected = "{\"type\": \"reasoning_text\", \"text\": …}";
                    wrong(&format!("{path}[{i}]"), expected, Some(part))
                })
            };
            parts.iter().enumerate().map(text).collect::<Result<String, _>>().map(Some)
        }
        None | Some(Value::Null | Value::Array(_)) => {
            Ok(object.get("encrypted_content").and_then(Value::as_str).and_then(unseal))
        }
        other => Err(wrong(&path, "a list of parts", other)),
    }
}

/// What a tool gave back: text, parts of text, or an object around text as of older clients.
fn output(path: &str, object: &Map<String, Value>) -> Result<String, ApiError> {
    let output = object.get("output");
    let inner = match output {
        Some(Value::Object(inner)) => inner.get("content"),
        other => other,
    };
    Ok(texts(&format!("{path}.output"), inner)?.join("\n"))
}

fn texts<'a>(path: &str, content: Option<&'a Value>) -> Result<Vec<&'a str>, ApiError> {
    match content {
        Some(Value::String(text)) => Ok(vec![text]),
        Some(Value::Array(parts)) => {
            let text = |(i, part)| part_text(&format!("{path}[{i}]"), part);
            parts.iter().enumerate().map(text).collect()
        }
        other => Err(wrong(path, "a string or a list of text parts", other)),
    }
}

fn string<'a>(path: &str, object: &'a Map<String, Value>, name: &str) -> Result<&'a str, ApiError> {
    let value = object.get(name);
    value.and_then(Value::as_str).ok_or_else(|| wrong(&format!("{path}.{name}"), "a string", value))
}

#[cfg(test)]
mod tests {
    use super::super::items::seal;
    use super::*;

    fn of(instructions: Option<&str>, input: Value) -> Result<Value, ApiError> {
        let items = items(Some(&input))?;
        messages(instructions, &items).map(Value::from)
    }

    #[test]
    fn items_become_messages() {
        let check = |input: Value, expected: Value| {
            assert_eq!(of(Some("S"), input).unwrap(), expected);
        };
        let system = json!({"role": "system", "content": "S"});
        let hi = json!({"role": "user", "content": "hi"});
        check(json!("hi"), json!([system, hi]));
        check(json!([hi]), json!([system, hi]));
        check(
            json!([
                {"type": "message", "role": "developer", "content": [
                    {"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
                {"type": "message", "role": "user", "content": [
                    {"type": "input_text", "text": "q"}, {"type": "input_text", "text": "r"}]},
                {"type": "reasoning", "id": "rs_1", "summary": [], "content": [
                    {"type": "reasoning_text", "text": "h"}, {"type": "text", "text": "m"}]},
                {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
                 "content": [{"type": "output_text", "text": "ok", "annotations": []}]},
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
                {"type": "custom_tool_call", "call_id": "c2", "name": "p", "input": "x\ny"},
                {"type": "function_call_output", "call_id": "c1", "output": "1"},
                {"type": "custom_tool_call_output", "call_id": "c2", "output": [
                    {"type": "input_text", "text": "2"}, {"type": "input_text", "text": "3"}]},
                {"type": "reasoning", "summary": [], "encrypted_content": seal("deep")},
                {"type": "function_call", "call_id": "c3", "name": "q", "namespace": "db",
                 "arguments": "{\"a\":1}"},
                {"type": "function_call_output", "call_id": "c3",
                 "output": {"content": "no", "success": false}},
            ]),
            json!([
                {"role": "system", "content": "S\n\na\nb"},
                {"role": "user", "content": [
                    {"type": "text", "text": "q"}, {"type": "text", "text": "r"}]},
                {"role": "assistant", "content": "ok", "reasoning": "hm", "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"id": "c2", "type": "function",
                     "function": {"name": "p", "arguments": "{\"input\":\"x\\ny\"}"}},
                ]},
                {"role": "tool", "tool_call_id": "c1", "content": "1"},
                {"role": "tool", "tool_call_id": "c2", "content": "2\n3"},
                {"role": "assistant", "content": null, "reasoning": "deep", "tool_calls": [
                    {"id": "c3", "type": "function",
                     "function": {"name": "db__q", "arguments": "{\"a\":1}"}}]},
                {"role": "tool", "tool_call_id": "c3", "content": "no"},
            ]),
        );
    }

    #[test]
    fn bad_items_are_named() {
        let check = |input: Value, part: &str| {
            let error = of(None, input).unwrap_err();
            assert!(error.status == 400 && error.message.contains(part), "{}", error.message);
        };
        check(json!(3), "input must be a string or a list of items, got 3");
        check(json!([]), "input must not be empty");
        check(json!(["a"]), "input[0] must be an item, an object, got \"a\"");
        check(json!([{"type": "web_search_call"}]), "\"web_search_call\" is not supported");
        check(json!([{}]), "input[0].type null is not supported");
        check(json!([{"type": 5, "role": "user", "content": ""}]), "type 5 is not supported");
        check(json!([{"type": "item_reference", "id": "x"}]), "refers to another item");
        check(json!([{"role": "king", "content": ""}]), "input[0].role must be user, assistant");
        check(json!([{"role": "user"}]), "input[0].content must be a string or a list");
        check(
            json!([{"role": "user", "content": [{"type": "input_image"}]}]),
            "input[0].content[0].type \"input_image\" is not supported: the model takes text only",
        );
        check(
            json!([{"type": "function_call", "name": "f"}]),
            "input[0].arguments must be a string",
        );
        check(json!([{"type": "function_call_output"}]), "input[0].call_id must be a string");
        check(
            json!([{"type": "function_call_output", "call_id": "c", "output": {}}]),
            "input[0].output must be a string or a list of text parts",
        );
        check(json!([{"type": "reasoning", "content": [3]}]), "input[0].content[0] must be");
    }
}
