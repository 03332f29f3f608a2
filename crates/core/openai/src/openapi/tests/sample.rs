//! Values that fit a schema, or nearly do.

use super::validate::resolved;
use serde_json::{Map, Value, json};

/// Draws the same values from the same seed.
pub(super) struct Sampler<'a> {
    document: &'a Value,
    state: u64,
    /// One in so many values is any other; 0 is none.
    odd: u64,
    /// How many fields an object has, about.
    fields: usize,
}

impl<'a> Sampler<'a> {
    pub(super) fn new(document: &'a Value, seed: u64, odd: u64, fields: usize) -> Self {
        Self { document, state: seed, odd, fields }
    }

    /// Below `bound`; of splitmix64.
    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }

    fn is_odd(&mut self) -> bool {
        self.odd > 0 && self.below(self.odd as usize) == 0
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    /// A value for the schema.
    pub(super) fn value(&mut self, schema: &Value) -> Value {
        if self.is_odd() {
            return self.any();
        }
        let Value::Object(words) = schema else { return self.any() };
        if let Some(name) = words.get("$ref").and_then(Value::as_str) {
            return self.value(resolved(self.document, name));
        }
        for choice in ["enum", "anyOf", "examples"] {
            let Some(Value::Array(forms)) = words.get(choice) else { continue };
            let chosen = self.one(forms);
            if choice == "anyOf" {
                return self.value(&chosen);
            }
            if choice == "enum" || self.below(4) > 0 {
                return chosen;
            }
        }
        let kind = match words.get("type") {
            Some(Value::Array(kinds)) => self.one(kinds),
            Some(kind) => kind.clone(),
            None => return self.any(),
        };
        match kind.as_str().expect("a type") {
            "null" => Value::Null,
            "boolean" => (self.below(2) == 0).into(),
            "integer" => self.integer(words),
            "number" => self.number(words),
            "string" => self.string(words),
            "array" => self.array(words),
            _ => self.object(words),
        }
    }

    fn integer(&mut self, words: &Map<String, Value>) -> Value {
        let bound =
            |word: &str, without: i64| words.get(word).and_then(Value::as_i64).unwrap_or(without);
        let (min, max) = (bound("minimum", -3), bound("maximum", 9));
        let inside = [min, max, min.saturating_add(1), max.saturating_sub(1), 1, 3];
        let number = self.one(&inside).clamp(min, max);
        match self.below(12) {
            0 if self.odd > 0 => Value::from(min.saturating_sub(1)),
            1 if self.odd > 0 => json!(max.unsigned_abs() + 1),
            // The same number, for JSON.
            2 if number.unsigned_abs() < 1 << 53 => json!(number as f64),
            _ => number.into(),
        }
    }

    fn number(&mut self, words: &Map<String, Value>) -> Value {
        let bound = |word: &str| words.get(word).and_then(Value::as_f64);
        let min = bound("minimum").or(bound("exclusiveMinimum")).unwrap_or(-1.0);
        let max = bound("maximum").unwrap_or(1.0);
        let values = [max, min, min + 1e-6, 0.5, 1.0, (min + 1.0).min(max), min - 1e-6, max * 1.5];
        let among = if self.odd > 0 { values.len() } else { values.len() - 2 };
        json!(values[self.below(among)])
    }

    fn string(&mut self, words: &Map<String, Value>) -> Value {
        let longest = words.get("maxLength").and_then(Value::as_u64).unwrap_or(20) as usize;
        let long = self.one(&["x", "é"]).repeat(longest + self.below(2));
        let pool = ["a", "b", "hello", "{}", "", "3", " 2.5e0 ", "inf", "a/b", "f", "null", "\n"];
        match self.below(pool.len() + 1) {
            at if at < pool.len() => pool[at].into(),
            _ => long.into(),
        }
    }

    fn array(&mut self, words: &Map<String, Value>) -> Value {
        let bound = |word: &str| words.get(word).and_then(Value::as_u64).map(|n| n as usize);
        let min = bound("minItems").unwrap_or_default();
        let mut len = min + if self.below(16) == 0 { 10 } else { self.below(3) };
        if let Some(max) = bound("maxItems") {
            // Long lists cost time: their ends are tried seldom.
            len = if self.below(if max > 9 { 60 } else { 8 }) == 0 {
                max + self.below(2)
            } else {
                len
            };
        }
        if self.is_odd() {
            len = len.saturating_sub(1);
        }
        let anything = Value::Bool(true);
        let items = words.get("items").unwrap_or(&anything);
        (0..len).map(|_| self.value(items)).collect()
    }

    fn object(&mut self, words: &Map<String, Value>) -> Value {
        let mut object = Map::new();
        let required = words.get("required").and_then(Value::as_array);
        let is_required =
            |name: &str| required.is_some_and(|names| names.iter().any(|other| other == name));
        let nothing = Map::new();
        let properties = words.get("properties").and_then(Value::as_object).unwrap_or(&nothing);
        let one_in = 1 + properties.len() / self.fields;
        for (name, schema) in properties {
            let is_there = match is_required(name) {
                true => !self.is_odd(),
                false => *schema != Value::Bool(false) && self.below(one_in) == 0,
            };
            if is_there {
                object.insert(name.clone(), self.value(schema));
            }
        }
        if let Some(schema @ Value::Object(_)) = words.get("additionalProperties") {
            for name in ["5", "+07", "4294967295", "99999999999", "x"].iter().take(self.below(6)) {
                object.insert((*name).to_owned(), self.value(schema));
            }
        }
        if self.is_odd() {
            let name = self.one(&["chat_template", "name", "type", "function", "other"]);
            object.insert(name.to_owned(), self.any());
        }
        object.into()
    }

    fn any(&mut self) -> Value {
        let pool = [
            json!(null),
            json!(true),
            json!(false),
            json!(0),
            json!(1),
            json!(-1),
            json!(2.5),
            json!(1e300),
            json!(u64::MAX),
            json!(""),
            json!("f"),
            json!("assistant"),
            json!([]),
            json!([1, 2]),
            json!(["a"]),
            json!([null]),
            json!({}),
            json!({"type": "text", "text": "a"}),
            json!({"name": "f"}),
        ];
        self.one(&pool)
    }
}
