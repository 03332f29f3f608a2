//! Sampling where a request says nothing.

use serde::{Deserialize, Serialize};

/// What a model's `generation_config.json` says, or a deployment instead of it; absent where it says
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingDefaults {
    /// As the request field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// As the request field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// As the request field; 0 is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// As the request field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// As the request field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    /// As the request field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f32>,
    /// As the request field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f32>,
    /// For requests without `max_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<u32>,
}

impl SamplingDefaults {
    /// These, and `base` where they say nothing.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        Self {
            temperature: self.temperature.or(base.temperature),
            top_p: self.top_p.or(base.top_p),
            top_k: self.top_k.or(base.top_k),
            min_p: self.min_p.or(base.min_p),
            repetition_penalty: self.repetition_penalty.or(base.repetition_penalty),
            presence_penalty: self.presence_penalty.or(base.presence_penalty),
            frequency_penalty: self.frequency_penalty.or(base.frequency_penalty),
            max_new_tokens: self.max_new_tokens.or(base.max_new_tokens),
        }
    }

    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The same ranges as for the fields of requests.
    ///
    /// # Errors
    /// The first value that is outside, with what is accepted.
    pub fn check(&self) -> Result<(), String> {
        let within =
            |name: &str, value: Option<f32>, accepted: &str, fits: fn(f32) -> bool| match value
                .filter(|value| !fits(*value))
            {
                Some(value) => Err(format!("{name} must be {accepted}, got {value}")),
                None => Ok(()),
            };
        within("temperature", self.temperature, "from 0 to 2", |t| (0.0..=2.0).contains(&t))?;
        within("top_p", self.top_p, "above 0 and up to 1", |p| p > 0.0 && p <= 1.0)?;
        within("min_p", self.min_p, "from 0 to 1", |p| (0.0..=1.0).contains(&p))?;
        let above = |p: f32| p > 0.0 && p.is_finite();
        within("repetition_penalty", self.repetition_penalty, "above 0", above)?;
        let around = |p: f32| (-2.0..=2.0).contains(&p);
        within("presence_penalty", self.presence_penalty, "from -2 to 2", around)?;
        within("frequency_penalty", self.frequency_penalty, "from -2 to 2", around)?;
        match self.max_new_tokens {
            Some(0) => Err("max_new_tokens must be at least 1, got 0".to_owned()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_wins_and_has_its_range() {
        let read = |text: &str| serde_json::from_str::<SamplingDefaults>(text);
        let said = read(r#"{"temperature": 0, "top_k": 5}"#).unwrap();
        let base = read(r#"{"temperature": 0.7, "top_p": 0.9}"#).unwrap();
        let both = said.over(base);
        assert_eq!((both.temperature, both.top_k, both.top_p), (Some(0.0), Some(5), Some(0.9)));
        assert!(SamplingDefaults::default().is_empty() && !said.is_empty());
        assert_eq!(both.check(), Ok(()));
        assert!(read(r#"{"temprature": 0}"#).is_err());
        for (text, expected) in [
            (r#"{"temperature": 3}"#, "temperature must be from 0 to 2, got 3"),
            (r#"{"top_p": 0}"#, "top_p must be above 0 and up to 1, got 0"),
            (r#"{"max_new_tokens": 0}"#, "max_new_tokens must be at least 1, got 0"),
        ] {
            assert_eq!(read(text).unwrap().check(), Err(expected.to_owned()));
        }
    }
}
