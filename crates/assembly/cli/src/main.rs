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
use std::path::PathBuf;
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
        Command::Start(args) => return commands::start::start(args, env),
        Command::Deploy(args) => commands::deploy::deploy(&args, env)?,
        Command::Rollback(args) => commands::history::rollback(&args, env)?,
        Command::Events(args) => commands::history::events(&args, env)?,
        Command::Logs(args) => commands::history::logs(&args, env)?,
        Command::Build(args) => commands::build::build(&args, env)?,
        Command::ControllerHealth(args) => commands::health::health(&args, env)?,
        Command::Status(args) => commands::status::status(&args, env, is_called_serve())?,
        Command::Delete(args) => commands::delete::delete(&args, env)?,
        Command::Shutdown(args) => commands::shutdown::shutdown(&args, env)?,
        Command::Plan(args) => commands::plan::plan(&args.settings.0, env)?,
        Command::Pull(args) => commands::pull::pull(&args, env)?,
        Command::Bench(args) => commands::bench::bench(&args, env)?,
        Command::Keys(args) => commands::keys::keys(&args, env)?,
        Command::Config(args) => commands::config::config(&args, env)?,
        Command::Simulate(args) => commands::simulate::simulate(&args)?,
        Command::Completions(args) => commands::completions::completions(&args)?,
        Command::Role(role) => roles::run(role, env, started_at)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Called by the name of Ray Serve's command, through a link, it answers as that does.
fn is_called_serve() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    name.is_some_and(|path| path.file_stem().is_some_and(|stem| stem == "serve"))
}
