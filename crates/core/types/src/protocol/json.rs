//! JSON that is kept to be shown again.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::sync::Arc;

/// A JSON value as its text: as a tree it takes many times the memory. Absent is null.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JsonText(Option<Arc<str>>);

impl JsonText {
    /// The value.
    #[must_use]
    pub fn value(&self) -> Value {
        let parse = |text: &Arc<str>| serde_json::from_str(text).expect("it was made from JSON");
        self.0.as_ref().map_or(Value::Null, parse)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.0.is_none()
    }
}

impl From<&Value> for JsonText {
    fn from(value: &Value) -> Self {
        Self((!value.is_null()).then(|| value.to_string().into()))
    }
}

impl Serialize for JsonText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(&Value::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_comes_back_as_it_was() {
        for value in [json!(null), json!(7), json!({"b": [1, null, "x"], "a": {"c": 1.5}})] {
            let kept = JsonText::from(&value);
            assert_eq!(kept.value(), value);
            assert_eq!(serde_json::to_string(&kept).unwrap(), value.to_string());
            assert_eq!(serde_json::from_str::<JsonText>(&value.to_string()).unwrap(), kept);
        }
        assert_eq!(JsonText::default(), JsonText::from(&Value::Null));
    }
}
