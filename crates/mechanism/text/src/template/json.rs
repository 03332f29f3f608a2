//! JSON text as Python's `json.dumps` writes it.

use std::fmt::Write;

use serde_json::{Number, Value};

/// The options of `json.dumps` that templates use.
pub(super) struct Style {
    pub(super) ensure_ascii: bool,
    /// What one level is indented by; absent writes everything on one line.
    pub(super) indent: Option<String>,
    pub(super) item_separator: String,
    pub(super) key_separator: String,
    pub(super) sort_keys: bool,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            ensure_ascii: false,
            indent: None,
            item_separator: ", ".to_owned(),
            key_separator: ": ".to_owned(),
            sort_keys: false,
        }
    }
}

impl Style {
    /// The JSON text of `value`.
    pub(super) fn write(&self, value: &Value) -> String {
        let mut out = String::new();
        self.value(value, 0, &mut out);
        out
    }

    fn value(&self, value: &Value, depth: usize, out: &mut String) {
        match value {
            Value::Null => out.push_str("null"),
            Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
            Value::Number(number) => push_number(number, out),
            Value::String(text) => self.string(text, out),
            Value::Array(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    self.separate(at, depth + 1, out);
                    self.value(item, depth + 1, out);
                }
                self.close(items.is_empty(), depth, ']', out);
            }
            Value::Object(items) => {
                out.push('{');
                let mut items: Vec<_> = items.iter().collect();
                if self.sort_keys {
                    items.sort_by_key(|(key, _)| *key);
                }
                for (at, (key, item)) in items.iter().enumerate() {
                    self.separate(at, depth + 1, out);
                    self.string(key, out);
                    out.push_str(&self.key_separator);
                    self.value(item, depth + 1, out);
                }
                self.close(items.is_empty(), depth, '}', out);
            }
        }
    }

    fn separate(&self, at: usize, depth: usize, out: &mut String) {
        if at > 0 {
            out.push_str(&self.item_separator);
        }
        self.new_line(depth, out);
    }

    fn close(&self, is_empty: bool, depth: usize, bracket: char, out: &mut String) {
        if !is_empty {
            self.new_line(depth, out);
        }
        out.push(bracket);
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for char in text.chars() {
            match char {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                char if char < ' ' || (self.ensure_ascii && !matches!(char, ' '..='~')) => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        write!(out, "\\u{unit:04x}").expect("a String takes any text");
                    }
                }
                char => out.push(char),
            }
        }
        out.push('"');
    }
}

fn push_number(number: &Number, out: &mut String) {
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(float) => out.push_str(&python_float(float)),
        None => write!(out, "{number}").expect("a String takes any text"),
    }
}

/// A float as Python prints it: shortest digits, an exponent below 1e-4 and from 1e16 on.
fn python_float(float: f64) -> String {
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if float != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.unsigned_abs());
    }
    let plain = format!("{float}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(style: &Style, value: &Value, expected: &str) {
        assert_eq!(style.write(value), expected);
    }

    #[test]
    fn text_is_pythons() {
        let style = Style::default();
        check(
            &style,
            &json!({"a": [1, -2.5, true, null], "é<": "x\"\n\u{1}"}),
            r#"{"a": [1, -2.5, true, null], "é<": "x\"\n\u0001"}"#,
        );
        check(&style, &json!([{}, []]), "[{}, []]");
        let style =
            Style { indent: Some("  ".into()), item_separator: ",".into(), ..Style::default() };
        check(
            &style,
            &json!({"b": [1, 2], "a": {}}),
            "{\n  \"b\": [\n    1,\n    2\n  ],\n  \"a\": {}\n}",
        );
        let style = Style { ensure_ascii: true, sort_keys: true, ..Style::default() };
        check(
            &style,
            &json!({"b": "é🙂\u{7f}", "a": 1}),
            r#"{"a": 1, "b": "\u00e9\ud83d\ude42\u007f"}"#,
        );
    }

    #[test]
    fn floats_are_pythons() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-2.5e100, "-2.5e+100"),
            (0.0, "0.0"),
            (-0.0, "-0.0"),
        ];
        for (float, expected) in cases {
            assert_eq!(python_float(float), expected);
        }
    }
}
