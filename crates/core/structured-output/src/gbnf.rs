//! EBNF as of llama.cpp (`root ::= …`) → Lark.
//!
//! A rule that does not lead back to itself is a regular expression, and becomes a terminal: those
//! are matched exactly. Rules that recur stay rules, in which runs of regular parts are one
//! terminal each. Between terminals Lark reads greedily: of two terminals beside each other the
//! first takes all it can, so that a grammar that hopes for less there has fewer texts, never more.

mod emit;
mod parse;

use crate::error::{Place, StructuredOutputError};

/// What the body of a rule consists of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expression {
    /// This text.
    Literal(String),
    /// One character of a class, in the syntax of regular expressions.
    Class(String),
    /// What a rule describes, by its index.
    Rule(usize),
    /// One after the other.
    Sequence(Vec<Expression>),
    /// One of them.
    Alternatives(Vec<Expression>),
    /// So many times; no upper bound if there is none.
    Repeat(Box<Expression>, u32, Option<u32>),
}

/// A rule of a grammar.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) body: Expression,
}

/// Whether a grammar is written this way, and not in Lark's.
pub(crate) fn is_gbnf(grammar: &str) -> bool {
    grammar.lines().any(|line| {
        let Some((name, _)) = line.split_once("::=") else { return false };
        let name = name.trim();
        !name.is_empty() && name.chars().all(parse::is_name)
    })
}

/// The same grammar in Lark's syntax.
///
/// # Errors
/// The place and cause of what is wrong with it.
pub(crate) fn to_lark(grammar: &str) -> Result<String, StructuredOutputError> {
    let rules = parse::parse(grammar)?;
    emit::emit(&rules)
}

#[cfg(test)]
mod tests;
