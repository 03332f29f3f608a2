//! The repository's own rules, as a ratchet: `ratchet.toml` lists exceptions that may only shrink.

use crate::metadata;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const MAX_PRODUCT_LINES: usize = 600;
const MAX_ARCHITECTURE_LINES: usize = 250;
const MAX_FILE_BYTES: u64 = 6 << 20;

/// Marks that something was left undone, spelled so that this file does not contain them.
const UNDONE: &[&str] = &[
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("dbg", "!("),
    concat!("#[", "ignore"),
    concat!("#[", "allow("),
    concat!("pytest.mark.", "skip"),
    concat!("pytest.mark.", "xfail"),
];

/// What a core crate must not reach for.
const OUTSIDE: &[&str] = &[
    "std::net",
    "std::fs",
    "std::thread",
    "std::process",
    "std::env",
    "Instant::now",
    "SystemTime::now",
];

#[derive(Deserialize)]
struct Ratchet {
    /// Product lines of files over the ceiling, each with its reason beside it.
    lines: BTreeMap<PathBuf, usize>,
}

/// Checks every file of the repository.
pub(crate) fn check() -> Result<()> {
    let root = metadata::root();
    let ratchet = std::fs::read_to_string(root.join("crates/assembly/xtask/ratchet.toml"))?;
    let ratchet: Ratchet = toml::from_str(&ratchet).context("ratchet.toml is not usable")?;
    let mut problems = Vec::new();
    for path in metadata::files()? {
        if std::fs::metadata(root.join(&path))?.len() > MAX_FILE_BYTES {
            problems.push(format!("{}: larger than {MAX_FILE_BYTES} bytes", path.display()));
        }
        let checked = path.extension().is_some_and(|e| e == "rs" || e == "py");
        if checked && !path.components().any(|part| part.as_os_str() == "fixtures") {
            let text = std::fs::read_to_string(root.join(&path))?;
            source(&path, &text, &ratchet, &mut problems);
        }
    }
    architecture(root, &mut problems)?;
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n")) }
}

fn source(path: &Path, text: &str, ratchet: &Ratchet, problems: &mut Vec<String>) {
    let at = |line: usize, what: &str| format!("{}:{}: {what}", path.display(), line + 1);
    for (number, line) in text.lines().enumerate() {
        if line.contains('\t') || line.ends_with(' ') {
            problems.push(at(number, "tab or trailing space"));
        }
        if let Some(mark) = UNDONE.iter().find(|mark| line.contains(**mark)) {
            problems.push(at(number, &format!("{mark} is not for committed code")));
        }
    }
    if path.extension().is_some_and(|e| e == "py") {
        return;
    }
    let product: Vec<&str> = product_lines(path, text).collect();
    if path.starts_with("crates/core") {
        for (number, line) in product.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if let Some(reach) = OUTSIDE.iter().find(|reach| code.contains(**reach)) {
                problems.push(at(number, &format!("a core crate must not reach for {reach}")));
            }
        }
    }
    let ceiling = ratchet.lines.get(path).copied().unwrap_or(MAX_PRODUCT_LINES);
    if product.len() > ceiling {
        problems.push(at(ceiling, &format!("{} product lines, {ceiling} allowed", product.len())));
    }
    let is_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
    let is_kernels = path.starts_with("crates/mechanism/kernels");
    if is_root && !is_kernels && !text.contains("#![forbid(unsafe_code)]") {
        problems.push(at(0, "#![forbid(unsafe_code)] is missing"));
    }
}

/// Lines that are no tests: a test module ends a file.
fn product_lines<'a>(path: &Path, text: &'a str) -> impl Iterator<Item = &'a str> {
    let is_test = path.ends_with("tests.rs")
        || path.components().any(|part| {
            ["tests", "benches", "examples", "fuzz"].iter().any(|dir| part.as_os_str() == *dir)
        });
    let until = if is_test { 0 } else { usize::MAX };
    text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).take(until)
}

/// `ARCHITECTURE.md` stays short and names every crate.
fn architecture(root: &Path, problems: &mut Vec<String>) -> Result<()> {
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md"))?;
    if text.lines().count() > MAX_ARCHITECTURE_LINES {
        problems.push(format!("ARCHITECTURE.md: more than {MAX_ARCHITECTURE_LINES} lines"));
    }
    for package in metadata::load(&["--no-deps"])?.packages {
        let folder = package.manifest_path.parent().and_then(Path::file_name);
        let folder = folder.unwrap_or_default().to_string_lossy();
        if !text.contains(&format!("`{folder}`")) {
            problems.push(format!("ARCHITECTURE.md: the crate `{folder}` is not on the map"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_source(path: &str, text: &str) -> Vec<String> {
        let ratchet = Ratchet { lines: BTreeMap::new() };
        let mut problems = Vec::new();
        source(Path::new(path), text, &ratchet, &mut problems);
        problems
    }

    #[test]
    fn each_rule_finds_its_breach() {
        assert!(check_source("crates/core/a/src/x.rs", "fn f() {}\n").is_empty());
        for (path, text) in [
            ("a/src/x.rs", "let a = 1; \n"),
            ("a/src/x.rs", concat!("todo", "!()\n")),
            ("crates/core/a/src/x.rs", "let t = Instant::now();\n"),
            ("crates/core/a/src/lib.rs", "fn f() {}\n"),
        ] {
            assert_eq!(check_source(path, text).len(), 1, "{path} {text:?}");
        }
        let long = "x\n".repeat(601);
        assert_eq!(check_source("a/src/x.rs", &long).len(), 1);
        assert!(check_source("a/tests/x.rs", &long).is_empty());
        let tested = format!("{}#[cfg(test)]\nmod tests {{\n{long}}}\n", "x\n".repeat(600));
        assert!(check_source("a/src/x.rs", &tested).is_empty());
    }
}
