//! Dependencies point inward: core ← mechanism ← assembly.

use crate::metadata::{self, Metadata};
use anyhow::{Result, bail};
use std::path::Path;

/// Outside crates by which a core crate would reach a socket, a file, a thread or a clock.
const BANNED_IN_CORE: &[&str] =
    &["tokio", "hyper", "hyper-util", "rustix", "memmap2", "rusqlite", "ureq", "tracing"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ring {
    Core,
    Mechanism,
    Assembly,
}

fn ring(path: &Path) -> Option<Ring> {
    let mut parts = path.components().rev().map(|part| part.as_os_str().to_string_lossy());
    parts.find_map(|part| match part.as_ref() {
        "core" => Some(Ring::Core),
        "mechanism" => Some(Ring::Mechanism),
        "assembly" => Some(Ring::Assembly),
        _ => None,
    })
}

/// Checks the workspace.
pub(crate) fn check() -> Result<()> {
    let problems = problems(&metadata::load(&["--no-deps"])?);
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n")) }
}

fn problems(metadata: &Metadata) -> Vec<String> {
    let mut problems = Vec::new();
    for package in &metadata.packages {
        let Some(own) = ring(&package.manifest_path) else {
            problems.push(format!("{} lies in none of the three rings", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            // Tests may reach outward: an end-to-end test starts the binary.
            if dependency.kind.as_deref() == Some("dev") {
                continue;
            }
            let outward =
                dependency.path.as_deref().and_then(ring).is_some_and(|other| other > own);
            let banned = own == Ring::Core && BANNED_IN_CORE.contains(&dependency.name.as_str());
            if outward || banned {
                problems.push(format!(
                    "{} ({own:?}) must not depend on {}: dependencies point inward",
                    package.name, dependency.name
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Dependency, Package};

    fn package(name: &str, ring: &str, dependency: (&str, Option<&str>)) -> Package {
        Package {
            name: name.into(),
            version: "0.1.0".into(),
            license: None,
            manifest_path: format!("/r/crates/{ring}/{name}/Cargo.toml").into(),
            dependencies: vec![Dependency {
                name: dependency.0.into(),
                kind: None,
                path: dependency.1.map(|ring| format!("/r/crates/{ring}/{}", dependency.0).into()),
            }],
        }
    }

    #[test]
    fn outward_dependencies_are_found() {
        let check = |package, expected: usize| {
            assert_eq!(problems(&Metadata { packages: vec![package] }).len(), expected);
        };
        check(package("a", "core", ("b", Some("core"))), 0);
        check(package("a", "core", ("b", Some("mechanism"))), 1);
        check(package("a", "mechanism", ("b", Some("core"))), 0);
        check(package("a", "mechanism", ("b", Some("assembly"))), 1);
        check(package("a", "assembly", ("b", Some("mechanism"))), 0);
        check(package("a", "core", ("serde", None)), 0);
        check(package("a", "core", ("tokio", None)), 1);
        check(package("a", "elsewhere", ("serde", None)), 1);
    }

    #[test]
    fn the_workspace_holds_the_rings() {
        check().unwrap();
    }
}
