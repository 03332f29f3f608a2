//! Calls whose name stands before the JSON of the arguments, between markers.

use super::listed::junk;
use super::{Grammar, Listed, add_name, is_name};
use crate::json::{JsonScanner, Progress};
use crate::output::Output;
use crate::scan::{Found, Markers, Step, leading_space};

/// Longest text between a call's begin and its arguments, in bytes.
const MAX_HEADER: usize = 512;

/// How the parts of a call are told apart.
#[derive(Debug)]
pub(crate) struct Headers {
    /// How many of the grammar's `open` begin a single call; they stand first.
    pub(crate) num_call: usize,
    /// Texts that end a single call.
    pub(crate) end: &'static [&'static str],
    /// The function's name in what stands before the arguments.
    pub(crate) name: fn(&str) -> Option<&str>,
    /// A list of JSON objects may stand where a header would.
    pub(crate) or_list: bool,
}

/// Reads calls with headers until something ends them.
#[derive(Debug)]
pub(crate) struct Headed {
    grammar: &'static Grammar,
    headers: &'static Headers,
    markers: Markers,
    at: At,
    has_called: bool,
}

#[derive(Debug)]
enum At {
    Between,
    /// Before the marker of a call.
    Begin(usize),
    /// Behind it.
    Begun,
    Header(String),
    Arguments(JsonScanner),
    /// After the arguments: fences and white space.
    Tail,
    List(Listed),
    Junk,
}

impl Headed {
    pub(crate) fn new(grammar: &'static Grammar, headers: &'static Headers) -> Self {
        let all = grammar.open.iter().chain(grammar.close).chain(headers.end);
        Self {
            grammar,
            headers,
            markers: Markers::new(all.copied()),
            at: At::Between,
            has_called: false,
        }
    }

    pub(crate) fn keeps(&self) -> bool {
        match &self.at {
            At::Begin(_) | At::Begun | At::Header(_) => true,
            At::Between => !self.has_called,
            At::List(list) => list.keeps(),
            At::Arguments(_) | At::Tail | At::Junk => false,
        }
    }

    pub(crate) fn recovers(&mut self) -> bool {
        if let At::List(list) = &mut self.at {
            return list.recovers();
        }
        self.at = At::Junk;
        self.has_called && !self.headers.end.is_empty()
    }

    pub(crate) fn step(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        match &mut self.at {
            At::Between => self.between(text, last),
            At::Begin(which) => {
                let read = self.markers.len_of(*which);
                self.at = At::Begun;
                Step::Go(read)
            }
            At::Begun => self.begun(text),
            At::Header(_) => self.header(text, last, out),
            At::Arguments(scanner) => {
                let progress = out.write_arguments(|fragment| scanner.feed(text, fragment));
                self.scanned(progress, text.len())
            }
            At::Tail => {
                let has_fence = !self.headers.end.is_empty();
                let is_tail = |c: char| c.is_whitespace() || has_fence && c == '`';
                let rest = text.trim_start_matches(is_tail);
                self.at = if rest.is_empty() { At::Tail } else { At::Between };
                let read = text.len() - rest.len();
                if rest.is_empty() { Step::Wait(read) } else { Step::Go(read) }
            }
            At::List(list) => list.step(text, last, out),
            At::Junk => {
                let num_kept = self.grammar.open.len() + self.grammar.close.len();
                let step = junk(&self.markers, num_kept, text, last, out);
                let Step::Done(read) = step else {
                    return step;
                };
                self.at = At::Between;
                Step::Go(read)
            }
        }
    }

    fn between(&mut self, text: &str, last: bool) -> Step {
        let space = leading_space(text);
        let rest = &text[space..];
        if rest.is_empty() {
            return Step::Wait(space);
        }
        let num_open = self.grammar.open.len();
        match self.markers.starts(rest, last) {
            Found::Marker { which, .. } => {
                let read = space + self.markers.len_of(which);
                if which < self.headers.num_call {
                    self.at = At::Begin(which);
                    return Step::Go(space);
                }
                let is_close = (num_open..num_open + self.grammar.close.len()).contains(&which);
                if is_close { Step::Done(read) } else { Step::Go(read) }
            }
            Found::Partial { .. } => Step::Wait(space),
            Found::Nothing if !self.has_called => Step::Fail(space),
            Found::Nothing if self.headers.end.is_empty() => Step::Done(space),
            Found::Nothing => {
                self.at = At::Junk;
                Step::Go(space)
            }
        }
    }

    fn begun(&mut self, text: &str) -> Step {
        let space = leading_space(text);
        let Some(first) = text[space..].chars().next() else {
            return Step::Wait(space);
        };
        self.at = if self.headers.or_list && matches!(first, '[' | '{') {
            At::List(Listed::new(self.grammar, false))
        } else {
            At::Header(String::new())
        };
        Step::Go(space)
    }

    fn header(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        let At::Header(header) = &mut self.at else {
            return Step::Fail(0);
        };
        let brace = text.find('{').unwrap_or(text.len());
        let has_brace = brace < text.len();
        let (end, which) = match self.markers.find(&text[..brace], last || has_brace) {
            Found::Marker { at, which } => (at, Some(which)),
            Found::Partial { at } => (at, None),
            Found::Nothing => (brace, None),
        };
        let (read, fits) = add_name(header, &text[..end], MAX_HEADER);
        let is_complete = which.is_some() || has_brace;
        if fits && !is_complete {
            return Step::Wait(read);
        }
        // Another call that begins here says that this one is none.
        let num_other = self.grammar.open.len() + self.grammar.close.len();
        if !fits || which.is_some_and(|which| which < num_other) {
            return Step::Fail(read);
        }
        let name = (self.headers.name)(header).map(str::trim).filter(|name| is_name(name));
        let Some(name) = name else {
            return Step::Fail(read);
        };
        out.begin_call(name);
        self.has_called = true;
        if which.is_some() {
            out.arguments("{}");
            self.at = At::Tail;
        } else {
            self.at = At::Arguments(JsonScanner::new());
        }
        Step::Go(read)
    }

    fn scanned(&mut self, progress: Progress, len: usize) -> Step {
        match progress {
            Progress::More => Step::Wait(len),
            Progress::Bad(at) => Step::Fail(at),
            Progress::Done(read) => {
                self.at = At::Tail;
                Step::Go(read)
            }
        }
    }
}
