//! Reading typed fields out of a JSON object, with errors that name field, value and range.

use crate::ApiError;
use serde_json::{Map, Value};
use std::fmt;

/// The largest number of any field: a round one that an `f32` holds.
pub(crate) const LARGEST: f64 = 3e38;

/// How forgiving numbers are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// JSON numbers only; an integral float is an integer.
    Strict,
    /// Also numbers written as strings, as Python's `int()` and `float()` would take them.
    Text,
}

/// A JSON object under one dotted prefix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    prefix: &'static str,
    numbers: Numbers,
}

/// What a number may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) min: f64,
    pub(crate) min_excluded: bool,
    pub(crate) max: f64,
}

impl Bounds {
    pub(crate) const fn closed(min: f64, max: f64) -> Self {
        Self { min, min_excluded: false, max }
    }

    pub(crate) const fn open_below(min: f64, max: f64) -> Self {
        Self { min, min_excluded: true, max }
    }

    fn contains(self, value: f64) -> bool {
        // Comparisons with NaN are false, so NaN is outside of everything.
        let above = if self.min_excluded { value > self.min } else { value >= self.min };
        above && value <= self.max
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let no_max = self.max >= LARGEST;
        match (self.min_excluded, no_max) {
            (false, false) => write!(f, "between {} and {}", self.min, self.max),
            (true, false) => write!(f, "above {} and at most {}", self.min, self.max),
            (false, true) => write!(f, "of at least {}", self.min),
            (true, true) => write!(f, "above {}", self.min),
        }
    }
}

/// Reads the body as a JSON object.
pub(crate) fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::malformed("", "the body is empty; send a JSON object"));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(ApiError::malformed(
            "",
            format!("the body must be a JSON object, got {}", shown(&other)),
        )),
        Err(error) => Err(ApiError::malformed("", broken_json(body, &error))),
    }
}

fn broken_json(body: &[u8], error: &serde_json::Error) -> String {
    let mut message = format!("the body is not valid JSON: {error}");
    let line = body.split(|&byte| byte == b'\n').nth(error.line().saturating_sub(1));
    let near = line.and_then(|line| line.get(error.column().saturating_sub(2)..));
    let near = String::from_utf8_lossy(near.unwrap_or_default());
    let near = near.trim_start_matches(['-', ' ', ':']);
    if ["NaN", "aN", "Infinity", "nfinity"].iter().any(|word| near.starts_with(word)) {
        message.push_str("; NaN and Infinity are not JSON numbers");
    }
    message
}

/// A value as it may stand in a message.
pub(crate) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A value of the wrong type, somewhere in the body.
pub(crate) fn wrong(path: &str, expected: &str, value: Option<&Value>) -> ApiError {
    let value = shown(value.unwrap_or(&Value::Null));
    ApiError::malformed(path, format!("{path} must be {expected}, got {value}"))
}

impl<'a> Fields<'a> {
    pub(crate) fn new(object: &'a Map<String, Value>, numbers: Numbers) -> Self {
        Self { object, prefix: "", numbers }
    }

    pub(crate) fn nested(object: &'a Map<String, Value>, prefix: &'static str, n: Numbers) -> Self {
        Self { object, prefix, numbers: n }
    }

    /// The field, unless it is absent or null.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        #[cfg(test)]
        asked::note(self.path(name));
        self.object.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn wrong(&self, name: &str, expected: &str, value: &Value) -> ApiError {
        wrong(&self.path(name), expected, Some(value))
    }

    fn outside(&self, name: &str, expected: &str, value: &Value) -> ApiError {
        let path = self.path(name);
        ApiError::invalid(&path, format!("{path} must be {expected}, got {}", shown(value)))
    }

    pub(crate) fn bool(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong(name, "true or false", other)),
        }
    }

    pub(crate) fn string(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong(name, "a string", other)),
        }
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong(name, "an object", other)),
        }
    }

    pub(crate) fn list(&self, name: &str) -> Result<Option<&'a [Value]>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong(name, "a list", other)),
        }
    }

    pub(crate) fn number(&self, name: &str, bounds: Bounds) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = self
            .as_f64(value)
            .ok_or_else(|| self.wrong(name, &format!("a number {bounds}"), value))?;
        if bounds.contains(number) && number.abs() <= LARGEST {
            Ok(Some(number))
        } else {
            Err(self.outside(name, &format!("a number {bounds}"), value))
        }
    }

    pub(crate) fn integer(&self, name: &str, min: i64, max: i64) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let expected = match (min, max) {
            (i64::MIN, i64::MAX) => "an integer".to_owned(),
            (min, max) if max >= i64::from(u32::MAX) => format!("an integer of at least {min}"),
            (min, max) => format!("an integer between {min} and {max}"),
        };
        match self.as_i64(value) {
            // What only fits `u64` is beyond every range.
            Some(number) if (min..=max).contains(&number) && fits_i64(value) => Ok(Some(number)),
            Some(_) => Err(self.outside(name, &expected, value)),
            None => Err(self.wrong(name, &expected, value)),
        }
    }

    /// An integer that fits `u32`.
    pub(crate) fn count(&self, name: &str, min: u32, max: u32) -> Result<Option<u32>, ApiError> {
        let number = self.integer(name, i64::from(min), i64::from(max))?;
        Ok(number.map(|number| u32::try_from(number).expect("the range was checked")))
    }

    pub(crate) fn token_ids(&self, name: &str) -> Result<Vec<u32>, ApiError> {
        let Some(list) = self.list(name)? else { return Ok(Vec::new()) };
        list.iter()
            .map(|item| token_id(item).ok_or_else(|| self.wrong(name, "a list of token ids", item)))
            .collect()
    }

    fn as_f64(&self, value: &Value) -> Option<f64> {
        match (value, self.numbers) {
            (Value::Number(number), _) => number.as_f64(),
            (Value::String(text), Numbers::Text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    fn as_i64(&self, value: &Value) -> Option<i64> {
        if let Some(number) = value.as_i64() {
            return Some(number);
        }
        if !fits_i64(value) {
            return Some(i64::MAX);
        }
        // 2^53: beyond it a float does not say which integer it means.
        let float = self.as_f64(value)?;
        (float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0).then_some(float as i64)
    }
}

fn fits_i64(value: &Value) -> bool {
    value.is_i64() || !value.is_u64()
}

/// A token id, be it written as a float.
pub(crate) fn token_id(value: &Value) -> Option<u32> {
    let nothing = Map::new();
    let number = Fields::new(&nothing, Numbers::Strict).as_i64(value)?;
    u32::try_from(number).ok()
}

/// Which fields were asked for, for the test that the document has them all.
#[cfg(test)]
pub(crate) mod asked {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    thread_local! {
        static PATHS: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
    }

    pub(super) fn note(path: String) {
        PATHS.with_borrow_mut(|paths| paths.insert(path));
    }

    /// Those since the last call, on this thread.
    pub(crate) fn take() -> BTreeSet<String> {
        PATHS.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> String {
        object(body.as_bytes()).unwrap_err().message
    }

    #[test]
    fn broken_json_says_where_and_why() {
        assert_eq!(message(" \n"), "the body is empty; send a JSON object");
        assert_eq!(message("[1]"), "the body must be a JSON object, got [1]");
        assert!(message("{\"a\": 1,\n \"b\" 2}").contains("at line 2 column"));
        for body in [r#"{"t": NaN}"#, r#"{"t":Infinity}"#, r#"{"t": -Infinity}"#] {
            assert!(message(body).contains("NaN and Infinity are not JSON"), "{}", message(body));
        }
        assert!(message("{\"a\": 1e999}").contains("number out of range"));
        assert!(message("{\"a\": \u{0}}").contains("line 1"));
    }

    #[test]
    fn numbers_are_read_as_strictly_as_asked() {
        let object =
            object(br#"{"a": 3.0, "b": "3", "c": 3.5, "d": 18446744073709551615}"#).unwrap();
        let strict = Fields::new(&object, Numbers::Strict);
        let text = Fields::new(&object, Numbers::Text);
        assert_eq!(strict.count("a", 1, 9).unwrap(), Some(3));
        assert_eq!(text.count("b", 1, 9).unwrap(), Some(3));
        assert_eq!(
            strict.count("b", 1, 9).unwrap_err().message,
            "b must be an integer between 1 and 9, got \"3\""
        );
        assert_eq!(
            strict.count("c", 1, u32::MAX).unwrap_err().message,
            "c must be an integer of at least 1, got 3.5"
        );
        assert!(strict.count("d", 1, 9).is_err());
        assert_eq!(strict.count("absent", 1, 9).unwrap(), None);
        assert!(text.number("b", Bounds::closed(0.0, 2.0)).is_err());
    }

    #[test]
    fn bounds_say_what_they_accept() {
        let max = f64::from(f32::MAX);
        for (bounds, text) in [
            (Bounds::closed(0.0, 2.0), "between 0 and 2"),
            (Bounds::open_below(0.0, 1.0), "above 0 and at most 1"),
            (Bounds::closed(0.0, max), "of at least 0"),
            (Bounds::open_below(0.0, max), "above 0"),
        ] {
            assert_eq!(bounds.to_string(), text);
            assert!(!bounds.contains(f64::NAN));
        }
    }
}
