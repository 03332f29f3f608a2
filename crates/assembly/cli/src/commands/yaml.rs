//! JSON values as YAML, in the form that Ray's commands print.

use serde_json::Value;

/// A value as a document, with block style and two spaces.
pub(crate) fn document(value: &Value) -> String {
    let mut text = String::new();
    write_value(value, 0, &mut text);
    text
}

/// A map as a document with an empty line between its keys.
pub(crate) fn spaced(value: &Value) -> String {
    let Value::Object(map) = value else { return document(value) };
    let parts: Vec<String> = map
        .iter()
        .map(|(key, value)| {
            document(&Value::Object([(key.clone(), value.clone())].into_iter().collect()))
        })
        .collect();
    parts.join("\n")
}

fn write_value(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                indent(depth, out);
                out.push_str(&scalar(&Value::String(key.clone())));
                out.push(':');
                write_nested(value, depth + 1, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                indent(depth, out);
                out.push('-');
                write_item(item, depth, out);
            }
        }
        other => {
            indent(depth, out);
            out.push_str(&scalar(other));
            out.push('\n');
        }
    }
}

fn write_nested(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            write_value(value, depth, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            // Lists stand at the depth of their key.
            write_value(value, depth - 1, out);
        }
        Value::String(text) if text.contains('\n') => {
            out.push_str(" |\n");
            for line in text.trim_end_matches('\n').split('\n') {
                indent(depth, out);
                out.push_str(line);
                out.push('\n');
            }
        }
        other => {
            out.push(' ');
            out.push_str(&scalar(other));
            out.push('\n');
        }
    }
}

/// What follows a dash: a map begins on the same line.
fn write_item(item: &Value, depth: usize, out: &mut String) {
    let mut inner = String::new();
    write_value(item, depth + 1, &mut inner);
    out.push(' ');
    out.push_str(inner.trim_start());
}

fn indent(depth: usize, out: &mut String) {
    out.push_str(&"  ".repeat(depth));
}

/// A scalar, in quotes where a reader would take it for something else.
fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(text) if is_plain(text) => text.clone(),
        Value::String(text) if text.chars().all(|c| !c.is_control()) => {
            format!("'{}'", text.replace('\'', "''"))
        }
        // JSON's own form is YAML too.
        other => other.to_string(),
    }
}

fn is_plain(text: &str) -> bool {
    let first_ok = text.chars().next().is_some_and(|c| c.is_alphanumeric() || "/_".contains(c));
    let rest_ok = text.chars().all(|c| !c.is_control() && !"#:{}[],&*!|>'\"%@`".contains(c));
    let words = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let is_word = words.iter().any(|word| word.eq_ignore_ascii_case(text));
    let is_number = text.parse::<f64>().is_ok() || text.starts_with(|c: char| c.is_ascii_digit());
    first_ok && rest_ok && !is_word && !is_number && text.trim() == text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_in_block_style() {
        let value = json!({
            "status": "RUNNING",
            "message": "",
            "list": [{"a": 1, "b": [true, null]}, "x: y"],
            "empty": {"map": {}, "list": []},
            "number": "010",
            "lines": "one\ntwo\n",
        });
        let expected = "\
status: RUNNING
message: ''
list:
- a: 1
  b:
  - true
  - null
- 'x: y'
empty:
  map: {}
  list: []
number: '010'
lines: |
  one
  two
";
        assert_eq!(document(&value), expected);
        assert_eq!(spaced(&json!({"a": 1, "b": {"c": 2}})), "a: 1\n\nb:\n  c: 2\n");
    }
}
