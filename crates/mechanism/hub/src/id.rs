//! Model ids and revisions that are safe as parts of a path and of a URL.

use crate::error::HubError;
use std::fmt;

/// A Hugging Face model id: `name` or `organisation/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelId(String);

impl ModelId {
    /// Checks and takes an id by the hub's own rules.
    ///
    /// # Errors
    /// [`HubError::BadTarget`] for everything that the hub could not hold, and with it everything
    /// that could leave the cache directory.
    pub fn new(id: &str) -> Result<Self, HubError> {
        match problem(id) {
            None => Ok(Self(id.to_owned())),
            Some(reason) => Err(HubError::BadTarget { target: id.to_owned(), reason }),
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The repository's directory in the cache.
    pub(crate) fn folder(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn problem(id: &str) -> Option<&'static str> {
    let parts: Vec<&str> = id.split('/').collect();
    if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
        return Some("an id is `name` or `organisation/name`");
    }
    if id.len() > 193 || parts.iter().any(|part| part.len() > 96) {
        return Some("it is too long");
    }
    if !id.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c)) {
        return Some("an id has only letters, digits, '.', '_' and '-'");
    }
    if parts.iter().any(|part| part.starts_with(['.', '-']) || part.ends_with(['.', '-'])) {
        return Some("a name may not start or end with '.' or '-'");
    }
    if id.contains("..") || id.contains("--") {
        return Some("a name may not contain '..' or '--'");
    }
    None
}

/// A branch, tag or commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision(String);

impl Revision {
    /// Checks and takes a revision.
    ///
    /// # Errors
    /// [`HubError::BadRevision`] when it is no safe relative path.
    pub fn new(revision: &str) -> Result<Self, HubError> {
        let good = revision.len() <= 128
            && revision.chars().all(|c| c.is_ascii_alphanumeric() || "._-/+".contains(c))
            && revision.split('/').all(|part| !part.is_empty() && !part.starts_with(['.', '-']))
            && !revision.contains("..");
        if good {
            Ok(Self(revision.to_owned()))
        } else {
            Err(HubError::BadRevision { revision: revision.to_owned() })
        }
    }

    /// The main branch.
    #[must_use]
    pub fn main() -> Self {
        Self("main".to_owned())
    }

    /// The revision as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn url_part(&self) -> String {
        self.0.replace('/', "%2F").replace('+', "%2B")
    }

    pub(crate) fn is_commit(&self) -> bool {
        is_commit(&self.0)
    }
}

/// A commit's full hash.
pub(crate) fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}

/// Lower-case hexadecimal of this length.
pub(crate) fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_leave_the_cache() {
        for good in ["gpt2", "facebook/opt-125m", "Qwen/Qwen2.5-0.5B_x", "a/b.c"] {
            assert_eq!(ModelId::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "", "/", "a/", "/a", "../x", "a/..", "a/../b", "a/b/c", "a b", "a--b", "~", ".x",
            "a\\b",
        ] {
            assert!(ModelId::new(bad).is_err(), "{bad:?}");
        }
        assert!(ModelId::new(&"x".repeat(97)).is_err());
        assert_eq!(ModelId::new("a/b").unwrap().folder(), "models--a--b");
    }

    #[test]
    fn revisions_cannot_leave_the_cache() {
        for good in ["main", "v1.0", "refs/pr/3", &"a".repeat(40)] {
            assert_eq!(Revision::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "/x", "x/", "..", "a/../b", "-x", "a b", "a//b", ".git"] {
            assert!(Revision::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Revision::new("refs/pr/3").unwrap().url_part(), "refs%2Fpr%2F3");
        assert!(Revision::new(&"0".repeat(40)).unwrap().is_commit());
    }
}
