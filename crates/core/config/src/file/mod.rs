//! Ray Serve's config file, multi-application, as YAML or JSON.
//!
//! [`FIELDS`](fields) are tables: each field with its kind, its default, what becomes of it and what
//! it is. From them come the check ([`check`]), the effective values ([`effective`]), the JSON
//! schema ([`schema`]) and the table in the docs ([`table`]), so that these cannot disagree. What
//! involves more than one field is in `rules`.
//!
//! A check finds everything that is wrong, not the first; each [`Problem`] says where, what, and
//! what to write instead.
//!
//! Source: ray 2.60.0 `python/ray/serve/schema.py`, `config.py`; of LLM applications
//! `python/ray/llm/_internal/serve/configs/server_models.py`.

mod check;
mod effective;
mod fields;
mod kind;
mod node;
mod problem;
mod rules;
mod scalar;
mod schema;

pub use problem::{Problem, Severity};
pub use schema::{schema, table};

use node::Node;

/// A file whose syntax is right; whether its contents are, [`ConfigFile::problems`] says.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    root: Node,
    problems: Vec<Problem>,
}

/// A value that holds, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveValue {
    /// Such as `applications[0].deployments[1].num_replicas`.
    pub path: String,
    /// As JSON.
    pub value: String,
    /// The line that says so; absent is the default.
    pub line: Option<usize>,
}

impl ConfigFile {
    /// Reads and checks a file's text.
    ///
    /// # Errors
    /// A [`Problem`] where the text is no YAML or JSON at all.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let root = node::parse(text)?;
        let mut problems = Vec::new();
        check::object(&fields::SERVE, &root, "", &mut problems);
        rules::check(&root, &mut problems);
        problems.sort_by_key(|problem| (problem.line, problem.column));
        Ok(Self { root, problems })
    }

    /// All that is wrong, or ignored, in the order of the file.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether there is no error among the problems.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.problems.iter().all(|problem| problem.severity != Severity::Error)
    }

    /// Every value that holds, those of the file and the defaults, in the order of the tables.
    #[must_use]
    pub fn effective(&self) -> Vec<EffectiveValue> {
        effective::values(&fields::SERVE, &self.root)
    }

    /// How many applications, and how many deployments they name.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let applications = self.root.get("applications").map_or(&[][..], Node::items);
        let named = |app: &Node| app.get("deployments").map_or(0, |list| list.items().len());
        (applications.len(), applications.iter().map(named).sum())
    }
}

#[cfg(test)]
mod tests;
