//! A pattern's text → what it consists of.

use super::{Node, push_literal};
use crate::error::{Place, StructuredOutputError};
use crate::limits;

type Result<T> = std::result::Result<T, StructuredOutputError>;

const ANY: &str = r"[\x{0}-\x{10FFFF}]";
const DIGIT: &str = "0-9";
const WORD: &str = "0-9A-Za-z_";
/// ECMA-262's white space and line terminators.
const SPACE: &str = r"\x{9}-\x{D}\x{20}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}";

pub(super) fn parse(pattern: &str) -> Result<Node> {
    let (fold, rest) = match pattern.strip_prefix("(?i)") {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let skipped = if fold { 4 } else { 0 };
    let mut parser = Parser { text: rest.chars().collect(), next: 0, skipped, depth: 0 };
    let node = parser.alternatives()?;
    if parser.peek().is_some() {
        return Err(parser.fault(parser.next, "this bracket closes nothing", r"write \) for it"));
    }
    Ok(if fold { fold_case(node) } else { node })
}

/// Letters of both cases, where one was written.
fn fold_case(node: Node) -> Node {
    match node {
        Node::Set(set) => Node::Set(format!("(?i:{set})")),
        Node::Sequence(nodes) => Node::Sequence(nodes.into_iter().map(fold_case).collect()),
        Node::Alternatives(nodes) => Node::Alternatives(nodes.into_iter().map(fold_case).collect()),
        Node::Repeat(node, min, max) => Node::Repeat(Box::new(fold_case(*node)), min, max),
        Node::Start | Node::End => node,
    }
}

struct Parser {
    text: Vec<char>,
    next: usize,
    /// Characters before `text`.
    skipped: usize,
    depth: usize,
}

/// What an escape stands for.
enum Escape {
    Char(char),
    /// The inside of a class.
    Class(String),
    /// A class of its own, which cannot be written as the inside of one.
    Not(&'static str),
    Anchor(Node),
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.text.get(self.next).copied()
    }

    fn take(&mut self, text: &str) -> bool {
        let found = text.chars().enumerate().all(|(i, c)| self.text.get(self.next + i) == Some(&c));
        if found {
            self.next += text.chars().count();
        }
        found
    }

    fn fault(&self, at: usize, cause: &str, cure: &str) -> StructuredOutputError {
        StructuredOutputError::new(Place::Character(self.skipped + at + 1), cause, cure)
    }

    fn alternatives(&mut self) -> Result<Node> {
        let mut all = vec![self.sequence()?];
        while self.take("|") {
            all.push(self.sequence()?);
        }
        Ok(match all.pop() {
            Some(only) if all.is_empty() => only,
            last => Node::Alternatives(all.into_iter().chain(last).collect()),
        })
    }

    fn sequence(&mut self) -> Result<Node> {
        let mut items = Vec::new();
        while let Some(c) = self.peek()
            && c != '|'
            && c != ')'
        {
            let at = self.next;
            let item = self.atom()?;
            items.push(self.quantified(item, at)?);
        }
        Ok(match items.pop() {
            Some(only) if items.is_empty() => only,
            last => Node::Sequence(items.into_iter().chain(last).collect()),
        })
    }

    fn quantified(&mut self, item: Node, at: usize) -> Result<Node> {
        let quantifier = self.next;
        let Some((min, max)) = self.quantifier()? else { return Ok(item) };
        // A lazy quantifier finds another match first, and matches the same texts.
        self.take("?");
        if matches!(item, Node::Start | Node::End) {
            return Err(self.fault(at, "an anchor is repeated", "write it once"));
        }
        if max.is_some_and(|max| max < min) {
            return Err(self.fault(quantifier, "the counts are in the wrong order", "swap them"));
        }
        if u64::from(max.unwrap_or(min)) > limits::COUNT {
            let cause = format!("a count is above {}", limits::COUNT);
            return Err(self.fault(quantifier, &cause, "use a smaller one"));
        }
        Ok(Node::Repeat(Box::new(item), min, max))
    }

    fn quantifier(&mut self) -> Result<Option<(u32, Option<u32>)>> {
        let Some(c) = self.peek() else { return Ok(None) };
        let simple = match c {
            '*' => Some((0, None)),
            '+' => Some((1, None)),
            '?' => Some((0, Some(1))),
            _ => None,
        };
        if simple.is_some() {
            self.next += 1;
            return Ok(simple);
        }
        let start = self.next;
        if !self.take("{") {
            return Ok(None);
        }
        let min = self.number()?;
        let max = if self.take(",") { self.number()? } else { min };
        // Anything else in braces stands for itself.
        let (true, Some(min)) = (self.take("}"), min) else {
            self.next = start;
            return Ok(None);
        };
        Ok(Some((min, max)))
    }

    fn number(&mut self) -> Result<Option<u32>> {
        let start = self.next;
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.next += 1;
        }
        let digits: String = self.text[start..self.next].iter().collect();
        if digits.is_empty() {
            return Ok(None);
        }
        match digits.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(self.fault(start, "a count is too large", "use a smaller one")),
        }
    }

    fn atom(&mut self) -> Result<Node> {
        let at = self.next;
        let Some(c) = self.peek() else { return Ok(Node::Sequence(Vec::new())) };
        self.next += 1;
        Ok(match c {
            '^' => Node::Start,
            '$' => Node::End,
            '.' => Node::Set(r"[^\x{A}\x{D}\x{2028}\x{2029}]".to_owned()),
            '(' => self.group(at)?,
            '[' => Node::Set(self.class(at)?),
            '*' | '+' | '?' => {
                return Err(self.fault(at, "there is nothing to repeat", "escape it"));
            }
            '\\' => match self.escape(at)? {
                Escape::Char(c) => literal(c),
                Escape::Class(inside) => Node::Set(format!("[{inside}]")),
                Escape::Not(inside) => Node::Set(format!("[^{inside}]")),
                Escape::Anchor(node) => node,
            },
            c => literal(c),
        })
    }

    fn group(&mut self, at: usize) -> Result<Node> {
        self.depth += 1;
        if self.depth > limits::BRACKETS {
            let cause = format!("more than {} groups are inside of each other", limits::BRACKETS);
            return Err(self.fault(at, &cause, "use a flatter pattern"));
        }
        if self.take("?") && !self.take(":") {
            for sign in ["=", "!", "<=", "<!"] {
                if self.take(sign) {
                    let cure = "write a pattern without it";
                    return Err(self.fault(at, "look-around is not supported", cure));
                }
            }
            self.take("P");
            if !self.take("<") {
                let cure = "use (…), (?:…) or (?<name>…)";
                return Err(self.fault(at, "this kind of group is not supported", cure));
            }
            while self.peek().is_some_and(|c| c != '>') {
                self.next += 1;
            }
            self.take(">");
        }
        let inside = self.alternatives()?;
        if !self.take(")") {
            return Err(self.fault(at, "this bracket is not closed", "close it"));
        }
        self.depth -= 1;
        Ok(inside)
    }

    fn escape(&mut self, at: usize) -> Result<Escape> {
        let Some(c) = self.peek() else {
            return Err(self.fault(at, "the pattern ends in an escape", r"write \\ for it"));
        };
        self.next += 1;
        Ok(match c {
            'd' => Escape::Class(DIGIT.to_owned()),
            'w' => Escape::Class(WORD.to_owned()),
            's' => Escape::Class(SPACE.to_owned()),
            'D' => Escape::Not(DIGIT),
            'W' => Escape::Not(WORD),
            'S' => Escape::Not(SPACE),
            'A' => Escape::Anchor(Node::Start),
            'z' | 'Z' => Escape::Anchor(Node::End),
            't' => Escape::Char('\t'),
            'n' => Escape::Char('\n'),
            'r' => Escape::Char('\r'),
            'f' => Escape::Char('\x0c'),
            'v' => Escape::Char('\x0b'),
            '0' if !self.peek().is_some_and(|c| c.is_ascii_digit()) => Escape::Char('\0'),
            'x' => Escape::Char(self.hexadecimal(at, 2)?),
            'u' => Escape::Char(self.unicode(at)?),
            'p' | 'P' => Escape::Class(self.property(at, c)?),
            'c' => match self.peek() {
                Some(letter) if letter.is_ascii_alphabetic() => {
                    self.next += 1;
                    Escape::Char(char::from(letter as u8 % 32))
                }
                _ => return Err(self.fault(at, r"\c needs a letter", "name one")),
            },
            'b' | 'B' => {
                let cure = "write a pattern without it";
                return Err(self.fault(at, "a word boundary is not supported", cure));
            }
            '0'..='9' | 'k' => {
                let cure = "write a pattern without it";
                return Err(self.fault(at, "a back-reference is not supported", cure));
            }
            c if c.is_alphanumeric() => {
                return Err(self.fault(at, "this escape is not known", "remove the backslash"));
            }
            c => Escape::Char(c),
        })
    }

    fn hexadecimal(&mut self, at: usize, digits: usize) -> Result<char> {
        let text: String = self.text.iter().skip(self.next).take(digits).collect();
        self.next += text.chars().count();
        let value = u32::from_str_radix(&text, 16).ok().filter(|_| text.len() == digits);
        value
            .and_then(char::from_u32)
            .ok_or_else(|| self.fault(at, "this escape names no character", "give its code"))
    }

    fn unicode(&mut self, at: usize) -> Result<char> {
        if self.take("{") {
            let length = self.text[self.next..].iter().take_while(|c| **c != '}').count();
            let c = self.hexadecimal(at, length)?;
            self.take("}");
            return Ok(c);
        }
        let unit = |parser: &Self, from: usize| {
            let text: String = parser.text.iter().skip(from).take(4).collect();
            u16::from_str_radix(&text, 16).ok().filter(|_| text.len() == 4)
        };
        // A character beyond the basic plane may be written as its two halves.
        let first = unit(self, self.next);
        let second = match (self.text.get(self.next + 4), self.text.get(self.next + 5)) {
            (Some('\\'), Some('u')) => unit(self, self.next + 6),
            _ => None,
        };
        if let (Some(high @ 0xD800..=0xDBFF), Some(low)) = (first, second)
            && let Some(Ok(c)) = char::decode_utf16([high, low]).next()
        {
            self.next += 10;
            return Ok(c);
        }
        self.hexadecimal(at, 4)
    }

    /// `\p{…}`, whose names are Unicode's on both sides.
    fn property(&mut self, at: usize, letter: char) -> Result<String> {
        let start = self.next;
        let known = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '=';
        if self.take("{") {
            while self.peek().is_some_and(known) {
                self.next += 1;
            }
            if self.next > start + 1 && self.take("}") {
                let name: String = self.text[start..self.next].iter().collect();
                return Ok(format!(r"\{letter}{name}"));
            }
        }
        Err(self.fault(at, "this property is not known", r"name it as in \p{L}"))
    }

    /// A class, from behind its opening bracket.
    fn class(&mut self, at: usize) -> Result<String> {
        let negated = self.take("^");
        let mut inside = String::new();
        loop {
            let item = self.next;
            let (Some(low), low_at) = (self.class_item(at)?, item) else { break };
            let range =
                self.peek() == Some('-') && self.text.get(self.next + 1).is_some_and(|c| *c != ']');
            match low {
                Escape::Char(low) if range => {
                    self.next += 1;
                    let Some(Escape::Char(high)) = self.class_item(at)? else {
                        return Err(self.fault(low_at, "a range ends in a set", "end it in one"));
                    };
                    if high < low {
                        let cause = "the ends of a range are in the wrong order";
                        return Err(self.fault(low_at, cause, "swap them"));
                    }
                    push_literal(&mut inside, low);
                    inside.push('-');
                    push_literal(&mut inside, high);
                }
                Escape::Char(c) => push_literal(&mut inside, c),
                Escape::Class(class) => inside.push_str(&class),
                Escape::Not(class) => inside.push_str(&format!("[^{class}]")),
                Escape::Anchor(_) => {
                    return Err(self.fault(low_at, "an anchor is in a class", "move it out"));
                }
            }
        }
        Ok(match (inside.is_empty(), negated) {
            (true, true) => ANY.to_owned(),
            (true, false) => {
                return Err(self.fault(at, "this class has no characters", "give it some"));
            }
            (false, true) => format!("[^{inside}]"),
            (false, false) => format!("[{inside}]"),
        })
    }

    /// None at the closing bracket, which is taken.
    fn class_item(&mut self, class: usize) -> Result<Option<Escape>> {
        let at = self.next;
        let Some(c) = self.peek() else {
            return Err(self.fault(class, "this class is not closed", "close it"));
        };
        self.next += 1;
        Ok(match c {
            ']' => None,
            // In a class, \b is a backspace.
            '\\' if self.take("b") => Some(Escape::Char('\x08')),
            '\\' => Some(self.escape(at)?),
            c => Some(Escape::Char(c)),
        })
    }
}

fn literal(c: char) -> Node {
    let mut set = String::new();
    push_literal(&mut set, c);
    Node::Set(set)
}
