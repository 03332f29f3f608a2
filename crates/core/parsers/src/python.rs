//! Reads one Python literal piece by piece and writes it as JSON.

use crate::json::{Progress, escape_char};

/// Longest number or keyword, in bytes.
const MAX_WORD: usize = 400;

/// Reads a literal: a string, number, `True`, `False`, `None`, list or dictionary.
#[derive(Debug)]
pub(crate) struct PythonScanner {
    open: Vec<Container>,
    at: At,
    word: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    List,
    Dict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// A value; `is_first` of its container, where the container may also end.
    Value {
        is_first: bool,
    },
    Key {
        is_first: bool,
    },
    Colon,
    /// A comma is written when something follows it: Python allows one before the end.
    AfterValue {
        has_comma: bool,
    },
    Text {
        quote: char,
        is_key: bool,
    },
    Escape {
        quote: char,
        is_key: bool,
    },
    /// Digits of `\x41`, `\u0041` or `\U00000041`.
    Digits {
        quote: char,
        is_key: bool,
        left: u8,
        code: u32,
    },
    Word {
        is_key: bool,
    },
}

impl PythonScanner {
    pub(crate) fn new() -> Self {
        Self { open: Vec::new(), at: At::Value { is_first: false }, word: String::new() }
    }

    /// Reads a piece and appends what it says as JSON to `out`.
    pub(crate) fn feed(&mut self, piece: &str, out: &mut String) -> Progress {
        for (i, c) in piece.char_indices() {
            loop {
                match self.char(c, out) {
                    Some(true) => break,
                    Some(false) if self.is_done() => return Progress::Done(i),
                    Some(false) => {}
                    None => return Progress::Bad(i),
                }
            }
            if self.is_done() {
                return Progress::Done(i + c.len_utf8());
            }
        }
        Progress::More
    }

    /// Ends a number or keyword that has nothing behind it.
    pub(crate) fn end(&mut self, out: &mut String) -> bool {
        if let At::Word { is_key: false } = self.at {
            return self.open.is_empty() && self.end_word(false, out).is_some();
        }
        self.is_done()
    }

    fn is_done(&self) -> bool {
        self.open.is_empty() && matches!(self.at, At::AfterValue { .. })
    }

    /// Whether the character was read; none if it fits nothing.
    fn char(&mut self, c: char, out: &mut String) -> Option<bool> {
        match self.at {
            At::Text { quote, is_key } => self.text(c, quote, is_key, out),
            At::Escape { quote, is_key } => self.escape(c, quote, is_key, out),
            At::Digits { quote, is_key, left, code } => {
                let code = code * 16 + c.to_digit(16)?;
                if left > 1 {
                    self.at = At::Digits { quote, is_key, left: left - 1, code };
                } else {
                    self.at = At::Text { quote, is_key };
                    // A lone surrogate is no character; what stands for such is written.
                    escape_char(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), out);
                }
                Some(true)
            }
            At::Word { is_key } if is_word(c) => {
                if self.word.len() >= MAX_WORD {
                    return None;
                }
                self.word.push(c);
                self.at = At::Word { is_key };
                Some(true)
            }
            At::Word { is_key } => {
                self.end_word(is_key, out)?;
                Some(false)
            }
            _ if c.is_whitespace() => Some(true),
            At::Value { is_first } => self.value(c, is_first, out),
            At::Key { is_first: true } if c == '}' => self.close(Container::Dict, out),
            At::Key { .. } => self.key(c, out),
            At::Colon if c == ':' => {
                out.push_str(": ");
                self.at = At::Value { is_first: false };
                Some(true)
            }
            At::Colon => None,
            At::AfterValue { has_comma } => self.after_value(c, has_comma, out),
        }
    }

    fn value(&mut self, c: char, is_first: bool, out: &mut String) -> Option<bool> {
        match c {
            '[' => {
                out.push('[');
                self.open.push(Container::List);
                self.at = At::Value { is_first: true };
            }
            '{' => {
                out.push('{');
                self.open.push(Container::Dict);
                self.at = At::Key { is_first: true };
            }
            ']' if is_first => return self.close(Container::List, out),
            '"' | '\'' => {
                out.push('"');
                self.at = At::Text { quote: c, is_key: false };
            }
            _ => return self.begin_word(c, false),
        }
        Some(true)
    }

    fn key(&mut self, c: char, out: &mut String) -> Option<bool> {
        if matches!(c, '"' | '\'') {
            out.push('"');
            self.at = At::Text { quote: c, is_key: true };
            return Some(true);
        }
        self.begin_word(c, true)
    }

    fn begin_word(&mut self, c: char, is_key: bool) -> Option<bool> {
        self.word.clear();
        self.at = At::Word { is_key };
        is_word(c).then_some(false)
    }

    fn end_word(&mut self, is_key: bool, out: &mut String) -> Option<()> {
        let json = json_word(&self.word)?;
        if is_key {
            out.push('"');
            out.push_str(&json);
            out.push('"');
            self.at = At::Colon;
        } else {
            out.push_str(&json);
            self.at = At::AfterValue { has_comma: false };
        }
        Some(())
    }

    fn after_value(&mut self, c: char, has_comma: bool, out: &mut String) -> Option<bool> {
        match (c, *self.open.last()?) {
            (',', _) if !has_comma => self.at = At::AfterValue { has_comma: true },
            (']', Container::List) => return self.close(Container::List, out),
            ('}', Container::Dict) => return self.close(Container::Dict, out),
            (_, container) if has_comma => {
                out.push_str(", ");
                self.at = match container {
                    Container::List => At::Value { is_first: false },
                    Container::Dict => At::Key { is_first: false },
                };
                return Some(false);
            }
            _ => return None,
        }
        Some(true)
    }

    fn close(&mut self, container: Container, out: &mut String) -> Option<bool> {
        out.push(if container == Container::List { ']' } else { '}' });
        self.open.pop();
        self.at = At::AfterValue { has_comma: false };
        Some(true)
    }

    fn text(&mut self, c: char, quote: char, is_key: bool, out: &mut String) -> Option<bool> {
        if c == '\\' {
            self.at = At::Escape { quote, is_key };
        } else if c == quote {
            out.push('"');
            self.at = if is_key { At::Colon } else { At::AfterValue { has_comma: false } };
        } else {
            escape_char(c, out);
        }
        Some(true)
    }

    fn escape(&mut self, c: char, quote: char, is_key: bool, out: &mut String) -> Option<bool> {
        self.at = At::Text { quote, is_key };
        let meant = match c {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            '0' => '\0',
            '\\' | '\'' | '"' => c,
            '\n' => return Some(true),
            'x' | 'u' | 'U' => {
                let left = if c == 'x' { 2 } else { 4 << u8::from(c == 'U') };
                self.at = At::Digits { quote, is_key, left, code: 0 };
                return Some(true);
            }
            _ => {
                escape_char('\\', out);
                return Some(false);
            }
        };
        escape_char(meant, out);
        Some(true)
    }
}

/// A whole literal as JSON.
pub(crate) fn python_to_json(text: &str) -> Option<String> {
    let text = text.trim();
    let mut scanner = PythonScanner::new();
    let mut out = String::with_capacity(text.len());
    let is_whole = match scanner.feed(text, &mut out) {
        Progress::Done(read) => read == text.len(),
        Progress::More => scanner.end(&mut out),
        Progress::Bad(_) => false,
    };
    is_whole.then_some(out)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-')
}

/// A keyword or number as JSON. JSON's own keywords are taken too: models mix them in.
fn json_word(word: &str) -> Option<String> {
    match word {
        "True" | "true" => return Some("true".to_owned()),
        "False" | "false" => return Some("false".to_owned()),
        "None" | "null" => return Some("null".to_owned()),
        _ => {}
    }
    let plain = word.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", plain.strip_prefix('+').unwrap_or(&plain)),
    };
    if let Some(hex) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok().map(|value| format!("{sign}{value}"));
    }
    let (mantissa, exponent) = digits.split_at(digits.find(['e', 'E']).unwrap_or(digits.len()));
    let (whole, fraction) = match mantissa.split_once('.') {
        Some(("", "")) => return None,
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let whole = if whole.is_empty() && fraction.is_some() { "0" } else { whole };
    let point = match fraction {
        Some("") => ".0".to_owned(),
        Some(fraction) => format!(".{fraction}"),
        None => String::new(),
    };
    let number = format!("{sign}{whole}{point}{exponent}");
    is_json_number(&number).then_some(number)
}

/// Whether JSON has this number.
pub(crate) fn is_json_number(text: &str) -> bool {
    let mut scanner = crate::json::JsonScanner::new();
    let mut out = String::new();
    text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
        && scanner.feed(text, &mut out) == Progress::More
        && scanner.may_end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn literals_become_json() {
        let check = |python: &str, json: Option<&str>| {
            assert_eq!(python_to_json(python).as_deref(), json, "{python}");
        };
        check("'it\\'s \"so\"'", Some(r#""it's \"so\"""#));
        check(r#""a\tb\x41\u00e9\U0001F600\d""#, Some("\"a\\tbAé😀\\\\d\""));
        check("[1, -2.5, True, None, ]", Some("[1, -2.5, true, null]"));
        check("{'a': {'b': []}, 3: 'x',}", Some(r#"{"a": {"b": []}, "3": "x"}"#));
        check("1_000", Some("1000"));
        check(".5", Some("0.5"));
        check("+2.", Some("2.0"));
        check("0x1f", Some("31"));
        check("1e5", Some("1e5"));
        check("01", None);
        check("foo", None);
        check("[1 2]", None);
        check("[,]", None);
        check("{'a'}", None);
        check("'open", None);
        check("(1, 2)", None);
    }

    proptest! {
        #[test]
        fn whatever_it_accepts_becomes_json(text in r#"[\[\]{}:,"'\\a1x0u.e\-TrueNoné \n]{0,40}"#) {
            if let Some(json) = python_to_json(&text) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
            }
        }
    }
}
