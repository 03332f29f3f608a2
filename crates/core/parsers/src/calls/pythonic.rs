//! Calls written as Python: `[weather(city="Rome", days=2), time()]`.

use super::listed::junk;
use super::{Grammar, add_name};
use crate::json::{Progress, escape_into};
use crate::output::Output;
use crate::python::PythonScanner;
use crate::scan::{Found, Markers, Step, leading_space};

/// Longest name of a function or an argument, in bytes.
const MAX_NAME: usize = 256;

/// Reads calls with keyword arguments until something ends them.
#[derive(Debug)]
pub(crate) struct Pythonic {
    markers: Markers,
    num_open: usize,
    has_close: bool,
    at: At,
    /// Name of the function, then of the argument.
    word: String,
    /// White space came after it.
    is_word_over: bool,
    function: String,
    is_in_list: bool,
    has_called: bool,
    /// The running call is given out.
    is_called: bool,
    value: PythonScanner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Between,
    Function,
    /// An argument's name or the closing parenthesis.
    Argument,
    ArgumentName,
    Value,
    AfterValue,
    Junk,
}

impl Pythonic {
    pub(crate) fn new(grammar: &'static Grammar) -> Self {
        Self {
            markers: Markers::new(grammar.open.iter().chain(grammar.close).copied()),
            num_open: grammar.open.len(),
            has_close: !grammar.close.is_empty(),
            at: At::Between,
            word: String::new(),
            is_word_over: false,
            function: String::new(),
            is_in_list: false,
            has_called: false,
            is_called: false,
            value: PythonScanner::new(),
        }
    }

    pub(crate) fn keeps(&self) -> bool {
        match self.at {
            At::Between => !self.has_called,
            At::Junk => false,
            _ => !self.is_called,
        }
    }

    pub(crate) fn recovers(&mut self) -> bool {
        self.at = At::Junk;
        self.has_called && self.has_close
    }

    pub(crate) fn step(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        match self.at {
            At::Between => return self.between(text, last),
            At::Junk => return junk(&self.markers, self.num_open, text, last, out),
            At::Value => {
                let scanner = &mut self.value;
                let progress = out.write_arguments(|fragment| scanner.feed(text, fragment));
                return match progress {
                    Progress::More => Step::Wait(text.len()),
                    Progress::Bad(at) => Step::Fail(at),
                    Progress::Done(read) => self.go(At::AfterValue, read),
                };
            }
            _ => {}
        }
        let space = leading_space(text);
        let rest = &text[space..];
        let Some(c) = rest.chars().next() else {
            self.is_word_over |= space > 0 && !self.word.is_empty();
            return Step::Wait(space);
        };
        match (self.at, c) {
            (At::Function | At::ArgumentName, _) => self.word(rest, space, out),
            (At::Argument, ')') => self.end_call(space + 1, out),
            (At::Argument, 'a'..='z' | 'A'..='Z' | '_') => self.begin_word(At::ArgumentName, space),
            (At::AfterValue, ',') => self.go(At::Argument, space + 1),
            (At::AfterValue, ')') => self.end_call(space + 1, out),
            _ => Step::Fail(space),
        }
    }

    fn go(&mut self, at: At, read: usize) -> Step {
        self.at = at;
        Step::Go(read)
    }

    fn between(&mut self, text: &str, last: bool) -> Step {
        let rest = text.trim_start_matches(|c: char| c.is_whitespace() || ",;".contains(c));
        let skipped = text.len() - rest.len();
        let Some(c) = rest.chars().next() else {
            return Step::Wait(skipped);
        };
        match self.markers.starts(rest, last) {
            Found::Marker { which, .. } => {
                let read = skipped + self.markers.len_of(which);
                return if which < self.num_open { Step::Go(read) } else { Step::Done(read) };
            }
            Found::Partial { .. } => return Step::Wait(skipped),
            Found::Nothing => {}
        }
        match c {
            '[' if !self.is_in_list => {
                self.is_in_list = true;
                Step::Go(skipped + 1)
            }
            ']' if self.is_in_list && self.has_called => {
                self.is_in_list = false;
                if self.has_close { Step::Go(skipped + 1) } else { Step::Done(skipped + 1) }
            }
            'a'..='z' | 'A'..='Z' | '_' => {
                self.is_called = false;
                self.begin_word(At::Function, skipped)
            }
            _ if !self.has_called => Step::Fail(skipped),
            _ if self.has_close => self.go(At::Junk, skipped),
            _ => Step::Done(skipped),
        }
    }

    /// Reads on in a name, which a parenthesis or an equals sign ends, perhaps behind white space.
    fn word(&mut self, rest: &str, space: usize, out: &mut Output) -> Step {
        self.is_word_over |= space > 0 && !self.word.is_empty();
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let end = rest.find(|c: char| !is_part(c)).unwrap_or(rest.len());
        if end > 0 && self.is_word_over {
            return Step::Fail(space);
        }
        let (added, fits) = add_name(&mut self.word, &rest[..end], MAX_NAME);
        let read = space + added;
        if !fits {
            return Step::Fail(read);
        }
        match (self.at, rest[end..].chars().next()) {
            (_, None) => Step::Wait(read),
            (_, Some(c)) if c.is_whitespace() => Step::Go(read),
            (At::Function, Some('(')) => {
                std::mem::swap(&mut self.function, &mut self.word);
                self.go(At::Argument, read + 1)
            }
            (At::ArgumentName, Some('=')) => {
                self.begin_argument(out);
                self.go(At::Value, read + 1)
            }
            _ => Step::Fail(read),
        }
    }

    fn begin_word(&mut self, at: At, read: usize) -> Step {
        self.word.clear();
        self.is_word_over = false;
        self.go(at, read)
    }

    fn begin_argument(&mut self, out: &mut Output) {
        if self.is_called {
            out.arguments(", \"");
        } else {
            self.call(out);
            out.arguments("{\"");
        }
        let name = &self.word;
        out.write_arguments(|fragment| escape_into(name, fragment));
        out.arguments("\": ");
        self.value = PythonScanner::new();
    }

    fn call(&mut self, out: &mut Output) {
        out.begin_call(&self.function);
        self.is_called = true;
        self.has_called = true;
    }

    fn end_call(&mut self, read: usize, out: &mut Output) -> Step {
        if self.is_called {
            out.arguments("}");
        } else {
            self.call(out);
            out.arguments("{}");
        }
        self.go(At::Between, read)
    }
}
