//! The `tyndall` binary: parses, dispatches, reports. What it does is in the crates that it wires.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod failure;
mod machine;
mod output;
mod roles;

use args::{Cli, Command};
use clap::Parser;
use failure::Failure;
use std::process::ExitCode;
use std::time::Instant;
use tyndall_config::Environment;

fn main() -> ExitCode {
    let started_at = Instant::now();
    // The one place that reads the environment; everything else gets this map.
    let env: Environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are errors of this kind too, with exit code 0 and standard output.
        Err(usage) => usage.exit(),
    };
    match dispatch(cli.command, &env, started_at) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn dispatch(command: Command, env: &Environment, started_at: Instant) -> Result<ExitCode, Failure> {
    match command {
        Command::Run(args) => return commands::run::run(args, env),
        Command::Status(args) => commands::status::status(&args, env)?,
        Command::Delete(args) => commands::delete::delete(&args, env)?,
        Command::Shutdown(args) => commands::shutdown::shutdown(&args, env)?,
        Command::Plan(args) => commands::plan::plan(&args.settings.0, env)?,
        Command::Pull(args) => commands::pull::pull(&args, env)?,
        Command::Bench(args) => commands::bench::bench(&args, env)?,
        Command::Config(args) => commands::config::config(&args)?,
        Command::Completions(args) => commands::completions::completions(&args)?,
        Command::Role(role) => roles::run(role, env, started_at)?,
    }
    Ok(ExitCode::SUCCESS)
}
