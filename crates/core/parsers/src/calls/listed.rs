//! Calls that are JSON objects, one or several, in a list or not.

use super::Grammar;
use crate::envelope::Envelope;
use crate::output::Output;
use crate::scan::{Found, Markers, Step};

/// Reads objects until something ends them.
#[derive(Debug)]
pub(crate) struct Listed {
    markers: Markers,
    num_open: usize,
    has_close: bool,
    is_marked: bool,
    at: At,
    /// A call was given out.
    has_called: bool,
}

#[derive(Debug)]
enum At {
    Between,
    Call(Box<Envelope>),
    /// Text that fits nothing, up to the end of the calls.
    Junk,
}

impl Listed {
    pub(crate) fn new(grammar: &'static Grammar, is_bare: bool) -> Self {
        Self {
            markers: Markers::new(grammar.open.iter().chain(grammar.close).copied()),
            num_open: grammar.open.len(),
            has_close: !grammar.close.is_empty(),
            is_marked: !is_bare,
            at: At::Between,
            has_called: false,
        }
    }

    pub(crate) fn keeps(&self) -> bool {
        match &self.at {
            At::Between => !self.has_called,
            At::Call(call) => !call.is_called(),
            At::Junk => false,
        }
    }

    pub(crate) fn recovers(&mut self) -> bool {
        self.at = At::Junk;
        self.has_called && self.has_close
    }

    pub(crate) fn step(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        match &mut self.at {
            At::Between => self.between(text, last),
            At::Junk => junk(&self.markers, self.num_open, text, last, out),
            At::Call(call) => {
                let step = call.step(text, out);
                self.has_called |= call.is_called();
                let Step::Done(read) = step else {
                    return step;
                };
                self.at = At::Between;
                Step::Go(read)
            }
        }
    }

    fn between(&mut self, text: &str, last: bool) -> Step {
        let rest = text.trim_start_matches(|c: char| self.separates(c));
        let skipped = text.len() - rest.len();
        if rest.is_empty() {
            return Step::Wait(skipped);
        }
        match self.markers.starts(rest, last) {
            Found::Marker { which, .. } => {
                let read = skipped + self.markers.len_of(which);
                return if which < self.num_open { Step::Go(read) } else { Step::Done(read) };
            }
            Found::Partial { .. } => return Step::Wait(skipped),
            Found::Nothing => {}
        }
        if rest.starts_with('{') {
            self.at = At::Call(Box::new(Envelope::new(self.is_marked)));
            return Step::Go(skipped);
        }
        match (self.has_called, self.has_close) {
            (true, true) => {
                self.at = At::Junk;
                Step::Go(skipped)
            }
            (true, false) => Step::Done(skipped),
            (false, _) => Step::Fail(skipped),
        }
    }

    /// What may stand between objects. Models add closing braces at will.
    fn separates(&self, c: char) -> bool {
        c.is_whitespace() || "[,;".contains(c) || self.has_called && "]}".contains(c)
    }
}

/// Gives text out as content up to the next marker. The first `num_kept` of the markers are left
/// for whoever reads on, others are read.
pub(super) fn junk(
    markers: &Markers,
    num_kept: usize,
    text: &str,
    last: bool,
    out: &mut Output,
) -> Step {
    let (content, step) = match markers.find(text, last) {
        Found::Marker { at, which } if which < num_kept => (at, Step::Done(at)),
        Found::Marker { at, which } => (at, Step::Done(at + markers.len_of(which))),
        Found::Partial { at } => (at, Step::Wait(at)),
        Found::Nothing => (text.len(), Step::Wait(text.len())),
    };
    out.content(&text[..content]);
    step
}
