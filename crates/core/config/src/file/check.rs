//! A tree against the tables.

use super::fields::RENAMED;
use super::kind::{Fate, Field, Kind, Object};
use super::node::{Entry, Node, Value};
use super::problem::{Problem, Severity, inside};

/// Longer values are cut in messages.
const SHOWN_CHARS: usize = 60;
/// Objects with more fields do not list them in messages.
const MAX_LISTED: usize = 40;
/// Typing errors from which a name is still guessed.
const MAX_DISTANCE: usize = 2;

/// Checks a map and all in it.
pub(super) fn object(object: &Object, node: &Node, path: &str, problems: &mut Vec<Problem>) {
    if !matches!(node.value, Value::Map(_)) {
        let what = if path.is_empty() { "the file" } else { "this" };
        let message = format!("{what} is {}, which is not a map", shown(node));
        problems.push(Problem::error(node, path, message));
        return;
    }
    for entry in node.entries() {
        let path = inside(path, entry.name());
        match object.field(entry.name()) {
            Some(field) => value(field, entry, &path, problems),
            None => problems.push(unknown(object, entry, &path)),
        }
    }
    for field in object.fields.iter().filter(|field| field.is_required) {
        let is_there = node.entries().iter().any(|entry| entry.name() == field.name);
        if !is_there {
            let message = format!("`{}` is missing: {}", field.name, field.about);
            let cure = format!("write {}: with {}", field.name, field.accepted());
            problems.push(Problem::error(node, path, message).with_cure(cure));
        }
    }
}

fn value(field: &Field, entry: &Entry, path: &str, problems: &mut Vec<Problem>) {
    let node = &entry.value;
    if node.is_null() && field.takes_null {
        return;
    }
    if let Fate::Refused(cure) = field.fate
        && node.json() != field.default
    {
        let message = format!("{} cannot be carried out", field.name);
        problems.push(Problem::error(&entry.key, path, message).with_cure(cure));
        return;
    }
    if !field.kind.takes(node) {
        problems.push(misfit(node, path, &field.accepted()));
        return;
    }
    if let Fate::Ignored(why) = field.fate {
        ignored(field, entry, (path, why), problems);
    }
    contents(&field.kind, node, path, problems);
}

/// Warns once of a field, where it says something else than the default.
fn ignored(field: &Field, entry: &Entry, (path, why): (&str, &str), problems: &mut Vec<Problem>) {
    let message = format!("{} has no effect: {why}", field.name);
    let was_told = problems.iter().any(|problem| problem.message == message);
    if !was_told && entry.value.json() != field.default {
        problems.push(Problem::warning(&entry.key, path, message));
    }
}

/// Checks what is in a value whose own look is right.
fn contents(kind: &Kind, node: &Node, path: &str, problems: &mut Vec<Problem>) {
    match kind {
        Kind::Object(inner) => object(inner, node, path, problems),
        Kind::List(inner) => {
            for (i, item) in node.items().iter().enumerate() {
                let path = format!("{path}[{i}]");
                if inner.takes(item) {
                    contents(inner, item, &path, problems);
                } else {
                    problems.push(misfit(item, &path, &inner.accepted()));
                }
            }
        }
        Kind::Either(kinds) => {
            if let Some(kind) = kinds.iter().find(|kind| kind.takes(node)) {
                contents(kind, node, path, problems);
            }
        }
        _ => {}
    }
}

fn misfit(node: &Node, path: &str, accepted: &str) -> Problem {
    Problem::error(node, path, format!("{} is not {accepted}", shown(node)))
}

fn shown(node: &Node) -> String {
    let json = node.json();
    match json.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &json[..end]),
        None => json,
    }
}

fn unknown(object: &Object, entry: &Entry, path: &str) -> Problem {
    let name = entry.name();
    let problem =
        Problem::error(&entry.key, path, format!("{name:?} is no field of {}", object.name));
    let renamed = RENAMED.iter().find(|(old, _)| *old == name).map(|(_, new)| *new);
    if let Some(new) = renamed.filter(|new| object.field(new).is_some()) {
        return problem.with_cure(format!("it is called {new} now"));
    }
    let distance = |field: &&Field| strsim::damerau_levenshtein(field.name, name);
    let nearest = object.fields.iter().min_by_key(distance);
    if let Some(near) = nearest.filter(|near| distance(near) <= MAX_DISTANCE) {
        return problem.with_cure(format!("did you mean {}?", near.name));
    }
    if object.is_open {
        return Problem { severity: Severity::Warning, ..problem };
    }
    if object.fields.len() > MAX_LISTED {
        return problem.with_cure("`tyndall config schema` lists its fields");
    }
    let names: Vec<&str> = object.fields.iter().map(|field| field.name).collect();
    problem.with_cure(format!("it has {}", names.join(", ")))
}
