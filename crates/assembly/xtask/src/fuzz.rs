//! Coverage-guided fuzzing of what comes from outside, by cargo-fuzz.

use crate::metadata;
use crate::steps::say;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// Every target with the longest input that it is given, in bytes.
const TARGETS: [(&str, usize); 9] = [
    ("bodies", 4096),
    ("checkpoints", 600),
    ("config", 4096),
    ("events", 512),
    ("parsers", 2048),
    ("responses", 2048),
    ("schemas", 2048),
    ("templates", 2048),
    ("tokenizers", 600),
];

/// Runs the named targets, or all of them, one after the other, and prints what each did.
pub(crate) fn run(names: &[String], seconds: u32) -> Result<()> {
    let known = |name: &str| TARGETS.iter().find(|(target, _)| *target == name);
    let targets = match names {
        [] => TARGETS.to_vec(),
        names => {
            let find = |name: &String| known(name).copied().with_context(|| unknown(name));
            names.iter().map(find).collect::<Result<_>>()?
        }
    };
    let root = metadata::root();
    // Nothing is read beyond its end in safe code, so there is nothing for a sanitizer to find.
    let mut build = Command::new(env!("CARGO"));
    build.args(["fuzz", "build", "--sanitizer", "none"]).current_dir(root);
    // Coverage counters are not stable, and no other toolchain is asked for.
    let built = build.env("RUSTC_BOOTSTRAP", "1").status();
    if !built.is_ok_and(|status| status.success()) {
        bail!(
            "cargo-fuzz does not build the targets; `cargo install cargo-fuzz --locked` brings it"
        );
    }
    let mut crashed = Vec::new();
    say("target        executions    per s   coverage   corpus");
    for (name, max_len) in targets {
        let report = fuzz(root, name, max_len, seconds)?;
        let Report { executions, per_s, coverage, corpus, passed } = report;
        say(&format!("{name:<12}{executions:>12} {per_s:>8} {coverage:>10} {corpus:>8}"));
        if !passed {
            crashed.push(name);
        }
    }
    match crashed.as_slice() {
        [] => Ok(()),
        names => bail!("{} failed; the inputs are in fuzz/artifacts", names.join(", ")),
    }
}

fn unknown(name: &str) -> String {
    let all: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    format!("there is no target {name}; there are {}", all.join(", "))
}

/// What libFuzzer says of a run.
struct Report {
    executions: String,
    per_s: String,
    coverage: String,
    corpus: String,
    passed: bool,
}

fn fuzz(root: &Path, name: &str, max_len: usize, seconds: u32) -> Result<Report> {
    let fuzz = root.join("fuzz");
    let corpus = fuzz.join("corpus").join(name);
    let artifacts = fuzz.join("artifacts").join(name);
    std::fs::create_dir_all(&corpus)?;
    std::fs::create_dir_all(&artifacts)?;
    let binary = fuzz.join("target/x86_64-unknown-linux-gnu/release").join(name);
    let output = Command::new(&binary)
        .arg(&corpus)
        .arg(fuzz.join("seeds").join(name))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={max_len}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-timeout=10", "-rss_limit_mb=3000", "-print_final_stats=1"])
        .output()
        .with_context(|| format!("failed to start {}", binary.display()))?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{log}");
    }
    let after = |mark: &str| {
        let found = log.rsplit_once(mark).and_then(|(_, rest)| rest.split_whitespace().next());
        found.unwrap_or("?").to_owned()
    };
    Ok(Report {
        executions: after("stat::number_of_executed_units:"),
        per_s: after("stat::average_exec_per_sec:"),
        coverage: after("cov: "),
        corpus: after("corp: "),
        passed: output.status.success(),
    })
}
