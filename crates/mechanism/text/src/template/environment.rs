//! The Jinja dialect of chat templates, as transformers sets it up.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

use super::{json, methods, strftime};

/// The template's name inside its environment; it appears in error messages.
pub(super) const NAME: &str = "chat template";

/// Instructions that one rendering may take: some seconds at worst, a thousand times what long
/// conversations need.
const FUEL: u64 = 20_000_000;

/// A template's own refusal, carried through the engine's errors.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// Compiles `source` into an environment of its own.
pub(super) fn compile(source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(methods::call);
    environment.add_test("sequence", is_sequence);
    environment.add_test("callable", is_callable);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime::now);
    environment.add_filter("tojson", to_json);
    environment.add_template_owned(NAME, without_generation_tags(source))?;
    Ok(environment)
}

/// In Python, strings and dicts count as sequences.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
}

fn is_callable(value: &Value) -> bool {
    value.kind() == ValueKind::Plain
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let raised = match message.to_string() {
        empty if empty.trim().is_empty() => "the template refuses this and does not say why".into(),
        message => message,
    };
    let raised = Raised(raised);
    Err(Error::new(ErrorKind::InvalidOperation, "the template raised an exception")
        .with_source(raised))
}

fn to_json(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let fail =
        |reason: String| Error::new(ErrorKind::InvalidOperation, format!("tojson: {reason}"));
    if value.is_undefined() {
        return Err(fail("the value is undefined".to_owned()));
    }
    let option = |at: usize, name: &str| match args.get(at) {
        Some(value) => Ok(Some(value.clone())),
        None => kwargs.get::<Option<Value>>(name),
    };
    let ensure_ascii = option(0, "ensure_ascii")?.is_some_and(|value| value.is_true());
    let mut style = json::Style { ensure_ascii, ..json::Style::default() };
    if let Some(indent) = option(1, "indent")?.filter(|value| !value.is_none()) {
        style.indent = Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(indent)?.min(64)),
        });
        ",".clone_into(&mut style.item_separator);
    }
    if let Some(separators) = option(2, "separators")?.filter(|value| !value.is_none()) {
        let mut parts = separators.try_iter()?.map(|part| part.to_string());
        let (Some(item), Some(key)) = (parts.next(), parts.next()) else {
            return Err(fail("separators must be a pair".to_owned()));
        };
        (style.item_separator, style.key_separator) = (item, key);
    }
    style.sort_keys = option(3, "sort_keys")?.is_some_and(|value| value.is_true());
    kwargs.assert_all_used()?;
    let value = serde_json::to_value(value).map_err(|error| fail(error.to_string()))?;
    Ok(Value::from(style.write(&value)))
}

/// Replaces the tags that mark the assistant's words for training by blocks that always run.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        // Not the end that `{%}` seems to have.
        let Some(end) = tag[2..].find("%}").map(|at| at + 2) else {
            rest = tag;
            break;
        };
        let inner = &tag[2..end];
        let word = inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let replacement = match word {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        match replacement {
            Some(replacement) => out.push_str(&tag[..end].replace(word, replacement)),
            None => out.push_str(&tag[..end]),
        }
        rest = &tag[end..];
    }
    out.push_str(rest);
    out
}
