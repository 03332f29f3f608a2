//! Parameters that stand as text between tags, and the JSON that a tool's schema makes of them.

use crate::json::{JsonScanner, Progress, quoted};
use crate::python::{is_json_number, python_to_json};
use serde_json::Value;
use tyndall_types::Tool;

/// Deepest `$ref` in `$ref` that is followed.
const MAX_REFS: usize = 16;

/// JSON types that a parameter's schema allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Types {
    string: bool,
    integer: bool,
    number: bool,
    boolean: bool,
    null: bool,
    /// Objects and arrays.
    container: bool,
    /// The schema says nothing.
    unknown: bool,
}

impl Types {
    /// Nothing is known of the parameter.
    pub(crate) const UNKNOWN: Self = Self {
        string: false,
        integer: false,
        number: false,
        boolean: false,
        null: false,
        container: false,
        unknown: true,
    };

    /// Text and nothing else.
    pub(crate) const TEXT: Self = Self { string: true, unknown: false, ..Self::UNKNOWN };

    /// Types of a parameter of one of the tools.
    pub(crate) fn of(tools: &[Tool], function: &str, parameter: &str) -> Self {
        let tool = tools.iter().find(|tool| tool.name == function);
        let schema = tool.and_then(|tool| {
            Some((&tool.parameters, tool.parameters.get("properties")?.get(parameter)?))
        });
        let mut types = Self::default();
        if let Some((root, schema)) = schema {
            types.add(root, schema, MAX_REFS);
        }
        if types == Self::default() { Self::UNKNOWN } else { types }
    }

    /// A value is its text, whatever the text is.
    pub(crate) fn is_text(self) -> bool {
        self == Self::TEXT
    }

    fn add(&mut self, root: &Value, schema: &Value, refs: usize) {
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            let target = target.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
            if let (Some(target), Some(refs)) = (target, refs.checked_sub(1)) {
                self.add(root, target, refs);
            }
        }
        match schema.get("type") {
            Some(Value::String(name)) => self.add_named(name),
            Some(Value::Array(names)) => {
                names.iter().filter_map(Value::as_str).for_each(|name| self.add_named(name));
            }
            _ => self.add_untyped(root, schema, refs),
        }
    }

    fn add_untyped(&mut self, root: &Value, schema: &Value, refs: usize) {
        for key in ["anyOf", "oneOf", "allOf"] {
            for part in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
                if let Some(refs) = refs.checked_sub(1) {
                    self.add(root, part, refs);
                }
            }
        }
        let values = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
        for value in values.chain(schema.get("const")) {
            match value {
                Value::String(_) => self.string = true,
                Value::Number(_) => self.number = true,
                Value::Bool(_) => self.boolean = true,
                Value::Null => self.null = true,
                Value::Array(_) | Value::Object(_) => self.container = true,
            }
        }
    }

    fn add_named(&mut self, name: &str) {
        match name {
            "string" => self.string = true,
            "integer" => self.integer = true,
            "number" => self.number = true,
            "boolean" => self.boolean = true,
            "null" => self.null = true,
            "object" | "array" => self.container = true,
            _ => {}
        }
    }

    /// The JSON that a text is meant to be: the first of the types that it fits, else a string.
    ///
    /// `None` and `null` are null unless the parameter must be a string.
    pub(crate) fn json(self, text: &str) -> String {
        let word = text.trim();
        let is_null = word.eq_ignore_ascii_case("null") || word.eq_ignore_ascii_case("none");
        if is_null && (self.null || !self.string && !self.unknown) {
            return "null".to_owned();
        }
        let is_whole = word.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit());
        if (self.number || self.integer && is_whole) && is_json_number(word) {
            return word.to_owned();
        }
        if self.boolean && word.eq_ignore_ascii_case("true") {
            return "true".to_owned();
        }
        if self.boolean && word.eq_ignore_ascii_case("false") {
            return "false".to_owned();
        }
        if self.container
            && let Some(json) = container(word)
        {
            return json;
        }
        quoted(text)
    }
}

/// JSON if the text is that, else what it is in Python, else a string.
pub(crate) fn guess(text: &str) -> String {
    let word = text.trim();
    json(word).or_else(|| python_to_json(word)).unwrap_or_else(|| quoted(text))
}

fn container(word: &str) -> Option<String> {
    if word.starts_with('"') {
        // The object was written as text in JSON.
        return container(serde_json::from_str::<String>(word).ok()?.trim());
    }
    if !word.starts_with(['{', '[']) {
        return None;
    }
    json(word).or_else(|| python_to_json(word))
}

fn json(word: &str) -> Option<String> {
    let mut scanner = JsonScanner::new();
    let mut out = String::with_capacity(word.len());
    let is_json = match scanner.feed(word, &mut out) {
        Progress::Done(read) => read == word.len(),
        Progress::More => scanner.may_end(),
        Progress::Bad(_) => false,
    };
    is_json.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn text_becomes_what_the_schema_allows() {
        let parameters = json!({
            "properties": {
                "s": {"type": "string"},
                "i": {"type": "integer"},
                "n": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                "b": {"type": "boolean"},
                "o": {"type": ["object", "array"]},
                "t": {"type": ["string", "null"]},
                "r": {"$ref": "#/$defs/Color"},
                "loop": {"$ref": "#/properties/loop"},
            },
            "$defs": {"Color": {"enum": ["red", "blue"]}},
        });
        let tool = Tool { name: "f".into(), description: None, parameters, strict: false };
        let check = |name: &str, text: &str, expected: &str| {
            let types = Types::of(std::slice::from_ref(&tool), "f", name);
            assert_eq!(types.json(text), expected, "{name} {text}");
        };
        check("s", "12", r#""12""#);
        check("s", "null", r#""null""#);
        check("i", " 12 ", "12");
        check("i", "123456789012345678901234567890", "123456789012345678901234567890");
        check("i", "1.5", r#""1.5""#);
        check("i", "none", "null");
        check("n", "-1.50", "-1.50");
        check("n", "None", "null");
        check("n", "many", r#""many""#);
        check("b", "True", "true");
        check("b", "yes", r#""yes""#);
        check("o", r#"{"a": [1]}"#, r#"{"a": [1]}"#);
        check("o", "{'a': None}", r#"{"a": null}"#);
        check("o", r#""{\"a\": 1}""#, r#"{"a": 1}"#);
        check("o", "[1", r#""[1""#);
        check("t", "null", "null");
        check("t", "7", r#""7""#);
        check("r", "red", r#""red""#);
        check("loop", "x\ny", r#""x\ny""#);
        check("absent", "5", r#""5""#);
        assert!(Types::of(&[tool], "f", "s").is_text());
        assert_eq!(guess("5"), "5");
        assert_eq!(guess("{'a': True}"), r#"{"a": true}"#);
        assert_eq!(guess("so be it"), r#""so be it""#);
    }
}
