//! Patterns as JSON schemas have them (ECMA-262), in the syntax of the automata.
//!
//! Both are close, and what differs would change what is possible: `.` and `\s` stand for other
//! sets of characters, brackets inside of a class and names of groups mean something else, and an
//! anchor is a property of a place here. So a pattern is parsed and written anew, and what cannot
//! be written is an error: look-around, back-references and word boundaries.

mod emit;
mod parse;

use crate::error::StructuredOutputError;

/// What a pattern consists of.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    /// One character of a set, in the syntax of the automata.
    Set(String),
    /// `^`
    Start,
    /// `$`
    End,
    /// One after the other; nothing at all if there is none.
    Sequence(Vec<Node>),
    /// One of them.
    Alternatives(Vec<Node>),
    /// So many times; no upper bound if there is none.
    Repeat(Box<Node>, u32, Option<u32>),
}

/// An expression that matches a text as a whole if the pattern matches all of it.
pub(crate) fn whole(pattern: &str) -> Result<String, StructuredOutputError> {
    let parsed = parse::parse(pattern)?;
    emit::whole(&parsed)
}

/// An expression that matches a text as a whole if the pattern matches anywhere in it.
pub(crate) fn anywhere(pattern: &str) -> Result<String, StructuredOutputError> {
    let parsed = parse::parse(pattern)?;
    emit::anywhere(&parsed)
}

/// Appends a character that stands for itself, also inside of a class.
pub(crate) fn push_literal(out: &mut String, c: char) {
    if c.is_ascii_alphanumeric() {
        out.push(c);
    } else {
        out.push_str(&format!(r"\x{{{:X}}}", u32::from(c)));
    }
}

/// An expression for exactly this text.
pub(crate) fn literal(text: &str) -> String {
    let mut out = String::new();
    text.chars().for_each(|c| push_literal(&mut out, c));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Place;

    #[test]
    fn patterns_keep_their_meaning() {
        let check = |pattern: &str, expected: &str| {
            assert_eq!(whole(pattern).unwrap(), expected, "{pattern}");
        };
        check("a|bc*", "a|bc*");
        check("^(?:ab)+?$", "(?:ab)+");
        check("(?<year>[0-9]{4})-", r"[0-9]{4}\x{2D}");
        check(r"\d\W", "[0-9][^0-9A-Za-z_]");
        check(r"[\d\-\]x-z&&[]", r"[0-9\x{2D}\x{5D}x-z\x{26}\x{26}\x{5B}]");
        check(".", r"[^\x{A}\x{D}\x{2028}\x{2029}]");
        check(r"\u00e9\x41\n\/\cA", r"\x{E9}A\x{A}\x{2F}\x{1}");
        check("a{2,}b{,3}", r"a{2,}b\x{7B}\x{2C}3\x{7D}");
        check("[^]", r"[\x{0}-\x{10FFFF}]");
        check("(?i)ab", "(?i:a)(?i:b)");
        check("(a+)?(b{2})*", "(?:a+)?(?:b{2})*");
        check("", "");
    }

    #[test]
    fn anchors_belong_to_their_alternative() {
        let any = r"[\x{0}-\x{10FFFF}]*";
        let check = |pattern: &str, expected: String| {
            assert_eq!(anywhere(pattern).unwrap(), expected, "{pattern}");
        };
        check("a", format!("(?:{any}a{any})"));
        check("^a", format!("(?:a{any})"));
        check("^a|b$", format!("(?:a{any}|{any}b)"));
        check("^(a|b$)", format!("(?:(?:a{any}|b))"));
        check("(^a|b)c", format!("(?:(?:a|{any}b)c{any})"));
        check("", format!("(?:{any}{any})"));
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        let check = |pattern: &str, character: usize, cause: &str| {
            let error = anywhere(pattern).unwrap_err();
            assert_eq!(error.place, Place::Character(character), "{pattern}");
            assert!(error.cause.contains(cause), "{pattern}: {error}");
        };
        check("a(?=b)", 2, "look-around");
        check("(?<!b)a", 1, "look-around");
        check(r"(a)\1", 4, "back-reference");
        check(r"a\bc", 2, "word boundary");
        check("a)", 2, "closes nothing");
        check("(a", 1, "not closed");
        check("[a", 1, "not closed");
        check("*a", 1, "nothing to repeat");
        check("a**", 3, "nothing to repeat");
        check("[b-a]", 2, "order");
        check("a{3,2}", 2, "order");
        check(r"a\", 2, "ends");
        check(r"\q", 1, "escape");
        check(&"(".repeat(100), 65, "inside of each other");
        let place = |pattern: &str| anywhere(pattern).unwrap_err().place;
        assert_eq!(place("a^b"), Place::Whole);
        assert_eq!(place("(^a)*"), Place::Whole);
    }
}
