//! Lark's syntax: writing it, and what a client's grammar may have in it.

use serde_json::Value;

use crate::error::{Place, StructuredOutputError};
use crate::limits;
use crate::regex::literal;
use crate::schema::{self, Layout};

type Result<T> = std::result::Result<T, StructuredOutputError>;

/// All texts, as a terminal's expression.
pub(crate) const ANYTHING: &str = r"/[\x{0}-\x{10FFFF}]*/";
/// All texts but the empty one.
pub(crate) const SOMETHING: &str = r"/[\x{0}-\x{10FFFF}]+/";

/// Definitions of a grammar that is being written. Rules are compositions; terminals are regular
/// expressions over Lark's operators, each read as one lexeme.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    text: String,
    next: usize,
}

impl Writer {
    pub(crate) fn rule(&mut self, body: &str) -> String {
        self.define("r", body)
    }

    pub(crate) fn terminal(&mut self, body: &str) -> String {
        self.define("T", body)
    }

    fn define(&mut self, prefix: &str, body: &str) -> String {
        let name = format!("{prefix}{}", self.next);
        self.next += 1;
        self.define_as(&name, body);
        name
    }

    /// A name that is used before it is defined.
    pub(crate) fn define_as(&mut self, name: &str, body: &str) {
        self.text.push_str(&format!("{name}: {body}\n"));
    }

    pub(crate) fn json(&mut self, schema: &Value, layout: Layout) -> Result<String> {
        Ok(self.rule(&format!("%json {}", schema::lower(schema, layout)?)))
    }

    /// The grammar, whose texts are those of `start`.
    pub(crate) fn finish(mut self, start: &str) -> String {
        self.define_as("start", start);
        self.text
    }
}

/// A text as a terminal's expression.
pub(crate) fn text(text: &str) -> String {
    if text.is_empty() { r#""""#.to_owned() } else { format!("/{}/", literal(text)) }
}

/// One of several texts.
pub(crate) fn texts<S: AsRef<str>>(all: &[S]) -> String {
    let all: Vec<String> = all.iter().map(|one| text(one.as_ref())).collect();
    format!("({})", all.join(" | "))
}

/// A client's grammar with the JSON schemas in it lowered.
///
/// # Errors
/// Something that is not of the text that a model writes (special tokens), that would not be
/// carried out (temperatures, stops), or that is too large.
pub(crate) fn checked(grammar: &str) -> Result<String> {
    let mut scanner = Scanner { text: grammar, at: 0, copied: 0, out: String::new() };
    scanner.scan()?;
    scanner.out.push_str(&grammar[scanner.copied..]);
    Ok(scanner.out)
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// How much of the text is in `out`, or replaced there.
    copied: usize,
    out: String,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn fault(&self, cause: impl Into<String>, cure: &str) -> StructuredOutputError {
        StructuredOutputError::new(place(self.text, self.at), cause, cure)
    }

    fn scan(&mut self) -> Result<()> {
        let (mut open, mut definitions) = (Vec::new(), 0usize);
        while let Some(c) = self.rest().chars().next() {
            match c {
                '#' => self.skip_line(),
                '/' if self.rest().starts_with("//") => self.skip_line(),
                '/' | '"' => self.skip_quoted(c),
                '<' => {
                    let cause = "special tokens are not part of the text";
                    return Err(self.fault(cause, "remove what stands in < and >"));
                }
                '%' => self.directive()?,
                '(' | '[' | '{' => {
                    open.push(self.at);
                    if open.len() > limits::BRACKETS {
                        let cause = format!("more than {} brackets are open", limits::BRACKETS);
                        return Err(self.fault(cause, "give the inner parts names"));
                    }
                    self.at += 1;
                }
                ')' | ']' | '}' => {
                    if open.pop().is_none() {
                        return Err(self.fault("this bracket closes nothing", "remove it"));
                    }
                    self.at += 1;
                }
                ':' => {
                    definitions += 1;
                    if definitions > limits::RULES {
                        let cause = format!("there are more than {} rules", limits::RULES);
                        return Err(self.fault(cause, "use a smaller grammar"));
                    }
                    self.at += 1;
                }
                c if c.is_alphabetic() => self.name()?,
                c => self.at += c.len_utf8(),
            }
        }
        match open.pop() {
            None => Ok(()),
            Some(at) => {
                self.at = at;
                Err(self.fault("this bracket is not closed", "close it"))
            }
        }
    }

    fn skip_line(&mut self) {
        self.at += self.rest().find('\n').unwrap_or(self.rest().len());
    }

    /// A string or an expression; to the end of the text if it is not closed, which is found later.
    fn skip_quoted(&mut self, quote: char) {
        let mut escaped = false;
        let mut end = self.rest().len();
        for (i, c) in self.rest().char_indices().skip(1) {
            if c == quote && !escaped {
                end = i + c.len_utf8();
                break;
            }
            escaped = c == '\\' && !escaped;
        }
        self.at += end;
    }

    /// A name, which may be an attribute's.
    fn name(&mut self) -> Result<()> {
        let rest = self.rest();
        let part = |c: char| !(c.is_alphanumeric() || c == '_' || c == '-');
        let end = rest.find(part).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        let is_attribute = behind.trim_start().starts_with('=');
        if is_attribute && matches!(name, "temperature" | "stop" | "stop_capture") {
            let cause = format!("the attribute {name} is not supported");
            return Err(self.fault(cause, "remove it; use suffix for what ends a text"));
        }
        self.at += end;
        Ok(())
    }

    fn directive(&mut self) -> Result<()> {
        let rest = self.rest();
        let end = rest[1..].find(|c: char| !c.is_ascii_alphabetic()).map_or(rest.len(), |i| i + 1);
        let json_from = self.at + end;
        if !matches!(&rest[..end], "%json" | "%llguidance" | "%regex") {
            self.at = json_from;
            return Ok(());
        }
        let mut values = serde_json::Deserializer::from_str(&self.text[json_from..]).into_iter();
        let value: Value = match values.next() {
            Some(Ok(value)) => value,
            Some(Err(error)) => return Err(self.fault(error.to_string(), "write valid JSON")),
            None => return Err(self.fault("there is no JSON behind it", "write a value")),
        };
        let json_end = json_from + values.byte_offset();
        match &rest[..end] {
            "%json" => {
                let layout = Layout { compact: false, closed: false };
                let lowered = schema::lower(&value, layout).map_err(|error| {
                    self.fault(format!("{}{}", error.place, error.cause), &error.cure)
                })?;
                self.out.push_str(&self.text[self.copied..json_from]);
                self.out.push_str(&format!(" {lowered}"));
                self.copied = json_end;
            }
            "%llguidance" if value.get("allow_invalid_utf8").is_some_and(|v| *v != false) => {
                return Err(self.fault("allow_invalid_utf8 is not supported", "remove it"));
            }
            _ => {}
        }
        self.at = json_end;
        Ok(())
    }
}

/// Where a byte of a text is.
pub(crate) fn place(text: &str, at: usize) -> Place {
    let before = &text[..at];
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    let line = before.matches('\n').count() + 1;
    Place::Line { line, column: before[line_start..].chars().count() + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_in_a_grammar_are_checked_and_lowered() {
        let lowered =
            checked("start: \"%json\" a\na: %json {\"type\": \"null\"} | \"x\"\n").unwrap();
        let (before, rest) = lowered.split_once("a: %json ").unwrap();
        assert_eq!(before, "start: \"%json\" a\n");
        assert!(rest.contains("x-guidance") && rest.ends_with(" | \"x\"\n"), "{rest}");
    }

    #[test]
    fn what_is_not_text_is_refused() {
        let check = |grammar: &str, line: usize, column: usize, cause: &str| {
            let error = checked(grammar).unwrap_err();
            assert_eq!(error.place, Place::Line { line, column }, "{grammar}");
            assert!(error.cause.contains(cause), "{error}");
        };
        check("start: a\na: <|im_end|>", 2, 4, "special tokens");
        check("start[temperature=0.5]: \"a\"", 1, 7, "temperature");
        check("start: a\na[stop = \"\"]: /.*/", 2, 3, "stop");
        check("start: %json {\"not\": {}}", 1, 8, "not cannot be enforced");
        check("start: %json {\"a\"", 1, 8, "EOF");
        check("%llguidance {\"allow_invalid_utf8\": true}", 1, 1, "utf8");
        check(&format!("start: {}", "(".repeat(100)), 1, 72, "brackets");
        check("start: \"(\" )", 1, 12, "closes nothing");
        check("start: (\"a\"\n", 1, 8, "not closed");
        check(&"a: \"b\"\n".repeat(3000), 2049, 2, "rules");
        for grammar in ["start: \"<a>\" /<b>/ // <c>\n", "start: [stop] # [stop=1]\nstop: \"a\"\n"]
        {
            assert_eq!(checked(grammar).unwrap(), grammar);
        }
    }
}
