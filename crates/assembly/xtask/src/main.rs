//! Repository tasks: `cargo xtask test` is everything that CI runs.
#![forbid(unsafe_code)]

mod licences;
mod metadata;
mod python;
mod readme;
mod rings;
mod steps;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};
use steps::{Step, cargo, run_all};

/// Repository tasks.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything: the checks, every Rust test, the Python clients, the README's code blocks.
    Test,
    /// Format, lints, and the repository's own rules. Runs no test and needs no Python.
    Check,
    /// The end-to-end tests with unmodified Python clients.
    Python,
    /// Runs the README's code blocks.
    Readme,
}

fn main() -> Result<()> {
    std::env::set_current_dir(metadata::root())?;
    let checks = [
        Step::new("format", || cargo(&["fmt", "--all", "--check"])),
        Step::new("tidy", tidy::check),
        Step::new("rings", rings::check),
        Step::new("licences", licences::check),
        Step::new("lints", || {
            cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])
        }),
    ];
    let python = Step::new("python clients", python::test);
    let readme = Step::new("readme", readme::run);
    match Args::parse().task {
        Task::Check => run_all(checks),
        Task::Python => run_all([python]),
        Task::Readme => run_all([readme]),
        Task::Test => {
            let tests = Step::new("rust tests", || cargo(&["test", "--workspace"]));
            run_all(checks.into_iter().chain([tests, python, readme]))
        }
    }
}
