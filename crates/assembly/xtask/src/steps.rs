//! Steps: named, timed on the way, the first failure ends the task.

use anyhow::{Context, Result, bail};
use std::process::Command;
use std::time::Instant;

/// One thing that can fail.
pub(crate) struct Step {
    name: &'static str,
    run: fn() -> Result<()>,
}

impl Step {
    pub(crate) fn new(name: &'static str, run: fn() -> Result<()>) -> Self {
        Self { name, run }
    }
}

/// Runs the steps in order.
pub(crate) fn run_all(steps: impl IntoIterator<Item = Step>) -> Result<()> {
    for Step { name, run } in steps {
        eprintln!("── {name}");
        let start = Instant::now();
        run().with_context(|| format!("the step {name:?} failed"))?;
        eprintln!("── {name}: {:.0} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Runs a command with inherited output; its failure is ours.
pub(crate) fn command(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("failed to start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// Runs the cargo that runs us.
pub(crate) fn cargo(args: &[&str]) -> Result<()> {
    command(Command::new(env!("CARGO")).args(args))
}
