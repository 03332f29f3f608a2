//! Wishes → matchers, with those of late at hand.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tyndall_types::StructuredOutput;

use crate::error::{Place, StructuredOutputError};
use crate::matcher::Matcher;
use crate::parser::Parser;
use crate::vocabulary::Vocabulary;
use crate::{gbnf, grammar, schema};

/// Compiled grammars that are kept for the next request with the same.
const CACHED: usize = 64;
/// Memory of all of them, in bytes.
const CACHED_BYTES: usize = 256 << 20;
/// States of automata that a new text starts with, which is far from a sequence's limit.
const CACHED_STATES: usize = 10_000;

static BYTES: LazyLock<Option<Vocabulary>> = LazyLock::new(|| Vocabulary::bytes().ok());

/// Whether a wish can be honoured, without any model's vocabulary.
///
/// It takes some milliseconds for a usual schema and some tens for the largest, so it belongs on a
/// thread that may block.
///
/// # Errors
/// What of the wish cannot be honoured, for the client.
pub fn check(output: &StructuredOutput) -> Result<(), StructuredOutputError> {
    let text = grammar::lark(output)?;
    match BYTES.as_ref() {
        Some(bytes) => Parser::new(bytes, &text).map_err(|m| explained(output, &m)).map(drop),
        None => Err(StructuredOutputError::whole("bytes make no vocabulary", "report this")),
    }
}

/// Compiles wishes for one vocabulary. Shared by all sequences of a model.
#[derive(Debug)]
pub struct Compiler {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    vocabulary: Arc<Vocabulary>,
    cache: Mutex<Cache>,
}

/// By a grammar's text.
#[derive(Default)]
struct Cache {
    entries: HashMap<Arc<str>, Entry>,
    /// Counts uses.
    now: u64,
}

/// A parser at the start of a text. It is replaced by one that has learned more: the automata grow
/// as texts are written, which is most of the time that masks take.
struct Entry {
    parser: Arc<Parser>,
    num_bytes: usize,
    last_use: u64,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

impl Compiler {
    /// A compiler with nothing in its cache.
    #[must_use]
    pub fn new(vocabulary: Arc<Vocabulary>) -> Self {
        Self { shared: Arc::new(Shared { vocabulary, cache: Mutex::default() }) }
    }

    /// The vocabulary of all matchers.
    #[must_use]
    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        &self.shared.vocabulary
    }

    /// A matcher at the start of a text. The first of a wish takes some milliseconds and some tens
    /// at worst, a later one well below one; call it off the threads that serve I/O, and before
    /// the request holds anything.
    ///
    /// # Errors
    /// What of the wish cannot be honoured, for the client.
    pub fn compile(&self, output: &StructuredOutput) -> Result<Matcher, StructuredOutputError> {
        let text: Arc<str> = grammar::lark(output)?.into();
        let cached = self.shared.cache().get(&text);
        let parser = match cached {
            Some(parser) => parser,
            None => {
                let parser = Parser::new(&self.shared.vocabulary, &text);
                let parser = Arc::new(parser.map_err(|m| explained(output, &m))?);
                self.shared.cache().put(text.clone(), parser.clone());
                parser
            }
        };
        // With automata of its own, no sequence waits for another's lock or finds its states used.
        let parser = parser.deep_clone();
        Ok(Matcher::new(parser, Origin { shared: self.shared.clone(), text }))
    }
}

impl Shared {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        // Each change of the cache is complete in itself.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a matcher comes from.
pub(crate) struct Origin {
    shared: Arc<Shared>,
    text: Arc<str>,
}

impl Origin {
    pub(crate) fn vocabulary(&self) -> &Vocabulary {
        &self.shared.vocabulary
    }

    /// Keeps what a parser has learned for the next text of the same grammar.
    pub(crate) fn learn(&self, parser: Parser) {
        if let Some(parser) = parser.at_start(CACHED_STATES) {
            self.shared.cache().improve(&self.text, parser);
        }
    }
}

impl Cache {
    fn get(&mut self, text: &str) -> Option<Arc<Parser>> {
        self.now += 1;
        let entry = self.entries.get_mut(text)?;
        entry.last_use = self.now;
        Some(entry.parser.clone())
    }

    fn put(&mut self, text: Arc<str>, parser: Arc<Parser>) {
        self.now += 1;
        let num_bytes = parser.num_bytes();
        self.entries.insert(text, Entry { parser, num_bytes, last_use: self.now });
        self.evict();
    }

    /// Takes a parser in place of one that knows clearly less.
    fn improve(&mut self, text: &str, parser: Parser) {
        let num_bytes = parser.num_bytes();
        if let Some(entry) = self.entries.get_mut(text)
            && num_bytes > entry.num_bytes + entry.num_bytes / 8
        {
            *entry = Entry { parser: Arc::new(parser), num_bytes, last_use: entry.last_use };
            self.evict();
        }
    }

    fn num_bytes(&self) -> usize {
        self.entries.values().map(|entry| entry.num_bytes).sum()
    }

    fn evict(&mut self) {
        while self.entries.len() > CACHED || self.num_bytes() > CACHED_BYTES {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_use);
            let Some(oldest) = oldest.map(|(text, _)| text.clone()) else { break };
            self.entries.remove(&oldest);
        }
    }
}

/// A library's message as an error of ours.
fn explained(output: &StructuredOutput, message: &str) -> StructuredOutputError {
    let is_lark = matches!(output, StructuredOutput::Grammar(text) if !gbnf::is_gbnf(text));
    let (place, cause) = position(message);
    let place = match place {
        Some(place) if is_lark => place,
        _ => match output {
            StructuredOutput::Json { schema, .. } => Place::Pointer(suspect(schema, cause)),
            _ => Place::Whole,
        },
    };
    let cause = cause.trim_start_matches("failed to compile JSON schema: ");
    if cause.contains("patternProperty") {
        let cure = "use patterns that match no common name";
        return StructuredOutputError::new(place, "a name may match two patternProperties", cure);
    }
    let cure = if cause.contains("nsatisfiable") {
        "allow something"
    } else if ["fuel", "too large", "limit", "too complex"].iter().any(|w| cause.contains(w)) {
        "use a smaller or simpler one"
    } else {
        "write it in another way"
    };
    StructuredOutputError::new(place, cause, cure)
}

/// The pointer of the keyword that a message is about, where it can be found.
fn suspect(schema: &Value, message: &str) -> String {
    if !message.contains("patternProperty") {
        return String::new();
    }
    let mut todo = vec![(String::new(), schema)];
    while let Some((at, schema)) = todo.pop() {
        match schema {
            Value::Object(map) => {
                let patterns = map.get("patternProperties").and_then(Value::as_object);
                if patterns.is_some_and(|patterns| patterns.len() > 1) {
                    return format!("{at}/patternProperties");
                }
                let inner = map.iter().map(|(key, value)| (schema::below(&at, key), value));
                todo.extend(inner);
            }
            Value::Array(items) => {
                let inner = items.iter().enumerate();
                todo.extend(inner.map(|(i, item)| (format!("{at}/{i}"), item)));
            }
            _ => {}
        }
    }
    String::new()
}

/// Splits off `12(3): ` or `at 12(3): `, a line and a column.
fn position(message: &str) -> (Option<Place>, &str) {
    let plain = message.strip_prefix("at ").unwrap_or(message);
    let found = plain.split_once("): ").and_then(|(before, cause)| {
        let (line, column) = before.split_once('(')?;
        let place = Place::Line { line: line.parse().ok()?, column: column.parse().ok()? };
        Some((Some(place), cause))
    });
    found.unwrap_or((None, message))
}
