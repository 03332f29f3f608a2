//! The small files beside a tokenizer: `tokenizer_config.json` and the legacy
//! `special_tokens_map.json` and `added_tokens.json`.
//!
//! The legacy files count only when `tokenizer_config.json` has no `added_tokens_decoder`, as in
//! transformers. A missing file is an empty one; a broken file is an error that names it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::TokenizerError;

/// The named special tokens that transformers knows, in its order.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What the small files say about a tokenizer.
#[derive(Debug, Default)]
pub(crate) struct TokenizerConfig {
    /// `bos_token`, `eos_token`, … and the model's own `*_token` keys.
    pub(crate) named: Vec<(String, AddedToken)>,
    /// Special tokens without a name.
    pub(crate) extra: Vec<AddedToken>,
    /// Added tokens by id, sorted.
    pub(crate) added: Vec<(u32, AddedToken)>,
    pub(crate) add_bos_token: Option<bool>,
    pub(crate) add_eos_token: Option<bool>,
    pub(crate) add_prefix_space: Option<bool>,
    pub(crate) do_lower_case: Option<bool>,
    pub(crate) strip_accents: Option<bool>,
    pub(crate) tokenize_chinese_chars: Option<bool>,
    pub(crate) tokenizer_class: Option<String>,
    pub(crate) model_max_length: Option<u64>,
    /// A string, or a list of named templates.
    pub(crate) chat_template: Option<Value>,
}

impl TokenizerConfig {
    /// Reads the files in `dir`.
    ///
    /// # Errors
    /// A file that exists and is unreadable or broken.
    pub(crate) fn load(dir: &Path) -> Result<Self, TokenizerError> {
        let path = dir.join("tokenizer_config.json");
        let mut keys = read_object(&path)?.unwrap_or_default();
        let mut added = Vec::new();
        if let Some(decoder) = keys.remove("added_tokens_decoder") {
            added = parse_decoder(&decoder).map_err(|reason| invalid(&path, reason))?;
        } else {
            let map_path = dir.join("special_tokens_map.json");
            for (name, value) in read_object(&map_path)?.unwrap_or_default() {
                keys.insert(name, value);
            }
            let added_path = dir.join("added_tokens.json");
            for (content, id) in read_object(&added_path)?.unwrap_or_default() {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let id =
                    id.ok_or_else(|| invalid(&added_path, format!("{content:?} has no id")))?;
                added.push((id, AddedToken::from(content, false)));
            }
        }
        added.sort_by_key(|(id, _)| *id);
        let mut config = Self::from_keys(keys).map_err(|reason| invalid(&path, reason))?;
        config.added = added;
        Ok(config)
    }

    fn from_keys(mut keys: Map<String, Value>) -> Result<Self, String> {
        let mut config = Self {
            add_bos_token: keys.get("add_bos_token").and_then(Value::as_bool),
            add_eos_token: keys.get("add_eos_token").and_then(Value::as_bool),
            add_prefix_space: keys.get("add_prefix_space").and_then(Value::as_bool),
            do_lower_case: keys.get("do_lower_case").and_then(Value::as_bool),
            strip_accents: keys.get("strip_accents").and_then(Value::as_bool),
            tokenize_chinese_chars: keys.get("tokenize_chinese_chars").and_then(Value::as_bool),
            tokenizer_class: keys.get("tokenizer_class").and_then(Value::as_str).map(str::to_owned),
            // "No limit" is written as a huge float or integer.
            model_max_length: keys
                .get("model_max_length")
                .and_then(Value::as_u64)
                .filter(|&n| n < 1 << 40),
            chat_template: keys.remove("chat_template").filter(|value| !value.is_null()),
            ..Self::default()
        };
        for name in NAMED {
            if let Some(value) = keys.remove(name).filter(|value| !value.is_null()) {
                config.named.push((name.to_owned(), special_token(name, &value)?));
            }
        }
        let extra = ["extra_special_tokens", "additional_special_tokens"];
        for (name, value) in &keys {
            let is_token = value.is_string() || value.is_object();
            if name.ends_with("_token") && is_token && !extra.contains(&name.as_str()) {
                config.named.push((name.clone(), special_token(name, value)?));
            }
        }
        match extra.iter().find_map(|name| keys.get(*name).filter(|value| !is_empty(value))) {
            Some(Value::Array(tokens)) => {
                for token in tokens {
                    config.extra.push(special_token("extra_special_tokens", token)?);
                }
            }
            Some(Value::Object(tokens)) => {
                for (name, token) in tokens {
                    config.named.push((name.clone(), special_token(name, token)?));
                }
            }
            Some(_) => {
                return Err("\"extra_special_tokens\" is neither a list nor an object".into());
            }
            None => {}
        }
        Ok(config)
    }

    /// The text of a named special token.
    pub(crate) fn named(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(key, _)| key == name).map(|(_, token)| token.content.as_str())
    }

    /// Fills in a named token that the files do not mention.
    pub(crate) fn set_default(&mut self, name: &str, content: &str) {
        if self.named(name).is_none() {
            self.named.push((name.to_owned(), AddedToken::from(content, true)));
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        _ => false,
    }
}

fn parse_decoder(decoder: &Value) -> Result<Vec<(u32, AddedToken)>, String> {
    let entries = decoder.as_object().ok_or("\"added_tokens_decoder\" is not an object")?;
    let parse = |(id, token): (&String, &Value)| {
        let number = id.parse().map_err(|_| format!("added token id {id:?} is not a number"))?;
        Ok((number, added_token(token).ok_or_else(|| format!("added token {id} has no content"))?))
    };
    entries.iter().map(parse).collect()
}

fn special_token(name: &str, value: &Value) -> Result<AddedToken, String> {
    let token = match value {
        Value::String(content) => Some(AddedToken::from(content.clone(), true)),
        value => added_token(value),
    };
    let mut token = token.ok_or_else(|| format!("{name:?} is neither a string nor a token"))?;
    token.special = true;
    Ok(token)
}

/// A token written as an object. Absent flags are false, but `normalized` of ordinary tokens.
fn added_token(value: &Value) -> Option<AddedToken> {
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(false);
    Some(AddedToken {
        content: value.get("content")?.as_str()?.to_owned(),
        single_word: flag("single_word").unwrap_or(false),
        lstrip: flag("lstrip").unwrap_or(false),
        rstrip: flag("rstrip").unwrap_or(false),
        normalized: flag("normalized").unwrap_or(!special),
        special,
    })
}

/// Reads a JSON object; absent when there is no such file.
pub(crate) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, TokenizerError> {
    let Some(text) = read_optional(path)? else { return Ok(None) };
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(invalid(path, "it is not a JSON object".to_owned())),
        Err(error) => Err(invalid(path, error.to_string())),
    }
}

/// Reads a text file; absent when there is no such file.
pub(crate) fn read_optional(path: &Path) -> Result<Option<String>, TokenizerError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Err(invalid(path, "it is not UTF-8".to_owned()))
        }
        Err(source) => Err(TokenizerError::Read { path: PathBuf::from(path), source }),
    }
}

/// An error that names the broken file.
pub(crate) fn invalid(path: &Path, reason: String) -> TokenizerError {
    TokenizerError::Invalid { path: PathBuf::from(path), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[(&str, &str)]) -> Result<TokenizerConfig, TokenizerError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        TokenizerConfig::load(dir.path())
    }

    #[test]
    fn tokens_are_strings_or_objects() {
        let config = load(&[(
            "tokenizer_config.json",
            r#"{"bos_token":{"__type":"AddedToken","content":"<s>","lstrip":true,"normalized":true},
                "eos_token":"</s>","pad_token":null,"image_token":"<img>","add_bos_token":true,
                "model_max_length":1000000000000000019884624838656,
                "additional_special_tokens":["<a>",{"content":"<b>"}]}"#,
        )]);
        let config = config.unwrap();
        let names: Vec<_> =
            config.named.iter().map(|(n, t)| (n.as_str(), t.content.as_str())).collect();
        assert_eq!(names, [("bos_token", "<s>"), ("eos_token", "</s>"), ("image_token", "<img>")]);
        let bos = &config.named[0].1;
        assert!(bos.special && bos.lstrip && bos.normalized);
        assert!(!config.named[1].1.normalized);
        assert_eq!(config.extra.len(), 2);
        assert_eq!(config.add_bos_token, Some(true));
        assert_eq!(config.model_max_length, None);
    }

    #[test]
    fn legacy_files_count_only_without_a_decoder() {
        let map = ("special_tokens_map.json", r#"{"eos_token":"<map>"}"#);
        let added = ("added_tokens.json", r#"{"<x>":7}"#);
        let old =
            load(&[("tokenizer_config.json", r#"{"eos_token":"<cfg>"}"#), map, added]).unwrap();
        assert_eq!(old.named("eos_token"), Some("<map>"));
        assert_eq!(old.added[0].0, 7);
        let new = r#"{"eos_token":"<cfg>","added_tokens_decoder":{"9":{"content":"<y>","special":true}}}"#;
        let new = load(&[("tokenizer_config.json", new), map, added]).unwrap();
        assert_eq!(new.named("eos_token"), Some("<cfg>"));
        assert_eq!(new.added.len(), 1);
        assert_eq!((new.added[0].0, new.added[0].1.normalized), (9, false));
    }

    #[test]
    fn broken_files_are_named() {
        let check = |name: &str, text: &str, reason: &str| {
            let message = load(&[(name, text)]).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains(reason), "{message}");
        };
        check("tokenizer_config.json", "{\"a\":", "EOF");
        check("tokenizer_config.json", "[]", "not a JSON object");
        check("tokenizer_config.json", r#"{"eos_token":3}"#, "eos_token");
        check(
            "tokenizer_config.json",
            r#"{"added_tokens_decoder":{"x":{"content":"a"}}}"#,
            "\"x\"",
        );
        check("added_tokens.json", r#"{"<x>":"7"}"#, "<x>");
    }
}
