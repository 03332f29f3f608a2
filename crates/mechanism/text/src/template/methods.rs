//! Python's methods that templates call and the engine's compatibility layer lacks.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Called for every method that a value does not have by itself.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => string_method(value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Seq => seq_method(value, method, args)?,
        ValueKind::Map if method == "copy" => Some(value.clone()),
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// What a list says to `method`; nothing when the method is not ours.
fn seq_method(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "copy" => Ok(Some(value.clone())),
        "index" => {
            let (wanted,): (Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|item| item == wanted);
            at.map(|at| Some(Value::from(at))).ok_or_else(|| fail("the list has no such item"))
        }
        _ => Ok(None),
    }
}

/// What a string says to `method`; nothing when the method is not ours.
fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let from_right = method.starts_with('r');
    Ok(Some(match method {
        "split" | "rsplit" => split_method(text, from_right, args)?,
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let found =
                if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
            let parts = match found {
                Some((before, after)) => [before, separator, after],
                None if from_right => ["", "", text],
                None => [text, "", ""],
            };
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            let is_prefix = method == "removeprefix";
            let rest = if is_prefix { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Value::from(rest.unwrap_or(text))
        }
        "index" | "rindex" => {
            let (part,): (&str,) = from_args(args)?;
            let at = if from_right { text.rfind(part) } else { text.find(part) };
            let at = at.ok_or_else(|| fail("the string has no such part"))?;
            Value::from(text[..at].chars().count())
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<&str>) = from_args(args)?;
            Value::from(justify(text, method, width, fill.unwrap_or(" "))?)
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let sign = text.len() - text.trim_start_matches(['+', '-']).len();
            let (sign, digits) = text.split_at(sign.min(1));
            let digits = justify(digits, "rjust", width.saturating_sub(sign.len()), "0")?;
            Value::from(format!("{sign}{digits}"))
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swap = |char: char| -> String {
                let lower = char.is_lowercase();
                if lower { char.to_uppercase().collect() } else { char.to_lowercase().collect() }
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "casefold" => {
            let () = from_args(args)?;
            Value::from(text.to_lowercase().replace('ß', "ss"))
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(text))
        }
        _ => return Ok(None),
    }))
}

/// Each run of letters with a capital first, as `str.title` has it.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for char in text.chars() {
        if in_word {
            out.extend(char.to_lowercase());
        } else {
            out.extend(char.to_uppercase());
        }
        in_word = char.is_alphabetic();
    }
    out
}

fn justify(text: &str, side: &str, width: usize, fill: &str) -> Result<String, Error> {
    let mut fills = fill.chars();
    let (Some(fill), None) = (fills.next(), fills.next()) else {
        return Err(fail("the fill must be one character"));
    };
    // A template has no business with padding that outgrows any prompt.
    let missing = width.min(1 << 16).saturating_sub(text.chars().count());
    let left = match side {
        "ljust" => 0,
        "rjust" => missing,
        // Python gives the odd character to the left if the width is odd.
        _ => missing / 2 + (missing & width & 1),
    };
    let pad = |count: usize| std::iter::repeat_n(fill, count);
    Ok(pad(left).chain(text.chars()).chain(pad(missing - left)).collect())
}

fn split_method(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, max, named): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = match separator {
        Some(separator) => Some(separator),
        None => named.get::<Option<Value>>("sep")?,
    };
    let max = max.or(named.get::<Option<i64>>("maxsplit")?).unwrap_or(-1);
    named.assert_all_used()?;
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    let separator = separator.filter(|separator| !separator.is_none());
    let parts = match &separator {
        Some(separator) => {
            let separator = separator.as_str().filter(|separator| !separator.is_empty());
            let separator = separator.ok_or_else(|| fail("the separator must be a string"))?;
            split_at(text, separator, max, from_right)
        }
        None => split_at_spaces(text, max, from_right),
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

fn split_at<'a>(text: &'a str, separator: &str, max: usize, from_right: bool) -> Vec<&'a str> {
    let parts = max.saturating_add(1);
    if from_right {
        let mut parts: Vec<_> = text.rsplitn(parts, separator).collect();
        parts.reverse();
        parts
    } else {
        text.splitn(parts, separator).collect()
    }
}

/// Runs of whitespace separate; what remains after `max` splits keeps its inner whitespace.
fn split_at_spaces(text: &str, max: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = if from_right { text.trim_end() } else { text.trim_start() };
    while parts.len() < max {
        let found = if from_right {
            rest.rfind(char::is_whitespace)
        } else {
            rest.find(char::is_whitespace)
        };
        let Some(at) = found else { break };
        let (before, after) = rest.split_at(at);
        let (part, more) = if from_right { (after, before) } else { (before, after) };
        parts.push(part.trim_start());
        rest = if from_right { more.trim_end() } else { more.trim_start() };
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// An error of a method call.
fn fail(reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}
