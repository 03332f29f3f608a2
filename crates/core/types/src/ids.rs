//! Names and ids as types, so that one cannot be taken for another.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a string is not a usable name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is not a usable name: use 1 to 128 letters, digits, '.', '_', '-' or '/', \
     starting with a letter or digit"
)]
pub struct IdError {
    /// The refused string.
    pub name: String,
}

/// The name of a deployment, unique in its node; at this stage also its application's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeploymentName(String);

impl DeploymentName {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`IdError`] when it is empty, too long, or holds characters that would need quoting in a
    /// path, a URL or a metric label.
    pub fn new(name: impl Into<String>) -> Result<Self, IdError> {
        let name = name.into();
        let first_ok = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
        let rest_ok = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
        if first_ok && rest_ok && name.len() <= 128 && !name.contains("..") {
            Ok(Self(name))
        } else {
            Err(IdError { name })
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DeploymentName {
    type Error = IdError;
    fn try_from(name: String) -> Result<Self, IdError> {
        Self::new(name)
    }
}

impl From<DeploymentName> for String {
    fn from(name: DeploymentName) -> Self {
        name.0
    }
}

impl fmt::Display for DeploymentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! opaque_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes the id as it is.
            pub fn new(id: impl Into<String>) -> Self {
                Self(id.into())
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

opaque_id! {
    /// One replica, for its whole life; never used again. Safe as a file name.
    ReplicaId
}
opaque_id! {
    /// One client request, the same on every hop.
    RequestId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_need_quoting_are_refused() {
        for good in ["demo", "facebook/opt-125m", "Qwen2.5-0.5B_x"] {
            assert_eq!(DeploymentName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "/a", "a b", "a..b", "é", "a\n", &"x".repeat(129)] {
            assert!(DeploymentName::new(bad).is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<DeploymentName>("\"a b\"").is_err());
    }
}
