//! Calls with a tag for each parameter, such as `<parameter=city>Rome</parameter>`.

use super::listed::junk;
use super::{Grammar, add_name, is_name};
use crate::json::escape_into;
use crate::output::Output;
use crate::scan::{Found, Markers, Step, find_one, leading_space};
use crate::values::{Types, guess};
use std::sync::Arc;
use tyndall_types::Tool;

/// Longest name of a function or a parameter, with the rest of its tag, in bytes.
const MAX_NAME: usize = 512;

/// The tags of a family.
#[derive(Debug)]
pub(crate) struct Tags {
    /// Text before a function's name.
    pub(crate) call: &'static str,
    /// Texts after it. One that is also the begin of a parameter, or the end of the call, is not read.
    pub(crate) call_name_end: &'static [&'static str],
    /// Text after the last parameter.
    pub(crate) call_end: &'static str,
    /// Text before a parameter's name.
    pub(crate) parameter: &'static str,
    /// Text after it.
    pub(crate) parameter_name_end: &'static str,
    /// Text between that and the value, such as a tag of its own. Empty if there is none.
    pub(crate) value: &'static str,
    /// Text after a value.
    pub(crate) value_end: &'static str,
    /// What values are.
    pub(crate) values: Values,
}

/// How the type of a value is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    /// The tool's schema says it; without it a value is a string.
    Schema,
    /// As `Schema`, but without it the text says it.
    SchemaOrText,
    /// An attribute after the name does: ` string="true"`.
    Attribute,
}

/// Reads calls with tagged parameters until something ends them.
#[derive(Debug)]
pub(crate) struct Tagged {
    grammar: &'static Grammar,
    tags: &'static Tags,
    tools: Arc<[Tool]>,
    /// The grammar's `open`, then its `close`.
    around: Markers,
    /// What ends the function's name.
    name_ends: Markers,
    /// What may stand where a parameter may: its begin, the end of the call.
    parameters: Markers,
    /// What ends a value.
    value_ends: Markers,
    at: At,
    /// Name of the function or the parameter, or a value that is not text.
    text: String,
    function: String,
    types: Types,
    /// A line break that is dropped if the value ends behind it.
    has_line_break: bool,
    has_parameter: bool,
    has_called: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Between,
    /// Before the tag of a call.
    Begin,
    Name,
    Parameters,
    ParameterName,
    /// The value's own tag.
    ValueTag,
    /// The value's first character.
    ValueStart,
    /// A string that goes out as it comes.
    Text,
    /// Another value, complete at its end.
    Typed,
    Junk,
}

impl Tagged {
    pub(crate) fn new(grammar: &'static Grammar, tags: &'static Tags, tools: &Arc<[Tool]>) -> Self {
        let around = grammar.open.iter().chain(grammar.close).copied();
        let ends = [tags.call_end, tags.parameter];
        Self {
            grammar,
            tags,
            tools: Arc::clone(tools),
            around: Markers::new(around),
            name_ends: Markers::new(tags.call_name_end.iter().copied()),
            parameters: Markers::new(ends),
            value_ends: Markers::new([tags.value_end].into_iter().chain(ends)),
            at: At::Between,
            text: String::new(),
            function: String::new(),
            types: Types::UNKNOWN,
            has_line_break: false,
            has_parameter: false,
            has_called: false,
        }
    }

    pub(crate) fn keeps(&self) -> bool {
        match self.at {
            At::Between => !self.has_called,
            At::Begin | At::Name => true,
            _ => false,
        }
    }

    pub(crate) fn recovers(&mut self) -> bool {
        self.at = At::Junk;
        self.has_called
    }

    pub(crate) fn step(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        match self.at {
            At::Between => self.between(text, last),
            At::Begin => {
                self.text.clear();
                self.go(At::Name, self.tags.call.len())
            }
            At::Name => self.name(text, last, out),
            At::Parameters => self.parameter(text, last, out),
            At::ParameterName => self.parameter_name(text, last, out),
            At::ValueTag => self.value_tag(text, last),
            At::ValueStart => self.value_start(text, out),
            At::Text | At::Typed => self.value(text, last, out),
            At::Junk => junk(&self.around, self.grammar.open.len(), text, last, out),
        }
    }

    fn go(&mut self, at: At, read: usize) -> Step {
        self.at = at;
        Step::Go(read)
    }

    fn between(&mut self, text: &str, last: bool) -> Step {
        let space = leading_space(text);
        let rest = &text[space..];
        if rest.is_empty() {
            return Step::Wait(space);
        }
        match self.around.starts(rest, last) {
            Found::Marker { which, .. } => {
                let read = space + self.around.len_of(which);
                let open = self.grammar.open.get(which);
                match open {
                    Some(open) if *open == self.tags.call => self.go(At::Begin, space),
                    Some(_) => Step::Go(read),
                    None => Step::Done(read),
                }
            }
            Found::Partial { .. } => Step::Wait(space),
            Found::Nothing if self.has_called => self.go(At::Junk, space),
            Found::Nothing => Step::Fail(space),
        }
    }

    fn name(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        let space = if self.text.is_empty() { leading_space(text) } else { 0 };
        if space > 0 {
            return Step::Go(space);
        }
        let (read, which) = match self.name_ends.find(text, last) {
            Found::Marker { at, which } => (at, Some(which)),
            Found::Partial { at } => (at, None),
            Found::Nothing => (text.len(), None),
        };
        let (read, fits) = add_name(&mut self.text, &text[..read], MAX_NAME);
        if !fits {
            return Step::Fail(read);
        }
        let Some(which) = which else {
            return Step::Wait(read);
        };
        let name = self.text.trim();
        if !is_name(name) {
            return Step::Fail(read);
        }
        out.begin_call(name);
        self.function = name.to_owned();
        self.has_called = true;
        self.has_parameter = false;
        let end = self.tags.call_name_end[which];
        let is_read = end != self.tags.parameter && end != self.tags.call_end;
        self.go(At::Parameters, read + if is_read { end.len() } else { 0 })
    }

    fn parameter(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        let space = leading_space(text);
        let rest = &text[space..];
        if rest.is_empty() {
            return Step::Wait(space);
        }
        match self.parameters.starts(rest, last) {
            Found::Marker { which: 0, .. } => {
                self.end_call(out);
                let len = self.tags.call_end.len();
                let closes_all = self.grammar.close.contains(&self.tags.call_end);
                return if closes_all { Step::Done(space + len) } else { Step::Go(space + len) };
            }
            Found::Marker { .. } => {
                self.text.clear();
                return self.go(At::ParameterName, space + self.tags.parameter.len());
            }
            Found::Partial { .. } => return Step::Wait(space),
            Found::Nothing => {}
        }
        match self.around.starts(rest, last) {
            Found::Marker { .. } => self.end_call(out),
            Found::Partial { .. } => return Step::Wait(space),
            Found::Nothing => return Step::Fail(space),
        }
        Step::Go(space)
    }

    fn end_call(&mut self, out: &mut Output) {
        out.arguments(if self.has_parameter { "}" } else { "{}" });
        self.at = At::Between;
    }

    fn parameter_name(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        let end = self.tags.parameter_name_end;
        let (read, is_complete) = match find_one(end, text, last) {
            Found::Marker { at, .. } => (at, true),
            Found::Partial { at } => (at, false),
            Found::Nothing => (text.len(), false),
        };
        let (read, fits) = add_name(&mut self.text, &text[..read], MAX_NAME);
        if !fits {
            return Step::Fail(read);
        }
        if !is_complete {
            return Step::Wait(read);
        }
        let name = self.begin_parameter();
        out.arguments(if self.has_parameter { ", \"" } else { "{\"" });
        out.write_arguments(|fragment| escape_into(&name, fragment));
        out.arguments("\": ");
        self.has_parameter = true;
        let at = if self.tags.value.is_empty() { At::ValueStart } else { At::ValueTag };
        self.go(at, read + end.len())
    }

    /// The parameter's name; its types are looked up.
    fn begin_parameter(&mut self) -> String {
        let tag = self.text.trim();
        let (name, attribute) = match tag.split_once('"') {
            Some((name, attribute)) if self.tags.values == Values::Attribute => (name, attribute),
            _ => (tag, ""),
        };
        let name = name.trim().trim_matches('"').to_owned();
        let is_text = attribute.contains("true") || attribute.is_empty();
        self.types = match self.tags.values {
            Values::Attribute if is_text => Types::TEXT,
            Values::Attribute => Types::UNKNOWN,
            _ => match Types::of(&self.tools, &self.function, &name) {
                Types::UNKNOWN if self.tags.values == Values::Schema => Types::TEXT,
                types => types,
            },
        };
        self.text.clear();
        name
    }

    fn value_tag(&mut self, text: &str, last: bool) -> Step {
        let space = leading_space(text);
        let rest = &text[space..];
        match find_one(self.tags.value, rest, last) {
            Found::Marker { at: 0, .. } => self.go(At::ValueStart, space + self.tags.value.len()),
            Found::Partial { at: 0 } => Step::Wait(space),
            _ if rest.is_empty() => Step::Wait(space),
            _ => Step::Fail(space),
        }
    }

    fn value_start(&mut self, text: &str, out: &mut Output) -> Step {
        let Some(first) = text.chars().next() else {
            return Step::Wait(0);
        };
        self.has_line_break = false;
        self.at = At::Typed;
        if self.types.is_text() {
            self.at = At::Text;
            out.arguments("\"");
        }
        Step::Go(usize::from(self.breaks_lines() && first == '\n'))
    }

    /// A line break right behind a value's begin and one before its end are the form's, not the
    /// value's.
    fn breaks_lines(&self) -> bool {
        self.tags.value.is_empty() && self.tags.values != Values::Attribute
    }

    fn value(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        let (read, end) = match self.value_ends.find(text, last) {
            Found::Marker { at, which } => (at, Some(which)),
            Found::Partial { at } => (at, None),
            Found::Nothing => (text.len(), None),
        };
        self.piece(&text[..read], out);
        let Some(which) = end else {
            return Step::Wait(read);
        };
        if self.at == At::Text {
            if self.has_line_break && !self.breaks_lines() {
                out.arguments("\\n");
            }
            out.arguments("\"");
        } else {
            let text = std::mem::take(&mut self.text);
            let text = text.strip_suffix('\n').unwrap_or(&text);
            let json = match self.types {
                Types::UNKNOWN => guess(text),
                types => types.json(text),
            };
            out.arguments(&json);
        }
        // The end of the call and the next parameter may stand where the value's end is missing.
        let len = if which == 0 { self.tags.value_end.len() } else { 0 };
        self.go(At::Parameters, read + len)
    }

    /// A part of the value. The last line break waits for what follows.
    fn piece(&mut self, piece: &str, out: &mut Output) {
        if self.at == At::Typed {
            return self.text.push_str(piece);
        }
        if piece.is_empty() {
            return;
        }
        let (piece, has_line_break) = match piece.strip_suffix('\n') {
            Some(piece) => (piece, true),
            None => (piece, false),
        };
        let had_line_break = std::mem::replace(&mut self.has_line_break, has_line_break);
        out.write_arguments(|fragment| {
            if had_line_break {
                fragment.push_str("\\n");
            }
            escape_into(piece, fragment);
        });
    }
}
