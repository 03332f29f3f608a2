//! The key file.

use crate::{Digest, Key, KeyName, Limits, ModelPattern};
use serde::Deserialize;
use std::collections::HashMap;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use toml::Spanned;

/// Far beyond what a machine can do; more is a typing error.
const MAX_PER_MINUTE: i64 = 1_000_000_000_000;
const MAX_CONCURRENT: i64 = 1_000_000;
const MAX_WEIGHT: i64 = 1000;

/// Why a key file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct KeyFileError {
    /// Where, from 1 on.
    pub line: usize,
    /// What is wrong and what would do.
    pub message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    keys: Vec<RawKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKey {
    name: Spanned<String>,
    sha256: Spanned<String>,
    models: Option<Spanned<Vec<Spanned<String>>>>,
    requests_per_minute: Option<Spanned<i64>>,
    tokens_per_minute: Option<Spanned<i64>>,
    max_concurrent: Option<Spanned<i64>>,
    weight: Option<Spanned<i64>>,
}

/// Reads a key file: TOML with a table `[[keys]]` for each key. A file without any is one that lets
/// nobody in.
///
/// # Errors
/// [`KeyFileError`] names the first thing that is wrong.
pub fn parse(text: &str) -> Result<Vec<Key>, KeyFileError> {
    let raw: RawFile = toml::from_str(text).map_err(|error| {
        let message = error.message().lines().next().unwrap_or("this is no TOML");
        at(text, &error.span().unwrap_or(0..0), message)
    })?;
    let mut names = HashMap::new();
    let mut digests = HashMap::new();
    let mut keys = Vec::with_capacity(raw.keys.len());
    for raw in raw.keys {
        let key = key(text, &raw)?;
        let line = line(text, &raw.name.span());
        if let Some(other) = names.insert(key.name.clone(), line) {
            let message = format!("the name {} is that of line {other} already", key.name);
            return Err(at(text, &raw.name.span(), message));
        }
        if let Some(other) = digests.insert(key.digest, key.name.clone()) {
            let message = format!("this is the key of {other} already; make another one");
            return Err(at(text, &raw.sha256.span(), message));
        }
        keys.push(key);
    }
    Ok(keys)
}

fn key(text: &str, raw: &RawKey) -> Result<Key, KeyFileError> {
    let name = KeyName::new(raw.name.get_ref()).map_err(|why| at(text, &raw.name.span(), why))?;
    let digest = Digest::from_hex(raw.sha256.get_ref()).ok_or_else(|| {
        let message = "sha256 wants 64 hexadecimal digits, the SHA-256 of the key and not the key \
                       itself; `tyndall keys new` makes both";
        at(text, &raw.sha256.span(), message)
    })?;
    let whole = |name, value: &Option<Spanned<i64>>, accepted| whole(text, name, value, accepted);
    let per_minute = 1..=MAX_PER_MINUTE;
    let requests = whole("requests_per_minute", &raw.requests_per_minute, per_minute.clone())?;
    let tokens = whole("tokens_per_minute", &raw.tokens_per_minute, per_minute)?;
    let concurrent = whole("max_concurrent", &raw.max_concurrent, 1..=MAX_CONCURRENT)?;
    let weight = whole("weight", &raw.weight, 1..=MAX_WEIGHT)?.unwrap_or(1);
    let small = |number: u64| u32::try_from(number).expect("its range is smaller");
    Ok(Key {
        name,
        digest,
        models: raw.models.as_ref().map(|models| patterns(text, models)).transpose()?,
        limits: Limits {
            requests_per_minute: requests,
            tokens_per_minute: tokens,
            max_concurrent: concurrent.map(small),
        },
        weight: small(weight),
    })
}

fn patterns(
    text: &str,
    models: &Spanned<Vec<Spanned<String>>>,
) -> Result<Vec<ModelPattern>, KeyFileError> {
    if models.get_ref().is_empty() {
        let message = "models is empty, so the key could use none; leave it out to allow all";
        return Err(at(text, &models.span(), message));
    }
    let pattern = |model: &Spanned<String>| {
        ModelPattern::new(model.get_ref()).ok_or_else(|| {
            let message = format!(
                "{:?} is no model; write an id such as \"demo\", or its beginning and one * such \
                 as \"org/*\"",
                model.get_ref()
            );
            at(text, &model.span(), message)
        })
    };
    models.get_ref().iter().map(pattern).collect()
}

fn whole(
    text: &str,
    name: &str,
    value: &Option<Spanned<i64>>,
    accepted: RangeInclusive<i64>,
) -> Result<Option<u64>, KeyFileError> {
    let Some(value) = value else { return Ok(None) };
    let number = Some(*value.get_ref()).filter(|number| accepted.contains(number));
    let number = number.and_then(|number| u64::try_from(number).ok());
    number.map(Some).ok_or_else(|| {
        let (least, most) = accepted.into_inner();
        let message = format!(
            "{name} is {}, which is not a whole number from {least} to {most}",
            value.get_ref()
        );
        at(text, &value.span(), message)
    })
}

fn at(text: &str, span: &Range<usize>, message: impl Display) -> KeyFileError {
    KeyFileError { line: line(text, span), message: message.to_string() }
}

fn line(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().iter().take(span.start);
    1 + before.filter(|byte| **byte == b'\n').count()
}

/// The text of a new entry without limits.
#[must_use]
pub fn entry(name: &KeyName, digest: Digest) -> String {
    format!("[[keys]]\nname = \"{name}\"\nsha256 = \"{}\"\n", digest.to_hex())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest(secret: &str) -> String {
        Digest::of(secret.as_bytes()).to_hex()
    }

    #[test]
    fn a_whole_file_is_understood() {
        let text = format!(
            "# ours\n{}\n[[keys]]\nname = \"b\"\nsha256 = \"{}\"\nmodels = [\"m\", \"org/*\"]\n\
             requests_per_minute = 60\ntokens_per_minute = 10000\nmax_concurrent = 4\nweight = 3\n",
            entry(&KeyName::new("a").unwrap(), Digest::of(b"one")),
            digest("two")
        );
        let keys = parse(&text).unwrap();
        assert_eq!(keys[0], Key::unlimited(KeyName::new("a").unwrap(), "one"));
        assert_eq!((keys[1].name.as_str(), keys[1].weight), ("b", 3));
        let limits = Limits {
            requests_per_minute: Some(60),
            tokens_per_minute: Some(10_000),
            max_concurrent: Some(4),
        };
        assert_eq!(keys[1].limits, limits);
        assert!(keys[1].may_use("org/x") && !keys[1].may_use("other"));
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let check = |entry: &str, line: usize, part: &str| {
            let (one, two) = (digest("one"), digest("two"));
            let text = format!("[[keys]]\nname = \"a\"\nsha256 = \"{one}\"\n\n[[keys]]\n{entry}\n");
            let error = parse(&text.replace("TWO", &two).replace("ONE", &one)).unwrap_err();
            assert!(error.message.contains(part), "{error}");
            assert_eq!(error.line, line, "{error}");
        };
        check("name = \"b\"", 5, "missing field `sha256`");
        check("name = \"b\"\nsha256 = \"sk-tyndall-1\"", 7, "not the key itself");
        check("name = \"a\"\nsha256 = \"TWO\"", 6, "the name a is that of line 2 already");
        check("name = \"b\"\nsha256 = \"ONE\"", 7, "the key of a already");
        check("name = \"b c\"\nsha256 = \"TWO\"", 6, "is no name of a key");
        let with = |field: &str| format!("name = \"b\"\nsha256 = \"TWO\"\n{field}");
        check(&with("rpm = 1"), 8, "unknown field `rpm`");
        check(&with("weight = 0"), 8, "weight is 0, which is not a whole number from 1 to 1000");
        check(&with("max_concurrent = -1"), 8, "max_concurrent is -1");
        check(&with("tokens_per_minute = 1.5"), 8, "invalid type: floating point");
        check(&with("models = []"), 8, "leave it out to allow all");
        check(&with("models = [\n  \"a\",\n  \"*b\",\n]"), 10, "\"*b\" is no model");
        check("name = ", 6, "");
        assert!(parse("key = 1").unwrap_err().message.contains("unknown field `key`"));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "(\\[\\[keys\\]\\]|name|sha256|=|\"|\n|[a-f0-9]|.){0,60}") {
            if let Err(error) = parse(&text) {
                prop_assert!(error.line >= 1 && error.line <= text.lines().count() + 1);
            }
        }
    }
}
