//! Ray Serve's config file, multi-application, as YAML or JSON.
//!
//! `fields` are tables: each field with its kind, its default, what becomes of it and what it is.
//! From them come the check (`check`), the effective values (`effective`), the JSON schema
//! ([`schema()`]) and the table in the docs ([`table`]), so that these cannot disagree. What
//! involves more than one field is in `rules`.
//!
//! From a file without errors come values in types ([`ConfigFile::typed`]), and from these what the
//! controller is asked to run ([`ModelSpec::to_deployment`], [`DeploymentOptions::to_deployment`]).
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
mod models;
mod node;
mod problem;
mod rules;
mod scalar;
mod schema;
mod typed;

pub(crate) use kind::is_import_path;
pub use problem::{Problem, Severity};
pub use schema::{schema, table};
pub use typed::{
    ActorOptions, ApplicationKind, ApplicationSpec, AutoscalingOption, AutoscalingOptions,
    CodePaths, DeploymentOptions, DeploymentOverride, DescribedError, DescribedProgram,
    EngineOptions, GrpcOptions, HttpOptions, Launch, LoggingOptions, ModelSpec, OwnOptions,
    PythonCode, ReplicaCount, RouterOption, ServeConfig, WarmOptions, code_version, is_archive,
    sort_as_described,
};

use node::Node;

/// A file whose syntax is right; whether its contents are, [`ConfigFile::problems`] says.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    root: Node,
    problems: Vec<Problem>,
}

/// What a text of YAML or JSON says, as JSON.
///
/// # Errors
/// A [`Problem`] where it is neither.
pub fn value(text: &str) -> Result<serde_json::Value, Problem> {
    Ok(node::parse(text, None)?.to_json())
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
    /// Reads and checks a file's text. Files of models that it names are not looked at.
    ///
    /// # Errors
    /// A [`Problem`] where the text is no YAML or JSON at all.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        Ok(Self::checked(node::parse(text, None)?, Vec::new()))
    }

    /// Reads and checks a file's text, and the files of models that it names: `read` has the text
    /// of a path that stands in `llm_configs`, or says in words why not.
    ///
    /// # Errors
    /// As [`ConfigFile::parse`].
    pub fn parse_with(
        text: &str,
        read: &mut dyn FnMut(&str) -> Result<String, String>,
    ) -> Result<Self, Problem> {
        let mut root = node::parse(text, None)?;
        let mut problems = Vec::new();
        models::include(&mut root, read, &mut problems);
        Ok(Self::checked(root, problems))
    }

    fn checked(root: Node, mut problems: Vec<Problem>) -> Self {
        check::object(&fields::SERVE, &root, "", &mut problems);
        rules::check(&root, &mut problems);
        problems.sort_by_key(|problem| (problem.file.clone(), problem.line, problem.column));
        Self { root, problems }
    }

    /// What the file says, in types.
    ///
    /// # Errors
    /// The first error of [`ConfigFile::problems`]; also a file of a model that was not read,
    /// because [`ConfigFile::parse`] reads none.
    pub fn typed(&self) -> Result<ServeConfig, Problem> {
        let error = self.problems.iter().find(|problem| problem.severity == Severity::Error);
        error.map_or_else(|| typed::serve_config(&self.root), |error| Err(error.clone()))
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
