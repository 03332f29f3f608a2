//! Wishes → matchers, with those of late at hand.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use llguidance::api::TopLevelGrammar;
use serde_json::Value;
use tyndall_types::StructuredOutput;

use crate::error::{Place, StructuredOutputError};
use crate::matcher::{Matcher, NO_TOKEN, one_line};
use crate::vocabulary::Vocabulary;
use crate::{gbnf, grammar, limits, schema};

/// Compiled grammars that are kept for the next request with the same.
const CACHED: usize = 64;

static BYTES: LazyLock<Option<Arc<Vocabulary>>> =
    LazyLock::new(|| Vocabulary::bytes().ok().map(Arc::new));

/// Whether a wish can be honoured, without any model's vocabulary.
///
/// It takes about a millisecond for a usual schema and some tens for the largest, so it belongs on
/// a thread that may block.
///
/// # Errors
/// What of the wish cannot be honoured, for the client.
pub fn check(output: &StructuredOutput) -> Result<(), StructuredOutputError> {
    let text = grammar::lark(output)?;
    match BYTES.as_ref() {
        Some(bytes) => build(bytes, &text).map_err(|message| explained(output, &message)).map(drop),
        None => Err(StructuredOutputError::whole("bytes make no vocabulary", "report this")),
    }
}

/// Compiles wishes for one vocabulary. Shared by all sequences of a model.
#[derive(Debug)]
pub struct Compiler {
    vocabulary: Arc<Vocabulary>,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    entries: HashMap<String, Entry>,
    /// Counts uses.
    now: u64,
}

struct Entry {
    matcher: llguidance::Matcher,
    last_use: u64,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

impl Compiler {
    /// A compiler with nothing in its cache.
    #[must_use]
    pub fn new(vocabulary: Arc<Vocabulary>) -> Self {
        Self { vocabulary, cache: Mutex::default() }
    }

    /// The vocabulary of all matchers.
    #[must_use]
    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        &self.vocabulary
    }

    /// A matcher at the start of a text. The first of a wish takes about a millisecond and some
    /// tens at worst, a later one tens of microseconds; call it off the threads that serve I/O,
    /// and before the request holds anything.
    ///
    /// # Errors
    /// What of the wish cannot be honoured, for the client.
    pub fn compile(&self, output: &StructuredOutput) -> Result<Matcher, StructuredOutputError> {
        let text = grammar::lark(output)?;
        if let Some(matcher) = self.cache().take(&text) {
            return Ok(Matcher::new(matcher, self.vocabulary.clone()));
        }
        let compiled = build(&self.vocabulary, &text).map_err(|m| explained(output, &m))?;
        let matcher = compiled.deep_clone();
        self.cache().put(text, compiled);
        Ok(Matcher::new(matcher, self.vocabulary.clone()))
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // Each change of the cache is complete in itself.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache {
    fn take(&mut self, text: &str) -> Option<llguidance::Matcher> {
        self.now += 1;
        let entry = self.entries.get_mut(text)?;
        entry.last_use = self.now;
        // Automata grow as they are used. With one of its own, no sequence waits for another's
        // lock, or finds its states used up.
        Some(entry.matcher.deep_clone())
    }

    fn put(&mut self, text: String, matcher: llguidance::Matcher) {
        self.now += 1;
        if self.entries.len() >= CACHED
            && let Some(oldest) = self.entries.iter().min_by_key(|(_, entry)| entry.last_use)
        {
            let oldest = oldest.0.clone();
            self.entries.remove(&oldest);
        }
        self.entries.insert(text, Entry { matcher, last_use: self.now });
    }
}

/// The matcher of a grammar, whose first mask is known to be there.
fn build(vocabulary: &Vocabulary, text: &str) -> Result<llguidance::Matcher, String> {
    // Grammars are read recursively; the caller's stack may be a small one.
    stacker::grow(limits::STACK_BYTES, || {
        let grammar = TopLevelGrammar::from_lark(text.to_owned());
        let parser = vocabulary.factory.create_parser(grammar);
        let mut matcher = llguidance::Matcher::new(Ok(parser.map_err(|e| format!("{e:#}"))?));
        if let Some(warning) = matcher.grammar_warnings().into_iter().next() {
            return Err(warning);
        }
        match matcher.compute_mask() {
            Ok(_) => Ok(matcher),
            Err(error) if error.to_string().starts_with(NO_TOKEN) => {
                Err("unsatisfiable: no text fits".to_owned())
            }
            Err(error) => Err(error.to_string()),
        }
    })
}

/// A library's message as an error of ours.
fn explained(output: &StructuredOutput, message: &str) -> StructuredOutputError {
    let is_lark = matches!(output, StructuredOutput::Grammar(text) if !gbnf::is_gbnf(text));
    let message = one_line(message);
    let (place, cause) = position(&message);
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
