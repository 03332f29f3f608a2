//! A document as a tree that knows its lines.

use super::problem::{Problem, Severity};
use super::scalar;
use crate::parse;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};
use std::collections::HashMap;
use std::sync::Arc;

/// More would be no configuration: aliases of aliases grow without bound.
const MAX_NODES: usize = 2_000_000;
const MAX_DEPTH: usize = 64;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// The file of a model; absent is the file itself.
    pub(super) file: Option<Arc<str>>,
    /// From 1.
    pub(super) line: usize,
    /// From 1.
    pub(super) column: usize,
    pub(super) value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Whole(i64),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a map, where it stands, and its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// A text.
    pub(super) key: Node,
    pub(super) value: Node,
}

impl Entry {
    pub(super) fn name(&self) -> &str {
        self.key.text().unwrap_or_default()
    }
}

impl Node {
    pub(super) fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    pub(super) fn entries(&self) -> &[Entry] {
        if let Value::Map(entries) = &self.value { entries } else { &[] }
    }

    pub(super) fn items(&self) -> &[Node] {
        if let Value::List(items) = &self.value { items } else { &[] }
    }

    pub(super) fn text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }

    pub(super) fn number(&self) -> Option<f64> {
        match self.value {
            Value::Whole(n) => Some(n as f64),
            Value::Number(n) => Some(n),
            _ => None,
        }
    }

    /// As [`super::kind::Kind::Tokens`] takes them.
    pub(super) fn tokens(&self) -> Option<u32> {
        self.as_digits().and_then(|text| parse::tokens(&text).ok())
    }

    /// As [`super::kind::Kind::Bytes`] takes them.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.as_digits().and_then(|text| parse::parse_bytes(&text).ok())
    }

    fn as_digits(&self) -> Option<String> {
        match &self.value {
            Value::Text(text) => Some(text.clone()),
            Value::Whole(_) | Value::Number(_) => Some(self.json()),
            _ => None,
        }
    }

    /// A value of its own at the same place.
    pub(super) fn beside(&self, value: Value) -> Node {
        Node { file: self.file.clone(), line: self.line, column: self.column, value }
    }

    /// A key and its value at the same place.
    pub(super) fn entry(&self, name: &str, value: Node) -> Entry {
        Entry { key: self.beside(Value::Text(name.to_owned())), value }
    }

    /// Whether a key is there, be it with null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries().iter().any(|entry| entry.name() == name)
    }

    /// The value of a key that is there and not null.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        let entry = self.entries().iter().find(|entry| entry.name() == name)?;
        Some(&entry.value).filter(|value| !value.is_null())
    }

    /// JSON; numbers that it has no word for are null.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Whole(value) => (*value).into(),
            Value::Number(value) => (*value).into(),
            Value::Text(text) => text.as_str().into(),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => entries
                .iter()
                .map(|entry| (entry.name().to_owned(), entry.value.to_json()))
                .collect(),
        }
    }

    pub(super) fn items_mut(&mut self) -> &mut [Node] {
        if let Value::List(items) = &mut self.value { items } else { &mut [] }
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Node> {
        let Value::Map(entries) = &mut self.value else { return None };
        entries.iter_mut().find(|entry| entry.name() == name).map(|entry| &mut entry.value)
    }

    /// What a program says, as if it stood in a file.
    pub(super) fn from_json(json: &serde_json::Value) -> Node {
        use serde_json::Value as Json;
        let text = |text: &str| Value::Text(text.to_owned());
        let node = |value| Node { file: None, line: 1, column: 1, value };
        node(match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(whole) => Value::Whole(whole),
                None => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(value) => text(value),
            Json::Array(items) => Value::List(items.iter().map(Node::from_json).collect()),
            Json::Object(map) => {
                let entry = |(key, value): (&String, _)| Entry {
                    key: node(text(key)),
                    value: Node::from_json(value),
                };
                Value::Map(map.iter().map(entry).collect())
            }
        })
    }

    /// For messages and for `show`: JSON on one line.
    pub(super) fn json(&self) -> String {
        let joined = |parts: Vec<String>| parts.join(", ");
        match &self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Whole(value) => value.to_string(),
            Value::Number(value) => value.to_string(),
            Value::Text(text) => format!("{text:?}"),
            Value::List(items) => format!("[{}]", joined(items.iter().map(Node::json).collect())),
            Value::Map(entries) => {
                let parts = entries
                    .iter()
                    .map(|entry| format!("{:?}: {}", entry.name(), entry.value.json()));
                format!("{{{}}}", joined(parts.collect()))
            }
        }
    }

    fn count(&self) -> usize {
        let inside = match &self.value {
            Value::List(items) => items.iter().map(Node::count).sum(),
            Value::Map(entries) => entries.iter().map(|entry| 1 + entry.value.count()).sum(),
            _ => 0,
        };
        1 + inside
    }
}

/// Reads one document; `file` is a model's.
pub(super) fn parse(text: &str, file: Option<&str>) -> Result<Node, Problem> {
    read(text, file.map(Arc::from))
        .map_err(|problem| Problem { file: file.map(str::to_owned), ..problem })
}

fn read(text: &str, file: Option<Arc<str>>) -> Result<Node, Problem> {
    let mut builder = Builder { file, ..Builder::default() };
    for event in Parser::new_from_str(text) {
        let (event, span) = event
            .map_err(|error| at(error.marker(), format!("this is no YAML: {}", error.info())))?;
        builder.take(event, span)?;
    }
    builder.root.ok_or_else(|| {
        let start = Marker::new(0, 1, 0);
        at(&start, "the file is empty".to_owned()).with_cure("it needs `applications:`")
    })
}

fn at(marker: &Marker, message: String) -> Problem {
    Problem {
        file: None,
        line: marker.line(),
        column: marker.col() + 1,
        path: String::new(),
        message,
        cure: None,
        severity: Severity::Error,
    }
}

/// A list or map that is not complete.
struct Open {
    node: Node,
    anchor: usize,
    /// A map's key that waits for its value.
    key: Option<Node>,
}

#[derive(Default)]
struct Builder {
    file: Option<Arc<str>>,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    num_nodes: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let file = self.file.clone();
        let node =
            |value| Node { file, line: span.start.line(), column: span.start.col() + 1, value };
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(at(&span.start, "a second document begins here".to_owned())
                    .with_cure("one file is one configuration: put all applications into one list"))
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar_value(&text, style, tag.as_deref())
                    .map_err(|why| at(&span.start, why))?;
                self.put(node(value), anchor, &span)
            }
            Event::SequenceStart(anchor, tag) => {
                known(tag.as_deref(), "seq").map_err(|why| at(&span.start, why))?;
                self.enter(node(Value::List(vec![])), anchor, &span)
            }
            Event::MappingStart(anchor, tag) => {
                known(tag.as_deref(), "map").map_err(|why| at(&span.start, why))?;
                self.enter(node(Value::Map(vec![])), anchor, &span)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                self.put(merged(open.node), open.anchor, &span)
            }
            Event::Alias(anchor) => {
                let Some(mut copy) = self.anchors.get(&anchor).cloned() else {
                    return Err(at(&span.start, "an alias of what is not complete yet".to_owned()));
                };
                self.num_nodes += copy.count();
                (copy.line, copy.column) = (span.start.line(), span.start.col() + 1);
                self.put(copy, 0, &span)
            }
            _ => Ok(()),
        }
    }

    fn enter(&mut self, node: Node, anchor: usize, span: &Span) -> Result<(), Problem> {
        if self.open.len() >= MAX_DEPTH {
            return Err(at(&span.start, format!("more than {MAX_DEPTH} levels")));
        }
        self.open.push(Open { node, anchor, key: None });
        Ok(())
    }

    /// A complete value: an item, a key, a key's value, or the document.
    fn put(&mut self, node: Node, anchor: usize, span: &Span) -> Result<(), Problem> {
        self.num_nodes += 1;
        if self.num_nodes > MAX_NODES {
            return Err(at(&span.start, format!("more than {MAX_NODES} values")));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut open.node.value, open.key.take()) {
            (Value::List(items), _) => items.push(node),
            (Value::Map(entries), Some(key)) => entries.push(Entry { key, value: node }),
            (Value::Map(entries), None) => {
                let key = as_key(node, span)?;
                // `<<` may come several times.
                let name = key.text().unwrap_or_default();
                let earlier = entries.iter().find(|entry| entry.name() == name && name != "<<");
                if let Some(earlier) = earlier {
                    let line = earlier.key.line;
                    let message = format!("{name:?} stands here again; line {line} has it too");
                    return Err(Problem::error(&key, "", message)
                        .with_cure("keep one of them: of two, most readers take the last"));
                }
                open.key = Some(key);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Keys are texts, whatever they look like.
fn as_key(node: Node, span: &Span) -> Result<Node, Problem> {
    let text = match node.value {
        Value::Text(text) => text,
        Value::List(_) | Value::Map(_) => {
            return Err(at(&span.start, "a list or a map cannot be a key".to_owned()));
        }
        _ => node.json(),
    };
    Ok(Node { value: Value::Text(text), ..node })
}

/// Carries out `<<: *base`: keys of the base that the map has not itself.
fn merged(mut node: Node) -> Node {
    // Most are small, and there may be many.
    match &mut node.value {
        Value::Map(entries) => entries.shrink_to_fit(),
        Value::List(items) => items.shrink_to_fit(),
        _ => {}
    }
    let Value::Map(entries) = &mut node.value else { return node };
    if entries.iter().all(|entry| entry.name() != "<<") {
        return node;
    }
    let (bases, mut own): (Vec<Entry>, Vec<Entry>) =
        std::mem::take(entries).into_iter().partition(|entry| entry.name() == "<<");
    for base in bases {
        let maps = match base.value.value {
            Value::List(items) => items,
            _ => vec![base.value],
        };
        for entry in maps.into_iter().flat_map(|map| map.entries().to_vec()) {
            if own.iter().all(|mine| mine.name() != entry.name()) {
                own.push(entry);
            }
        }
    }
    *entries = own;
    node
}

fn scalar_value(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let Some(tag) = tag else {
        let is_plain = style == ScalarStyle::Plain;
        return Ok(if is_plain { scalar::resolve(text) } else { Value::Text(text.to_owned()) });
    };
    match name(tag).strip_prefix(CORE_TAGS) {
        Some("str") => Ok(Value::Text(text.to_owned())),
        Some("null" | "bool" | "int" | "float") => Ok(scalar::resolve(text)),
        _ => Err(foreign(tag)),
    }
}

const CORE_TAGS: &str = "tag:yaml.org,2002:";

fn name(tag: &Tag) -> String {
    format!("{}{}", tag.handle, tag.suffix)
}

fn foreign(tag: &Tag) -> String {
    format!("the tag {:?} asks for an object that a file cannot make", name(tag))
}

/// A list or a map has no tag but its own.
fn known(tag: Option<&Tag>, core: &str) -> Result<(), String> {
    match tag {
        Some(tag) if name(tag).strip_prefix(CORE_TAGS) != Some(core) => Err(foreign(tag)),
        _ => Ok(()),
    }
}
