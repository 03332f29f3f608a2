//! A grammar's text → its rules, the first of which is `root`.

use std::collections::HashMap;

use super::{Expression, Rule};
use crate::error::{Place, StructuredOutputError};
use crate::limits;
use crate::regex::push_literal;

type Result<T> = std::result::Result<T, StructuredOutputError>;

pub(super) fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

pub(super) fn parse(grammar: &str) -> Result<Vec<Rule>> {
    let mut parser = Parser {
        text: grammar.chars().collect(),
        next: 0,
        depth: 0,
        names: HashMap::new(),
        used: Vec::new(),
    };
    let root = parser.index("root", 0);
    let mut bodies: Vec<Option<(usize, Expression)>> = Vec::new();
    parser.blank();
    while parser.peek().is_some() {
        let at = parser.next;
        let name = parser.name()?;
        parser.blank();
        if !parser.take("::=") {
            return Err(parser.fault(parser.next, "there is no ::= here", "write name ::= …"));
        }
        parser.blank();
        let index = parser.index(&name, at);
        let body = parser.alternatives()?;
        if parser.used.len() > limits::RULES {
            let cause = format!("there are more than {} rules", limits::RULES);
            return Err(parser.fault(at, cause, "use a smaller grammar"));
        }
        bodies.resize(bodies.len().max(parser.used.len()), None);
        if bodies[index].replace((at, body)).is_some() {
            let cause = format!("the rule {name:?} is there already");
            return Err(parser.fault(at, cause, "join both by |"));
        }
    }
    bodies.resize(bodies.len().max(parser.used.len()), None);
    if bodies[root].is_none() {
        let cure = "name the rule of whole texts root";
        return Err(parser.fault(0, "there is no rule named root", cure));
    }
    let mut names: Vec<(String, usize)> = parser.names.drain().collect();
    names.sort_by_key(|(_, index)| *index);
    let mut rules = Vec::with_capacity(names.len());
    for ((name, index), body) in names.into_iter().zip(bodies) {
        let Some((at, body)) = body else {
            let cause = format!("there is no rule named {name:?}");
            return Err(parser.fault(parser.used[index], cause, "define it, or correct its name"));
        };
        rules.push(Rule { name, place: parser.place(at), body });
    }
    Ok(rules)
}

struct Parser {
    text: Vec<char>,
    next: usize,
    depth: usize,
    names: HashMap<String, usize>,
    /// Where each name occurs first.
    used: Vec<usize>,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.text.get(self.next).copied()
    }

    fn starts(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(i, c)| self.text.get(self.next + i) == Some(&c))
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.starts(text);
        if found {
            self.next += text.chars().count();
        }
        found
    }

    fn place(&self, at: usize) -> Place {
        let before = &self.text[..at.min(self.text.len())];
        let line = before.iter().filter(|c| **c == '\n').count() + 1;
        let column = before.iter().rev().take_while(|c| **c != '\n').count() + 1;
        Place::Line { line, column }
    }

    fn fault(&self, at: usize, cause: impl Into<String>, cure: &str) -> StructuredOutputError {
        StructuredOutputError::new(self.place(at), cause, cure)
    }

    /// White space and comments.
    fn blank(&mut self) {
        while let Some(c) = self.peek() {
            if c == '#' {
                while self.peek().is_some_and(|c| c != '\n') {
                    self.next += 1;
                }
            } else if c.is_whitespace() {
                self.next += 1;
            } else {
                break;
            }
        }
    }

    fn name(&mut self) -> Result<String> {
        let start = self.next;
        while self.peek().is_some_and(is_name) {
            self.next += 1;
        }
        if self.next == start {
            return Err(self.fault(start, "there is no name here", "write name ::= …"));
        }
        Ok(self.text[start..self.next].iter().collect())
    }

    fn index(&mut self, name: &str, at: usize) -> usize {
        if let Some(index) = self.names.get(name) {
            return *index;
        }
        self.used.push(at);
        self.names.insert(name.to_owned(), self.used.len() - 1);
        self.used.len() - 1
    }

    fn alternatives(&mut self) -> Result<Expression> {
        let mut all = vec![self.sequence()?];
        while self.take("|") {
            self.blank();
            all.push(self.sequence()?);
        }
        Ok(single(all, Expression::Alternatives))
    }

    /// Up to the next `|`, closing bracket, or rule.
    fn sequence(&mut self) -> Result<Expression> {
        let mut items = Vec::new();
        while let Some(c) = self.peek()
            && !matches!(c, '|' | ')')
            && !self.at_rule()
        {
            let item = self.atom()?;
            let item = self.quantified(item)?;
            items.push(item);
            self.blank();
        }
        Ok(single(items, Expression::Sequence))
    }

    /// Whether the next rule begins here.
    fn at_rule(&self) -> bool {
        let behind = self.text[self.next..].iter().skip_while(|c| is_name(**c));
        let mut behind = behind.skip_while(|c| c.is_whitespace());
        self.depth == 0
            && self.peek().is_some_and(is_name)
            && [':', ':', '='].iter().all(|c| behind.next() == Some(c))
    }

    fn atom(&mut self) -> Result<Expression> {
        let at = self.next;
        let c = self.peek().unwrap_or_default();
        if is_name(c) && c != '.' {
            let name = self.name()?;
            return Ok(Expression::Rule(self.index(&name, at)));
        }
        self.next += 1;
        match c {
            '.' => Ok(Expression::Class(r"[\x{0}-\x{10FFFF}]".to_owned())),
            '"' => self.literal(at),
            '[' => self.class(at),
            '(' => self.group(at),
            '<' | '!' => {
                let cause = "special tokens are not part of the text";
                Err(self.fault(at, cause, "remove what stands in < and >"))
            }
            '*' | '+' | '?' | '{' => {
                Err(self.fault(at, "there is nothing to repeat", "write it behind what repeats"))
            }
            c => Err(self.fault(at, format!("{c:?} means nothing here"), "quote it")),
        }
    }

    fn group(&mut self, at: usize) -> Result<Expression> {
        self.depth += 1;
        if self.depth > limits::BRACKETS {
            let cause = format!("more than {} brackets are open", limits::BRACKETS);
            return Err(self.fault(at, cause, "give the inner parts names"));
        }
        self.blank();
        let inside = self.alternatives()?;
        if !self.take(")") {
            return Err(self.fault(at, "this bracket is not closed", "close it"));
        }
        self.depth -= 1;
        Ok(inside)
    }

    fn literal(&mut self, at: usize) -> Result<Expression> {
        let mut text = String::new();
        loop {
            match self.character(at)? {
                Some((c, escaped)) if c != '"' || escaped => text.push(c),
                _ => return Ok(Expression::Literal(text)),
            }
        }
    }

    fn class(&mut self, at: usize) -> Result<Expression> {
        let mut class = if self.take("^") { "[^".to_owned() } else { "[".to_owned() };
        let mut is_empty = true;
        while let Some((low, escaped)) = self.character(at)? {
            if low == ']' && !escaped {
                break;
            }
            is_empty = false;
            push_literal(&mut class, low);
            if self.starts("-") && !self.starts("-]") {
                self.next += 1;
                let high_at = self.next;
                let Some((high, _)) = self.character(at)? else { break };
                if high < low {
                    let cause = "the ends of a range are in the wrong order";
                    return Err(self.fault(high_at, cause, "swap them"));
                }
                class.push('-');
                push_literal(&mut class, high);
            }
        }
        if is_empty {
            return Err(self.fault(at, "this class has no characters", "give it some"));
        }
        class.push(']');
        Ok(Expression::Class(class))
    }

    /// The next character of what began at `at`, and whether it was escaped.
    fn character(&mut self, at: usize) -> Result<Option<(char, bool)>> {
        let Some(c) = self.peek().filter(|c| *c != '\n') else {
            return Err(self.fault(at, "this is not closed in its line", "close it"));
        };
        self.next += 1;
        if c != '\\' {
            return Ok(Some((c, false)));
        }
        let escape = self.next - 1;
        let letter = self.peek().unwrap_or_default();
        self.next += 1;
        let c = match letter {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'x' => self.code(escape, 2)?,
            'u' => self.code(escape, 4)?,
            'U' => self.code(escape, 8)?,
            c if c.is_ascii_punctuation() => c,
            _ => return Err(self.fault(escape, "this escape is not known", r"write \\ for \")),
        };
        Ok(Some((c, true)))
    }

    fn code(&mut self, escape: usize, digits: usize) -> Result<char> {
        let text: String = self.text.iter().skip(self.next).take(digits).collect();
        self.next += digits;
        let code = u32::from_str_radix(&text, 16).ok().filter(|_| text.len() == digits);
        code.and_then(char::from_u32).ok_or_else(|| {
            self.fault(escape, "this escape names no character", "give all digits of its code")
        })
    }

    /// The item with the quantifiers behind it.
    fn quantified(&mut self, mut item: Expression) -> Result<Expression> {
        // More quantifiers than that say nothing, and would only be deep.
        for _ in 0..8 {
            let at = self.next;
            let (min, max) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => self.counts()?,
                _ => return Ok(item),
            };
            if self.next == at {
                self.next += 1;
            }
            if max.is_some_and(|max| max < min) {
                return Err(self.fault(at, "the counts are in the wrong order", "swap them"));
            }
            if u64::from(max.unwrap_or(min)) > limits::COUNT {
                let cause = format!("a count is above {}", limits::COUNT);
                return Err(self.fault(at, cause, "use a smaller one"));
            }
            item = Expression::Repeat(Box::new(item), min, max);
        }
        Err(self.fault(self.next, "there are too many quantifiers", "write one"))
    }

    /// `{m}`, `{m,}`, `{,n}` or `{m,n}`.
    fn counts(&mut self) -> Result<(u32, Option<u32>)> {
        let at = self.next;
        let end = self.text[at..].iter().position(|c| *c == '}').map(|i| at + i);
        let inside: String = self.text[at + 1..end.unwrap_or(at + 1)].iter().collect();
        self.next = end.unwrap_or(at) + 1;
        let number = |text: &str| text.trim().parse::<u32>().ok();
        let counts = match inside.split_once(',') {
            None => number(&inside).map(|n| (n, Some(n))),
            Some((min, max)) => {
                let min = if min.trim().is_empty() { Some(0) } else { number(min) };
                let max = if max.trim().is_empty() { Some(None) } else { number(max).map(Some) };
                min.zip(max)
            }
        };
        counts.ok_or_else(|| self.fault(at, "these are no counts", "write {2}, {2,} or {2,4}"))
    }
}

/// The only one, or all of them together.
fn single(mut all: Vec<Expression>, join: fn(Vec<Expression>) -> Expression) -> Expression {
    match all.pop() {
        Some(only) if all.is_empty() => only,
        last => {
            all.extend(last);
            join(all)
        }
    }
}
