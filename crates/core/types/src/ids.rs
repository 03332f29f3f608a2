//! Names and ids as types, so that one cannot be taken for another. Copies share their text: a
//! deployment's id stands in a dozen indexes.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Why a string is not a usable name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is not a usable name: use 1 to 128 letters, digits, '.', '_', '-', ':' or '/', \
     starting with a letter or digit"
)]
pub struct IdError {
    /// The refused string.
    pub name: String,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// [`IdError`] when it is empty, too long, or holds characters that would need quoting
            /// in a path, a URL or a metric label.
            pub fn new(name: impl AsRef<str>) -> Result<Self, IdError> {
                let name = name.as_ref();
                match is_usable(name) {
                    true => Ok(Self(name.into())),
                    false => Err(IdError { name: name.to_owned() }),
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(name: String) -> Result<Self, IdError> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn is_usable(name: &str) -> bool {
    let first_ok = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    let rest_ok = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:".contains(c));
    first_ok && rest_ok && name.len() <= 128 && !name.contains("..")
}

name! {
    /// The name of an application, unique in its node.
    ApplicationName
}
name! {
    /// The name of a deployment, unique in its application.
    DeploymentName
}

/// A deployment of an application.
///
/// As text it is `application#deployment`, and the one name where both are the same, as with
/// `tyndall run`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeploymentId {
    /// Whose.
    pub application: ApplicationName,
    /// Which of it.
    pub deployment: DeploymentName,
}

impl DeploymentId {
    /// The only deployment of an application of the same name.
    #[must_use]
    pub fn single(name: DeploymentName) -> Self {
        Self { application: ApplicationName(name.0.clone()), deployment: name }
    }
}

impl TryFrom<String> for DeploymentId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        match text.split_once('#') {
            Some((application, deployment)) => Ok(Self {
                application: ApplicationName::new(application)?,
                deployment: DeploymentName::new(deployment)?,
            }),
            None => Ok(Self::single(DeploymentName::new(text)?)),
        }
    }
}

impl From<DeploymentId> for String {
    fn from(id: DeploymentId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { application, deployment } = self;
        if application.as_str() == deployment.as_str() {
            f.write_str(deployment.as_str())
        } else {
            write!(f, "{application}#{deployment}")
        }
    }
}

macro_rules! opaque_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the id as it is.
            pub fn new(id: impl Into<Arc<str>>) -> Self {
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

    #[test]
    fn ids_of_deployments_are_read_as_they_are_written() {
        for text in ["demo", "app#LLMServer:org--m", "facebook/opt-125m"] {
            let id = DeploymentId::try_from(text.to_owned()).unwrap();
            assert_eq!(id.to_string(), text);
        }
        let same = DeploymentId::try_from("a#a".to_owned()).unwrap();
        assert_eq!(same, DeploymentId::single(DeploymentName::new("a").unwrap()));
        for bad in ["#a", "a#", "a#b#c", ""] {
            assert!(DeploymentId::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
