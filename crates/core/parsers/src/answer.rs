//! Text after the reasoning: content and calls.

use crate::calls::{Form, Grammar, Reader};
use crate::grammars::REQUIRED;
use crate::json::{JsonScanner, Progress};
use crate::output::Output;
use crate::scan::{Found, Markers, Step, leading_space};
use std::sync::Arc;
use tyndall_types::{Tool, ToolChoice};

/// What a marker in content means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Calls begin; the reader reads it.
    Open,
    /// Left out.
    Noise,
    /// Reasoning begins.
    Reasoning,
}

/// Reads everything that is not reasoning.
#[derive(Debug)]
pub(crate) struct Answer {
    grammar: Option<&'static Grammar>,
    tools: Arc<[Tool]>,
    markers: Markers,
    roles: Vec<Role>,
    /// Any object may be a call.
    is_bare: bool,
    /// Calls may also begin with this, at the begin of the text alone.
    start: Option<char>,
    state: State,
    /// Text of a call that is not given out.
    kept: String,
}

#[derive(Debug)]
enum State {
    Text,
    Calls(Reader),
    /// Arguments of a named function are all of the text.
    Named(String),
    NamedArguments(JsonScanner),
    /// An object that is data: all of it is content, also what looks like a call in it.
    Data(JsonScanner),
}

/// Markers of the reasoning that mean something in content.
#[derive(Debug, Default)]
pub(crate) struct AroundReasoning {
    /// Left out.
    pub(crate) noise: &'static [&'static str],
    /// Reasoning begins (again).
    pub(crate) start: &'static [&'static str],
}

impl Answer {
    pub(crate) fn new(
        choice: &ToolChoice,
        grammar: Option<&'static Grammar>,
        tools: Vec<Tool>,
        around: &AroundReasoning,
    ) -> Self {
        let tools: Arc<[Tool]> = tools.into();
        let grammar = grammar.filter(|_| *choice == ToolChoice::Auto);
        let open = grammar.map_or(&[][..], |grammar| grammar.open).iter();
        let mut markers: Vec<(&'static str, Role)> = open.map(|m| (*m, Role::Open)).collect();
        let form = grammar.map(|grammar| &grammar.form);
        let is_bare = matches!(form, Some(Form::Listed { is_bare: true }));
        if is_bare {
            markers.push(("{", Role::Open));
        }
        let start = matches!(form, Some(Form::Pythonic { is_bare: true })).then_some('[');
        markers.extend(around.noise.iter().map(|marker| (*marker, Role::Noise)));
        markers.extend(around.start.iter().map(|marker| (*marker, Role::Reasoning)));
        let state = match choice {
            ToolChoice::Required => State::Calls(Reader::new(&REQUIRED, &tools)),
            ToolChoice::Named(name) => State::Named(name.clone()),
            ToolChoice::Auto | ToolChoice::None => State::Text,
        };
        Self {
            grammar,
            tools,
            roles: markers.iter().map(|(_, role)| *role).collect(),
            markers: Markers::new(markers.into_iter().map(|(marker, _)| marker)),
            is_bare,
            start,
            state,
            kept: String::new(),
        }
    }

    /// `Done` says that reasoning begins.
    pub(crate) fn step(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        match &mut self.state {
            State::Text => self.text(text, last, out),
            State::Calls(_) => self.calls(text, last, out),
            State::Named(_) => self.named(text, out),
            State::NamedArguments(scanner) => {
                let progress = out.write_arguments(|fragment| scanner.feed(text, fragment));
                self.scanned(progress, text.len())
            }
            State::Data(scanner) => {
                let progress = scanner.feed(text, &mut String::new());
                let step = self.scanned(progress, text.len());
                let (Step::Go(read) | Step::Wait(read)) = step else {
                    return step;
                };
                out.content(&text[..read]);
                step
            }
        }
    }

    /// At the end of the text, what was kept is content.
    pub(crate) fn finish(&mut self, out: &mut Output) {
        out.content(&std::mem::take(&mut self.kept));
    }

    fn text(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        if let Some(start) = self.start.filter(|_| out.is_at_start()) {
            let space = leading_space(text);
            if text[space..].starts_with(start) {
                out.content(&text[..space]);
                self.begin_calls();
                return Step::Go(space);
            }
        }
        let (read, which) = match self.markers.find(text, last) {
            Found::Marker { at, which } => (at, Some(which)),
            Found::Partial { at } => (at, None),
            Found::Nothing => (text.len(), None),
        };
        out.content(&text[..read]);
        let Some(which) = which else {
            return Step::Wait(read);
        };
        let len = self.markers.len_of(which);
        match self.roles[which] {
            Role::Open => {
                self.begin_calls();
                Step::Go(read)
            }
            Role::Noise => Step::Go(read + len),
            Role::Reasoning => Step::Done(read + len),
        }
    }

    fn begin_calls(&mut self) {
        if let Some(grammar) = self.grammar {
            self.state = State::Calls(Reader::new(grammar, &self.tools));
        }
    }

    fn calls(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        let State::Calls(reader) = &mut self.state else {
            return Step::Go(0);
        };
        let is_kept = reader.keeps();
        let step = reader.step(text, last, out);
        let (Step::Go(read) | Step::Wait(read) | Step::Done(read) | Step::Fail(read)) = step;
        if is_kept {
            self.kept.push_str(&text[..read]);
        }
        if !reader.keeps() {
            self.kept.clear();
        }
        match step {
            Step::Done(_) => {
                // Markers without a call between them are text.
                out.content(&std::mem::take(&mut self.kept));
                self.state = State::Text;
            }
            Step::Fail(_) => self.fail(out),
            Step::Go(_) | Step::Wait(_) => return step,
        }
        Step::Go(read)
    }

    fn fail(&mut self, out: &mut Output) {
        let kept = std::mem::take(&mut self.kept);
        let recovers = match &mut self.state {
            State::Calls(reader) => reader.recovers(),
            _ => false,
        };
        if !recovers {
            self.state = State::Text;
        }
        if let Some(data) = kept.find('{').filter(|_| self.is_bare && !recovers) {
            let mut scanner = JsonScanner::new();
            if scanner.feed(&kept[data..], &mut String::new()) == Progress::More {
                self.state = State::Data(scanner);
            }
        }
        out.content(&kept);
    }

    fn named(&mut self, text: &str, out: &mut Output) -> Step {
        let space = leading_space(text);
        let Some(first) = text[space..].chars().next() else {
            out.content(text);
            return Step::Wait(space);
        };
        let State::Named(name) = &self.state else {
            return Step::Go(0);
        };
        if first != '{' {
            // It is not what it had to be; none of it is taken for anything.
            self.markers = Markers::default();
            self.state = State::Text;
            return Step::Go(0);
        }
        out.begin_call(name);
        self.state = State::NamedArguments(JsonScanner::new());
        Step::Go(space)
    }

    fn scanned(&mut self, progress: Progress, len: usize) -> Step {
        match progress {
            Progress::More => Step::Wait(len),
            Progress::Done(read) | Progress::Bad(read) => {
                self.state = State::Text;
                Step::Go(read)
            }
        }
    }
}
