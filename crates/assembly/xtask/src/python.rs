//! Tests in Python, with unmodified clients and with a browser, in an environment of their own under
//! `target/`.

use crate::metadata;
use crate::steps::{cargo, command, say, tests};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

/// The client tests, among which the package is compared with Ray's.
pub(crate) fn clients() -> Result<usize> {
    pytest("tests/python")
}

/// The Python package: its types, and its tests, which start servers and replicas.
pub(crate) fn package() -> Result<usize> {
    let mut mypy = Command::new(environment()?);
    command(mypy.args(["-m", "mypy", "--no-error-summary"]).current_dir(metadata::root()))?;
    pytest("python/tests")
}

/// Builds the binary and the extension module, and puts the latter where the package's sources are. With
/// all that the Rust tests have, as anything less has other features of what it depends on, and compiles
/// that again.
fn build() -> Result<()> {
    cargo(&["build", "--quiet", "--workspace", "--all-targets"])?;
    let root = metadata::root();
    let from = root.join("target/debug/lib_tyndall.so");
    let to = root.join("python/tyndall/_tyndall.abi3.so");
    std::fs::copy(&from, &to)
        .with_context(|| format!("failed to copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// The heavy clients of these names, or every one, with a release binary.
pub(crate) fn heavy_clients(names: &[String]) -> Result<()> {
    cargo(&["build", "--quiet", "--release", "--package", "tyndall-cli"])?;
    let all = names.is_empty().then_some("--all");
    command(
        Command::new("python3")
            .arg("tests/clients/run.py")
            .args(all)
            .args(names)
            .env("TYNDALL_BIN", metadata::root().join("target/release/tyndall"))
            .env("PYTHONDONTWRITEBYTECODE", "1"),
    )
}

/// The tests of the chat page, where there is a Chromium to open it with.
pub(crate) fn browser() -> Result<usize> {
    let found = Command::new(environment()?).arg("tests/browser/chromium.py").output()?;
    if !found.status.success() {
        let why = String::from_utf8_lossy(&found.stderr);
        say(&format!("SKIPPED the tests of the chat page: {}", why.trim()));
        return Ok(0);
    }
    pytest("tests/browser")
}

/// Builds what the tests run, makes the environment, runs pytest.
fn pytest(folder: &str) -> Result<usize> {
    build()?;
    let root = metadata::root();
    let binary = root.join("target/debug/tyndall");
    tests(
        Command::new(environment()?)
            .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", folder])
            .env("TYNDALL_BIN", binary)
            .env("PYTHONPATH", root.join("python"))
            .env("PYTHONDONTWRITEBYTECODE", "1"),
    )
}

/// The environment's interpreter; made anew when the requirements changed.
pub(crate) fn environment() -> Result<PathBuf> {
    let root = metadata::root();
    let folder = root.join("target/python");
    let python = folder.join("bin/python");
    let requirements = root.join("tests/python/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements)
        .with_context(|| format!("failed to read {}", requirements.display()))?;
    let stamp = folder.join("requirements.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    command(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
    command(Command::new(&python).args(install).arg(&requirements))?;
    std::fs::write(stamp, wanted)?;
    Ok(python)
}
