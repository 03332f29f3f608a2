//! What a pattern consists of → an expression that matches whole texts.

use super::Node;
use crate::error::StructuredOutputError;

type Result<T> = std::result::Result<T, StructuredOutputError>;

const ANYTHING: &str = r"[\x{0}-\x{10FFFF}]*";

/// Which ends of the text a node touches, and what stands there if no anchor does.
#[derive(Clone, Copy)]
struct Ends<'a> {
    start: Option<&'a str>,
    end: Option<&'a str>,
}

pub(super) fn whole(node: &Node) -> Result<String> {
    write(node, Ends { start: Some(""), end: Some("") })
}

pub(super) fn anywhere(node: &Node) -> Result<String> {
    let text = write(node, Ends { start: Some(ANYTHING), end: Some(ANYTHING) })?;
    Ok(format!("(?:{text})"))
}

fn write(node: &Node, ends: Ends) -> Result<String> {
    match node {
        Node::Alternatives(all) => {
            let all: Vec<String> =
                all.iter().map(|node| write(node, ends)).collect::<Result<_>>()?;
            Ok(all.join("|"))
        }
        Node::Sequence(items) => sequence(items, ends),
        other => sequence(std::slice::from_ref(other), ends),
    }
}

fn sequence(mut items: &[Node], mut ends: Ends) -> Result<String> {
    while let (Some(_), [Node::Start, rest @ ..]) = (ends.start, items) {
        ends.start = Some("");
        items = rest;
    }
    while let (Some(_), [rest @ .., Node::End]) = (ends.end, items) {
        ends.end = Some("");
        items = rest;
    }
    // A group with anchors at its own ends says itself what stands there.
    let inner = |i: usize| Ends {
        start: ends.start.filter(|_| i == 0 && anchored(&items[0])),
        end: ends.end.filter(|_| i + 1 == items.len() && anchored(&items[i])),
    };
    let mut out = String::new();
    if let Some(before) = ends.start
        && !items.first().is_some_and(anchored)
    {
        out.push_str(before);
    }
    for (i, item) in items.iter().enumerate() {
        out.push_str(&piece(item, inner(i))?);
    }
    if let Some(behind) = ends.end
        && !items.last().is_some_and(anchored)
    {
        out.push_str(behind);
    }
    Ok(out)
}

fn piece(node: &Node, ends: Ends) -> Result<String> {
    Ok(match node {
        Node::Set(set) => set.clone(),
        Node::Alternatives(_) | Node::Sequence(_) => format!("(?:{})", write(node, ends)?),
        Node::Repeat(inner, min, max) => {
            let nested = matches!(**inner, Node::Repeat(..));
            let inner = piece(inner, Ends { start: None, end: None })?;
            // A quantifier behind another would make that one lazy.
            let inner = if nested { format!("(?:{inner})") } else { inner };
            let count = match (min, max) {
                (0, None) => "*".to_owned(),
                (1, None) => "+".to_owned(),
                (0, Some(1)) => "?".to_owned(),
                (min, None) => format!("{{{min},}}"),
                (min, Some(max)) if min == max => format!("{{{min}}}"),
                (min, Some(max)) => format!("{{{min},{max}}}"),
            };
            format!("{inner}{count}")
        }
        Node::Start | Node::End => {
            let cause = "a pattern has an anchor in the middle or in a repetition";
            let cure = "move it to the pattern's start or end";
            return Err(StructuredOutputError::whole(cause, cure));
        }
    })
}

/// Whether a group has anchors in it, which are at its ends or an error.
fn anchored(node: &Node) -> bool {
    match node {
        Node::Alternatives(all) | Node::Sequence(all) => all.iter().any(has_anchor),
        _ => false,
    }
}

fn has_anchor(node: &Node) -> bool {
    match node {
        Node::Start | Node::End => true,
        Node::Set(_) => false,
        Node::Repeat(inner, ..) => has_anchor(inner),
        Node::Alternatives(all) | Node::Sequence(all) => all.iter().any(has_anchor),
    }
}
