//! The forms in which models write calls, as data, and what reads them.
//!
//! Every reader begins where [`Grammar::open`] was found and reads to the end of the calls that
//! follow. Until it has given a call out, whoever drives it keeps what it read, so that text that
//! turns out to be no call can become content.

mod headed;
mod listed;
mod pythonic;
mod tagged;

pub(crate) use headed::{Headed, Headers};
pub(crate) use listed::Listed;
pub(crate) use pythonic::Pythonic;
pub(crate) use tagged::{Tagged, Tags, Values};

use crate::output::Output;
use crate::scan::Step;
use std::sync::Arc;
use tyndall_types::Tool;

/// How calls are written in a model's text.
#[derive(Debug)]
pub(crate) struct Grammar {
    /// Texts that calls begin with.
    pub(crate) open: &'static [&'static str],
    /// Texts that end them.
    pub(crate) close: &'static [&'static str],
    /// What stands between.
    pub(crate) form: Form,
}

/// How one call is written.
#[derive(Debug)]
pub(crate) enum Form {
    /// JSON objects with a name, alone or in lists.
    Listed {
        /// An object may stand without anything before it.
        is_bare: bool,
    },
    /// A line with the name before the JSON of the arguments.
    Headed(Headers),
    /// A tag for each parameter.
    Tagged(Tags),
    /// `name(key=value)` in Python.
    Pythonic {
        /// A list of calls may be all of the text.
        is_bare: bool,
    },
}

/// What reads calls.
#[derive(Debug)]
pub(crate) enum Reader {
    Listed(Listed),
    Headed(Headed),
    Tagged(Box<Tagged>),
    Pythonic(Box<Pythonic>),
}

impl Reader {
    pub(crate) fn new(grammar: &'static Grammar, tools: &Arc<[Tool]>) -> Self {
        match &grammar.form {
            Form::Listed { is_bare } => Self::Listed(Listed::new(grammar, *is_bare)),
            Form::Headed(headers) => Self::Headed(Headed::new(grammar, headers)),
            Form::Tagged(tags) => Self::Tagged(Box::new(Tagged::new(grammar, tags, tools))),
            Form::Pythonic { .. } => Self::Pythonic(Box::new(Pythonic::new(grammar))),
        }
    }

    /// Reads on. After `Fail`, what was kept is content.
    pub(crate) fn step(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        match self {
            Self::Listed(reader) => reader.step(text, last, out),
            Self::Headed(reader) => reader.step(text, last, out),
            Self::Tagged(reader) => reader.step(text, last, out),
            Self::Pythonic(reader) => reader.step(text, last, out),
        }
    }

    /// What was read belongs to a call that is not given out, so it must be kept.
    pub(crate) fn keeps(&self) -> bool {
        match self {
            Self::Listed(reader) => reader.keeps(),
            Self::Headed(reader) => reader.keeps(),
            Self::Tagged(reader) => reader.keeps(),
            Self::Pythonic(reader) => reader.keeps(),
        }
    }

    /// After `Fail`: goes on to look for the end of the calls, if one was given out and calls have
    /// an end. Else the text goes on as content.
    pub(crate) fn recovers(&mut self) -> bool {
        match self {
            Self::Listed(reader) => reader.recovers(),
            Self::Headed(reader) => reader.recovers(),
            Self::Tagged(reader) => reader.recovers(),
            Self::Pythonic(reader) => reader.recovers(),
        }
    }
}

/// Whether a name can be one of a function.
fn is_name(name: &str) -> bool {
    let is_fit = |c: char| !c.is_whitespace() && !c.is_control() && !"\"'`{}<>[]()|".contains(c);
    !name.is_empty() && name.chars().all(is_fit)
}

/// Adds text to a name, up to `max` bytes of it. The bytes that went in, and whether all did.
fn add_name(name: &mut String, text: &str, max: usize) -> (usize, bool) {
    let room = max.saturating_sub(name.len());
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    let fitting = if text.len() <= room {
        text.len()
    } else {
        ends.take_while(|end| *end <= room).last().unwrap_or(0)
    };
    name.push_str(&text[..fitting]);
    (fitting, fitting == text.len())
}
