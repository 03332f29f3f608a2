//! What a checkpoint recommends for requests that do not say otherwise.

use std::path::Path;

use crate::spec::{Fields, SpecError, read_json};

/// Defaults from `generation_config.json`, with token ids from `config.json` where it has none.
///
/// A value that is absent here means the server's own default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationDefaults {
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// Share of probability to sample from.
    pub top_p: Option<f32>,
    /// Number of likeliest tokens to sample from; 0 is all.
    pub top_k: Option<u32>,
    /// Least share of the likeliest token's probability.
    pub min_p: Option<f32>,
    /// Over prompt and output; 1 is off.
    pub repetition_penalty: Option<f32>,
    /// Once for each token that occurred.
    pub presence_penalty: Option<f32>,
    /// Once per occurrence.
    pub frequency_penalty: Option<f32>,
    /// Tokens of output.
    pub max_new_tokens: Option<u32>,
    /// Any of these ends the output; sorted, each once.
    pub eos_token_ids: Vec<u32>,
    /// Starts a text.
    pub bos_token_id: Option<u32>,
    /// Fills batches.
    pub pad_token_id: Option<u32>,
}

impl GenerationDefaults {
    /// Reads a checkpoint directory; a missing `generation_config.json` is no error.
    ///
    /// # Errors
    /// [`SpecError`] names the file, the key and what would be right.
    pub fn from_dir(dir: &Path) -> Result<GenerationDefaults, SpecError> {
        let mut defaults = GenerationDefaults::default();
        let path = dir.join("generation_config.json");
        if let Some(json) = read_json(&path)? {
            defaults.read_sampling(&Fields::new(&path, &json)?)?;
            defaults.read_token_ids(&Fields::new(&path, &json)?)?;
        }
        let path = dir.join("config.json");
        if let Some(json) = read_json(&path)? {
            defaults.read_token_ids(&Fields::new(&path, &json)?)?;
        }
        Ok(defaults)
    }

    /// `do_sample` does not count: vLLM ignores it too, and users expect its defaults.
    fn read_sampling(&mut self, fields: &Fields<'_>) -> Result<(), SpecError> {
        let number = |key: &str, least: f64, most: f64| match fields.number(key)? {
            Some(number) if !(least..=most).contains(&number) => {
                Err(fields.invalid(key, number, &format!("from {least} to {most}")))
            }
            other => Ok(other.map(|number| number as f32)),
        };
        self.temperature = number("temperature", 0.0, 100.0)?;
        self.top_p = number("top_p", 0.0, 1.0)?;
        self.min_p = number("min_p", 0.0, 1.0)?;
        self.repetition_penalty = number("repetition_penalty", 1e-3, 1e3)?;
        self.presence_penalty = number("presence_penalty", -2.0, 2.0)?;
        self.frequency_penalty = number("frequency_penalty", -2.0, 2.0)?;
        // 0 and -1 both mean "all".
        let top_k = fields.number("top_k")?.filter(|&top_k| top_k > 0.0);
        self.top_k = top_k.map(|top_k| top_k as u32);
        self.max_new_tokens =
            fields.count("max_new_tokens", u32::MAX as usize)?.map(|count| count as u32);
        Ok(())
    }

    /// Fills what an earlier file left open.
    fn read_token_ids(&mut self, fields: &Fields<'_>) -> Result<(), SpecError> {
        if self.eos_token_ids.is_empty() {
            self.eos_token_ids = fields.token_ids("eos_token_id")?;
            self.eos_token_ids.sort_unstable();
            self.eos_token_ids.dedup();
        }
        for (id, key) in
            [(&mut self.bos_token_id, "bos_token_id"), (&mut self.pad_token_id, "pad_token_id")]
        {
            if id.is_none() {
                *id = fields.token_ids(key)?.first().copied();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(generation: Option<&str>, config: &str, expected: GenerationDefaults) {
        let dir = tempfile::tempdir().expect("a directory");
        if let Some(text) = generation {
            std::fs::write(dir.path().join("generation_config.json"), text).expect("a file");
        }
        std::fs::write(dir.path().join("config.json"), config).expect("a file");
        assert_eq!(GenerationDefaults::from_dir(dir.path()).expect("valid files"), expected);
    }

    #[test]
    fn token_ids_fall_back_to_the_config() {
        check(
            None,
            r#"{"eos_token_id": 2, "bos_token_id": 2, "pad_token_id": null}"#,
            GenerationDefaults {
                eos_token_ids: vec![2],
                bos_token_id: Some(2),
                ..GenerationDefaults::default()
            },
        );
    }

    #[test]
    fn generation_config_comes_first_and_may_list_end_tokens() {
        check(
            Some(
                r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 20,
                    "repetition_penalty": 1.05, "max_new_tokens": 256,
                    "eos_token_id": [9, 8, 9], "pad_token_id": 1}"#,
            ),
            r#"{"eos_token_id": 7, "bos_token_id": 3, "pad_token_id": 4}"#,
            GenerationDefaults {
                temperature: Some(0.6),
                top_p: Some(0.9),
                top_k: Some(20),
                repetition_penalty: Some(1.05),
                max_new_tokens: Some(256),
                eos_token_ids: vec![8, 9],
                bos_token_id: Some(3),
                pad_token_id: Some(1),
                ..GenerationDefaults::default()
            },
        );
    }

    #[test]
    fn a_wrong_type_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("generation_config.json"), r#"{"temperature": "hot"}"#)
            .expect("a file");
        let error = GenerationDefaults::from_dir(dir.path()).expect_err("no number");
        assert!(error.to_string().contains("'temperature' is \"hot\""), "{error}");
    }
}
