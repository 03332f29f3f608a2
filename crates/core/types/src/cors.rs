//! Which pages of other origins may use a server from a browser.

use serde::{Deserialize, Serialize};

/// Everything, or what is on a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allowed {
    /// Whatever is asked for.
    Any,
    /// These, in their usual spelling.
    Only(Vec<String>),
}

impl Allowed {
    /// Whether it is on the list.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(names) => names.iter().any(|allowed| allowed == name),
        }
    }
}

/// What browsers are told where a page of another origin uses the routes of models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorsConfig {
    /// As browsers spell them: scheme, host, and a port that is not the scheme's own.
    pub origins: Allowed,
    /// In upper case.
    pub methods: Allowed,
    /// In lower case.
    pub headers: Allowed,
    /// Requests may carry cookies and logins; excludes [`Allowed::Any`] origin.
    pub credentials: bool,
    /// Seconds that a browser may keep the answer of a preflight.
    pub max_age_s: u32,
}
