//! The messages of gpt-oss: `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>…`.
//!
//! A header names role, channel, recipient and type in any order; a body follows `<|message|>`.
//! Analysis is reasoning, and so is what goes to a built-in tool; a body to a function is the
//! arguments of its call; every other body is content. Bodies of one kind are set apart by a line
//! break. Text that is neither header nor body is content.

use crate::answer::Answer;
use crate::json::{JsonScanner, Progress};
use crate::output::Output;
use crate::scan::{Found, Markers, Step, leading_space};

/// Longest word of a header, in bytes.
const MAX_WORD: usize = 512;

pub(crate) const MARKERS: &[&str] = &[
    "<|message|>",
    "<|channel|>",
    "<|constrain|>",
    "<|start|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
];

/// The markers that belong to a header; those behind them end a body or begin one.
const MESSAGE: usize = 0;
const CHANNEL: usize = 1;
const CONSTRAIN: usize = 2;
const START: usize = 3;

/// Words of a header. A channel may have any name, but only behind its marker.
const WORDS: &[&str] = &["assistant", "analysis", "commentary", "final", "json", "code"];

/// Those of them that are channels also without it, because the prompt ended behind it.
const CHANNELS: &[&str] = &["analysis", "commentary", "final"];

/// Reads the messages of one turn.
#[derive(Debug)]
pub(crate) struct Harmony {
    markers: Markers,
    state: State,
    header: Header,
    /// Reads content: it is the arguments where a call is required.
    answer: Answer,
    /// Functions that bodies may call; none where nothing may be called.
    functions: Option<Vec<String>>,
    reasoning: Bodies,
    content: Bodies,
    /// A body began that is not reasoning.
    is_answering: bool,
}

#[derive(Debug)]
enum State {
    Header,
    Reasoning,
    Content,
    /// A call of this function, whose arguments have not begun.
    Call(String),
    Arguments(JsonScanner),
}

/// What a header has said so far.
#[derive(Debug, Default)]
struct Header {
    /// Its words, for the case that they are none of a header.
    raw: String,
    channel: Option<String>,
    recipient: Option<String>,
    /// The last marker; what the next word is depends on it.
    marker: Option<usize>,
}

/// Sets the bodies of one kind apart.
#[derive(Debug, Default)]
struct Bodies {
    has_text: bool,
    needs_break: bool,
}

impl Bodies {
    fn begin(&mut self) {
        self.needs_break = self.has_text;
    }

    /// What stands before the next text.
    fn separator(&mut self) -> &'static str {
        self.has_text = true;
        if std::mem::take(&mut self.needs_break) { "\n" } else { "" }
    }
}

impl Harmony {
    /// `opens_reasoning`: the prompt ends inside of a body of the analysis channel.
    pub(crate) fn new(
        answer: Answer,
        functions: Option<Vec<String>>,
        opens_reasoning: bool,
    ) -> Self {
        Self {
            markers: Markers::new(MARKERS.iter().copied()),
            state: if opens_reasoning { State::Reasoning } else { State::Header },
            header: Header::default(),
            answer,
            functions,
            reasoning: Bodies::default(),
            content: Bodies::default(),
            is_answering: false,
        }
    }

    /// Until an answer or a call begins everything is, also the headers.
    pub(crate) fn is_reasoning(&self) -> bool {
        !self.is_answering || matches!(self.state, State::Reasoning)
    }

    pub(crate) fn step(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        match &mut self.state {
            State::Header => self.header(text, last, out),
            State::Call(_) => self.call(text, last, out),
            State::Reasoning | State::Content => self.body(text, last, out),
            State::Arguments(scanner) => {
                let progress = out.write_arguments(|fragment| scanner.feed(text, fragment));
                match progress {
                    Progress::More => Step::Wait(text.len()),
                    Progress::Done(read) | Progress::Bad(read) => {
                        self.state = State::Content;
                        Step::Go(read)
                    }
                }
            }
        }
    }

    /// Words that were no header's are content. A header that was cut off is not.
    pub(crate) fn finish(&mut self, out: &mut Output) {
        let header = std::mem::take(&mut self.header);
        let is_first = !self.is_answering && !self.reasoning.has_text;
        let is_text = is_first || !header.raw.trim_start().is_empty();
        if header.marker.is_none() && is_text {
            self.text(&header.raw, out);
        }
        self.answer.finish(out);
    }

    fn body(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        let is_reasoning = matches!(self.state, State::Reasoning);
        let (read, step) = match self.markers.find(text, last) {
            Found::Nothing => (text.len(), Step::Wait(text.len())),
            Found::Partial { at } => (at, Step::Wait(at)),
            Found::Marker { at, which } => {
                let end = at + self.markers.len_of(which);
                if !matches!(which, MESSAGE | CONSTRAIN) {
                    self.state = State::Header;
                }
                (at, Step::Go(if matches!(which, CHANNEL | START) { at } else { end }))
            }
        };
        let piece = &text[..read];
        if is_reasoning && !piece.is_empty() {
            out.reasoning(self.reasoning.separator());
            out.reasoning(piece);
        } else {
            self.text(piece, out);
        }
        step
    }

    /// Content. Whatever reads it has no markers to wait for.
    fn text(&mut self, text: &str, out: &mut Output) {
        if text.is_empty() {
            return;
        }
        for mut text in [self.content.separator(), text] {
            while !text.is_empty() {
                let (Step::Go(read) | Step::Wait(read) | Step::Done(read) | Step::Fail(read)) =
                    self.answer.step(text, true, out);
                text = &text[read..];
            }
        }
    }

    fn header(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        let space = leading_space(text);
        if space > 0 {
            self.header.raw.push_str(&text[..space]);
            return Step::Go(space);
        }
        match self.markers.starts(text, last) {
            Found::Marker { which, .. } => {
                match which {
                    MESSAGE => self.begin_body(),
                    CHANNEL | CONSTRAIN => self.header.marker = Some(which),
                    START => self.header = Header { marker: Some(START), ..Header::default() },
                    _ => self.header = Header::default(),
                }
                return Step::Go(self.markers.len_of(which));
            }
            Found::Partial { .. } => return Step::Wait(0),
            Found::Nothing if text.is_empty() => return Step::Wait(0),
            Found::Nothing => {}
        }
        let end = text.find(|c: char| c.is_whitespace() || c == '<').unwrap_or(text.len());
        let (word, is_whole) = (&text[..end], end < text.len());
        if !self.header.takes(word, is_whole) {
            self.no_header(out);
            return Step::Go(0);
        }
        if !is_whole && !last {
            return Step::Wait(0);
        }
        self.header.raw.push_str(word);
        Step::Go(end)
    }

    /// What came is no header. Behind a marker it is a body without `<|message|>`, else content.
    fn no_header(&mut self, out: &mut Output) {
        if self.header.marker.is_some() {
            return self.begin_body();
        }
        self.state = State::Content;
        self.is_answering = true;
        let raw = std::mem::take(&mut self.header).raw;
        self.text(&raw, out);
    }

    fn begin_body(&mut self) {
        let header = std::mem::take(&mut self.header);
        let recipient = header.recipient.as_deref();
        let is_analysis = header.channel.as_deref() == Some("analysis");
        if let Some(name) = recipient.and_then(|name| self.function(name)) {
            self.state = State::Call(name);
        } else if is_analysis || recipient.is_some_and(|name| !name.starts_with("functions.")) {
            self.reasoning.begin();
            self.state = State::Reasoning;
            return;
        } else {
            self.content.begin();
            self.state = State::Content;
        }
        self.is_answering = true;
    }

    /// The function that a recipient is, if it may be called.
    fn function(&self, recipient: &str) -> Option<String> {
        let functions = self.functions.as_ref()?;
        let name = match recipient.strip_prefix("functions.") {
            Some(name) if !name.is_empty() => name,
            _ => functions.iter().find(|name| *name == recipient)?,
        };
        Some(name.to_owned())
    }

    fn call(&mut self, text: &str, last: bool, out: &mut Output) -> Step {
        let State::Call(name) = &self.state else {
            return Step::Go(0);
        };
        let space = leading_space(text);
        let rest = &text[space..];
        if rest.starts_with('{') {
            out.begin_call(name);
            self.state = State::Arguments(JsonScanner::new());
            return Step::Go(space);
        }
        match self.markers.starts(rest, last) {
            Found::Marker { .. } => {
                out.begin_call(name);
                out.arguments("{}");
            }
            Found::Nothing if !rest.is_empty() => {}
            _ => return Step::Wait(space),
        }
        self.state = State::Content;
        Step::Go(space)
    }
}

impl Header {
    /// Reads a word; `false` if it, or what it is the begin of, is none of a header.
    fn takes(&mut self, word: &str, is_whole: bool) -> bool {
        if word.is_empty() || word.len() > MAX_WORD {
            return false;
        }
        let recipient = word.strip_prefix("to=");
        let is_recipient = recipient.is_some() || !is_whole && "to=".starts_with(word);
        let is_free = matches!(self.marker, Some(CONSTRAIN))
            || matches!(self.marker, Some(CHANNEL)) && self.channel.is_none();
        let is_known =
            WORDS.contains(&word) || !is_whole && WORDS.iter().any(|known| known.starts_with(word));
        if !is_whole || !(is_recipient || is_free || is_known) {
            return is_recipient || is_free || is_known;
        }
        if let Some(recipient) = recipient {
            self.recipient = Some(recipient.to_owned());
        } else if self.marker != Some(CONSTRAIN)
            && self.channel.is_none()
            && (is_free || CHANNELS.contains(&word))
        {
            self.channel = Some(word.to_owned());
        }
        true
    }
}
