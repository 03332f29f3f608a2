//! Message content: what the template expects and what the request brings.

use serde_json::{Map, Value, json};

use crate::TemplateError;

/// How a template takes the content of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentFormat {
    /// One string.
    String,
    /// A list of typed parts; the template iterates over it.
    Parts,
}

impl ContentFormat {
    /// Recognises a template that loops over a message's `content`, also through a variable.
    pub(super) fn of(source: &str) -> Self {
        let mut aliases = vec!["content".to_owned()];
        for tag in tags(source) {
            if let Some((name, value)) =
                tag.strip_prefix("set ").and_then(|set| set.split_once('='))
            {
                if is_content(value, &aliases) {
                    aliases.push(name.trim().to_owned());
                }
            } else if let Some((_, list)) =
                tag.strip_prefix("for ").and_then(|tag| tag.split_once(" in "))
                && is_content(list, &aliases)
            {
                return Self::Parts;
            }
        }
        Self::String
    }
}

/// The insides of all `{% … %}`, trimmed, in order.
fn tags(source: &str) -> impl Iterator<Item = &str> {
    source
        .split("{%")
        .skip(1)
        .filter_map(|tag| Some(tag.split_once("%}")?.0.trim_matches(['-', '+']).trim()))
}

/// Whether an expression is the content itself, filters, slices and conditions aside.
fn is_content(expression: &str, aliases: &[String]) -> bool {
    let path = expression.split(['|']).next().unwrap_or_default();
    let path = path.split(" if ").next().unwrap_or_default().trim();
    let path = path.trim_start_matches('(').trim_end_matches(')');
    let path = match path.rsplit_once('[') {
        Some((before, slice)) if slice.contains(':') => before,
        _ => path,
    };
    let path = path.trim();
    aliases.iter().any(|alias| alias == path)
        || [".content", "['content']", "[\"content\"]"].iter().any(|end| path.ends_with(end))
}

/// Messages as the template of this format and source takes them.
///
/// # Errors
/// A message that is no object, or a content part that is no text.
pub(super) fn prepare(
    messages: &[Value],
    format: ContentFormat,
    source: &str,
) -> Result<Vec<Value>, TemplateError> {
    // A template that asks whether content is a string handles both kinds by itself.
    let wraps_strings = format == ContentFormat::Parts
        && !source.contains("is string")
        && !source.contains("is not string");
    let knows_developer = source.contains("developer");
    let prepare_one = |(index, message): (usize, &Value)| {
        let message = message.as_object().ok_or(TemplateError::InvalidMessage { index })?;
        let mut message: Map<String, Value> = message
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        alias_reasoning(&mut message);
        if !knows_developer && message.get("role").is_some_and(|role| role == "developer") {
            message.insert("role".into(), "system".into());
        }
        if let Some(calls) = message.get_mut("tool_calls") {
            parse_arguments(calls);
        }
        match message.get_mut("content") {
            Some(content @ Value::Array(_)) => {
                let texts = text_parts(content, index)?;
                *content = match format {
                    ContentFormat::String => texts.join("\n").into(),
                    ContentFormat::Parts => texts.iter().map(|text| part(text)).collect(),
                };
            }
            Some(content @ Value::String(_)) if wraps_strings => {
                *content = Value::Array(vec![part(content.as_str().unwrap_or_default())]);
            }
            _ => {}
        }
        Ok(Value::Object(message))
    };
    messages.iter().enumerate().map(prepare_one).collect()
}

fn part(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

/// The texts of a list of content parts.
fn text_parts(content: &Value, index: usize) -> Result<Vec<String>, TemplateError> {
    let parts = content.as_array().map(Vec::as_slice).unwrap_or_default();
    let text_of = |part: &Value| {
        if let Value::String(text) = part {
            return Ok(text.clone());
        }
        let kind = part.get("type").and_then(Value::as_str).unwrap_or("unknown");
        let key = match kind {
            "text" | "input_text" | "output_text" => "text",
            "refusal" | "thinking" => kind,
            _ => "",
        };
        let text = part.get(key).and_then(Value::as_str);
        text.map(str::to_owned)
            .ok_or_else(|| TemplateError::UnsupportedContent { index, kind: kind.to_owned() })
    };
    parts.iter().map(text_of).collect()
}

/// A message's reasoning goes by three names; templates read the first or, some, the second.
fn alias_reasoning(message: &mut Map<String, Value>) {
    let names = ["reasoning_content", "thinking", "reasoning"];
    if let Some(reasoning) = names.iter().find_map(|name| message.get(*name)).cloned() {
        message.entry("thinking").or_insert_with(|| reasoning.clone());
        message.insert("reasoning_content".into(), reasoning);
    }
}

/// Clients send the arguments of earlier tool calls as JSON text, templates want the object.
fn parse_arguments(calls: &mut Value) {
    for call in calls.as_array_mut().into_iter().flatten() {
        let Some(arguments) = call.pointer_mut("/function/arguments") else { continue };
        if let Some(object) = arguments
            .as_str()
            .and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok())
        {
            *arguments = Value::Object(object);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_over_content_are_recognised() {
        let check = |source: &str, expected: ContentFormat| {
            assert_eq!(ContentFormat::of(source), expected, "{source}");
        };
        use ContentFormat::{Parts, String};
        check("{% for m in messages %}{{ m.content }}{% endfor %}", String);
        check("{%- for p in m['content'] -%}", Parts);
        check("{% for p in m.content | reverse %}", Parts);
        check("{% for p in m[\"content\"][1:] if p.text %}", Parts);
        check("{% set parts = m.content %}{% for p in parts %}", Parts);
        check("{% macro show(content) %}{% for p in content %}{% endfor %}{% endmacro %}", Parts);
        check("{% for l in m.content.split('x') %}", String);
        check("{% for t in m.tool_calls %}{% set content = 'a' %}{% endfor %}", String);
    }

    #[test]
    fn parts_are_joined_or_kept() {
        let messages = [json!({"role": "developer", "content": [
            {"type": "text", "text": "a"}, "b", {"type": "refusal", "refusal": "c"}], "name": null})];
        let joined = prepare(&messages, ContentFormat::String, "").unwrap();
        assert_eq!(joined, [json!({"role": "system", "content": "a\nb\nc"})]);
        let kept = prepare(&messages, ContentFormat::Parts, "developer").unwrap();
        assert_eq!(kept[0]["role"], "developer");
        assert_eq!(kept[0]["content"], json!([part("a"), part("b"), part("c")]));
        let text = [json!({"role": "user", "content": "a"})];
        let wrapped = prepare(&text, ContentFormat::Parts, "").unwrap();
        assert_eq!(wrapped[0]["content"], json!([part("a")]));
        assert_eq!(prepare(&text, ContentFormat::Parts, "content is string").unwrap(), text);
    }

    #[test]
    fn other_parts_are_refused() {
        let image = json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]});
        let error = prepare(&[json!({}), image], ContentFormat::String, "").unwrap_err();
        assert_eq!(error, TemplateError::UnsupportedContent { index: 1, kind: "image_url".into() });
        let error = prepare(&[json!("hi")], ContentFormat::String, "").unwrap_err();
        assert_eq!(error, TemplateError::InvalidMessage { index: 0 });
    }

    #[test]
    fn arguments_become_objects_and_reasoning_gets_its_names() {
        let message = json!({"role": "assistant", "reasoning": "hm", "tool_calls": [
            {"function": {"name": "f", "arguments": "{\"x\": 1}"}},
            {"function": {"name": "g", "arguments": "not json"}}]});
        let message = &prepare(&[message], ContentFormat::String, "").unwrap()[0];
        assert_eq!(message["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
        assert_eq!(message["tool_calls"][1]["function"]["arguments"], "not json");
        assert_eq!(
            (&message["thinking"], &message["reasoning_content"]),
            (&json!("hm"), &json!("hm"))
        );
    }
}
