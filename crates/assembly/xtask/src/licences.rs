//! Every dependency's licence is on the list of `deny.toml`.

use crate::metadata;
use anyhow::{Context, Result, bail};
use serde::Deserialize;

#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

/// Checks all packages of the lock file.
pub(crate) fn check() -> Result<()> {
    let text = std::fs::read_to_string(metadata::root().join("deny.toml"))?;
    let allow = toml::from_str::<Deny>(&text).context("deny.toml is not usable")?.licenses.allow;
    let mut problems = Vec::new();
    for package in metadata::load(&[])?.packages {
        let licence = package.license.as_deref().unwrap_or("none given");
        if !allowed(licence, &allow) {
            problems.push(format!("{} {}: {licence}", package.name, package.version));
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        bail!("licences that deny.toml does not allow:\n{}", problems.join("\n"))
    }
}

/// An SPDX expression of ORs of ANDs, with parentheses around alternatives only.
fn allowed(expression: &str, allow: &[String]) -> bool {
    let plain = expression.replace('/', " OR ").replace(['(', ')'], "");
    if expression.contains(") AND") || expression.contains("AND (") {
        return expression.split(" AND ").all(|part| allowed(part.trim_matches(['(', ')']), allow));
    }
    plain.split(" OR ").any(|choice| {
        choice.split(" AND ").all(|name| allow.iter().any(|allowed| allowed == name.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read() {
        let allow = ["MIT", "Apache-2.0", "Unicode-3.0"].map(String::from);
        let check = |expression, expected| assert_eq!(allowed(expression, &allow), expected);
        check("MIT", true);
        check("MIT OR GPL-3.0", true);
        check("MIT/Apache-2.0", true);
        check("GPL-3.0", false);
        check("MIT AND GPL-3.0", false);
        check("(MIT OR GPL-3.0) AND Unicode-3.0", true);
        check("(MIT OR Apache-2.0) AND GPL-3.0", false);
        check("none given", false);
    }

    #[test]
    fn the_lock_file_is_allowed() {
        check().unwrap();
    }
}
