//! Repository tasks: `cargo xtask test` is everything that CI runs.
#![forbid(unsafe_code)]

mod fuzz;
mod licences;
mod metadata;
mod python;
mod readme;
mod rings;
mod steps;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::Command;
use steps::{Behind, Step, cargo, run_all, tests};

/// Repository tasks.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything: the checks, every Rust test, the Python clients, the chat page in a browser, the code blocks of the README and the guide.
    Test,
    /// Format, lints, and the repository's own rules. Runs no test and needs no Python.
    Check,
    /// The end-to-end tests with unmodified Python clients.
    Python,
    /// The tests of the chat page in headless Chromium; skipped where there is none.
    Browser,
    /// Runs the code blocks of the README and the guide.
    Readme,
    /// Fuzzes what comes from outside; wants cargo-fuzz. No part of the tests.
    Fuzz {
        /// Which targets; all of them where none is named.
        targets: Vec<String>,
        /// How long each runs.
        #[arg(long, default_value_t = 600)]
        seconds: u32,
    },
    /// Heavy clients, each in an environment of its own, against the release binary; no part of `test`.
    Clients {
        /// The folders of `tests/clients` to run.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        names: Vec<String>,
        /// Every client.
        #[arg(long)]
        all: bool,
    },
}

fn main() -> Result<()> {
    std::env::set_current_dir(metadata::root())?;
    let checks = [
        Step::new("format", || none(cargo(&["fmt", "--all", "--check"]))),
        Step::new("tidy", || none(tidy::check())),
        Step::new("rings", || none(rings::check())),
        Step::new("licences", || none(licences::check())),
        Step::new("lints", || none(cargo(LINTS))),
    ];
    let python = Step::new("python clients", python::clients);
    let package = Step::new("python package", python::package);
    let browser = Step::new("browser", python::browser);
    let readme = Step::new("readme", || none(readme::run()));
    match Args::parse().task {
        Task::Check => run_all(checks),
        Task::Python => run_all([python, package]),
        Task::Browser => run_all([browser]),
        Task::Readme => run_all([readme]),
        Task::Fuzz { targets, seconds } => fuzz::run(&targets, seconds),
        Task::Clients { names, .. } => python::heavy_clients(&names),
        Task::Test => {
            let builds = Behind::start(readme::BUILDS)?;
            let rust =
                Step::new("rust tests", || tests(Command::new(env!("CARGO")).args(RUST_TESTS)));
            let release = Step::new("release builds", || none(builds.end()));
            let steps = [rust, python, package, browser, release, readme];
            run_all(checks.into_iter().chain(steps))
        }
    }
}

const LINTS: &[&str] =
    &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
const RUST_TESTS: &[&str] = &["test", "--workspace"];

/// A check is no test.
fn none(checked: Result<()>) -> Result<usize> {
    checked.map(|()| 0)
}
