//! Typed, bounded access to the keys of a JSON object; `null` counts as absent.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::SpecError;

/// The object of a JSON file, and the file for messages.
pub(crate) struct Fields<'a> {
    path: &'a Path,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(path: &'a Path, value: &'a Value) -> Result<Self, SpecError> {
        let object =
            value.as_object().ok_or_else(|| SpecError::NotAnObject { path: path.into() })?;
        Ok(Self { path, object })
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// The key is in the file, if only as `null`.
    pub(crate) fn mentions(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    /// A nested object.
    pub(crate) fn nested(&self, key: &str) -> Result<Option<Fields<'a>>, SpecError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Fields { path: self.path, object })),
            Some(other) => Err(self.invalid(key, other, "an object")),
        }
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, SpecError> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.invalid(key, other, "true or false")),
        }
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, SpecError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.invalid(key, other, "a string")),
        }
    }

    /// A finite number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, SpecError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_f64().filter(|number| number.is_finite()) {
                Some(number) => Ok(Some(number)),
                None => Err(self.invalid(key, value, "a finite number")),
            },
        }
    }

    /// A number above zero.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, SpecError> {
        match self.number(key)? {
            Some(number) if number <= 0.0 => Err(self.invalid(key, number, "a number above 0")),
            other => Ok(other),
        }
    }

    /// A whole number from 1 to `max`, also written as 4.0.
    pub(crate) fn count(&self, key: &str, max: usize) -> Result<Option<usize>, SpecError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match whole(value).and_then(|number| usize::try_from(number).ok()) {
            Some(number) if (1..=max).contains(&number) => Ok(Some(number)),
            _ => Err(self.invalid(key, value, &format!("a whole number from 1 to {max}"))),
        }
    }

    pub(crate) fn required_count(&self, key: &str, max: usize) -> Result<usize, SpecError> {
        self.count(key, max)?.ok_or_else(|| self.missing(key))
    }

    /// A token id, or a list of them; empty when absent.
    pub(crate) fn token_ids(&self, key: &str) -> Result<Vec<u32>, SpecError> {
        let id = |value: &Value| whole(value).and_then(|number| u32::try_from(number).ok());
        let ids = match self.get(key) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            // Some files write -1 for "there is none".
            Some(Value::Number(number)) if number.as_i64() == Some(-1) => Some(Vec::new()),
            Some(value) => id(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.invalid(key, &self.object[key], "a token id or a list of them"))
    }

    pub(crate) fn missing(&self, key: &str) -> SpecError {
        SpecError::MissingKey { path: self.path.into(), key: key.into() }
    }

    pub(crate) fn invalid(&self, key: &str, found: impl ToString, expected: &str) -> SpecError {
        SpecError::Invalid {
            path: self.path.into(),
            key: key.into(),
            found: shorten(found.to_string()),
            expected: expected.into(),
        }
    }

    pub(crate) fn unsupported(
        &self,
        key: &str,
        found: impl ToString,
        supported: &str,
    ) -> SpecError {
        SpecError::Unsupported {
            path: self.path.into(),
            key: key.into(),
            found: shorten(found.to_string()),
            supported: supported.into(),
        }
    }
}

/// Reads and parses a JSON file; `None` when there is no such file.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>, SpecError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SpecError::Read { path: path.into(), source }),
    };
    let value = serde_json::from_slice(&text)
        .map_err(|source| SpecError::Json { path: PathBuf::from(path), source })?;
    Ok(Some(value))
}

fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let number = value.as_f64()?;
        // Above 2^53 neighbouring integers share one f64.
        let exact = number >= 0.0 && number.fract() == 0.0 && number < 9e15;
        exact.then_some(number as u64)
    })
}

fn shorten(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(80) {
        text.truncate(end);
        text.push('…');
    }
    text
}
