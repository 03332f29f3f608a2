//! Reads one JSON value piece by piece.
//!
//! The state is where in the grammar the text has got to, so a piece costs its own length and
//! nothing is read twice. Two frequent faults of models are mended on the way, because what was
//! meant is beyond doubt: raw control characters in strings are escaped, and a backslash that
//! begins no escape is doubled.

use std::fmt::Write as _;

/// Where the value has got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Goes on.
    More,
    /// Complete after so many bytes of the piece.
    Done(usize),
    /// The byte at this position of the piece fits nothing.
    Bad(usize),
}

/// Reads one value of any kind.
#[derive(Debug, Clone)]
pub(crate) struct JsonScanner {
    open: Vec<Container>,
    at: At,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Value,
    FirstItem,
    FirstKey,
    Key,
    Colon,
    AfterValue,
    Text { is_key: bool },
    Escape { is_key: bool },
    Unicode { is_key: bool, digits: [u8; 3], count: usize },
    Number(Number),
    Literal(&'static [u8]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl JsonScanner {
    pub(crate) fn new() -> Self {
        Self { open: Vec::new(), at: At::Value }
    }

    /// Reads a piece and appends what it says to `out`.
    pub(crate) fn feed(&mut self, piece: &str, out: &mut String) -> Progress {
        let bytes = piece.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            if let At::Text { .. } = self.at {
                let run = bytes[i..].iter().position(|b| *b == b'"' || *b == b'\\' || *b < b' ');
                let end = run.map_or(bytes.len(), |run| i + run);
                out.push_str(&piece[i..end]);
                i = end;
                if i == bytes.len() {
                    break;
                }
            }
            match self.byte(bytes[i], out) {
                Taken::Yes => i += 1,
                Taken::Not => {}
                Taken::Wrong => return Progress::Bad(i),
            }
            if self.is_done() {
                return Progress::Done(i);
            }
        }
        Progress::More
    }

    /// Whether the value would be complete if no more came. Only a number can be so.
    pub(crate) fn may_end(&self) -> bool {
        use Number::{Digits, ExponentDigits, Fraction, Zero};
        self.open.is_empty()
            && matches!(self.at, At::Number(Zero | Digits | Fraction | ExponentDigits))
    }

    fn is_done(&self) -> bool {
        self.open.is_empty() && self.at == At::AfterValue
    }

    /// Bytes beyond ASCII occur inside of strings only, where runs of them are copied whole.
    fn byte(&mut self, byte: u8, out: &mut String) -> Taken {
        match self.at {
            At::Text { is_key } => self.text(byte, is_key, out),
            At::Escape { is_key } => self.escape(byte, is_key, out),
            At::Unicode { is_key, digits, count } => self.unicode(byte, is_key, digits, count, out),
            At::Number(number) => self.number(byte, number, out),
            At::Literal(rest) => self.literal(byte, rest, out),
            _ if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') => push(byte, out),
            At::Value => self.value(byte, out),
            At::FirstItem if byte == b']' => self.close(Container::Array, byte, out),
            At::FirstItem => self.value(byte, out),
            At::FirstKey if byte == b'}' => self.close(Container::Object, byte, out),
            At::FirstKey | At::Key if byte == b'"' => self.go(At::Text { is_key: true }, byte, out),
            At::Colon if byte == b':' => self.go(At::Value, byte, out),
            At::AfterValue => self.after_value(byte, out),
            At::FirstKey | At::Key | At::Colon => Taken::Wrong,
        }
    }

    fn go(&mut self, at: At, byte: u8, out: &mut String) -> Taken {
        self.at = at;
        push(byte, out)
    }

    fn value(&mut self, byte: u8, out: &mut String) -> Taken {
        let at = match byte {
            b'{' => {
                self.open.push(Container::Object);
                At::FirstKey
            }
            b'[' => {
                self.open.push(Container::Array);
                At::FirstItem
            }
            b'"' => At::Text { is_key: false },
            b'-' => At::Number(Number::Minus),
            b'0' => At::Number(Number::Zero),
            b'1'..=b'9' => At::Number(Number::Digits),
            b't' => At::Literal(b"rue"),
            b'f' => At::Literal(b"alse"),
            b'n' => At::Literal(b"ull"),
            _ => return Taken::Wrong,
        };
        self.go(at, byte, out)
    }

    fn after_value(&mut self, byte: u8, out: &mut String) -> Taken {
        match (byte, self.open.last()) {
            (b',', Some(Container::Object)) => self.go(At::Key, byte, out),
            (b',', Some(Container::Array)) => self.go(At::Value, byte, out),
            (b'}', _) => self.close(Container::Object, byte, out),
            (b']', _) => self.close(Container::Array, byte, out),
            _ => Taken::Wrong,
        }
    }

    fn close(&mut self, container: Container, byte: u8, out: &mut String) -> Taken {
        if self.open.last() != Some(&container) {
            return Taken::Wrong;
        }
        self.open.pop();
        self.go(At::AfterValue, byte, out)
    }

    fn text(&mut self, byte: u8, is_key: bool, out: &mut String) -> Taken {
        match byte {
            b'"' if is_key => self.go(At::Colon, byte, out),
            b'"' => self.go(At::AfterValue, byte, out),
            b'\\' => {
                self.at = At::Escape { is_key };
                Taken::Yes
            }
            _ => {
                escape_char(char::from(byte), out);
                Taken::Yes
            }
        }
    }

    fn escape(&mut self, byte: u8, is_key: bool, out: &mut String) -> Taken {
        self.at = At::Text { is_key };
        match byte {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                out.push('\\');
                push(byte, out)
            }
            b'u' => {
                self.at = At::Unicode { is_key, digits: [0; 3], count: 0 };
                Taken::Yes
            }
            _ => {
                out.push_str("\\\\");
                Taken::Not
            }
        }
    }

    fn unicode(
        &mut self,
        byte: u8,
        is_key: bool,
        mut digits: [u8; 3],
        count: usize,
        out: &mut String,
    ) -> Taken {
        let is_digit = byte.is_ascii_hexdigit();
        if is_digit && count < digits.len() {
            digits[count] = byte;
            self.at = At::Unicode { is_key, digits, count: count + 1 };
            return Taken::Yes;
        }
        self.at = At::Text { is_key };
        out.push_str(if is_digit { "\\u" } else { "\\\\u" });
        out.extend(digits[..count].iter().map(|digit| char::from(*digit)));
        if is_digit { push(byte, out) } else { Taken::Not }
    }

    fn number(&mut self, byte: u8, number: Number, out: &mut String) -> Taken {
        use Number::{
            Digits, Exponent, ExponentDigits, ExponentSign, Fraction, Minus, Point, Zero,
        };
        let next = match (number, byte) {
            (Minus, b'0') => Zero,
            (Minus, b'1'..=b'9') | (Digits, b'0'..=b'9') => Digits,
            (Zero | Digits, b'.') => Point,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Zero | Digits | Fraction, b'e' | b'E') => Exponent,
            (Exponent, b'+' | b'-') => ExponentSign,
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => ExponentDigits,
            (Zero | Digits | Fraction | ExponentDigits, _) => {
                self.at = At::AfterValue;
                return Taken::Not;
            }
            _ => return Taken::Wrong,
        };
        self.go(At::Number(next), byte, out)
    }

    fn literal(&mut self, byte: u8, rest: &'static [u8], out: &mut String) -> Taken {
        match rest {
            [only] if *only == byte => self.go(At::AfterValue, byte, out),
            [first, others @ ..] if *first == byte => self.go(At::Literal(others), byte, out),
            _ => Taken::Wrong,
        }
    }
}

/// Whether a byte was read.
enum Taken {
    Yes,
    Not,
    Wrong,
}

fn push(byte: u8, out: &mut String) -> Taken {
    out.push(char::from(byte));
    Taken::Yes
}

/// Appends text as it stands inside of a JSON string.
pub(crate) fn escape_into(text: &str, out: &mut String) {
    let mut from = 0;
    for (i, byte) in text.bytes().enumerate() {
        if byte == b'"' || byte == b'\\' || byte < b' ' {
            out.push_str(&text[from..i]);
            escape_char(char::from(byte), out);
            from = i + 1;
        }
    }
    out.push_str(&text[from..]);
}

/// Text as a JSON string with its quotes.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    escape_into(text, &mut out);
    out.push('"');
    out
}

/// Appends one character as it stands inside of a JSON string.
pub(crate) fn escape_char(c: char, out: &mut String) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if c < ' ' => {
            // Writing to a string cannot fail.
            let _never = write!(out, "\\u{:04x}", u32::from(c));
        }
        c => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(text: &str) -> (String, Progress) {
        let mut out = String::new();
        let progress = JsonScanner::new().feed(text, &mut out);
        (out, progress)
    }

    #[test]
    fn reads_what_json_allows_and_no_more() {
        let check = |text: &str, expected: Progress| assert_eq!(scan(text).1, expected, "{text}");
        check(r#"{"a":[1,-2.5e+3,{"b":"}\"]"}],"c":null} x"#, Progress::Done(39));
        check("[]", Progress::Done(2));
        check("12", Progress::More);
        check("12 ", Progress::Done(2));
        check("01", Progress::Done(1));
        check("1.}", Progress::Bad(2));
        check("{a", Progress::Bad(1));
        check("{\"a\" 1", Progress::Bad(5));
        check("[1}", Progress::Bad(2));
        check("[1,]", Progress::Bad(3));
        check("{\"é\":tru", Progress::More);
        check("nil", Progress::Bad(1));
    }

    #[test]
    fn mends_strings() {
        let check = |text: &str, expected: &str| {
            assert_eq!(scan(text).0, expected);
            serde_json::from_str::<serde_json::Value>(expected).expect("is JSON");
        };
        check("\"a\nb\u{1}\"", r#""a\nb\u0001""#);
        check(r#""\d \u00e9 \u12x\/""#, r#""\\d \u00e9 \\u12x\/""#);
        check(r#""\é""#, r#""\\é""#);
    }

    proptest! {
        #[test]
        fn whatever_it_accepts_is_json(text in r#"[\[\]{}:,"\\a1u0.e\-ntrulé \n]{0,40}"#) {
            let (out, progress) = scan(&text);
            if let Progress::Done(_) = progress {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok(), "{out}");
            }
        }

        #[test]
        fn whatever_serde_accepts_it_accepts(value in any::<(Vec<String>, f64, bool, i64)>()) {
            let (texts, float, flag, int) = value;
            let value = serde_json::json!({"a": texts, "f": float, "n": [flag, int, null]});
            let text = serde_json::to_string_pretty(&value).expect("writes");
            let (out, progress) = scan(&text);
            prop_assert_eq!(progress, Progress::Done(text.len()));
            prop_assert_eq!(out, text);
        }
    }
}
