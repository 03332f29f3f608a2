//! Reads a call that is a JSON object: `{"name": …, "arguments": {…}}`, in any order of keys.

use crate::json::{JsonScanner, Progress};
use crate::output::Output;
use crate::scan::{Step, leading_space};

/// Keys that an object may begin with to be a call. Another first key is data.
const FIRST_KEYS: &[&str] = &["name", "type", "id", "arguments", "parameters"];

/// Reads one object and gives out its call as soon as name and begin of the arguments are known.
///
/// Arguments stand under `arguments` or `parameters`, the first of them counts. An object, a string
/// that holds an object, and `null` are arguments; anything else makes the object no call.
#[derive(Debug)]
pub(crate) struct Envelope {
    at: At,
    /// Of the running key or value.
    scanner: JsonScanner,
    text: String,
    is_first_key: bool,
    /// A call without arguments is one: it stands where only calls stand.
    is_marked: bool,
    name: Option<String>,
    /// Arguments that came before the name.
    early: Option<String>,
    /// The call is given out.
    is_called: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Open,
    KeyOrClose,
    Key,
    InKey,
    Colon(Key),
    Value(Key),
    InName,
    /// Arguments that go out as they come.
    InArguments,
    /// Arguments that must be complete first.
    InHeldArguments,
    InOther,
    CommaOrClose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Name,
    Arguments,
    Other,
}

impl Envelope {
    /// `is_marked`: a marker said that a call begins.
    pub(crate) fn new(is_marked: bool) -> Self {
        Self {
            at: At::Open,
            scanner: JsonScanner::new(),
            text: String::new(),
            is_first_key: true,
            is_marked,
            name: None,
            early: None,
            is_called: false,
        }
    }

    /// Whether the call was given out and cannot be taken back.
    pub(crate) fn is_called(&self) -> bool {
        self.is_called
    }

    pub(crate) fn step(&mut self, text: &str, out: &mut Output) -> Step {
        match self.at {
            At::InKey | At::InName | At::InHeldArguments | At::InOther => {
                let progress = self.scanner.feed(text, &mut self.text);
                self.scanned(progress, text.len(), out)
            }
            At::InArguments => {
                let scanner = &mut self.scanner;
                let progress = out.write_arguments(|fragment| scanner.feed(text, fragment));
                self.scanned(progress, text.len(), out)
            }
            _ => self.punctuation(text, out),
        }
    }

    fn punctuation(&mut self, text: &str, out: &mut Output) -> Step {
        let space = leading_space(text);
        let Some(first) = text[space..].chars().next() else {
            return Step::Wait(space);
        };
        let next = space + 1;
        match (self.at, first) {
            (At::Open, '{') => self.at = At::KeyOrClose,
            (At::KeyOrClose | At::CommaOrClose, '}') => return self.close(next, out),
            (At::KeyOrClose | At::Key, '"') => {
                self.begin(At::InKey);
                return Step::Go(space);
            }
            (At::Colon(key), ':') => self.at = At::Value(key),
            (At::CommaOrClose, ',') => self.at = At::Key,
            (At::Value(key), _) => return self.value(key, first, space, out),
            _ => return Step::Fail(space),
        }
        Step::Go(next)
    }

    fn begin(&mut self, at: At) {
        self.at = at;
        self.scanner = JsonScanner::new();
        self.text.clear();
    }

    fn value(&mut self, key: Key, first: char, space: usize, out: &mut Output) -> Step {
        match (key, first) {
            (Key::Name, '"') => self.begin(At::InName),
            (Key::Arguments, '{') if self.call(out) => self.begin(At::InArguments),
            (Key::Arguments, '{' | '"' | 'n') => self.begin(At::InHeldArguments),
            (Key::Other, _) => self.begin(At::InOther),
            _ => return Step::Fail(space),
        }
        Step::Go(space)
    }

    /// Gives the call out if its name is known.
    fn call(&mut self, out: &mut Output) -> bool {
        if let Some(name) = &self.name {
            out.begin_call(name);
            self.is_called = true;
        }
        self.is_called
    }

    fn scanned(&mut self, progress: Progress, len: usize, out: &mut Output) -> Step {
        let read = match progress {
            Progress::More => return Step::Wait(len),
            Progress::Bad(at) => return Step::Fail(at),
            Progress::Done(read) => read,
        };
        let fits = match self.at {
            At::InKey => return self.key(read),
            At::InName => self.named(out),
            At::InHeldArguments => self.held(out),
            _ => true,
        };
        self.at = At::CommaOrClose;
        if fits { Step::Go(read) } else { Step::Fail(read) }
    }

    fn key(&mut self, read: usize) -> Step {
        let Ok(key) = serde_json::from_str::<String>(&self.text) else {
            return Step::Fail(read);
        };
        let is_first = std::mem::take(&mut self.is_first_key);
        if is_first && !self.is_marked && !FIRST_KEYS.contains(&key.as_str()) {
            return Step::Fail(read);
        }
        let has_arguments = self.is_called || self.early.is_some();
        self.at = At::Colon(match key.as_str() {
            "name" if self.name.is_none() => Key::Name,
            "arguments" | "parameters" if !has_arguments => Key::Arguments,
            _ => Key::Other,
        });
        Step::Go(read)
    }

    fn named(&mut self, out: &mut Output) -> bool {
        match serde_json::from_str::<String>(&self.text) {
            Ok(name) if !name.is_empty() => self.name = Some(name),
            _ => return false,
        }
        if let Some(arguments) = self.early.take() {
            self.call(out);
            out.arguments(&arguments);
        }
        true
    }

    fn held(&mut self, out: &mut Output) -> bool {
        let text = std::mem::take(&mut self.text);
        let arguments = match text.as_bytes().first() {
            Some(b'{') => Some(text),
            Some(b'"') => object_in_string(&text),
            _ => Some("{}".to_owned()),
        };
        let Some(arguments) = arguments else {
            return false;
        };
        if self.call(out) {
            out.arguments(&arguments);
        } else {
            self.early = Some(arguments);
        }
        true
    }

    fn close(&mut self, read: usize, out: &mut Output) -> Step {
        if self.is_called {
            return Step::Done(read);
        }
        if self.is_marked && self.call(out) {
            out.arguments("{}");
            return Step::Done(read);
        }
        Step::Fail(read)
    }
}

/// The object that a JSON string holds as text.
fn object_in_string(text: &str) -> Option<String> {
    let inner: String = serde_json::from_str(text).ok()?;
    let inner = inner.trim();
    let mut object = String::with_capacity(inner.len());
    let is_whole = JsonScanner::new().feed(inner, &mut object) == Progress::Done(inner.len());
    (is_whole && inner.starts_with('{')).then_some(object)
}
