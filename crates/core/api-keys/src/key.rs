//! Keys and their holders.

use sha2::{Digest as _, Sha256};
use std::fmt;
use std::sync::Arc;
use subtle::{ConditionallySelectable, ConstantTimeEq};

/// Begins every key that is made here, so that scanners for leaked secrets know what they see.
const PREFIX: &str = "sk-tyndall-";
const MAX_NAME_LEN: usize = 64;
/// Begins the names of keys that come without a file.
const UNNAMED: &str = "api-key-";

/// What a key is called in metrics, reports and logs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyName(Arc<str>);

/// A name that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name of a key; use 1 to 64 letters, digits, '.', '_' or '-', a letter or digit \
     first, and not api-key- at the beginning, which keys without a file have"
)]
pub struct KeyNameError(pub String);

impl KeyName {
    /// A name that an operator chose.
    ///
    /// # Errors
    /// [`KeyNameError`] says what is accepted.
    pub fn new(name: &str) -> Result<Self, KeyNameError> {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_name = (1..=MAX_NAME_LEN).contains(&name.len())
            && name.bytes().all(inner)
            && name.as_bytes()[0].is_ascii_alphanumeric()
            && !name.starts_with(UNNAMED);
        if is_name { Ok(Self(name.into())) } else { Err(KeyNameError(name.to_owned())) }
    }

    /// The name of the `n`th key that came without one.
    #[must_use]
    pub fn unnamed(n: usize) -> Self {
        Self(format!("{UNNAMED}{n}").into())
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As text that can be kept.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// SHA-256 of a key, which is all that is kept of it.
///
/// A plain, fast hash is enough: keys are 256 random bits and no passwords, so there is nothing to
/// guess, and a slow hash would only slow down every request.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of a key as clients send it.
    #[must_use]
    pub fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// From 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(hex: &str) -> Option<Self> {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let mut digest = [0; 32];
        if hex.len() != 64 {
            return None;
        }
        for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(digest))
    }

    /// As 64 hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }
}

impl fmt::Debug for Digest {
    /// Leaves it out: who chose a weak key is not to find it in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(..)")
    }
}

/// A new key of so many random bytes.
#[must_use]
pub fn fresh_secret(random: &[u8; 32]) -> String {
    format!("{PREFIX}{}", hex(random))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Models by their public id: one, or all that begin so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelPattern {
    /// This one.
    Exact(String),
    /// Those that begin with it.
    Prefix(String),
}

impl ModelPattern {
    /// A model's id, or the beginning of ids and `*`. None when it is neither.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let (stem, is_prefix) = match text.strip_suffix('*') {
            Some(stem) => (stem, true),
            None => (text, false),
        };
        match (is_prefix, stem) {
            (_, stem) if stem.contains('*') => None,
            (true, stem) => Some(Self::Prefix(stem.to_owned())),
            (false, "") => None,
            (false, stem) => Some(Self::Exact(stem.to_owned())),
        }
    }

    /// Whether this model is one of them.
    #[must_use]
    pub fn matches(&self, model: &str) -> bool {
        match self {
            Self::Exact(id) => id == model,
            Self::Prefix(prefix) => model.starts_with(prefix.as_str()),
        }
    }
}

/// How much a key may use; what is absent has no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Requests that are taken in a minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens of prompts and completions in a minute.
    pub tokens_per_minute: Option<u64>,
    /// Requests at a time, each until its last byte.
    pub max_concurrent: Option<u32>,
}

/// One key and what its holder may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// What it is called.
    pub name: KeyName,
    /// What is kept of the secret.
    pub digest: Digest,
    /// Models that it may use; absent is all.
    pub models: Option<Vec<ModelPattern>>,
    /// How much it may use.
    pub limits: Limits,
    /// Its share where requests wait, beside those of other keys; from 1 on.
    pub weight: u32,
}

impl Key {
    /// A key that may do everything.
    #[must_use]
    pub fn unlimited(name: KeyName, secret: &str) -> Self {
        let digest = Digest::of(secret.as_bytes());
        Self { name, digest, models: None, limits: Limits::default(), weight: 1 }
    }

    /// Whether it may use this model.
    #[must_use]
    pub fn may_use(&self, model: &str) -> bool {
        let patterns = self.models.as_ref();
        patterns.is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(model)))
    }
}

/// All keys that let in.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    keys: Vec<Key>,
}

impl Keyring {
    /// Of these; the first of several with one secret counts.
    #[must_use]
    pub fn new(keys: Vec<Key>) -> Self {
        Self { keys }
    }

    /// All of them, in their order.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Where the key stands that a client sent. Every key is looked at to its end, so that the time
    /// it takes says neither which one was nearly right nor whether any was.
    #[must_use]
    pub fn find(&self, secret: &[u8]) -> Option<usize> {
        let digest = Digest::of(secret);
        let mut found = u64::MAX;
        for (place, key) in self.keys.iter().enumerate().rev() {
            let is_it = key.digest.0.ct_eq(&digest.0);
            found.conditional_assign(&(place as u64), is_it);
        }
        usize::try_from(found).ok().filter(|place| *place < self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_leads_to_its_key_and_no_other_to_any() {
        let key = |name: &str, secret| Key::unlimited(KeyName::new(name).unwrap(), secret);
        let ring = Keyring::new(vec![key("a", "one"), key("b", "two"), key("c", "two")]);
        let check = |secret: &str, expected| assert_eq!(ring.find(secret.as_bytes()), expected);
        check("one", Some(0));
        check("two", Some(1));
        for wrong in ["", "on", "onee", "One", "one "] {
            check(wrong, None);
        }
        assert_eq!(Keyring::default().find(b""), None);
        assert!(!format!("{ring:?}").contains(&Digest::of(b"one").to_hex()[..8]));
    }

    #[test]
    fn digests_are_those_of_sha256() {
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of(b"abc").to_hex(), hex);
        assert_eq!(Digest::from_hex(&hex.to_uppercase()), Some(Digest::of(b"abc")));
        for bad in ["", "zz", &hex[..63], &format!("{hex}0"), &hex.replace('b', "g")] {
            assert_eq!(Digest::from_hex(bad), None, "{bad}");
        }
        let fresh = fresh_secret(&[0xab; 32]);
        assert_eq!(fresh, format!("sk-tyndall-{}", "ab".repeat(32)));
    }

    #[test]
    fn patterns_are_ids_or_their_beginnings() {
        let check = |pattern: &str, model: &str, expected: bool| {
            assert_eq!(ModelPattern::new(pattern).unwrap().matches(model), expected, "{pattern}");
        };
        check("a", "a", true);
        check("a", "ab", false);
        check("org/*", "org/m", true);
        check("org/*", "other/m", false);
        check("*", "anything", true);
        for bad in ["", "a*b", "**", "*a"] {
            assert_eq!(ModelPattern::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_can_stand_anywhere() {
        for good in ["a", "team-1", "A.b_c", &"x".repeat(64)] {
            assert_eq!(KeyName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a b", "é", "a\"", &"x".repeat(65), "api-key-1"] {
            assert!(KeyName::new(bad).is_err(), "{bad}");
        }
        assert_eq!(KeyName::unnamed(2).as_str(), "api-key-2");
    }
}
