//! Tokens that a request used, as replicas tell proxies.

use std::fmt;
use std::str::FromStr;

/// Header and trailer by which a model's replica tells what a request used. It never reaches a
/// client. Its value is a [`TokenUsage`] as text.
///
/// A request with it, whatever the value, wants it told in a stream too: see [`USAGE_NOTE`].
pub const HEADER_USAGE: &str = "x-tyndall-usage";

/// Begins the line before an event of a stream that tells how many tokens of completions there
/// were up to and with this event, such as `: usage 45`. To a reader of events it is a comment; the
/// proxy takes it out.
pub const USAGE_NOTE: &str = ": usage ";

/// Tokens of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenUsage {
    /// Of its prompts.
    pub prompt: u64,
    /// Of those, the ones that were found in the prefix cache.
    pub cached: u64,
    /// Of its completions.
    pub completion: u64,
}

impl TokenUsage {
    /// Prompts and completions.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }
}

impl fmt::Display for TokenUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prompt, cached, completion } = self;
        write!(f, "prompt={prompt}, cached={cached}, completion={completion}")
    }
}

/// A text that is no [`TokenUsage`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no usage such as prompt=12, cached=3, completion=45")]
pub struct TokenUsageError(pub String);

impl FromStr for TokenUsage {
    type Err = TokenUsageError;

    /// Counts that are not named are none.
    fn from_str(text: &str) -> Result<Self, TokenUsageError> {
        let error = || TokenUsageError(text.to_owned());
        let mut usage = Self::default();
        for part in text.split(',') {
            let (name, count) = part.trim().split_once('=').ok_or_else(error)?;
            let count = count.parse().map_err(|_| error())?;
            match name {
                "prompt" => usage.prompt = count,
                "cached" => usage.cached = count,
                "completion" => usage.completion = count,
                _ => return Err(error()),
            }
        }
        Ok(usage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_comes_back_from_its_text() {
        let usage = TokenUsage { prompt: 12, cached: 3, completion: 45 };
        assert_eq!(usage.to_string(), "prompt=12, cached=3, completion=45");
        assert_eq!(usage.to_string().parse(), Ok(usage));
        assert_eq!("prompt=7".parse(), Ok(TokenUsage { prompt: 7, ..TokenUsage::default() }));
        for bad in ["", "prompt", "prompt=-1", "prompt=1;cached=2", "tokens=1"] {
            assert!(bad.parse::<TokenUsage>().is_err(), "{bad}");
        }
    }
}
