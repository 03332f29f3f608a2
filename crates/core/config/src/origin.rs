//! Where values come from, and the reader that knows the precedence.

use crate::error::ConfigError;
use crate::settings::{Setting, setting};
use std::collections::BTreeMap;
use std::fmt;

/// Stands for a secret.
const HIDDEN: &str = "***";

/// The process's environment, handed in as a value.
pub type Environment = BTreeMap<String, String>;

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This flag.
    Flag(&'static str),
    /// This environment variable.
    Environment(&'static str),
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag(name) | Self::Environment(name) => name,
            Self::Default => "default",
        })
    }
}

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub origin: Origin,
}

/// One line of the effective configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The setting's key.
    pub key: &'static str,
    /// As text; empty is off.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Values as typed on the command line: every setting optional, unknown ones refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawSettings(BTreeMap<&'static str, String>);

impl RawSettings {
    /// Notes the text of a flag.
    ///
    /// # Errors
    /// [`ConfigError::UnknownSetting`] for a key that is in no row of the table.
    pub fn set(&mut self, key: &str, value: impl Into<String>) -> Result<(), ConfigError> {
        let row =
            setting(key).ok_or_else(|| ConfigError::UnknownSetting { key: key.to_owned() })?;
        self.0.insert(row.key, value.into());
        Ok(())
    }

    /// The flags that say the same, for another process.
    #[must_use]
    pub fn as_flags(&self) -> Vec<String> {
        let flags = self.0.iter().filter_map(|(key, value)| Some((setting(key)?, value)));
        flags
            .flat_map(|(row, value)| match row.is_switch() {
                true => vec![row.flag.to_owned()],
                false => vec![row.flag.to_owned(), value.clone()],
            })
            .collect()
    }

    /// Takes the text of a flag out, when it was given.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    /// The text of a flag, when it was given.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

/// Finds values by precedence and keeps the list of what was found.
pub(crate) struct Reader<'a> {
    raw: &'a RawSettings,
    env: &'a Environment,
    pub(crate) effective: Vec<Effective>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(raw: &'a RawSettings, env: &'a Environment) -> Self {
        Self { raw, env, effective: Vec::new() }
    }

    /// The value of a setting that always has one.
    pub(crate) fn read<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Sourced<T>, ConfigError> {
        let row = setting(key).expect("keys in this crate are in the table");
        let (text, origin) = self.find(row);
        let parsed = parse(&text).map_err(|accepted| ConfigError::BadValue {
            from: from(row, origin),
            value: text.clone(),
            accepted,
        })?;
        self.effective.push(Effective { key: row.key, value: text, origin });
        Ok(Sourced { value: parsed, origin })
    }

    /// The value of a setting that nobody is to see: neither the list nor an error has it.
    pub(crate) fn read_secret<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let row = setting(key).expect("keys in this crate are in the table");
        let (text, origin) = self.find(row);
        let value = if text.is_empty() { String::new() } else { HIDDEN.to_owned() };
        let parsed = parse(&text).map_err(|accepted| ConfigError::BadValue {
            from: from(row, origin),
            value: value.clone(),
            accepted,
        })?;
        self.effective.push(Effective { key: row.key, value, origin });
        Ok(parsed)
    }

    /// The value of a setting that may be off.
    pub(crate) fn read_optional<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let some = |text: &str| if text.is_empty() { Ok(None) } else { parse(text).map(Some) };
        Ok(self.read(key, some)?.value)
    }

    /// An empty variable counts as unset, as shells and compose files write it.
    fn find(&self, row: &Setting) -> (String, Origin) {
        if let Some(text) = self.raw.get(row.key) {
            return (text.to_owned(), Origin::Flag(row.flag));
        }
        for name in [Some(row.env), row.seed_env].into_iter().flatten() {
            if let Some(text) = self.env.get(name).filter(|text| !text.trim().is_empty()) {
                return (text.trim().to_owned(), Origin::Environment(name));
            }
        }
        (row.default.to_owned(), Origin::Default)
    }
}

/// What an error calls the source: a default is called by its flag.
pub(crate) fn from(row: &'static Setting, origin: Origin) -> &'static str {
    match origin {
        Origin::Flag(name) | Origin::Environment(name) => name,
        Origin::Default => row.flag,
    }
}
